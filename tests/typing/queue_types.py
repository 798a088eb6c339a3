"""What type checkers make of queues: the item's type goes in, the result's type comes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from typing_extensions import assert_type

import penstock
import penstock.sync
from penstock import (
    BoundedQueue,
    QueueConfig,
    QueueFullError,
    QueueStateError,
    QueueStatistics,
    QueueStatus,
    RateLimitError,
    WorkQueue,
)
from penstock.limits.rate.limiter import Limiter
from penstock.protocols import AsyncResourceManager, Queue, RateLimiter


async def fetch(item: int) -> str:
    return str(item)


def compute(item: int) -> float:
    return item / 2


async def on_error(error: Exception, item: int) -> None:
    pass


def on_error_plainly(error: Exception, item: int) -> None:
    pass


class AsyncCallable:
    async def __call__(self, item: int) -> bytes:
        return bytes(item)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def bounded_queue() -> None:
    queue = BoundedQueue[int](10, 0.5, logging.getLogger(), name="numbers")
    assert_type(queue, BoundedQueue[int])
    async with queue as entered:
        assert_type(entered, BoundedQueue[int])
    await queue.start()
    assert_type(await queue.put(1), bool)
    assert_type(await queue.put(1, timeout=0), bool)
    assert_type(await queue.get(), int)
    assert_type(queue.get_nowait(), int)
    async with queue.processing(timeout=1) as item:
        assert_type(item, int)
    assert_type(await queue.submit(1), asyncio.Future[Any])
    assert_type(await queue.stop(timeout=1, drain=False), bool)
    assert_type(queue.unprocessed, list[int])
    assert_type(queue.metrics, dict[str, int])
    assert_type(queue.status, QueueStatus)
    assert_type(queue.statistics(), QueueStatistics)
    assert_type(queue.timeout, float)
    assert_type(queue.logger, logging.Logger)
    await queue.start_workers(fetch, 5)
    await queue.start_workers(compute, num_workers=5, error_handler=on_error)
    await queue.start_workers(AsyncCallable(), 5, on_error_plainly)


async def consumers() -> None:
    bounded, work = BoundedQueue[int](), WorkQueue[int]()
    assert_type(bounded.is_closed, bool)
    bounded.close()
    work.close()
    async for item in bounded:
        assert_type(item, int)
    async for item in work:
        assert_type(item, int)
    async with aclosing(bounded.items()) as items:
        assert_type(await anext(items), int)
    async with aclosing(work.items()) as items:
        async for item in items:
            assert_type(item, int)
    async with work.processing() as item:
        assert_type(item, int)


async def work_queue() -> None:
    queue = WorkQueue[int](maxsize=100, timeout=0.1, concurrency_limit=5)
    assert_type(queue, WorkQueue[int])
    assert_type(queue.queue, Queue[int])
    assert_type(queue.concurrency_limit, int | penstock.AdaptiveConcurrency | None)
    async with queue as entered:
        assert_type(entered, WorkQueue[int])
    assert_type(await queue.put(1), bool)
    assert_type(await queue.get(), int)
    assert_type(queue.unprocessed, list[int])
    assert_type(queue.status, QueueStatus)
    assert_type(await queue.stop(), bool)
    await queue.process(fetch)
    await queue.process(compute, num_workers=2, error_handler=on_error)
    await queue.process(lambda item: item + 1)
    await queue.batch_process([1, 2], fetch, progress=True)
    await queue.batch_process(numbers(), compute, 3, on_error)

    assert_type(WorkQueue(queue=BoundedQueue[str]()), WorkQueue[str])
    config = QueueConfig(queue_capacity=5)
    configured: WorkQueue[int] = WorkQueue.from_config(config)
    assert_type(WorkQueue[int].from_config(config), WorkQueue[int])
    assert_type(configured.maxsize, int)


async def map_of_async_functions() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert_type(queue.map(fetch, [1]), AsyncGenerator[str, None])
    async for text in queue.map(fetch, range(3), num_workers=2, ordered=False):
        assert_type(text, str)
    async for text in queue.map(fetch, numbers(), return_exceptions=False):
        assert_type(text, str)
    async for data in queue.map(AsyncCallable(), [1]):
        assert_type(data, bytes)
    async for text in queue.map(partial(fetch), [1]):
        assert_type(text, str)
    assert_type([text async for text in queue.map(fetch, [1])], list[str])


async def map_of_plain_functions() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert_type(queue.map(compute, [1]), AsyncGenerator[float, None])
    async for number in queue.map(compute, numbers()):
        assert_type(number, float)
    async for text in queue.map(str, [1]):
        assert_type(text, str)


async def map_that_returns_exceptions() -> None:
    queue: WorkQueue[int] = WorkQueue()
    async for text in queue.map(fetch, [1], return_exceptions=True):
        assert_type(text, str | BaseException)
    async for number in queue.map(compute, [1], return_exceptions=True):
        assert_type(number, float | BaseException)


async def fetch_many(items: list[int]) -> list[str]:
    return [str(item) for item in items]


def compute_many(items: list[int]) -> tuple[float, ...]:
    return tuple(map(float, items))


async def batches() -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.process_batches(fetch_many, max_size=10, max_wait=0.1)
    await queue.process_batches(print, max_size=10, max_wait=0.1)
    assert_type(queue.map_batches(fetch_many, [1], max_size=2), AsyncGenerator[str, None])
    async for number in queue.map_batches(compute_many, numbers(), max_size=2, max_wait=1):
        assert_type(number, float)
    async for text in queue.map_batches(fetch_many, [1], max_size=2, return_exceptions=True):
        assert_type(text, str | BaseException)


async def what_an_operator_calls() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert_type(await queue.put_many([1, 2], timeout=1), int)
    assert_type(queue.clear(), list[int])
    assert_type(queue.remove(lambda item: item > 1), list[int])
    assert_type([held.item for held in queue.in_hand()], list[int])
    assert_type(queue.cancel(await queue.submit(1)), bool)
    assert_type(queue.is_paused, bool)


async def map_in_all_its_ways() -> None:
    queue: WorkQueue[int] = WorkQueue()
    limit = penstock.AdaptiveConcurrency(1, 5)
    async for text in queue.map(fetch, numbers(), num_workers=limit, return_exceptions=True):
        assert_type(text, str | BaseException)
    async for number in queue.map(compute, numbers(), ordered=False, return_exceptions=True):
        assert_type(number, float | BaseException)
    results = queue.map(fetch, [1])
    assert_type(await results.__anext__(), str)
    await results.aclose()


async def results_and_dead_letters() -> None:
    bounded, work = BoundedQueue[int](), WorkQueue[int]()
    future = await work.submit(1, timeout=1, deadline=5)
    assert_type(future, asyncio.Future[Any])
    assert_type(await bounded.submit(1, call=fetch), asyncio.Future[Any])
    assert_type(bounded.dead_letters, list[penstock.DeadLetter[int]])
    assert_type(bounded.limiter, Limiter)
    assert_type(await bounded.redrive(timeout=1), int)
    async with bounded.processing() as item, bounded.processing() as other:
        assert_type(item + other, int)


async def results_of_known_types(unknown: WorkQueue[int]) -> None:
    queue = WorkQueue[int, str](maxsize=10)
    assert_type(queue, WorkQueue[int, str])
    assert_type(unknown, WorkQueue[int, Any])
    await queue.process(fetch)
    await queue.process(str)
    future = await queue.submit(1)
    assert_type(future, asyncio.Future[str])
    assert_type(await future, str)
    await results_of_known_types(queue)
    assert_type(queue.map(compute, [1]), AsyncGenerator[float, None])  # has its own function
    await queue.process(compute)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def blocking_results_of_known_types() -> None:
    with penstock.sync.WorkQueue[int, str]() as queue:
        queue.process(fetch)
        assert_type(queue.submit(1), penstock.sync.Result[str])
        assert_type(queue.submit(1).result(timeout=5), str)
        queue.process(compute)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def wrong_uses() -> None:
    bounded, work = BoundedQueue[int](), WorkQueue[int]()
    await bounded.put("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await bounded.submit("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await bounded.start_workers(len, 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await bounded.start_workers(fetch)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with bounded:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
    await work.process(len)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await work.process(fetch, error_handler=fetch)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await work.batch_process(["a"], fetch)  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    work.map(fetch, ["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType, reportCallIssue]
    work.map(fetch, 5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    WorkQueue[str](queue=bounded)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    WorkQueue[int](limits=penstock.Limit(5, per=1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    for _ in work.map(fetch, [1]):  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass


async def wrong_items() -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.put("text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    queue.put_nowait("text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def meets_its_protocols(
    bounded: BoundedQueue[int], work: WorkQueue[int], limiter: Limiter
) -> tuple[Queue[int], AsyncResourceManager, AsyncResourceManager, RateLimiter]:
    """A class meets a protocol when it may be returned for one."""
    return bounded, bounded, work, limiter


def errors(full: QueueFullError, state: QueueStateError, rate: RateLimitError) -> None:
    assert_type(full.queue_size, int | None)
    assert_type(full.queue_capacity, int | None)
    assert_type(state.current_state, str | None)
    assert_type(rate.retry_after, float | None)
    assert_type(rate.message, str)


async def rules(client: Callable[[str], Awaitable[int]]) -> None:
    tokens = penstock.Limit(90_000, per=60, cost=len, key=lambda item: item[:1], name="tokens")
    limiter = penstock.Limiter([penstock.Limit(500, per=60), tokens])
    queue = penstock.WorkQueue[str](
        concurrency_limit=penstock.AdaptiveConcurrency(1, 50),
        limits=limiter,
        retry=penstock.RetryPolicy(attempts=3, on=(ConnectionError, TimeoutError)),
        breaker=penstock.CircuitBreaker(),
        deadline=30,
    )
    await queue.process(client, penstock.AdaptiveConcurrency(1, 5))
    assert_type(await queue.put("a", deadline=5), bool)
    assert_type(queue.dead_letters, list[penstock.DeadLetter[str]])
    assert_type(await queue.redrive(), int)
    assert_type(queue.limits, penstock.Limiter)
    async with limiter as permit:
        permit.settle(tokens, 5)


def blocking() -> None:
    with penstock.sync.WorkQueue[str](limits=[penstock.Limit(5, per=1)]) as queue:
        queue.process(len, 2)
        assert_type(queue.put("a"), bool)
        assert_type(queue.get(), str)
        assert_type(queue.submit("a"), penstock.sync.Result[Any])
        assert_type(queue.join(timeout=1), bool)
        assert_type(queue.stop(), bool)
        assert_type(queue.unprocessed, list[str])
        for length in queue.map(len, ["a"]):
            assert_type(length, int)
        for either in queue.map(len, ["a"], return_exceptions=True):
            assert_type(either, int | BaseException)
        queue.put(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
