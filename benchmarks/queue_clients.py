"""Ways to take items through a queue in one event loop, for ``queue.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any, TypeAlias

import anyio
import janus

from benchmarks.harness import Contestant
from penstock import BoundedQueue, WorkQueue

#: Seconds that a put waits for room, where it has a timeout. Ours by default.
TIMEOUT = 0.1
#: Items in a slice of the fast contestants, and of those that take ten times as long.
MANY, FEW = 10_000, 1_500

Finish: TypeAlias = Callable[[], Awaitable[object]]
Produce: TypeAlias = Callable[[Iterable[int]], Coroutine[Any, Any, object]]
Main: TypeAlias = Callable[[int], Coroutine[Any, Any, float]]


def in_loop(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Main, items: int) -> float:
    loop = new_loop()
    try:
        return loop.run_until_complete(main(items))
    finally:
        loop.close()


def contestant(
    name: str,
    main: Main,
    items: int = MANY,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Contestant:
    return Contestant(name, partial(in_loop, new_loop, main), items)


async def do_nothing(_: int) -> None:
    pass


async def yield_once(_: int) -> None:
    await asyncio.sleep(0)


def plain(_: int) -> None:
    pass


@dataclass(frozen=True)
class Flow:
    """What goes through the queue: by how many, to how many, who do what."""

    work: Callable[[int], Coroutine[Any, Any, None]]
    bound: int = 100
    workers: int = 10
    producers: int = 1

    async def time(self, items: int, produce: Produce, finish: Finish) -> float:
        """The CPU time from the first put until ``finish()`` says that all is done."""
        begin = process_time()
        if self.producers == 1:
            await produce(range(items))
        else:
            shares = (range(first, items, self.producers) for first in range(self.producers))
            await asyncio.gather(*map(produce, shares))
        await finish()
        return process_time() - begin


def each(put: Callable[[int], Awaitable[object]]) -> Produce:
    async def produce(share: Iterable[int]) -> None:
        for item in share:
            await put(item)

    return produce


def each_until_accepted(put: Callable[[int], Awaitable[bool]]) -> Produce:
    async def produce(share: Iterable[int]) -> None:
        for item in share:
            while not await put(item):
                pass

    return produce


async def bounded_queue(flow: Flow, items: int) -> float:
    async with BoundedQueue[int](flow.bound, TIMEOUT) as queue:
        await queue.start_workers(flow.work, flow.workers)
        return await flow.time(items, each_until_accepted(queue.put), queue.join)


async def work_queue(flow: Flow, items: int) -> float:
    async with WorkQueue[int](flow.bound, TIMEOUT, flow.workers) as queue:
        await queue.process(flow.work)
        return await flow.time(items, each_until_accepted(queue.put), queue.join)


@asynccontextmanager
async def workers(
    flow: Flow, worker: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker()) for _ in range(flow.workers)]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def by_hand(
    queue: asyncio.Queue[int] | janus.AsyncQueue[int], flow: Flow, items: int
) -> float:
    async def worker() -> None:
        while True:
            item = await queue.get()
            await flow.work(item)
            queue.task_done()

    async with workers(flow, worker):
        return await flow.time(items, each(queue.put), queue.join)


async def asyncio_queue(flow: Flow, items: int) -> float:
    return await by_hand(asyncio.Queue(flow.bound), flow, items)


async def janus_async(flow: Flow, items: int) -> float:
    queue: janus.Queue[int] = janus.Queue(flow.bound)
    try:
        return await by_hand(queue.async_q, flow, items)
    finally:
        await queue.aclose()


async def asyncio_tasks(flow: Flow, items: int) -> float:
    queue: asyncio.Queue[tuple[int, Context]] = asyncio.Queue(flow.bound)

    async def worker() -> None:
        while True:
            item, context = await queue.get()
            await context.run(asyncio.create_task, flow.work(item))
            queue.task_done()

    async def produce(share: Iterable[int]) -> None:
        for item in share:
            await queue.put((item, copy_context()))

    async with workers(flow, worker):
        return await flow.time(items, produce, queue.join)


async def asyncio_wait_for(flow: Flow, items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(flow.bound)
    stopped = False

    async def worker() -> None:
        while not stopped:
            try:
                item = await asyncio.wait_for(queue.get(), TIMEOUT)
            except asyncio.TimeoutError:
                continue
            await flow.work(item)
            queue.task_done()

    async def put(item: int) -> bool:
        try:
            await asyncio.wait_for(queue.put(item), TIMEOUT)
        except asyncio.TimeoutError:
            return False
        return True

    # Not cancelled at the end: before Python 3.12 wait_for can swallow that.
    tasks = [asyncio.create_task(worker()) for _ in range(flow.workers)]
    seconds = await flow.time(items, each_until_accepted(put), queue.join)
    stopped = True
    await asyncio.wait(tasks)
    return seconds


async def anyio_stream(flow: Flow, items: int) -> float:
    send, receive = anyio.create_memory_object_stream[int](flow.bound)

    async def worker() -> None:
        async for item in receive:
            await flow.work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(flow.workers)]

    async def finish() -> None:  # a stream has no join(): its end is the end of the workers
        send.close()
        await asyncio.wait(tasks)

    with receive:
        return await flow.time(items, each(send.send), finish)


PENSTOCK, ASYNCIO = "penstock BoundedQueue", "asyncio.Queue"
#: Each with the items in a slice.
QUEUES: dict[str, tuple[Callable[[Flow, int], Coroutine[Any, Any, float]], int]] = {
    PENSTOCK: (bounded_queue, MANY),
    "penstock WorkQueue": (work_queue, MANY),
    ASYNCIO: (asyncio_queue, MANY),
    "asyncio.Queue, a task with its context per item": (asyncio_tasks, MANY),
    "asyncio.Queue with wait_for": (asyncio_wait_for, FEW),
    "anyio memory stream": (anyio_stream, FEW),
    "janus, async side": (janus_async, MANY),
}
