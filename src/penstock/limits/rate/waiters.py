"""How waiters are woken: tasks in their event loop, threads wherever they are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from penstock.limits.rate.window import Demand, Starts, Waiter

#: Seconds: no timer is set for longer; it is set again then.
LONGEST = 86_400.0


class LoopWaiter(Waiter):
    """A task that waits in an event loop."""

    __slots__ = ("future", "loop")

    def __init__(self, demand: Demand, loop: asyncio.AbstractEventLoop, outer: Starts = ()) -> None:
        super().__init__(demand, outer)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def renew(self) -> None:
        """Make a new future, because the task waits once more."""
        if self.future.done():
            self.future = self.loop.create_future()

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Wake the task; False if its loop is closed."""
        if self.loop is running:
            self._resolve()
            return True
        try:
            self.loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            return False
        return True

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class CallbackWaiter(LoopWaiter):
    """A place in the order of those who wait, while no task or thread waits there.

    When the call may start, or never will, the loop calls ``callback(waiter)``. Then the limiter's
    ``_start`` has it start; what nobody starts is to be given back by ``_abandon``.

    Args:
        demand, outer: as for any waiter.
        loop: where the callback is called.
        callback: gets this waiter.
        count: says how many calls wait here by now, one after the other; from any thread.
        charges: what the permit of the call is to know.
        owner: for whom it is, if it is not for any call.
        since: when it began to wait.
    """

    __slots__ = ("_callback", "_count", "charges", "is_for_several", "owner", "since")

    def __init__(
        self,
        demand: Demand,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[CallbackWaiter], None],
        *,
        outer: Starts = (),
        count: Callable[[], int] | None = None,
        charges: Any = None,
        owner: object = None,
        since: float = 0.0,
    ) -> None:
        Waiter.__init__(self, demand, outer)
        self.is_for_several = count is not None
        self._count = count
        self.loop = loop
        self._callback = callback
        self.charges = charges
        self.owner = owner
        self.since = since

    @property
    def calls(self) -> int:
        """How many calls wait here."""
        return 1 if self._count is None else max(1, self._count())

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Have the loop call back; False if the loop is closed."""
        # Never at once: whoever wakes has the limiter's lock.
        call = self.loop.call_soon if self.loop is running else self.loop.call_soon_threadsafe
        try:
            call(self._callback, self, context=Context())
        except RuntimeError:
            return False
        return True


class ThreadWaiter(Waiter):
    """A thread that waits."""

    __slots__ = ("signal", "wakes_at")

    def __init__(self, demand: Demand, outer: Starts = ()) -> None:
        super().__init__(demand, outer)
        self.signal = threading.Event()
        #: When the thread wakes up by itself; ``math.inf`` if it does not watch the time.
        self.wakes_at = math.inf

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Wake the thread."""
        self.signal.set()
        return True


class LoopTimer:
    """The one timer of an event loop in which tasks wait."""

    __slots__ = ("_callback", "_handle", "_is_requested", "loop", "waiters", "when")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[LoopTimer], None]
    ) -> None:
        self.loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._is_requested = False
        #: When it calls back.
        self.when = math.inf
        #: Tasks of this loop that wait, or that may start and have not woken up yet.
        self.waiters: set[LoopWaiter] = set()

    def set(self, now: float, when: float) -> None:
        """Call back at ``when``. To be called in its loop."""
        self.cancel()
        if when < math.inf:
            self.when = when
            delay = min(max(0.0, when - now), LONGEST)
            self._handle = self.loop.call_later(delay, self._on_time)

    def request(self) -> None:
        """Let the loop call back as soon as it can. From any thread.

        Until the loop does, more requests add nothing: a loop that stalls is not flooded.
        """
        if not self._is_requested:
            self._is_requested = True
            with contextlib.suppress(RuntimeError):  # in a closed loop no task waits any more
                self.loop.call_soon_threadsafe(self._on_request)

    def cancel(self) -> None:
        """Do not call back. To be called in its loop."""
        self.when = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_time(self) -> None:
        self._handle = None
        self.when = math.inf
        self._callback(self)

    def _on_request(self) -> None:
        self._is_requested = False
        self._callback(self)


class Wakeups:
    """Sees to it that somebody looks when the next waiter may start.

    Each event loop in which tasks wait has a timer; of the threads that wait, the first watches the
    time. So no waiter depends on another loop or thread, which may stall. The limiter's lock must
    be held.
    """

    __slots__ = ("abandoned", "threads", "timers")

    def __init__(self) -> None:
        self.timers: dict[asyncio.AbstractEventLoop, LoopTimer] = {}
        self.threads: dict[ThreadWaiter, None] = {}
        #: Waiters whose tasks were destroyed. May be appended to without the lock.
        self.abandoned: deque[LoopWaiter] = deque()

    def add(self, waiter: LoopWaiter | ThreadWaiter, callback: Callable[[LoopTimer], None]) -> None:
        """Wake ``waiter`` when it may start. ``callback`` is called in its loop by the timer."""
        if isinstance(waiter, LoopWaiter):
            timer = self.timers.get(waiter.loop)
            if timer is None:
                timer = self.timers[waiter.loop] = LoopTimer(waiter.loop, callback)
            timer.waiters.add(waiter)
        else:
            self.threads[waiter] = None

    def remove(
        self, waiter: LoopWaiter | ThreadWaiter, running: asyncio.AbstractEventLoop | None
    ) -> None:
        """``waiter`` waits no longer. ``running`` is the event loop of this thread."""
        if isinstance(waiter, LoopWaiter):
            timer = self.timers.get(waiter.loop)
            if timer is not None:
                timer.waiters.discard(waiter)
                if not timer.waiters and waiter.loop is running:
                    timer.cancel()
                    del self.timers[waiter.loop]
        else:
            self.threads.pop(waiter, None)
            for first in self.threads:
                first.signal.set()  # it may have to watch the time from now on
                break

    def drop_unused(self, timer: LoopTimer) -> None:
        """Drop ``timer`` if no task waits for it. To be called in its loop."""
        if not timer.waiters:
            timer.cancel()
            if self.timers.get(timer.loop) is timer:  # a late call may come from an older timer
                del self.timers[timer.loop]

    def take_dead(self, running: asyncio.AbstractEventLoop | None) -> list[LoopWaiter]:
        """Remove the waiters of closed event loops and destroyed tasks, and return them."""
        dead: list[LoopWaiter] = []
        for loop in [*self.timers]:
            if loop.is_closed():
                dead += self.timers.pop(loop).waiters
        while self.abandoned:
            waiter = self.abandoned.popleft()
            self.remove(waiter, running)
            dead.append(waiter)
        return dead

    def look_again(self) -> None:
        """Let those who wait look again as soon as they can. Needs no lock."""
        for timer in [*self.timers.values()]:
            timer.request()
        for waiter in [*self.threads]:
            waiter.signal.set()

    def schedule(self, now: float, when: float, running: asyncio.AbstractEventLoop | None) -> None:
        """Let all loops, and the first thread, look again at ``when`` at the latest."""
        for timer in self.timers.values():
            if when < timer.when:
                if timer.loop is running:
                    timer.set(now, when)
                else:
                    timer.request()
        for waiter in self.threads:
            if when < waiter.wakes_at:
                waiter.signal.set()
            break

    def watches_time(self, waiter: ThreadWaiter) -> bool:
        """Whether ``waiter`` is the thread that wakes up in time for the next start."""
        return next(iter(self.threads)) is waiter
