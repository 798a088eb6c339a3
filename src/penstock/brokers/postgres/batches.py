"""Calls that come while one is under way go together, as the next one.

To have a commit on the disk takes some milliseconds, whatever is in it; so one commit is shared by
all that came while the one before it was under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from penstock.brokers.postgres.problems import ConnectionBrokenError
from penstock.errors import BrokerError

X = TypeVar("X")
R = TypeVar("R")

#: The most calls that go together, and the most bytes.
_MOST: Final = 250
_MOST_BYTES: Final = 4_000_000


class Batches(Generic[X, R]):
    """Sends values together, in the order in which they came.

    Args:
        send: sends some values, and returns as many results.
        size_of: the bytes of a value.
    """

    def __init__(
        self,
        send: Callable[[Sequence[X]], Awaitable[Sequence[R]]],
        size_of: Callable[[X], int] = lambda value: 0,
    ) -> None:
        self._send = send
        self._size_of = size_of
        self._waiting: deque[tuple[X, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, value: X) -> asyncio.Future[R]:
        """Have it sent; the future gets its result. If it is cancelled in time it is left out."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((value, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def finish(self) -> None:
        """Wait until all is sent."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def forget(self) -> None:
        """The event loop was closed."""
        self._waiting.clear()
        self._task = None

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._let_come()
                await self._send_some(self._next())
        finally:
            self._task = None
            for _, future in self._waiting:  # only where the task was cancelled
                future.cancel()
            self._waiting.clear()

    async def _let_come(self) -> None:
        """Those who were woken together come in one turn of the loop after the other."""
        count = 0
        while count < len(self._waiting) < _MOST:
            count = len(self._waiting)
            await asyncio.sleep(0)

    def _next(self) -> list[tuple[X, asyncio.Future[R]]]:
        some: list[tuple[X, asyncio.Future[R]]] = []
        size = 0
        while self._waiting and len(some) < _MOST and size < _MOST_BYTES:
            value, future = self._waiting.popleft()
            if not future.done():
                some.append((value, future))
                size += self._size_of(value)
        return some

    async def _send_some(self, some: list[tuple[X, asyncio.Future[R]]]) -> None:
        if not some:
            return
        try:
            results = await self._send([value for value, _ in some])
        except asyncio.CancelledError:
            for _, future in some:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - for whoever made the call
            if len(some) > 1 and _may_be_one(error):
                for one in some:  # nothing was carried out; one alone may be what failed
                    await self._send_some([one])
                return
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(some, results, strict=True):
            if not future.done():  # cancelled meanwhile
                future.set_result(result)


def _may_be_one(error: Exception) -> bool:
    return isinstance(error, BrokerError) and not isinstance(error, ConnectionBrokenError)
