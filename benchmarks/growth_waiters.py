"""Many who wait for one queue: series of ``growth.py``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from benchmarks.growth_series import Meter, Series, all_of, put_all, real, shuffled, tens, virtual
from benchmarks.queue_clients import do_nothing
from penstock import BoundedQueue, QueueEmptyError, QueueStateError


async def waiting_puts(queue: BoundedQueue[int], timeouts: Iterable[float]) -> list[Any]:
    """So many puts that have begun to wait."""
    tasks = [asyncio.ensure_future(queue.put(0, timeout)) for timeout in timeouts]
    await asyncio.sleep(0)
    return tasks


async def puts_served(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        with meter:
            tasks = await waiting_puts(queue, (1.0 + number for number in shuffled(n)))
            await queue.start_workers(do_nothing, 1)
            assert all(await all_of(tasks))


async def puts_late(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        with meter:
            tasks = await waiting_puts(queue, (1.0 + number / n for number in shuffled(n)))
            assert not any(await all_of(tasks))
        await queue.start_workers(do_nothing, 1)


async def puts_cancelled(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        tasks = await waiting_puts(queue, (1.0 + number for number in range(n)))
        with meter:
            for number in shuffled(n):
                tasks[number].cancel()
            await all_of(tasks)
        await queue.start_workers(do_nothing, 1)


async def puts_cancelled_with_room(n: int, meter: Meter) -> None:
    """Those for which there is room already, and who have not heard of it."""
    async with BoundedQueue[int](n) as queue:
        await put_all(queue, range(n))
        tasks = await waiting_puts(queue, [math.inf] * (n // 2))
        for _ in tasks:
            queue.get_nowait()
            queue.task_done()
        with meter:
            for task in tasks:
                task.cancel()
            await all_of(tasks)
        await queue.start_workers(do_nothing, 1)


async def gets_served(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](100) as queue:

        async def get() -> None:
            await queue.get()
            queue.task_done()

        with meter:
            tasks = [asyncio.ensure_future(get()) for _ in range(n)]
            await asyncio.sleep(0)
            await put_all(queue, range(n))
            await all_of(tasks)
        assert queue.is_empty


async def gets_late(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        with meter:
            gets = [queue.get(1.0 + number / n) for number in shuffled(n)]
            errors = await all_of(gets)
        assert all(isinstance(error, QueueEmptyError) for error in errors)


async def joins(is_told: bool, n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        with meter:
            tasks = [asyncio.ensure_future(queue.join()) for _ in range(n)]
            await asyncio.sleep(0)
            if is_told:
                queue.get_nowait()
                queue.task_done()
            else:
                for number in shuffled(n):
                    tasks[number].cancel()
            await all_of(tasks)
        await queue.stop_workers()
        await queue.start_workers(do_nothing, 1)


async def joins_told(n: int, meter: Meter) -> None:
    await joins(True, n, meter)


async def joins_cancelled(n: int, meter: Meter) -> None:
    await joins(False, n, meter)


async def stop_with_waiters(n: int, meter: Meter) -> None:
    """Half of them puts that were granted room, half that wait for it."""
    queue: BoundedQueue[int] = BoundedQueue(n)
    await queue.start()
    await put_all(queue, range(n))
    tasks = await waiting_puts(queue, [math.inf] * n)
    for _ in range(n // 2):
        queue.get_nowait()
        queue.task_done()
    with meter:
        await queue.stop()
        outcomes = await all_of(tasks)
    assert all(isinstance(outcome, QueueStateError) for outcome in outcomes)


MANY_WAITERS = [
    Series("puts that wait, served", tens(1, 5), virtual(puts_served)),
    Series("puts that wait, each until another time", tens(1, 5), virtual(puts_late)),
    Series("puts that wait, cancelled", tens(1, 5), real(puts_cancelled)),
    Series("puts that have room, cancelled", tens(1, 4), real(puts_cancelled_with_room)),
    Series("puts that wait, at a stop", tens(1, 5), real(stop_with_waiters)),
    Series("gets that wait, served", tens(1, 5), real(gets_served)),
    Series("gets that wait, each until another time", tens(1, 5), virtual(gets_late)),
    Series("joins that wait", tens(1, 5), real(joins_told)),
    Series("joins that wait, cancelled", tens(1, 5), real(joins_cancelled)),
]
