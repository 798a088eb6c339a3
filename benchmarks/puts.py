"""What a single put costs, with room and without, for ``queue.py``."""

# ruff: noqa: PERF203, SIM105 - a try in the loop is what is measured here, and suppress() is dear

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from time import process_time
from typing import TypeAlias

import anyio
import janus

from benchmarks.harness import Contest
from benchmarks.queue_clients import FEW, TIMEOUT, Produce, contestant, each
from penstock import BoundedQueue, QueueFullError, WorkQueue

Ours: TypeAlias = "BoundedQueue[int] | WorkQueue[int]"

#: Items put between two looks at the clock.
BLOCK = 1_000


async def fill(items: int, put: Produce, empty: Callable[[], object]) -> float:
    """The CPU time of so many puts into a queue that has room."""
    seconds = 0.0
    for _ in range(0, items, BLOCK):
        begin = process_time()
        await put(range(BLOCK))
        seconds += process_time() - begin
        for _ in range(BLOCK):
            empty()
    return seconds * items / (-(-items // BLOCK) * BLOCK)


def take(queue: Ours) -> None:
    queue.get_nowait()
    queue.task_done()


def each_nowait(put: Callable[[int], object]) -> Produce:
    async def produce(share: Iterable[int]) -> None:
        for item in share:
            put(item)

    return produce


async def fill_ours(make: Callable[[int], Ours], items: int) -> float:
    async with make(BLOCK) as queue:
        return await fill(items, each(queue.put), partial(take, queue))


async def fill_ours_nowait(make: Callable[[int], Ours], items: int) -> float:
    async with make(BLOCK) as queue:
        return await fill(items, each_nowait(queue.put_nowait), partial(take, queue))


async def fill_asyncio(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(BLOCK)
    return await fill(items, each(queue.put), queue.get_nowait)


async def fill_asyncio_nowait(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(BLOCK)
    return await fill(items, each_nowait(queue.put_nowait), queue.get_nowait)


async def fill_asyncio_context(items: int) -> float:
    queue: asyncio.Queue[object] = asyncio.Queue(BLOCK)

    async def produce(share: Iterable[int]) -> None:
        for item in share:
            await queue.put((item, copy_context()))

    return await fill(items, produce, queue.get_nowait)


async def fill_wait_for(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(BLOCK)

    async def produce(share: Iterable[int]) -> None:
        for item in share:
            await asyncio.wait_for(queue.put(item), TIMEOUT)

    return await fill(items, produce, queue.get_nowait)


async def fill_anyio(items: int) -> float:
    send, receive = anyio.create_memory_object_stream[int](BLOCK)
    with send, receive:
        return await fill(items, each(send.send), receive.receive_nowait)


async def fill_janus(items: int) -> float:
    queue: janus.Queue[int] = janus.Queue(BLOCK)
    try:
        return await fill(items, each(queue.async_q.put), queue.async_q.get_nowait)
    finally:
        await queue.aclose()


def put_with_room() -> Contest:
    return Contest(
        "Put with room",
        "asyncio.Queue, put",
        [
            contestant("penstock BoundedQueue, put", partial(fill_ours, BoundedQueue)),
            contestant(
                "penstock BoundedQueue, put_nowait", partial(fill_ours_nowait, BoundedQueue)
            ),
            contestant("penstock WorkQueue, put", partial(fill_ours, WorkQueue)),
            contestant("asyncio.Queue, put", fill_asyncio),
            contestant("asyncio.Queue, put_nowait", fill_asyncio_nowait),
            contestant("asyncio.Queue, put of the item and a context", fill_asyncio_context),
            contestant("asyncio.Queue, put in wait_for", fill_wait_for, FEW),
            contestant("anyio memory stream, send", fill_anyio, FEW),
            contestant("janus, async side, put", fill_janus),
        ],
    )


async def refuse(items: int, put: Callable[[int], object], full: type[Exception]) -> float:
    """The CPU time of so many refusals by an exception."""
    put(0)
    begin = process_time()
    for item in range(items):
        try:
            put(item)
        except full:
            pass
    return process_time() - begin


async def refuse_ours(make: Callable[[int], Ours], items: int) -> float:
    async with make(1) as queue:
        await queue.put(0)
        begin = process_time()
        for item in range(items):
            await queue.put(item, timeout=0)
        return process_time() - begin


async def refuse_ours_nowait(items: int) -> float:
    async with BoundedQueue[int](1) as queue:
        return await refuse(items, queue.put_nowait, QueueFullError)


async def refuse_asyncio(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    return await refuse(items, queue.put_nowait, asyncio.QueueFull)


async def refuse_wait_for(items: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    await queue.put(0)
    begin = process_time()
    for item in range(items):
        try:
            await asyncio.wait_for(queue.put(item), 0)
        except asyncio.TimeoutError:
            pass
    return process_time() - begin


async def refuse_anyio(items: int) -> float:
    send, receive = anyio.create_memory_object_stream[int](1)
    with send, receive:
        return await refuse(items, send.send_nowait, anyio.WouldBlock)


async def refuse_janus(items: int) -> float:
    queue: janus.Queue[int] = janus.Queue(1)
    try:
        return await refuse(items, queue.async_q.put_nowait, janus.AsyncQueueFull)
    finally:
        await queue.aclose()


def put_refused() -> Contest:
    ours = "penstock BoundedQueue, put with timeout 0"
    return Contest(
        "Put refused at once",
        "asyncio.Queue, put_nowait",
        [
            contestant(ours, partial(refuse_ours, BoundedQueue)),
            contestant("penstock BoundedQueue, put_nowait", refuse_ours_nowait),
            contestant("penstock WorkQueue, put with timeout 0", partial(refuse_ours, WorkQueue)),
            contestant("asyncio.Queue, put_nowait", refuse_asyncio),
            contestant("asyncio.Queue, put in wait_for 0", refuse_wait_for, FEW),
            contestant("anyio memory stream, send_nowait", refuse_anyio),
            contestant("janus, async side, put_nowait", refuse_janus),
        ],
        goals={ours: 1.0},
    )
