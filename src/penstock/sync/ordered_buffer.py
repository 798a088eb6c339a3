"""The buffer of a queue for threads that has an order."""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import Any, TypeVar

from penstock.queue.entry_buffer import PutOutcome
from penstock.queue.fair_ranks import ranks_of
from penstock.queue.lane import Lane
from penstock.queue.ordered_batches import OrderedBatchStore
from penstock.queue.ordered_store import OrderedStore
from penstock.queue.orders import Order
from penstock.sync.batch_buffer import BatchJanusBuffer
from penstock.sync.buffer import JanusBuffer
from penstock.sync.waiting import WaitingPut
from penstock.workers.item import Entry, Ticket
from penstock.workers.turn import ENDLESS

T = TypeVar("T")

#: So many waiting puts that have ended may be in a line, beside one for each that waits.
_STALE = 64


class OrderedJanusBuffer(OrderedStore[T], JanusBuffer[T]):
    """The rules of ``penstock.queue.ordered_buffer``, for any number of threads.

    janus says whether there is room, and asks the entries' own place, in which the next is found.
    Functions of the user's are called without the lock.
    """

    def __init__(self, maxsize: int, order: Order) -> None:
        self.ranks = ranks_of(order, ENDLESS)
        entries: Any = self.ranks.entries()
        JanusBuffer.__init__(self, maxsize, entries)

    @property
    def oldest(self) -> Entry[T] | None:
        """The entry that was put first of those that may start. From any thread."""
        with self.lock:
            return super().oldest

    # -- putting ------------------------------------------------------------------------------

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Accept the item if there is room."""
        if len(self.entries) >= self.room and (ticket is None or not ticket.is_nested):
            return False
        if context is None:  # an empty one is false
            context = copy_context()
        if ticket is not None:
            priority = ticket.priority
        claim = self.ranks.claim(item, priority)
        with self.lock:
            if self.closed:
                return False
            if len(self.entries) < self.room and self.ranks.has_room(claim):
                self._last_number = number = self._last_number + 1
                self._admit(item, context, ticket, self.ranks.rank(claim, number))
                return True
            lane = self._lane_outside_bound(ticket)
            if lane is None:
                return False
            self._last_number = number = self._last_number + 1
            rank = self.ranks.rank(claim, number)
            self._admit_outside_bound(lane, item, context, ticket, rank)
            return True

    def _admit(
        self, item: T, context: Context, ticket: Ticket | None, rank: Any = None
    ) -> Entry[T]:
        entry: Entry[T] = (rank, item, context, ticket)
        self._put_nowait(entry)
        size = len(self.entries)
        if size > self.main_peak:  # noqa: PLR1730 - a call would cost more than all the rest
            self.main_peak = size
        if self.lanes:
            self.wake_locked()
        elif self._waiters:
            self._unpark(1)
        elif self.loop_waiters is not None:
            self.loop_waiters.notify()
        return entry

    def _admit_outside_bound(
        self, lane: Lane[T], item: T, context: Context, ticket: Ticket | None, rank: Any = None
    ) -> Entry[T]:
        entry: Entry[T] = (rank, item, context, ticket)
        lane.requeue(entry)
        self.wake_locked()
        return entry

    # -- puts that wait for room --------------------------------------------------------------

    def _new_put(self, item: T, context: Context, ticket: Ticket | None) -> WaitingPut:
        put = super()._new_put(item, context, ticket)
        put.rank = self.ranks.claim(item, 0 if ticket is None else ticket.priority)
        return put

    def _join_puts(self, put: WaitingPut) -> None:
        waiting, line = self._waiting_puts, self.ranks.puts
        if len(line) > 2 * len(waiting) + _STALE:
            line.remove_all({rank for rank, one in line if one not in waiting})
        self.ranks.last_put = number = self.ranks.last_put + 1
        put.rank = self.ranks.rank(put.rank, number)
        waiting[put] = None
        line.append((put.rank, put))

    def _grant(self) -> None:
        """Fill the room that there is with the entries of the waiting puts of the lowest ranks."""
        while self._waiting_puts and len(self.entries) < self.room:
            first = self.ranks.puts.popleft()
            if first is None:  # there are only those of keys that have too much already
                return
            rank, put = first
            if put not in self._waiting_puts:  # it has ended
                continue
            del self._waiting_puts[put]
            rank = self._rank_granted(rank)
            put.entry = self._admit(put.item, put.context, put.ticket, rank)
            put.outcome = PutOutcome.ACCEPTED
            put.set()

    def _grant_outside_bound(self, lane: Lane[T]) -> None:
        puts = [
            put
            for put in self._waiting_puts
            if put.ticket is not None and put.ticket.job is lane.job
        ]
        if not puts:
            return
        put = min(puts, key=_rank_of)
        del self._waiting_puts[put]
        rank = self._rank_granted(put.rank)
        put.entry = self._admit_outside_bound(lane, put.item, put.context, put.ticket, rank)
        put.outcome = PutOutcome.ACCEPTED
        put.set()

    def _rank_granted(self, rank: Any) -> Any:
        self._last_number = number = self._last_number + 1
        return self.ranks.granted(rank, number)

    def close(self, *, drain: bool = True) -> None:
        """As any buffer for threads."""
        with self.lock:
            super().close(drain=drain)
            self.ranks.puts.clear()


class OrderedBatchJanusBuffer(OrderedBatchStore[T], BatchJanusBuffer[T], OrderedJanusBuffer[T]):
    """An ordered buffer for threads whose entries are taken several at once."""


def _rank_of(put: WaitingPut) -> Any:
    return put.rank
