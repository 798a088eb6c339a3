"""What type checkers make of the blocking face."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from typing import Any

from typing_extensions import assert_type

from penstock import AdaptiveConcurrency, BoundedQueue, DeadLetter, Limit, QueueConfig, QueueStatus
from penstock.sync import LoopThread, Result, WorkQueue


async def fetch(item: int) -> str:
    return str(item)


def compute(item: int) -> float:
    return item / 2


def numbers() -> Iterator[int]:
    yield 1


async def numbers_to_await() -> AsyncIterator[int]:
    yield 1


def on_error(error: Exception, item: int) -> None:
    pass


async def on_error_async(error: Exception, item: int) -> None:
    pass


def its_life() -> None:
    queue = WorkQueue[int](10, 0.5, 5, name="numbers", limits=[Limit(5, per=1)])
    assert_type(queue, WorkQueue[int])
    with queue as entered:
        assert_type(entered, WorkQueue[int])
    assert_type(queue.status, QueueStatus)
    assert_type(queue.unprocessed, list[int])
    assert_type(queue.dead_letters, list[DeadLetter[int]])
    assert_type(queue.metrics, dict[str, int])
    assert_type(queue.join(timeout=1), bool)
    assert_type(queue.stop(timeout=1, drain=False), bool)
    assert_type(queue.redrive(), int)
    assert_type(WorkQueue(queue=BoundedQueue[str]()), WorkQueue[str])
    configured: WorkQueue[int] = WorkQueue.from_config(QueueConfig())
    assert_type(configured.maxsize, int)


def items_and_results() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert_type(queue.put(1, timeout=0), bool)
    assert_type(queue.get(timeout=1), int)
    assert_type(queue.get_nowait(), int)
    result = queue.submit(1, timeout=1, deadline=5)
    assert_type(result, Result)
    future: concurrent.futures.Future[Any] = result
    assert_type(future.exception(timeout=1), BaseException | None)
    queue.process(fetch, 2, on_error_async)
    queue.process(compute, AdaptiveConcurrency(1, 5), on_error)
    queue.batch_process(numbers(), compute, 3, on_error, progress=True)
    queue.batch_process([1], fetch)


def consumers() -> None:
    queue: WorkQueue[int] = WorkQueue()
    queue.close()
    assert_type(queue.is_closed, bool)
    assert_type(list(queue), list[int])
    for item in queue:
        assert_type(item, int)
    with closing(queue.items()) as items:
        assert_type(next(items), int)
    with queue.processing(timeout=1) as item:
        assert_type(item, int)


def maps() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert_type(queue.map(fetch, [1]), Generator[str, None, None])
    assert_type(queue.map(compute, numbers(), num_workers=2), Generator[float, None, None])
    assert_type(list(queue.map(fetch, range(3), ordered=False)), list[str])
    assert_type(list(queue.map(str, [1], return_exceptions=False)), list[str])
    for text in queue.map(fetch, [1], return_exceptions=True):
        assert_type(text, str | BaseException)
    for number in queue.map(compute, [1], ordered=False, return_exceptions=True):
        assert_type(number, float | BaseException)


def elsewhere(thread: LoopThread) -> None:
    assert_type(thread.call(fetch, 1), str)


def wrong_uses() -> None:
    queue: WorkQueue[int] = WorkQueue()
    queue.put("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    queue.submit("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    queue.map(fetch, ["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType, reportCallIssue]
    queue.map(fetch, numbers_to_await())  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    queue.batch_process(numbers_to_await(), fetch)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    queue.process(len, 2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    queue.process(fetch, 2, fetch)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
