"""An eye on a queue's size, and on items that the server holds and hands out to nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock.brokers.nats.connection.answers import ApiError, LostError, NobodyError
from penstock.brokers.nats.queue.counts import Level
from penstock.brokers.nats.queue.engine import Engine
from penstock.brokers.nats.queue.feed import Feed
from penstock.errors import BrokerError

#: Seconds between two looks.
_LOOK = 1.0
#: Looks at items that nobody gets, though workers wait, until that is looked into.
_SUSPICIOUS = 3
_NO_ANSWER = (ApiError, LostError, NobodyError, BrokerError)


class Watch:
    """Asks the server how many items there are, every second.

    Args:
        level: is told what the server says.
        feed: whose workers wait; it is to ask anew for what the server had forgotten.
        on_room: called when there is room.
    """

    def __init__(
        self,
        engine: Engine,
        level: Level,
        feed: Feed,
        on_room: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._engine = engine
        self._level = level
        self._feed = feed
        self._on_room = on_room
        self._logger = logger
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._run(), name=f"penstock-{self._engine.name}-watch")

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def forget(self) -> None:
        """The loop was closed."""
        self._task = None

    async def look(self) -> int | None:
        """Ask now; None if there is no answer."""
        try:
            size = await self._engine.size()
        except _NO_ANSWER:
            return None  # the next look may tell
        self._level.told(size)
        if not self._level.is_full:
            self._on_room()
        return size

    async def _run(self) -> None:
        idle = 0
        while True:
            await asyncio.sleep(_LOOK)
            size = await self.look()
            idle = idle + 1 if size and self._feed.is_idle else 0
            if idle > _SUSPICIOUS:
                idle = await self._look_for_forgotten(idle)

    async def _look_for_forgotten(self, idle: int) -> int:
        """There are items, and workers get none of them: see why, again and again to be sure."""
        try:
            if not await self._engine.has_forgotten():
                return 0
            if idle <= 2 * _SUSPICIOUS:
                return idle
            await self._engine.remind()
        except _NO_ANSWER:
            return 0  # some other time
        self._logger.warning(
            "Queue %s: the server holds %d items and hands out none, as it may after it was "
            "killed; now it hands out all of them, also those that were processed",
            self._engine.name,
            len(self._level),
        )
        self._feed.reconnected()
        return 0
