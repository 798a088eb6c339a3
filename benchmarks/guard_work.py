"""What a version of the package is given to do by ``guard.py``.

``guard_sides.py`` imports this module anew for each version, as it does the package: then neither
version works with what the interpreter has learned about the other. It keeps to what is public and
stays, and needs no more than the package does.
"""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any, TypeAlias

import penstock
from penstock import BoundedQueue, Limit, RetryPolicy, WorkQueue
from penstock.sync import WorkQueue as BlockingWorkQueue

BOUND, WORKERS, PRODUCERS = 100, 10, 4
#: Seconds for what is not measured.
LIMIT = 60.0

Ours: TypeAlias = "BoundedQueue[int] | WorkQueue[int]"


@dataclass(frozen=True)
class Line:
    """One thing that is compared: ``run(items)`` says what the items cost."""

    run: Callable[[int], float]
    #: Items in a slice, which takes a few milliseconds.
    items: int
    unit: str = "µs"


async def do_nothing(_: object) -> None:
    pass


def plain(_: object) -> None:
    pass


def microseconds() -> float:
    """The CPU time of all threads of the process."""
    return process_time() * 1e6


def in_loop(main: Callable[[int], Coroutine[Any, Any, float]], items: int) -> float:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main(items))
    finally:
        loop.close()


# -- one event loop -------------------------------------------------------------------------------


async def through(queue: Ours, items: int) -> float:
    begin = microseconds()
    for item in range(items):
        while not await queue.put(item):
            pass
    await queue.join()
    return microseconds() - begin


async def bounded_queue(items: int) -> float:
    async with BoundedQueue[int](BOUND) as queue:
        await queue.start_workers(do_nothing, WORKERS)
        return await through(queue, items)


async def work_queue(items: int) -> float:
    async with WorkQueue[int](BOUND, concurrency_limit=WORKERS) as queue:
        await queue.process(do_nothing)
        return await through(queue, items)


async def by_priority(items: int) -> float:
    order = penstock.Priorities(key=lambda item: item % 10)
    async with BoundedQueue[int](BOUND, order=order) as queue:
        await queue.start_workers(do_nothing, WORKERS)
        return await through(queue, items)


async def by_key(items: int) -> float:
    order = penstock.FairShares(key=lambda item: item % 10)
    async with BoundedQueue[int](BOUND, order=order) as queue:
        await queue.start_workers(do_nothing, WORKERS)
        return await through(queue, items)


async def under_rules(items: int) -> float:
    # The limit has room, and a short window: starts enter it and leave it again.
    limits = [Limit(1_000_000, 0.01)]
    async with WorkQueue[int](
        BOUND, concurrency_limit=WORKERS, limits=limits, retry=RetryPolicy()
    ) as queue:
        await queue.process(do_nothing)
        return await through(queue, items)


async def refused(items: int) -> float:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        begin = microseconds()
        for item in range(items):
            await queue.put(item, timeout=0)
        cost = microseconds() - begin
        queue.get_nowait()
        queue.task_done()
        return cost


async def bytes_queued(items: int) -> float:
    stock = [object() for _ in range(items)]
    async with BoundedQueue[object](items) as queue:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for item in stock:
            await queue.put(item)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await queue.start_workers(do_nothing, 1)
        return after - before


# -- threads --------------------------------------------------------------------------------------


def from_threads(work: Callable[[int], object], items: int) -> float:
    with BlockingWorkQueue[int](BOUND, concurrency_limit=WORKERS) as queue:
        queue.process(work)
        everybody = threading.Barrier(PRODUCERS + 1)

        def produce() -> None:
            everybody.wait(LIMIT)
            for item in range(items // PRODUCERS):
                while not queue.put(item):
                    pass

        threads = [threading.Thread(target=produce, daemon=True) for _ in range(PRODUCERS)]
        for thread in threads:
            thread.start()
        begin = microseconds()
        everybody.wait(LIMIT)
        for thread in threads:
            thread.join()
        queue.join()
        return microseconds() - begin


LINES = {
    "memory of an item that waits": Line(partial(in_loop, bytes_queued), 2_000, "bytes"),
    "item, BoundedQueue": Line(partial(in_loop, bounded_queue), 2_000),
    "item, WorkQueue": Line(partial(in_loop, work_queue), 2_000),
    "item under a limit and retries": Line(partial(in_loop, under_rules), 300),
    "put refused": Line(partial(in_loop, refused), 5_000),
    "put from 4 threads, async workers": Line(partial(from_threads, do_nothing), 1_000),
    "put from 4 threads, plain workers": Line(partial(from_threads, plain), 1_000),
}
if hasattr(penstock, "FairShares"):  # an older version has no orders
    LINES["item of 10 priorities"] = Line(partial(in_loop, by_priority), 2_000)
    LINES["item of 10 keys"] = Line(partial(in_loop, by_key), 2_000)
