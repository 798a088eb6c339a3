"""Many keys, and many who wait for a limit: the series of ``growth.py`` for limits."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from benchmarks.growth_series import Meter, Series, all_of, put_all, real, shuffled, tens, virtual
from benchmarks.queue_clients import do_nothing
from penstock import Limit, WorkQueue
from penstock.limits.rate.limiter import Limiter

#: A limit that leaves room for any number.
ROOM, MINUTE = 10_000_000, 60.0


def key(item: Any) -> Any:
    return item


async def acquires(n: int, meter: Meter) -> None:
    limiter = Limiter([Limit(ROOM, MINUTE)])
    with meter:
        for _ in range(n):
            await limiter.acquire()


async def keys(n: int, meter: Meter) -> None:
    limiter = Limiter([Limit(10, MINUTE, key=key)])
    with meter:
        for _ in range(2):
            for number in range(n):
                await limiter.acquire(number)


async def new_keys(n: int, meter: Meter) -> None:
    limiter = Limiter([Limit(10, MINUTE, key=key)])
    with meter:
        for number in range(n):
            await limiter.acquire(number)


async def forgotten_keys(n: int, meter: Meter) -> None:
    """After so many keys were used and idle for a minute, half as many other ones."""
    limiter = Limiter([Limit(10, MINUTE, key=key)])
    with meter:
        for number in range(n):
            await limiter.acquire(number)
        await asyncio.sleep(2 * MINUTE)
        for number in range(n // 2):
            await limiter.acquire(-1 - number)
        await asyncio.sleep(2 * MINUTE)
        for _ in range(n // 2):
            await limiter.acquire(0)


async def waiters(n: int, meter: Meter) -> None:
    """A large cost stands at the head of the line, and all others wait behind it."""
    costs = Limit(1000, 1.0, cost=lambda item: item, name="costs")
    limiter = Limiter([costs])
    with meter:
        await limiter.acquire(1)
        first = asyncio.ensure_future(limiter.acquire(1000))
        await asyncio.sleep(0)
        await all_of([first, *(limiter.acquire(1) for _ in range(n))])


async def waiters_of_keys(n: int, meter: Meter) -> None:
    """Each with a key of its own that has room, behind a limit for all."""
    both = [Limit(10, MINUTE, key=key, name="each"), Limit(1, 0.001, name="all")]
    limiter = Limiter(both)
    with meter:
        await all_of([limiter.acquire(number) for number in range(n)])


async def waiters_cancelled(n: int, meter: Meter) -> None:
    limiter = Limiter([Limit(1, MINUTE)])
    await limiter.acquire()
    tasks = [asyncio.ensure_future(limiter.acquire()) for _ in range(n)]
    await asyncio.sleep(0)
    with meter:
        for number in shuffled(n):
            tasks[number].cancel()
        await all_of(tasks)


async def items_of_one_key(n: int, meter: Meter) -> None:
    """A queue whose items all have the same key, of which a hundred a second may start."""
    limits = [Limit(100, 1.0, key=lambda _: "one")]
    async with WorkQueue[int](n, concurrency_limit=10, limits=limits) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.process(do_nothing)
            await queue.join()


async def items_of_many_keys(n: int, meter: Meter) -> None:
    """Ten items for each key, and each may start twice a second."""
    limits = [Limit(2, 1.0, key=lambda item: item % max(1, n // 10))]
    async with WorkQueue[int](n, concurrency_limit=10, limits=limits) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.process(do_nothing)
            await queue.join()


async def settled(n: int, meter: Meter) -> None:
    """Starts whose true cost turns out in any order."""
    tokens = Limit(10 * n, MINUTE, cost=lambda _: 10, name="tokens")
    limiter = Limiter([tokens])
    with meter:
        permits = [await limiter.acquire() for _ in range(n)]
        for number, cost in zip(shuffled(n), itertools.cycle((5, 0, 8, 12)), strict=False):
            permits[number].settle(tokens, cost)


LIMITS = [
    Series("starts within a limit", tens(2, 6), real(acquires)),
    Series("keys, two starts each", tens(0, 5), real(keys), real(new_keys)),
    Series("keys that are forgotten", tens(1, 5), virtual(forgotten_keys), virtual(forgotten_keys)),
    Series("waiters behind a large cost", tens(1, 5), virtual(waiters)),
    Series("waiters with keys behind a limit for all", tens(1, 5), virtual(waiters_of_keys)),
    Series("waiters, cancelled", tens(1, 5), real(waiters_cancelled)),
    Series("costs that are settled", tens(1, 5), real(settled)),
    Series("items of one key that wait in a queue", tens(1, 4), virtual(items_of_one_key)),
    Series("items of many keys that wait in a queue", tens(1, 4), virtual(items_of_many_keys)),
]
