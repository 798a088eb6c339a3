"""What waits in a queue, as far as it is the same for one event loop and for many threads."""

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
    """How a wait for room ended."""

    ACCEPTED = "accepted"
    TIMED_OUT = "timed out"
    CLOSED = "closed"


class EntryStore(Generic[T]):
    """The entries of one queue: a line with a bound, what was given back, and what is postponed.

    What cancelled workers give back is kept apart from the line, is handed out before it, and
    never makes the line longer than the bound.

    What is postponed, for another attempt or until a limit allows it, is handed out at its time,
    before the line too: it was there first. Until it is taken again it takes up room, or a service
    that fails would let the queue grow without end.
    """

    def __init__(self, maxsize: int, line: deque[Entry[T]]) -> None:
        self.maxsize = maxsize
        self.closed = False
        #: The most entries that ever stood in line.
        self.peak = 0
        #: The entries, in order; for a look at its length, no more.
        self.line = line
        #: How long the line may be: ``maxsize`` less what was postponed and not taken again.
        self.room = maxsize
        # A heap: the entry that was put first is handed out first.
        self._requeued: list[Entry[T]] = []
        # A heap, by the time at which each is due; and the orders of those and of the ones that
        # were due since and have not been taken.
        self._delayed: list[tuple[float, int, Entry[T]]] = []
        self._delayed_ids: set[int] = set()
        self._order = 0
        self._withdrawn = 0

    def __len__(self) -> int:
        return len(self.line)

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return self._order - self._withdrawn

    @property
    def ready(self) -> int:
        """How many entries are accepted and in nobody's hands."""
        return len(self._requeued) + len(self._delayed) + len(self.line)

    @property
    def delayed(self) -> int:
        """How many entries were postponed and not taken again."""
        return len(self._delayed_ids)

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self.closed and not self._delayed

    def snapshot(self) -> list[Entry[T]]:
        """The entries that are accepted and in nobody's hands, those that came first first."""
        # Each list is copied in one piece: a reader may be in another thread.
        line = list(self.line)
        before = [*self._requeued, *(entry for _, _, entry in list(self._delayed))]
        return [*sorted(before, key=_order_of), *line]

    def _remove(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        # In one go: to look for one after the other would take the square of their number.
        orders = {entry[0] for entry in entries}
        before = self.ready
        line = [entry for entry in self.line if entry[0] not in orders]
        if len(line) < len(self.line):
            self.line.clear()
            self.line.extend(line)
        self._requeued = [entry for entry in self._requeued if entry[0] not in orders]
        self._delayed = [one for one in self._delayed if one[1] not in orders]
        heapify(self._requeued)
        heapify(self._delayed)
        self._delayed_ids -= orders
        self.room = self.maxsize - len(self._delayed_ids)
        return before - self.ready

    def _requeue(self, entry: Entry[T]) -> None:
        heappush(self._requeued, entry)

    def _take_requeued(self) -> Entry[T]:
        """The first of those that were given back, or were postponed and are due."""
        entry = heappop(self._requeued)
        if self._delayed_ids:
            self._end_delay(entry)
        return entry

    # -- postponing ---------------------------------------------------------------------------

    def _delay(self, entry: Entry[T], due: float) -> None:
        order = entry[0]
        heappush(self._delayed, (due, order, entry))
        self._delayed_ids.add(order)
        self.room = self.maxsize - len(self._delayed_ids)

    def _end_delay(self, entry: Entry[T]) -> None:
        """The entry is not, or no longer, one that was postponed."""
        if entry[0] in self._delayed_ids:
            self._delayed_ids.discard(entry[0])
            self.room = self.maxsize - len(self._delayed_ids)

    def _promote_due(self, now: float) -> None:
        """Keep what is due by now with what was given back."""
        while self._delayed and self._delayed[0][0] <= now:
            self._requeue(heappop(self._delayed)[2])


class EntryBuffer(Protocol[T]):
    """What a queue needs of the object that holds its entries. ``Buffer`` documents each."""

    maxsize: int
    closed: bool
    peak: int
    room: int
    line: deque[Entry[T]]

    def __len__(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def putters(self) -> int: ...
    @property
    def delayed(self) -> int: ...
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


def _order_of(entry: Entry[Any]) -> int:
    return entry[0]
