"""What a queue is doing, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from penstock.errors import QueueStateError


class QueueStatus(str, Enum):
    """What a queue is doing. A member equals its value: ``QueueStatus.IDLE == "idle"``."""

    #: Made, not started. Nothing can be put or taken.
    IDLE = "idle"
    #: Started. Items go in and out.
    PROCESSING = "processing"
    #: ``stop()`` is under way: nothing goes in; workers finish what was accepted.
    STOPPING = "stopping"
    #: Stopped. What is left is in ``unprocessed``, and ``start()`` takes it up again.
    STOPPED = "stopped"


@dataclass(frozen=True)
class QueueStatistics:
    """Everything that can be counted about a queue, at one instant."""

    name: str
    status: QueueStatus
    #: Items that wait, and the most that may.
    size: int
    maxsize: int
    #: The most that ever waited at once.
    peak_size: int
    #: Items accepted, and how many of these are done, well or badly.
    enqueued: int
    processed: int
    #: Failures of worker functions.
    errors: int
    #: Puts refused for want of room, and puts that had to wait, whatever became of them.
    backpressure_events: int
    put_waits: int
    #: Items in the hands of workers or of callers of ``get``.
    inflight: int
    #: Items accepted and not done: waiting, given back by cancelled workers, or in flight.
    unfinished: int
    worker_count: int
    #: Puts that wait for room right now.
    waiting_putters: int
    #: Attempts that failed and were followed by another, or will be.
    retries: int
    #: Items that wait for another attempt, or for the limit of their key to allow one.
    retrying: int
    #: Items that failed for good and are kept, for ``redrive()``.
    dead_letters: int
    #: Calls that may be under way, where that is found out; else None.
    concurrency_limit: int | None
    #: Times that the service's answer closed the gate for all workers.
    gate_closures: int
    #: "closed", "open" or "half_open"; None without a circuit breaker.
    breaker_state: str | None


class NotProcessedError(QueueStateError):
    """The queue stopped before an item was processed: no worker function raised this."""


def state_error(what: str, status: QueueStatus) -> QueueStateError:
    """The error for a call that does not fit what the queue is doing."""
    return QueueStateError(
        f"Cannot {what} when queue is {status.value}", current_state=status.value
    )
