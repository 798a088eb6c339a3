"""What waits in a queue that threads put into: the entries, the putters, and those who take.

The rules are those of ``penstock.queue.buffer``, for any number of threads:

* janus's queue is the one storage, and keeps the bound.
* First come, first served. A slot that falls free is filled there and then with the entry of the
  putter that has waited longest, by whoever made the room. Its thread only has to wake up and say
  so; it need not win a race for the slot, and no newcomer can get ahead of it.
* A putter is told by its own gate, a worker on the event loop by the loop: one call for however
  many entries come before the loop answers. janus's own waiting does neither, and a getter of its
  that is cancelled can lose a wake-up on Python 3.12 and older (cpython#112202).

Every change is made under one lock, which is never held while anybody waits.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import janus

from penstock.queue.store import EntryStore, PutOutcome
from penstock.sync.loop_side import LoopSide
from penstock.workers.item import Entry, Ticket

if TYPE_CHECKING:
    from penstock.sync.desks import Desk

T = TypeVar("T")

_ABSENT: Any = object()

#: Whether threads may run in the same instant: then none may touch the context that another is in.
_IS_FREE_THREADED = "free-threading" in sys.version


def _never() -> bool:
    return False


class _JanusStorage(janus.Queue["Entry[T]"]):
    """janus's queue, by the methods that it has for that, with its deque in the open."""

    entries: deque[Entry[T]]

    def _init(self, maxsize: int) -> None:
        self.entries = deque()

    def _qsize(self) -> int:
        return len(self.entries)

    def _put(self, item: Entry[T]) -> None:
        self.entries.append(item)

    def _get(self) -> Entry[T]:
        return self.entries.popleft()


class _Gate:
    """What one thread waits at, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Whether it was opened, in so many seconds."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))

    def open(self) -> None:
        self._lock.release()


class _WaitingPut(_Gate):
    """A put that waits, and what became of it."""

    __slots__ = ("context", "entry", "item", "outcome", "ticket")

    def __init__(self, item: Any, context: Context, ticket: Ticket | None) -> None:
        super().__init__()
        self.item = item
        self.context = context
        self.ticket = ticket
        self.entry: Entry[Any] | None = None
        self.outcome = PutOutcome.TIMED_OUT


class Bridge(EntryStore[T]):
    """The line of one queue, for threads and for one event loop at a time.

    Its two coroutine functions never suspend: they block the calling thread. So the code above
    them is the same as for a queue in one loop.
    """

    def __init__(self, maxsize: int) -> None:
        storage: _JanusStorage[T] = _JanusStorage(maxsize)
        super().__init__(maxsize, storage.entries)
        self.lock = threading.Lock()
        self._put_nowait = storage.sync_q.put_nowait
        self._get_nowait = storage.sync_q.get_nowait
        # Ordered dicts, for removal from the middle in constant time.
        self._waiting_puts: OrderedDict[_WaitingPut, None] = OrderedDict()
        self._waiters: OrderedDict[_Gate, None] = OrderedDict()
        #: Where workers in the event loop wait, while there is one.
        self.loop_side: LoopSide | None = None

    @property
    def putters(self) -> int:
        """How many puts wait for room."""
        return len(self._waiting_puts)

    @property
    def available(self) -> int:
        """How many entries there are to be taken."""
        return len(self.entries) + len(self._requeued)

    def snapshot(self) -> list[Entry[T]]:
        """The entries that are in nobody's hands, those given back first."""
        with self.lock:
            return super().snapshot()

    def discard(self, entries: Iterable[Entry[T]]) -> int:
        """Remove entries of a :meth:`snapshot`; return how many nobody had taken since."""
        with self.lock:
            count = self._remove(entries)
            self._grant()
            return count

    # -- putting ------------------------------------------------------------------------------

    def offer(self, item: T, ticket: Ticket | None = None, context: Context | None = None) -> bool:
        """Take the item in if there is room. Putters that wait imply that there is none.

        ``context`` is the one that the item shall run in; a copy of the caller's by default.
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
        size = len(self.entries)
        self.peak = max(self.peak, size)
        self._unpark(1)
        return entry

    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> PutOutcome:
        """Block until there is a slot, at most ``timeout`` seconds, and fill it as :meth:`offer`.

        A KeyboardInterrupt leaves nothing behind, unless a worker has the item in hand already.
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
        """Fill the slots that fell free for the putters that have waited longest."""
        while self._waiting_puts and len(self.entries) < self.room:
            put, _ = self._waiting_puts.popitem(last=False)
            put.entry = self._admit(put.item, put.context, put.ticket)
            put.outcome = PutOutcome.ACCEPTED
            put.open()

    def _withdraw(self, put: _WaitingPut) -> None:
        with self.lock:
            self._waiting_puts.pop(put, None)
            if put.entry is not None and put.entry in self.entries:
                self.entries.remove(put.entry)
                self._withdrawn += 1
                self._grant()

    # -- taking -------------------------------------------------------------------------------

    def take(self, desk: Desk[T] | None = None) -> Entry[T] | None:
        """The next entry, or None. Whose ``desk`` it is on now is noted in the same instant."""
        with self.lock:
            if desk is not None and desk.is_lost:
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
            if desk is not None:
                desk.entry = entry
                desk.taken += 1
                if _IS_FREE_THREADED:
                    # The worker gets a context of its own. To copy one while a thread sets
                    # variables in it crashes the interpreter, and the item may be taken back.
                    number, item, context, ticket = entry
                    return number, item, context.copy(), ticket
            return entry

    async def wait(
        self, timeout: float | None = None, is_retired: Callable[[], bool] = _never
    ) -> bool:
        """Block until a look is worth it; False when it is over, or after ``timeout`` seconds.

        ``is_retired`` is asked at the last moment: whoever retires a worker wakes it up after that,
        if it waits by then.
        """
        gate = _Gate()
        try:
            with self.lock:
                if is_retired():
                    return True
                if self.available or self.is_over:
                    return bool(self.available)
                self._waiters[gate] = None
            if gate.wait(timeout):
                return True
            with self.lock:
                return self._waiters.pop(gate, _ABSENT) is _ABSENT  # called at the last moment
        except BaseException:
            with self.lock:
                if self._waiters.pop(gate, _ABSENT) is _ABSENT:
                    self._unpark(self.available)  # somebody else must go where this one was called
            raise

    def requeue(self, entry: Entry[T]) -> None:
        """Take back an entry from a worker that was cancelled; it is the next to be taken."""
        with self.lock:
            self.keep(entry)

    def keep(self, entry: Entry[T]) -> None:
        """The same, with the lock held."""
        self._requeue(entry)
        self._unpark(1)

    def delay(self, entry: Entry[T], delay: float) -> None:
        """With the lock held: take an entry back, and hand it out again in ``delay`` seconds."""
        self._delay(entry, time.monotonic() + delay)
        if self.loop_side is not None:
            self.loop_side.set_due_timer()

    def promote_due(self) -> float | None:
        """Hand out what is due; return in how many seconds the next one is, if there is one."""
        with self.lock:
            self._promote_due(time.monotonic())
            self._unpark(self.available)
            if self.is_over:
                self._unpark_all()
            return max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None

    def wake(self) -> None:
        """Call those who wait to the entries that are there."""
        if self.available and (self._waiters or self.loop_side is not None):
            with self.lock:
                self._unpark(self.available)

    def wake_threads(self) -> None:
        """Call those of them that are threads; most often there are none."""
        if self._waiters:
            self.wake()

    def wake_all(self) -> None:
        """Let everyone who waits look around."""
        with self.lock:
            self._unpark_all()

    def _unpark(self, count: int) -> None:
        while count > 0 and self._waiters:
            gate, _ = self._waiters.popitem(last=False)
            gate.open()
            count -= 1
        if count > 0 and self.loop_side is not None:
            self.loop_side.ring()

    def _unpark_all(self) -> None:
        self._unpark(len(self._waiters))
        if self.loop_side is not None:
            self.loop_side.ring(for_all=True)

    # -- opening and closing ------------------------------------------------------------------

    def open(self) -> None:
        """Let entries in. To be called in the event loop of the workers."""
        with self.lock:
            self.loop_side = LoopSide(self)
            self.closed = False
            self._promote_due(math.inf)

    def close(self) -> None:
        """Let no entry in: every putter that waits is told so, and every taker looks around."""
        with self.lock:
            self.closed = True
            while self._waiting_puts:
                put, _ = self._waiting_puts.popitem(last=False)
                put.outcome = PutOutcome.CLOSED
                put.open()
            self._unpark_all()

    def end(self) -> None:
        """All workers have left a closed line: nothing more is to happen by itself."""
        with self.lock:
            self._promote_due(math.inf)

    def forget_waiters(self) -> None:
        """The loop is gone: nobody waits in it any more."""
        self.loop_side = None
        self.close()
