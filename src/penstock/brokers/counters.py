"""What one process counts of a queue on a broker, and what it last heard of the queue's size."""

from __future__ import annotations

from typing import Any

from penstock.errors import QueueError, QueueUnknownError
from penstock.queue.counters import QueueCounters
from penstock.queue.entry_buffer import EntryBuffer
from penstock.telemetry import names


class SizeEstimate:
    """How many items the queue holds: as the broker said last, and what we have done since."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._size = 0
        #: The most items that the queue was seen to hold.
        self.peak = 0

    def __len__(self) -> int:
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item."""
        return self._size >= self._maxsize

    def set(self, size: int) -> None:
        """The broker says so."""
        self._size = size

    def set_full(self) -> None:
        """The broker says that there is no room."""
        self._size = max(self._size, self._maxsize)

    def add(self, count: int) -> None:
        """We have put some in, or, below 0, some are done."""
        # What others do is only heard of when the broker is asked next.
        self._size = size = min(max(0, self._size + count), self._maxsize)
        self.peak = max(self.peak, size)


class BrokerCounters(QueueCounters):
    """The counters of a queue on a broker, for this process."""

    def __init__(self, buffer: EntryBuffer[Any], size: SizeEstimate) -> None:
        super().__init__(buffer)
        self._size = size
        self._accepted = 0
        #: Puts that were refused for another reason than want of room, or whose outcome is unknown.
        self.failed = self.unknown = 0
        #: Items that became dead letters.
        self.dead_letters = 0

    @property
    def accepted(self) -> int:
        """Puts of this process that were accepted. (What it processes may be others'.)"""
        return self._accepted

    def add_accepted(self, count: int = 1) -> None:
        """``count`` more items are in the queue."""
        self._accepted += count
        self._size.add(count)

    def add_full(self) -> None:
        """A put was refused as full."""
        self.full += 1
        self._size.set_full()

    def add_error(self, error: BaseException) -> None:
        """A put ended by this."""
        if isinstance(error, QueueUnknownError):
            self.unknown += 1
        elif isinstance(error, QueueError):
            self.failed += 1
        else:
            self.cancelled += 1

    def totals(self) -> dict[str, float]:
        """What only grows, for telemetry; the names are its."""
        return {**super().totals(), names.FAILED: self.failed, names.UNKNOWN: self.unknown}
