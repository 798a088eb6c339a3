"""One random program that uses what is around a queue: map, batches, executors, events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import (
    AsyncExecutor,
    Event,
    ExecutionStatus,
    Executor,
    Limit,
    QueueConfig,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RateLimitedExecutor,
    RateLimitError,
    WorkQueue,
)
from simulation.program import MOMENTS, ItemError, OddError, Program, PutOutcome

#: A limit of this executor's, and of the events': so many in so many seconds.
RATE, PER = 3, 1.0


class SourceError(Exception):
    """What the items came from failed."""


@dataclass(eq=False)
class Item:
    """What a job has done, and what became of it."""

    number: int
    takes: float | None
    error: BaseException | None
    is_stubborn: bool
    begun: int = 0
    #: Calls that came to their end.
    ended: int = 0
    is_running: bool = False
    failures: list[BaseException] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"#{self.number}"

    @property
    def result(self) -> Any:
        """What a call on it returns, or raises."""
        return self.number if self.error is None else self.error


@dataclass(eq=False)
class Job:
    """One map, batch or the like."""

    name: str
    items: list[Item]
    #: How many of the items were read, and of the results.
    read: int = 0
    results: list[Any] = field(default_factory=list)
    is_over: bool = False


class Step(Event):
    """An event of the program."""

    program: FaceProgram

    def __init__(self, program: FaceProgram, takes: float | None, fails: bool) -> None:
        super().__init__()
        self.program = program
        self.takes = takes
        self.fails = fails

    async def invoke(self) -> int:
        """Take some time, and fail or not."""
        program = self.program
        program.event_starts.append(program.loop.time())
        running = program.events_running  # since the last start: a stop may leave workers behind
        running.append(self)
        most = program.events.queue.queue.maxsize  # the concurrency limit is the same here
        program.hold(len(running) <= most, f"{len(running)} events run")
        try:
            if self.takes is not None:
                await asyncio.sleep(self.takes)
        finally:
            running.remove(self)
        if self.fails:
            raise ItemError(self.id)
        return 1


class FaceProgram(Program):
    """Maps, batches, submits, executors, events: what stands around ``BoundedQueue``."""

    name = "face"
    lengths = (5, 10, 20)

    def set_up(self) -> None:
        rng = self.random
        self.all_items: list[Item] = []
        self.tasks: dict[asyncio.Task[Any], str] = {}
        #: How often each was cancelled.
        self.cancels: dict[asyncio.Task[Any], int] = {}
        self.of_call: dict[Any, Callable[[Item], None]] = {}
        self.loop.on_thread = self.enter_thread
        #: One that all jobs share and that somebody may stop; no job can rely on it.
        self.shared: WorkQueue[Item] = WorkQueue(rng.choice((1, 3)), logger=SILENT)
        self.shared_stops = 0
        self.submitted: list[tuple[Item, asyncio.Future[Any]]] = []
        self.most = rng.choice((1, 2, 4))
        self.running = 0
        self.starts: list[float] = []
        self.is_limited = rng.random() < 0.5
        self.executor = self.new_executor()
        self.event_starts: list[float] = []
        self.events_running: list[Step] = []
        self.every_event: list[Step] = []
        self.events: Executor[Step] = Executor(
            Step,
            QueueConfig(queue_capacity=RATE, capacity_refresh_time=PER, concurrency_limit=RATE),
            logger=SILENT,
        )
        self.choices = {
            self.map_soon: 4,
            self.batch_soon: 3,
            self.submit_soon: 2,
            self.execute_soon: 4,
            self.execute_many_soon: 2,
            self.shut_down_soon: rng.choice((0, 0.5)),
            self.append_events: 2,
            self.forward_soon: 1,
            self.wait_soon: 1,
            self.restart_events_soon: rng.choice((0, 0.5)),
            self.restart_shared_soon: rng.choice((0, 0.5)),
            self.cancel_some_job: rng.choice((1, 3)),
        }

    def items(self) -> list[Any]:
        return self.all_items

    def forget(self) -> Any:
        kept = self.shared, self.executor, self.events
        self.loop.on_thread = None
        self.all_items = []
        self.submitted.clear()
        self.of_call.clear()
        return kept

    # -- the program --------------------------------------------------------------------------

    async def begin(self) -> None:
        await self.shared.process(self.work_of(self.new_job("shared", 0)), 2, ignore)
        await self.events.start()

    async def finish(self) -> None:
        rng = self.random
        for _ in range(len(self.tasks) // 3):
            self.cancel_one(rng)
        for _ in range(40):
            if not self.tasks:
                break
            await asyncio.wait([*self.tasks], timeout=5)
        else:
            raise self.fail(f"these never end: {sorted(self.tasks.values())}")
        await self.executor.shutdown()
        self.hold(not self.running, f"{self.running} calls run after a shutdown")
        await self.finish_events()
        await self.shared.process(self.work_of(self.new_job("shared", 0)), 2, ignore)
        await self.shared.join()
        await self.shared.stop()
        self.check_queue(self.shared)
        self.hold(not self.shared.unprocessed, "a stop that drains left something")
        for item, future in self.submitted:
            self.hold(future.done(), f"nobody will ever know what became of {item}")
            if not future.cancelled():
                future.exception()
        await asyncio.sleep(10)  # threads whose workers are gone

    async def finish_events(self) -> None:
        events = self.events
        await events.start()
        await events.wait()
        self.hold(events.is_all_processed, "wait() returned, and events are not processed")
        await events.stop()
        for event in self.every_event:
            expected = ExecutionStatus.FAILED if event.fails else ExecutionStatus.COMPLETED
            status = event.execution.status
            self.hold(status is expected, f"an event is {status.value}, not {expected.value}")
        self.check_rate(self.event_starts)
        self.check_rate(self.starts)

    def check_rate(self, starts: list[float]) -> None:
        for first, last in zip(starts, starts[RATE:], strict=False):
            self.hold(last >= first + PER - 1e-9, f"{RATE + 1} started from {first} to {last}")

    def check_queue(self, queue: WorkQueue[Item]) -> None:
        counts, left = queue.metrics, len(queue.unprocessed)
        self.hold(queue.status is QueueStatus.STOPPED, f"{queue!r} is not stopped")
        self.hold(queue.worker_count == 0, f"{queue!r} is stopped and has workers")
        adds_up = counts["enqueued"] == counts["processed"] + left
        self.hold(adds_up, f"{counts} does not add up with {left} unprocessed")

    # -- items, and what is done with them ------------------------------------------------------

    def new_item(self) -> Item:
        rng = self.random
        failing = rng.random() < 0.2
        item = Item(
            number=len(self.all_items),
            takes=rng.choice((None, *MOMENTS)),
            error=rng.choice((ItemError, OddError))(len(self.all_items)) if failing else None,
            is_stubborn=rng.random() < 0.1,
        )
        self.all_items.append(item)
        return item

    def new_job(self, name: str, count: int) -> Job:
        return Job(name, [self.new_item() for _ in range(count)])

    def work_of(self, job: Job, *, is_plain: bool = False) -> Callable[[Item], Any]:
        """The worker function of a job."""

        async def in_loop(item: Item) -> int:
            self.begin_call(job, item)
            try:
                if item.takes is not None:
                    await asyncio.sleep(item.takes)
            except asyncio.CancelledError:
                if not item.is_stubborn:
                    item.is_running = False
                    raise
            return self.end_call(item)

        def in_thread(item: Item) -> PutOutcome:
            return PutOutcome(partial(self.end_call, item))

        if not is_plain:
            return in_loop
        self.of_call[in_thread] = partial(self.begin_call, job)
        return in_thread

    def enter_thread(self, call: partial[Any]) -> None:
        *_, work, item = call.args
        self.of_call[work](item)

    def begin_call(self, job: Job, item: Item) -> None:
        self.note(f"{job.name} begins {item}")
        self.hold(not job.is_over, f"{item} begins, though its {job.name} is over")
        item.begun += 1
        item.is_running = True

    def end_call(self, item: Item) -> int:
        item.is_running = False
        item.ended += 1
        self.note(f"{item} ends")
        if item.error is not None:
            raise item.error
        return item.number

    def source(self, job: Job) -> Any:
        """The items of a job, in some form; it may fail on the way."""
        rng = self.random
        fails_at = rng.choice((None, None, None, 0, 2))
        pause = rng.choice((None, 0.0, 0.125))

        def plain() -> Iterator[Item]:
            for number, item in enumerate(job.items):
                if number == fails_at:
                    raise SourceError
                job.read += 1
                yield item

        async def slow() -> AsyncIterator[Item]:
            for item in plain():
                if pause is not None:
                    await asyncio.sleep(pause)
                yield item

        return rng.choice((plain, slow))()

    # -- jobs in tasks of their own -------------------------------------------------------------

    def soon(self, name: str, job: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(job)
        self.tasks[task] = name
        task.add_done_callback(self.is_done)

    def is_done(self, task: asyncio.Task[Any]) -> None:
        name = self.tasks.pop(task)
        self.cancels.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.violation is None:
            self.fail(f"{name} raised {error!r}")

    def cancel_one(self, rng: random.Random) -> None:
        if self.tasks:
            task = rng.choice([*self.tasks])
            self.note(f"cancel {self.tasks[task]}")
            self.cancels[task] = self.cancels.get(task, 0) + 1
            task.cancel()

    def is_impatient(self) -> bool:
        """Whether the job that runs was cancelled twice: then it waits for nothing any more."""
        task = asyncio.current_task()
        return task is not None and self.cancels.get(task, 0) > 1

    def cancel_some_job(self) -> None:
        self.cancel_one(self.random)

    # -- queues -------------------------------------------------------------------------------

    def map_soon(self) -> None:
        rng = self.random
        job = self.new_job("map", rng.choice((0, 1, 3, 8)))
        is_own = rng.random() < 0.7
        queue = WorkQueue(rng.choice((1, 2, 5)), logger=SILENT) if is_own else self.shared
        workers = rng.choice((None, 1, 3)) if is_own else None
        self.soon(
            job.name,
            self.map(
                job,
                queue,
                queue.map(
                    self.work_of(job, is_plain=rng.random() < 0.2),
                    self.source(job),
                    num_workers=workers,
                    ordered=(ordered := rng.random() < 0.5),
                    return_exceptions=rng.random() < 0.7,
                ),
                ordered=ordered,
                workers=workers or 1 if is_own else 4,
                reads=rng.choice((None, None, 1, 3)),
                pause=rng.choice((None, 0.0, 0.125, 1.0)),
            ),
        )

    async def map(
        self,
        job: Job,
        queue: WorkQueue[Item],
        stream: Any,
        *,
        ordered: bool,
        workers: int,
        reads: int | None,
        pause: float | None,
    ) -> None:
        is_complete = False
        try:
            async with aclosing(stream) as results:
                async for result in results:
                    job.results.append(result)
                    ahead = job.read - len(job.results)
                    most = queue.maxsize + workers
                    self.hold(ahead <= most, f"map read {ahead} items ahead, of at most {most}")
                    if len(job.results) == reads:
                        break
                    if pause is not None:
                        await asyncio.sleep(pause)
                else:
                    is_complete = True
        except (SourceError, ItemError, OddError):
            pass
        except QueueStateError:
            self.hold(queue is self.shared and self.shared_stops > 0, "map was stopped")
        finally:
            self.note(f"map is over, with {job.results} of {job.items}")
            # What a stop left behind is taken up when the queue is started again.
            job.is_over = queue is not self.shared or not self.shared_stops
            self.check_map(
                job, ordered, is_complete, queue is self.shared and self.shared_stops > 0
            )
            if queue is not self.shared:
                self.check_queue(queue)
                self.hold(not queue.unprocessed, f"map left {queue.unprocessed} behind")

    def check_map(self, job: Job, ordered: bool, is_complete: bool, was_stopped: bool) -> None:
        expected = [item.result for item in job.items]
        got = job.results
        if ordered:
            self.hold(got == expected[: len(got)], f"map returned {got}, expected {expected}")
        else:
            extra = [result for result in got if result not in expected or got.count(result) > 1]
            self.hold(not extra, f"map returned {extra}, expected each of {expected} once")
        if is_complete:
            self.hold(len(got) == len(expected), f"map returned {got}, expected {expected}")
        # What a stop took from a worker that it cancelled is begun once more after a start.
        often = [item for item in job.items if item.begun > 1]
        self.hold(was_stopped or not often, f"{often} were called more than once")

    def batch_soon(self) -> None:
        rng = self.random
        job = self.new_job("batch", rng.choice((0, 1, 4, 9)))
        queue: WorkQueue[Item] = WorkQueue(rng.choice((1, 2, 5)), logger=SILENT)
        work = self.work_of(job, is_plain=rng.random() < 0.2)
        runs = rng.random() < 0.3
        batch = self.batch(job, queue, work, self.source(job), rng.choice((None, 1, 3)), runs)
        self.soon(job.name, batch)

    async def batch(
        self,
        job: Job,
        queue: WorkQueue[Item],
        work: Callable[[Item], Any],
        source: Any,
        workers: int | None,
        runs: bool,
    ) -> None:
        def handle(error: BaseException, item: Item) -> None:
            item.failures.append(error)

        is_complete = False
        try:
            if runs:
                await queue.start()
            await queue.batch_process(source, work, workers, handle)
            is_complete = True
        except SourceError:
            pass
        finally:
            self.note(f"batch is over, {'all' if is_complete else 'not all'} of {job.items}")
            job.is_over = True
            if runs and queue.status is not QueueStatus.IDLE:
                self.hold(queue.status is QueueStatus.PROCESSING, f"the batch ended {queue!r}")
                await self.stop(queue, drain=is_complete)
            if queue.status is not QueueStatus.IDLE:
                self.check_batch(job, queue, is_complete)

    @staticmethod
    async def stop(queue: WorkQueue[Item], *, drain: bool) -> None:
        """Stop it, whoever is cancelled meanwhile."""
        while queue.status is not QueueStatus.STOPPED:
            with suppress(asyncio.CancelledError):
                await queue.stop(drain=drain)

    def check_batch(self, job: Job, queue: WorkQueue[Item], is_complete: bool) -> None:
        self.check_queue(queue)
        self.hold(not queue.unprocessed, f"the batch left {queue.unprocessed}")
        for item in job.items:
            self.hold(item.begun <= 1, f"{item} was called {item.begun} times")
            self.hold(not is_complete or item.ended == 1, f"{item} was not processed")
            told = item.error is None or item.ended == len(item.failures)
            self.hold(told or not is_complete, f"the handler heard of {item.failures} from {item}")

    def submit_soon(self) -> None:
        item, timeout = self.new_item(), self.random.choice((0, 0.125, 5.0))

        async def submit() -> None:
            with suppress(QueueStateError, QueueFullError):
                future = await self.shared.submit(item, timeout=timeout)
                self.submitted.append((item, future))

        self.soon("submit", submit())

    def restart_shared_soon(self) -> None:
        rng = self.random
        timeout, drain = rng.choice((0, 1.0, None)), rng.random() < 0.5

        async def restart() -> None:
            self.shared_stops += 1
            try:
                await self.shared.stop(timeout, drain=drain)
            finally:
                self.shared_stops += 1
                with suppress(QueueStateError):
                    job = self.new_job("shared", 0)
                    await self.shared.process(self.work_of(job), 2, ignore)

        self.soon("restart", restart())

    # -- executors ----------------------------------------------------------------------------

    def new_executor(self) -> AsyncExecutor:
        if self.is_limited:
            return RateLimitedExecutor([Limit(RATE, PER)], self.most)
        return AsyncExecutor(self.most)

    async def call(self, item: Item) -> int:
        """What executors call."""
        if self.is_limited:
            self.starts.append(self.loop.time())
        item.begun += 1
        item.is_running = True
        self.running += 1
        self.hold(self.running <= self.most, f"{self.running} calls run, of at most {self.most}")
        try:
            if item.takes is not None:
                await asyncio.sleep(item.takes)
        except asyncio.CancelledError:
            if not item.is_stubborn:
                raise
        finally:
            self.running -= 1
            item.is_running = False
        item.ended += 1
        if item.error is not None:
            raise item.error
        return item.number

    def execute_soon(self) -> None:
        item = self.new_item()
        if isinstance(item.error, ItemError) and self.random.random() < 0.3:
            item.error = RateLimitError(retry_after=0.5)
        self.soon("execute", self.execute(self.executor, item))

    async def execute(self, executor: AsyncExecutor, item: Item) -> None:
        try:
            result = await executor.execute(self.call, item)
            self.hold(result == item.number, f"the call on {item} returned {result}")
        except QueueStateError:
            self.hold(executor is not self.executor, "an executor is shut down by itself")
        except (ItemError, OddError, RateLimitError) as error:
            self.hold(error is item.error, f"the call on {item} raised {error!r}")
        finally:
            if not self.is_impatient():
                self.hold(not item.is_running, f"the call on {item} goes on after its caller")
            self.hold(item.begun <= 1, f"{item} was called {item.begun} times")

    def execute_many_soon(self) -> None:
        job = self.new_job("execute many", self.random.choice((0, 1, 3, 6)))
        self.soon(job.name, self.execute_many(self.executor, job, self.source(job)))

    async def execute_many(self, executor: AsyncExecutor, job: Job, source: Any) -> None:
        try:
            results = await executor.map(self.call, source)
            expected = [item.number for item in job.items]
            self.hold(results == expected, f"map returned {results}, expected {expected}")
        except QueueStateError:
            self.hold(executor is not self.executor, "an executor is shut down by itself")
        except (ItemError, OddError, SourceError):
            pass
        finally:
            running = [item for item in job.items if item.is_running and not self.is_impatient()]
            self.hold(not running, f"the calls on {running} go on after their map")

    def shut_down_soon(self) -> None:
        executor, self.executor = self.executor, AsyncExecutor(self.most)
        if executor.max_concurrency is not None:
            self.most += executor.max_concurrency  # those of both may run
        self.check_rate(self.starts)
        self.starts.clear()
        self.is_limited = False  # and their rates would add up
        timeout = self.random.choice((None, 0, 0.25))

        async def shut_down() -> None:
            await executor.shutdown(timeout)

        self.soon("shutdown", shut_down())

    # -- events -------------------------------------------------------------------------------

    def append_events(self) -> None:
        rng = self.random
        for _ in range(rng.choice((1, 3, 8))):
            event = Step(self, rng.choice((None, *MOMENTS)), rng.random() < 0.2)
            self.every_event.append(event)
            self.events.append(event)

    def forward_soon(self) -> None:
        async def forward() -> None:
            with suppress(QueueStateError):
                await self.events.forward()

        self.soon("forward", forward())

    def wait_soon(self) -> None:
        async def wait() -> None:
            with suppress(QueueStateError):
                await self.events.wait()

        self.soon("wait", wait())

    def restart_events_soon(self) -> None:
        timeout, drain = self.random.choice((0, 1.0, None)), self.random.random() < 0.5

        async def restart() -> None:
            try:
                await self.events.stop(timeout, drain=drain)
            finally:
                self.events_running = []
                await self.events.start()

        self.soon("restart", restart())


def ignore(error: BaseException, item: Item) -> None:
    """Nobody minds."""
