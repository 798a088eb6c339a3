"""Signals that stop something, in a loop or in threads: the first asks, the second insists."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from penstock._util import checks


class SignalStop:
    """Until it is released, each of ``signals`` runs ``first()``, and the next one ``second()``.

    Both run in the running event loop. Handlers that were there before come back when it is
    released, which it is by itself when ``first()`` has ended.
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
        self._before: dict[int, Any] = {}
        # signal.signal and not loop.add_signal_handler, which would forget what was there before
        # (asyncio's own handling of Ctrl-C, for one) and does not exist on Windows.
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)

    def release(self) -> None:
        """Put the earlier handlers back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Runs between two instructions of whatever the main thread does: leave it to the loop.
        if self._loop.is_closed():
            self.release()
            signal.raise_signal(number)
        else:
            self._loop.call_soon_threadsafe(self._react)

    def _react(self) -> None:
        if not self._tasks:
            self._tasks.append(self._loop.create_task(self._stop()))
        elif len(self._tasks) == 1:
            self._tasks.append(self._loop.create_task(self._second()))

    async def _stop(self) -> None:
        try:
            await self._first()
        finally:
            self.release()


class BlockingSignalStop:
    """As :class:`SignalStop`, for functions that block: each runs in a thread of its own.

    (A handler interrupts whatever the main thread does, in the middle of a call of the queue
    perhaps.) Whoever calls ``first()`` calls :meth:`release` when it has ended.
    """

    def __init__(
        self, signals: tuple[int, ...], first: Callable[[], object], second: Callable[[], object]
    ) -> None:
        self._calls = [first, second]
        self._is_released = False
        self._before: dict[int, Any] = {}
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)

    def release(self) -> bool:
        """Put the earlier handlers back, and return True, in the main thread.

        In another thread, which must not do that, return False: then the next signal puts them
        back.
        """
        self._is_released = True
        if threading.current_thread() is not threading.main_thread():
            return False
        self._put_back()
        return True

    def _put_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_released:
            self._put_back()
            signal.raise_signal(number)
        elif self._calls:
            threading.Thread(target=self._calls.pop(0), name="penstock-signal", daemon=True).start()


def check_signals(signals: tuple[int, ...]) -> None:
    """Refuse what is no signal, one that nobody can catch, and the wrong thread to catch it in."""
    uncatchable = {getattr(signal, name, None) for name in ("SIGKILL", "SIGSTOP")}
    for number in signals:
        is_int = isinstance(number, int) and not isinstance(number, bool)
        if not is_int or number not in set(signal.Signals) - uncatchable:
            raise ValueError(f"signals must be ones that can be caught, got {checks.shown(number)}")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be caught in the main thread only")
