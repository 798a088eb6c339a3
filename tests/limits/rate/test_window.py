"""The windows of a limit, one for each key, and which of them are forgotten."""

from __future__ import annotations

import asyncio

from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter


async def test_keys_that_are_idle_are_forgotten() -> None:
    limit = Limit(2, 1, key=lambda item: item)
    limiter = Limiter([limit])
    for key in range(100_000):
        await limiter.acquire(key)
        if key % 100 == 99:
            await asyncio.sleep(1)
    assert len(limit._state.windows()) < 500
    await asyncio.sleep(1)
    for _ in range(300):
        await limiter.acquire("busy")
    assert len(limit._state.windows()) < 5


async def test_a_key_for_which_somebody_waits_is_not_forgotten() -> None:
    limit = Limit(1, 10, key=lambda item: item[0])
    limiter = Limiter([limit])
    await limiter.acquire("a1")
    limiter.close_for(100)
    waiting = [asyncio.ensure_future(limiter.acquire(name)) for name in ("a2", "a3", "b1", "c1")]
    await asyncio.sleep(50)
    for name in "defghijklm":
        limiter.try_acquire(name)
    started = asyncio.get_running_loop().time
    await asyncio.gather(*waiting)
    assert 110 <= started() < 112, "a2 and a3 are ten seconds apart"


async def test_a_longer_period_goes_for_keys_that_were_forgotten_too() -> None:
    limit = Limit(1, 1, key=lambda item: item)
    limiter = Limiter([limit])
    for key in "abcdef":
        await limiter.acquire(key)
        await asyncio.sleep(1)
    assert len(limit._state.windows()) < 4
    limit.change(per=10)
    assert limiter.try_acquire("a") is None
    assert limiter.try_acquire("f") is None
    await asyncio.sleep(10)
    assert limiter.try_acquire("a") is not None
