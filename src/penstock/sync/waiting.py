"""Who waits for a queue for threads: puts and workers in threads, and workers in its event loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol

from penstock._util.wait_queue import WaitQueue
from penstock.queue.entry_buffer import PutOutcome
from penstock.workers.item import Entry, Ticket
from penstock.workers.turn import LoopTurn

#: Entries that workers take, one after the other, before the loop sees to everything else. Threads
#: can fill a queue as fast as workers empty it, and workers that never wait would never let go.
ENTRIES_PER_TURN = 32

#: The kinds of those who wait: workers that are tasks or threads, and callers of ``get``.
TASK, THREAD, BY_HAND = 0, 1, 2


class OneShotEvent:
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
        """Let the thread go on."""
        self._lock.release()


class WaitingPut(OneShotEvent):
    """A put that waits for room, and its outcome."""

    __slots__ = ("context", "entry", "item", "outcome", "rank", "ticket")

    #: Its place among those that wait, in a queue with an order.
    rank: Any

    def __init__(self, item: Any, context: Context, ticket: Ticket | None) -> None:
        super().__init__()
        self.item = item
        self.context = context
        self.ticket = ticket
        self.entry: Entry[Any] | None = None
        self.outcome = PutOutcome.TIMED_OUT


class SharedEntries(Protocol):
    """What those who wait in the event loop need of the buffer, which documents each member."""

    lock: threading.RLock
    closed: bool

    @property
    def is_over(self) -> bool:
        """Whether no entry will ever come for a worker that finds none."""
        ...

    def available(self, kind: int) -> int:
        """The number of entries that a thread or task of a kind can take."""
        ...

    def promote_due(self) -> float | None:
        """Make the due entries available; return the seconds until the next is due, or None."""
        ...


class LoopWaiters(WaitQueue):
    """The workers that wait in the running event loop, and how other threads notify them."""

    def __init__(self, buffer: SharedEntries) -> None:
        super().__init__()
        self._buffer = buffer
        self.loop = asyncio.get_running_loop()
        #: Whether the loop is about to wake those who wait.
        self.is_notified = False
        self._for_all = False
        self._entries_left = ENTRIES_PER_TURN
        self.turn = LoopTurn()
        self.turn.begin_in(self.loop)
        self._due_timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._waiters)

    def notify(self, *, all_waiters: bool = False) -> None:
        """Have the loop wake those who wait. From any thread, with the buffer's lock held."""
        self._for_all |= all_waiters
        if self._waiters and not self.is_notified:  # until the loop answers, one call is enough
            self.is_notified = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits in it
                self.loop.call_soon_threadsafe(self._on_notify)

    def set_due_timer(self) -> None:
        """There is one more delayed entry: have the loop set its timer anew. As ``notify``."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._promote_due)

    def _on_notify(self) -> None:
        with self._buffer.lock:
            for_all, self._for_all, self.is_notified = self._for_all, False, False
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
            self._due_timer = self.loop.call_later(delay, self._promote_due)

    def _available(self) -> int:
        return self._buffer.available(TASK)

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
            is_news = buffer.available(TASK) > 0
            is_over = buffer.is_over
        if is_news or is_over:
            self._waiters.pop(waiter, None)
            return is_news
        return await self._park(waiter)
