"""A program for test_wire.py: of four items one is refused, and one of the others fails."""

from __future__ import annotations

import asyncio

import penstock
import penstock.telemetry

queue: penstock.BoundedQueue[int] = penstock.BoundedQueue(3, 0.05, name="thumbnails")


async def make_thumbnail(image: int) -> None:
    await asyncio.sleep(0.05)
    if image == 13:
        raise ValueError("13 is not a picture")


async def note_failure(error: Exception, image: int) -> None:
    pass


async def main() -> None:
    async with queue:
        assert [await queue.put(image) for image in (12, 13, 14, 15)] == [True, True, True, False]
        await queue.start_workers(make_thumbnail, 2, note_failure)


penstock.telemetry.setup("wire-example")
asyncio.run(main())
