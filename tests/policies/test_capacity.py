"""At most so many at once, for tasks of any loops and for threads."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.tasks import BOUND, settle
from penstock._util.compat import timeout_after
from penstock.policies.capacity import CapacityLimiter


def always() -> bool:
    return True


async def test_those_who_wait_get_their_slots_in_turn() -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    order: list[int] = []

    async def wait(number: int) -> None:
        await limiter.acquire()
        order.append(number)
        limiter.release()

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await settle()
    assert (limiter.taken, limiter.waiting) == (1, 3)
    assert not limiter.try_acquire()
    limiter.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert (limiter.taken, limiter.waiting) == (0, 0)


async def test_a_newcomer_does_not_overtake_one_that_was_given_its_slot() -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await settle()
    limiter.release()  # it is the task's now, which has not run
    assert not limiter.try_acquire()
    await waiting
    assert limiter.taken == 1


@pytest.mark.parametrize("given", [True, False])
async def test_a_cancelled_wait_takes_no_slot(given: bool) -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settle()
    if given:
        limiter.release()
    first.cancel()
    await asyncio.wait([first])
    if not given:
        limiter.release()
    await second
    assert (limiter.taken, limiter.waiting) == (1, 0)


@pytest.mark.parametrize("given", [True, False])
async def test_a_wait_that_is_destroyed_takes_no_slot(given: bool) -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    wait = limiter.acquire()
    wait.send(None)
    limiter._lock.acquire()  # as if the garbage collector interrupted this very object
    if given:
        limiter.release()
    wait.close()
    limiter._lock.release()
    if not given:
        limiter.release()
    limiter.adapt()
    assert limiter.try_acquire()
    assert not limiter.try_acquire()


async def test_more_slots_are_given_out_at_once_and_fewer_are_not_taken_away() -> None:
    total = 1
    limiter = CapacityLimiter(lambda: total)
    assert limiter.try_acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
    await settle()
    total = 3
    limiter.adapt()
    await asyncio.gather(*tasks)
    total = 1
    limiter.release()
    limiter.release()
    assert not limiter.try_acquire()
    limiter.release()
    assert limiter.try_acquire()


def test_a_loop_that_was_closed_is_passed_over() -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    loop = asyncio.new_event_loop()
    wait = limiter.acquire()

    async def begin() -> None:
        wait.send(None)

    loop.run_until_complete(begin())
    loop.close()
    limiter.release()
    assert limiter.try_acquire()
    wait.close()
    gc.collect()
    assert limiter.taken == 1


def test_a_thread_that_is_not_wanted_any_more() -> None:
    limiter = CapacityLimiter(lambda: 1)
    assert limiter.try_acquire()
    with pytest.raises(asyncio.CancelledError):
        limiter.acquire_blocking(lambda: False)
    assert limiter.waiting == 0


def test_no_more_than_there_are_whoever_takes_them() -> None:
    limiter = CapacityLimiter(lambda: 3)
    lock = threading.Lock()
    under_way = peak = 0

    def enter(by: int) -> None:
        nonlocal under_way, peak
        with lock:
            under_way += by
            peak = max(peak, under_way)

    def in_threads(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            limiter.acquire_blocking(always)
            enter(1)
            if rng.random() < 0.1:
                threading.Event().wait(0.0001)
            enter(-1)
            limiter.release()

    def in_loop(seed: int) -> None:
        rng = random.Random(seed)

        async def use() -> None:
            try:
                async with timeout_after(rng.random() * 0.01):
                    await limiter.acquire()
            except TimeoutError:
                return
            enter(1)
            await asyncio.sleep(0)
            enter(-1)
            limiter.release()

        async def main() -> None:
            for _ in range(30):
                await asyncio.gather(*[use() for _ in range(10)])

        asyncio.run(main())

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(in_threads, seed) for seed in range(2)]
        jobs += [threads.submit(in_loop, seed) for seed in range(2, 4)]
        for job in jobs:
            job.result(BOUND)
    assert peak <= 3
    assert (limiter.taken, limiter.waiting) == (0, 0)
