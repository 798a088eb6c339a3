"""Tasks: to let them run, and to wait for what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

#: Seconds after which something that should have happened has not.
BOUND = 30.0


def now() -> float:
    """Seconds, by the clock of the loop that runs."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let everything happen that can happen now. (In virtual time.)"""
    await asyncio.sleep(1e-6)


async def for_ever() -> None:
    """Wait for what never comes. (A sleep would count as something that will come.)"""
    await asyncio.get_running_loop().create_future()


async def until(condition: Callable[[], Any], timeout: float = BOUND) -> None:
    """Wait until something holds."""
    give_up_at = now() + timeout
    while not condition():
        assert now() < give_up_at, "this should have happened by now"
        await asyncio.sleep(0.005)


async def soon(awaitable: Awaitable[Any], timeout: float = BOUND) -> Any:
    """Await something that does not take long."""
    return await asyncio.wait_for(awaitable, timeout)
