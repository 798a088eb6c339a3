"""Waiting for a limit, first in, first out."""

from __future__ import annotations

import asyncio

from penstock._loop_local import LoopLocal
from penstock.limits.sliding_log import SlidingLog


class WindowLimiter:
    """Lets at most ``maximum`` callers through in any window of ``period`` seconds.

    Callers are let through in the order in which they came. A caller that is cancelled while it
    waits uses nothing up. For one event loop at a time.
    """

    def __init__(self, maximum: int, period: float) -> None:
        self._log = SlidingLog(maximum, period)
        self._turn = LoopLocal(asyncio.Lock)

    async def acquire(self) -> None:
        """Wait until one more may start, and count it as started."""
        clock = asyncio.get_running_loop().time
        async with self._turn.get():  # asyncio's lock is fair: whoever holds it is first in line
            # In a loop: a timer may fire a clock tick early, and that would be one too many.
            while (wait := self._log.wait_time(clock())) > 0:  # noqa: ASYNC110
                await asyncio.sleep(wait)
            self._log.record(clock())
