"""Buffers whose entries are taken several at once: those of a queue with jobs of batches.

A buffer becomes one of these with the first such job of its queue. So the others know nothing of
batches.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from contextvars import Context, copy_context
from typing import Any, TypeVar

from penstock._util.batch import Batch
from penstock.queue.buffer import _BY_HAND, Buffer
from penstock.queue.lane import Lane
from penstock.queue.store import EntryStore
from penstock.workers.batch import Batching, BatchTicket, parts_of
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job

T = TypeVar("T")


class BatchStore(EntryStore[T]):
    """What a store needs for batches.

    The entries of a job of batches are taken when there are enough for a batch, or when the first
    of them has waited long enough; at once if no more can come: the queue is full or closed, or
    the job has put all its items. Requeued entries have waited before, so they wait for no others.
    """

    #: The jobs' ways to take entries for which a timer is set.
    timed: dict[Batching, None]

    def know_batches(self) -> None:
        """Begin to be one of these."""
        self.timed = {}
        self._is_special = True

    def _look_what_is_special(self) -> None:
        self._is_special = True

    def _batching_of(self, lane: Lane[T]) -> Batching | None:
        job = self._job_of(lane)
        return None if job is None else job.batching

    def _batches_in(self, lane: Lane[T], batching: Batching) -> int:
        """How many batches may be taken from a lane now."""
        full, rest = divmod(len(lane), batching.max_size)
        if not rest:
            return full
        since = math.inf if batching.since is None else batching.since
        is_due = self.turn.clock() >= since + batching.max_wait
        return full + bool(lane.requeued or self._is_last(batching) or is_due)

    def _is_last(self, batching: Batching) -> bool:
        """Whether no more entries can come, for now."""
        return self.closed or batching.is_complete or len(self.entries) >= self.room

    def _calls_in(self, lane: Lane[T]) -> int:
        """For how many calls there are entries in a lane now."""
        batching = self._batching_of(lane)
        return len(lane) if batching is None else self._batches_in(lane, batching)

    def _note_put(self, lane: Lane[T], entry: Entry[T] | None = None) -> bool:
        """There is one more entry in the lane; return whether workers are to be woken.

        ``entry``: which one; None: they may all be new to the job.
        """
        batching = self._batching_of(lane)
        if batching is None:
            return True
        if batching.since is None:
            batching.since = self.turn.clock() if batching.max_wait else -math.inf
            if 0 < batching.max_wait < math.inf:
                self._call_after(batching.max_wait, batching, batching.since)
        return self._batches_in(lane, batching) > 0

    def _call_after(self, delay: float, batching: Batching, since: float) -> None:
        """Have :meth:`_end_wait` called in ``delay`` seconds."""
        raise NotImplementedError

    def _end_waits(self) -> None:
        """No job waits for more entries any longer."""
        for batching in [*self.timed]:
            batching.end_wait()
        self.timed.clear()

    def _end_wait(self, batching: Batching, since: float) -> bool:
        """The first entry has waited long enough, unless it was taken since."""
        if batching.since != since:
            return False
        batching.since = -math.inf  # a loop calls a little early, by its clock's grain
        return True

    def note_waiting(self) -> None:
        """There is another job: the entries that wait are its own."""
        for lane in self._all_lanes():
            if len(lane):
                self._note_put(lane)

    # -- jobs ---------------------------------------------------------------------------------

    def _close_lane(self, job: Job[T]) -> int:
        if job.batching is not None:
            job.batching.end_wait()
        return super()._close_lane(job)

    def _merge_lanes(self) -> list[Job[T]]:
        self._end_waits()
        return super()._merge_lanes()

    # -- putting ------------------------------------------------------------------------------

    def _append(self, entry: Entry[T]) -> None:
        super()._append(entry)
        job = job_of(entry)
        self._note_put(self._main if job is None else self.lanes.get(job, self._main), entry)

    def _requeue(self, entry: Entry[T]) -> None:
        for part in parts_of(entry):
            super()._requeue(part)

    def _put_back(self, entry: Entry[T]) -> None:
        for part in parts_of(entry):
            super()._put_back(part)

    def _delay(self, entry: Entry[T], due: float) -> None:
        for part in parts_of(entry):
            super()._delay(part, due)

    # -- taking -------------------------------------------------------------------------------

    def _takeable(self, is_for_threads: bool | None = None) -> int:
        if self.limits.is_paused:
            return 0
        count = 0
        for lane in self._all_lanes():
            job = self._job_of(lane)
            if job is not None and len(lane) and is_for_threads in (None, job.is_for_threads):
                count += min(self._calls_in(lane), self._free(job))
        return self._at_once(count)

    def _take_special(
        self, lanes: list[Lane[T]], granted: dict[int, Any], is_for_threads: bool | None = None
    ) -> Entry[T] | None:
        eligible = [
            (lane.rank, lane)
            for lane in lanes
            if (head := lane.head) is not None
            and head[0] not in granted
            and (job := self._job_of(lane)) is not None
            and self._free(job)
            and is_for_threads in (None, job.is_for_threads)
            and self._calls_in(lane)
        ]
        if not eligible:
            return None
        _, best = min(eligible, key=lambda one: one[0])
        job = self._job_of(best)
        assert job is not None
        return self._pop(best) if job.batching is None else self._pop_batch(best, job, granted)

    def _pop_batch(self, lane: Lane[T], job: Job[T], granted: dict[int, Any]) -> Entry[T]:
        """Take the entries of one call, as one entry."""
        batching: Batching = job.batching
        entries = self._pop_entries(lane, batching, granted)
        if lane.job is not None and lane.job.is_nested and not len(lane):
            self._grant_outside_bound(lane)
        if not len(lane):
            batching.end_wait()
        items = Batch([entry[1] for entry in entries])
        # In no context of theirs: each item has its own.
        return entries[0][0], items, Context(), BatchTicket(entries, job, batching)  # type: ignore[return-value]

    def _pop_entries(
        self, lane: Lane[T], batching: Batching, granted: dict[int, Any]
    ) -> list[Entry[T]]:
        """Take the next entries of a lane, as many as a call may have."""
        most = batching.max_size
        entries: list[Entry[T]] = []
        while lane.requeued and len(entries) < most:
            entries.append(self._pop(lane))
        waiting = lane.waiting
        count = min(most - len(entries), len(waiting))
        for position in range(count if granted else 0):
            if waiting[position][0] in granted:
                count = position
                break
        entries.extend(self._pop_many(waiting, count))
        if lane is not self._main:
            self._in_lanes -= count
            self.room += count
            self.main_peak += count
        return entries

    def _pop_many(self, waiting: deque[Entry[T]], count: int) -> list[Entry[T]]:
        return [self._pop_waiting(waiting) for _ in range(count)]


class BatchBuffer(BatchStore[T], Buffer[T]):
    """A buffer in one event loop."""

    #: By which those are counted that a batch has done.
    counters: Any

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """As any buffer; but a worker is woken only when there is a batch."""
        size = len(self.entries) + 1
        batching = None if self.standing is None else self.standing.batching
        if size > self.room or batching is None or (ticket is not None and ticket.job is not None):
            return self._offer_to_lane(item, ticket, context)
        self._last_number = number = self._last_number + 1
        self.entries.append((number, item, copy_context() if context is None else context, ticket))
        if size > self.main_peak:  # noqa: PLR1730 - a call would take longer
            self.main_peak = size
        # Most puts are neither the first nor the last of a batch.
        is_edge = batching.since is None or not size % batching.max_size or size >= self.room
        if is_edge and self._note_put(self._main):
            self.wake()
        return True

    def _pop_many(self, waiting: deque[Entry[T]], count: int) -> list[Entry[T]]:
        popleft = waiting.popleft
        return [popleft() for _ in range(count)]

    def _call_after(self, delay: float, batching: Batching, since: float) -> None:
        assert self.loop is not None
        self.timed[batching] = None
        batching.timer = self.loop.call_later(
            delay, self._on_wait_over, batching, since, context=Context()
        )

    def _on_wait_over(self, batching: Batching, since: float) -> None:
        batching.timer = None
        self.timed.pop(batching, None)
        if self._end_wait(batching, since):
            self.wake()

    def take(self) -> Entry[T] | None:
        """The next entry for a worker; it may stand for those of a batch."""
        limits = self.limits
        if self.turn.is_paused or limits.is_held or limits.is_paused:
            return None
        entry = self._take_special(self._all_lanes(), self._granted)
        if entry is None and limits.is_limited:
            self._end_limited()
        if entry is not None and isinstance(entry[3], BatchTicket):
            entry[3].source, entry[3].counters = self, self.counters
        return self._taken(entry)

    def delay(self, entry: Entry[T], delay: float) -> None:
        """As any buffer; of a batch, each entry by itself."""
        for part in parts_of(entry):
            super().delay(part, delay)

    def give_back(self, entries: list[Entry[T]]) -> None:
        """Take back some of the entries of a batch, whose call goes on with the others."""
        for entry in entries:
            self._requeue(entry)
        self.wake()

    def drop(self, ticket: BatchTicket[T], entries: Sequence[Entry[T]]) -> None:
        """Some of the entries of a batch are done, and its call goes on with the others."""
        ticket.forget(entries)
        self.counters.processed += len(entries)

    def wake(self) -> None:
        """Wake tasks for the calls for which none is on its way."""
        if self._waiters and not self.limits.is_paused:
            self._unpark_kind(_BY_HAND, len(self._main))
            self._unpark_kind(0, self._takeable())
