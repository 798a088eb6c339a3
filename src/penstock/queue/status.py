"""The status of a queue, and its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from penstock.errors import QueueStateError


class QueueStatus(str, Enum):
    """The lifecycle of a queue. A member equals its value: ``QueueStatus.IDLE == "idle"``."""

    #: Made, not started. Nothing can be put or taken.
    IDLE = "idle"
    #: Started. Items go in and out; only out, once the queue is closed.
    PROCESSING = "processing"
    #: ``stop()`` is under way: no item goes in; workers finish the accepted ones.
    STOPPING = "stopping"
    #: Stopped. Items that are left are in ``unprocessed``; ``start()`` takes them up again.
    STOPPED = "stopped"


@dataclass(frozen=True)
class QueueStatistics:
    """All counts of a queue, at one instant."""

    name: str
    status: QueueStatus
    #: Items that wait, and the largest number that may wait.
    size: int
    maxsize: int
    #: The largest number that waited at once.
    peak_size: int
    #: Accepted items, and how many of these are done, succeeded or failed.
    enqueued: int
    processed: int
    #: Failures of worker functions.
    errors: int
    #: Puts refused because the queue was full, and puts that waited, with any result.
    backpressure_events: int
    put_waits: int
    #: Items that workers or callers of ``get`` have in hand.
    inflight: int
    #: Accepted items that are not done: waiting, requeued by cancelled workers, or in flight.
    unfinished: int
    worker_count: int
    #: Puts that wait for room now.
    waiting_putters: int
    #: Attempts that failed and were retried, or will be.
    retries: int
    #: Items that wait for another attempt, or for the limit of their key.
    retrying: int
    #: Items that failed for good and are kept, for ``redrive()``.
    dead_letters: int
    #: How many calls may run at once, with adaptive concurrency; else None.
    concurrency_limit: int | None
    #: How often an answer of the service closed the gate for all workers.
    gate_closures: int
    #: "closed", "open" or "half_open"; None without a circuit breaker.
    breaker_state: str | None
    #: Whether the queue is paused, by ``pause()``.
    is_paused: bool = False
    #: With an order: how many items no worker holds, of each key, or of each priority, by its text;
    #: of the ten that have most, and of the rest as "other". None without an order.
    waiting_by_key: Mapping[str, int] | None = None


class NotProcessedError(QueueStateError):
    """The queue stopped before the item was processed. No worker function raised this."""


def state_error(what: str, status: QueueStatus) -> QueueStateError:
    """The error for a call that the status of the queue does not allow."""
    cure = ": start it first, with start() or a with block" if status is QueueStatus.IDLE else ""
    return QueueStateError(
        f"Cannot {what} when queue is {status.value}{cure}", current_state=status.value
    )
