"""What one process counts of a queue on NATS, and what it last heard of the queue's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.errors import QueueError, QueueUnknownError
from penstock.policies.observer import FAILURES, processed_totals
from penstock.telemetry import names


class Level:
    """How many items the queue holds: as the server said last, and what we have done since."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item."""
        return self._size >= self._maxsize

    def told(self, size: int) -> None:
        """The server says so."""
        self._size = size

    def told_full(self) -> None:
        """The server says that there is no room."""
        self._size = max(self._size, self._maxsize)

    def changed(self, by: int) -> None:
        """We have put one in, or one is done."""
        # What others do is only heard of at the next look.
        self._size = min(max(0, self._size + by), self._maxsize)


class Counts:
    """The counters of a queue on NATS, for this process."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self.accepted = 0
        #: Puts that were refused as full, cancelled, met by a stop, refused for another reason, or
        #: whose outcome is unknown.
        self.full = self.cancelled = self.stopped = self.failed = self.unknown = 0
        self.put_waits = 0
        self.processed = 0
        self.errors = 0
        #: Items that became dead letters.
        self.buried = 0
        #: The most items that the queue was seen to hold.
        self.peak = 0
        #: Nobody: whether all items are done only the server knows.
        self.joiners: dict[Any, None] = {}
        #: Items that did not succeed, by outcome.
        self.failures = dict.fromkeys(FAILURES, 0)
        #: Tells for how many seconds the gate of the limits was closed.
        self.gate_closed: Callable[[], float] = float

    @property
    def all_processed(self) -> int:
        """Items that are done, whoever counted them."""
        return self.processed

    @property
    def all_errors(self) -> int:
        """Failures of worker functions, whoever counted them."""
        return self.errors

    def notify_if_done(self) -> None:
        """Nobody waits here."""

    def add_failure(self, outcome: str) -> None:
        """One item did not succeed, and will be done in a moment."""
        self.failures[outcome] += 1

    def accept(self) -> None:
        """One more item is in."""
        self.accepted += 1
        self._level.changed(1)
        self.peak = max(self.peak, len(self._level))

    def put_failed(self, error: BaseException) -> None:
        """A put ended by this."""
        if isinstance(error, QueueUnknownError):
            self.unknown += 1
        elif isinstance(error, QueueError):
            self.failed += 1
        else:
            self.cancelled += 1

    def totals(self) -> dict[str, float]:
        """What only grows, for telemetry; the names are its."""
        return {
            names.ACCEPTED: self.accepted,
            names.FULL: self.full,
            names.CANCELLED: self.cancelled,
            names.STOPPED: self.stopped,
            names.FAILED: self.failed,
            names.UNKNOWN: self.unknown,
            **processed_totals(self.processed, self.failures),
            names.GATE_CLOSED: self.gate_closed(),
        }
