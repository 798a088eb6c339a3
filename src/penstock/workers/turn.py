"""How long the workers of an event loop go on before the loop sees to everything else."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

#: Seconds for which workers that never wait have the event loop, all together, before it sees to
#: everything else: to timeouts, and to a stop.
SECONDS: Final = 0.01
#: The most entries of one worker between two looks at the clock.
ENTRIES: Final = 32
#: Seconds that an entry takes long from, and below which it is quick.
SLOW, QUICK = 0.001, 0.0002


class LoopTurn:
    """The turn of all workers of one queue in its event loop.

    They look at the clock after each entry if entries take long, and after 32 if they are quick: a
    look costs as much as a tenth of the shortest entry.

    An object of its own, since it is asked after each entry, and an object with as many attributes
    as a buffer answers more slowly.
    """

    __slots__ = ("_ends_at", "_entries", "_looked_at", "clock", "is_over", "is_paused")

    def __init__(self) -> None:
        #: That of the event loop, once there is one.
        self.clock: Callable[[], float] = time.monotonic
        self._ends_at = self._looked_at = 0.0
        self._entries = 1
        #: Whether the loop is to see to everything else, as of the last look.
        self.is_over = False
        #: Whether no worker takes an entry until the loop has done so.
        self.is_paused = False

    def begin_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first turn in this loop, by its clock: virtual time stands still in a turn."""
        self.clock = loop.time
        self._ends_at = loop.time() + SECONDS

    def look(self) -> int:
        """Look at the clock, and return how many entries a worker may process until it looks again.

        Call :meth:`pause` if ``is_over`` is True then.
        """
        now, entries = self.clock(), self._entries
        each, self._looked_at = (now - self._looked_at) / entries, now
        if each < QUICK:
            self._entries = entries = min(2 * entries, ENTRIES)
        elif each >= SLOW:
            self._entries = entries = 1
        self.is_over = now >= self._ends_at
        return entries

    async def pause(self) -> None:
        """Let the loop see to everything else."""
        self.is_paused = True
        try:
            await asyncio.sleep(0)
        finally:
            self.is_paused = self.is_over = False
            self._ends_at = self.clock() + SECONDS


class EndlessLoopTurn(LoopTurn):
    """The turn of a worker that has no event loop, or whose entries always wait for something."""

    __slots__ = ()

    def look(self) -> int:
        """Never again."""
        return sys.maxsize


#: One for all.
ENDLESS: Final = EndlessLoopTurn()
