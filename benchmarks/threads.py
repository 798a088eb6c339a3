"""Threads that put, against their peers: ``python -m benchmarks.threads``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: its own directory would hide the standard library's queue
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import asyncio
import logging
import queue as standard
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
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

from benchmarks import harness
from benchmarks.harness import Contest, Contestant, Spread
from benchmarks.queue import TIMEOUT, do_nothing, plain
from penstock.sync import WorkQueue

BOUND, WORKERS = 100, 10
#: Items in a slice of the fast contestants, of those that take several times as long, and of those
#: that are given something to do.
MANY, FEW, BUSY = 4_000, 800, 320
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


# -- the contests ---------------------------------------------------------------------------------

PENSTOCK = "penstock.sync.WorkQueue"
JANUS, EXECUTOR = "janus", "ThreadPoolExecutor.submit under a semaphore"
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


class ThreadContest(Contest):
    """Wall time and what single puts took, besides CPU time."""

    def __init__(
        self,
        title: str,
        baseline: str,
        names: dict[str, tuple[Run, int]],
        flow: Callable[[], Flow],
        most: int = MANY,
        goal: float | None = None,
    ) -> None:
        self.flows = {name: flow() for name in names}
        super().__init__(
            title,
            baseline,
            [
                Contestant(name, partial(run, self.flows[name]), min(items, most))
                for name, (run, items) in names.items()
            ],
            {} if goal is None else {PENSTOCK: goal},
        )

    def hold(self, rounds: int, scale: float = 1.0) -> None:
        super().hold(rounds, scale)
        for flow in self.flows.values():
            del flow.walls[0], flow.puts[0]  # the round that does not count

    def wall_ratio(self, name: str) -> Spread:
        """How much longer than the baseline a contestant takes."""
        pairs = zip(self.flows[name].walls, self.flows[self.baseline].walls, strict=True)
        return Spread.of([wall / base for wall, base in pairs])

    def table(self) -> str:
        rows = []
        for name, flow in self.flows.items():
            is_baseline = name == self.baseline
            cpu, wall = self.ratio(name), self.wall_ratio(name)
            rows.append(
                (
                    f"**{name}**" if name in self.goals else name,
                    f"{statistics.median(self.times[name]) * 1e6:.1f}",
                    "1" if is_baseline else f"{cpu.median:.2f}",
                    "" if is_baseline else f"{cpu.low:.2f} to {cpu.high:.2f}",
                    f"{statistics.median(flow.walls) * 1e6:.1f}",
                    "1" if is_baseline else f"{wall.median:.2f}",
                    f"{median_of(flow.puts, 0.5) * 1e6:.0f}",
                    f"{median_of(flow.puts, 0.99) * 1e6:.0f}",
                    f"{median_of(flow.puts, 1) * 1e3:.1f}",
                    f"{max(puts[-1] for puts in flow.puts) * 1e3:.1f}",
                )
            )
        head = (
            *("", "CPU µs per item", "ratio", "quartiles", "wall µs per item", "ratio"),
            *("put p50 µs", "p99 µs", "longest ms", "of all rounds ms"),
        )
        return harness.table(head, rows)


def median_of(slices: Sequence[Sequence[float]], share: float) -> float:
    """The median, over the slices, of the figure below which this share of a slice is."""
    return statistics.median(
        figures[min(int(share * len(figures)), len(figures) - 1)] for figures in slices
    )


def contests() -> list[ThreadContest]:
    found = []
    for kind, work, baseline, names in (
        ("async workers", do_nothing, JANUS, ASYNC),
        ("plain workers", plain, EXECUTOR, PLAIN),
    ):
        for producers in (1, 4, 16):
            threads = "One thread puts" if producers == 1 else f"{producers} threads put"
            found.append(
                ThreadContest(
                    f"{threads}, {kind}",
                    baseline,
                    names,
                    partial(Flow, work, producers),
                    goal=1.0 if producers == 4 or names is PLAIN else None,
                )
            )
    for title, rest in (
        ("4 threads put, async workers that keep the event loop busy", 0.0),
        ("The same at less than half the pace: there is always room", 0.002),
    ):
        found.append(ThreadContest(title, JANUS, ASYNC, partial(Flow, burn, 4, rest), BUSY))
    return found


def goals(held: Iterable[ThreadContest]) -> list[tuple[str, str, str, str]]:
    """The goals in CPU time, and beside each what it is in wall time."""
    rows = []
    for contest in held:
        for name, goal in contest.goals.items():
            for unit, ratio in (("CPU", contest.ratio(name)), ("wall", contest.wall_ratio(name))):
                rows.append(
                    (
                        f"{contest.title}: {name} against {contest.baseline}, {unit} time",
                        f"≤ {goal:.2f}",
                        f"{ratio.median:.2f}",
                        harness.verdict(ratio.median, goal, "{:.2f}"),
                    )
                )
    return rows


def main() -> None:
    options = harness.options("Compare a queue for threads with its peers.", rounds=30)
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    held = contests()
    for contest in held:
        print(contest.title, file=sys.stderr)
        contest.hold(options.rounds, options.scale)
    packages = ("penstock", "anyio", "janus")
    parts = [
        f"{harness.surroundings(packages)}; {options.rounds} rounds.",
        harness.table(("goal", "", "figure", ""), goals(held)),
    ]
    for contest in held:
        parts += [f"### {contest.title}", contest.table()]
    harness.publish("threads", "\n\n".join(parts), write=options.write)


if __name__ == "__main__":
    main()
