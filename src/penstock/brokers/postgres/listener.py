"""News between processes: LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import psycopg

from penstock.errors import BrokerError

#: Seconds between two attempts to connect again.
_SHORTEST, _LONGEST = 0.1, 10.0
#: Seconds between two notifications of a process, at least. Each takes a lock of the whole server.
_PAUSE: Final = 0.02

#: What is told: there are items, or they may be taken again; there is room.
ITEMS, ROOM = "items", "room"

_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


class Listener:
    """Listens on a connection of its own, once there is something to listen for.

    Args:
        connect: makes a connection.
        channel: what the channels begin with.
        on_news: called with what happened, and who told it; told by "": it may have been missed.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]],
        channel: str,
        on_news: Callable[[str, str], None],
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._on_news = on_news
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._wanted: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def listen(self, what: str) -> None:
        """Listen for this, too, from now on."""
        if what in self._wanted:
            return
        self._wanted += (what,)
        before = self._task
        if before is not None:
            before.cancel()
        name = f"penstock-listen-{self._channel}"
        self._task = asyncio.create_task(self._run(before), name=name)

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def forget(self) -> None:
        """The event loop was closed."""
        if self._connection is not None:
            self._connection.pgconn.finish()

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        pause = _SHORTEST
        while True:
            with suppress(psycopg.Error, BrokerError):
                self._connection = await self._connect()
                try:
                    for what in self._wanted:
                        await self._connection.execute(f'LISTEN "{self._channel}{what}"'.encode())
                    for what in self._wanted:
                        self._on_news(what, "")
                    pause = _SHORTEST
                    async for news in self._connection.notifies():
                        self._on_news(news.channel.removeprefix(self._channel), news.payload)
                finally:
                    await self._connection.close()
                    self._connection = None
            await asyncio.sleep(_rng.uniform(0.5, 1) * pause)
            pause = min(2 * pause, _LONGEST)


class Notifier:
    """Tells other processes: at once, and then not too often.

    Args:
        send: sends some of what can happen.
    """

    def __init__(self, send: Callable[..., Awaitable[None]]) -> None:
        self._send = send
        self._pending: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def tell(self, what: str) -> None:
        """Tell this, once for all who do so meanwhile."""
        self._pending.add(what)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._pending:
                pending, self._pending = self._pending, set()
                with suppress(BrokerError):  # whoever waits looks by itself after a while
                    await self._send(*pending)
                await asyncio.sleep(_PAUSE)
        finally:
            self._task = None

    async def close(self) -> None:
        """Tell what is to be told still."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._pending:
            with suppress(BrokerError):
                await self._send(*self._pending)
            self._pending.clear()

    def forget(self) -> None:
        """The event loop was closed."""
        self._pending.clear()
        self._task = None
