"""The entries of a queue: what is the same for one event loop and for many threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import Context
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar

from penstock.workers.item import Entry, Ticket

T = TypeVar("T")


class PutOutcome(Enum):
    """How a put that waited for room ended."""

    ACCEPTED = "accepted"
    TIMED_OUT = "timed out"
    CLOSED = "closed"


class EntryStore(Generic[T]):
    """The entries of one queue that no worker holds.

    Waiting entries stand in ``entries``, in the order of their puts, and never exceed the bound.

    Requeued entries, those of cancelled workers, are handed out before them. They do not count for
    the bound: they never waited twice.

    Delayed entries, for another attempt or until a limit allows one, are handed out when they are
    due, before the waiting ones too, since they came first. Until a worker takes them again they
    take up room: or else a service that fails would let the queue grow without end.
    """

    def __init__(self, maxsize: int, entries: deque[Entry[T]]) -> None:
        self.maxsize = maxsize
        self.closed = False
        #: The most entries that ever waited at once.
        self.peak = 0
        #: The waiting entries, in order. Others may look at its length, and at nothing else.
        self.entries = entries
        #: How many entries may wait: ``maxsize`` less the delayed ones.
        self.room = maxsize
        # A heap by number: the entry that was put first is handed out first.
        self._requeued: list[Entry[T]] = []
        # A heap by the time when each is due. And the numbers of these and of the entries that
        # were due since and have not been taken.
        self._delayed: list[tuple[float, int, Entry[T]]] = []
        self._delayed_ids: set[int] = set()
        self._last_number = 0
        self._withdrawn = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return self._last_number - self._withdrawn

    @property
    def ready(self) -> int:
        """How many accepted entries no worker holds."""
        return len(self._requeued) + len(self._delayed) + len(self.entries)

    @property
    def delayed(self) -> int:
        """How many entries were delayed and have not been taken since."""
        return len(self._delayed_ids)

    @property
    def is_over(self) -> bool:
        """Whether no entry will ever come to be taken."""
        return self.closed and not self._delayed

    def is_drained(self) -> bool:
        """Whether it is closed, and no entry is left that could be taken, now or later."""
        return self.closed and not self.ready

    def snapshot(self) -> list[Entry[T]]:
        """The accepted entries that no worker holds, the oldest first."""
        # Each list is copied in one piece: a reader may be in another thread.
        waiting = list(self.entries)
        before = [*self._requeued, *(entry for _, _, entry in list(self._delayed))]
        return [*sorted(before, key=_number_of), *waiting]

    def _remove(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        # In one pass: a search for each would take the square of their number.
        numbers = {entry[0] for entry in entries}
        before = self.ready
        waiting = [entry for entry in self.entries if entry[0] not in numbers]
        if len(waiting) < len(self.entries):
            self.entries.clear()
            self.entries.extend(waiting)
        self._requeued = [entry for entry in self._requeued if entry[0] not in numbers]
        self._delayed = [one for one in self._delayed if one[1] not in numbers]
        heapify(self._requeued)
        heapify(self._delayed)
        self._delayed_ids -= numbers
        self.room = self.maxsize - len(self._delayed_ids)
        return before - self.ready

    def _requeue(self, entry: Entry[T]) -> None:
        heappush(self._requeued, entry)

    def _take_requeued(self) -> Entry[T]:
        """The oldest of the requeued entries; delayed ones that are due are among them."""
        entry = heappop(self._requeued)
        if self._delayed_ids:
            self._end_delay(entry)
        return entry

    # -- delayed entries ----------------------------------------------------------------------

    def _delay(self, entry: Entry[T], due: float) -> None:
        number = entry[0]
        heappush(self._delayed, (due, number, entry))
        self._delayed_ids.add(number)
        self.room = self.maxsize - len(self._delayed_ids)

    def _end_delay(self, entry: Entry[T]) -> None:
        """The entry takes up no room any more."""
        if entry[0] in self._delayed_ids:
            self._delayed_ids.discard(entry[0])
            self.room = self.maxsize - len(self._delayed_ids)

    def _promote_due(self, now: float) -> None:
        """Move the delayed entries that are due to the requeued ones."""
        while self._delayed and self._delayed[0][0] <= now:
            self._requeue(heappop(self._delayed)[2])


class EntryBuffer(Protocol[T]):
    """What a queue needs of its buffer. ``Buffer`` documents each member."""

    maxsize: int
    closed: bool
    peak: int
    room: int
    entries: deque[Entry[T]]

    def __len__(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def putters(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    def is_drained(self) -> bool: ...
    def snapshot(self) -> list[Entry[T]]: ...
    def discard(self, entries: Iterable[Entry[T]]) -> int: ...
    def offer(
        self, item: T, ticket: Ticket | None = None, context: Context | None = None
    ) -> bool: ...
    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> PutOutcome: ...
    def take(self) -> Entry[T] | None: ...
    async def wait(self, timeout: float | None = None) -> bool: ...
    def requeue(self, entry: Entry[T]) -> None: ...
    def wake(self) -> None: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def end(self) -> None: ...
    def forget_waiters(self) -> None: ...


def _number_of(entry: Entry[Any]) -> int:
    return entry[0]
