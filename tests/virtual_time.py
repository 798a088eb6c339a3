"""What async tests that control the order of things have in common. Their loop: conftest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def settle() -> None:
    """Let everything happen that can happen now."""
    await asyncio.sleep(1e-6)


def now() -> float:
    """Seconds, by the clock of the loop that runs."""
    return asyncio.get_running_loop().time()


def begin(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Have it run beside the test."""
    return asyncio.get_running_loop().create_task(call)


async def for_ever() -> None:
    """Wait for what never comes. (A sleep would count as something that will come.)"""
    await asyncio.get_running_loop().create_future()


class Gate:
    """A worker function that holds each item until it is let through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        #: Set when the first item is there.
        self.begun = asyncio.Event()
        self.seen: list[Any] = []
        self.done: list[Any] = []

    async def __call__(self, item: Any) -> Any:
        self.seen.append(item)
        self.begun.set()
        await self.open.wait()
        self.done.append(item)
        return item
