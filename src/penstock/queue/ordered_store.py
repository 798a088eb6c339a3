"""What a store needs for an order: lanes in which the entry of the lowest rank is next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from penstock._util.busiest import busiest
from penstock.queue.lane import Lane, number_of
from penstock.queue.places import Places
from penstock.queue.ranks import PriorityRanks
from penstock.queue.store import EntryStore
from penstock.workers.item import Entry
from penstock.workers.job import Job

T = TypeVar("T")


class OrderedLane(Lane[T]):
    """A lane whose requeued entries are among the waiting ones, each in its place."""

    __slots__ = ("only",)

    # RankedEntries both. (A lane without an order has a list and a deque.)
    requeued: Any
    waiting: Any

    def __init__(self, job: Job[T] | None, waiting: Any, requeued: Any) -> None:
        self.job = job
        #: The share of a key whose entries alone are to be taken, where there are such.
        self.only: Any = None
        self.waiting = waiting
        self.requeued = requeued

    @property
    def places(self) -> tuple[Any, Any]:
        """Where its entries are."""
        return self.waiting, self.requeued

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(sorted([*self.requeued, *self.waiting], key=number_of))

    @property
    def head(self) -> Entry[T] | None:
        """The entry that is taken next."""
        if self.is_requeued_next:
            entry: Entry[T] = self.requeued.head
            return entry
        return self.waiting.head if self.waiting else None

    @property
    def rank(self) -> Any:
        """That of the head, to be compared with those of other lanes: the lowest goes first."""
        return (self.requeued if self.is_requeued_next else self.waiting).rank

    @property
    def oldest(self) -> Entry[T] | None:
        """The entry that was put first."""
        return min([*self.requeued, *self.waiting], key=put_number_of, default=None)

    @property
    def is_requeued_next(self) -> bool:
        """Whether the head is a requeued entry."""
        requeued, waiting = self.requeued, self.waiting
        if self.only is not None:
            return bool(requeued.goes_before_of(self.only, waiting))
        return requeued.size > 0 and (not waiting.size or requeued.goes_before(waiting))

    def requeue(self, entry: Entry[T]) -> None:
        """Put an entry back in its place."""
        self.requeued.put_back(entry)

    def pop_requeued(self) -> Entry[T]:
        """Take the head, a requeued entry."""
        entry: Entry[T] = self.requeued.popleft()
        return entry

    def fill(self, waiting: Any, requeued: Any) -> None:
        """Add entries of other lanes."""
        self.waiting.extend(waiting)
        self.requeued.extend(requeued)

    def merge(self, lanes: Iterable[Lane[T]], change: Callable[[Entry[T]], Entry[T]]) -> None:
        """Add the entries of other lanes, each as ``change`` makes it."""
        for lane in lanes:
            self.fill(map(change, lane.waiting), map(change, lane.requeued))
            lane.clear()

    def remove_waiting(self, entry: Entry[T]) -> bool:
        """Remove one waiting entry; False if it is not there."""
        removed: bool = self.waiting.discard(entry)
        return removed

    def remove(self, numbers: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        self.waiting.remove_all(numbers)
        self.requeued.remove_all(numbers)


class OrderedStore(EntryStore[T]):
    """A store whose entries have ranks in the place of their numbers.

    Requeued entries do not come before the waiting ones: each has the place that its rank says.
    """

    ranks: PriorityRanks

    def _new_lane(self, job: Job[T] | None, waiting: Any = None) -> Lane[T]:
        entries = self.ranks.entries() if waiting is None else waiting
        return OrderedLane(job, entries, self.ranks.requeued())

    @property
    def has_room_for_others(self) -> bool:  # type: ignore[override]
        """Whether there is room, so that a put found none for its key alone."""
        return self.ranks.is_capped and len(self.entries) < self.room

    @property
    def oldest(self) -> Entry[T] | None:
        """The entry that was put first of those that may start. From any thread."""
        heads = [lane.oldest for lane in self._all_lanes()]
        return min((one for one in heads if one is not None), key=put_number_of, default=None)

    @property
    def waiting_by_key(self) -> Mapping[str, int] | None:
        """How many entries no worker holds, of the keys that have most. From any thread."""
        return busiest(self.ranks.counts(self._unordered))

    def _unordered(self) -> list[Entry[T]]:
        lanes: list[Any] = self._all_lanes()
        entries = [entry for lane in lanes for entry in [*lane.requeued, *lane.waiting]]
        return [*entries, *self._all_delayed()]

    def snapshot(self) -> list[Entry[T]]:
        """The accepted entries that no worker holds, in their order."""
        return sorted(super().snapshot(), key=number_of)

    def _remove(self, entries: Iterable[Entry[T]]) -> int:
        count = super()._remove(entries)
        self.ranks.removed(self._not_ready())
        return count

    def _close_lane(self, job: Job[T]) -> int:
        self._split()
        lane = self.lanes.get(job)
        count = super()._close_lane(job)
        if lane is not None:
            lane.clear()
        self.ranks.removed(self._not_ready())
        return count

    def _not_ready(self) -> list[Entry[T]]:
        """The entries that are there and are in no lane."""
        return self._all_delayed()

    # -- entries that come back ---------------------------------------------------------------

    def _requeue(self, entry: Entry[T]) -> None:
        self._restore(self.ranks.returned(entry))

    def places(self) -> Places:
        """Make a place for parked items that need the same keys."""
        return self.ranks.places()

    def _put_back(self, entry: Entry[T]) -> None:
        ticket = entry[3]
        if ticket is not None and ticket.place is not None:  # it is parked
            entry = self.ranks.delayed(self.ranks.returned(entry))
        super()._put_back(entry)

    def _delay(self, entry: Entry[T], due: float) -> None:
        super()._delay(self.ranks.delayed(entry), due)

    def _promote(self, entry: Entry[T]) -> None:
        self.ranks.ready(entry)
        self._restore(entry)


def put_number_of(entry: Entry[Any]) -> int:
    """The place of an entry in the order of puts."""
    rank: Any = entry[0]
    number: int = rank[1]
    return number
