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

#: What is told: there are items, there is room, whether the queue is paused has changed.
ITEMS, ROOM = "items", "room"

_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


class Listener:
    """Listens to a channel for as long as it is open, on a connection of its own.

    Args:
        connect: makes a connection.
        on_news: called with what was told; with "" when something may have been missed.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]],
        channel: str,
        on_news: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._on_news = on_news
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._task = asyncio.create_task(self._run(), name=f"penstock-listen-{channel}")

    async def close(self) -> None:
        """Listen no more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def forget(self) -> None:
        """The event loop was closed."""
        if self._connection is not None:
            self._connection.pgconn.finish()

    async def _run(self) -> None:
        pause = _SHORTEST
        while True:
            with suppress(psycopg.Error, BrokerError):
                self._connection = await self._connect()
                try:
                    await self._connection.execute(f'LISTEN "{self._channel}"'.encode())
                    self._on_news("")
                    pause = _SHORTEST
                    async for news in self._connection.notifies():
                        self._on_news(news.payload)
                finally:
                    await self._connection.close()
                    self._connection = None
            await asyncio.sleep(_rng.uniform(0.5, 1) * pause)
            pause = min(2 * pause, _LONGEST)


class Notifier:
    """Tells other processes: at once, and then not too often.

    Args:
        send: sends some payloads.
        sender: is named in each of them, so that one's own are known.
    """

    def __init__(self, send: Callable[..., Awaitable[None]], sender: str) -> None:
        self._send = send
        self._sender = sender
        self._pending: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def tell(self, what: str) -> None:
        """Tell this, once for all who do so meanwhile."""
        self._pending.add(what)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def is_own(self, payload: str) -> bool:
        """Whether it is something that this one told."""
        return payload.endswith(self._sender)

    async def _run(self) -> None:
        try:
            while self._pending:
                payloads = [f"{what} {self._sender}" for what in sorted(self._pending)]
                self._pending.clear()
                with suppress(BrokerError):  # whoever waits looks by itself after a while
                    await self._send(*payloads)
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
                await self._send(*[f"{what} {self._sender}" for what in sorted(self._pending)])
            self._pending.clear()

    def forget(self) -> None:
        """The event loop was closed."""
        self._pending.clear()
        self._task = None
