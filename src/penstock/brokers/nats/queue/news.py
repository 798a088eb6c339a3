"""Waiting until something happens, but never for long."""

from __future__ import annotations

import asyncio


class News:
    """Wakes those who wait for something that may have happened. They look for themselves."""

    def __init__(self) -> None:
        self._told: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """Something has happened."""
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def wait(self, timeout: float) -> None:
        """Wait for what happens from now on, at most ``timeout`` seconds."""
        if self._told is None or self._told.done():
            self._told = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._told], timeout=timeout)

    def forget(self) -> None:
        """The loop of those who waited was closed."""
        self._told = None
