"""The blocking queue, as the contract's tests want it: with the interface of an asynchronous one.

Each blocking call is made in a thread of its own. The tests' ``async def`` functions run in the
tests' own event loop, because their events belong to it; the queue's workers wait for them. Plain
functions are passed on as they are.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar
from inspect import iscoroutinefunction
from queue import SimpleQueue
from types import TracebackType
from typing import Any, cast

import penstock.sync
from contract.helpers import MakeQueue
from penstock._util.compat import Self

#: Seconds after which a call is taken to hang.
HANGS = 60

#: In the place of an item: there is none.
_END = object()

Call = Callable[[], Any]

#: Inside a worker function: how to have something called in the thread of its worker.
IN_WORKER: ContextVar[Callable[[Call], Any] | None] = ContextVar("IN_WORKER", default=None)


class RemoteCall:
    """A function of the test, run in the test's loop for a worker that is elsewhere."""

    def __init__(
        self,
        stage: Stage,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        in_worker: Callable[[Call], Any],
    ) -> None:
        #: What it returned and what it raised, once it has ended.
        self.ended: Future[tuple[Any, BaseException | None]] = Future()
        self._stage = stage
        self._task: asyncio.Task[Any] | None = None
        stage.loop.call_soon_threadsafe(self._begin, func, args, in_worker)

    def _begin(
        self, func: Callable[..., Any], args: tuple[Any, ...], in_worker: Callable[[Call], Any]
    ) -> None:
        async def run() -> Any:
            IN_WORKER.set(in_worker)
            return await func(*args)

        self._task = self._stage.loop.create_task(run())
        self._stage.remote_tasks.add(self._task)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._stage.remote_tasks.discard(task)
        if task.cancelled():
            self.ended.set_result((None, asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            self.ended.set_result((None, error))
        else:
            self.ended.set_result((task.result(), None))

    async def wait_for(self, ended: asyncio.Future[Any]) -> None:
        """Wait; and who is cancelled here is cancelled there, which may be ignored."""
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            self._stage.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def outcome(self) -> Any:
        result, error = self.ended.result(timeout=0)
        if error is None:
            return result
        try:
            raise error
        finally:
            del error


class Stage:
    """The event loop of one test, and what goes on in it for the workers of the test's queues."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.remote_tasks: set[asyncio.Task[Any]] = set()

    def for_loop(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """An async function for workers in the queue's loop, cancelled with its worker."""

        async def work(*args: Any) -> Any:
            in_worker = asyncio.get_running_loop().call_soon_threadsafe
            remote_call = RemoteCall(self, func, args, in_worker)
            ended = asyncio.wrap_future(remote_call.ended)
            while not ended.done():
                await remote_call.wait_for(ended)
            return remote_call.outcome()

        return work

    def for_threads(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """A plain function, whose thread can be called meanwhile."""

        def work(*args: Any) -> Any:
            calls: SimpleQueue[Call | None] = SimpleQueue()
            remote_call = RemoteCall(self, func, args, calls.put)
            remote_call.ended.add_done_callback(lambda _: calls.put(None))
            while (call := calls.get()) is not None:
                call()
            return remote_call.outcome()

        return work

    async def clear(self) -> None:
        """End what was left behind by workers that were given up."""
        for task in self.remote_tasks:
            task.cancel()
        if self.remote_tasks:
            _, remaining = await asyncio.wait(self.remote_tasks, timeout=HANGS)
            assert not remaining


async def in_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call something that blocks: in a thread of its own, or in a worker that of the worker."""
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()  # so nobody can cancel it

    def call() -> None:
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    in_worker = IN_WORKER.get()
    if in_worker is not None:
        in_worker(call)
    else:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(call,), daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(outcome), HANGS)


def is_async(func: Any) -> bool:
    return iscoroutinefunction(func) or iscoroutinefunction(type(func).__call__)


def _look(name: str) -> Any:
    return property(lambda self: getattr(self.blocking, name))


class QueueInThreads:
    """What ``penstock.WorkQueue`` and ``protocols.Queue`` are, over ``penstock.sync.WorkQueue``."""

    def __init__(
        self, stage: Stage, plain: bool, maxsize: int, timeout: float, rules: dict[str, Any]
    ) -> None:
        self.blocking: penstock.sync.WorkQueue[Any] = penstock.sync.WorkQueue(
            maxsize, timeout, **rules
        )
        self._stage = stage
        #: Whether the tests' async worker functions are given to it as plain ones.
        self._plain = plain

    maxsize = _look("maxsize")
    name = _look("name")
    status = _look("status")
    size = _look("size")
    is_empty = _look("is_empty")
    is_full = _look("is_full")
    worker_count = _look("worker_count")
    unprocessed = _look("unprocessed")
    metrics = _look("metrics")
    limits = _look("limits")
    dead_letters = _look("dead_letters")
    is_closed = _look("is_closed")
    is_paused = _look("is_paused")

    def statistics(self) -> Any:
        return self.blocking.statistics()

    async def start(self) -> None:
        await in_thread(self.blocking.start)

    def close(self) -> None:
        self.blocking.close()  # allowed in an event loop

    async def stop(self, *args: Any, **kwargs: Any) -> bool:
        stopped: bool = await in_thread(self.blocking.stop, *args, **kwargs)
        return stopped

    async def put(self, *args: Any, **kwargs: Any) -> bool:
        accepted: bool = await in_thread(self.blocking.put, *args, **kwargs)
        return accepted

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        return await in_thread(self.blocking.get, *args, **kwargs)

    async def join(self) -> None:
        assert await in_thread(self.blocking.join) is True

    def put_nowait(self, item: Any, **options: Any) -> None:
        self.blocking.put_nowait(item, **options)  # allowed in an event loop

    async def submit(self, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        future = await in_thread(self.blocking.submit, *args, **kwargs)
        wrapped: Any = asyncio.wrap_future(future)
        wrapped.of_a_thread = future
        return cast("asyncio.Future[Any]", wrapped)

    def cancel(self, future: Any) -> bool:
        return self.blocking.cancel(getattr(future, "of_a_thread", future))

    async def put_many(self, *args: Any, **kwargs: Any) -> int:
        count: int = await in_thread(self.blocking.put_many, *args, **kwargs)
        return count

    async def pause_all(self) -> None:
        await in_thread(self.blocking.pause_all)

    async def resume_all(self) -> None:
        await in_thread(self.blocking.resume_all)

    # Allowed in an event loop:

    def pause(self) -> None:
        self.blocking.pause()

    def resume(self) -> None:
        self.blocking.resume()

    def clear(self) -> list[Any]:
        return self.blocking.clear()

    def remove(self, predicate: Any) -> list[Any]:
        return self.blocking.remove(predicate)

    def in_hand(self) -> list[Any]:
        return self.blocking.in_hand()

    async def redrive(self, *args: Any, **kwargs: Any) -> int:
        count: int = await in_thread(self.blocking.redrive, *args, **kwargs)
        return count

    def get_nowait(self) -> Any:
        return self._at_once(self.blocking.get_nowait)

    async def __aiter__(self) -> AsyncIterator[Any]:
        items = iter(self.blocking)
        while (item := await in_thread(next, items, _END)) is not _END:
            yield item

    @asynccontextmanager
    async def processing(self, timeout: float | None = None) -> AsyncIterator[Any]:
        block = self.blocking.processing(timeout)
        item = await in_thread(block.__enter__)
        try:
            yield item
        except BaseException as error:
            await in_thread(block.__exit__, type(error), error, None)
            raise
        await in_thread(block.__exit__, None, None, None)

    def task_done(self) -> None:
        self._at_once(self.blocking.task_done)

    @staticmethod
    def _at_once(func: Call) -> Any:
        """Call what does not wait for anybody, but must be called outside an event loop."""
        outcome: Future[Any] = Future()

        def call() -> None:
            try:
                outcome.set_result(func())
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return outcome.result(timeout=HANGS)

    async def process(
        self, worker_func: Any, num_workers: Any = None, error_handler: Any = None
    ) -> None:
        if is_async(error_handler):
            error_handler = self._stage.for_loop(error_handler)
        func = self._for_workers(worker_func)
        await in_thread(self.blocking.process, func, num_workers, error_handler)

    start_workers = process

    async def process_batches(
        self, worker_func: Any, *, error_handler: Any = None, **options: Any
    ) -> None:
        if is_async(error_handler):
            error_handler = self._stage.for_loop(error_handler)
        func = self._for_workers(worker_func)
        await in_thread(self.blocking.process_batches, func, error_handler=error_handler, **options)

    async def map_batches(
        self, worker_func: Any, items: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        results = self.blocking.map_batches(self._for_workers(worker_func), items, **options)
        try:
            while (result := [await in_thread(next, results, _END)])[0] is not _END:
                yield result.pop()
        finally:
            await in_thread(results.close)

    def _for_workers(self, func: Any) -> Any:
        if not is_async(func):
            return func
        return self._stage.for_threads(func) if self._plain else self._stage.for_loop(func)

    async def batch_process(self, items: Any, worker_func: Any, *args: Any) -> Any:
        func = self._for_workers(worker_func)
        return await in_thread(self.blocking.batch_process, items, func, *args)

    async def map(self, worker_func: Any, items: Any, **options: Any) -> AsyncGenerator[Any, None]:
        results = self.blocking.map(self._for_workers(worker_func), items, **options)
        try:
            while (result := [await in_thread(next, results, _END)])[0] is not _END:
                yield result.pop()  # and keep nothing alive
        finally:
            await in_thread(results.close)

    async def stop_workers(self, timeout: float | None = None) -> None:
        await in_thread(self.blocking.queue.stop_workers, timeout)

    async def __aenter__(self) -> Self:
        assert await in_thread(self.blocking.__enter__) is self.blocking
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await in_thread(self.blocking.__exit__, exc_type, exc, traceback)


@asynccontextmanager
async def blocking_queues(*, plain: bool) -> AsyncIterator[MakeQueue]:
    stage = Stage()

    def make(*, maxsize: int = 100, timeout: float = 0.1, **rules: Any) -> QueueInThreads:
        return QueueInThreads(stage, plain, maxsize, timeout, rules)

    yield make
    await stage.clear()
