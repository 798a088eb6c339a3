"""What the users of one limiter share: its clock, its counters, and those who wait."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from helpers.tasks import now
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.testing import VirtualTimeLoop, run


@pytest.mark.parametrize("limits", [0, 1, 2])
async def test_it_counts_every_call_that_it_let_through(limits: int) -> None:
    limiter = Limiter([Limit(2, 10, name=str(number)) for number in range(limits)])
    await limiter.acquire()
    assert limiter.statistics().grants == 1
    async with limiter:
        assert limiter.statistics().grants == 2
    await asyncio.gather(limiter.acquire(), limiter.acquire())  # which wait for the limits
    assert limiter.statistics().grants == 4
    await asyncio.sleep(20)
    assert limiter.try_acquire() is not None
    async with limiter.permit():
        assert limiter.statistics().grants == 6


@pytest.mark.real_time
def test_and_every_one_of_a_thread() -> None:
    limiter = Limiter([Limit(1, 0.01)])
    for count in range(1, 4):
        limiter.acquire_blocking()
        assert limiter.statistics().grants == count


def test_the_old_name_of_learned_rates_is_deprecated() -> None:
    limiter = Limiter([Limit(10, 60)])
    permit = limiter.try_acquire()
    limiter.refused(1, permit=permit)
    statistics = limiter.statistics()
    with pytest.warns(DeprecationWarning, match="held_back is deprecated: use learned_rates"):
        assert statistics.held_back == statistics.learned_rates
    assert set(statistics.learned_rates) == {"10 per 60 s"}


def test_one_limiter_serves_one_loop_after_another() -> None:
    limiter = Limiter([Limit(1, 10)])

    async def two() -> float:
        await limiter.acquire()
        await limiter.acquire()
        return now()

    assert [run(two()) for _ in range(3)] == [10, 10, 10]


def test_those_who_waited_in_a_loop_that_was_closed_hold_nobody_up() -> None:
    limiter = Limiter([Limit(2, 5)])

    async def leave_some_waiting(keep: list[Any]) -> None:
        keep += [asyncio.ensure_future(limiter.acquire()) for _ in range(8)]
        await asyncio.sleep(1)

    kept: list[Any] = []
    loop = VirtualTimeLoop()
    loop.run_until_complete(leave_some_waiting(kept))
    loop.close()  # with six tasks that wait

    async def go_on() -> float:
        await asyncio.gather(*(limiter.acquire() for _ in range(4)))
        return now()

    assert run(go_on()) == 5
    assert limiter.statistics().waiting == 0
    for task in kept:
        task._log_destroy_pending = False
    kept.clear()
    gc.collect()
    assert run(go_on()) == 5
