"""Waits for a queue from inside its own items, by tasks and threads that the items have started."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from helpers.tasks import for_ever, settle, until
from penstock import BoundedQueue, QueueStateError, WorkQueue


async def in_a_task(wait: Awaitable[Any]) -> Any:
    """What ``asyncio.wait_for`` does before Python 3.12, and ``asyncio.gather`` always."""
    return (await asyncio.gather(wait))[0]


async def test_a_join_in_a_task_that_an_item_awaits_is_refused() -> None:
    async def work(item: int) -> None:
        await in_a_task(queue.join())

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(work, 1)
        with pytest.raises(QueueStateError, match="Call it in the code that puts the items"):
            await (await queue.submit(1))


@pytest.mark.real_time
async def test_a_join_that_a_plain_function_has_made_in_the_loop_is_refused() -> None:
    def work(item: int) -> None:
        asyncio.run_coroutine_threadsafe(queue.join(), loop).result()

    loop = asyncio.get_running_loop()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(work, 1)
        with pytest.raises(QueueStateError, match="inside a worker function"):
            await (await queue.submit(1))


@pytest.mark.parametrize("workers", [1, 2])
async def test_puts_in_tasks_of_all_workers_are_refused(workers: int) -> None:
    told = []

    async def greedy(item: int) -> None:
        if item >= workers:
            return
        puts = [queue.put(item + 10 * more, timeout=math.inf) for more in (1, 2, 3)]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        told.extend(outcome for outcome in outcomes if outcome is not True)

    async with BoundedQueue[int](workers) as queue:
        for item in range(workers):
            await queue.put(item)
        await queue.start_workers(greedy, workers)
        await queue.join()
    assert told
    assert all("no worker would make room" in str(error) for error in told)


async def test_several_puts_of_one_item_do_not_stand_for_several_workers() -> None:
    outcomes = []

    async def greedy(item: int) -> None:
        if not item:
            puts = [queue.put(more, timeout=math.inf) for more in range(1, 7)]
            outcomes.extend(await asyncio.gather(*puts))

    async with BoundedQueue[int](1) as queue:
        await queue.start_workers(greedy, 2)
        await queue.put(0)
        await queue.join()
    assert outcomes == [True] * 6


async def test_what_an_item_has_left_behind_may_wait() -> None:
    """The item has ended, and its worker makes room."""
    left_behind: list[asyncio.Task[Any]] = []
    may_go_on = asyncio.Event()

    async def follow_up(item: int) -> None:
        await may_go_on.wait()
        await queue.put(item, timeout=math.inf)
        await queue.join()

    async def work(item: int) -> None:
        if item < 3:
            left_behind.append(asyncio.create_task(follow_up(item + 10)))
        await asyncio.sleep(1)

    async with BoundedQueue[int](1) as queue:
        await queue.start_workers(work, 1)
        for item in range(3):
            await queue.put(item, timeout=math.inf)
        await queue.join()
        may_go_on.set()
        await asyncio.gather(*left_behind)
        assert queue.metrics["processed"] == 6


async def test_an_item_of_another_queue_is_inside_of_that_one_alone() -> None:
    """Two stages, the second of which puts back into the first."""
    done = []

    async def first(item: int) -> None:
        if item < 3:
            await two.put(item, timeout=math.inf)
            await for_more.wait()
        done.append(item)

    async def second(item: int) -> None:
        asyncio.get_running_loop().call_later(1, for_more.set)
        await in_a_task(one.put(item + 10, timeout=math.inf))

    for_more = asyncio.Event()
    async with BoundedQueue[int](1) as one, BoundedQueue[int](1) as two:
        await one.start_workers(first, 1)
        await two.start_workers(second, 1)
        for item in range(3):
            await one.put(item, timeout=math.inf)
        await until(lambda: len(done) == 6)
    assert sorted(done) == [0, 1, 2, 10, 11, 12]


async def test_items_of_items_are_served_in_whatever_task_they_are_awaited() -> None:
    async def factorial(item: int) -> int:
        await asyncio.sleep(1)
        return item * (await in_a_task(await queue.submit(item - 1))) if item else 1

    async with BoundedQueue[int](100) as queue:
        await queue.start_workers(factorial, 1)
        assert await (await queue.submit(5)) == 120
        await settle()
        assert queue.worker_count == 1


async def wait_for(future: asyncio.Future[int]) -> int:
    await asyncio.wait([future])
    return future.result()


async def shield(future: asyncio.Future[int]) -> int:
    return await asyncio.shield(future)


@pytest.mark.parametrize("wait", [in_a_task, wait_for, shield])
@pytest.mark.parametrize("workers", [1, 2])
async def test_items_that_wait_for_several_of_their_own_queue_do_not_hang(
    workers: int, wait: Callable[[Any], Awaitable[int]]
) -> None:
    async def total(depth: int) -> int:
        if not depth:
            return 1
        futures = [await queue.submit(depth - 1) for _ in range(2)]
        return sum(await asyncio.gather(*(wait(future) for future in futures)))

    async with BoundedQueue[int](100) as queue:
        await queue.start_workers(total, workers)
        futures = [await queue.submit(5) for _ in range(3)]
        assert await asyncio.gather(*futures) == [32, 32, 32]
        await settle()
        assert queue.worker_count == workers


async def test_an_item_that_only_wants_to_hear_of_another_adds_no_worker() -> None:
    at_once = most = 0
    heard = []

    async def work(item: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if not item:
            (await queue.submit(1)).add_done_callback(heard.append)
        await asyncio.sleep(1)
        at_once -= 1

    async with BoundedQueue[int](10) as queue:
        await queue.start_workers(work, 2)
        for item in (0, 1, 1, 1):
            await queue.put(item)
        await queue.join()
    assert most == 2
    assert len(heard) == 1


async def test_jobs_in_tasks_of_an_item_are_served() -> None:
    async def double(item: int) -> int:
        await asyncio.sleep(1)
        return 2 * item

    async def work(item: int) -> list[list[int]]:
        async def doubles() -> list[int]:
            return [result async for result in queue.map(double, range(item))]

        return list(await asyncio.gather(doubles(), doubles()))

    async with WorkQueue[int](2, concurrency_limit=1) as queue:
        await queue.process(work)
        assert await (await queue.submit(5)) == [[0, 2, 4, 6, 8]] * 2


async def test_an_error_handler_is_inside_its_item() -> None:
    told: list[str] = []

    async def fail(item: int) -> None:
        raise ValueError

    async def handle(error: Exception, item: int) -> None:
        try:
            await in_a_task(queue.join())
        except QueueStateError as refusal:
            told.append(str(refusal))

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(fail, 1, handle)
        await queue.put(1)
        await queue.join()
    assert len(told) == 1


@pytest.mark.parametrize("what", ["stop", "stop_workers"])
async def test_what_the_refusal_of_a_stop_says_works(what: str) -> None:
    tasks: list[asyncio.Task[Any]] = []
    told: list[str] = []

    async def work(item: int) -> None:
        call: Callable[[], Any] = getattr(queue, what)
        try:
            await call()
        except QueueStateError as error:
            told.append(str(error))
            tasks.append(asyncio.create_task(call()))
        await asyncio.sleep(1)

    queue = BoundedQueue[int]()
    await queue.start_workers(work, 1)
    await queue.put(1)
    while not tasks:
        await settle()
    assert f"Use asyncio.create_task(queue.{what}()) and do not await it there" in told[0]
    await tasks[0]
    assert queue.metrics["processed"] == 1
    assert queue.worker_count == 0
    await queue.stop()


async def test_a_worker_of_one_queue_may_join_another() -> None:
    async def work(item: int) -> None:
        await other.put(item)
        await in_a_task(other.join())

    async with BoundedQueue[int]() as queue, BoundedQueue[int]() as other:
        await other.start_workers(lambda item: for_ever() if item < 0 else settle(), 1)
        await queue.start_workers(work, 1)
        await queue.put(1)
        await queue.join()
        assert other.metrics["processed"] == 1


async def test_an_item_of_a_larger_job_that_waits_adds_no_call_to_the_standing_one() -> None:
    at_once: dict[str, int] = {"process": 0, "map": 0}
    most = dict(at_once)

    async def enter(name: str) -> None:
        at_once[name] += 1
        most[name] = max(most[name], at_once[name])
        await asyncio.sleep(1)
        at_once[name] -= 1

    async def work(item: int) -> None:
        await enter("process")

    async def submits(item: int) -> None:
        await enter("map")
        await (await queue.submit(item))

    async with WorkQueue[int](20) as queue:
        await queue.process(work, 1)
        assert len([result async for result in queue.map(submits, range(8), num_workers=4)]) == 8
    assert most == {"process": 1, "map": 4}


async def test_workers_that_are_replaced_while_an_item_waits_are_replaced_by_as_many() -> None:
    """The item that it waits for belongs to whoever has the queue by then."""

    async def submits(item: int) -> str:
        await queue.put(0)
        return str(await (await queue.submit(item)))

    async def first(item: int) -> None:
        is_held.set()
        await may_go_on.wait()

    async def second(item: int) -> str:
        return f"second {item}"

    may_go_on, is_held = asyncio.Event(), asyncio.Event()
    async with WorkQueue[int](20, concurrency_limit=1) as queue:
        await queue.process(first)
        results = queue.map(submits, [1])
        job = asyncio.ensure_future(anext(results))
        await is_held.wait()  # by the worker that is there since an item waits
        await queue.process(second)
        assert await job == "second 1"
        may_go_on.set()
        await results.aclose()
