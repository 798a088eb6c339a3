"""Ways to put from threads, for ``threads.py``."""

from __future__ import annotations

import asyncio
import queue as standard
import threading
import time
from array import array
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, perf_counter_ns, process_time, thread_time
from typing import Any, TypeAlias

import anyio
import anyio.from_thread
import janus

from benchmarks.queue_clients import TIMEOUT, plain
from penstock.sync import WorkQueue

BOUND, WORKERS = 100, 10
#: Items in a slice of the fast contestants, and of those that take several times as long.
MANY, FEW = 4_000, 800
#: Seconds that anything may take which is not measured.
LIMIT = 60.0

Async: TypeAlias = Callable[[int], Coroutine[Any, Any, None]]
Work: TypeAlias = Callable[[int], Any]
#: An item, and the context of its put.
Parcel: TypeAlias = tuple[int, Context]


@dataclass
class Flow:
    """What goes through the queue, from how many threads; and what came out, a figure a slice."""

    work: Work
    producers: int
    #: Seconds that a producer rests after each put.
    rest: float = 0.0
    walls: list[float] = field(default_factory=list)
    #: Seconds that each put took, from the shortest to the longest.
    puts: list[list[float]] = field(default_factory=list)

    def time(self, items: int, put: Callable[[int], object], finish: Callable[[], object]) -> float:
        """The CPU time from the first put until ``finish()`` says that all is done."""
        shares = [range(first, items, self.producers) for first in range(self.producers)]
        took = [array("q") for _ in shares]
        barrier = threading.Barrier(self.producers + 1)

        def produce(share: Iterable[int], note: Callable[[int], object]) -> None:
            barrier.wait(LIMIT)
            for item in share:
                begin = perf_counter_ns()
                put(item)
                note(perf_counter_ns() - begin)
                if self.rest:
                    time.sleep(self.rest)

        threads = [
            threading.Thread(target=produce, args=(share, figures.append), daemon=True)
            for share, figures in zip(shares, took, strict=True)
        ]
        for thread in threads:
            thread.start()
        while barrier.n_waiting < self.producers:
            time.sleep(0.0001)
        wall, cpu = perf_counter(), process_time()
        barrier.wait(LIMIT)
        for thread in threads:
            thread.join()
        finish()
        cpu, wall = process_time() - cpu, perf_counter() - wall
        self.walls.append(wall / items)
        self.puts.append(sorted(figure / 1e9 for figures in took for figure in figures))
        return cpu


# -- workers that are coroutines ------------------------------------------------------------------


async def burn(_: int) -> None:
    """Keep the event loop busy for 0.2 ms."""
    end = thread_time() + 0.0002
    while thread_time() < end:
        pass


def penstock_sync(flow: Flow, items: int) -> float:
    with WorkQueue[int](BOUND, TIMEOUT, WORKERS) as queue:
        queue.process(flow.work)

        def put(item: int) -> None:
            while not queue.put(item):
                pass

        return flow.time(items, put, queue.join)


@contextmanager
def loop_in_thread() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """An event loop in a thread, and what runs a coroutine there and waits for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(coro: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, loop).result()

    try:
        yield call
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


@contextmanager
def workers(
    call: Callable[[Coroutine[Any, Any, Any]], Any], worker: Callable[[], Coroutine[Any, Any, None]]
) -> Iterator[None]:
    async def begin() -> list[asyncio.Task[None]]:
        return [asyncio.create_task(worker()) for _ in range(WORKERS)]

    async def end() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    tasks = call(begin())
    yield
    call(end())


async def in_context(work: Async, parcel: Parcel) -> None:
    """Run an item in the context of its put, the usual way."""
    item, context = parcel
    await context.run(asyncio.create_task, work(item))


async def in_workers_context(work: Async, parcel: Parcel) -> None:
    """Run an item in the worker's own context; that of its put was copied for nothing."""
    await work(parcel[0])


def janus_raw(
    run: Callable[[Async, Parcel], Coroutine[Any, Any, None]], flow: Flow, items: int
) -> float:
    queue: janus.Queue[Parcel] = janus.Queue(BOUND)

    async def worker() -> None:
        while True:
            parcel = await queue.async_q.get()
            await run(flow.work, parcel)
            queue.async_q.task_done()

    def put(item: int) -> None:
        queue.sync_q.put((item, copy_context()))

    with loop_in_thread() as call:
        with workers(call, worker):
            cpu = flow.time(items, put, queue.sync_q.join)
        call(queue.aclose())
    return cpu


def threadsafe_put(flow: Flow, items: int) -> float:
    queue: asyncio.Queue[Parcel] = asyncio.Queue(BOUND)

    async def worker() -> None:
        while True:
            parcel = await queue.get()
            await in_context(flow.work, parcel)
            queue.task_done()

    with loop_in_thread() as call, workers(call, worker):

        def put(item: int) -> None:
            call(queue.put((item, copy_context())))

        return flow.time(items, put, lambda: call(queue.join()))


def anyio_portal(flow: Flow, items: int) -> float:
    send, receive = anyio.create_memory_object_stream[Parcel](BOUND)

    async def worker() -> None:
        async for parcel in receive:
            await in_context(flow.work, parcel)

    with anyio.from_thread.start_blocking_portal() as portal:
        tasks = [portal.start_task_soon(worker) for _ in range(WORKERS)]

        def put(item: int) -> None:
            portal.call(send.send, (item, copy_context()))

        def finish() -> None:  # a stream has no join(): its end is the end of the workers
            portal.call(send.aclose)
            for task in tasks:
                task.result(LIMIT)

        cpu = flow.time(items, put, finish)
        portal.call(receive.aclose)
        return cpu


# -- workers that are threads ---------------------------------------------------------------------


def executor(flow: Flow, items: int) -> float:
    room = threading.Semaphore(BOUND + WORKERS)  # those that wait and those that run

    def run(context: Context, item: int) -> None:
        try:
            context.run(flow.work, item)
        finally:
            room.release()  # cheaper than in a callback of the future

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(plain, range(WORKERS)))  # it starts its threads one by one

        def put(item: int) -> None:
            room.acquire()
            pool.submit(run, copy_context(), item)

        return flow.time(items, put, pool.shutdown)


def pulling_threads(flow: Flow, items: int) -> float:
    queue: standard.Queue[Parcel | None] = standard.Queue(BOUND)

    def worker() -> None:
        while (parcel := queue.get()) is not None:
            item, context = parcel
            context.run(flow.work, item)
            queue.task_done()

    def put(item: int) -> None:
        queue.put((item, copy_context()))

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    cpu = flow.time(items, put, queue.join)
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join(LIMIT)
    return cpu


# -- all of them ----------------------------------------------------------------------------------

PENSTOCK = "penstock.sync.WorkQueue"
JANUS, EXECUTOR = "janus", "ThreadPoolExecutor.submit under a semaphore"
#: Each with the items in a slice.
Run: TypeAlias = Callable[[Flow, int], float]
ASYNC: dict[str, tuple[Run, int]] = {
    PENSTOCK: (penstock_sync, MANY),
    JANUS: (partial(janus_raw, in_context), MANY),
    "janus, items not run in their context": (partial(janus_raw, in_workers_context), MANY),
    "run_coroutine_threadsafe(put).result()": (threadsafe_put, FEW),
    "anyio's blocking portal": (anyio_portal, FEW),
}
PLAIN: dict[str, tuple[Run, int]] = {
    PENSTOCK: (penstock_sync, MANY),
    EXECUTOR: (executor, MANY),
    "queue.Queue and hand-written threads": (pulling_threads, MANY),
}
