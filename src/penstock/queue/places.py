"""Where parked items wait, all for the same keys of limits: which of them is the first."""

from __future__ import annotations

from collections.abc import Container
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol


class Places(Protocol):
    """The places of parked items."""

    def push(self, number: Any, place: Any) -> None:
        """Add the place of the entry of this number."""
        ...

    def first(self, parked: Container[Any]) -> Any:
        """The first place of those whose entries are in ``parked``; None if there is none."""
        ...


class PlaceHeap:
    """Places by the numbers, or ranks, of their entries."""

    def __init__(self) -> None:
        # And a number that orders those of an entry that was parked twice.
        self._heap: list[tuple[Any, int, Any]] = []
        self._order = count()

    def push(self, number: Any, place: Any) -> None:
        """Add the place of the entry of this number."""
        heappush(self._heap, (number, next(self._order), place))

    def first(self, parked: Container[Any]) -> Any:
        """The first place of those whose entries are in ``parked``; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] not in parked:
            heappop(heap)
        return heap[0][2] if heap else None


class FairPlaces:
    """Places by the virtual starts of the keys of their entries."""

    def __init__(self) -> None:
        self._heaps: dict[Any, PlaceHeap] = {}

    def push(self, number: Any, place: Any) -> None:
        """Add the place of the entry of this number."""
        share = number[2]
        if share not in self._heaps:
            self._heaps[share] = PlaceHeap()
        self._heaps[share].push(number, place)

    def first(self, parked: Container[Any]) -> Any:
        """The first place of those whose entries are in ``parked``; None if there is none."""
        best = None
        for share, heap in [*self._heaps.items()]:
            place = heap.first(parked)
            if place is None:
                del self._heaps[share]
            elif best is None or (share.start, place.number) < (best[0].start, best[1].number):
                best = share, place
        return None if best is None else best[1]
