"""A queue in one event loop, against its peers: ``python -m benchmarks.queue``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import partial
from time import process_time
from typing import Any

from benchmarks import harness
from benchmarks.harness import Contest, Contestant, Goal
from benchmarks.puts import put_refused, put_with_room
from benchmarks.queue_clients import (
    ASYNCIO,
    FEW,
    MANY,
    PENSTOCK,
    QUEUES,
    TIMEOUT,
    Flow,
    asyncio_queue,
    contestant,
    do_nothing,
    each_until_accepted,
    plain,
    yield_once,
)
from penstock import BoundedQueue

try:
    import uvloop
except ImportError:  # there is none for Windows
    LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

#: Items in a slice where all take turns.
SOME = 3_000

# -- items that go through a queue ----------------------------------------------------------------


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


# -- plain functions in threads -------------------------------------------------------------------


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
    contests = [*flow_contests(), put_with_room(), put_refused(), plain_functions()]
    harness.hold(contests, options)
    sizes = asyncio.run(memory(10_000))

    goals = [goal for contest in contests for goal in contest.reached()]
    name, size = next(iter(sizes.items()))
    what = f"Bytes per queued item, its context included: {name}"
    goals.append(Goal(what, BYTES_GOAL, size, "{:.0f}"))
    about = harness.surroundings(("penstock", "anyio", "janus", "uvloop"))
    memory_table = harness.table(
        ("", "bytes per item"), [(name, f"{size:.0f}") for name, size in sizes.items()]
    )
    report = harness.report(
        f"{about}; {options.rounds} rounds", goals, contests, "### Memory", memory_table
    )
    harness.publish("queue", report, write=options.write)


if __name__ == "__main__":
    main()
