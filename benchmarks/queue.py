"""A queue in one event loop, against its peers: ``python -m benchmarks.queue``.

What each figure means is told in ``README.md``.
"""

# ruff: noqa: PERF203, SIM105 - a try in the loop is what is measured here, and suppress() is dear

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its own directory would hide the standard library's queue
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any, TypeAlias

import anyio
import janus

from benchmarks import harness
from benchmarks.harness import Contest, Contestant
from penstock import BoundedQueue, QueueFullError, WorkQueue

try:
    import uvloop
except ImportError:  # there is none for Windows
    LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

#: Seconds that a put waits for room, where it has a timeout. Ours by default.
TIMEOUT = 0.1
#: Items in a slice of the fast contestants, of those that take ten times as long, and in between.
MANY, SOME, FEW = 10_000, 3_000, 1_500

Finish: TypeAlias = Callable[[], Awaitable[object]]
Produce: TypeAlias = Callable[[Iterable[int]], Coroutine[Any, Any, object]]
Ours: TypeAlias = "BoundedQueue[int] | WorkQueue[int]"
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


# -- items that go through a queue ----------------------------------------------------------------


async def do_nothing(_: int) -> None:
    pass


async def yield_once(_: int) -> None:
    await asyncio.sleep(0)


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


PENSTOCK = "penstock BoundedQueue"
ASYNCIO = "asyncio.Queue"
QUEUES: dict[str, tuple[Callable[[Flow, int], Coroutine[Any, Any, float]], int]] = {
    PENSTOCK: (bounded_queue, MANY),
    "penstock WorkQueue": (work_queue, MANY),
    ASYNCIO: (asyncio_queue, MANY),
    "asyncio.Queue, a task with its context per item": (asyncio_tasks, MANY),
    "asyncio.Queue with wait_for": (asyncio_wait_for, FEW),
    "anyio memory stream": (anyio_stream, FEW),
    "janus, async side": (janus_async, MANY),
}


def flow_contest(title: str, loop: str, flow: Flow, most: int, names: Iterable[str]) -> Contest:
    contestants = []
    for name in names:
        run, items = QUEUES[name]
        contestants.append(contestant(name, partial(run, flow), min(items, most), LOOPS[loop]))
    return Contest(f"{title}, {loop} loop", ASYNCIO, contestants)


def flow_contests() -> list[Contest]:
    contests = []
    fast = [name for name, (_, items) in QUEUES.items() if items == MANY]
    for loop in LOOPS:
        for work, kind in (
            (do_nothing, "worker that does nothing"),
            (yield_once, "worker that yields once"),
        ):
            one, four = Flow(work), Flow(work, producers=4)
            contests.append(flow_contest(f"One producer, {kind}", loop, one, MANY, QUEUES))
            if work is do_nothing:
                contests[-1].goals[PENSTOCK] = 1.0
            contests.append(flow_contest(f"Four producers, {kind}", loop, four, MANY, fast))
        narrow = Flow(do_nothing, bound=1, workers=1)
        contests.append(flow_contest("Bound 1, one worker", loop, narrow, SOME, fast))
    return contests


# -- a single put ---------------------------------------------------------------------------------

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


# -- plain functions in threads -------------------------------------------------------------------


def plain(_: int) -> None:
    pass


async def threads_bounded(items: int) -> float:
    async with BoundedQueue[int](100, TIMEOUT) as queue:
        await queue.start_workers(plain, 10)
        return await Flow(do_nothing).time(items, each_until_accepted(queue.put), queue.join)


async def threads_asyncio(call: Callable[..., Awaitable[object]], items: int) -> float:
    with ThreadPoolExecutor(10) as pool:
        asyncio.get_running_loop().set_default_executor(pool)

        async def work(item: int) -> None:
            await call(plain, item)

        return await asyncio_queue(Flow(work), items)


async def in_executor(func: Callable[[int], None], item: int) -> None:
    await asyncio.get_running_loop().run_in_executor(None, func, item)


def threads_executor(items: int) -> float:
    room = threading.BoundedSemaphore(100)
    with ThreadPoolExecutor(10) as pool:
        begin = process_time()
        for item in range(items):
            room.acquire()
            pool.submit(plain, item).add_done_callback(lambda _: room.release())
        pool.shutdown()
        return process_time() - begin


def plain_functions() -> Contest:
    return Contest(
        "Plain worker function, ten threads",
        "ThreadPoolExecutor.submit under a semaphore",
        [
            contestant("penstock BoundedQueue", threads_bounded, FEW),
            Contestant("ThreadPoolExecutor.submit under a semaphore", threads_executor, FEW),
            contestant(
                "asyncio.Queue, workers with run_in_executor",
                partial(threads_asyncio, in_executor),
                FEW,
            ),
            contestant(
                "asyncio.Queue, workers with to_thread",
                partial(threads_asyncio, asyncio.to_thread),
                FEW,
            ),
        ],
    )


# -- memory ---------------------------------------------------------------------------------------

BYTES_GOAL = 240
request: ContextVar[object] = ContextVar("request")


async def bytes_per_item(
    put: Callable[[object], Coroutine[Any, Any, object]], stock: list[object]
) -> float:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for item in stock:
        await put(item)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(stock)


async def memory(items: int) -> dict[str, float]:
    """Bytes per item that waits, beyond the item."""
    stock = [object() for _ in range(items)]
    ours: BoundedQueue[object] = BoundedQueue(3 * items)
    theirs: asyncio.Queue[object] = asyncio.Queue(2 * items)
    futures: list[asyncio.Future[Any] | None] = [None] * items
    spare = iter(range(items))

    async def put_in_a_request(item: object) -> None:
        request.set(item)
        await ours.put(item)

    async def submit(item: object) -> None:
        futures[next(spare)] = await ours.submit(item)

    async def put_with_context(item: object) -> None:
        await theirs.put((item, copy_context()))

    async with ours:
        found = {
            "penstock BoundedQueue, put": await bytes_per_item(ours.put, stock),
            "penstock BoundedQueue, put, each with a context variable of its own": (
                await bytes_per_item(put_in_a_request, stock)
            ),
            "penstock BoundedQueue, submit: with a future for the result": (
                await bytes_per_item(submit, stock)
            ),
            "asyncio.Queue, the item alone": await bytes_per_item(theirs.put, stock),
            "asyncio.Queue, the item and a context": (
                await bytes_per_item(put_with_context, stock)
            ),
        }
        await ours.start_workers(do_nothing_with, 1)
    return found


async def do_nothing_with(_: object) -> None:
    pass


# -- the report -----------------------------------------------------------------------------------


def main() -> None:
    options = harness.options("Compare a queue in one event loop with its peers.", rounds=30)
    logging.getLogger("penstock").addHandler(logging.NullHandler())

    flows, puts, threads = flow_contests(), [put_with_room(), put_refused()], plain_functions()
    contests = [*flows, *puts, threads]
    for contest in contests:
        print(contest.title, file=sys.stderr)
        contest.hold(options.rounds, options.scale)
    sizes = asyncio.run(memory(10_000))

    goals = harness.goals(contests)
    name, size = next(iter(sizes.items()))
    goals.append(
        (
            f"Bytes per queued item, its context included: {name}",
            f"≤ {BYTES_GOAL}",
            f"{size:.0f}",
            harness.verdict(size, BYTES_GOAL, "{:.0f}"),
        )
    )
    packages = ("penstock", "anyio", "janus", "uvloop")
    parts = [
        f"{harness.surroundings(packages)}; {options.rounds} rounds.",
        harness.table(("goal", "", "figure", ""), goals),
    ]
    for contest in contests:
        parts += [f"### {contest.title}", contest.table()]
    parts += [
        "### Memory",
        harness.table(
            ("", "bytes per item"), [(name, f"{size:.0f}") for name, size in sizes.items()]
        ),
    ]
    harness.publish("queue", "\n\n".join(parts), write=options.write)


if __name__ == "__main__":
    main()
