"""The entries of one job in a store."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

from penstock.workers.item import Entry
from penstock.workers.job import Job

T = TypeVar("T")


class Lane(Generic[T]):
    """The entries of one job that can be taken, in the order of their puts.

    Requeued entries, those of cancelled workers and delayed ones that are due, come before the
    waiting ones: they were put before them.
    """

    __slots__ = ("job", "requeued", "waiting")

    def __init__(self, job: Job[T] | None, waiting: deque[Entry[T]]) -> None:
        self.job = job
        self.waiting = waiting
        # A heap by number: the entry that was put first is handed out first.
        self.requeued: list[Entry[T]] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.requeued)

    def __iter__(self) -> Iterator[Entry[T]]:
        # Each is copied in one piece: a reader may be in another thread.
        return iter([*sorted([*self.requeued], key=number_of), *self.waiting.copy()])

    @property
    def head(self) -> Entry[T] | None:
        """The entry that is taken next."""
        if self.requeued:
            return self.requeued[0]
        return self.waiting[0] if self.waiting else None

    @property
    def rank(self) -> Any:
        """That of the head, to be compared with those of other lanes: the lowest goes first."""
        return (self.requeued[0] if self.requeued else self.waiting[0])[0]

    @property
    def oldest(self) -> Entry[T] | None:
        """The entry that was put first."""
        return self.head

    @property
    def is_requeued_next(self) -> bool:
        """Whether the head is a requeued entry."""
        return bool(self.requeued)

    def requeue(self, entry: Entry[T]) -> None:
        """Put an entry back in its place."""
        heappush(self.requeued, entry)

    def pop_requeued(self) -> Entry[T]:
        """Take the head, a requeued entry."""
        return heappop(self.requeued)

    def fill(self, waiting: Iterable[Entry[T]], requeued: Iterable[Entry[T]]) -> None:
        """Add entries of other lanes: ``waiting`` are in order, and behind those that wait here."""
        self.waiting.extend(waiting)
        self.requeued.extend(requeued)
        heapify(self.requeued)

    def merge(self, lanes: Iterable[Lane[T]], change: Callable[[Entry[T]], Entry[T]]) -> None:
        """Add the entries of other lanes, each as ``change`` makes it."""
        lanes = [*lanes]
        waiting = [change(one) for lane in lanes for one in lane.waiting]
        requeued = [change(one) for lane in lanes for one in lane.requeued]
        waiting = sorted([*self.waiting, *waiting], key=number_of)
        self.waiting.clear()
        self.fill(waiting, requeued)

    def clear(self) -> None:
        """Remove all entries."""
        self.waiting.clear()
        self.requeued.clear()

    def remove_waiting(self, entry: Entry[T]) -> bool:
        """Remove one waiting entry; False if it is not there."""
        waiting, number = self.waiting, entry[0]
        if not waiting or not waiting[0][0] <= number <= waiting[-1][0]:
            return False
        # They stand in the order of their numbers, and hardly any number is missing at the end.
        low = max(0, len(waiting) - 1 - (waiting[-1][0] - number))
        place = low if waiting[low][0] == number else bisect_left(waiting, (number,), low)
        if waiting[place][0] != number:
            return False
        del waiting[place]
        return True

    def remove(self, numbers: set[int]) -> None:
        """Remove the entries with these numbers, in one pass."""
        waiting = [entry for entry in self.waiting if entry[0] not in numbers]
        if len(waiting) < len(self.waiting):
            self.waiting.clear()
            self.waiting.extend(waiting)
        self.requeued[:] = [entry for entry in self.requeued if entry[0] not in numbers]
        heapify(self.requeued)


def number_of(entry: Entry[Any]) -> int:
    """Its place in the order of puts."""
    return entry[0]
