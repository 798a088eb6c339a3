"""Small plays in which each call is cancelled at each step, one after the other: all of them.

The loop runs one callback a step, in the order that asyncio promises. So a cancellation comes
between any two callbacks: while a call waits, when what it waits for has happened and it has not
gone on yet, and before it has begun.
"""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import (
    AsyncExecutor,
    BoundedQueue,
    Event,
    ExecutionStatus,
    Executor,
    Limit,
    Limiter,
    QueueConfig,
    QueueEmptyError,
    QueueStateError,
    RateLimitedExecutor,
    RetryPolicy,
    WorkQueue,
)
from simulation.loops import SimulatedLoop
from simulation.program import BrokenPromiseError, PutOutcome

#: What a call may raise when others were cancelled.
EXPECTED = (QueueStateError, QueueEmptyError)

#: Seconds after which a call is taken to wait for ever.
FOR_EVER = 1000.0


class Item:
    """What is put."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"#{self.number}"


class Stage:
    """Where a play is played: its calls, its items, and who is cancelled when."""

    def __init__(self, loop: SimulatedLoop, strikes: dict[int, int]) -> None:
        self.loop = loop
        #: Which call is cancelled, by the step before which it is.
        self.strikes = strikes
        self.calls: list[asyncio.Task[Any]] = []
        self.cancelled: list[asyncio.Task[Any]] = []
        self.items: list[Item] = []
        self.accepted: list[Item] = []
        self.ended: list[Item] = []
        #: Those whose result was waited for by somebody who was cancelled.
        self.unwanted: list[Item] = []
        #: Steps until the last call had ended.
        self.steps = 0
        loop.saboteur = self.strike

    def strike(self) -> None:
        """Cancel whose turn it is."""
        number = self.strikes.get(self.loop.steps)
        if number is not None and number < len(self.calls) and not self.calls[number].done():
            self.cancelled.append(self.calls[number])
            self.calls[number].cancel()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a call that may be cancelled."""
        self.calls.append(self.loop.create_task(coroutine))
        return self.calls[-1]

    async def settled(self) -> None:
        """Wait until all calls have ended, and see how."""
        _, waiting = await asyncio.wait(self.calls, timeout=FOR_EVER)
        self.steps = self.loop.steps
        self.loop.saboteur = None
        self.hold(not waiting, f"{waiting} wait for ever")
        for call in self.calls:
            if call.cancelled():
                self.hold(call in self.cancelled, f"{call} was cancelled by itself")
            elif (error := call.exception()) is not None and not isinstance(error, EXPECTED):
                raise error

    @staticmethod
    def hold(condition: bool, message: str) -> None:
        """See that something is so."""
        if not condition:
            raise BrokenPromiseError(message)

    # -- what calls do --------------------------------------------------------------------------

    def item(self) -> Item:
        """A new item."""
        self.items.append(Item(len(self.items)))
        return self.items[-1]

    async def put(self, queue: Any, timeout: float = math.inf) -> None:
        """Put an item, and note whether it was accepted."""
        item = self.item()
        if await queue.put(item, timeout):
            self.accepted.append(item)

    async def submit(self, queue: Any) -> None:
        """Submit an item, and wait for its result."""
        item = self.item()
        future = await queue.submit(item, timeout=math.inf)
        self.accepted.append(item)
        try:
            await future
        finally:
            if future.cancelled():  # skipped, or run for nobody
                self.accepted.remove(item)
                self.unwanted.append(item)

    async def get(self, queue: Any, timeout: float | None = None) -> None:
        """Take an item."""
        item = await queue.get(timeout)
        self.ended.append(item)
        queue.task_done()

    async def use(self, queue: Any, seconds: float) -> None:
        """Take an item, and process it."""
        async with queue.processing() as item:
            await asyncio.sleep(seconds)
            self.ended.append(item)

    async def iterate(self, queue: Any, seconds: float) -> None:
        """Take items until the queue is closed, and leave the iterator to Python."""
        async for item in queue:
            await asyncio.sleep(seconds)
            self.ended.append(item)
            del item

    async def iterate_and_close(self, queue: Any, seconds: float) -> None:
        """Take items until the queue is closed, and close the iterator."""
        async with aclosing(queue.items()) as items:
            async for item in items:
                await asyncio.sleep(seconds)
                self.ended.append(item)
                del item

    async def close(self, queue: Any) -> None:
        """Put two items, and close the queue."""
        await self.put(queue)
        await self.put(queue)
        queue.close()

    async def work(self, item: Item) -> None:
        """A worker function."""
        await asyncio.sleep(0.5)
        self.ended.append(item)

    def work_in_thread(self, item: Item) -> PutOutcome:
        """A plain worker function."""
        return PutOutcome(partial(self.ended.append, item))

    # -- what must hold -------------------------------------------------------------------------

    async def check(self, queue: BoundedQueue[Item]) -> None:
        """Stop the queue, start it again, and see that no item was lost or processed twice."""
        await queue.stop(timeout=0)
        self.check_balance(queue)
        await queue.start_workers(self.work, 2)
        await queue.join()
        self.hold(await queue.stop(), "a stop that drains left something")
        self.check_balance(queue)

    def check_balance(self, queue: BoundedQueue[Item]) -> None:
        """Accepted are those that have ended, and those that are left; each once."""
        left, counts = queue.unprocessed, queue.metrics
        places = sorted(item.number for item in self.ended + left if item not in self.unwanted)
        accepted = sorted(item.number for item in self.accepted)
        said = f"accepted {self.accepted}, ended {self.ended}, left {left}"
        self.hold(places == accepted, said)
        for item in self.unwanted:
            self.hold((self.ended + left).count(item) <= 1, f"{item} ended twice: {said}")
        unfinished = counts["enqueued"] - counts["processed"]
        self.hold(unfinished == len(left), f"{counts}, but left {left}")


Play = Callable[[Stage], Awaitable[Any]]


# -- queues ---------------------------------------------------------------------------------------


def new_queue(maxsize: int) -> BoundedQueue[Item]:
    return BoundedQueue(maxsize, logger=SILENT)


async def puts(stage: Stage) -> Any:
    """Two wait for room, one with a timeout, while others take."""
    queue = new_queue(1)
    await queue.start()
    for timeout in (math.inf, math.inf, 2.0, math.inf):
        stage.call(stage.put(queue, timeout))
    await asyncio.sleep(0.25)
    stage.call(stage.get(queue))
    stage.call(stage.use(queue, 1.0))
    await asyncio.sleep(4)
    await queue.stop()  # for the last put there is no room
    await stage.settled()
    await stage.check(queue)
    return queue


async def gets(stage: Stage) -> Any:
    """Two wait for an item, one processes it, while others put."""
    queue = new_queue(2)
    await queue.start()
    stage.call(stage.get(queue, 2.0))
    stage.call(stage.use(queue, 0.25))
    stage.call(stage.get(queue))
    await asyncio.sleep(0.25)
    for _ in range(3):
        stage.call(stage.put(queue))
    await asyncio.sleep(1)
    stage.call(queue.stop())
    await stage.settled()
    await stage.check(queue)
    return queue


def closes(*, workers: bool) -> Play:
    """A queue is closed while items are taken, put and waited for; and perhaps opened again."""

    async def play(stage: Stage) -> Any:
        queue = new_queue(1)
        await queue.start()
        if workers:
            await queue.start_workers(stage.work, 2)
        for call in (stage.iterate, stage.iterate_and_close, stage.use):
            stage.call(call(queue, 0.25))
        stage.call(stage.close(queue))
        stage.call(queue.join())
        await asyncio.sleep(0.125)
        stage.call(stage.put(queue))
        stage.call(stage.get(queue, 2.0))
        await asyncio.sleep(0.25)
        queue.close()
        stage.call(queue.start())
        await asyncio.sleep(1)
        queue.close()
        await asyncio.sleep(1)
        stage.call(queue.stop(timeout=0))
        await stage.settled()
        await stage.check(queue)
        return queue

    return play


async def joins(stage: Stage) -> Any:
    """Two join while a worker works."""
    queue = new_queue(2)
    await queue.start_workers(stage.work, 1)
    stage.call(stage.put(queue))
    stage.call(stage.put(queue))
    await asyncio.sleep(0)
    stage.call(queue.join())
    stage.call(queue.join())
    await asyncio.sleep(0.25)
    stage.call(stage.put(queue))
    await stage.settled()
    await stage.check(queue)
    return queue


def stops(*options: dict[str, Any], plain: bool = False) -> Play:
    """Several stops at once, and a start, while two workers have items and one waits."""

    async def play(stage: Stage) -> Any:
        queue = new_queue(2)
        await queue.start_workers(stage.work_in_thread if plain else stage.work, 2)
        for _ in range(4):
            await stage.put(queue)
        stage.call(stage.put(queue))
        await asyncio.sleep(0.125)
        for one in options:
            stage.call(queue.stop(**one))
        stage.call(queue.start())
        await stage.settled()
        await stage.check(queue)
        return queue

    return play


async def new_workers(stage: Stage) -> Any:
    """Workers are replaced, ended and replaced again, with items in their hands."""
    queue = new_queue(3)
    await queue.start_workers(stage.work, 2)
    for _ in range(3):
        await stage.put(queue)
    await asyncio.sleep(0.25)
    stage.call(queue.start_workers(stage.work, 1))
    stage.call(queue.stop_workers(timeout=0.125))
    await asyncio.sleep(0.125)
    stage.call(queue.start_workers(stage.work, 1))
    stage.call(stage.put(queue))
    stage.call(queue.stop_workers())
    await stage.settled()
    await stage.check(queue)
    return queue


async def submits(stage: Stage) -> Any:
    """Results are waited for, one by somebody who first waits for room."""
    queue = new_queue(1)
    await queue.start_workers(stage.work, 1)
    for _ in range(4):
        stage.call(stage.submit(queue))
    await stage.settled()
    await stage.check(queue)
    return queue


def maps(*, ordered: bool, runs: bool) -> Play:
    """The results of a map are read slowly, on a queue of its own or on one that runs."""

    async def play(stage: Stage) -> Any:
        queue: WorkQueue[Item] = WorkQueue(2, logger=SILENT)
        began: list[Item] = []

        async def work(item: Item) -> Item:
            began.append(item)
            await asyncio.sleep(0.25)
            return item

        async def items() -> AsyncIterator[Item]:
            for number in range(4):
                await asyncio.sleep(0.125 if number == 2 else 0)
                yield stage.item()

        got: list[Item] = []

        async def read() -> None:
            async with aclosing(queue.map(work, items(), ordered=ordered)) as results:
                async for result in results:
                    got.append(result)
                    await asyncio.sleep(0.125)

        if runs:
            await queue.process(work, 2)
        reading = stage.call(read())
        await stage.settled()
        if not stage.cancelled:
            stage.hold(sorted(map(repr, got)) == ["#0", "#1", "#2", "#3"], f"map returned {got}")
        stage.hold(not ordered or got == stage.items[: len(got)], f"map returned {got}")
        stage.hold(len(set(began)) == len(began), f"map called {began}")
        before = len(began)
        if runs:
            await queue.join()
            stage.hold(queue.worker_count == 2, f"{queue.worker_count} of 2 workers are left")
            await queue.stop()
        await asyncio.sleep(5)
        stage.hold(reading.done() and len(began) == before, f"{began[before:]} began after map")
        counts = queue.metrics
        stage.hold(not queue.unprocessed, f"map left {queue.unprocessed}")
        stage.hold(counts["enqueued"] == counts["processed"], f"map left {counts}")
        stage.hold(queue.status in ("stopped", "idle"), f"map left the queue {queue.status.value}")
        began.clear()
        got.clear()
        return queue

    return play


async def batches(stage: Stage) -> Any:
    """A batch on a queue of its own, larger than the queue."""
    queue: WorkQueue[Item] = WorkQueue(1, logger=SILENT)
    ended = stage.ended
    stage.call(queue.batch_process((stage.item() for _ in range(4)), stage.work, 2))
    await stage.settled()
    counts = queue.metrics
    stage.hold(queue.status in ("stopped", "idle"), f"the batch left it {queue.status.value}")
    stage.hold(counts["enqueued"] == counts["processed"], f"the batch left {counts}")
    stage.hold(not queue.unprocessed, f"the batch left {queue.unprocessed}")
    stage.hold(len({*ended}) == len(ended), f"ended {ended}")
    stage.hold(bool(stage.cancelled) or len(ended) == 4, f"only {ended} have ended")
    await queue.process(stage.work)
    await queue.join()
    await queue.stop()
    return queue


def check_jobs(stage: Stage, queue: WorkQueue[Item], called: list[Item]) -> None:
    """All jobs have ended: nothing is left of them, and each item was called once at most."""
    counts = queue.metrics
    stage.hold(queue.status in ("stopped", "idle"), f"the jobs left it {queue.status.value}")
    stage.hold(not queue.worker_count, f"the jobs left {queue.worker_count} workers")
    stage.hold(counts["enqueued"] == counts["processed"], f"the jobs left {counts}")
    stage.hold(not queue.unprocessed, f"the jobs left {queue.unprocessed}")
    stage.hold(len({*called}) == len(called), f"{called} were called")
    called.clear()


async def two_jobs(stage: Stage) -> Any:
    """A map and a batch on one queue, each with its own function and number of workers."""
    queue: WorkQueue[Item] = WorkQueue(1, logger=SILENT)
    called: list[Item] = []
    running = {"map": 0, "batch": 0}

    def work_of(name: str, most: int, mine: list[Item]) -> Callable[[Item], Awaitable[Item]]:
        async def work(item: Item) -> Item:
            stage.hold(item in mine, f"the {name} got {item}")
            called.append(item)
            running[name] += 1
            try:
                stage.hold(running[name] <= most, f"{running} are under way")
                await asyncio.sleep(0.25)
            finally:
                running[name] -= 1
            return item

        return work

    async def read(items: list[Item]) -> None:
        results = queue.map(work_of("map", 1, items), items, num_workers=1)
        async with aclosing(results):
            got = [item async for item in results]
        stage.hold(got == items, f"map returned {got}")
        items.clear()

    async def process(items: list[Item]) -> None:
        result = await queue.batch_process(items, work_of("batch", 2, items), 2)
        stage.hold((result.processed, result.failed) == (3, 0), f"the batch returned {result}")
        items.clear()

    stage.call(read([stage.item() for _ in range(2)]))
    stage.call(process([stage.item() for _ in range(3)]))
    await stage.settled()
    stage.hold(bool(stage.cancelled) or len(called) == 5, f"only {called} were called")
    check_jobs(stage, queue, called)
    return queue


async def nested_jobs(stage: Stage) -> Any:
    """Items of a map run a batch on the queue of their own."""
    queue: WorkQueue[Item] = WorkQueue(1, logger=SILENT)
    called: list[Item] = []

    async def inner(item: Item) -> None:
        called.append(item)
        await asyncio.sleep(0.125)

    async def outer(item: Item) -> Item:
        called.append(item)
        await queue.batch_process([stage.item(), stage.item()], inner, 1)
        return item

    async def read() -> None:
        items = [stage.item(), stage.item()]
        async with aclosing(queue.map(outer, items, num_workers=1)) as results:
            got = [item async for item in results]
        stage.hold(got == items, f"map returned {got}")

    stage.call(read())
    await stage.settled()
    stage.hold(bool(stage.cancelled) or len(called) == 6, f"only {called} were called")
    check_jobs(stage, queue, called)
    return queue


def stopped_batches(**options: Any) -> Play:
    """A batch whose queue is stopped by somebody else, and a batch after that."""

    async def play(stage: Stage) -> Any:
        queue: WorkQueue[Item] = WorkQueue(2, logger=SILENT)
        called: list[Item] = []

        async def work(item: Item) -> None:
            called.append(item)
            await asyncio.sleep(0.25)
            stage.ended.append(item)

        stage.call(queue.batch_process((stage.item() for _ in range(2)), work, 1))
        await asyncio.sleep(0.125)
        stage.call(queue.stop(**options))
        stage.call(queue.batch_process((stage.item() for _ in range(2)), work, 1))
        await stage.settled()
        await queue.process(work)  # what the stop left
        await queue.join()
        await queue.stop()
        stage.hold(len({*stage.ended}) == len(stage.ended), f"{stage.ended} have ended")
        called[:] = {*called}
        check_jobs(stage, queue, called)
        return queue

    return play


async def limited_puts(stage: Stage) -> Any:
    """Items wait for their limit and for another attempt, as a stop comes."""
    failed: list[Item] = []

    async def work(item: Item) -> None:
        await asyncio.sleep(0.25)
        if item.number == 0 and item not in failed:
            failed.append(item)
            raise ConnectionError
        stage.ended.append(item)

    queue: WorkQueue[Item] = WorkQueue(
        3,
        logger=SILENT,
        limits=[Limit(1, per=1)],
        retry=RetryPolicy(3, backoff=lambda attempt, error: 0.5),
    )
    await queue.process(work, 2)
    for _ in range(3):
        stage.call(stage.put(queue))
    await asyncio.sleep(1.125)
    stage.call(queue.stop(timeout=0.5))
    await asyncio.sleep(1)
    stage.call(queue.process(work, 1))
    await stage.settled()
    inner = queue.queue
    assert isinstance(inner, BoundedQueue)
    await stage.check(inner)
    failed.clear()
    return queue


# -- limits and executors -------------------------------------------------------------------------


async def acquires(stage: Stage) -> Any:
    """Four want to start, and two may a second; the gate is closed once."""
    limiter = Limiter([Limit(2, per=1), Limit(3, per=2, name="slow")])
    starts: list[float] = []

    async def acquire() -> None:
        async with limiter:
            starts.append(stage.loop.time())
            await asyncio.sleep(0.125)

    for _ in range(4):
        stage.call(acquire())
    await asyncio.sleep(0.5)
    limiter.close_for(1)
    stage.call(acquire())
    await stage.settled()
    stage.hold(limiter.statistics().waiting == 0, "somebody waits who is not there")
    for most, per in ((2, 1), (3, 2)):
        for first, last in zip(starts, starts[most:], strict=False):
            stage.hold(last >= first + per - 1e-9, f"more than {most} in {per} s: {starts}")
    stage.hold(len(starts) == limiter.statistics().grants, "a grant is counted that was none")
    await asyncio.sleep(5)
    granted = sum(limiter.try_acquire() is not None for _ in range(4))
    stage.hold(granted == 2, f"{granted} of 2 may start after all windows")
    return limiter


def executes(make: Callable[[], AsyncExecutor]) -> Play:
    """Calls wait for their turn, fail, and are shut down."""

    async def play(stage: Stage) -> Any:
        executor, running = make(), [0]

        async def call(number: int) -> int:
            running[0] += 1
            stage.hold(running[0] <= 2, f"{running[0]} calls run, of at most 2")
            try:
                await asyncio.sleep(0.25)
            finally:
                running[0] -= 1
            return number

        async def many() -> None:
            results = await executor.map(call, range(3))
            stage.hold(results == [0, 1, 2], f"map returned {results}")

        for number in range(3):
            stage.call(executor.execute(call, number))
        stage.call(many())
        await asyncio.sleep(0.375)
        stage.call(executor.shutdown(timeout=0.5))
        await stage.settled()
        with suppress(QueueStateError):
            await executor.shutdown()
        stage.hold(not running[0], f"{running[0]} calls run after the shutdown")
        return executor

    return play


class Step(Event):
    """An event that takes some time."""

    async def invoke(self) -> None:
        """Take it."""
        await asyncio.sleep(0.25)


async def events(stage: Stage) -> Any:
    """Events are forwarded, waited for and interrupted by a stop."""
    executor = Executor(
        Step,
        QueueConfig(queue_capacity=2, capacity_refresh_time=0.5, concurrency_limit=2),
        logger=SILENT,
    )
    steps = [Step() for _ in range(4)]
    await executor.start()
    for step in steps:
        executor.append(step)
    stage.call(executor.forward())
    stage.call(executor.wait())
    await asyncio.sleep(0.625)
    stage.call(executor.stop(timeout=0.125))
    await asyncio.sleep(0.25)
    stage.call(executor.start())
    await stage.settled()
    await executor.start()
    await executor.wait()
    stage.hold(executor.is_all_processed, "wait() returned before all events were processed")
    await executor.stop()
    states = [step.execution.status for step in steps]
    stage.hold(set(states) == {ExecutionStatus.COMPLETED}, f"events are {states}")
    return executor


PLAYS: dict[str, Play] = {
    "put": puts,
    "get": gets,
    "join": joins,
    "close": closes(workers=False),
    "close with workers": closes(workers=True),
    "stop": stops({}),
    "stop with a timeout": stops({"timeout": 0.25}),
    "stops at once": stops({}, {"timeout": 0.125}, {"drain": False}),
    "stop of threads": stops({"timeout": 0.125}, plain=True),
    "start_workers and stop_workers": new_workers,
    "submit": submits,
    "map": maps(ordered=True, runs=False),
    "map as completed": maps(ordered=False, runs=False),
    "map on a queue that runs": maps(ordered=True, runs=True),
    "batch_process": batches,
    "two jobs": two_jobs,
    "jobs inside items": nested_jobs,
    "batches under a stop": stopped_batches(),
    "batches under a stop with a timeout": stopped_batches(timeout=0.125),
    "limits and retries": limited_puts,
    "acquire": acquires,
    "execute": executes(lambda: AsyncExecutor(2)),
    "execute under limits": executes(lambda: RateLimitedExecutor([Limit(2, per=1)], 2)),
    "events": events,
}


def play(name: str, strikes: dict[int, int]) -> Stage:
    """Play it, with these cancellations; ``BrokenPromiseError`` when something is wrong."""
    loop = SimulatedLoop(order="single")
    stage = Stage(loop, strikes)
    try:
        kept = loop.run_until_complete(PLAYS[name](stage))
        loop.settle()
        stage.hold(not loop.left_over(), f"left over: {loop.left_over()}")
        items = [weakref.ref(item) for item in stage.items]
        for things in (stage.items, stage.accepted, stage.ended, stage.unwanted):
            things.clear()
        stage.calls.clear()
        stage.cancelled.clear()
        gc.collect()
        alive = [ref() for ref in items if ref() is not None]
        stage.hold(not alive, f"{kept!r} keeps {alive} alive")
        stage.hold(not loop.complaints, f"asyncio complains: {loop.complaints}")
    except Exception as error:
        raise BrokenPromiseError(f"{name}, cancelled {strikes}: {error!r}") from error
    finally:
        loop.bury()
    return stage


def all_strikes(name: str, *, twice: bool = False) -> Iterator[dict[int, int]]:
    """Each call, cancelled before each step; or ``twice``, and again up to three steps later."""
    loop_steps, calls = extent(name)
    for number in range(calls):
        for step in range(1, loop_steps + 1):
            if not twice:
                yield {step: number}
            else:
                for later in (1, 2, 3):
                    yield {step: number, step + later: number}


def extent(name: str) -> tuple[int, int]:
    """How many steps it takes, and how many calls it makes, if none is cancelled."""
    loop = SimulatedLoop(order="single")
    stage = Stage(loop, {})
    try:
        loop.run_until_complete(PLAYS[name](stage))
        return stage.steps, len(stage.calls)
    finally:
        loop.bury()
