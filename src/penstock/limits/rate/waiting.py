"""How those who wait are woken: tasks in their event loop, threads wherever they are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable

from penstock.limits.rate.line import Needs, Waiter

#: No timer is set for longer; it just rings once more.
LONGEST = 86_400.0


class LoopWaiter(Waiter):
    """A task that waits in an event loop."""

    __slots__ = ("future", "loop")

    def __init__(self, needs: Needs, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(needs)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def renew(self) -> None:
        """It looked, and waits on."""
        if self.future.done():
            self.future = self.loop.create_future()

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Let it look at what became of it; False when its loop is closed."""
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


class ThreadWaiter(Waiter):
    """A thread that waits."""

    __slots__ = ("signal", "until")

    def __init__(self, needs: Needs) -> None:
        super().__init__(needs)
        self.signal = threading.Event()
        #: When it looks by itself.
        self.until = math.inf

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Let it look at what became of it."""
        self.signal.set()
        return True


class Alarm:
    """The one timer of an event loop in which somebody waits."""

    __slots__ = ("_asked", "_handle", "_ring", "loop", "waiters", "when")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[Alarm], None]) -> None:
        self.loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._asked = False
        #: When it rings.
        self.when = math.inf
        #: Those of this loop that wait, or were let through and have not noticed yet.
        self.waiters: set[LoopWaiter] = set()

    def set(self, now: float, when: float) -> None:
        """Ring at ``when``; to be called in its loop."""
        self.cancel()
        if when < math.inf:
            self.when = when
            delay = min(max(0.0, when - now), LONGEST)
            self._handle = self.loop.call_later(delay, self._rings)

    def set_soon(self) -> None:
        """Have it set anew in its loop, from elsewhere. Once: a loop that stalls is not flooded."""
        if not self._asked:
            self._asked = True
            with contextlib.suppress(RuntimeError):  # in a closed loop nobody waits any more
                self.loop.call_soon_threadsafe(self._answers)

    def cancel(self) -> None:
        """Do not ring; to be called in its loop."""
        self.when = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rings(self) -> None:
        self._handle = None
        self.when = math.inf
        self._ring(self)

    def _answers(self) -> None:
        self._asked = False
        self._ring(self)
