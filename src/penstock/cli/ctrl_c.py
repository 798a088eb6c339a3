"""What Ctrl-C does while a run goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call(signal)`` in the loop on the first two Ctrl-C or SIGTERM; the third insists."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def react(number: int, frame: FrameType | None) -> None:
        if len(seen) > 1:
            raise KeyboardInterrupt
        seen.append(number)
        loop.call_soon_threadsafe(call, number)

    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
