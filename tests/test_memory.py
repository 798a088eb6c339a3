"""What a queue costs in memory: nothing per item that is done, little per item that waits."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from penstock import BoundedQueue, Limit, RetryPolicy, WorkQueue

MAXSIZE = 100
WORKERS = 4

#: The bytes per item that waits, the item itself not counted but its context included.
BYTES_PER_ITEM = 240


class Item:
    """Counts how many of its kind are alive."""

    alive = 0
    most = 0
    lock = threading.RLock()  # they may die in any thread

    __slots__ = ()

    def __init__(self) -> None:
        with Item.lock:
            Item.alive += 1
            Item.most = max(Item.most, Item.alive)

    def __del__(self) -> None:
        with Item.lock:
            Item.alive -= 1


@pytest.fixture
def items() -> type[Item]:
    Item.alive = Item.most = 0
    return Item


@contextmanager
def measured() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def trivial(item: object) -> None:
    pass


async def waiting(item: object) -> None:
    await asyncio.sleep(0)


@pytest.mark.real_time
@pytest.mark.parametrize("worker_func", [trivial, waiting])
async def test_no_more_items_live_than_wait_and_are_in_hand(
    items: type[Item], worker_func: Any
) -> None:
    queue: WorkQueue[Item] = WorkQueue(MAXSIZE, concurrency_limit=WORKERS)
    gc.disable()  # what only the collector frees counts as alive
    try:
        await queue.batch_process((items() for _ in range(100_000)), worker_func)
    finally:
        gc.enable()
    assert queue.metrics["processed"] == 100_000
    assert items.most <= MAXSIZE + WORKERS + 1
    assert items.alive == 0


@pytest.mark.real_time
async def test_ten_times_the_items_take_no_more_memory() -> None:
    async def peak(count: int) -> int:
        queue: WorkQueue[bytes] = WorkQueue(MAXSIZE, concurrency_limit=WORKERS)
        with measured():
            await queue.batch_process((bytes(1000) for _ in range(count)), trivial)
            return tracemalloc.get_traced_memory()[1]

    await peak(1_000)  # what is made only once
    few = await peak(10_000)
    many = await peak(100_000)
    assert many < few + 20_000  # twenty items; ten times as many would be a hundred million bytes


async def test_an_item_that_waits_takes_few_bytes() -> None:
    count = 10_000
    queue: BoundedQueue[None] = BoundedQueue(maxsize=count)
    await queue.start()
    variable: ContextVar[int] = ContextVar("variable")
    variable.set(1)  # a context that is not empty, as in any real program
    with measured():
        for _ in range(count):
            queue.put_nowait(None)
        used, _ = tracemalloc.get_traced_memory()
    assert queue.size == count
    assert variable in copy_context()
    assert used / count <= BYTES_PER_ITEM
    await queue.stop()


async def failing(item: object) -> None:
    raise ValueError


async def failing_later(item: object) -> None:
    await asyncio.sleep(0)
    raise ValueError


def failing_in_a_thread(item: object) -> None:
    raise ValueError


def failing_handler(error: BaseException, item: object) -> None:
    raise KeyError


# An exception holds the frames it came through, and these hold the item. If one of them held the
# exception, large items that failed would pile up until the garbage collector looks for cycles.
@pytest.mark.parametrize(
    ("worker_func", "error_handler"),
    [
        (trivial, None),
        (waiting, None),
        (failing, None),
        (failing_later, None),
        (failing_in_a_thread, None),
        (failing, failing_handler),
    ],
)
async def test_nothing_holds_an_item_that_is_done(
    items: type[Item],
    worker_func: Any,
    error_handler: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL + 1, "penstock")  # pytest keeps what is logged
    queue: BoundedQueue[Item] = BoundedQueue(maxsize=100)
    gc.collect()
    gc.disable()
    try:
        await queue.start_workers(worker_func, WORKERS, error_handler)
        for _ in range(100):
            queue.put_nowait(items())
        assert items.alive >= 100
        await queue.join()
        await asyncio.sleep(0.1)
        give_up_at = time.monotonic() + 60
        while items.alive and time.monotonic() < give_up_at:
            time.sleep(0.001)  # noqa: ASYNC251 - a thread drops an item just after its result
        assert items.alive == 0
    finally:
        gc.enable()
    await queue.stop()


async def test_a_dead_letter_keeps_no_item_but_its_own(items: type[Item]) -> None:
    async def work(item: Item) -> None:
        if item is bad:
            raise ValueError("bad")

    queue: WorkQueue[Item] = WorkQueue(limits=[Limit(1, per=60)], retry=RetryPolicy(1))
    await queue.process(work, 1, failing_handler)
    bad = items()
    queue.put_nowait(bad)
    queue.put_nowait(items())
    await asyncio.sleep(1)  # the same worker has it in hand, and waits for the limit
    await queue.stop(timeout=0)
    await queue.process(work, 1)
    await queue.join()
    await queue.stop()
    gc.collect()
    assert [letter.item for letter in queue.dead_letters] == [bad]
    assert items.alive == 1


async def test_puts_that_waited_leave_no_deadlines_behind() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)

    async def put_all(count: int) -> None:
        for number in range(count):  # each waits for room, and could for an hour
            assert await queue.put(number, timeout=3600)

    async with queue:
        await queue.start_workers(waiting, 1)
        await put_all(1_000)
        with measured():
            before, _ = tracemalloc.get_traced_memory()
            await put_all(10_000)
            after, _ = tracemalloc.get_traced_memory()
    assert after - before < 100_000  # a deadline for each would be a megabyte
