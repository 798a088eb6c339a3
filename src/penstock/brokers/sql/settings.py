"""What a queue in a database is set to, for everybody who has it open."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from penstock.errors import BrokerError
from penstock.policies.dead_letters import MAX_DEAD_LETTERS


@dataclass(frozen=True)
class SqlSettings:
    """What all processes must give alike, with the defaults of the queues."""

    maxsize: int = 100
    #: In seconds.
    ack_wait: float = 30.0
    max_dead_letters: int = 10 * MAX_DEAD_LETTERS
    #: Seconds for which the id of an item is known.
    dedupe: float = 120.0

    def as_arguments(self) -> dict[str, Any]:
        """For the class of the queue, as keyword arguments."""
        return asdict(self)

    def check_against(
        self, there: SqlSettings, name: str, where: str, table: str = "penstock_queues"
    ) -> None:
        """See that these are the settings that the queue ``name`` has in the database.

        Args:
            table: what its settings are in, for the SQL that changes them.

        Raises:
            BrokerError: they are not. The message says which, and how to change them.
        """
        wanted = asdict(self)
        differences = {key: value for key, value in asdict(there).items() if wanted[key] != value}
        if not differences:
            return
        told = "; ".join(
            f"{key} is {value:g} there and {wanted[key]:g} here"
            for key, value in differences.items()
        )
        change = ", ".join(f"{key} = {wanted[key]:g}" for key in differences)
        quoted = name.replace("'", "''")
        statement = f"UPDATE {table} SET {change} WHERE name = '{quoted}'"  # noqa: S608
        raise BrokerError(
            f"Queue {name} in {where} has other settings: {told}. Give all processes the same, or "
            f"change those of the queue by SQL: {statement}"
        )
