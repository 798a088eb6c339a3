"""One random program of several jobs on one queue: which items, workers and ends are whose."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import (
    Limit,
    QueueClosedError,
    QueueEmptyError,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RetryPolicy,
    WorkQueue,
)
from penstock.queue.jobs import BatchResult
from penstock.workers.worker import WorkerTask
from simulation.program import MOMENTS, ItemError, OddError, Program, PutOutcome

#: What a function of the user's may raise. (KeyboardInterrupt and SystemExit end the program.)
ERRORS = (
    ItemError,
    ItemError,
    OddError,
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    asyncio.CancelledError,
    TimeoutError,
)
#: Seconds after which a map that was left by ``break`` and collected has been closed.
FORGOTTEN = 30.0


class SourceError(Exception):
    """What the items came from failed."""


@dataclass(eq=False)
class Item:
    """What is put, what its calls do, and what became of them."""

    number: int
    #: None: it is of ``put`` or ``submit``.
    job: Job | None
    takes: float | None
    #: What its first calls raise, and how many of them do.
    error: BaseException | None
    fails: int
    cancels_itself: bool
    is_stubborn: bool
    #: A job that its call runs on the same queue.
    inner: Job | None = None
    #: What its limit's key, its backoff and its error handler raise.
    key_error: BaseException | None = None
    backoff_error: BaseException | None = None
    handler_error: BaseException | None = None
    begun: int = 0
    returned: int = 0
    handled: int = 0
    raised: list[BaseException] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"#{self.number}"


@dataclass(eq=False)
class Job:
    """A map, a batch, or the standing job of one ``process``."""

    name: str
    size: int
    #: The number of stops before it.
    stops: int
    is_standing: bool = False
    is_nested: bool = False
    is_plain: bool = False
    #: Whether nothing ends it but the end of its items.
    is_steady: bool = False
    fails_at: int | None = None
    items: list[Item] = field(default_factory=list)
    #: Calls under way; without those that were asked to end.
    running: int = 0
    #: The name of the task that it runs in.
    task: str = ""
    #: From then on no call of it begins.
    over_at: float = math.inf
    results: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"{self.name} of {self.items}"


class JobsProgram(Program):
    """Maps and batches on one queue that somebody else may use and stop."""

    name = "jobs"
    lengths = (3, 5, 10, 20)

    def set_up(self) -> None:
        rng = self.random
        self.loop.on_thread = self.enter_thread
        self.all_items: list[Item] = []
        self.jobs: list[Job] = []
        self.tasks: dict[asyncio.Task[Any], str] = {}
        #: By name: a task that was cancelled keeps frames, and these keep maps that were left.
        self.cancelled: set[str] = set()
        self.of_call: dict[Any, Callable[[Item], None]] = {}
        self.numbers = itertools.count(1)
        self.accepted: list[Item] = []
        self.submitted: list[tuple[Item, asyncio.Future[Any]]] = []
        #: Stops by others, tasks of workers that were cancelled, standing jobs that were replaced.
        self.stops = self.hits = self.replaced = 0
        #: How often it was closed.
        self.closes = 0
        #: Whether it was used by others than jobs; None: nobody knows.
        self.is_used: bool | None = False
        self.has_rules = rng.random() < 0.3
        self.queue: WorkQueue[Item] = WorkQueue(
            rng.choice((1, 1, 2, 3, 10)), 0.125, logger=SILENT, **self.rules(rng)
        )
        use = rng.choice((0, 0, 0.5, 2))
        self.choices = {
            self.map_soon: 4,
            self.batch_soon: 4,
            self.put_soon: use,
            self.submit_soon: use,
            self.get_soon: use / 4,
            self.process_soon: use / 2,
            self.stop_workers_soon: use / 4,
            self.stop_soon: rng.choice((0, 0, 0.5)),
            self.close_soon: rng.choice((0, 0, 0.5)),
            self.cancel_some_job: rng.choice((0, 1, 3)),
            self.cancel_some_worker: rng.choice((0, 0, 1)),
        }
        self.starts_with = rng.choice((None, self.queue.start, self.process)) if use else None

    def rules(self, rng: random.Random) -> dict[str, Any]:
        if not self.has_rules:
            return {}
        return {
            "retry": RetryPolicy(2, on=(ItemError,), backoff=self.backoff, budget=None),
            "limits": [Limit(rng.choice((1, 3)), 0.5, **self.limit_of[self.seed % 3])],
        }

    @property
    def limit_of(self) -> list[dict[str, Any]]:
        """What the limit looks at."""
        return [{"key": self.key_of, "cost": self.cost_of}, {"cost": self.cost_by_key}, {}]

    def items(self) -> list[Any]:
        # The error of a dead letter keeps the frames that it came through.
        return [] if self.queue.dead_letters else self.all_items

    def forget(self) -> Any:
        self.loop.on_thread = None
        for letter in self.queue.dead_letters:
            forget_frames(letter.error)
        self.of_call.clear()
        self.submitted.clear()
        self.accepted.clear()
        self.jobs.clear()
        self.cancelled.clear()
        self.all_items = []
        return self.queue

    # -- the program --------------------------------------------------------------------------

    async def begin(self) -> None:
        if self.starts_with is not None:
            await self.starts_with()
            self.is_used = True

    async def finish(self) -> None:
        for _ in range(len(self.tasks) // 4):
            self.cancel_one(self.random)
        await self.let_end()
        if self.tasks and (self.stops or self.closes or self.is_used is not False):
            await self.open_again()
            await self.process()  # what nobody takes has the room that others wait for
            await self.let_end()
        self.hold(not self.tasks, f"these never end: {sorted(self.tasks.values())}")
        await asyncio.sleep(FORGOTTEN)  # threads whose workers are gone
        for item in self.all_items:
            for error in item.raised:
                forget_frames(error)
        gc.collect()  # maps that were left
        await asyncio.sleep(FORGOTTEN)
        for job in self.jobs:
            job.over_at = min(job.over_at, self.loop.time())
        self.note("all jobs have ended")
        self.check_at_rest()
        await self.open_again()
        await self.process()
        await self.queue.join()
        self.hold(await self.queue.stop(), "a stop that drains left something")
        self.check_balance()
        self.hold(not self.queue.unprocessed, "a stop that drains left something")
        for item in self.accepted:
            self.hold(self.is_done_for(item), f"{item} was accepted and is lost")
        for item, future in self.submitted:
            self.hold(future.done(), f"nobody will ever know what became of {item}")
            if not future.cancelled():
                future.exception()
        await asyncio.sleep(FORGOTTEN)  # threads whose workers are gone

    async def let_end(self) -> None:
        for _ in range(100):
            if self.tasks:
                await asyncio.wait([*self.tasks], timeout=10)

    def check_at_rest(self) -> None:
        """All jobs have ended, and nobody has stopped the queue since."""
        queue = self.queue
        self.check_balance()
        if queue.is_closed and not queue.statistics().unfinished:
            self.hold(queue.status is QueueStatus.STOPPED, f"all is done, but closed is {queue!r}")
        if self.stops or self.closes:
            return
        if self.is_used:
            self.hold(queue.status is QueueStatus.PROCESSING, f"a job has stopped {queue!r}")
        elif self.is_used is False:
            self.hold(queue.status is not QueueStatus.PROCESSING, f"no job has stopped {queue!r}")
            self.hold(not queue.worker_count, f"{queue!r} has workers, and nobody needs any")
            self.hold(not queue.unprocessed, f"jobs have left {queue.unprocessed}")

    def check_balance(self) -> None:
        counts, left = self.queue.metrics, self.queue.unprocessed
        unfinished = self.queue.statistics().unfinished
        self.hold(
            counts["enqueued"] == counts["processed"] + unfinished,
            f"{counts} does not add up with {unfinished} unfinished",
        )
        if self.queue.status is QueueStatus.STOPPED:
            self.hold(unfinished == len(left), f"{unfinished} are unfinished, and left are {left}")
        strays = [one for one in left if one.job is not None and one.job.stops == self.stops]
        self.hold(not strays, f"{strays} are left of jobs that have ended")

    # -- items, and what is done with them ------------------------------------------------------

    def new_item(self, job: Job | None, depth: int = 0) -> Item:
        rng = self.random

        def maybe(chance: float) -> BaseException | None:
            return rng.choice(ERRORS)(len(self.all_items)) if rng.random() < chance else None

        item = Item(
            number=len(self.all_items),
            job=job,
            takes=rng.choice((None, *MOMENTS)),
            error=maybe(0.2),
            fails=rng.choice((1, 2, 99)),
            cancels_itself=rng.random() < 0.05,
            is_stubborn=rng.random() < 0.05,
            key_error=maybe(0.02 if self.seed % 3 < 2 else 0.0),
            backoff_error=maybe(0.1),
            handler_error=maybe(0.3),
        )
        self.all_items.append(item)
        if depth < 2 and rng.random() < 0.1:
            item.inner = self.new_job(rng.choice(("map", "batch")), rng.choice((1, 3)), depth + 1)
        return item

    def new_job(self, name: str, count: int, depth: int = 0) -> Job:
        rng = self.random
        job = Job(name, rng.choice((1, 1, 2, 4)), self.stops, is_nested=depth > 0)
        job.is_plain = rng.random() < 0.15
        job.fails_at = rng.choice((None, None, None, None, 0, 2))
        job.items = [self.new_item(job, depth) for _ in range(count)]
        if depth:
            job.name = f"nested {name}"
        return job

    def work_of(self, job: Job) -> Callable[[Item], Any]:
        """The worker function of a job."""
        self.jobs.append(job)

        async def in_loop(item: Item) -> int:
            self.begin_call(job, item)
            job.running += 1
            is_counted = True
            try:
                self.check_running(job)
                try:
                    await self.do(item)
                except asyncio.CancelledError:
                    job.running -= 1
                    is_counted = False
                    self.check_break(job, item)
                    if not item.is_stubborn:
                        raise
                    await asyncio.sleep(item.takes or 0)
                return self.end_call(item)
            except BaseException as error:
                item.raised.append(error)
                raise
            finally:
                job.running -= is_counted

        def end_in_thread(item: Item) -> int:
            try:
                return self.end_call(item)
            except BaseException as error:
                item.raised.append(error)
                raise

        def in_thread(item: Item) -> PutOutcome:
            return PutOutcome(partial(end_in_thread, item))

        if not job.is_plain:
            return in_loop
        self.of_call[in_thread] = partial(self.begin_call, job)
        return in_thread

    def enter_thread(self, call: partial[Any]) -> None:
        *_, work, item = call.args
        self.of_call[work](item)

    def begin_call(self, job: Job, item: Item) -> None:
        self.note(f"{job.name} begins {item}")
        item.begun += 1
        self.hold(self.loop.time() < job.over_at, f"{item} begins, though its {job.name} is over")
        if item.job is not job:
            self.hold(job.is_standing, f"{job.name} got {item} of another job")
            self.check_is_of_nobody(item)
        size, most = self.queue.size, self.queue.maxsize
        self.hold(size <= most, f"{size} items wait, of at most {most}")

    def check_is_of_nobody(self, item: Item) -> None:
        """It was put by itself, or handed back by a stop."""
        is_of_job = item.job is not None and item.job.stops == self.stops
        self.hold(not is_of_job, f"{item} of {item.job} was taken by others")

    def check_running(self, job: Job) -> None:
        self.hold(job.running <= job.size, f"{job.running} of {job.size} calls of {job.name}")
        if self.stops or self.hits or self.replaced:
            return
        # Of those whose calls nobody breaks off: how many others are just ending is not known.
        jobs = [one for one in self.jobs if self.loop.time() < one.over_at]
        steady = sum(one.running for one in jobs if self.is_left_alone(one) or one.is_standing)
        most = max(one.size for one in jobs) + sum(one.is_nested for one in self.all_open())
        self.hold(steady <= most, f"{steady} calls are under way, of at most {most}")

    def all_open(self) -> list[Job]:
        return [one for one in self.jobs if self.loop.time() < one.over_at]

    def is_left_alone(self, job: Job) -> bool:
        """Whether nobody has a reason to break off a call of it."""
        return job.is_steady and job.task not in self.cancelled and not (self.stops or self.hits)

    def check_break(self, job: Job, item: Item) -> None:
        is_wanted = item.cancels_itself or isinstance(item.error, asyncio.CancelledError)
        is_inner = item.inner is not None  # what is raised there is raised here
        why = f"{item} of {job.name} was broken off for no reason"
        self.hold(is_wanted or is_inner or not self.is_left_alone(job), why)

    async def do(self, item: Item) -> None:
        """What a worker function does, but for its end."""
        if item.cancels_itself and item.begun == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if item.number % 3:
                await asyncio.sleep(0)
            self.hits += 1  # it may reach the next item
        if item.inner is not None and item.begun == 1:
            await self.run_job(item.inner)
        if item.takes is not None:
            await asyncio.sleep(item.takes)

    def end_call(self, item: Item) -> int:
        self.note(f"{item} ends")
        if item.error is not None and item.begun <= item.fails:
            raise item.error
        item.returned += 1
        self.hold(item.returned == 1 or item.is_stubborn, f"{item} was done {item.returned} times")
        return item.number

    def key_of(self, item: Item) -> int:
        if item.key_error is not None:
            item.raised.append(item.key_error)
            raise item.key_error
        return item.number % 2

    def cost_of(self, item: Item) -> int:
        return 1

    def cost_by_key(self, item: Item) -> int:
        self.key_of(item)  # which may raise
        return 1

    def backoff(self, attempt: int, error: BaseException) -> float:
        item = self.all_items[error.args[0]]
        if item.backoff_error is not None:
            item.raised.append(item.backoff_error)
            raise item.backoff_error
        return item.number % 3 * 0.125

    def handler(self, *, is_async: bool) -> Callable[[BaseException, Item], Any]:
        def handle(error: BaseException, item: Item) -> None:
            item.handled += 1
            if item.handler_error is not None:
                raise item.handler_error

        async def handle_slowly(error: BaseException, item: Item) -> None:
            item.handled += 1
            await asyncio.sleep(0.125)
            if item.handler_error is not None:
                raise item.handler_error

        return handle_slowly if is_async else handle

    def source(self, job: Job) -> Any:
        """The items of a job, in some form; it may fail on the way."""
        pause = self.random.choice((None, 0.0, 0.125))

        def plain() -> Iterator[Item]:
            for number, item in enumerate(job.items):
                if number == job.fails_at:
                    raise SourceError
                yield item

        async def slow() -> AsyncIterator[Item]:
            for item in plain():
                if pause is not None:
                    await asyncio.sleep(pause)
                yield item

        return self.random.choice((plain, slow))()

    # -- jobs ---------------------------------------------------------------------------------

    def soon(self, name: str, coroutine: Coroutine[Any, Any, None], job: Job | None = None) -> None:
        name = f"{name} {next(self.numbers)}"
        if job is not None:
            job.task = name  # here, since an eager task gets its name after its first step
        task = self.loop.create_task(coroutine, name=name)
        self.tasks[task] = name
        task.add_done_callback(self.is_done)

    def is_done(self, task: asyncio.Task[Any]) -> None:
        name = self.tasks.pop(task)
        if task.cancelled():
            self.hold(name in self.cancelled, f"{name} was cancelled by itself")
        elif (error := task.exception()) is not None and self.violation is None:
            self.fail(f"{name} raised {error!r}")

    def cancel_one(self, rng: random.Random) -> None:
        if self.tasks:
            task = rng.choice([*self.tasks])
            self.note(f"cancel {self.tasks[task]}")
            self.cancelled.add(self.tasks[task])
            task.cancel()

    def cancel_some_job(self) -> None:
        self.cancel_one(self.random)

    def cancel_some_worker(self) -> None:
        workers = [task for task in asyncio.all_tasks() if isinstance(task, WorkerTask)]
        if workers:
            self.hits += 1
            self.note("cancel a worker")
            self.random.choice(sorted(workers, key=lambda task: task.get_name())).cancel()

    def map_soon(self) -> None:
        self.run_soon(self.new_job("map", self.random.choice((0, 1, 3, 8))))

    def batch_soon(self) -> None:
        self.run_soon(self.new_job("batch", self.random.choice((0, 1, 4, 9))))

    def run_soon(self, job: Job) -> None:
        self.soon(job.name, self.run_and_swallow(job), job)

    async def run_and_swallow(self, job: Job) -> None:
        try:
            await self.run_job(job)
        except asyncio.CancelledError:
            if job.task in self.cancelled:
                raise
        except BaseException:
            self.note(f"{job.name} failed")  # as run_job has seen to

    async def run_job(self, job: Job) -> None:
        """Run it on the queue, in a task of its own or in an item of the queue."""
        job.stops = self.stops
        try:
            await (self.map(job) if job.name.endswith("map") else self.batch(job))
        except BaseException as error:
            self.check_error(job, error)
            raise

    def may_come_to_its_end(self, job: Job) -> bool:
        is_put = not self.has_rules or all(item.key_error is None for item in job.items)
        return is_put and not job.is_nested and job.fails_at is None

    async def map(self, job: Job) -> None:
        rng = self.random
        reads, pause = rng.choice((None, None, 1, 3)), rng.choice((None, 0.0, 0.125, 1.0))
        is_tidy, returns = rng.random() < 0.6, rng.random() < 0.7
        ordered = rng.random() < 0.5
        job.is_steady = self.may_come_to_its_end(job) and reads is None and returns
        stream = self.queue.map(
            self.work_of(job),
            self.source(job),
            num_workers=job.size,
            ordered=ordered,
            return_exceptions=returns,
        )
        is_complete = False
        try:
            if is_tidy:
                async with aclosing(stream):
                    is_complete = await self.read(job, stream, reads, pause)
            else:
                is_complete = await self.read(job, stream, reads, pause)
        finally:
            # Left as it is, somebody else closes it.
            is_closed = is_tidy or is_complete
            if is_closed:
                job.over_at = self.loop.time()
            self.note(f"{job.name} is over, with {job.results} of {job.items}")
            self.check_results(job, ordered, is_complete)

    async def read(self, job: Job, stream: Any, reads: int | None, pause: float | None) -> bool:
        async for result in stream:
            job.results.append(result)
            if len(job.results) == reads:
                return False
            if pause is not None:
                await asyncio.sleep(pause)
        return True

    def check_results(self, job: Job, ordered: bool, is_complete: bool) -> None:
        got, items = job.results, [*job.items]
        if is_complete:
            self.hold(len(got) == len(items), f"{job} returned {got}")
        for number, result in enumerate(got):
            among = items[number : number + 1] if ordered else items
            known = any(self.is_result(item, result) for item in among)
            self.hold(known, f"{job} returned {got}; unknown is {result!r}")
        numbers = [result for result in got if isinstance(result, int)]
        self.hold(len({*numbers}) == len(numbers), f"{job} returned {got}")

    def is_result(self, item: Item, result: Any) -> bool:
        if isinstance(result, int):
            return result == item.number and item.returned > 0
        return self.is_error(item, result)

    def is_error(self, item: Item, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            if item.job is not None and item.job.is_plain and self.hits:
                return True  # of its worker, which it does not hear of
            return any(isinstance(one, asyncio.CancelledError) for one in item.raised)
        return any(one in (error, error.__cause__) for one in item.raised)

    def check_error(self, job: Job, error: BaseException) -> None:
        """A job ends by an error of its items or their source, by a stop, or if it is cancelled."""
        if isinstance(error, SourceError):
            is_known = job.fails_at is not None
        elif isinstance(error, asyncio.CancelledError):
            is_known = job.is_nested or job.task in self.cancelled
        elif isinstance(error, QueueStateError):
            is_known = self.stops + self.closes > 0
            self.check_what_was_accepted(job)
        else:
            is_known = False
        is_known = is_known or any(self.is_error(item, error) for item in job.items)
        self.hold(is_known, f"{job} raised {error!r}")

    def check_what_was_accepted(self, job: Job) -> None:
        """A job that raises since the queue was closed does so when what it had put is done."""
        if not (job.is_steady and self.is_left_alone(job)):
            return
        self.hold(not job.running, f"{job} was over while {job.running} calls were under way")
        if job.name == "map":
            begun = [item for item in job.items if item.begun]
            self.hold(len(begun) == len(job.results), f"{job} ran {begun}, told {job.results}")

    async def batch(self, job: Job) -> None:
        rng = self.random
        has_handler = rng.random() < 0.6
        handler = self.handler(is_async=rng.random() < 0.5) if has_handler else None
        job.is_steady = self.may_come_to_its_end(job)
        result: BatchResult | None = None
        try:
            result = await self.queue.batch_process(
                self.source(job), self.work_of(job), job.size, handler
            )
        finally:
            job.over_at = self.loop.time()
            self.note(f"{job.name} is over: {result}")
        self.check_batch(job, result, has_handler)

    def check_batch(self, job: Job, result: BatchResult, has_handler: bool) -> None:
        failed = [item for item in job.items if not item.returned]
        self.hold(result.processed == len(job.items), f"{result} is that of {job}")
        self.hold(result.failed == len(failed), f"{result}, but of {job} failed {failed}")
        for item in job.items:
            self.hold(self.is_done_for(item), f"{item} of a batch was not processed")
            if not self.stops and not self.hits:  # what these break off is handed out again
                told = item.handled == (has_handler and item in failed)
                self.hold(told, f"the handler heard {item.handled} times of {item} of {job}")

    def is_done_for(self, item: Item) -> bool:
        # A thread whose worker was cancelled says nothing, nor an item that waited for its limit.
        is_hit = self.hits and (item.begun or self.has_rules)
        return bool(item.returned or item.raised or is_hit)

    # -- others that use the queue --------------------------------------------------------------

    async def process(self) -> None:
        rng = self.random
        job = Job("standing", rng.choice((1, 2, 3)), self.stops, is_standing=True)
        job.is_plain = rng.random() < 0.15
        handler = self.handler(is_async=rng.random() < 0.5)
        await self.queue.process(self.work_of(job), job.size, handler)

    def process_soon(self) -> None:
        async def process() -> None:
            self.replaced += 1
            self.is_used = self.is_used or None  # as long as it has not returned
            with suppress(QueueStateError):
                await self.process()
                self.is_used = True

        self.soon("process", process())

    def stop_workers_soon(self) -> None:
        timeout = self.random.choice((0, 0.25, None))

        async def stop_workers() -> None:
            self.replaced += 1
            self.note("stop workers, timeout", timeout)
            await self.queue.queue.stop_workers(timeout)

        self.soon("stop_workers", stop_workers())

    def stop_soon(self) -> None:
        rng = self.random
        timeout, drain, again = rng.choice((0, 1.0, None)), rng.random() < 0.5, rng.random() < 0.5

        async def stop() -> None:
            self.stops += 1
            self.note("stop, timeout", timeout, "drain", drain)
            try:
                await self.queue.stop(timeout, drain=drain)
            finally:
                self.stops += 1
                if again:
                    with suppress(QueueStateError):
                        await self.process()

        self.soon("stop", stop())

    def close_soon(self) -> None:
        rng = self.random
        pause, again, item = rng.choice(MOMENTS), rng.random() < 0.7, self.new_item(None)

        async def close() -> None:
            self.closes += 1
            self.note("close")
            self.queue.close()
            try:
                self.queue.put_nowait(item)
            except QueueClosedError:
                pass
            else:
                self.fail(f"{item} was accepted by a queue that is closed")
            await asyncio.sleep(pause)
            if again:
                await self.open_again()
                self.is_used = True

        self.soon("close", close())

    async def open_again(self) -> None:
        if self.queue.is_closed:
            await self.queue.start()

    def put_soon(self) -> None:
        item, timeout = self.new_item(None), self.random.choice((0, 0.125, 5.0, math.inf))

        async def put() -> None:
            with suppress(QueueStateError, *self.errors_of_key(item)):
                self.is_used = self.is_used or self.used_if_open()
                if await self.queue.put(item, timeout):
                    self.accepted.append(item)
                    self.is_used = True

        self.soon("put", put())

    def submit_soon(self) -> None:
        item, timeout = self.new_item(None), self.random.choice((0, 0.125, 5.0))

        async def submit() -> None:
            with suppress(QueueStateError, QueueFullError, *self.errors_of_key(item)):
                self.is_used = self.is_used or self.used_if_open()
                future = await self.queue.submit(item, timeout=timeout)
                self.submitted.append((item, future))
                self.is_used = True

        self.soon("submit", submit())

    def errors_of_key(self, item: Item) -> tuple[type[BaseException], ...]:
        return () if item.key_error is None else (ValueError, type(item.key_error))

    def used_if_open(self) -> bool | None:
        """Whether a put that may be refused leaves it open if the queue is used by others."""
        return None if self.queue.status is QueueStatus.PROCESSING else self.is_used

    def get_soon(self) -> None:
        async def get() -> None:
            with suppress(QueueStateError, QueueEmptyError):
                item = await self.queue.get(0.5)
                self.note(f"get returns {item}")
                self.check_is_of_nobody(item)
                item.returned += 1
                self.queue.task_done()

        self.soon("get", get())


def forget_frames(error: BaseException | None) -> None:
    """Let go of what the error came through."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
