"""Entries by their ranks, with a limit to how long any of them waits behind others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from penstock.workers.turn import LoopTurn

#: So many entries that are gone may be left in a heap, beside one for each that is there.
_STALE = 64


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
