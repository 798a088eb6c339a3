"""Workers in the event loop, as seen by the threads that put."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock._util.wait_queue import WaitQueue

if TYPE_CHECKING:
    from penstock.sync.bridge import Bridge

#: Entries that workers take, one after the other, before the loop sees to everything else. Threads
#: can fill a queue as fast as workers empty it, and workers that never wait would never let go.
ENTRIES_PER_TURN = 32


class LoopSide(WaitQueue):
    """The workers that wait in the running event loop, and how other threads call them."""

    def __init__(self, bridge: Bridge[Any]) -> None:
        super().__init__()
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._for_all = False
        self._left = ENTRIES_PER_TURN
        self._due_timer: asyncio.TimerHandle | None = None

    # -- from any thread, with the bridge's lock held -----------------------------------------

    def ring(self, *, for_all: bool = False) -> None:
        """Have the loop call those who wait. Until it answers, once is enough."""
        self._for_all |= for_all
        if self._waiters and not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits in it
                self._loop.call_soon_threadsafe(self._answer)

    def set_due_timer(self) -> None:
        """There is something new among what is postponed: have the loop look at it in time."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._promote_due)

    # -- in the loop --------------------------------------------------------------------------

    def _answer(self) -> None:
        with self._bridge.lock:
            for_all, self._for_all, self._rung = self._for_all, False, False
        if for_all:
            self.wake_all()
        else:
            self.wake()

    def _promote_due(self) -> None:
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        delay = self._bridge.promote_due()
        if delay is not None:
            self._due_timer = self._loop.call_later(delay, self._promote_due)

    def _available(self) -> int:
        return self._bridge.available

    def may_take(self) -> bool:
        """Whether a worker may take one more entry in this turn of the loop."""
        self._left -= 1
        return self._left >= 0

    async def wait(self) -> bool:
        """Wait until a look is worth it; False when nothing will come any more."""
        if self._left < 0:
            await asyncio.sleep(0)
            self._left = ENTRIES_PER_TURN
            return True
        bridge = self._bridge
        waiter = self._add_waiter()
        with bridge.lock:  # what came before this did not see us wait
            is_news = bridge.available > 0
            is_over = bridge.is_over
        if is_news or is_over:
            self._waiters.pop(waiter, None)
            return is_news
        return await self._park(waiter)
