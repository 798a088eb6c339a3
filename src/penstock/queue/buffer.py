"""The buffer of a queue in one event loop: entries, waiting puts, and waiting workers.

One object holds all three, so that the rules that are easy to break stand side by side:

* The bound is exact: at no instant do more than ``maxsize`` entries wait.
* First come, first served. A free slot goes to the put that has waited longest. Its entry takes
  the slot there and then, so that no newcomer can overtake it.
* A cancelled put leaves nothing behind. Until the task of the put has run and confirmed it, its
  entry is only *granted*: no worker takes it, and a cancellation removes it and passes the slot on.
* No lost wake-up: for each entry that can be taken a worker is on its way, or no worker waits.

A buffer knows nothing of states, worker functions, counters or telemetry.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias, TypeVar

from penstock._util.wait_queue import WaitQueue
from penstock.queue.entry_buffer import PutOutcome
from penstock.queue.lane import Lane
from penstock.queue.store import EntryStore
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job
from penstock.workers.turn import LoopTurn

T = TypeVar("T")


#: The future of a waiting put: the entry that was granted, or why there is none.
_Waiter: TypeAlias = "asyncio.Future[Entry[T] | PutOutcome]"
#: A put that waits for room.
_WaitingPut: TypeAlias = "tuple[_Waiter[T], T, Context, Ticket | None]"

_UNGUARDED = nullcontext()

#: The kind of waiter that takes entries by ``get``.
_BY_HAND = 1

#: The most deadlines of finished puts that are kept, beside one for each waiting put.
_STALE = 64


class Buffer(EntryStore[T], WaitQueue):
    """Used from the thread of one event loop only."""

    def __init__(
        self, maxsize: int, entries: deque[Entry[T]] | None = None, turn: LoopTurn | None = None
    ) -> None:
        entries, turn = deque() if entries is None else entries, turn or LoopTurn()
        EntryStore.__init__(self, maxsize, entries, turn)
        WaitQueue.__init__(self)
        # Entries of puts that are not confirmed yet, by number. They are in ``entries`` already.
        self._granted: dict[int, Entry[T]] = {}
        # Waiting puts by number. An ordered dict: removal from the middle takes constant time.
        self._putters: OrderedDict[int, _WaitingPut[T]] = OrderedDict()
        self._putter_number = 0
        # A heap of (deadline, number) of waiting puts. A finished put leaves its own behind. It is
        # dropped when it comes up, or when most of them are stale.
        self._deadlines: list[tuple[float, int]] = []
        # One timer for all waiting puts, left alone when a put is served: to set and cancel a
        # timer for each would cost a busy queue more than all the rest of a put.
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._timeout_at = math.inf
        # The timer of the delayed entries.
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
        """How many accepted entries no worker holds."""
        return super().ready - len(self._granted)

    def snapshot(self) -> list[Entry[T]]:
        """The accepted entries that no worker holds, the oldest first."""
        granted = self._granted
        entries = super().snapshot()
        return [entry for entry in entries if entry[0] not in granted] if granted else entries

    def discard(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        count = self._remove(entries)
        self._grant()
        return count

    def take_back(self, entries: Iterable[Entry[T]]) -> list[Entry[T]]:
        """Remove entries of a :meth:`snapshot`; return those of them that were still there."""
        taken = self._take_back(entries)
        self._grant()
        if self.closed and self.is_over:
            self.wake_all()
        return taken

    # -- jobs ---------------------------------------------------------------------------------

    def open_lane(self, job: Job[T]) -> None:
        """Keep the entries of ``job`` apart, and let workers take them as it allows.

        Call :meth:`split` before the first put after this that is not of the job.
        """
        self._open_lane(job, is_alone=not self._waiters and not self.putters)

    def split(self) -> None:
        """There will be other entries than those of one job."""
        self._split()

    def close_lane(self, job: Job[T]) -> int:
        """Remove the entries of a job that is over; return how many had been accepted.

        Its puts that still wait are refused.
        """
        for number, (waiter, _, _, ticket) in list(self._putters.items()):
            if ticket is not None and ticket.job is job:
                del self._putters[number]
                if not waiter.done():
                    waiter.set_result(PutOutcome.CLOSED)
        granted = [number for number, one in self._granted.items() if job_of(one) is job]
        for number in granted:
            del self._granted[number]
        self._withdrawn += len(granted)
        count = self._close_lane(job) - len(granted)
        self._grant()
        self.wake()
        if self.is_over:
            self.wake_all()
        return count

    def _in_hand(self, job: Job[T]) -> int:
        # Whoever looks is between two entries, and all others are suspended.
        return job.suspended

    # -- putting ------------------------------------------------------------------------------

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Store the item if there is room; False if not. While puts wait, there is none.

        ``context``: the context that the item will run in; by default a copy of the caller's.
        ``priority``: for a buffer with an order, that of an item without a ticket.
        """
        if ticket is not None and ticket.job is not self._owner:
            return self._offer_to_lane(item, ticket, context)
        size = len(self.entries)
        if size >= self.room:
            return False
        if size >= self.main_peak:
            self.main_peak = size + 1
        self._last_number = number = self._last_number + 1
        self.entries.append((number, item, copy_context() if context is None else context, ticket))
        if self._waiters and not self._unparked:
            self._unpark(1)
        return True

    def _offer_to_lane(self, item: T, ticket: Ticket | None, context: Context | None) -> bool:
        """:meth:`offer`, where the entry may be one of several jobs."""
        lane = None
        if len(self.entries) >= self.room:
            lane = self._lane_outside_bound(ticket)
            if lane is None:
                return False
        self._last_number = number = self._last_number + 1
        entry = (number, item, copy_context() if context is None else context, ticket)
        if lane is None:
            self._append(entry)
        else:
            lane.requeue(entry)
        self.wake()
        return True

    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> PutOutcome:
        """Wait for a slot, at most ``timeout`` seconds, and store the item as :meth:`offer` does.

        A cancelled call leaves nothing behind.
        """
        if context is None:  # an empty one is false
            context = copy_context()
        loop = asyncio.get_running_loop()
        waiter: _Waiter[T] = loop.create_future()
        number = self._join_putters(waiter, item, context, ticket)
        if timeout is not None:
            self._set_timeout(loop, loop.time() + timeout, number)
        try:
            granted = await waiter
        except BaseException:
            self._withdraw(number, waiter)
            raise
        if isinstance(granted, PutOutcome):
            return granted
        if not self._confirm(granted):  # closed between the grant and now
            return PutOutcome.CLOSED
        self.wake()  # this entry, or the one behind it, may be the next to be taken
        return PutOutcome.ACCEPTED

    def _join_putters(
        self, waiter: _Waiter[T], item: T, context: Context, ticket: Ticket | None
    ) -> int:
        """Have a put wait for room; return its number."""
        self._putter_number = number = self._putter_number + 1
        self._putters[number] = waiter, item, context, ticket
        return number

    def _confirm(self, entry: Entry[T]) -> bool:
        """The task of a put has run, whose entry was granted; False: the grant is withdrawn."""
        return self._granted.pop(entry[0], None) is not None

    def _grant(self) -> None:
        """Grant free slots to the puts that have waited longest."""
        while self._putters and len(self.entries) < self.room:
            _, put = self._putters.popitem(last=False)
            if not put[0].done():  # or it is cancelled, and about to withdraw
                self._append(self._grant_to(*put))

    def _grant_outside_bound(self, lane: Lane[T]) -> None:
        for place, put in self._putters.items():
            waiter, _, _, ticket = put
            if ticket is not None and ticket.job is lane.job and not waiter.done():
                del self._putters[place]
                lane.requeue(self._grant_to(*put))
                return

    def _grant_to(
        self, waiter: _Waiter[T], item: T, context: Context, ticket: Ticket | None
    ) -> Entry[T]:
        """Return the entry of a waiting put, which the put has to confirm."""
        self._last_number = number = self._last_number + 1
        self._granted[number] = entry = (number, item, context, ticket)
        waiter.set_result(entry)
        return entry

    def _withdraw(self, number: int, waiter: _Waiter[T]) -> None:
        """Remove everything of a cancelled put."""
        if self._putters.pop(number, None) is not None or not waiter.done() or waiter.cancelled():
            return
        granted = waiter.result()
        if isinstance(granted, PutOutcome) or self._granted.pop(granted[0], None) is None:
            return
        self._remove_one(granted)
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
        """End the puts whose timeout is over; set the timer for the next one."""
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
        """The next entry for a worker. None: there is none, or its put is not confirmed yet."""
        if self._is_special:
            if self.turn.is_paused or self.limits.is_held or self.limits.is_paused:
                return None
            if self._requeued and not self.lanes:  # most often: it is another attempt
                entry = self._pop(self._main)
                if self._putters:
                    self._grant()
                if self.closed and self.is_over:
                    self.wake_all()
                return entry
            found = self._take_special(self._all_lanes(), self._granted)
            if found is None and self.limits.is_limited:
                self._end_limited()
            return self._taken(found)
        entries = self.entries
        if not entries or (self._granted and entries[0][0] in self._granted):
            return None
        entry = entries.popleft()
        if self._putters:
            self._grant()
        return entry

    async def pause(self) -> None:
        """Let the event loop see to everything else, while no worker takes an entry."""
        self._is_special = True
        try:
            await self.turn.pause()
        finally:
            self._look_what_is_special()
            if self.closed:
                self.wake_all()

    def _taken(self, entry: Entry[T] | None) -> Entry[T] | None:
        if entry is not None:
            self._grant()
            if self.is_over:  # the last of several jobs: workers that wait for them may end
                self.wake_all()
        return entry

    async def wait(self) -> bool:
        """Wait until :meth:`take` may find an entry; False when none will ever come."""
        # In a pause too: whoever pauses goes on to take, and wakes others when it waits or ends.
        if self.closed and self.is_over and not self.turn.is_paused:
            return False
        if self.limits.is_held:  # it may have been woken for what somebody can take by hand
            self.wake()
        return await self._park(self._add_waiter())

    def take_by_hand(self) -> Entry[T] | None:
        """The next entry that has no job of its own, for a caller of ``get``."""
        if self._owner is not None:
            self._split()
        if not self._is_special:
            return self.take()
        head = self._main.head
        if head is None or head[0] in self._granted or self.limits.is_paused:
            return None
        return self._taken(self._pop(self._main))

    async def wait_by_hand(self, timeout: float | None = None) -> bool:
        """Wait until :meth:`take_by_hand` may find an entry.

        False: no entry will ever come, or ``timeout`` seconds are over.
        """
        if self.closed and not self.has_delayed:
            return False
        return await self._park(self._add_waiter(_BY_HAND), timeout)

    def wake(self) -> None:
        """Wake tasks for the entries for which none is on its way."""
        if not self._waiters or self.limits.is_paused:
            return
        if self.lanes or self.limits.is_limited:
            self._unpark_kind(_BY_HAND, len(self._main))
            self._unpark_kind(0, self._takeable())
        else:
            self._unpark(len(self.entries) + len(self._requeued) - len(self._unparked))

    def _available(self) -> int:
        return len(self._main)

    # -- pauses and limits --------------------------------------------------------------------

    def set_paused(self, is_paused: bool) -> bool:
        """Let nobody take an entry, or let them again; False if it is closed, and cannot pause."""
        if is_paused and self.closed:
            return False
        self._set_paused(is_paused)
        self.wake()
        return True

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the workers, from the first start on."""
        return self.limits.loop

    @property
    def startable(self) -> int:
        """How many more entries workers would start by now, if no limit held them up; roughly."""
        return 0 if self.limits.is_paused else min(len(self._waiters), self.ready)

    @property
    def guard(self) -> AbstractContextManager[Any]:
        """What keeps others away from the entries: nothing, since all is in one loop."""
        return _UNGUARDED

    def unpark(self, number: int) -> bool:
        """Let workers take a parked entry next; False if none comes for it."""
        is_free = self._hand_out(number)
        self.wake()
        if self.closed and self.is_over:
            self.wake_all()
        return is_free and 0 in self._unparked.values()

    def hold(self) -> None:
        """Let workers take nothing, until :meth:`go_on`."""
        self._hold()

    def go_on(self) -> bool:
        """Let workers take entries again, one at a time; False if no worker comes for one."""
        self.limits.is_held = False
        self.wake()
        return 0 in self._unparked.values()

    def requeue(self, entry: Entry[T]) -> None:
        """Put back the entry of a cancelled worker; it is the next to be taken."""
        self._requeue(entry)
        self.wake()

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Put an entry back that is to be taken again in ``delay`` seconds.

        Below 0: it has to wait for a limit.
        """
        if delay < 0:
            self._put_back(entry)
            self.wake()
            return
        # Nothing can be taken that could not be before, so nobody is woken.
        loop = asyncio.get_running_loop()
        self._delay(entry, loop.time() + delay)
        self._set_due_timer(loop)

    def _set_due_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have :meth:`_on_due` called when the first of the delayed entries is due, if not before.

        A timer that is too early is left alone: the entry that it was set for is gone.
        """
        due, timer = self._delayed[0][0], self._due_timer
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._due_timer = loop.call_at(due, self._on_due, loop)

    def _on_due(self, loop: asyncio.AbstractEventLoop) -> None:
        timer, self._due_timer = self._due_timer, None
        # A loop calls a little early, by its clock's grain.
        self._promote_due(loop.time() if timer is None else max(loop.time(), timer.when()))
        if self._delayed:
            self._set_due_timer(loop)
        self.wake()
        if self.closed and self.is_over:
            self.wake_all()

    # -- opening and closing ------------------------------------------------------------------

    def open(self) -> None:
        """Accept entries. All delayed ones are due: their times were those of another loop."""
        self.limits.loop = loop = asyncio.get_running_loop()
        self.turn.begin_in(loop)
        self.closed = self.limits.is_paused = False
        self._end_limited()
        self.limits.end()
        self._promote_all()

    def forget_waiters(self) -> None:
        """Forget all waiting puts and workers: their loop is closed, so none will ever go on."""
        self._forget_putters()
        self._forget_waiters()
        self.limits.is_paused = False
        self._end_limited()
        self.limits.end()
        self._due_timer = None

    def close(self, *, drain: bool = True) -> None:
        """Accept no more entries: end all waiting puts, and wake all waiting workers.

        ``drain``: what is left is to be taken, so a pause ends.
        """
        self.closed = True
        if drain:
            self._set_paused(False)
        for waiter in self._forget_putters():
            if not waiter.done():
                waiter.set_result(PutOutcome.CLOSED)
        self.wake_all()

    def end(self) -> list[Job[T]]:
        """End all delays and timers: the queue is closed, and all workers have ended.

        What is left belongs to no job any more. Returns the jobs that had entries.
        """
        self._promote_all()
        jobs = self._merge_lanes()
        self.limits.is_paused = False
        self._end_limited()
        self.limits.end()
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        return jobs

    def _forget_putters(self) -> list[_Waiter[T]]:
        self._clear_timeout_timer()
        waiting = [put[0] for put in self._putters.values()]
        self._putters.clear()
        self._deadlines.clear()
        if self._granted:
            for lane in self._all_lanes():
                lane.remove(set(self._granted))
            self._count()
            self._withdrawn += len(self._granted)
            self._granted.clear()
        return waiting
