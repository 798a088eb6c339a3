"""The limiter: who waits for the log, and in which order."""

from __future__ import annotations

import asyncio
import random

import pytest

from penstock.limits.limit import Limit
from penstock.limits.limiter import Limiter


def now() -> float:
    return asyncio.get_running_loop().time()


class Caller:
    """Notes who was let through, and when."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.through: list[tuple[object, float]] = []

    async def __call__(self, name: object) -> None:
        await self.limiter.acquire()
        self.through.append((name, now()))


async def test_as_many_as_allowed_go_through_at_once_and_the_others_wait() -> None:
    caller = Caller(Limiter([Limit(2, 10)]))
    await asyncio.gather(*(caller(name) for name in range(5)))
    assert caller.through == [(0, 0), (1, 0), (2, 10), (3, 10), (4, 20)]


async def test_callers_are_served_first_come_first_served() -> None:
    caller = Caller(Limiter([Limit(1, 0.3)]))
    tasks = []
    for name in range(20):
        tasks.append(asyncio.ensure_future(caller(name)))
        await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)
    assert [name for name, _ in caller.through] == list(range(20))


async def test_a_caller_cancelled_while_it_waits_uses_nothing_up() -> None:
    caller = Caller(Limiter([Limit(1, 10)]))
    await caller("first")
    first_in_line = asyncio.ensure_future(caller("first in line"))
    cancelled = asyncio.ensure_future(caller("cancelled"))
    last = asyncio.ensure_future(caller("last"))
    await asyncio.sleep(5)
    first_in_line.cancel()
    cancelled.cancel()
    await last
    assert caller.through == [("first", 0), ("last", 10)]


async def test_a_caller_cancelled_in_the_tick_of_its_turn_uses_nothing_up() -> None:
    caller = Caller(Limiter([Limit(1, 10)]))
    await caller("first")
    unlucky = asyncio.ensure_future(caller("unlucky"))
    last = asyncio.ensure_future(caller("last"))
    asyncio.get_running_loop().call_at(10, unlucky.cancel)
    await last
    assert unlucky.cancelled()
    assert [name for name, _ in caller.through] == ["first", "last"]
    assert caller.through[-1][1] == pytest.approx(10)


async def test_no_window_holds_more_than_allowed_whatever_the_callers_do() -> None:
    rng = random.Random(7)
    limiter = Limiter([Limit(10, 1)])
    caller = Caller(limiter)

    async def customer() -> None:
        for name in range(10):
            call = asyncio.ensure_future(caller(name))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 2)
                call.cancel()
            await asyncio.wait([call])

    await asyncio.gather(*(customer() for _ in range(20)))
    times = [at for _, at in caller.through]
    assert len(times) > 100
    assert all(b - a >= 1 - 1e-9 for a, b in zip(times, times[10:], strict=False))


@pytest.mark.real_time
async def test_in_real_time_the_clock_that_counts_is_that_of_the_loop() -> None:
    caller = Caller(Limiter([Limit(5, 0.02)]))
    await asyncio.gather(*(caller(name) for name in range(20)))
    times = [at for _, at in caller.through]
    assert all(b - a >= 0.02 - 1e-6 for a, b in zip(times, times[5:], strict=False))
