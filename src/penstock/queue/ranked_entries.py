"""Entries by their ranks.

With an order, what an entry has in the place of its number is its *rank*: a tuple that sorts as the
order has it. Its second part is the number in the order of puts, so no two are the same, and
nothing behind it is ever compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

from penstock.workers.item import Entry


class RankedEntries(Protocol):
    """Entries of one lane, or waiting puts, the next one first. What a lane needs of a deque."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

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

    def popleft(self) -> Any:
        """Take the head."""
        ...

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries, whenever they were put."""
        ...

    def clear(self) -> None:
        """Remove all."""
        ...

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        ...

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        ...


class ReturnedEntries(RankedEntries, Protocol):
    """Entries that come back to one lane, in any order."""

    def put_back(self, entry: Any, /) -> None:
        """Add an entry that comes back, in its place."""
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


def rank_of(entry: Entry[Any]) -> Any:
    """The rank of an entry."""
    return entry[0]
