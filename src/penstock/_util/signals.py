"""Signals that stop something, in a loop or in threads: the first gently, the second at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from penstock._util import checks


class LoopSignalHandlers:
    """Handlers for ``signals``: the first signal runs ``first()``, the next one ``second()``.

    Both run as tasks of the event loop that is running now. When ``first()`` has ended, or by
    :meth:`restore`, the handlers that were installed before come back.
    """

    def __init__(
        self,
        signals: tuple[int, ...],
        first: Callable[[], Coroutine[Any, Any, Any]],
        second: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = first
        self._second = second
        self._tasks: list[asyncio.Task[Any]] = []
        self._previous: dict[int, Any] = {}
        # signal.signal and not loop.add_signal_handler: that one forgets the previous handler
        # (for example asyncio's own of Ctrl-C), and does not exist on Windows.
        for number in signals:
            self._previous[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Install the previous handlers again."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # This runs between two instructions of the main thread, whatever it is doing. So it leaves
        # the work to the loop.
        if self._loop.is_closed():
            self.restore()
            signal.raise_signal(number)
        else:
            self._loop.call_soon_threadsafe(self._run_next)

    def _run_next(self) -> None:
        if not self._tasks:
            self._tasks.append(self._loop.create_task(self._run_first()))
        elif len(self._tasks) == 1:
            self._tasks.append(self._loop.create_task(self._second()))

    async def _run_first(self) -> None:
        try:
            await self._first()
        finally:
            self.restore()


class ThreadSignalHandlers:
    """As :class:`LoopSignalHandlers`, for functions that block: each runs in its own thread.

    (A signal handler interrupts the main thread, perhaps in the middle of a call of the queue.)
    The caller of ``first()`` calls :meth:`restore` when it has ended.
    """

    def __init__(
        self, signals: tuple[int, ...], first: Callable[[], object], second: Callable[[], object]
    ) -> None:
        self._calls = [first, second]
        self._is_restored = False
        self._before: dict[int, Any] = {}
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)

    def restore(self) -> bool:
        """Install the earlier handlers again and return True, in the main thread.

        Another thread must not do that: there it returns False, and the next signal does it.
        """
        self._is_restored = True
        if threading.current_thread() is not threading.main_thread():
            return False
        self._put_back()
        return True

    def _put_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_restored:
            self._put_back()
            signal.raise_signal(number)
        elif self._calls:
            threading.Thread(target=self._calls.pop(0), name="penstock-signal", daemon=True).start()


def check_signals(signals: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for what is no signal that can be caught, or outside the main thread."""
    uncatchable = {getattr(signal, name, None) for name in ("SIGKILL", "SIGSTOP")}
    for number in signals:
        is_int = isinstance(number, int) and not isinstance(number, bool)
        if not is_int or number not in set(signal.Signals) - uncatchable:
            raise ValueError(f"signals must be ones that can be caught, got {checks.shown(number)}")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be caught in the main thread only")
