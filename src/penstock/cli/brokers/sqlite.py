"""What the commands need to know of queues in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.cli.options import refuse
from penstock.limits import Limit

if TYPE_CHECKING:
    from penstock.brokers.sqlite import SqliteQueue


@dataclass(frozen=True)
class SqliteTarget:
    """Which queue in which file. A ``Target``, see ``attach``."""

    path: str
    name: str

    @property
    def place(self) -> str:
        """The file."""
        return f"in {self.path}"

    @classmethod
    def of(cls, url: str, name: str, credentials: dict[str, str | None]) -> SqliteTarget:
        """Check what the options of a command say of where the queue is."""
        host, slash, path = url.partition("://")[2].partition("/")
        if host or not slash or not path:
            refuse(
                f"the URL of a file must be like sqlite:///calls.db, or sqlite:////srv/calls.db "
                f"for an absolute path, got {url}"
            )
        for key, value in credentials.items():
            if value is not None:
                refuse(f"--{key.replace('_', '-')} is for queues on a server")
        return cls(path, name)

    async def settings(self) -> dict[str, Any] | None:
        """Those that the queue has in the file; None if it is not there."""
        from penstock.brokers.sqlite import existing_settings

        there = await existing_settings(self.path, self.name)
        return None if there is None else there.as_arguments()

    def defaults(self) -> dict[str, Any]:
        """The settings of a queue that is made."""
        from penstock.brokers.sqlite import SqlSettings

        return SqlSettings().as_arguments()

    def queue(self, **settings: Any) -> SqliteQueue[Any]:
        """The queue, not started."""
        from penstock.brokers.sqlite import SqliteQueue

        return SqliteQueue[Any](self.path, self.name, **settings)

    def made(self, settings: dict[str, Any]) -> str:
        """What was made, for people."""
        return (
            f"at most {settings['maxsize']} items (--maxsize), "
            f"ack wait {settings['ack_wait']:g} s, in {self.path}"
        )

    def limiter(self, limits: list[Limit]) -> NoReturn:
        """Refuse: a file keeps no shared limits."""
        raise ValueError(
            "--shared-rate is for queues on NATS: in a file, give each process its share by --rate"
        )
