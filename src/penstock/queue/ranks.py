"""Entries in the order of their priorities.

With an order, what an entry has in the place of its number is its *rank*: a tuple that sorts as the
order has it. Its second part is the number in the order of puts, so no two are the same, and
nothing behind it is ever compared.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeVar

from penstock.queue.orders import Priorities, checked_priority
from penstock.queue.places import PlaceHeap, Places
from penstock.workers.item import Entry
from penstock.workers.turn import LoopTurn

T = TypeVar("T")

#: So many entries that are gone may be left in a heap, beside one for each that is there.
_STALE = 64


class RankedEntries(Protocol):
    """Entries of one lane, or waiting puts, the next one first. What a lane needs of a deque."""

    #: How many they are.
    size: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    @property
    def head(self) -> Any:
        """The entry that is next. Not to be asked where there is none."""
        ...

    @property
    def rank(self) -> Any:
        """That of the head, to be compared with those of other lanes."""
        ...

    def goes_before(self, other: Any) -> bool:
        """Whether the head goes before that of ``other``, the waiting entries of the same lane."""
        ...

    def append(self, entry: Any, /) -> None:
        """Add an entry that was put after all that are there."""
        ...

    def put_back(self, entry: Any) -> None:
        """Add an entry that comes back, in its place."""
        ...

    def popleft(self) -> Any: ...
    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries, whenever they were put."""
        ...

    def clear(self) -> None: ...
    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        ...

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        ...


class RankHeap(list[Any]):
    """Entries by their ranks: a heap."""

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self)

    @property
    def head(self) -> Any:
        """The entry with the lowest rank."""
        return self[0]

    @property
    def rank(self) -> Any:
        """The lowest rank."""
        return self[0][0]

    def goes_before(self, other: Any) -> bool:
        """Whether the head goes before that of ``other``."""
        return bool(self[0][0] < other.rank)

    def append(self, entry: Any, /) -> None:
        """Add an entry."""
        heappush(self, entry)

    put_back = append

    def popleft(self) -> Any:
        """Take the head."""
        return heappop(self)

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries."""
        super().extend(entries)
        heapify(self)

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        try:
            place = self.index(entry)
        except ValueError:
            return False
        last = self.pop()
        if place < len(self):
            self[place] = last
            heapify(self)
        return True

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        self[:] = [entry for entry in self if entry[0] not in ranks]
        heapify(self)


class Fifo(deque[Any]):
    """Entries whose ranks come in order."""

    __slots__ = ()

    @property
    def rank(self) -> Any:
        """The lowest rank."""
        return self[0][0]

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        try:
            self.remove(entry)
        except ValueError:
            return False
        return True


class PriorityLines:
    """Entries by their priorities: a line for each, and a heap of the priorities.

    There are few priorities, most often, so this is quicker than a heap of all entries. A line of
    one is that entry, or else as many priorities as entries would take much memory.
    """

    __slots__ = ("_first", "_priorities", "key_of", "lines", "size")

    def __init__(self, key_of: Callable[[Any], Any] | None = None) -> None:
        #: What a put asks for, here at hand: the priority of an item; None: its put says it.
        self.key_of = key_of
        self.size = 0
        #: A deque of entries, or one entry, by priority. The first may be empty.
        self.lines: dict[float, Any] = {}
        self._priorities: list[float] = []
        # The first line, unless it is empty, or another has become the first.
        self._first: deque[Any] = deque()

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        lines = [*self.lines.values()]
        return iter(
            [entry for one in lines for entry in ((one,) if type(one) is tuple else one.copy())]
        )

    def _first_line(self) -> deque[Any]:
        lines, priorities = self.lines, self._priorities
        while not (line := lines[priorities[0]]):
            del lines[heappop(priorities)]
        if type(line) is tuple:
            line = lines[priorities[0]] = deque((line,))
        self._first = line
        return self._first

    @property
    def head(self) -> Any:
        """The entry with the lowest rank."""
        return (self._first or self._first_line())[0]

    @property
    def rank(self) -> Any:
        """The lowest rank."""
        return self.head[0]

    def goes_before(self, other: Any) -> bool:
        """Whether the head goes before that of ``other``."""
        return bool(self.rank < other.rank)

    def append(self, entry: Any, /) -> None:
        """Add an entry that was put after all that are there."""
        priority = entry[0][0]
        line = self.lines.get(priority)
        self.size += 1
        if line is None:
            self.lines[priority] = entry
            heappush(self._priorities, priority)
            if self._priorities[0] == priority:
                self._first = deque()
        elif type(line) is tuple:
            self.lines[priority] = deque((line, entry))
        else:
            line.append(entry)

    def popleft(self) -> Any:
        """Take the head."""
        line = self._first or self._first_line()
        self.size -= 1
        return line.popleft()

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries, whenever they were put."""
        ordered = sorted([*self, *entries], key=rank_of)
        self.clear()
        for entry in ordered:
            self.append(entry)

    def clear(self) -> None:
        """Remove all."""
        self.size = 0
        self.lines.clear()
        self._priorities.clear()
        self._first = deque()

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        line = self.lines.get(entry[0][0])
        if not line or (line is not entry and (type(line) is tuple or entry not in line)):
            return False
        if line is entry:
            self.lines[entry[0][0]] = deque()
        else:
            line.remove(entry)
        self.size -= 1
        return True

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        left = [entry for entry in self if entry[0] not in ranks]
        if len(left) < self.size:
            self.clear()
            for entry in left:
                self.append(entry)


class OverdueFirst:
    """Entries by their ranks, but what has waited for ``max_wait`` seconds before all others.

    Their ranks have the time of the put in the last place.
    """

    def __init__(self, turn: LoopTurn, max_wait: float) -> None:
        self._turn = turn
        self._max_wait = max_wait
        #: The entries, by number; and heaps of their ranks, and of their numbers and times. What is
        #: gone is left in these until it comes up, or there is too much of it.
        self._entries: dict[int, Any] = {}
        self._ranks: list[Any] = []
        self._ages: list[tuple[int, float]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.copy())

    def __getitem__(self, index: int) -> Any:
        """The entry that is next, by the index 0."""
        return self._entries[self._next()[1]]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self._entries)

    def copy(self) -> list[Any]:
        """The entries, in no order."""
        return [*self._entries.values()]

    def _next(self) -> tuple[Any, int]:
        """The rank of the head among those of other lanes, and its number."""
        entries, ages, ranks = self._entries, self._ages, self._ranks
        while ages[0][0] not in entries:
            heappop(ages)
        number, since = ages[0]
        if self._turn.clock() - since >= self._max_wait:
            return (-math.inf, number), number
        while ranks[0][1] not in entries:
            heappop(ranks)
        rank = ranks[0]
        return rank, rank[1]

    @property
    def head(self) -> Any:
        """The entry that is next."""
        return self._entries[self._next()[1]]

    @property
    def rank(self) -> Any:
        """The rank of the head, the lowest of all if it is overdue."""
        return self._next()[0]

    def goes_before(self, other: Any) -> bool:
        """Whether the head goes before that of ``other``."""
        return bool(self.rank < other.rank)

    def append(self, entry: Any, /) -> None:
        """Add an entry."""
        rank = entry[0]
        number, since = rank[1], rank[-1]
        self._entries[number] = entry
        heappush(self._ranks, rank)
        heappush(self._ages, (number, since))
        if max(len(self._ages), len(self._ranks)) > 2 * len(self._entries) + _STALE:
            self._forget_stale()

    put_back = append

    def _forget_stale(self) -> None:
        self._ranks = [entry[0] for entry in self._entries.values()]
        heapify(self._ranks)
        self._ages = sorted((rank[1], rank[-1]) for rank in self._ranks)

    def popleft(self) -> Any:
        """Take the head."""
        return self._entries.pop(self._next()[1])

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries."""
        for entry in entries:
            self.append(entry)

    def clear(self) -> None:
        """Remove all."""
        self._entries.clear()
        self._ranks.clear()
        self._ages.clear()

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        return self._entries.pop(entry[0][1], None) is not None

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks."""
        for rank in ranks:
            self._entries.pop(rank[1], None)


class PriorityRanks:
    """What a store asks of :class:`Priorities`: the ranks of entries, and where to keep them.

    A store calls its methods, but :meth:`claim`, with its lock, if it has one.
    """

    #: Whether a key may have no more than a number of entries.
    is_capped = False

    def __init__(self, order: Priorities | None, turn: LoopTurn) -> None:
        #: Whether there are priorities, and whether a put may say its own.
        self.is_by_priority = order is not None
        self.takes_priority = order is not None and order.key is None
        self.key = None if order is None else order.key
        self._turn = turn
        no_limit = order is None or order.max_wait is None
        self._max_wait = math.inf if no_limit else order.max_wait  # type: ignore[union-attr]
        #: The waiting puts, (rank, anything) each.
        self.puts: Any = self._waiting_puts()

    def claim(self, item: Any, priority: float) -> Any:
        """What the rank of an item depends on. Calls functions of the user's.

        Raises:
            TypeError, ValueError: the key is no priority.
            Exception: what the user's function raised.
        """
        if self.key is None:
            return priority
        priority = self.key(item)
        return priority if type(priority) is int else checked_key(priority)

    def has_room(self, claim: Any) -> bool:
        """Whether there is room for an item, as far as the order goes."""
        return True

    def rank(self, claim: Any, number: int) -> Any:
        """The rank of an item that is put now, or of a put that begins to wait."""
        if self._max_wait == math.inf:
            return claim, number
        return claim, number, self._turn.clock()

    def entries(self) -> Any:
        """Make a place for the entries of a lane, which come in the order of their puts."""
        return PriorityLines(self.key) if self._max_wait == math.inf else self.requeued()

    def _waiting_puts(self) -> Any:
        return self.requeued()

    def requeued(self) -> Any:
        """Make a place for entries that come in any order."""
        if self._max_wait == math.inf:
            return RankHeap()
        return OverdueFirst(self._turn, self._max_wait)

    def places(self) -> Places:
        """Make a place for parked items."""
        return PlaceHeap()

    # -- what happens to entries --------------------------------------------------------------

    def granted(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is about to be added; return its rank."""
        return (rank[0], number, *rank[2:])

    def reserved(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is to be added before long; return its rank."""
        return (rank[0], number, *rank[2:])

    def given_up(self, rank: Any) -> None:
        """The entry of a waiting put is not to be added after all."""

    def returned(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry was taken and did not start. Return it as it is now."""
        return entry

    def delayed(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry cannot be taken for a while. Return it as it is now."""
        return entry

    def ready(self, entry: Entry[Any]) -> None:
        """An entry that was delayed is about to be added."""

    def removed(self, delayed: Iterable[Entry[Any]]) -> None:
        """Any entries were removed: these are the delayed ones that are left."""


def checked_key(priority: Any) -> float:
    """``priority``, if it is one.

    Raises:
        TypeError, ValueError: it is none.
    """
    return checked_priority(priority, "the priority that key gave an item")


def rank_of(entry: Entry[Any]) -> Any:
    """The rank of an entry."""
    return entry[0]
