"""What one needs to test code that uses penstock: an event loop whose time is virtual."""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from penstock.errors import PenstockError

T = TypeVar("T")


class DeadlockError(PenstockError, RuntimeError):
    """Every task waits for another, and no timer, thread or socket can ever wake one of them."""

    def __init__(
        self, message: str = "every task waits, and nothing is left that could wake one"
    ) -> None:
        super().__init__(message)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: when nothing is ready, its clock moves to the next timer.

    ``asyncio.sleep(3600)`` takes no time, timeouts come in their exact order, and a test cannot
    hang: when nothing can happen any more, the loop raises ``DeadlockError``. The clock stands
    still while a function runs in a thread (``run_in_executor``, ``to_thread``, plain worker
    functions). It follows real time while a socket is open, so that timers do not come too early.

    Use it as ``asyncio.Runner(loop_factory=VirtualTimeLoop)``, or :func:`run`, or as the loop
    factory of your test framework.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._in_threads = 0
        super().__init__(_VirtualTimeSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run ``func`` as any loop does. The clock stands still until it has returned."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._left_thread)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """Join the threads as any loop does: in a thread of its own."""
        self._in_threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._in_threads -= 1

    def _next_timer(self) -> float:
        timers: list[asyncio.TimerHandle] = getattr(self, "_scheduled")  # noqa: B009
        return timers[0].when()

    def _advance(self, seconds: float) -> None:
        self._now += seconds
        # A timer fires when its time is before now plus this; with the resolution of a real clock
        # the sum is now itself, late enough, and the timer never fires.
        self._clock_resolution = max(1e-9, math.ulp(self._now))

    def _left_thread(self, future: asyncio.Future[Any]) -> None:
        self._in_threads -= 1


class _VirtualTimeSelector(selectors.DefaultSelector):
    """Instead of sleeping, moves the clock of its loop."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self._loop._in_threads:
            return super().select(timeout)  # a thread that has ended wakes the loop
        if len(self.get_map()) > 1:  # one file is the loop's own: threads wake it by that
            return self._select_in_real_time(timeout)
        events = super().select(0)
        if events:
            return events
        if timeout is None or self._loop._next_timer() == math.inf:
            raise DeadlockError
        self._loop._advance(timeout)
        return events

    def _select_in_real_time(
        self, timeout: float | None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        events = super().select(timeout)
        passed = time.monotonic() - began
        self._loop._advance(passed if events or timeout is None else max(passed, timeout))
        return events


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run(main)`` in virtual time."""
    loop = VirtualTimeLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
