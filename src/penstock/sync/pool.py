"""The workers of a queue for threads: tasks in the event loop, or threads that pull themselves."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context
from inspect import isawaitable
from typing import Any, TypeVar

from penstock._util.functions import is_async
from penstock.sync.blocking import drive
from penstock.sync.bridge import Bridge
from penstock.sync.counters import SharedCounters
from penstock.sync.desks import Desk, LoopDesk, ThreadDesk
from penstock.sync.loop_thread import LoopThread
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc, in_thread
from penstock.workers.group import WorkerGroup
from penstock.workers.item import Entry
from penstock.workers.pool import WorkerPool
from penstock.workers.worker import Worker

T = TypeVar("T")


class _DeskWorker(Worker[T]):
    """A worker in the event loop, with a desk."""

    __slots__ = ("desk",)

    def __init__(self, desk: Desk[T], group: WorkerGroup[T], logger: logging.Logger) -> None:
        super().__init__(desk, desk, group, logger)  # type: ignore[arg-type]
        self.desk = desk

    def reclaim(self) -> bool:
        self.entry = None
        return self.desk.surrender()

    def leave(self) -> None:
        super().leave()
        self.desk.close()

    async def _report(self, entry: Entry[T], error: BaseException) -> BaseException | None:
        if self.desk.is_lost:  # the item was handed back already: this is nobody's business now
            return None
        return await super()._report(entry, error)


class _ThreadWorker(_DeskWorker[T]):
    """A worker that is a thread. The loop knows it by a future, done when it has left."""

    __slots__ = ()

    def cancel(self) -> None:
        """A function in a thread cannot be broken off; take its item and go on without it."""
        self.abandon()
        if not self.task.done():
            self.task.set_result(None)

    def work(self, threads: set[int]) -> None:
        """Be the thread."""
        me = threading.get_ident()
        threads.add(me)
        error: BaseException | None = None
        try:
            drive(self.run())
        except BaseException as raised:  # noqa: BLE001 - told by whoever supervises the workers
            error = raised
        finally:
            threads.discard(me)
            with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
                self.task.get_loop().call_soon_threadsafe(self._tell, error)

    def _tell(self, error: BaseException | None) -> None:
        if self.task.done():
            return
        if error is None:
            self.task.set_result(None)
        else:
            self.task.set_exception(error)


class BridgePool(WorkerPool[T]):
    """Workers over a bridge. All but what is said to be for any thread belongs to the loop's."""

    def __init__(
        self, bridge: Bridge[T], counters: SharedCounters, name: str, logger: logging.Logger
    ) -> None:
        super().__init__(bridge, counters, name, logger)
        self._bridge = bridge
        self._shared = counters
        #: The thread of the loop, while there is one.
        self.home: LoopThread | None = None
        #: The threads of workers.
        self.threads: set[int] = set()
        #: Whether this is a forked child.
        self.is_inherited = False

    def owns_this_thread(self) -> bool:
        """Whether the caller is one of the workers, or something that it called. For any thread."""
        return threading.get_ident() in self.threads

    def _make_group(
        self,
        kind: type[WorkerGroup[T]],
        func: WorkerFunc[T, Any],
        size: int,
        error_handler: ErrorHandler[T] | None,
    ) -> WorkerGroup[T]:
        # can_end_program: to end the loop's thread would end no program, but strand everybody.
        if is_async(func):
            return kind(func, size, error_handler, can_end_program=False)
        return kind(
            func,
            size,
            None if error_handler is None else functools.partial(self._finish, error_handler),
            call=self._in_this_thread(func),
            can_end_program=False,
            workers_are_threads=True,
        )

    def resize(self) -> None:
        """Let there be as many workers as are wanted; from any thread."""
        home = self.home
        loop = None if home is None else home.loop
        if loop is None or _get_running_loop() is loop:
            super().resize()
            return
        with suppress(RuntimeError):  # it is closed: there are no workers
            loop.call_soon_threadsafe(super().resize)

    def _make_worker(self, group: WorkerGroup[T]) -> Worker[T]:
        if group.workers_are_threads:
            desk = ThreadDesk(self._bridge, self._shared, lambda: group.retired)
            return _ThreadWorker(desk, group, self._logger)
        return _DeskWorker(LoopDesk(self._bridge, self._shared), group, self._logger)

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
            return self._finish(func, item)

        return call

    def _finish(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call a function; what it returns is awaited in the loop if it can be."""
        result = func(*args)
        if not isawaitable(result):
            return result
        assert self.home is not None
        value, error = self.home.call(_await, result)
        if error is None:
            return value
        try:
            raise error
        finally:
            error = None  # or frame and exception would keep each other alive

    def either_way(self, func: Callable[[T], Any], threads: Callable[[], Executor]) -> AsyncCall[T]:
        """A call of ``func`` for whichever kind of worker comes to it."""
        in_this_thread = self._in_this_thread(func)

        async def call(item: T) -> Any:
            if _get_running_loop() is None:
                return await in_this_thread(item)
            if is_async(func):
                return await func(item)
            return await in_thread(threads(), self._as_worker, func, item)

        return call

    def _as_worker(self, func: Callable[[T], Any], item: T) -> Any:
        """Call a function in a thread of somebody else's, where the same is refused as in ours."""
        me = threading.get_ident()
        self.threads.add(me)
        try:
            return func(item)
        finally:
            self.threads.discard(me)


async def _await(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    # The error as a value: a task that raises SystemExit or KeyboardInterrupt ends its loop.
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        return None, error
