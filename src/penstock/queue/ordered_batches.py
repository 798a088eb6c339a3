"""Entries in an order that are taken several at once: those of one key, if a job wants that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from penstock.queue.batch_buffer import BatchStore
from penstock.queue.lane import Lane
from penstock.queue.ordered_store import OrderedLane, OrderedStore
from penstock.queue.shares import Share
from penstock.workers.batch import Batching
from penstock.workers.item import Entry, job_of

T = TypeVar("T")


class OrderedBatchStore(BatchStore[T], OrderedStore[T]):
    """An ordered store whose entries are taken several at once."""

    def _pop_entries(
        self, lane: Lane[T], batching: Batching, granted: dict[int, Any]
    ) -> list[Entry[T]]:
        assert isinstance(lane, OrderedLane)
        if batching.keys is not None:
            return self._pop_of_key(lane, batching)
        entries: list[Entry[T]] = []
        while len(entries) < batching.max_size:
            head = lane.head
            if head is None or head[0] in granted:
                break
            entries.append(self._pop(lane))
        return entries

    # -- calls with items of one key ----------------------------------------------------------

    def _pop_of_key(self, lane: OrderedLane[T], batching: Batching) -> list[Entry[T]]:
        """Take the entries of a call, all of the key that is next of those that wait no more."""
        keys, now = batching.keys, self.turn.clock()
        if self._is_last(batching):
            share: Share = lane.head[0][2]  # type: ignore[index]
        else:
            share = min(self._ripe(lane, batching), key=_start_of)
        lane.only = share
        try:
            count = min(batching.max_size, self._count_of(share, lane))
            entries = [self._pop(lane) for _ in range(count)]
        finally:
            lane.only = None
            for place in lane.places:
                place.prefer(None)
        left = self._count_of(share, lane)
        if not left:
            keys.drop(share)
        elif left < batching.max_size and keys.since.get(share, now) + batching.max_wait > now:
            keys.ripe.pop(share, None)
        return entries

    def _has_room(self, share: Share) -> bool:
        ranks: Any = self.ranks
        has_room: bool = ranks.shares.has_room(share)
        return has_room

    @staticmethod
    def _count_of(share: Share, lane: Lane[T]) -> int:
        lines = share.lines
        return sum(len(lines[p].entries) for p in (lane.waiting, lane.requeued) if p in lines)

    def _ripe(self, lane: Lane[T], batching: Batching) -> list[Share]:
        """The keys whose entries wait for no others."""
        if self._is_last(batching):
            places: Any = (lane.waiting, lane.requeued)
            return [*{line.share: None for place in places for line in place.lines.values()}]
        for share in [*batching.keys.ripe]:
            if not self._count_of(share, lane):  # they were taken by hand, or removed
                batching.keys.drop(share)
        return [*batching.keys.ripe]

    def _batches_in(self, lane: Lane[T], batching: Batching) -> int:
        if batching.keys is None:
            return super()._batches_in(lane, batching)
        count = 0
        for share in self._ripe(lane, batching) if len(lane) else ():
            count += max(1, self._count_of(share, lane) // batching.max_size)
        return count

    def _note_put(self, lane: Lane[T], entry: Entry[T] | None = None) -> bool:
        batching = self._batching_of(lane)
        if batching is None or batching.keys is None:
            return super()._note_put(lane, entry)
        self._note_keys(lane, batching, lane if entry is None else (entry,))
        return self._batches_in(lane, batching) > 0

    def _note_keys(
        self,
        lane: Lane[T],
        batching: Batching,
        entries: Iterable[Entry[T]],
        *,
        is_back: bool = False,
    ) -> None:
        """Entries have come, or come back: those have waited before."""
        keys, now = batching.keys, self.turn.clock()
        for number, *_ in entries:
            rank: Any = number
            share: Share = rank[2]
            keys.since.setdefault(share, now)
            is_full = is_back or self._count_of(share, lane) >= batching.max_size
            if is_full or not batching.max_wait or not self._has_room(share):
                keys.ripe[share] = None
        if batching.since is None and batching.max_wait:
            self._wait_for(batching, now)

    def _wait_for(self, batching: Batching, since: float) -> None:
        """Have :meth:`_end_wait` called when the entries of ``since`` have waited long enough."""
        batching.since = since
        delay = since + batching.max_wait - self.turn.clock()
        if delay < math.inf:
            self._call_after(max(0.0, delay), batching, since)

    def _end_wait(self, batching: Batching, since: float) -> bool:
        if batching.keys is None:
            return super()._end_wait(batching, since)
        if batching.since != since:
            return False
        batching.since = None
        later = batching.keys.end_waits(max(since, self.turn.clock() - batching.max_wait))
        if later is not None:
            self._wait_for(batching, later)
        return True

    def _restore(self, entry: Entry[T]) -> None:
        super()._restore(entry)
        job = job_of(entry)
        lane = self._main if job is None else self.lanes.get(job, self._main)
        batching = self._batching_of(lane)
        if batching is not None and batching.keys is not None:
            self._note_keys(lane, batching, (entry,), is_back=True)


def _start_of(share: Share) -> float:
    return share.start
