"""Items that wait for the limits of their keys, beside the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.handlers import Handler
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import now, settle
from penstock import BoundedQueue, DeadlineExceededError, Limit, Limiter, Policy, WorkQueue


def first(item: str) -> str:
    return item[0]


def queue_of(limiter: Limiter, **rules: Any) -> BoundedQueue[Any]:
    return BoundedQueue(1000, logger=SILENT, policy=Policy(limits=limiter, **rules))


async def test_items_of_a_key_start_in_order_while_others_pass() -> None:
    service = Service()
    async with WorkQueue(1000, limits=[Limit(2, 10, key=first)], logger=SILENT) as queue:
        await queue.process(service, 1)
        names = [f"{key}{number}" for key in "ab" for number in range(5)]
        await put_all(queue, *names, "c0")
        await settle()
        assert service.items == ["a0", "a1", "b0", "b1", "c0"]
        assert queue.unprocessed == ["a2", "a3", "a4", "b2", "b3", "b4"]
        assert queue.statistics().retrying == 6
        await queue.join()
    assert sorted(service.calls) == sorted(
        [(f"{key}{number}", number // 2 * 10) for key in "ab" for number in range(5)] + [("c0", 0)]
    )
    assert [item for item in service.items if item[0] == "a"] == [f"a{n}" for n in range(5)]


async def test_an_item_is_not_looked_at_again_and_again() -> None:
    looks = 0

    def key(item: int) -> int:
        nonlocal looks
        looks += 1
        return 0

    service = Service()
    async with WorkQueue(1000, limits=[Limit(5, 1, key=key)], logger=SILENT) as queue:
        await queue.process(service, 3)
        await put_all(queue, *range(500))
        looks = 0
        await queue.join()
    assert service.calls == [(item, item // 5) for item in range(500)]
    assert looks <= 1000


async def test_another_attempt_comes_before_younger_items_of_its_key() -> None:
    service = Service({"a0": 1})
    limits = [Limit(1, 10, key=first)]
    async with WorkQueue(limits=limits, retry=every(1), logger=SILENT) as queue:
        await queue.process(service, 2)
        await put_all(queue, "a0", "a1", "a2")
        await queue.join()
    assert service.calls == [("a0", 0), ("a0", 10), ("a1", 20), ("a2", 30)]


async def test_costs_of_a_key_differ() -> None:
    service = Service()
    limit = Limit(4, 10, key=first, cost=lambda item: int(item[1]))
    async with WorkQueue(limits=[limit], logger=SILENT) as queue:
        await queue.process(service, 2)
        await put_all(queue, "a3", "a4", "a1", "a2", "a0", "b4")
        await queue.join()
    assert service.calls == [
        ("a3", 0),
        ("a0", 0),
        ("b4", 0),
        ("a4", 10),
        ("a1", 20),
        ("a2", 20),
    ]


async def test_when_all_workers_are_busy_others_have_what_would_be_reserved() -> None:
    limiter = Limiter([Limit(1, 10, key=first)])
    queue = queue_of(limiter)
    service = Service()

    async def call(item: str) -> None:
        await service(item)
        await asyncio.sleep(float(item[1:]))

    await queue.start_workers(call, 1)
    await put_all(queue, "a1", "a2", "b50")
    await asyncio.sleep(5)
    permit = asyncio.create_task(limiter.acquire("a9"))
    await asyncio.wait_for(permit, 10)
    assert now() == pytest.approx(10, abs=0.001)
    await queue.join()
    assert [(item, round(at)) for item, at in service.calls] == [("a1", 0), ("b50", 1), ("a2", 51)]
    await queue.stop()


async def test_two_keys_have_room_at_once_and_one_worker_is_free() -> None:
    limiter = Limiter([Limit(1, 10, key=first)])
    queue = queue_of(limiter)
    service = Service(takes=30)
    await queue.start_workers(service, 1)
    service.takes = 0
    await put_all(queue, "a1", "b1", "a2", "b2")
    await settle()
    service.takes = 30
    await asyncio.sleep(15)
    assert service.items == ["a1", "b1", "a2"]
    assert limiter.try_acquire("b") is not None  # the worker is busy with a2
    assert limiter.try_acquire("a") is None
    await queue.stop(timeout=0)


async def test_an_item_that_can_no_longer_be_in_time_fails_by_its_deadline() -> None:
    limiter = Limiter([Limit(1, 10, key=first)])
    queue = queue_of(limiter)
    service, handler = Service(), Handler()
    failed: list[tuple[Any, float]] = []

    def fail(error: BaseException, item: Any) -> None:
        failed.append((item, now()))
        handler(error, item)

    await queue.start_workers(service, 2, fail)
    assert await queue.put("a1")
    assert await queue.put("a2", deadline=15)
    assert await queue.put("a3", deadline=17)
    assert await queue.put("a4", deadline=5)
    assert await queue.put("a5")
    await settle()
    assert [item for item, _ in failed] == ["a4"], "no start before 10"
    await asyncio.sleep(9)
    limiter.close_for(30)
    await asyncio.sleep(7.5)
    assert [item for item, at in failed] == ["a4", "a2"]
    await queue.join()
    assert [item for item, _ in failed] == ["a4", "a2", "a3"]
    assert failed[2][1] <= 17.01
    assert {kind for _, kind in handler.kinds} == {DeadlineExceededError}
    assert service.items == ["a1", "a5"]
    await queue.stop()


async def test_a_job_takes_its_parked_items_back_and_leaves_those_of_others() -> None:
    service = Service()
    async with WorkQueue(limits=[Limit(1, 10, key=first)], logger=SILENT) as queue:
        await queue.process(service, 1)
        await put_all(queue, "a1", "a2")
        results = queue.map(service, ["a3", "b1", "a4", "b2"], num_workers=2)
        await anext(results)
        assert service.items[0] == "a1"
        await results.aclose()
        await put_all(queue, "a5")
        await queue.join()
    assert "a4" not in service.items
    assert [item for item in service.items if item in ("a1", "a2", "a5")] == ["a1", "a2", "a5"]


async def test_a_limit_for_all_and_one_for_each_key() -> None:
    service = Service()
    limits = [Limit(2, 10, key=first), Limit(3, 10, name="all")]
    async with WorkQueue(limits=limits, logger=SILENT) as queue:
        await queue.process(service, 4)
        await put_all(queue, *[f"{key}{number}" for number in range(4) for key in "abc"])
        await queue.join()
    times = [at for _, at in service.calls]
    assert times == [10 * (number // 3) for number in range(12)]
    assert [item for item in service.items if item[0] == "c"] == ["c0", "c1", "c2", "c3"]
