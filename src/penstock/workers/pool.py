"""The workers of one queue: started, replaced, resized, waited for, cancelled.

A pool knows nothing of bounds, putters or brokers. Its workers take entries from a :class:`Source`.
Workers never poll: a worker with nothing to do waits in ``source.wait()``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.group import GroupOfOne, WorkerGroup
from penstock.workers.item import Entry
from penstock.workers.source import Counters, Source
from penstock.workers.worker import Worker, WorkerTask

T = TypeVar("T")

#: Seconds that a cancelled worker gets to clean up before the pool abandons it.
CANCEL_GRACE = 1.0


def _never() -> bool:
    return False


class WorkerPool(Generic[T]):
    """The workers of one queue. All methods are called in the thread of the running loop."""

    def __init__(
        self, source: Source[T], counters: Counters, name: str, logger: logging.Logger
    ) -> None:
        self._source = source
        self._counters = counters
        self._name = name
        self._logger = logger
        # The groups that take entries: one, or where the number of workers changes, one for each.
        self._groups: list[WorkerGroup[T]] = []
        self._make_group_of_one: Callable[[], WorkerGroup[T]] | None = None
        self._wanted: Callable[[], int] = int
        self._groups_lock = threading.Lock()
        self._workers: dict[asyncio.Future[None], Worker[T]] = {}
        # Sets of workers, each with the future that is done when all of them have ended.
        self._exit_waiters: list[tuple[set[asyncio.Future[None]], asyncio.Future[None]]] = []
        self._launched = 0

    @property
    def count(self) -> int:
        """The number of workers that take entries (and not those that finish their last one)."""
        return sum(group.alive for group in self._groups[:])  # telemetry asks from its own thread

    @property
    def is_empty(self) -> bool:
        """Whether all workers have ended, those too that had been replaced."""
        return not self._workers

    def owns(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether ``task`` is one of the workers."""
        return task in self._workers

    def start(
        self,
        func: WorkerFunc[T, Any],
        size: int | Callable[[], int],
        error_handler: ErrorHandler[T] | None,
    ) -> None:
        """Replace the workers by ``size`` new ones, which begin at once.

        If ``size`` is a function, call :meth:`resize` whenever its result changes.
        """
        make_group_of_one: Callable[[], WorkerGroup[T]] | None = None
        if callable(size):
            self._wanted = size
            make_group_of_one = partial(self._make_group, GroupOfOne, func, 1, error_handler)
            group, count = make_group_of_one(), 1
        else:
            group, count = self._make_group(WorkerGroup, func, size, error_handler), size
        self._replace([group])
        self._make_group_of_one = make_group_of_one
        self._launch_workers(group, count)
        self.resize()

    def resize(self) -> None:
        """Start or retire workers until there are as many as the function ``size`` says."""
        if self._make_group_of_one is None:
            return
        while len(self._groups) < self._wanted():
            group = self._make_group_of_one()
            self._groups.append(group)
            self._launch_workers(group, 1)
        if len(self._groups) > self._wanted():
            self._source.wake_all()

    def _drop_surplus(self, group: WorkerGroup[T]) -> bool:
        with self._groups_lock:  # workers may be threads
            # In this order: the number is compared before each item, the list searched rarely.
            if len(self._groups) <= self._wanted() or group not in self._groups:
                return False
            self._groups.remove(group)
            return True

    def _launch_workers(self, group: WorkerGroup[T], size: int) -> None:
        empty = Context()
        for _ in range(size):
            self._launched += 1
            worker = self._make_worker(group)
            worker.task = self._launch(worker, f"penstock-{self._name}-worker-{self._launched}")
            self._workers[worker.task] = worker
            worker.task.add_done_callback(self._on_exit, context=empty)
        if isinstance(group, GroupOfOne):
            group.is_surplus = partial(self._drop_surplus, group)

    def _make_group(
        self,
        kind: type[WorkerGroup[T]],
        func: WorkerFunc[T, Any],
        size: int,
        error_handler: ErrorHandler[T] | None,
    ) -> WorkerGroup[T]:
        return kind(func, size, error_handler)

    def _make_worker(self, group: WorkerGroup[T]) -> Worker[T]:
        return Worker(self._source, self._counters, group, self._logger)

    def _launch(self, worker: Worker[T], name: str) -> asyncio.Future[None]:
        """Start the worker; return the future that is done when it has ended."""
        # In an empty context: a worker outlives the request that started it, and must not carry
        # the trace of that request into all other items. Not by the loop's task factory: an eager
        # one would run items before the pool knows the worker.
        make = partial(WorkerTask, worker.run(), loop=asyncio.get_running_loop(), name=name)
        task = Context().run(make)
        task.worker = worker
        return task

    def retire(self) -> None:
        """Let the workers finish the items in their hands and take no more."""
        self._replace([])

    def _replace(self, groups: list[WorkerGroup[T]]) -> None:
        """Retire the present groups; ``groups`` take entries from now on."""
        self._make_group_of_one = None
        with self._groups_lock:
            # In one step: at no instant may other threads see a pool without workers.
            retired, self._groups = self._groups, groups
        for group in retired:
            group.retired = True
        if retired:
            self._source.wake_all()

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
        self, timeout: float | None, all_that_come_while: Callable[[], bool] | None = None
    ) -> None:
        """Wait until all present workers have ended; cancel them after ``timeout`` seconds.

        Args:
            timeout: ``None`` waits as long as it takes.
            all_that_come_while: as long as it returns True, workers that are started meanwhile
                are waited for and cancelled too.

        Cancelling this call cancels the workers at once. A worker that has not ended
        ``CANCEL_GRACE`` seconds after its cancellation is abandoned, and its entry requeued.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        tasks = list(self._workers)
        is_for_all = _never if all_that_come_while is None else all_that_come_while
        try:
            await self.wait(timeout)
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
        for task in remaining:
            worker = self._workers[task]
            worker.cancelled = worker.group.retired = True
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
        with self._groups_lock:
            self._groups = []
        self._make_group_of_one = None
        for worker in [*self._workers.values()]:
            worker.group.retired = True
        for task in [*self._workers]:
            self._workers[task].reclaim()
            self._remove(task)
        self._exit_waiters.clear()

    def _remove(self, task: asyncio.Future[None]) -> None:
        worker = self._workers.pop(task, None)
        if worker is None:
            return
        worker.leave()
        for remaining, exited in [*self._exit_waiters]:
            remaining.discard(task)
            if not remaining:
                self._exit_waiters.remove((remaining, exited))
                if not exited.done() and not exited.get_loop().is_closed():
                    exited.set_result(None)

    def _on_exit(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        worker = self._workers.get(task)
        if worker is not None and error is None and self._is_missed(worker):
            worker.group.alive += 1
            self._launch_workers(worker.group, 1)
        self._remove(task)
        if isinstance(error, Exception):
            self._logger.critical("A worker of queue %s died", self._name, exc_info=error)

    @staticmethod
    def _is_missed(worker: Worker[T]) -> bool:
        """Whether somebody else has cancelled the worker, so that another one is to go on."""
        was_told_to = worker.cancelled or worker.group.retired
        return not was_told_to and worker.has_been_cancelled() and not worker.is_loop_ending()
