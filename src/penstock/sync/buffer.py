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
import math
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

import janus

from penstock._util.wait_queue import WaitQueue
from penstock.queue.store import EntryStore, PutOutcome
from penstock.workers.item import Entry, Ticket

T = TypeVar("T")

#: Entries that workers take, one after the other, before the loop sees to everything else. Threads
#: can fill a queue as fast as workers empty it, and workers that never wait would never let go.
ENTRIES_PER_TURN = 32

_ABSENT: Any = object()

#: Whether threads may run in the same instant: then none may touch the context that another is in.
_IS_FREE_THREADED = "free-threading" in sys.version


def _never() -> bool:
    return False


class _JanusQueue(janus.Queue["Entry[T]"]):
    """A janus queue whose deque is public, by the methods that janus has for subclasses."""

    entries: deque[Entry[T]]

    def _init(self, maxsize: int) -> None:
        self.entries = deque()

    def _qsize(self) -> int:
        return len(self.entries)

    def _put(self, item: Entry[T]) -> None:
        self.entries.append(item)

    def _get(self) -> Entry[T]:
        return self.entries.popleft()


class _OneShotEvent:
    """An event that one thread waits for, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds; return whether the event was set."""
        return self._lock.acquire(
            timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        )

    def set(self) -> None:
        self._lock.release()


class _WaitingPut(_OneShotEvent):
    """A put that waits for room, and its outcome."""

    __slots__ = ("context", "entry", "item", "outcome", "ticket")

    def __init__(self, item: Any, context: Context, ticket: Ticket | None) -> None:
        super().__init__()
        self.item = item
        self.context = context
        self.ticket = ticket
        self.entry: Entry[Any] | None = None
        self.outcome = PutOutcome.TIMED_OUT


class EntryHolder(Protocol[T]):
    """A worker's slot, as far as the buffer writes to it, under its lock."""

    #: The entry that the worker took last, and how many it took.
    entry: Entry[T] | None
    taken: int
    #: Whether the worker may take no more.
    is_revoked: bool


class JanusBuffer(EntryStore[T]):
    """The entries of one queue, for threads and for one event loop at a time.

    Its two coroutine functions never suspend: they block the calling thread. So the code above
    them is the same as for a queue in one loop.
    """

    def __init__(self, maxsize: int) -> None:
        queue: _JanusQueue[T] = _JanusQueue(maxsize)
        super().__init__(maxsize, queue.entries)
        self.lock = threading.Lock()
        self._put_nowait = queue.sync_q.put_nowait
        self._get_nowait = queue.sync_q.get_nowait
        # Ordered dicts, for removal from the middle in constant time.
        self._waiting_puts: OrderedDict[_WaitingPut, None] = OrderedDict()
        self._waiters: OrderedDict[_OneShotEvent, None] = OrderedDict()
        #: The workers that wait in the event loop, while there is a loop.
        self.loop_waiters: LoopWaiters | None = None

    @property
    def putters(self) -> int:
        """The number of puts that wait for room."""
        return len(self._waiting_puts)

    @property
    def available(self) -> int:
        """The number of entries that can be taken."""
        return len(self.entries) + len(self._requeued)

    def is_drained(self) -> bool:
        """Whether it is closed, and no entry is left that could be taken, now or later."""
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

    def offer(self, item: T, ticket: Ticket | None = None, context: Context | None = None) -> bool:
        """Accept the item if there is room. (While puts wait for room, there is none.)

        ``context`` is the one that the item will run in; a copy of the caller's by default.
        """
        if context is None:  # an empty one is false
            context = copy_context()
        with self.lock:
            if len(self.entries) >= self.room or self.closed:
                return False
            self._admit(item, context, ticket)
            return True

    def _admit(self, item: T, context: Context, ticket: Ticket | None) -> Entry[T]:
        self._last_number = number = self._last_number + 1
        entry: Entry[T] = (number, item, context, ticket)
        self._put_nowait(entry)
        self.peak = max(self.peak, len(self.entries))
        self._unpark(1)
        return entry

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
        put = _WaitingPut(item, copy_context() if context is None else context, ticket)
        try:
            with self.lock:
                if self.closed:
                    return PutOutcome.CLOSED
                self._waiting_puts[put] = None
                self._grant()  # there may be room since the caller looked
            if not put.wait(timeout):
                with self.lock:
                    self._waiting_puts.pop(put, None)
            return put.outcome
        except BaseException:
            self._withdraw(put)
            raise

    def _grant(self) -> None:
        """Fill the room that there is with the entries of the puts that have waited longest."""
        while self._waiting_puts and len(self.entries) < self.room:
            put, _ = self._waiting_puts.popitem(last=False)
            put.entry = self._admit(put.item, put.context, put.ticket)
            put.outcome = PutOutcome.ACCEPTED
            put.set()

    def _withdraw(self, put: _WaitingPut) -> None:
        with self.lock:
            self._waiting_puts.pop(put, None)
            if put.entry is not None and put.entry in self.entries:
                self.entries.remove(put.entry)
                self._withdrawn += 1
                self._grant()

    def take(self, holder: EntryHolder[T] | None = None) -> Entry[T] | None:
        """The next entry, or None. ``holder`` gets to know it under the same lock."""
        with self.lock:
            if holder is not None and holder.is_revoked:
                return None
            if self._requeued:
                entry = self._take_requeued()
                self._grant()
            elif self.entries:
                entry = self._get_nowait()
                if self._waiting_puts:
                    self._grant()
            else:
                return None
            if holder is not None:
                holder.entry = entry
                holder.taken += 1
                if _IS_FREE_THREADED:
                    # The worker gets a copy of the context. To reclaim the entry is to copy the
                    # original, which crashes the interpreter if a thread sets variables in it.
                    number, item, context, ticket = entry
                    return number, item, context.copy(), ticket
            return entry

    async def wait(
        self, timeout: float | None = None, is_retired: Callable[[], bool] = _never
    ) -> bool:
        """Block until there may be an entry to take; False at the end or after ``timeout`` seconds.

        ``is_retired`` is asked under the lock: whoever retires a worker wakes those that wait
        after that, and so this worker does not wait, or is among them.
        """
        event = _OneShotEvent()
        try:
            with self.lock:
                if is_retired():
                    return True
                if self.available or self.is_over:
                    return bool(self.available)
                self._waiters[event] = None
            if event.wait(timeout):
                return True
            with self.lock:
                return self._waiters.pop(event, _ABSENT) is _ABSENT  # called in that very moment
        except BaseException:
            with self.lock:
                if self._waiters.pop(event, _ABSENT) is _ABSENT:
                    self._unpark(self.available)  # this one was called: call another one
            raise

    def requeue(self, entry: Entry[T]) -> None:
        """Take back an entry from a worker that was cancelled; it is handed out next."""
        with self.lock:
            self.requeue_locked(entry)

    def requeue_locked(self, entry: Entry[T]) -> None:
        """:meth:`requeue`, for a caller that holds the lock."""
        self._requeue(entry)
        self._unpark(1)

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Take an entry back, and hand it out again in ``delay`` seconds. With the lock held."""
        self._delay(entry, time.monotonic() + delay)
        if self.loop_waiters is not None:
            self.loop_waiters.set_due_timer()

    def promote_due(self) -> float | None:
        """Make the due entries available; return the seconds until the next is due, or None."""
        with self.lock:
            self._promote_due(time.monotonic())
            self._unpark(self.available)
            if self.is_over:
                self._unpark_all()
            return max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None

    def wake(self) -> None:
        """Wake workers for the entries that are available."""
        if self.available and (self._waiters or self.loop_waiters is not None):
            with self.lock:
                self._unpark(self.available)

    def wake_threads(self) -> None:
        """:meth:`wake`, for the workers that are threads; most often none of those wait."""
        if self._waiters:
            self.wake()

    def wake_all(self) -> None:
        """Wake every worker that waits: there is other news than an entry."""
        with self.lock:
            self._unpark_all()

    def _unpark(self, count: int) -> None:
        while count > 0 and self._waiters:
            event, _ = self._waiters.popitem(last=False)
            event.set()
            count -= 1
        if count > 0 and self.loop_waiters is not None:
            self.loop_waiters.notify()

    def _unpark_all(self) -> None:
        self._unpark(len(self._waiters))
        if self.loop_waiters is not None:
            self.loop_waiters.notify(all_waiters=True)

    def open(self) -> None:
        """Accept entries. To be called in the event loop of the workers."""
        with self.lock:
            self.loop_waiters = LoopWaiters(self)
            self.closed = False
            self._promote_due(math.inf)

    def close(self) -> None:
        """Accept no entry: tell every put that waits, and wake every worker that waits."""
        with self.lock:
            self.closed = True
            while self._waiting_puts:
                put, _ = self._waiting_puts.popitem(last=False)
                put.outcome = PutOutcome.CLOSED
                put.set()
            self._unpark_all()

    def end(self) -> None:
        """All workers have left a closed buffer: delayed entries wait for their time no longer."""
        with self.lock:
            self._promote_due(math.inf)

    def forget_waiters(self) -> None:
        """The loop is gone: no worker waits in it any more."""
        self.loop_waiters = None
        self.close()


class LoopWaiters(WaitQueue):
    """The workers that wait in the running event loop, and how other threads notify them."""

    def __init__(self, buffer: JanusBuffer[Any]) -> None:
        super().__init__()
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._is_notified = False
        self._for_all = False
        self._entries_left = ENTRIES_PER_TURN
        self._due_timer: asyncio.TimerHandle | None = None

    def notify(self, *, all_waiters: bool = False) -> None:
        """Have the loop wake those who wait. From any thread, with the buffer's lock held."""
        self._for_all |= all_waiters
        if self._waiters and not self._is_notified:  # until the loop answers, one call is enough
            self._is_notified = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits in it
                self._loop.call_soon_threadsafe(self._on_notify)

    def set_due_timer(self) -> None:
        """There is one more delayed entry: have the loop set its timer anew. As ``notify``."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._promote_due)

    def _on_notify(self) -> None:
        with self._buffer.lock:
            for_all, self._for_all, self._is_notified = self._for_all, False, False
        if for_all:
            self.wake_all()
        else:
            self.wake()

    def _promote_due(self) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        delay = self._buffer.promote_due()
        if delay is not None:
            self._due_timer = self._loop.call_later(delay, self._promote_due)

    def _available(self) -> int:
        return self._buffer.available

    def may_take(self) -> bool:
        """Whether a worker may take one more entry in this turn of the loop."""
        self._entries_left -= 1
        return self._entries_left >= 0

    async def wait(self) -> bool:
        """Wait until there may be an entry to take; False when none will ever come."""
        if self._entries_left < 0:
            await asyncio.sleep(0)
            self._entries_left = ENTRIES_PER_TURN
            return True
        buffer = self._buffer
        waiter = self._add_waiter()
        with buffer.lock:  # whatever came before this did not see the waiter
            is_news = buffer.available > 0
            is_over = buffer.is_over
        if is_news or is_over:
            self._waiters.pop(waiter, None)
            return is_news
        return await self._park(waiter)
