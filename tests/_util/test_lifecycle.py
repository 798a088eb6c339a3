"""What a way out of ``async with`` means for everything that starts and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from helpers.tasks import settle
from helpers.workers import Worker
from penstock import BoundedQueue, Event, Executor, QueueConfig, WorkQueue


class Queued(Event):
    """Calls the worker function that its test made."""

    worker: Worker

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    async def invoke(self) -> None:
        await self.worker(self.number)


async def with_queue(queue: Any, worker: Worker) -> None:
    async with queue:
        await queue.start_workers(worker, 1)
        for item in range(3):
            await queue.put(item)
        await leave_as_one_ends(worker)


async def with_work_queue(queue: Any, worker: Worker) -> None:
    async with queue:
        await queue.process(worker, 1)
        for item in range(3):
            await queue.put(item)
        await leave_as_one_ends(worker)


async def with_executor(executor: Any, worker: Worker) -> None:
    Queued.worker = worker
    async with executor:
        for number in range(3):
            executor.append(Queued(number))
        await executor.forward()
        await leave_as_one_ends(worker)


async def leave_as_one_ends(worker: Worker) -> None:
    """Raise in the very turn in which the worker can go on."""
    await settle()
    assert worker.began == [0]
    worker.may_go_on.set()
    raise KeyError


USES: list[tuple[Callable[[], Any], Callable[[Any, Worker], Awaitable[None]]]] = [
    (BoundedQueue, with_queue),
    (WorkQueue, with_work_queue),
    (lambda: Executor(Queued, QueueConfig(concurrency_limit=1)), with_executor),
]


@pytest.mark.parametrize(("make", "use"), USES, ids=["BoundedQueue", "WorkQueue", "Executor"])
async def test_nothing_more_is_begun_once_an_exception_leaves(
    make: Callable[[], Any], use: Callable[[Any, Worker], Awaitable[None]]
) -> None:
    worker, used = Worker(held=True), make()
    with pytest.raises(KeyError):
        await use(used, worker)
    assert (worker.began, worker.done) == ([0], [0])
    left = used.queue.unprocessed if isinstance(used, Executor) else used.unprocessed
    assert [item.number if isinstance(item, Queued) else item for item in left] == [1, 2]
    assert len(asyncio.all_tasks()) == 1
