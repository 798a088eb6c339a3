"""Tasks that wait in one event loop until there is something to take."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class WaitQueue:
    """Wakes waiting tasks, the longest waiting first, one at a time.

    A burst of puts wakes one worker. If that worker must wait for something else with an entry in
    its hands, it wakes others, by ``wake``, for the entries that it leaves behind. So workers that
    never wait do not wake each other for nothing. And no wake-up is lost: for each entry that can
    be taken a worker is on its way, or no worker waits.

    A subclass says in ``_available`` how many entries there are.

    Some tasks may be for other entries than the rest: they wait with a ``kind`` that is not 0.
    """

    def __init__(self) -> None:
        # Those that were woken and have not run yet, and their kinds.
        self._unparked: dict[asyncio.Future[bool], int] = {}
        # An ordered dict: removal from the middle takes constant time.
        self._waiters: OrderedDict[asyncio.Future[bool], int] = OrderedDict()

    def _available(self) -> int:
        """How many entries can be taken."""
        raise NotImplementedError

    def _add_waiter(self, kind: int = 0) -> asyncio.Future[bool]:
        """Join the queue; the caller awaits :meth:`_park` next."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = kind
        return waiter

    async def _park(self, waiter: asyncio.Future[bool], timeout: float | None = None) -> bool:
        """Wait until woken (True), at most ``timeout`` seconds (False).

        A cancelled call passes its wake-up on.
        """
        timer = None
        if timeout is not None:
            timer = waiter.get_loop().call_later(timeout, self._time_out_waiter, waiter)
        try:
            return await waiter
        except BaseException:
            self._waiters.pop(waiter, None)
            if self._unparked.pop(waiter, None) is not None:
                self.wake()
            raise
        finally:
            self._unparked.pop(waiter, None)
            if timer is not None:
                timer.cancel()

    def _time_out_waiter(self, waiter: asyncio.Future[bool]) -> None:
        if waiter in self._waiters and not waiter.done():
            del self._waiters[waiter]
            waiter.set_result(False)

    def wake(self) -> None:
        """Wake tasks for the entries for which none is on its way."""
        if self._waiters:
            self._unpark(self._available() - len(self._unparked))

    def wake_all(self) -> None:
        """Wake all waiting tasks: something other than an entry has changed."""
        self._unpark(len(self._waiters))

    def _unpark(self, count: int) -> None:
        while self._waiters and count > 0:
            count -= self._resolve(*self._waiters.popitem(last=False))

    def _unpark_kind(self, kind: int, available: int) -> None:
        """Wake tasks of one kind for ``available`` entries that are for them."""
        count = available - sum(one == kind for one in self._unparked.values())
        while count > 0:
            waiter = next((waiter for waiter, one in self._waiters.items() if one == kind), None)
            if waiter is None:
                return
            del self._waiters[waiter]
            count -= self._resolve(waiter, kind)

    def _resolve(self, waiter: asyncio.Future[bool], kind: int) -> bool:
        """Wake a task; False if it waits no more."""
        if waiter.done() or waiter.get_loop().is_closed():
            return False
        waiter.set_result(True)
        self._unparked[waiter] = kind
        return True

    def _forget_waiters(self) -> None:
        self._waiters.clear()
        self._unparked.clear()
