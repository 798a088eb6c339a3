"""Watches the size of a queue, and whether its broker has items that no worker gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock.brokers.counters import SizeEstimate
from penstock.brokers.engine import QueueEngine
from penstock.brokers.source import DeliverySource
from penstock.errors import BrokerError

#: Seconds between two looks.
_LOOK = 1.0


class SizeMonitor:
    """Asks the broker how many items there are, every second.

    Args:
        size: is set to what the broker says.
        source: whose workers wait.
        on_room: called when there is room.
    """

    def __init__(
        self,
        engine: QueueEngine,
        size: SizeEstimate,
        source: DeliverySource[Any],
        on_room: Callable[[], None],
        name: str,
    ) -> None:
        self._engine = engine
        self._size = size
        self._source = source
        self._on_room = on_room
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._run(), name=f"penstock-{self._name}-size")

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
        except BrokerError:
            return None  # the next look may tell
        self._size.set(size)
        if not self._size.is_full:
            self._on_room()
        return size

    async def _run(self) -> None:
        idle = 0
        while True:
            await asyncio.sleep(_LOOK)
            size = await self.look()
            idle = idle + 1 if size and self._source.is_idle else 0
            if idle:
                try:
                    if await self._engine.on_stall(idle):
                        idle = 0
                except BrokerError:
                    idle = 0  # some other time
