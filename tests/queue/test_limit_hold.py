"""A queue that waits for its limits: what is reserved for it, and who else may have that."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from helpers.handlers import Handler
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.services import Service
from helpers.tasks import BOUND, now, settle
from penstock import (
    BoundedQueue,
    DeadlineExceededError,
    Limit,
    Limiter,
    Policy,
    QueueStatus,
    RetryPolicy,
    WorkQueue,
)
from penstock.testing import VirtualTimeLoop


def queue_of(*limits: Limit, limiter: Limiter | None = None, **rules: Any) -> BoundedQueue[Any]:
    policy = Policy(limits=limits if limiter is None else limiter, **rules)
    return BoundedQueue(1000, logger=SILENT, policy=policy)


async def test_a_queue_that_is_held_wakes_one_worker_for_each_start() -> None:
    looks = 0

    def cost(item: int) -> int:
        nonlocal looks
        looks += 1
        return 1

    service = Service(takes=0.5)
    async with WorkQueue(1000, limits=[Limit(1, 1, cost=cost)], logger=SILENT) as queue:
        await queue.process(service, 50)
        await put_all(queue, *range(100))
        looks = 0
        await queue.join()
    assert service.calls == [(item, item) for item in range(100)]
    assert looks <= 300


@pytest.mark.parametrize("cost", [None, lambda item: 1])
async def test_starts_come_as_fast_as_the_limit_allows_and_in_order(cost: Any) -> None:
    service = Service(takes=0.3)
    async with WorkQueue(1000, limits=[Limit(3, 1, cost=cost)], logger=SILENT) as queue:
        await queue.process(service, 7)
        await put_all(queue, *range(31))
        await queue.join()
    assert service.calls == [(item, item // 3) for item in range(31)]


async def test_an_older_item_goes_first_when_it_comes_back() -> None:
    """Its cost is another one."""
    service = Service({"a": 1})
    costs = {"a": 2, "b": 4, "c": 1}
    limit = Limit(4, 10, cost=costs.__getitem__)
    retry = RetryPolicy(2, on=ConnectionError, backoff=lambda *_: 5, budget=None)
    async with WorkQueue(limits=[limit], retry=retry, logger=SILENT) as queue:
        await queue.process(service, 3)
        await put_all(queue, "a", "b", "c")
        await queue.join()
    # Room is kept for b until 10. By then a is there again, and it was put before b.
    assert service.calls == [("a", 0), ("a", 10), ("b", 20), ("c", 30)]


async def test_other_users_of_the_limiter_have_what_no_worker_is_there_for() -> None:
    limiter = Limiter([Limit(1, 10)])
    queue = queue_of(limiter=limiter)
    service = Service()
    await queue.start_workers(service, 2)
    await put_all(queue, "a", "b")
    await settle()
    await queue.stop_workers()
    began = now()
    await asyncio.wait_for(limiter.acquire(), 20)
    assert now() - began == pytest.approx(10, abs=0.001)
    assert queue.unprocessed == ["b"]
    assert await queue.stop() is False


async def test_and_what_an_item_does_not_use_that_fails_instead() -> None:
    limiter = Limiter([Limit(1, 10)])
    queue = queue_of(limiter=limiter)
    service, handler = Service(), Handler()
    await queue.start_workers(service, 2, handler)
    await queue.put("a")
    await settle()
    other = asyncio.create_task(limiter.acquire())
    await settle()
    assert await queue.put("b", deadline=15)  # it takes two turns, and there is time for one
    await settle()
    limiter.close_for(18)
    await other
    assert now() >= 18
    began = now()
    await asyncio.wait_for(limiter.acquire(), 30)
    assert now() - began == pytest.approx(10, abs=2)
    await queue.join()
    assert handler.kinds == [("b", DeadlineExceededError)]
    await queue.stop()


async def test_a_queue_waits_for_a_slot_without_what_is_reserved() -> None:
    limiter = Limiter([Limit(2, 10)])
    policy = Policy(limits=limiter, concurrency=1)
    queue = BoundedQueue(100, logger=SILENT, policy=policy)
    service = Service()

    async def call(item: float) -> None:
        await service(item)
        await asyncio.sleep(item)

    await queue.start_workers(call, 3)
    await put_all(queue, 1, 25, 2)
    await asyncio.sleep(12)  # the second holds the only slot, and the limit has room
    assert limiter.try_acquire() is not None
    assert limiter.try_acquire() is not None
    await queue.join()
    assert service.calls == [(1, 0), (25, 1), (2, 26)]
    await queue.stop()


async def test_two_queues_of_one_policy_and_a_caller_share_a_limit_to_the_last_start() -> None:
    service = Service(takes=0.7)
    policy = Policy(limits=[Limit(2, 1), Limit(7, 5, name="slow")])
    queues = [BoundedQueue(100, logger=SILENT, policy=policy) for _ in range(2)]
    for queue in queues:
        await queue.start_workers(service, 4)
        await put_all(queue, *range(20))
    await asyncio.gather(*[policy.call(service, f"call {number}") for number in range(9)])
    for queue in queues:
        await queue.join()
        await queue.stop()
    times = sorted(at for _, at in service.calls)
    assert times == sorted(5 * (n // 7) + (n % 7) // 2 for n in range(49))
    assert Counter(service.items) == Counter([*range(20)] * 2 + [f"call {n}" for n in range(9)])


async def test_a_gate_that_opens_lets_a_queue_start_one_after_the_other() -> None:
    service = Service(takes=5)
    queue = queue_of(limiter=Limiter([Limit(1000, 1)], rng=random.Random(1)))
    queue.limiter.close_for(1)
    await queue.start_workers(service, 20)
    await put_all(queue, *range(20))
    await settle()
    assert queue.statistics().inflight == 0
    assert queue.limiter.statistics().waiting == 20
    queue.limiter.close_for(10)
    await queue.join()
    times = [at for _, at in service.calls]
    assert times[0] >= 10
    assert times[-1] <= 11
    assert len(set(times)) == 20
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < 0.3
    await queue.stop()


async def test_a_queue_that_is_forgotten_goes_with_its_limiter() -> None:
    queue = queue_of(Limit(1, 1000))
    await queue.start_workers(Service(), 2)
    await put_all(queue, 1, 2, 3)
    await settle()
    await queue.stop(timeout=0)
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None


def test_a_queue_goes_on_in_another_loop() -> None:
    queue = queue_of(Limit(1, 0.05))
    service = Service()

    async def begin() -> None:
        await queue.start_workers(service, 2)
        await put_all(queue, 1, 2, 3)
        await asyncio.sleep(0.01)

    async def finish() -> None:
        await queue.start_workers(service, 2)
        assert await queue.stop() is True

    asyncio.run(begin())
    asyncio.run(finish())
    assert queue.status is QueueStatus.STOPPED
    assert sorted(service.items) == [1, 2, 3]


@pytest.mark.parametrize(
    "settings",
    [{}, {"cost": lambda item: 1}, {"key": lambda item: 0}],
    ids=["any item", "cost", "key"],
)
def test_queues_in_several_loops_share_a_limiter_to_the_last_start(
    settings: dict[str, Any],
) -> None:
    limiter = Limiter([Limit(4, 0.1, **settings)])
    service = Service()

    async def use_queue() -> None:
        async with WorkQueue(100, limits=limiter, logger=SILENT) as queue:
            await queue.process(service, 3)
            await put_all(queue, *range(9))

    with ThreadPoolExecutor(3) as threads:
        for loop in [threads.submit(asyncio.run, use_queue()) for _ in range(3)]:
            loop.result(BOUND)
    times = sorted(at for _, at in service.calls)
    assert sorted(service.items) == sorted([*range(9)] * 3)
    assert times[-1] - times[0] >= 0.6
    assert limiter.statistics().grants == 27
    assert limiter.statistics().waiting == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("settings", [{}, {"key": lambda item: 0}], ids=["any item", "key"])
def test_a_queue_in_a_forked_child_waits_for_limits_of_its_own(settings: dict[str, Any]) -> None:
    limiter = Limiter([Limit(1, 1000, **settings)])
    policy = Policy(limits=limiter)
    loop = VirtualTimeLoop()
    queue = WorkQueue[Any](100, policy=policy, logger=SILENT)

    async def begin(queue: WorkQueue[Any], *items: Any) -> Service:
        service = Service()
        await queue.process(service, 2)
        await put_all(queue, *items)
        await asyncio.sleep(0.01)
        return service

    service = loop.run_until_complete(begin(queue, 1, 2, 3))
    child = os.fork()
    if not child:
        other = WorkQueue[Any](100, policy=policy, logger=SILENT)
        started = asyncio.run(begin(other, "a", "b")).items
        os._exit(0 if (started, other.unprocessed) == (["a"], ["b"]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert queue.unprocessed == [2, 3]
    limiter.limits[0].change(max=3)
    assert loop.run_until_complete(queue.stop()) is True
    assert service.items == [1, 2, 3]
    loop.close()
