"""Testing code that uses penstock: an hour of limits and timeouts, in no time."""

from __future__ import annotations

import asyncio

import penstock
from penstock.testing import run


async def crawl(queue: penstock.WorkQueue[int]) -> list[int]:
    """Put a number every minute for an hour; return those that were pushed back."""
    refused = []
    for minute in range(60):
        if not await queue.put(minute, timeout=30):
            refused.append(minute)
        await asyncio.sleep(60)
    return refused


async def test_slow_service_pushes_back() -> None:
    """A service that takes two minutes for each number makes the queue push back."""

    async def slow(minute: int) -> None:
        await asyncio.sleep(120)

    async with penstock.WorkQueue[int](maxsize=10) as queue:
        await queue.process(slow)
        refused = await crawl(queue)
        assert queue.metrics["backpressure_events"] == len(refused) > 0
    assert queue.metrics["processed"] == 60 - len(refused)


if __name__ == "__main__":
    run(test_slow_service_pushes_back())
    print("passed")
