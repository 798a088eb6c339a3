"""The entries of a queue: what is the same for one event loop and for many threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

from penstock._util.clock import now
from penstock.queue.holder import Holder
from penstock.queue.lane import Lane, number_of
from penstock.queue.places import PlaceHeap, Places
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job
from penstock.workers.turn import ENDLESS, LoopTurn

T = TypeVar("T")


class EntryStore(Generic[T]):
    """The entries of one queue that no worker holds.

    Waiting entries stand in ``entries``, in the order of their puts, and never exceed the bound.
    While there are several jobs, each has a lane of its own, and ``entries`` is the lane of the
    standing job. So a job that has all the workers it may have is passed over at no cost, however
    many entries wait in its lane. A job that is alone has ``entries`` for its own, as its *owner*,
    until there is another job, or an entry of none: most jobs are alone, and need no lanes.

    Requeued entries, those of cancelled workers, are handed out before them. They do not count for
    the bound: they never waited twice.

    Delayed entries, for another attempt or until a limit allows one, are handed out when they are
    due, before the waiting ones too, since they came first. Until a worker takes them again they
    take up room: or else a service that fails would let the queue grow without end.

    Entries that wait for the limits of their keys are *parked*. They count as delayed ones, but
    they are not due before they are told to be.

    While it is *held*, workers find nothing to take: the next entry would have to wait for a limit.
    From the first time on until nothing is left it is *limited*: workers are woken one at a time,
    since the next entry may be held again. What is taken by hand is not concerned.

    Nor do they find anything while their ``turn`` in the event loop is paused.
    """

    #: What knows the ranks of entries, where there is an order.
    ranks: Any = None
    #: Whether it may have room, and none for an item that has come: its key has its most already.
    has_room_for_others = False

    def __init__(self, maxsize: int, entries: deque[Entry[T]], turn: LoopTurn = ENDLESS) -> None:
        #: How long workers may go on without a wait.
        self.turn = turn
        self.maxsize = maxsize
        self.closed = False
        #: The waiting entries of the standing job, in order. Others may look at its length only.
        self.entries = entries
        #: The job of entries that have none of their own, while there is one.
        self.standing: Job[T] | None = None
        #: How many entries may be in ``entries``: ``maxsize`` less those that are elsewhere.
        self.room = maxsize
        #: How many may be there without a new ``peak``: ``peak`` less those in lanes.
        self.main_peak = 0
        self._main: Lane[T] = self._new_lane(None, entries)
        self._requeued = self._main.requeued
        # The job that has ``entries`` for its own.
        self._owner: Job[T] | None = None
        #: The lanes of the other jobs.
        self.lanes: dict[Job[T], Lane[T]] = {}
        # How many entries wait in those.
        self._in_lanes = 0
        # Whether a take must look at more than ``entries``: at lanes, at requeued entries, or at
        # what holds it up.
        self._is_special = False
        #: What holds entries back, where there are limits.
        self.limits = Holder()
        # A heap by the time when each is due. And the numbers of these and of the entries that
        # were due since and have not been taken.
        self._delayed: list[tuple[float, int, Entry[T]]] = []
        self._delayed_ids: set[int] = set()
        self._last_number = 0
        self._withdrawn = 0

    def __len__(self) -> int:
        return len(self.entries) + self._in_lanes

    @property
    def peak(self) -> int:
        """The most entries that ever waited at once."""
        return self.main_peak + self._in_lanes

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return self._last_number - self._withdrawn

    @property
    def ready(self) -> int:
        """How many accepted entries no worker holds."""
        count = (
            len(self._delayed) + len(self.limits.parked) + len(self._requeued) + len(self.entries)
        )
        return count + sum(map(len, self.lanes.copy().values())) if self.lanes else count

    @property
    def unclaimed(self) -> int:
        """How many of the ready entries have no job of their own."""
        delayed = sum(job_of(entry) is None for entry in self._all_delayed())
        return delayed + (len(self._main) if self._owner is None else 0)

    @property
    def delayed(self) -> int:
        """How many entries were delayed and have not been taken since."""
        return len(self._delayed_ids)

    @property
    def waiting_by_key(self) -> Mapping[str, int] | None:
        """How many entries no worker holds, of the keys that have most; None without an order."""
        return None

    @property
    def is_over(self) -> bool:
        """Whether no entry will ever come for a worker that finds none."""
        if not self.closed or self.has_delayed or (self.limits.is_limited and self.ready):
            return False
        # With several jobs, one that has all its workers may have entries for others in the end.
        return not self.lanes or not any(
            len(lane) for lane in self._all_lanes() if self._job_of(lane) is not None
        )

    @property
    def has_delayed(self) -> bool:
        """Whether there are entries that cannot be taken yet."""
        return bool(self._delayed or self.limits.parked)

    @property
    def oldest(self) -> Entry[T] | None:
        """The entry that was put first of those that may start. From any thread."""
        oldest: Entry[T] | None = None
        for lane in self._all_lanes():
            try:
                head = lane.oldest
            except IndexError:  # it was taken between two looks
                continue
            if head is not None and (oldest is None or head[0] < oldest[0]):
                oldest = head
        return oldest

    def _all_delayed(self) -> list[Entry[T]]:
        return [*(entry for _, _, entry in list(self._delayed)), *list(self.limits.parked.values())]

    def _all_lanes(self) -> list[Lane[T]]:
        return [self._main, *self.lanes.copy().values()] if self.lanes else [self._main]

    def _job_of(self, lane: Lane[T]) -> Job[T] | None:
        return (self._owner or self.standing) if lane is self._main else lane.job

    def is_drained(self) -> bool:
        """Whether it is closed, and no entry is left to be taken by hand, now or later."""
        return self.closed and not self.has_delayed and not len(self._main)

    def snapshot(self) -> list[Entry[T]]:
        """The accepted entries that no worker holds, the oldest first."""
        delayed = self._all_delayed()
        entries = [*delayed, *(entry for lane in self._all_lanes() for entry in lane)]
        return sorted(entries, key=number_of) if self._is_special or delayed else entries

    def _remove(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        # In one pass: a search for each would take the square of their number.
        numbers = {entry[0] for entry in entries}
        before = self.ready
        for lane in self._all_lanes():
            lane.remove(numbers)
        self._delayed = [one for one in self._delayed if one[1] not in numbers]
        heapify(self._delayed)
        if self._delayed_ids:
            self._delayed_ids -= numbers
            self.limits.handed_out -= numbers
            for number in numbers & self.limits.parked.keys():
                del self.limits.parked[number]
        self.limits.changed()
        self._count()
        return before - self.ready

    def _take_back(self, entries: Iterable[Entry[T]]) -> list[Entry[T]]:
        """:meth:`_remove`, and return those that were there, as they are now."""
        numbers = {entry[0] for entry in entries}
        there = [entry for entry in self.snapshot() if entry[0] in numbers]
        self._remove(there)
        return there

    def _remove_one(self, entry: Entry[T]) -> None:
        """Remove an entry of a :meth:`snapshot`, or one that is granted only."""
        if any(lane.remove_waiting(entry) for lane in self._all_lanes()):
            self._count()
        else:
            self._remove([entry])

    def _count(self) -> None:
        """Set what is known about all lanes and delayed entries, after any of them has changed.

        An entry that is delayed, or taken again, is counted without this: that comes more often.
        """
        lanes, peak = self.lanes, self.peak
        self._in_lanes = sum(len(lane.waiting) for lane in lanes.values()) if lanes else 0
        self.main_peak = peak - self._in_lanes
        self._look_what_is_special()
        self.room = self.maxsize - len(self._delayed_ids) - self._in_lanes

    def _look_what_is_special(self) -> None:
        limits = self.limits
        self._is_special = bool(
            self._requeued
            or self.lanes
            or limits.is_limited
            or limits.is_paused
            or self.turn.is_paused
        )

    def _append(self, entry: Entry[T]) -> None:
        """Add the entry of a put to the lane of its job."""
        job = job_of(entry)
        if self._owner is not None and job is not self._owner:
            self._split()
        lane = None if job is None else self.lanes.get(job)
        if lane is None:
            self.entries.append(entry)
        else:
            lane.waiting.append(entry)
            self._in_lanes += 1
            self.room -= 1
            self.main_peak -= 1
        size = len(self.entries)
        if size > self.main_peak:  # noqa: PLR1730 - a call would take longer
            self.main_peak = size

    def _requeue(self, entry: Entry[T]) -> None:
        """Put back an entry that was taken, and did not start or was broken off."""
        self._restore(entry)

    def _restore(self, entry: Entry[T]) -> None:
        """Put an entry among those that come back."""
        job = job_of(entry)
        if self._owner is not None and job is not self._owner:
            self._split()
        lane = None if job is None else self.lanes.get(job)
        if lane is not None:
            lane.requeue(entry)
        else:
            self._main.requeue(entry if job is self._owner else _without_job(entry))
        self._is_special = True

    # -- pauses and limits --------------------------------------------------------------------

    def _set_paused(self, is_paused: bool) -> None:
        self.limits.is_paused = is_paused
        self._look_what_is_special()

    def _hold(self) -> None:
        limits = self.limits
        limits.held_at = now()
        if not limits.is_limited:
            limits.limited_since = limits.held_at
        limits.is_held = limits.is_limited = self._is_special = True

    def _end_limited(self) -> None:
        """A worker found nothing to take, or there are no workers any more."""
        limits = self.limits
        limits.is_held = limits.is_limited = False
        self._look_what_is_special()

    def _at_once(self, count: int) -> int:
        """For how many of ``count`` entries workers are to be woken."""
        return (0 if self.limits.is_held else min(1, count)) if self.limits.is_limited else count

    # -- taking -------------------------------------------------------------------------------

    def _in_hand(self, job: Job[T]) -> int:
        """How many entries of the job workers have in hand."""
        raise NotImplementedError

    def _free(self, job: Job[T] | None) -> int:
        """How many more entries of the job workers may have in hand."""
        return 0 if job is None else max(0, job.size - self._in_hand(job))

    def _takeable(self, is_for_threads: bool | None = None) -> int:
        """How many entries workers may take (of one kind of workers, if it is given)."""
        if self.limits.is_paused:
            return 0
        count = 0
        for lane in self._all_lanes():
            job = self._job_of(lane)
            if job is not None and is_for_threads in (None, job.is_for_threads):
                count += min(len(lane), self._free(job))
        return self._at_once(count)

    def _take_special(
        self, lanes: list[Lane[T]], granted: dict[int, Any], is_for_threads: bool | None = None
    ) -> Entry[T] | None:
        """Take the oldest entry of all that a worker may take; None if there is none.

        Args:
            lanes: where to look.
            granted: the numbers of entries whose puts are not confirmed yet.
            is_for_threads: the kind of the worker, if there is more than one.
        """
        best: Lane[T] | None = None
        lowest: Any = None
        for lane in lanes:
            head = lane.head
            if head is None or head[0] in granted:
                continue
            rank = lane.rank
            if best is not None and lowest < rank:
                continue
            job = self._job_of(lane)
            if self._free(job) and is_for_threads in (None, job.is_for_threads):  # type: ignore[union-attr]
                best, lowest = lane, rank
        return None if best is None else self._pop(best)

    def _pop(self, lane: Lane[T]) -> Entry[T]:
        """Take the head of a lane."""
        if lane.is_requeued_next:
            entry = lane.pop_requeued()
            number = entry[0]
            if number in self._delayed_ids:  # it takes up no room any more
                self._delayed_ids.discard(number)
                self.room += 1
                if number in self.limits.handed_out:
                    self.limits.handed_out.discard(number)
                    self.limits.was_taken(entry[3].place)  # type: ignore[union-attr]
        else:
            entry = self._pop_waiting(lane.waiting)
            if lane is not self._main:
                self._in_lanes -= 1
                self.room += 1
                self.main_peak += 1
        self._look_what_is_special()
        if lane.job is not None and lane.job.is_nested and not len(lane):
            self._grant_outside_bound(lane)
        return entry

    def _lane_outside_bound(self, ticket: Ticket | None) -> Lane[T] | None:
        """The lane of an entry that may be accepted though the queue is full.

        A worker waits for a nested job, so it makes no room: one entry of such a job is accepted
        outside the bound, as a requeued one is.
        """
        if ticket is None or ticket.job is None or not ticket.is_nested:
            return None
        lane = self.lanes.get(ticket.job)
        return lane if lane is not None and not len(lane) else None

    def _grant_outside_bound(self, lane: Lane[T]) -> None:
        """Accept the entry of a waiting put in a nested job's lane that has become empty."""
        raise NotImplementedError

    def _pop_waiting(self, waiting: deque[Entry[T]]) -> Entry[T]:
        return waiting.popleft()

    # -- jobs ---------------------------------------------------------------------------------

    def _new_lane(self, job: Job[T] | None, waiting: deque[Entry[T]] | None = None) -> Lane[T]:
        return Lane(job, deque() if waiting is None else waiting)

    def _open_lane(self, job: Job[T], *, is_alone: bool) -> None:
        """Keep a place for the entries of ``job``. ``is_alone``: nobody else takes any."""
        if is_alone and not self.lanes and not self.ready and not self._owner and not self.standing:
            self._owner = job
            return
        self._split()
        self._add_lane(self._new_lane(job))

    def _add_lane(self, lane: Lane[T]) -> None:
        assert lane.job is not None
        self.lanes[lane.job] = lane
        self._count()

    def _split(self) -> None:
        """There is more than one job: the owner of ``entries`` gets a lane like any other."""
        owner, self._owner = self._owner, None
        if owner is not None:
            lane = self._new_lane(owner)
            lane.fill(self.entries, self._requeued)
            self._main.clear()
            self._add_lane(lane)

    def _close_lane(self, job: Job[T]) -> int:
        """Remove all entries of a job that is over; return how many there were."""
        self._split()
        lane = self.lanes.pop(job, None)
        if lane is None:
            return 0
        before = len(self._delayed) + len(self.limits.parked)
        self._delayed = [one for one in self._delayed if job_of(one[2]) is not job]
        heapify(self._delayed)
        for number, entry in list(self.limits.parked.items()):
            if job_of(entry) is job:
                del self.limits.parked[number]
        due = {entry[0] for other in self._all_lanes() for entry in other.requeued}
        self._delayed_ids &= (
            due | {number for _, number, _ in self._delayed} | self.limits.parked.keys()
        )
        self.limits.handed_out &= due
        self.limits.changed()
        self._count()
        return len(lane) + before - len(self._delayed) - len(self.limits.parked)

    def _merge_lanes(self) -> list[Job[T]]:
        """The queue has stopped: what is left is of no job any more. Return the jobs."""
        self._split()
        jobs = list(self.lanes)
        if jobs:
            self._main.merge(self.lanes.values(), _without_job)
            self.lanes.clear()
            self._count()
        return jobs

    # -- delayed entries ----------------------------------------------------------------------

    def _delay(self, entry: Entry[T], due: float) -> None:
        number = entry[0]
        heappush(self._delayed, (due, number, entry))
        self._delayed_ids.add(number)
        self.room -= 1

    def _promote(self, entry: Entry[T]) -> None:
        """Let an entry be taken that was delayed, or parked."""
        self._restore(entry)

    def _promote_due(self, now: float) -> None:
        """Move the delayed entries that are due to the requeued ones."""
        while self._delayed and self._delayed[0][0] <= now:
            self._promote(heappop(self._delayed)[2])

    def _promote_all(self) -> None:
        """Move all delayed entries, parked ones too, to the requeued ones."""
        self._promote_due(math.inf)
        while self.limits.parked:
            self._promote(self.limits.parked.popitem()[1])
        self.limits.handed_out.clear()

    def places(self) -> Places:
        """Make a place for parked items that need the same keys."""
        return PlaceHeap()

    def _put_back(self, entry: Entry[T]) -> None:
        """It has to wait for a limit: it is the next, or is parked if it waits for its keys."""
        number, _, _, ticket = entry
        if ticket is None or ticket.place is None:
            self._requeue(entry)
            return
        self.limits.parked[number] = entry
        self._delayed_ids.add(number)
        self.room -= 1
        self.limits.was_parked(number, ticket.place)

    def _hand_out(self, number: int) -> bool:
        """Let a parked entry be taken next; False if its job has as many in hand as it may."""
        entry = self.limits.parked.pop(number)
        self.limits.handed_out.add(number)
        self._promote(entry)
        return not self.lanes or self._free(job_of(entry) or self.standing) > 0


def _without_job(entry: Entry[T]) -> Entry[T]:
    number, item, context, ticket = entry
    if ticket is None or ticket.job is None:
        return entry
    return (number, item, context, ticket.without_job())
