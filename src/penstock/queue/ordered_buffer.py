"""The buffer of a queue with an order, in one event loop."""

from __future__ import annotations

import math
from collections import deque
from contextvars import Context, copy_context
from typing import Any, TypeVar

from penstock.queue.batch_buffer import BatchBuffer
from penstock.queue.buffer import Buffer, _Waiter
from penstock.queue.fair_ranks import ShareRanks, ranks_of
from penstock.queue.lane import Lane
from penstock.queue.ordered_batches import OrderedBatchStore
from penstock.queue.ordered_store import OrderedStore
from penstock.queue.orders import FairShares, Order
from penstock.queue.ranks import checked_key
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job
from penstock.workers.turn import LoopTurn

T = TypeVar("T")

#: So many waiting puts that have ended may be in a line, beside one for each that waits.
_STALE = 64


class OrderedBuffer(OrderedStore[T], Buffer[T]):
    """A buffer that hands out its entries in an order, and grants its room in the same order.

    A granted put has its room reserved, and is in its place when its task has confirmed it: workers
    that go on meanwhile take what is accepted.
    """

    _putters: Any

    def __init__(self, maxsize: int, order: Order) -> None:
        turn = LoopTurn()
        self.ranks = ranks_of(order, turn)
        entries: Any = self.ranks.entries()
        Buffer.__init__(self, maxsize, entries, turn)

    # -- putting ------------------------------------------------------------------------------

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Store the item if there is room; False if not."""
        if len(self.entries) >= self.room and self._lane_outside_bound(ticket) is None:
            return False
        if ticket is not None:
            priority = ticket.priority
        # This calls a function of the user's, which may even put.
        return self._offer_claim(self.ranks.claim(item, priority), item, ticket, context)

    def _offer_claim(
        self, claim: Any, item: T, ticket: Ticket | None, context: Context | None
    ) -> bool:
        lane = None
        if len(self.entries) >= self.room or not self.ranks.has_room(claim):
            lane = self._lane_outside_bound(ticket)
            if lane is None:
                return False
        self._last_number = number = self._last_number + 1
        entry: Any = (
            self.ranks.rank(claim, number),
            item,
            copy_context() if context is None else context,
            ticket,
        )
        if lane is not None:
            lane.requeue(entry)
        elif self._is_special or (ticket is not None and ticket.job is not self._owner):
            self._append(entry)
        else:
            entries = self.entries
            entries.append(entry)
            size = len(entries)
            if size > self.main_peak:  # noqa: PLR1730 - a call would take longer
                self.main_peak = size
            if self._waiters and not self._unparked:
                self._unpark(1)
            return True
        self.wake()
        return True

    # -- puts that wait for room --------------------------------------------------------------

    @property
    def putters(self) -> int:
        """How many puts wait for room."""
        return super().putters + len(self.ranks.to_come)

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return super().accepted - len(self.ranks.to_come)

    def _join_putters(
        self, waiter: _Waiter[T], item: T, context: Context, ticket: Ticket | None
    ) -> Any:
        claim = self.ranks.claim(item, 0 if ticket is None else ticket.priority)
        self._putter_number = number = self._putter_number + 1
        rank = self.ranks.rank(claim, number)
        if len(self.ranks.puts) > 2 * len(self._putters) + _STALE:
            self.ranks.puts.remove_all({one[0] for one in self.ranks.puts} - self._putters.keys())
        self._putters[rank] = waiter, item, context, ticket
        self.ranks.puts.append((rank, None))
        if len(self.entries) < self.room:  # a function of the user's may have made some
            self._grant()
        return rank

    def _grant(self) -> None:
        """Grant free slots to the waiting puts of the lowest ranks."""
        line, putters = self.ranks.puts, self._putters
        while putters and len(self.entries) < self.room:
            first = line.popleft()
            if first is None:  # there are only those of keys that have too much already
                return
            put = putters.pop(first[0], None)
            if put is not None and not put[0].done():  # or it is about to withdraw
                self._last_number = number = self._last_number + 1
                rank = self.ranks.reserved(first[0], number)
                self.ranks.to_come[rank] = entry = (rank, *put[1:])
                self.room -= 1
                put[0].set_result(entry)

    def _confirm(self, entry: Entry[T]) -> bool:
        if self._give_up(entry) is None:
            return super()._confirm(entry)
        self._append(entry)
        return True

    def _withdraw(self, number: Any, waiter: _Waiter[T]) -> None:
        granted = waiter.result() if waiter.done() and not waiter.cancelled() else None
        if isinstance(granted, tuple) and self._give_up(granted) is not None:
            self.ranks.given_up(granted[0])
            self._withdrawn += 1
            if not waiter.get_loop().is_closed():
                self._grant()
        else:
            super()._withdraw(number, waiter)

    def _give_up(self, entry: Entry[T]) -> Entry[T] | None:
        """Reserve the room of a granted put no longer; None if it was not."""
        reserved = self.ranks.to_come.pop(entry[0], None)
        if reserved is not None:
            self.room += 1
            self.ranks.ready(reserved)
        return reserved

    def _grant_outside_bound(self, lane: Lane[T]) -> None:
        ranks = [
            rank
            for rank, (waiter, _, _, ticket) in self._putters.items()
            if ticket is not None and ticket.job is lane.job and not waiter.done()
        ]
        if ranks:
            first = min(ranks)
            put = self._putters.pop(first)
            self._last_number = number = self._last_number + 1
            rank: Any = self.ranks.granted(first, number)
            self._granted[rank] = entry = (rank, *put[1:])
            lane.requeue(entry)
            put[0].set_result(entry)

    def _not_ready(self) -> list[Entry[T]]:
        return [*super()._not_ready(), *self.ranks.to_come.values()]

    def _count(self) -> None:
        super()._count()
        self.room -= len(self.ranks.to_come)

    def close_lane(self, job: Job[T]) -> int:
        """Remove the entries of a job that is over; return how many had been accepted."""
        for entry in [*self.ranks.to_come.values()]:
            if job_of(entry) is job:
                self._give_up(entry)
                self.ranks.given_up(entry[0])
                self._withdrawn += 1
        return super().close_lane(job)

    def _forget_putters(self) -> list[_Waiter[T]]:
        self.ranks.puts.clear()
        for entry in [*self.ranks.to_come.values()]:
            self._give_up(entry)
            self._withdrawn += 1
        return super()._forget_putters()

    # -- taking -------------------------------------------------------------------------------

    def take(self) -> Entry[T] | None:
        """The next entry for a worker; None if there is none."""
        if self._is_special:
            limits = self.limits
            if self.turn.is_paused or limits.is_held or limits.is_paused:
                return None
            found = self._take_special(self._all_lanes(), self._granted)
            if found is None and limits.is_limited:
                self._end_limited()
            return self._taken(found)
        entries: Any = self.entries
        if not entries.size:
            return None
        entry: Entry[T] = entries.popleft()
        if self._putters:
            self._grant()
        return entry


class PriorityBuffer(OrderedBuffer[T]):
    """A buffer in the order of priorities: it takes the short way with most puts and takes."""

    entries: Any

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Store the item if there is room; False if not."""
        entries = self.entries
        size = entries.size + 1
        if ticket is not None:
            return super().offer(item, ticket, context, priority)
        if size > self.room:
            return False
        key_of = entries.key_of
        if key_of is not None:
            priority = key_of(item)
            if type(priority) is not int:
                priority = checked_key(priority)
            size = entries.size + 1  # a function of the user's may even put
            if size > self.room:
                return False
        self._last_number = number = self._last_number + 1
        entry = (priority, number), item, copy_context() if context is None else context, None
        line = entries.lines.get(priority)
        if type(line) is deque:
            line.append(entry)
            entries.size = size
        else:
            entries.append(entry)
        if size > self.main_peak:  # noqa: PLR1730 - a call would take longer
            self.main_peak = size
        if self._waiters and not self._unparked:
            self._unpark(1)
        return True


class FairBuffer(OrderedBuffer[T]):
    """A buffer of fair shares: it takes the short way with most puts."""

    entries: Any
    ranks: ShareRanks

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Store the item if there is room; False if not."""
        if ticket is not None:
            return super().offer(item, ticket, context, priority)
        entries = self.entries
        key = entries.key_of(item)
        try:
            line = entries.lines.get(key)
        except TypeError:  # the error has to say which key it was
            line = None
        if line is not None:
            share = line.share
        elif self.ranks.has_weights:
            claim = self.ranks.claim_for(key, item, priority)
            return self._offer_claim(claim, item, ticket, context)
        else:
            share = self.ranks.share_of(key)
        size = entries.size + 1  # looked at here: a function of the user's may even put
        if size > self.room or (entries.is_capped and not entries.has_room(share)):
            return False
        self._last_number = number = self._last_number + 1
        rank = 0, number, share
        entry = rank, item, copy_context() if context is None else context, None
        if line is None:
            entries.append(entry)
        else:
            line.entries.append(entry)
            entries.size = size
        if size > self.main_peak:  # noqa: PLR1730 - a call would take longer
            self.main_peak = size
        if self._waiters and not self._unparked:
            self._unpark(1)
        return True


def make_buffer(maxsize: int, order: Order | None) -> Buffer[Any]:
    """The buffer for an order, with the shortest way that there is."""
    if order is None:
        return Buffer(maxsize)
    if isinstance(order, FairShares):
        is_plain = order.within is None
        return FairBuffer(maxsize, order) if is_plain else OrderedBuffer(maxsize, order)
    has_limit = order.max_wait not in (None, math.inf)
    return OrderedBuffer(maxsize, order) if has_limit else PriorityBuffer(maxsize, order)


class OrderedBatchBuffer(OrderedBatchStore[T], BatchBuffer[T], OrderedBuffer[T]):
    """An ordered buffer whose entries are taken several at once."""

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """As any ordered buffer; but a worker is woken only when there is a batch."""
        return OrderedBuffer.offer(self, item, ticket, context, priority)
