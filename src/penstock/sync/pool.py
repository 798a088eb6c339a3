"""The workers of a queue for threads: tasks in the event loop, or threads of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, isawaitable
from typing import Any, TypeVar

from penstock._util.functions import is_async
from penstock._util.loop_thread import LoopThread
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.sync.buffer import JanusBuffer
from penstock.sync.slots import LoopSlot, SharedCounters, ThreadSlot, WorkerSlot
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc, instead_of
from penstock.workers.failure_log import FailureLog
from penstock.workers.inside import CURRENT_CALL, WORKER_THREADS, Caller
from penstock.workers.item import Entry
from penstock.workers.job import Job, JobFunctions, ThreadJob
from penstock.workers.pool import WorkerPool
from penstock.workers.worker import WatchedWorker, Worker

T = TypeVar("T")
R = TypeVar("R")


def run_to_completion(coro: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that blocks and never suspends, as if it were a function."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    coro.close()
    raise AssertionError("a coroutine that blocks must not suspend")


class _SlotWorker(Worker[T]):
    """A worker in the event loop, with a slot."""

    __slots__ = ("_loop_thread", "slot")

    def __init__(
        self,
        slot: WorkerSlot[T],
        failures: FailureLog,
        may_go_on: Callable[[Worker[T]], bool],
        loop_thread: LoopThread | None,
    ) -> None:
        super().__init__(slot, slot, slot.standing, failures, may_go_on)  # type: ignore[arg-type]
        self.slot = slot
        self._loop_thread = loop_thread

    def watch(self) -> None:
        self._be_watched(_WatchedSlotWorker)

    def is_loop_ending(self) -> bool:
        # By its thread: where a queue has one worker, all tasks of the loop are being cancelled
        # when that one is.
        return self._loop_thread is None or not self._loop_thread.is_running

    @property
    def job_in_hand(self) -> Job[T] | None:
        return self.slot.job_in_hand

    @property
    def job_of_call(self) -> Job[T] | None:
        return self.slot.job_in_hand

    def reclaim(self) -> Job[T] | None:
        self.entry = None
        return self.slot.reclaim()

    def leave(self) -> None:
        super().leave()
        self.slot.close()

    async def _report(self, entry: Entry[T], error: BaseException) -> BaseException | None:
        if self.slot.is_revoked:  # another worker has the item: what this one raises is no news
            return None
        return await super()._report(entry, error)


class _WatchedSlotWorker(WatchedWorker[T], _SlotWorker[T]):
    """The same, and somebody looks at its calls."""

    __slots__ = ()


class _ThreadWorker(_SlotWorker[T]):
    """A worker that is a thread. Its ``task`` is a future, done when the thread has left."""

    __slots__ = ()

    def has_been_cancelled(self) -> bool:
        return False  # nobody can cancel a thread

    @property
    def in_hand(self) -> Entry[T] | None:
        return self.slot.entry if self.slot.has_one_in_hand else None

    def watch(self) -> None:
        self.slot.note_time()

    @property
    def seconds_in_hand(self) -> float:
        return max(0.0, time.monotonic() - self.slot.since)

    def cancel(self) -> None:
        """Reclaim its item and go on without it: a function in a thread cannot be cancelled."""
        self.abandon()
        if not self.task.done():
            self.task.set_result(None)

    def work(self, threads: dict[int, _ThreadWorker[Any]]) -> None:
        """Take entries until the worker is retired. In its thread, which ``threads`` knows then."""
        me = threading.get_ident()
        threads[me] = self
        WORKER_THREADS.add(me)
        error: BaseException | None = None
        try:
            run_to_completion(self.run())
        except BaseException as raised:  # noqa: BLE001 - logged by the pool
            error = raised
        finally:
            threads.pop(me, None)
            WORKER_THREADS.discard(me)
            with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
                self.task.get_loop().call_soon_threadsafe(self._resolve_task, error)

    def _resolve_task(self, error: BaseException | None) -> None:
        if self.task.done():
            return
        if error is None:
            self.task.set_result(None)
        else:
            self.task.set_exception(error)


class ThreadWorkerPool(WorkerPool[T]):
    """Workers over a ``JanusBuffer``.

    Its methods belong to the thread of the loop, but for those that are for any thread.
    """

    def __init__(
        self, buffer: JanusBuffer[T], counters: SharedCounters, name: str, logger: logging.Logger
    ) -> None:
        super().__init__(buffer, counters, name, logger)
        self._buffer = buffer
        self._shared = counters
        #: The thread of the loop, while there is one.
        self.loop_thread: LoopThread | None = None
        #: The workers that are threads, by the identifiers of these.
        self.threads: dict[int, _ThreadWorker[Any]] = {}
        #: Whether this is a forked child.
        self.is_inherited = False

    def worker_around(self) -> Caller | None:
        """The worker inside of whose item the caller's code runs, or None. For any thread."""
        me = threading.get_ident()
        if me in WORKER_THREADS:  # and not in a task or thread that an item has started
            return self.threads.get(me)
        return super().worker_around()

    def make_job(
        self,
        func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> Job[T]:
        """Return a job for tasks, or for threads if ``func`` is a plain function."""
        # can_end_program: an exception that ends the loop's thread would end no program, but leave
        # all callers of the queue without an answer.
        if is_async(func):
            return ThreadJob(func, size, error_handler, can_end_program=False)
        return ThreadJob(
            func,
            size,
            None if error_handler is None else partial(self._call_and_await, error_handler),
            call=self._in_this_thread(func),
            can_end_program=False,
            is_for_threads=True,
        )

    def release_functions(self) -> JobFunctions | None:
        """Have idle threads hold the functions of the standing job no longer; the caller does."""
        job = self._source.standing
        return job.release() if isinstance(job, ThreadJob) and job.is_for_threads else None

    def resize(self) -> None:
        """Let there be as many workers as are wanted. For any thread."""
        loop_thread = self.loop_thread
        loop = None if loop_thread is None else loop_thread.loop
        with self._lock:
            self._buffer.most_in_hand = self._wanted(None)
        if loop is None or _get_running_loop() is loop:
            super().resize()
            return
        for is_for_threads, active in self._active.items():
            if self._surplus(is_for_threads) > 0:  # now, or they would take one more entry first
                self._have_ask(active)
        with suppress(RuntimeError):  # it is closed: there are no workers
            loop.call_soon_threadsafe(self.resize)

    def cancel_item(self, worker: Worker[T], entry: Entry[T]) -> bool:
        """Cancel a call in the loop; False for a worker that is a thread. For any thread."""
        loop_thread = self.loop_thread
        loop = None if loop_thread is None else loop_thread.loop
        if isinstance(worker, _ThreadWorker) or worker.in_hand is not entry or loop is None:
            return False
        with suppress(RuntimeError):  # it is closed: there are no workers
            loop.call_soon_threadsafe(worker.cancel_item, entry)
            return True
        return False

    def _no_takes(self) -> AbstractContextManager[object]:
        return self._buffer.lock

    def _set_must_ask(self, worker: Worker[T], must_ask: bool) -> None:
        assert isinstance(worker, _SlotWorker)
        worker.must_ask = worker.slot.must_ask = must_ask

    def _make_worker(self, standing: Job[T] | None, is_for_threads: bool) -> Worker[T]:
        if is_for_threads:
            slot = ThreadSlot(self._buffer, self._shared, standing)
            return _ThreadWorker(slot, self.failures, self._may_go_on, self.loop_thread)
        slot_in_loop = LoopSlot(self._buffer, self._shared, standing)
        return _SlotWorker(slot_in_loop, self.failures, self._may_go_on, self.loop_thread)

    def _launch(self, worker: Worker[T], name: str) -> asyncio.Future[None]:
        if not isinstance(worker, _ThreadWorker):
            return super()._launch(worker, name)
        worker.task = asyncio.get_running_loop().create_future()
        threading.Thread(
            target=Context().run, args=(worker.work, self.threads), name=name, daemon=True
        ).start()
        return worker.task

    def _in_this_thread(self, func: Callable[[T], Any]) -> AsyncCall[T]:
        async def call(item: T) -> Any:
            try:
                return self._call_and_await(func, item)
            except StopIteration as error:
                raise instead_of(error) from error

        return call

    def _call_and_await(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call a function in this thread; if the result is awaitable, have the loop await it."""
        result = func(*args)
        if not isawaitable(result):
            return result
        assert self.loop_thread is not None
        worker = self.threads.get(threading.get_ident())
        if worker is not None:
            worker.call = object()
            CURRENT_CALL.set(worker.call)
        try:
            slot = None if worker is None else worker.slot
            value, error = self.loop_thread.call(_await, result, slot)
        except BaseException:
            if isinstance(result, Coroutine) and getcoroutinestate(result) == CORO_CREATED:
                result.close()  # the loop is gone, or somebody else has the item now
            raise
        if error is None:
            return value
        try:
            raise error
        finally:
            error = None  # or frame and exception would keep each other alive


async def _await(
    awaitable: Awaitable[Any], slot: WorkerSlot[Any] | None
) -> tuple[Any, BaseException | None]:
    # Asked in the loop, where workers are given up: somebody else may have the item since.
    if slot is not None and slot.is_revoked:
        raise asyncio.CancelledError("another worker has the item now")
    # The error as a value: a task that raises SystemExit or KeyboardInterrupt ends its loop.
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        return None, error
