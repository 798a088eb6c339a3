"""The workers of one queue: started, replaced, resized, waited for, cancelled.

A pool knows nothing of bounds, putters or brokers. Its workers take entries from a :class:`Source`.
Workers never poll: a worker with nothing to do waits in ``source.wait()``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.failure_log import FailureLog
from penstock.workers.inside import Caller, WaitingCalls, worker_around
from penstock.workers.item import Entry
from penstock.workers.job import Job
from penstock.workers.source import Counters, PoolSource
from penstock.workers.worker import Worker, WorkerTask

T = TypeVar("T")

#: Seconds that a cancelled worker gets to clean up before the pool abandons it.
CANCEL_GRACE = 1.0


def _never() -> bool:
    return False


class WorkerPool(Generic[T]):
    """The workers of one queue. All methods are called in the thread of the running loop.

    Each job claims a number of workers, and there are as many as the largest claim says: a job
    never has more than its own number of items in hand, which the source sees to. There are two
    kinds of workers where some are threads, each with the claims of its own kind.
    """

    def __init__(
        self, source: PoolSource[T], counters: Counters, name: str, logger: logging.Logger
    ) -> None:
        self._source = source
        self._counters = counters
        self._name = name
        self._logger = logger
        #: Where failures are logged that nobody handles.
        self.failures = FailureLog(logger)
        # The jobs that claim workers.
        self._jobs: dict[Job[T], None] = {}
        # The workers that take entries; by kind: tasks, and threads.
        self._active: dict[bool, dict[Worker[T], None]] = {False: {}, True: {}}
        self._lock = threading.Lock()
        # Those too that finish their last entry.
        self._workers: dict[asyncio.Future[None], Worker[T]] = {}
        # Sets of workers, each with the future that is done when all of them have ended.
        self._exit_waiters: list[tuple[set[asyncio.Future[None]], asyncio.Future[None]]] = []
        self._watching = self.waiting_calls()
        # How many workers wait, inside an item, for an item of the standing job.
        self._extra = 0
        self._launched = 0
        # Whether somebody has asked what workers have in hand.
        self._is_watched = False

    @property
    def count(self) -> int:
        """The number of workers that take entries (and not those that finish their last one)."""
        return max(
            min(len(active), self._wanted(is_for_threads))
            for is_for_threads, active in self._active.items()
        )

    @property
    def is_empty(self) -> bool:
        """Whether all workers have ended, those too that had been replaced."""
        return not self._workers

    @property
    def has_standing(self) -> bool:
        """Whether there are workers for entries that have no job of their own."""
        return self._source.standing is not None

    @property
    def has_jobs(self) -> bool:
        """Whether any job claims workers."""
        return bool(self._jobs)

    @property
    def nested_jobs(self) -> list[Job[T]]:
        """The jobs that were opened from inside an item."""
        return [job for job in self._jobs if job.is_nested]

    @property
    def adaptive(self) -> AdaptiveConcurrency | None:
        """What finds out the number of workers, if anything does."""
        jobs = (self._source.standing, *self._jobs.copy())  # telemetry asks from its own thread
        return next((job.adaptive for job in jobs if job is not None and job.adaptive), None)

    def owns(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether ``task`` is one of the workers."""
        return task in self._workers

    @property
    def is_inside(self) -> bool:
        """Whether the caller's code runs inside an item, in whatever task or thread."""
        return self.worker_around() is not None

    def worker_around(self) -> Caller | None:
        """The worker inside of whose item the caller's code runs, or None. For any thread."""
        return worker_around(self._workers)

    def waiting_calls(self) -> WaitingCalls:
        """Return a new count of the calls that wait for something."""
        return WaitingCalls(self._workers)

    def in_hand(self) -> list[tuple[Worker[T], Entry[T]]]:
        """The workers that have an entry in hand, and these entries. For any thread."""
        if not self._is_watched:
            self._is_watched = True
            for worker in [*self._workers.values()]:
                worker.watch()
        return [
            (worker, entry)
            for worker in [*self._workers.values()]
            if (entry := worker.in_hand) is not None
        ]

    def cancel_item(self, worker: Worker[T], entry: Entry[T]) -> bool:
        """Cancel the call of ``worker`` on ``entry``: the item fails with ``CancelledError``.

        False: the worker has it no longer, or cannot be cancelled.
        """
        return worker.cancel_item(entry)

    # -- jobs and their claims ------------------------------------------------------------------

    def make_job(
        self,
        func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> Job[T]:
        """Return a job that :meth:`start` or :meth:`open` takes."""
        return Job(func, size, error_handler)

    def start(self, job: Job[T]) -> None:
        """Make ``job`` the standing one. New workers begin at once; the old ones finish an entry.

        If the job is adaptive, call :meth:`resize` whenever its limit has changed.
        """
        self._replace(job)

    def open(self, job: Job[T]) -> None:
        """Let ``job`` claim workers, beside those that run."""
        self._jobs[job] = None
        try:
            self.resize()
        except BaseException:  # no thread can be started
            del self._jobs[job]
            self.resize()
            raise

    def release(self, job: Job[T]) -> None:
        """Take back the claim of a job that is over. Call it before its lane is closed.

        As long as there are lanes no job gets more workers than it may have. So those that are too
        many have to know it by then.
        """
        if job in self._jobs:
            del self._jobs[job]
            self._take_out_holders(job)
            self.resize()

    def _take_out_holders(self, job: Job[T]) -> list[asyncio.Future[None]]:
        """Let the workers that hold an item of ``job`` take no more entries; return them."""
        current = asyncio.current_task()
        # In one step: a worker that takes the next entry in between would hold one of another job.
        with self._lock, self._no_takes():
            holders = [
                task
                for task, worker in self._workers.items()
                if worker.job_in_hand is job and task is not current
            ]
            self._take_out_locked(self._workers[task] for task in holders)
        return holders

    async def close(self, job: Job[T]) -> None:
        """:meth:`release` a job whose lane is closed, and cancel what workers hold of it.

        A worker that has not ended ``CANCEL_GRACE`` seconds later is abandoned. So is, at once, a
        thread: its function cannot be cancelled.
        """
        self.release(job)
        holders = self._take_out_holders(job)
        self.resize()
        try:
            await self._cancel(holders)
        finally:
            job.close_threads()

    @contextmanager
    def one_more_worker(self) -> Iterator[None]:
        """The caller's worker waits for an item of the standing job, and another does its work.

        For the thread of any worker.
        """
        worker = self.worker_around()
        job = None if worker is None else worker.job_of_call
        self._add_extra(job, 1)
        try:
            yield
        finally:
            self._add_extra(job, -1)

    def watch(self, future: asyncio.Future[Any]) -> None:
        """Somebody wants to hear of an item of the standing job. If a worker does, it may wait.

        Nobody knows whether it does, and one more worker is one more call at once. So there is one
        more, until the item is done, only if all workers have such items.
        """
        worker = self.worker_around()
        if worker is None or worker.call is None:
            return
        call, job = worker.call, worker.job_of_call
        may_be_stuck = self._watching.add(call) >= self.count

        def forget(future: object) -> None:
            self._watching.remove(call)
            if may_be_stuck:
                self._add_extra(job, -1)

        asyncio.Future.add_done_callback(future, forget, context=Context())
        if may_be_stuck:
            self._add_extra(job, 1)

    def _add_extra(self, job: Job[T] | None, count: int) -> None:
        """There are more workers, while items of ``job`` wait."""
        with self._lock:
            self._extra += count
            # What waits is in hand. Another job than the standing one can do without a place more.
            if job is not None and job.is_standing:
                job.extra += count
        self.resize()

    def retire(self) -> None:
        """Let the workers finish the items in their hands and take no more."""
        self._source.standing = None
        self._jobs.clear()
        self._take_out([*self._active[False], *self._active[True]])
        self._source.wake_all()

    def retire_standing(self) -> list[asyncio.Future[None]]:
        """End the standing job; return the workers that are to end for it."""
        standing = self._source.standing
        if all(job is standing for job in self._jobs):
            self.retire()  # those of a job that has just ended too, or the next job would have them
        elif standing is not None:
            self._replace(None)
        if not self._jobs:
            return list(self._workers)
        return [
            task
            for task, worker in self._workers.items()
            if (job := worker.job_in_hand) is not None and job not in self._jobs
        ]

    def resize(self) -> None:
        """Start or retire workers until there are as many as the largest claim says."""
        is_more = False
        for is_for_threads, active in self._active.items():
            while self._surplus(is_for_threads) < 0:
                self._launch_worker(is_for_threads)
            if self._surplus(is_for_threads) > 0:
                is_more = True
                self._have_ask(active)
        if is_more:
            self._source.wake_all()
        else:
            self._source.wake()  # a job may have a larger number now

    def _surplus(self, is_for_threads: bool) -> int:
        """How many workers there are too many; below 0, how many are missing."""
        with self._lock:  # or one that is about to leave would be counted
            return len(self._active[is_for_threads]) - self._wanted(is_for_threads)

    def _wanted(self, is_for_threads: bool | None) -> int:
        """How many workers of a kind there are to be; ``None``: how many of all may be busy."""
        jobs = self._jobs.copy()
        claims = [job.claim for job in jobs if is_for_threads in (None, job.is_for_threads)]
        # A worker that waits for an item of its own queue does nothing: one more does its work,
        # which may be of the other kind.
        return max(claims) + sum(job.is_nested for job in jobs) + self._extra if claims else 0

    def _may_go_on(self, worker: Worker[T]) -> bool:
        """Whether a worker is to take one more entry. For the thread of any worker.

        The first that asks leaves. (If it were always the newest, others would start new calls
        while the newest still makes its last one.)
        """
        with self._lock:
            for is_for_threads, active in self._active.items():
                if worker in active:
                    if len(active) > self._wanted(is_for_threads):
                        del active[worker]
                        return False
                    with self._no_takes():
                        self._set_must_ask(worker, False)
                    return True
        return False

    def _have_ask(self, workers: Iterable[Worker[T]]) -> None:
        """Have workers ask whether they may go on."""
        with self._lock, self._no_takes():
            for worker in workers:
                self._set_must_ask(worker, True)

    def _no_takes(self) -> AbstractContextManager[object]:
        """The block in which no worker takes an entry. (In a loop none does anyhow.)"""
        return nullcontext()

    def _set_must_ask(self, worker: Worker[T], must_ask: bool) -> None:
        """Set it, while no worker takes an entry."""
        worker.must_ask = must_ask

    def _take_out(self, workers: Iterable[Worker[T]]) -> None:
        """Let workers take no more entries."""
        workers = list(workers)
        with self._lock, self._no_takes():
            self._take_out_locked(workers)

    def _take_out_locked(self, workers: Iterable[Worker[T]]) -> None:
        for worker in workers:
            for active in self._active.values():
                active.pop(worker, None)
            self._set_must_ask(worker, True)

    def _replace(self, standing: Job[T] | None) -> None:
        """Launch new workers for all claims, and then retire the present ones."""
        jobs, active, old = self._jobs.copy(), self._active, self._source.standing
        if old is not None:
            self._jobs.pop(old, None)
        if standing is not None:
            self._jobs[standing] = None
            standing.is_standing = True
        with self._no_takes():  # or a worker of the one before may take for the new one
            self._source.standing = standing
        # In one step: at no instant may other threads see a pool without workers.
        self._active = {False: {}, True: {}}
        try:
            self.resize()
        except BaseException:  # no thread can be started: all is as it was before
            new, self._active = self._active, active
            self._jobs = jobs
            with self._no_takes():
                self._source.standing = old
            self._have_ask([*new[False], *new[True]])
            self._source.wake_all()
            raise
        retired = [*active[False], *active[True]]
        self._have_ask(retired)
        if retired:
            self._source.wake_all()

    def _launch_worker(self, is_for_threads: bool) -> None:
        standing = self._source.standing
        if standing is not None and standing.is_for_threads is not is_for_threads:
            standing = None
        if standing is not None:
            standing.add_worker()
        self._launched += 1
        worker = self._make_worker(standing, is_for_threads)
        if self._is_watched:
            worker.watch()
        active = self._active[is_for_threads]
        with self._lock:
            active[worker] = None
        try:
            worker.name = f"penstock-{self._name}-worker-{self._launched}"
            worker.task = self._launch(worker, worker.name)
        except BaseException:  # no thread can be started
            self._take_out([worker])
            worker.leave()
            raise
        self._workers[worker.task] = worker
        worker.task.add_done_callback(self._on_exit, context=Context())

    def _make_worker(
        self,
        standing: Job[T] | None,
        is_for_threads: bool,
    ) -> Worker[T]:
        source: Any = self._source  # where all workers share it, it is theirs too
        return Worker(source, self._counters, standing, self.failures, self._may_go_on)

    def _launch(self, worker: Worker[T], name: str) -> asyncio.Future[None]:
        """Start the worker; return the future that is done when it has ended."""
        # In an empty context: a worker outlives the request that started it, and must not carry
        # the trace of that request into all other items. Not by the loop's task factory: an eager
        # one would run items before the pool knows the worker.
        make = partial(WorkerTask, worker.run(), loop=asyncio.get_running_loop(), name=name)
        task = Context().run(make)
        task.worker = worker
        return task

    # -- the end of workers -----------------------------------------------------------------------

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until all present workers have ended, at most ``timeout`` seconds."""
        await self._wait_for(list(self._workers), timeout)

    async def _wait_for(self, tasks: Iterable[asyncio.Future[None]], timeout: float | None) -> None:
        # Not for the tasks: the task of an abandoned worker may never end.
        remaining = {task for task in tasks if task in self._workers}
        if remaining:
            exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._exit_waiters.append((remaining, exited))
            await asyncio.wait([exited], timeout=timeout)

    async def end(
        self,
        timeout: float | None,
        all_that_come_while: Callable[[], bool] | None = None,
        tasks: list[asyncio.Future[None]] | None = None,
    ) -> None:
        """Wait until all present workers have ended; cancel them after ``timeout`` seconds.

        Args:
            timeout: ``None`` waits as long as it takes.
            all_that_come_while: as long as it returns True, workers that are started meanwhile
                are waited for and cancelled too.
            tasks: the workers that are meant, if not all.

        Cancelling this call cancels the workers at once. A worker that has not ended
        ``CANCEL_GRACE`` seconds after its cancellation is abandoned, and its entry requeued.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        tasks = list(self._workers) if tasks is None else tasks
        is_for_all = _never if all_that_come_while is None else all_that_come_while
        try:
            await self._wait_for(tasks, timeout)
            while self._workers and is_for_all() and (deadline is None or loop.time() < deadline):
                await self.wait(None if deadline is None else max(0.0, deadline - loop.time()))
        finally:
            if is_for_all():
                self.retire()
                tasks = list(self._workers)
            await self._cancel(tasks)

    async def _cancel(self, tasks: list[asyncio.Future[None]]) -> None:
        remaining = [task for task in tasks if task in self._workers]
        if not remaining:
            return
        self._take_out(self._workers[task] for task in remaining)
        for task in remaining:
            worker = self._workers[task]
            worker.cancelled = True
            worker.cancel()
        self._source.wake_all()  # threads that wait for delayed entries cannot be cancelled
        try:
            await self._wait_for(remaining, CANCEL_GRACE)
        except asyncio.CancelledError:
            self._abandon(remaining)
            raise
        self._abandon(remaining)

    def cancel_where(self, is_to: Callable[[Entry[T]], bool]) -> None:
        """Cancel the workers for whose entries ``is_to`` returns True; requeue these entries."""
        for worker in list(self._workers.values()):
            if worker.entry is not None and is_to(worker.entry):
                worker.cancelled = True
                worker.cancel()

    def _abandon(self, tasks: Iterable[asyncio.Future[None]]) -> None:
        for task in tasks:
            worker = self._workers.get(task)
            if worker is not None and not task.done():
                worker.abandon()
            self._remove(task)

    def abandon(self) -> None:
        """Reclaim all entries: the loop is closed, so no worker will ever go on."""
        self._source.standing = None
        self._jobs.clear()
        self._take_out(self._workers.values())
        for task in [*self._workers]:
            self._workers[task].reclaim()
            self._remove(task)
        self._exit_waiters.clear()

    def _remove(self, task: asyncio.Future[None]) -> None:
        worker = self._workers.pop(task, None)
        if worker is None:
            return
        worker.leave()
        if not self._workers:
            self.failures.flush()
        for remaining, exited in [*self._exit_waiters]:
            remaining.discard(task)
            if not remaining:
                self._exit_waiters.remove((remaining, exited))
                if not exited.done() and not exited.get_loop().is_closed():
                    exited.set_result(None)

    def _on_exit(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        worker = self._workers.get(task)
        self._remove(task)
        if worker is not None and self._was_active(worker) and error is None:
            was_cancelled = worker.has_been_cancelled()  # by somebody else: another one is to go on
            if was_cancelled and not worker.is_loop_ending():
                self.resize()
        elif self._source.ready and self._jobs and not any(self._active.values()):
            # It had been replaced, and its item is to be tried again. The others have left since:
            # the queue is closed, and they found nothing more to come.
            self.resize()
        if isinstance(error, Exception):
            self._logger.critical("A worker of queue %s died", self._name, exc_info=error)

    def _was_active(self, worker: Worker[T]) -> bool:
        """Take out a worker that has ended; return whether it was to go on."""
        was_active = any(worker in active for active in self._active.values())
        self._take_out([worker])
        return was_active and not worker.cancelled
