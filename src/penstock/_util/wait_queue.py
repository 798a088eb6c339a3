"""Workers and others who wait in one event loop until there is something to take."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class Takers:
    """Calls those who wait, those who have waited longest first.

    They are called one at a time: a burst of puts calls one of them, and if that one must wait for
    something else with an entry in its hands it calls others, by ``wake``, to what it leaves
    behind. So workers that never wait do not wake each other for nothing. And no wake-up is lost:
    for each entry that can be taken there is a taker on its way, or none waits.
    """

    def __init__(self) -> None:
        # Those called that have not arrived yet.
        self._called: set[asyncio.Future[bool]] = set()
        # An ordered dict, for removal from the middle in constant time.
        self._takers: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    def _at_hand(self) -> int:
        """How many entries there are to be called to."""
        raise NotImplementedError

    def _register(self) -> asyncio.Future[bool]:
        """Wait from now on, and await it by :meth:`_be_called`."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._takers[waiter] = None
        return waiter

    async def _be_called(self, waiter: asyncio.Future[bool], timeout: float | None = None) -> bool:
        """Wait until a look is worth it; False after ``timeout`` seconds."""
        timer = None
        if timeout is not None:
            timer = waiter.get_loop().call_later(timeout, self._give_up, waiter)
        try:
            return await waiter
        except BaseException:
            self._takers.pop(waiter, None)
            if waiter in self._called:
                self._called.discard(waiter)
                self.wake()
            raise
        finally:
            self._called.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _give_up(self, waiter: asyncio.Future[bool]) -> None:
        if waiter in self._takers and not waiter.done():
            del self._takers[waiter]
            waiter.set_result(False)

    def wake(self) -> None:
        """Call takers to the entries that nobody is on the way to."""
        if self._takers:
            self._call(self._at_hand() - len(self._called))

    def wake_all(self) -> None:
        """Call every taker: something other than an entry is news to it."""
        self._call(len(self._takers))

    def _call(self, count: int) -> None:
        while self._takers and count > 0:
            waiter, _ = self._takers.popitem(last=False)
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(True)
                self._called.add(waiter)
                count -= 1

    def _forget_takers(self) -> None:
        self._takers.clear()
        self._called.clear()
