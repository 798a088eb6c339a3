"""Workers and others who wait in one event loop until there is something to take."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class WaitQueue:
    """Calls those who wait, those who have waited longest first.

    They are called one at a time: a burst of puts calls one of them, and if that one must wait for
    something else with an entry in its hands it calls others, by ``wake``, to what it leaves
    behind. So workers that never wait do not wake each other for nothing. And no wake-up is lost:
    for each entry that can be taken there is a taker on its way, or none waits.
    """

    def __init__(self) -> None:
        # Those called that have not arrived yet.
        self._unparked: set[asyncio.Future[bool]] = set()
        # An ordered dict, for removal from the middle in constant time.
        self._waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    def _available(self) -> int:
        """How many entries there are to be called to."""
        raise NotImplementedError

    def _add_waiter(self) -> asyncio.Future[bool]:
        """Wait from now on, and await it by :meth:`_park`."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        return waiter

    async def _park(self, waiter: asyncio.Future[bool], timeout: float | None = None) -> bool:
        """Wait until a look is worth it; False after ``timeout`` seconds."""
        timer = None
        if timeout is not None:
            timer = waiter.get_loop().call_later(timeout, self._time_out_waiter, waiter)
        try:
            return await waiter
        except BaseException:
            self._waiters.pop(waiter, None)
            if waiter in self._unparked:
                self._unparked.discard(waiter)
                self.wake()
            raise
        finally:
            self._unparked.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _time_out_waiter(self, waiter: asyncio.Future[bool]) -> None:
        if waiter in self._waiters and not waiter.done():
            del self._waiters[waiter]
            waiter.set_result(False)

    def wake(self) -> None:
        """Call takers to the entries that nobody is on the way to."""
        if self._waiters:
            self._unpark(self._available() - len(self._unparked))

    def wake_all(self) -> None:
        """Call every taker: something other than an entry is news to it."""
        self._unpark(len(self._waiters))

    def _unpark(self, count: int) -> None:
        while self._waiters and count > 0:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(True)
                self._unparked.add(waiter)
                count -= 1

    def _forget_waiters(self) -> None:
        self._waiters.clear()
        self._unparked.clear()
