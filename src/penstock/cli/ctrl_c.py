"""What Ctrl-C and other signals do while a command goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call(signal)`` in the loop on the first two signals; the third ends the program.

    They are Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal is closed.
    """
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def react(number: int, frame: FrameType | None) -> None:
        if len(seen) > 1:
            raise KeyboardInterrupt
        seen.append(number)
        loop.call_soon_threadsafe(call, number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # under nohup it is
        numbers.append(hangup)
    before = {number: signal.signal(number, react) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
