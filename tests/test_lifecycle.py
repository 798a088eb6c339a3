"""What a way out of ``async with`` means for everything that starts and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock import BoundedQueue, Event, Executor, QueueConfig, WorkQueue
from virtual_time import Gate, settle


class Queued(Event):
    """Goes through the gate that its test made."""

    gate: Gate

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    async def invoke(self) -> None:
        await self.gate(self.number)


async def with_queue(queue: Any, gate: Gate) -> None:
    async with queue:
        await queue.start_workers(gate, 1)
        for item in range(3):
            await queue.put(item)
        await leave_as_one_ends(gate)


async def with_work_queue(queue: Any, gate: Gate) -> None:
    async with queue:
        await queue.process(gate, 1)
        for item in range(3):
            await queue.put(item)
        await leave_as_one_ends(gate)


async def with_executor(executor: Any, gate: Gate) -> None:
    Queued.gate = gate
    async with executor:
        for number in range(3):
            executor.append(Queued(number))
        await executor.forward()
        await leave_as_one_ends(gate)


async def leave_as_one_ends(gate: Gate) -> None:
    """Raise in the very turn in which the worker can go on."""
    await settle()
    assert gate.seen == [0]
    gate.open.set()
    raise KeyError


USES: list[tuple[Callable[[], Any], Callable[[Any, Gate], Awaitable[None]]]] = [
    (BoundedQueue, with_queue),
    (WorkQueue, with_work_queue),
    (lambda: Executor(Queued, QueueConfig(concurrency_limit=1)), with_executor),
]


@pytest.mark.parametrize(("make", "use"), USES, ids=["BoundedQueue", "WorkQueue", "Executor"])
async def test_nothing_more_is_begun_once_an_exception_leaves(
    make: Callable[[], Any], use: Callable[[Any, Gate], Awaitable[None]]
) -> None:
    gate, used = Gate(), make()
    with pytest.raises(KeyError):
        await use(used, gate)
    assert (gate.seen, gate.done) == ([0], [0])
    left = used.queue.unprocessed if isinstance(used, Executor) else used.unprocessed
    assert [item.number if isinstance(item, Queued) else item for item in left] == [1, 2]
    assert len(asyncio.all_tasks()) == 1
