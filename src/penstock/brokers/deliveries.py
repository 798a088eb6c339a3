"""How often a broker hands out an item, and how long a worker may be silent: what is allowed."""

from __future__ import annotations

from typing import Any

from penstock._util import checks
from penstock.limits.retry import RetryPolicy
from penstock.queue.base import NO_LIMIT


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
