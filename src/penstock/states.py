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


def state_error(what: str, status: QueueStatus) -> QueueStateError:
    """The error for a call that does not fit what the queue is doing."""
    return QueueStateError(
        f"Cannot {what} when queue is {status.value}", current_state=status.value
    )
