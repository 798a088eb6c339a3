"""What waits in a queue: accepted entries, putters that need room, takers that need an entry.

One object holds all of it, so that the rules that are easy to break stand side by side:

* The bound is exact: never more than ``maxsize`` entries, at no instant.
* First come, first served. A slot that falls free goes to the putter that has waited longest. Its
  entry takes its place in the line there and then, so no newcomer can get ahead of it.
* A cancelled put leaves nothing behind. Until the putter has woken up and confirmed it, the entry
  is only *granted*: no worker takes it, and a cancellation removes it and passes the slot on.
* No lost wake-ups: for each entry that can be taken there is a taker on its way, or none waits.
* What a cancelled worker gives back is kept apart from the line, is handed out before it, and
  never makes the line longer than the bound.

Nothing here knows of states, workers, counters or telemetry.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import TypeAlias, TypeVar

from penstock._util.wait_queue import WaitQueue
from penstock.queue.store import EntryStore, PutOutcome
from penstock.workers.item import Entry, Ticket

T = TypeVar("T")


#: What a putter waits on: the entry that it is granted, or why there is none.
_Waiter: TypeAlias = "asyncio.Future[Entry[T] | PutOutcome]"
#: A put that waits: what it waits on, and what it will put.
_WaitingPut: TypeAlias = "tuple[_Waiter[T], T, Context, Ticket | None]"

#: So many deadlines of puts that have been served are kept, whatever the number of those waiting.
_STALE = 64


class Buffer(EntryStore[T], WaitQueue):
    """The line of one queue. Used from the thread of one event loop only."""

    def __init__(self, maxsize: int) -> None:
        EntryStore.__init__(self, maxsize, deque())
        WaitQueue.__init__(self)
        # A putter is first granted an entry, in the line already, and accepted when it confirms.
        self._granted: dict[int, Entry[T]] = {}
        # By number. An ordered dict, for removal from the middle in constant time.
        self._putters: OrderedDict[int, _WaitingPut[T]] = OrderedDict()
        self._putter_number = 0
        # A heap of the deadlines of putters and their numbers. A putter that is served leaves its
        # own behind, to be dropped when it comes up, or when most of them are stale.
        self._deadlines: list[tuple[float, int]] = []
        # One timer for all putters, left alone when a putter is served: to set and cancel one for
        # each would cost a busy queue more than all the rest of a put.
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._timeout_at = math.inf
        # The timer of what is postponed.
        self._due_timer: asyncio.TimerHandle | None = None

    @property
    def putters(self) -> int:
        """How many puts wait for room."""
        return len(self._putters) + len(self._granted)

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return super().accepted - len(self._granted)

    @property
    def ready(self) -> int:
        """How many entries are accepted and in nobody's hands."""
        return super().ready - len(self._granted)

    def snapshot(self) -> list[Entry[T]]:
        """The entries that are accepted and in nobody's hands, those given back first."""
        granted = self._granted
        entries = super().snapshot()
        return [entry for entry in entries if entry[0] not in granted] if granted else entries

    def discard(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        count = self._remove(entries)
        self._grant()
        return count

    # -- putting ------------------------------------------------------------------------------

    def offer(self, item: T, ticket: Ticket | None = None, context: Context | None = None) -> bool:
        """Take the item in if there is room. Putters that wait imply that there is none.

        ``context`` is the one that the item shall run in; a copy of the caller's by default.
        """
        size = len(self.line)
        if size >= self.room:
            return False
        if size >= self.peak:
            self.peak = size + 1
        self._order = order = self._order + 1
        self.line.append((order, item, copy_context() if context is None else context, ticket))
        if self._waiters and not self._unparked:
            self._unpark(1)
        return True

    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> PutOutcome:
        """Wait in line for a slot, at most ``timeout`` seconds, and fill it as :meth:`offer`."""
        if context is None:  # an empty one is false
            context = copy_context()
        loop = asyncio.get_running_loop()
        waiter: _Waiter[T] = loop.create_future()
        self._putter_number = number = self._putter_number + 1
        self._putters[number] = waiter, item, context, ticket
        if timeout is not None:
            self._set_timeout(loop, loop.time() + timeout, number)
        try:
            granted = await waiter
        except BaseException:
            self._withdraw(number, waiter)
            raise
        if isinstance(granted, PutOutcome):
            return granted
        if self._granted.pop(granted[0], None) is None:  # closed between the grant and now
            return PutOutcome.CLOSED
        self.wake()  # it, or what stood behind it, may be the next to be taken
        return PutOutcome.ACCEPTED

    def _grant(self) -> None:
        """Give the slots that fell free to the putters that have waited longest, if any wait."""
        while self._putters and len(self.line) < self.room:
            _, (waiter, item, context, ticket) = self._putters.popitem(last=False)
            if waiter.done():  # cancelled, and about to withdraw
                continue
            self._order = order = self._order + 1
            self._granted[order] = entry = (order, item, context, ticket)
            self.line.append(entry)
            waiter.set_result(entry)

    def _withdraw(self, number: int, waiter: _Waiter[T]) -> None:
        """The put was cancelled: leave nothing of it behind."""
        if self._putters.pop(number, None) is not None or not waiter.done() or waiter.cancelled():
            return
        granted = waiter.result()
        if isinstance(granted, PutOutcome) or self._granted.pop(granted[0], None) is None:
            return
        self.line.remove(granted)
        self._withdrawn += 1
        if not waiter.get_loop().is_closed():
            self._grant()
            self.wake()

    def _set_timeout(self, loop: asyncio.AbstractEventLoop, deadline: float, number: int) -> None:
        heappush(self._deadlines, (deadline, number))
        if len(self._deadlines) > 2 * len(self._putters) + _STALE:
            self._deadlines = [one for one in self._deadlines if one[1] in self._putters]
            heapify(self._deadlines)
        if deadline < self._timeout_at:
            self._set_timeout_timer(loop, deadline)

    def _set_timeout_timer(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._clear_timeout_timer()
        self._timeout_timer = loop.call_at(at, self._time_out, loop)
        self._timeout_at = at

    def _clear_timeout_timer(self) -> None:
        if self._timeout_timer is not None:
            self._timeout_timer.cancel()
            self._timeout_timer, self._timeout_at = None, math.inf

    def _time_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send away the putters that have waited long enough; set the alarm for the next one."""
        now = max(
            loop.time(), self._timeout_at
        )  # a loop calls a little early, by its clock's grain
        self._timeout_timer, self._timeout_at = None, math.inf
        deadlines, putters = self._deadlines, self._putters
        while deadlines:
            deadline, number = deadlines[0]
            if deadline > now and number in putters:
                self._set_timeout_timer(loop, deadline)
                return
            heappop(deadlines)
            if number in putters and not putters[number][0].done():
                putters.pop(number)[0].set_result(PutOutcome.TIMED_OUT)

    # -- taking -------------------------------------------------------------------------------

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none, or its putter has not confirmed it yet."""
        if self._requeued:
            entry = self._take_requeued()
            self._grant()
            return entry
        entries = self.line
        if not entries or (self._granted and entries[0][0] in self._granted):
            return None
        entry = entries.popleft()
        if self._putters:
            self._grant()
        return entry

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until a look is worth it; False when it is over, or after ``timeout`` seconds."""
        if self.closed and not self._delayed:
            return False
        return await self._park(self._add_waiter(), timeout)

    def _available(self) -> int:
        return len(self.line) + len(self._requeued)

    def requeue(self, entry: Entry[T]) -> None:
        """Take back an entry from a worker that was cancelled; it is the next to be taken."""
        self._requeue(entry)
        self.wake()

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Take an entry back from a worker, and hand it out again in ``delay`` seconds."""
        loop = asyncio.get_running_loop()
        self._delay(entry, loop.time() + delay)
        self._set_due_timer(loop)
        self.wake()

    def _set_due_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        if self._delayed:
            self._due_timer = loop.call_at(self._delayed[0][0], self._on_due, loop)

    def _on_due(self, loop: asyncio.AbstractEventLoop) -> None:
        # A loop calls a little early, by its clock's grain.
        self._promote_due(max(loop.time(), self._delayed[0][0]) if self._delayed else 0.0)
        self._set_due_timer(loop)
        self.wake()
        if self.is_over:
            self.wake_all()

    # -- opening and closing ------------------------------------------------------------------

    def open(self) -> None:
        """Let entries in. What was postponed is due: the times were those of another loop."""
        self.closed = False
        self._promote_due(math.inf)

    def forget_waiters(self) -> None:
        """Forget putters and takers: their loop was closed, so they will never go on."""
        self._forget_putters()
        self._forget_waiters()
        self._due_timer = None

    def close(self) -> None:
        """Let no entry in: every putter that waits is told so, and every taker looks around."""
        self.closed = True
        for waiter in self._forget_putters():
            if not waiter.done():
                waiter.set_result(PutOutcome.CLOSED)
        self.wake_all()

    def end(self) -> None:
        """All workers have left a closed line: nothing more is to happen by itself."""
        self._promote_due(math.inf)
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None

    def _forget_putters(self) -> list[_Waiter[T]]:
        self._clear_timeout_timer()
        waiting = [put[0] for put in self._putters.values()]
        self._putters.clear()
        self._deadlines.clear()
        if self._granted:
            line = [entry for entry in self.line if entry[0] not in self._granted]
            self.line.clear()
            self.line.extend(line)
            self._withdrawn += len(self._granted)
            self._granted.clear()
        return waiting
