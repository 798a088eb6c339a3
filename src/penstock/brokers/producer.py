"""The puts of one process into a queue on a broker: those under way, and those that wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from penstock._util.wait_queue import WaitQueue
from penstock.brokers.counters import BrokerCounters
from penstock.brokers.engine import Stored

#: Seconds between two looks at the puts under way.
_LOOK: Final = 0.5
#: Seconds between two offers of the put that is first in line, where nothing is heard of room.
_SHORTEST, _LONGEST = 0.005, 0.25

_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


class Pulse:
    """Wakes those who wait for something that may have happened. They look for themselves."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def beat(self) -> None:
        """Something has happened."""
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def wait(self, timeout: float) -> None:
        """Wait for what happens from now on, at most ``timeout`` seconds."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next], timeout=timeout)

    def forget(self) -> None:
        """The loop of those who waited was closed."""
        self._next = None


class Producer(WaitQueue):
    """Offers items to the broker, first come, first served within this process.

    A put that found no room waits in line. The first of the line offers its item again and again,
    with growing pauses, and at once when this process has finished an item. Those behind it only
    wait.

    Args:
        pulse: beats when the last put under way has ended.
        on_refused: called when a put found no room.
        stopped: makes the error of a put that a stop has ended.
    """

    def __init__(
        self,
        counters: BrokerCounters,
        pulse: Pulse,
        on_refused: Callable[[], None],
        stopped: Callable[[], Exception],
    ) -> None:
        super().__init__()
        self._counters = counters
        self._on_refused = on_refused
        self._stopped = stopped
        self._pulse = pulse
        self._room = Pulse()
        # One object for each, not a number: those of a loop that was closed end late, or never.
        self._under_way: set[object] = set()
        # The puts that wait for room; and the first of the line, which offers its item. Objects for
        # the same reason.
        self._in_line: set[object] = set()
        self._first: object = None
        self._closings = 0

    @property
    def waiting(self) -> int:
        """How many puts wait for room."""
        return len(self._in_line)

    def _available(self) -> int:
        return 1 if self._first is None else 0

    async def put(
        self,
        offer: Callable[[], Awaitable[Stored]],
        timeout: float,
        on_full: Callable[[], None] | None = None,
    ) -> bool:
        """True when it is stored, False when there was no room.

        Args:
            offer: offers it to the broker.
            timeout: seconds that it may wait for room.
            on_full: called if there is none at once.

        Raises:
            QueueStateError: the queue stopped meanwhile.
            QueueUnknownError, BrokerError, CodecError: as ``offer``.
        """
        closings, me, stored = self._closings, object(), Stored.FULL
        self._under_way.add(me)
        try:
            if not self._in_line:
                stored = await offer()
            if stored is Stored.FULL:
                if on_full is not None:
                    on_full()
                if timeout and closings == self._closings:
                    self._counters.put_waits += 1
                    stored = await self._wait_for_room(me, offer, timeout)
        except BaseException as error:
            self._counters.add_error(error)
            raise
        finally:
            self._under_way.discard(me)
            if not self._under_way:
                self._pulse.beat()
        if stored is Stored.NEW:
            self._counters.add_accepted()
        elif stored is Stored.FULL:
            if closings != self._closings:
                self._counters.stopped += 1
                raise self._stopped()
            self._counters.add_full()
            self._on_refused()
            return False
        return True

    async def _wait_for_room(
        self, me: object, offer: Callable[[], Awaitable[Stored]], timeout: float
    ) -> Stored:
        """Offer until it succeeds, or time is up, or the queue is closed."""
        loop = asyncio.get_running_loop()
        give_up_at, closings = loop.time() + timeout, self._closings
        is_first, pause = not self._in_line, _SHORTEST
        self._in_line.add(me)
        try:
            if not is_first and not await self._park(self._add_waiter(), timeout):
                return Stored.FULL
            if closings == self._closings:
                self._first = me
            while closings == self._closings:
                stored = await offer()
                left = give_up_at - loop.time()
                if stored is not Stored.FULL or left <= 0:
                    return stored
                await self._room.wait(min(left, _rng.uniform(0.5, 1) * pause))
                pause = min(pause * 2, _LONGEST)
            return Stored.FULL
        finally:
            self._in_line.discard(me)
            if self._first is me:
                self._first = None
                self.wake()

    def on_room(self) -> None:
        """There may be room now."""
        self._room.beat()

    def close(self) -> None:
        """Send away those that wait for room."""
        self._closings += 1
        self.wake_all()
        self._room.beat()

    def forget(self) -> None:
        """The loop was closed: nothing will come of anything."""
        self._closings += 1
        self._in_line.clear()
        self._first = None
        self._under_way.clear()
        self._forget_waiters()
        self._room.forget()

    async def finish(self, timeout: float) -> None:
        """Let the broker answer the puts that are under way, at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        while self._under_way and loop.time() < give_up_at:
            await self._pulse.wait(_LOOK)
