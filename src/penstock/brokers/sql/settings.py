"""What a queue in a database is set to, for everybody who has it open."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from penstock._util import checks
from penstock.errors import BrokerError
from penstock.limits.retry import RetryPolicy
from penstock.policies.dead_letters import MAX_DEAD_LETTERS
from penstock.queue.base import NO_LIMIT


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


def check_ack_wait(ack_wait: Any) -> float:
    """Seconds after which a silent worker is taken to be dead.

    Raises:
        TypeError, ValueError: too few, or none.
    """
    seconds = checks.seconds(ack_wait, "ack_wait")
    if not 1 <= seconds <= NO_LIMIT:
        raise ValueError(
            f"ack_wait must be at least 1 second and finite, got {checks.shown(ack_wait)}"
        )
    return float(seconds)


def check_deliveries(max_deliveries: Any, retry: RetryPolicy | None) -> None:
    """See that an item may be handed out as often as it is tried.

    Raises:
        TypeError, ValueError: it may not.
    """
    most = checks.positive_int(max_deliveries, "max_deliveries", "max_deliveries must be positive")
    if retry is not None and isinstance(retry.attempts, int) and retry.attempts >= most:
        raise ValueError(
            f"max_deliveries must be more than the {retry.attempts} attempts of retry, got {most}"
        )
