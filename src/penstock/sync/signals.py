"""Signals that stop something in threads: the first asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class SignalStop:
    """Until it is released, each of ``signals`` runs ``first()``, and the next one ``second()``.

    In threads of their own: a handler interrupts whatever the main thread does, in the middle of a
    call of the queue perhaps. Handlers that were there before come back when it is released, which
    it is by itself when ``first()`` has ended.
    """

    def __init__(
        self, signals: tuple[int, ...], first: Callable[[], Any], second: Callable[[], Any]
    ) -> None:
        self._calls = [first, second]
        self._is_released = False
        self._before: dict[int, Any] = {}
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)

    def release(self) -> bool:
        """Put the earlier handlers back, and return True, in the main thread.

        No other thread may: there it returns False, and they are put back with the next signal.
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
