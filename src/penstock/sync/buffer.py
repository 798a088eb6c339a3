"""The buffer of a queue that threads put into: its entries, waiting puts and waiting workers.

The rules are those of ``penstock.queue.buffer``, for any number of threads:

* janus's queue is the one storage, and keeps the bound.
* First come, first served. Whoever makes room fills it there and then with the entry of the put
  that has waited longest. The thread of that put only has to wake up and say so: it need not win
  a race for the room, and no newcomer can get ahead of it.
* A waiting put has an event of its own, and its thread waits for that. A worker in the event loop
  is notified through the loop: by one call for however many entries come before the loop runs it.
  janus's own waiting does neither, and a getter of janus that is cancelled can lose a wake-up on
  Python 3.12 and older (cpython#112202).

Every change is made under one lock, which nobody holds while waiting.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

from penstock._util.garbage import refuse_in_collection
from penstock.queue.entry_buffer import PutOutcome
from penstock.queue.lane import Lane
from penstock.queue.store import EntryStore
from penstock.sync.janus_queue import JanusQueue
from penstock.sync.waiting import BY_HAND, TASK, THREAD, LoopWaiters, OneShotEvent, WaitingPut
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job

T = TypeVar("T")

_ABSENT: Any = object()

#: Whether threads may run in the same instant: then none may touch the context that another is in.
_IS_FREE_THREADED = "free-threading" in sys.version


def _never() -> bool:
    return False


class EntryHolder(Protocol[T]):
    """A worker's slot, as far as the buffer writes to it, under its lock."""

    #: The entry that the worker took last, and how many it took.
    entry: Entry[T] | None
    taken: int
    #: The job of the entry in its hands, where there are several jobs.
    job: Job[T] | None
    #: The job of entries that have none of their own, for this worker.
    standing: Job[T] | None
    #: Whether the worker is a thread.
    is_for_threads: bool
    #: Whether the worker may take no more; and whether it must ask the pool first.
    is_revoked: bool
    must_ask: bool

    @property
    def has_one_in_hand(self) -> bool:
        """Whether the worker has an entry in hand."""
        ...


class JanusBuffer(EntryStore[T]):
    """The entries of one queue, for threads and for one event loop at a time.

    Its two coroutine functions never suspend: they block the calling thread. So the code above
    them is the same as for a queue in one loop.
    """

    def __init__(self, maxsize: int, entries: deque[Entry[T]] | None = None) -> None:
        queue: JanusQueue[T]
        self._queue = queue = JanusQueue(maxsize, entries)
        super().__init__(maxsize, queue.entries)
        queue.store = self
        self._is_plain = True
        queue.use_methods(is_plain=True)
        # One that knows its thread: a signal handler or a finaliser may interrupt this very code.
        self.lock = threading.RLock()
        #: Whether the caller has interrupted a change, in this very thread.
        self.is_interrupted: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        #: The most entries that workers may have in hand, of all jobs together.
        self.most_in_hand = 0
        #: Returns the slots of all workers.
        self.holders: Callable[[], Iterable[EntryHolder[T]]] = tuple
        self._put_nowait = queue.sync_q.put_nowait
        self._get_nowait = queue.sync_q.get_nowait
        # Ordered dicts, for removal from the middle in constant time.
        self._waiting_puts: OrderedDict[WaitingPut, None] = OrderedDict()
        self._waiters: OrderedDict[OneShotEvent, int] = OrderedDict()  # and their kinds
        #: The workers that wait in the event loop, while there is a loop.
        self.loop_waiters: LoopWaiters | None = None

    @property
    def putters(self) -> int:
        """The number of puts that wait for room."""
        return len(self._waiting_puts)

    def available(self, kind: int) -> int:
        """The number of entries that a thread or task of a kind can take."""
        if self.limits.is_paused:
            return 0
        if kind == BY_HAND:
            return len(self._main)
        if not self.lanes:
            return self._at_once(len(self._main)) if self.limits.is_limited else len(self._main)
        return min(self._takeable(kind == THREAD), self._spare)

    @property
    def _spare(self) -> int:
        """How many more entries workers may have in hand, of all jobs together."""
        in_hand = sum(job.in_hand for job in self.lanes)
        return self.most_in_hand - in_hand - (self.standing.in_hand if self.standing else 0)

    def is_drained(self) -> bool:
        """Whether it is closed, and no entry is left to be taken by hand, now or later."""
        with self.lock:  # an entry that becomes due is nowhere for a moment
            return super().is_drained()

    def snapshot(self) -> list[Entry[T]]:
        """The entries that nobody has taken, in the order of their puts."""
        with self.lock:
            return super().snapshot()

    def discard(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many of them were still there."""
        with self.lock:
            count = self._remove(entries)
            self._grant()
            return count

    def take_back(self, entries: Iterable[Entry[T]]) -> list[Entry[T]]:
        """Remove entries of a :meth:`snapshot`; return those of them that were still there."""
        with self.lock:
            taken = self._take_back(entries)
            self._grant()
            if self.is_over:
                self._unpark_all()
            return taken

    def offer(
        self,
        item: T,
        ticket: Ticket | None = None,
        context: Context | None = None,
        priority: float = 0,
    ) -> bool:
        """Accept the item if there is room. (While puts wait for room, there is none.)

        ``context`` is the one that the item will run in; a copy of the caller's by default.
        ``priority``: for a buffer with an order, that of an item without a ticket.
        """
        if context is None:  # an empty one is false
            context = copy_context()
        with self.lock:
            if self.closed:
                return False
            if len(self.entries) >= self.room:
                lane = self._lane_outside_bound(ticket)
                if lane is None:
                    return False
                self._admit_outside_bound(lane, item, context, ticket)
                return True
            self._admit(item, context, ticket)
            return True

    def _admit(
        self, item: T, context: Context, ticket: Ticket | None, rank: Any = None
    ) -> Entry[T]:
        self._last_number = number = self._last_number + 1
        entry: Entry[T] = (number, item, context, ticket)
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
        self._last_number = number = self._last_number + 1
        entry: Entry[T] = (number, item, context, ticket)
        lane.requeue(entry)
        self.wake_locked()
        return entry

    def _grant_outside_bound(self, lane: Lane[T]) -> None:
        for put in self._waiting_puts:
            if put.ticket is not None and put.ticket.job is lane.job:
                del self._waiting_puts[put]
                put.entry = self._admit_outside_bound(lane, put.item, put.context, put.ticket)
                put.outcome = PutOutcome.ACCEPTED
                put.set()
                return

    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> PutOutcome:
        """Block until there is room, at most ``timeout`` seconds, and accept the item then.

        A KeyboardInterrupt takes the item back, unless a worker has taken it already.
        """
        refuse_in_collection("put")
        put = self._new_put(item, copy_context() if context is None else context, ticket)
        try:
            with self.lock:
                if self.closed:
                    return PutOutcome.CLOSED
                self._join_puts(put)
                self._grant()  # there may be room since the caller looked
                lane = self._lane_outside_bound(ticket)
                if lane is not None:
                    self._grant_outside_bound(lane)
            if not put.wait(timeout):
                with self.lock:
                    self._waiting_puts.pop(put, None)
            return put.outcome
        except BaseException:
            self._withdraw(put)
            raise

    def _new_put(self, item: T, context: Context, ticket: Ticket | None) -> WaitingPut:
        return WaitingPut(item, context, ticket)

    def _join_puts(self, put: WaitingPut) -> None:
        self._waiting_puts[put] = None

    def _grant(self) -> None:
        """Fill the room that there is with the entries of the puts that have waited longest."""
        while self._waiting_puts and len(self.entries) < self.room:
            put, _ = self._waiting_puts.popitem(last=False)
            put.entry = self._admit(put.item, put.context, put.ticket)
            put.outcome = PutOutcome.ACCEPTED
            put.set()

    def _withdraw(self, put: WaitingPut) -> None:
        with self.lock:
            self._waiting_puts.pop(put, None)
            if put.entry is not None:
                self._withdrawn += self._remove([put.entry])
                self._grant()

    def take(self, holder: EntryHolder[T]) -> Entry[T] | None:
        """The next entry for a worker, or None. ``holder`` gets to know it under the same lock.

        A worker that asks for the next entry has finished the one before.
        """
        with self.lock:
            if self._is_special or holder.job is not None:
                entry = self._take_of_several(holder)
            elif (
                self.entries
                and not holder.must_ask
                and (standing := holder.standing) is self.standing
                # A worker of a job that has just ended may come before it is told to leave.
                and (standing is not None or self._owner is not None)
            ):
                entry = self._get_nowait()
            else:
                entry = None
            holder.entry = entry
            if entry is None:
                return None
            holder.taken += 1
            if self._waiting_puts:
                self._grant()
            if _IS_FREE_THREADED:
                # The worker gets a copy of the context. To reclaim the entry is to copy the
                # original, which crashes the interpreter if a thread sets variables in it.
                number, item, context, ticket = entry
                return number, item, context.copy(), ticket
            return entry

    def _take_of_several(self, holder: EntryHolder[T]) -> Entry[T] | None:
        """:meth:`take`, where there are several jobs, or requeued entries."""
        self.release(holder)
        entry: Entry[T] | None = None
        limits = self.limits
        is_none = limits.is_held or limits.is_paused or (self.lanes and self._spare <= 0)
        if not (holder.is_revoked or holder.must_ask or is_none):
            lanes = self._all_lanes()
            if holder.standing is not self.standing:  # it is being replaced, or of another kind
                del lanes[0]
            entry = self._take_special(lanes, {}, holder.is_for_threads)
        if self.lanes or self.limits.is_limited:
            if entry is not None:
                if self.lanes:
                    self._have_in_hand(holder, entry)
                if self.is_over:  # it was the last: workers that wait for more may end
                    self._unpark_all()
            elif self.limits.is_limited and not (
                limits.is_held or limits.is_paused or holder.must_ask or holder.is_revoked
            ):
                self._end_limited()
            self.wake_locked()  # other workers may have what this one made possible
        return entry

    def _have_in_hand(self, holder: EntryHolder[T], entry: Entry[T]) -> None:
        job: Any = job_of(entry) or holder.standing
        holder.job = job
        job.in_hand += 1

    def release(self, holder: EntryHolder[T]) -> None:
        """A worker has its entry in hand no longer. With the lock held."""
        if holder.job is not None:
            holder.job.in_hand -= 1
            holder.job = None

    def _count_in_hand(self) -> None:
        """There are several jobs now: from here on it counts how many entries each has in hand."""
        for holder in self.holders():
            if holder.job is None and holder.entry is not None and holder.has_one_in_hand:
                self._have_in_hand(holder, holder.entry)

    def _in_hand(self, job: Job[T]) -> int:
        return job.in_hand

    def _pop_waiting(self, waiting: deque[Entry[T]]) -> Entry[T]:
        self._queue.source = waiting
        try:
            return self._get_nowait()
        finally:
            self._queue.source = self.entries

    def take_by_hand(self) -> Entry[T] | None:
        """The next entry that has no job of its own, for a caller of ``get``."""
        with self.lock:
            if self._owner is not None:
                self._split()
            if not len(self._main) or (self._is_special and self.limits.is_paused):
                return None
            entry = self._pop(self._main)
            self._grant()
            if self.lanes and self.is_over:
                self._unpark_all()
            return entry

    async def wait_by_hand(
        self, timeout: float | None = None, is_stopped: Callable[[], bool] = _never
    ) -> bool:
        """Block until there may be an entry for :meth:`take_by_hand`.

        False at the end, or after ``timeout`` seconds. ``is_stopped`` is asked under the lock:
        whoever stops the queue wakes those that wait after that.
        """
        refuse_in_collection("get")
        return self._wait(BY_HAND, timeout, is_stopped)

    def wait_in_thread(self, must_ask: Callable[[], bool]) -> bool:
        """Block until there may be an entry for a worker that is a thread; False at the end.

        ``must_ask`` is asked under the lock: whoever has workers ask wakes those that wait after
        that, and so this worker does not wait, or is among them.
        """
        return self._wait(THREAD, None, must_ask)

    def _wait(self, kind: int, timeout: float | None, must_ask: Callable[[], bool]) -> bool:
        event = OneShotEvent()
        try:
            with self.lock:
                if must_ask():
                    return True
                if self.available(kind):
                    return True
                if self.closed and not self.has_delayed if kind == BY_HAND else self.is_over:
                    return False
                self._waiters[event] = kind
            if event.wait(timeout):
                return True
            with self.lock:
                return self._waiters.pop(event, _ABSENT) is _ABSENT  # called in that very moment
        except BaseException:
            with self.lock:
                if self._waiters.pop(event, _ABSENT) is _ABSENT:
                    self.wake_locked()  # this one was called: call another one
            raise

    # -- jobs ---------------------------------------------------------------------------------

    def open_lane(self, job: Job[T]) -> None:
        """Keep the entries of ``job`` apart, and let workers take them as it allows."""
        with self.lock:
            self._open_lane(job, is_alone=not self._waiters and not self._waiting_puts)
            self._look_whether_plain()

    def _count(self) -> None:
        super()._count()
        self._look_whether_plain()

    def _look_whether_plain(self) -> None:
        is_plain = not self.lanes and self._owner is None
        if is_plain is not self._is_plain:
            self._is_plain = is_plain
            self._queue.use_methods(is_plain)

    def _add_lane(self, lane: Lane[T]) -> None:
        had_lanes = bool(self.lanes)
        super()._add_lane(lane)
        if not had_lanes:
            self._count_in_hand()

    def split(self) -> None:
        """There will be other entries than those of one job."""
        with self.lock:
            self._split()

    def close_lane(self, job: Job[T]) -> int:
        """Remove the entries of a job that is over; return how many there were."""
        with self.lock:
            count = self._close_lane(job)
            self._grant()
            self.wake_locked()
            if self.is_over:
                self._unpark_all()
            return count

    def requeue(self, entry: Entry[T]) -> None:
        """Take back an entry from a worker that was cancelled; it is handed out next."""
        with self.lock:
            self.requeue_locked(entry)

    def requeue_locked(self, entry: Entry[T]) -> None:
        """:meth:`requeue`, for a caller that holds the lock."""
        self._requeue(entry)
        self.wake_locked()

    def delay(self, entry: Entry[T], delay: float) -> bool:
        """Take an entry back, and hand it out again in ``delay`` seconds. With the lock held.

        Below 0: it has to wait for a limit.

        False: its job has ended since its attempt failed, and nobody wants it any more.
        """
        job = job_of(entry)
        if job is not None and job is not self._owner and job not in self.lanes:
            return False
        if delay < 0:
            self._put_back(entry)
            self.wake_locked()
            return True
        self._delay(entry, time.monotonic() + delay)
        if self.loop_waiters is not None:
            self.loop_waiters.set_due_timer()
        return True

    def promote_due(self) -> float | None:
        """Make the due entries available; return the seconds until the next is due, or None."""
        with self.lock:
            self._promote_due(time.monotonic())
            self.wake_locked()
            if self.is_over:
                self._unpark_all()
            return max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None

    def wake(self) -> None:
        """Wake workers for the entries that are available."""
        if self._waiters or self.loop_waiters is not None:
            with self.lock:
                self.wake_locked()

    def wake_threads(self) -> None:
        """:meth:`wake`, for the workers that are threads; most often none of those wait."""
        if self._waiters:
            self.wake()

    def wake_all(self) -> None:
        """Wake every worker that waits: there is other news than an entry."""
        with self.lock:
            self._unpark_all()

    def wake_locked(self) -> None:
        """:meth:`wake`, for a caller that holds the lock."""
        if self.limits.is_paused:
            return
        if not self.lanes and not self.limits.is_limited:
            self._unpark(len(self._main))
        else:
            self._unpark_kinds()

    def _unpark_kinds(self) -> None:
        """Wake those who wait for what they can take, each kind by itself."""
        for kind in (BY_HAND, THREAD):
            count = self.available(kind)
            waiting = [event for event, one in self._waiters.items() if one == kind]
            for event in waiting[:count]:
                del self._waiters[event]
                event.set()
        if self.loop_waiters is not None and self.available(TASK):
            self.loop_waiters.notify()

    def _unpark(self, count: int) -> None:
        if self.limits.is_limited:  # not just anybody is to be woken
            self.wake_locked()
            return
        while count > 0 and self._waiters:
            event, _ = self._waiters.popitem(last=False)
            event.set()
            count -= 1
        if count > 0 and self.loop_waiters is not None:
            self.loop_waiters.notify()

    def _unpark_all(self) -> None:
        for event in self._waiters:
            event.set()
        self._waiters.clear()
        if self.loop_waiters is not None:
            self.loop_waiters.notify(all_waiters=True)

    # -- pauses and limits --------------------------------------------------------------------

    def set_paused(self, is_paused: bool) -> bool:
        """Let nobody take an entry, or let them again; False if it is closed, and cannot pause."""
        with self.lock:
            if is_paused and self.closed:
                return False
            self._set_paused(is_paused)
            self.wake_locked()
            return True

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the queue, while there is one."""
        waiters = self.loop_waiters
        return None if waiters is None else waiters.loop

    @property
    def startable(self) -> int:
        """How many more entries workers would start by now, if no limit held them up; roughly."""
        if self.limits.is_paused:
            return 0
        waiters = self.loop_waiters
        idle = len(self._waiters) + (0 if waiters is None else waiters.count)
        return min(idle, self.ready)

    @property
    def guard(self) -> AbstractContextManager[Any]:
        """What keeps others away from the entries."""
        return self.lock

    def unpark(self, number: int) -> bool:
        """Let workers take a parked entry next; False if none comes for it."""
        with self.lock:
            is_free = self._hand_out(number)
            is_used = self._wake_one() and is_free
            if self.is_over:
                self._unpark_all()
            return is_used

    def hold(self) -> None:
        """Let workers take nothing, until :meth:`go_on`."""
        with self.lock:
            self._hold()

    def go_on(self) -> bool:
        """Let workers take entries again, one at a time; False if no worker comes for one."""
        with self.lock:
            self.limits.is_held = False
            return self._wake_one()

    def _wake_one(self) -> bool:
        """Wake workers for what is available; False if all are busy."""
        before = self._idle_threads
        self.wake_locked()
        waiters = self.loop_waiters
        return self._idle_threads < before or (waiters is not None and waiters.is_notified)

    @property
    def _idle_threads(self) -> int:
        return sum([kind == THREAD for kind in self._waiters.values()])

    def open(self) -> None:
        """Accept entries. To be called in the event loop of the workers."""
        self.limits.end()  # a thread that was given up may have come late
        with self.lock:
            self.loop_waiters = LoopWaiters(self)
            self.closed = self.limits.is_paused = False
            self._end_limited()
            self._promote_all()

    def close(self, *, drain: bool = True) -> None:
        """Accept no entry: tell every put that waits, and wake every worker that waits.

        ``drain``: what is left is to be taken, so a pause ends.
        """
        with self.lock:
            self.closed = True
            if drain:
                self._set_paused(False)
            while self._waiting_puts:
                put, _ = self._waiting_puts.popitem(last=False)
                put.outcome = PutOutcome.CLOSED
                put.set()
            self._unpark_all()

    def end(self) -> list[Job[T]]:
        """All workers have left a closed buffer: delayed entries wait for their time no longer.

        What is left belongs to no job any more. Returns the jobs that had entries.
        """
        self.limits.end()
        with self.lock:
            self._promote_all()
            jobs = self._merge_lanes()
            self.limits.is_paused = False
            self._end_limited()
            return jobs

    def forget_waiters(self) -> None:
        """The loop is gone: no worker waits in it any more."""
        self.loop_waiters = None
        self.limits.end()
        self.close()
