"""What the commands need to know of queues in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from penstock.cli.options import refuse
from penstock.limits import Limit

if TYPE_CHECKING:
    from penstock.brokers.postgres import PostgresQueue


@dataclass(frozen=True)
class PostgresTarget:
    """Which queue in which database. A ``Target``, see ``attach``."""

    url: str
    name: str
    schema: str = "penstock"

    @property
    def place(self) -> str:
        """The database."""
        return "in the database"

    @classmethod
    def of(cls, url: str, name: str, credentials: dict[str, str | None]) -> PostgresTarget:
        """Check what the options of a command say of where the queue is."""
        for key, value in credentials.items():
            if value is not None:
                refuse(
                    f"--{key.replace('_', '-')} is for queues on NATS: with PostgreSQL, the URL "
                    "says it (?sslmode=verify-full&sslrootcert=FILE)"
                )
        return cls(*split_schema(url, name))

    async def settings(self) -> dict[str, Any] | None:
        """Those that the queue has in the database; None if it is not there."""
        from penstock.brokers.postgres import existing_settings

        there = await existing_settings(self.url, self.name, schema=self.schema)
        return None if there is None else there.as_arguments()

    def defaults(self) -> dict[str, Any]:
        """The settings of a queue that is made."""
        from penstock.brokers.postgres import SqlSettings

        return SqlSettings().as_arguments()

    def queue(self, **settings: Any) -> PostgresQueue[Any]:
        """The queue, not started."""
        from penstock.brokers.postgres import PostgresQueue

        return PostgresQueue[Any](self.url, self.name, schema=self.schema, **settings)

    def made(self, settings: dict[str, Any]) -> str:
        """What was made, for people."""
        return (
            f"at most {settings['maxsize']} items (--maxsize), "
            f"ack wait {settings['ack_wait']:g} s, in the schema {self.schema}"
        )

    def limiter(self, limits: list[Limit]) -> NoReturn:
        """Refuse: there are no shared limits in a database yet."""
        raise ValueError(
            "--shared-rate is for queues on NATS: with PostgreSQL, give each process its share by "
            "--rate"
        )


def split_schema(url: str, name: str) -> tuple[str, str, str]:
    """The URL without its ``schema=``, which libpq does not know; the name; the schema."""
    try:
        parts = urlsplit(url)
    except ValueError:
        refuse("the URL of a database must be like postgresql://user@host/database")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = query.pop("schema", "penstock")
    return urlunsplit(parts._replace(query=urlencode(query))), name, schema
