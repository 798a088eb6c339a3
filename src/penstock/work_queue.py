"""WorkQueue: a queue with workers, batches, results and signals."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

from penstock._util import checks
from penstock._util.compat import Outcome
from penstock._util.lifecycle import Lifecycle
from penstock._util.progress import progress_bar, show_progress
from penstock._util.signals import LoopSignalHandlers, check_signals
from penstock.errors import QueueClosedError, QueueStateError
from penstock.from_config import FromConfig
from penstock.limits import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Limit,
    Limiter,
    RetryPolicy,
)
from penstock.policies.dead_letters import MAX_DEAD_LETTERS
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy
from penstock.protocols import Queue
from penstock.queue.bounded import BoundedQueue, QueueStatus
from penstock.queue.jobs import BatchResult, RunningJob, check_outage
from penstock.queue.orders import Order
from penstock.queue.results import ResultStream, each, outcome_of
from penstock.queue.stream import Consumable
from penstock.queue.work_queue_base import WorkQueueBase
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc

T = TypeVar("T")
R = TypeVar("R")


#: Seconds before an item is offered again to a queue that refused it.
_PAUSE = 0.1


class WorkQueue(Lifecycle, FromConfig, WorkQueueBase[T], Consumable[T], Generic[T, Outcome]):
    """A queue with workers, batches and results: process, batch_process, submit, map.

    Args:
        maxsize, timeout, logger, name, telemetry: as for :class:`penstock.BoundedQueue`.
        concurrency_limit: the largest number of workers, and the number of workers of ``process``,
            ``batch_process`` and ``map`` without ``num_workers``: at least 1, or an
            :class:`penstock.AdaptiveConcurrency`, which adapts the number to the service.
            ``None``: no limit, and one worker.
        queue: a queue to use instead of a new ``BoundedQueue``. It has its own maxsize, timeout,
            logger, name and telemetry, so leave these out here.
        limits: how fast calls may start: a list of :class:`penstock.Limit`, or of
            texts such as ``"500/min"``; or a :class:`penstock.Limiter` that others share.
        retry: how failed items are retried: a :class:`penstock.RetryPolicy`. ``None``: they go
            to the error handler at once.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        deadline: seconds after its put in which each item must be done. An item that can no longer
            be done in time is not attempted, and fails with ``DeadlineExceededError``. ``None``:
            no deadline.
        attempt_timeout: seconds that one call of an async worker function may take; then the call
            is cancelled, and the attempt fails with ``APITimeoutError``. ``None``: no limit. A
            plain function cannot be cancelled, and is refused with this.
        policy: a :class:`penstock.Policy`, in place of limits, retry, breaker, deadline and
            attempt_timeout. Other queues and calls may share it.
        max_dead_letters: how many items that failed for good are kept, zero or more.
        order: which item is next: a :class:`penstock.Priorities`, by the ``priority`` of its put,
            or a :class:`penstock.FairShares`, each key its turn. ``None``: first come, first
            served.

    For type checkers: in ``WorkQueue[int, str]`` items are ints, and worker functions return strs.
    So futures of ``submit`` give strs. ``WorkQueue[int]`` leaves open what functions return.

    With any of these, when a worker function raises ``RateLimitError(retry_after=...)``, all
    workers wait for ``retry_after`` seconds.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    ``queue`` is a public attribute. Methods that only refer to
    :class:`penstock.BoundedQueue` are passed on to it.
    """

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        concurrency_limit: int | AdaptiveConcurrency | None = None,
        logger: logging.Logger | None = None,
        *,
        name: str | None = None,
        queue: Queue[T] | None = None,
        limits: Iterable[Limit | str] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = MAX_DEAD_LETTERS,
        telemetry: ObserverProvider | None = None,
        order: Order | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            "maxsize": maxsize,
            "timeout": timeout,
            "logger": logger,
            "name": name,
            "telemetry": telemetry,
            "limits": limits,
            "retry": retry,
            "breaker": breaker,
            "deadline": deadline,
            "attempt_timeout": attempt_timeout,
            "policy": policy,
            "max_dead_letters": max_dead_letters,
            "order": order,
        }
        self.queue: Queue[T]
        if self._set_up(concurrency_limit, queue, settings):
            self.queue = BoundedQueue(**settings)
        self._signal_handlers: LoopSignalHandlers | None = None

    # -- passed on to the queue ---------------------------------------------------------------

    async def start(self) -> None:
        """Accept items from now on, in the running event loop. ``async with`` does this too.

        Items that an earlier stop left come first. Does nothing if the queue is started; opens it
        again if it was closed; waits for a running stop.

        Raises:
            QueueStateError: the queue runs in another event loop.
        """
        await self.queue.start()

    def close(self) -> None:
        """Refuse all further puts. The accepted items are processed or taken; then the queue stops.

        See :meth:`penstock.BoundedQueue.close`.

        Raises:
            TypeError: the queue is on a broker, where other machines may still put.
        """
        self._with("close", "close()").close()

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Accept no more items, finish the accepted items, end the workers.

        Args:
            timeout: seconds after which the workers are cancelled. ``None`` or ``math.inf``: never.
                ``0``: at once.
            drain: False: items that wait stay, and the workers only finish the items in hand.

        Returns:
            True if no item is left. False if items are left: ``unprocessed`` lists them, and the
            next ``start()`` continues with them. No item is dropped.

        Raises:
            QueueStateError: called in a worker function, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.

        The end of an ``async with`` block does this too. A ``put`` or ``get`` that waits raises
        ``QueueStateError``. If this call is cancelled, the workers are cancelled. Details:
        :meth:`penstock.BoundedQueue.stop`.
        """
        options = {} if drain else {"drain": False}
        try:
            return await self.queue.stop(timeout=timeout, **options)
        finally:
            self._restore_signals_if_stopped()

    async def put(
        self,
        item: T,
        timeout: float | None = None,
        *,
        priority: float = 0,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Offer an item; return True if it is accepted, False if the queue stayed full.

        Args:
            item: anything.
            timeout: seconds to wait for room. ``None``: the queue's own, 0.1 unless given. ``0``:
                do not wait. ``math.inf``: as long as it takes.
            priority: a number, lower is sooner, for a queue with ``order=Priorities()``.
            deadline: seconds from now in which the item is to be done.
            id: for queues on a broker: when two puts have the same id within the ``dedupe`` seconds
                of the queue, one item is stored, and both puts return True.

        Raises:
            QueueStateError: the queue is not started, or is stopped; ``QueueClosedError`` if it is
                closed.
            ValueError: ``timeout`` or ``deadline`` is negative, NaN or no number; or a limit can
                never let the item pass.
            TypeError: an ``id``, and the queue is in this process; ``priority`` is no number, or
                the queue's order takes none; a queue on a broker has no order.
            Exception: what a function of the queue's order raised; the item is not in the queue.

        True: the item will be processed or returned, exactly once. False: the item is not accepted
        and will not be, so look at the result. A cancelled put leaves no item in the queue.
        Details: :meth:`penstock.BoundedQueue.put`.
        """
        if deadline is not None or priority or id is not None:
            put: Any = self.queue.put  # not every kind of queue knows these
            options = self._put_options(priority, deadline, id)
            accepted: bool = await put(item, timeout=timeout, **options)
            return accepted
        if timeout is None:
            return await self.queue.put(item)
        return await self.queue.put(item, timeout=timeout)

    async def put_many(
        self, items: Collection[T], timeout: float | None = None, *, priority: float = 0
    ) -> int:
        """Put ``items`` in their order; return how many were accepted, from the front.

        Args:
            items: a list or another collection. An iterator is refused: what it gave away and was
                not accepted would be lost.
            timeout: seconds to wait for room, all items together, as for :meth:`put`.
            priority: that of all of them, as for :meth:`put`.

        Raises:
            QueueStateError, ValueError: as :meth:`put`, about the first item. If some were accepted
                before, their number is returned, and the next call with the rest raises.
            TypeError: ``items`` is no collection; or as :meth:`put`.
            QueueUnknownError: a broker did not answer; ``accepted`` of the error is the number of
                items that are certainly accepted.

        ``items[count:]`` were not accepted. If it is cancelled, what was accepted until then stays.
        On a broker up to 250 items go in one round trip.
        """
        queue: Any = self._with("put_many", "put_many()")
        count: int = await queue.put_many(items, timeout, **self._put_options(priority))
        return count

    async def pause_all(self) -> None:
        """Let the broker deliver no items, to any process, until :meth:`resume_all`.

        Raises:
            TypeError: the queue is in this process: see :meth:`pause`.
            QueueStateError: the queue is not processing.
            BrokerError: the broker does not answer, or cannot do that.

        Items are accepted until the queue is full. Running calls continue. The pause also holds for
        processes that start later. ``stop()`` finishes the items in hand and takes no new ones.
        """
        await self._with("pause_all", "pause_all()").pause_all()

    async def resume_all(self) -> None:
        """End a pause of all processes. Does nothing if there is none.

        Raises:
            TypeError, QueueStateError, BrokerError: as :meth:`pause_all`.
        """
        await self._with("resume_all", "resume_all()").resume_all()

    async def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest. Call ``task_done()`` when it is done.

        Args:
            timeout: seconds to wait for an item. ``None`` or ``math.inf``: as long as it takes.
                ``0``: do not wait.

        Raises:
            QueueEmptyError: none came in time.
            QueueStateError: the queue is not started, or is stopped; ``QueueClosedError`` if it is
                closed and empty.
            ValueError: the timeout is negative, NaN or no number.

        If it is cancelled, no item is lost.
        """
        if timeout is None:
            return await self.queue.get()
        return await self.queue.get(timeout=timeout)

    async def join(self) -> None:
        """Wait until every accepted item is done.

        Raises:
            QueueStateError: the queue stopped with items left; or the call comes from inside a
                worker function, which would wait for itself.
        """
        await self.queue.join()

    def _consumed(self) -> BoundedQueue[T]:
        queue: BoundedQueue[T] = self._consumed_by(BoundedQueue)
        return queue

    # -- workers ------------------------------------------------------------------------------

    async def process(
        self,
        worker_func: WorkerFunc[T, Outcome],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be.

        Args:
            worker_func: gets one argument, the item. An async function runs in a task, a plain one
                in a thread.
            num_workers: how many items are processed at once, at most ``concurrency_limit``.
                ``None``: ``concurrency_limit``, or one. Or a
                :class:`penstock.AdaptiveConcurrency`, which adapts the number.
            error_handler: called as ``error_handler(error, item)`` for an item that failed. Without
                it, the error is logged.

        Raises:
            ValueError, TypeError: for an argument that is not allowed.
            QueueStateError: the queue is stopping.

        Does not wait for items. A second call replaces the workers. Details:
        :meth:`penstock.BoundedQueue.start_workers`.
        """
        await self.queue.start_workers(
            worker_func=worker_func,
            num_workers=self._workers_wanted(num_workers),
            error_handler=error_handler,
        )

    async def process_batches(
        self,
        worker_func: Callable[[list[T]], Any],
        *,
        max_size: int,
        max_wait: float,
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
        split: bool = True,
        per_key: bool = False,
    ) -> None:
        """Start workers that call ``worker_func`` on several items at once.

        Args:
            worker_func: gets a list of items. It returns None, or a list with one outcome for each
                item: an exception in the list fails its item. If it raises, all items fail.
            max_size: the largest number of items in one call, at least 1.
            max_wait: seconds that the first item waits for others, unless there are ``max_size``;
                ``0``: the call takes the items that are there. When the queue is full, closed or
                stopping, the call does not wait.
            num_workers: how many calls at once; as for :meth:`process`.
            error_handler: called as ``error_handler(error, item)`` for each item that failed.
            split: if a call raises an error that a retry would not change, make the call again for
                each half of its items, and so on, until only the bad item is left. With False,
                all its items fail.
            per_key: whether all items of a call have the same key, on a queue with
                ``order=FairShares(...)``. The first item of each key waits for others of its key.

        Raises:
            ValueError, TypeError: for an argument that is not allowed; the limits have a ``key``;
                ``per_key`` without fair shares; or the queue is on a broker.
            QueueStateError: the queue is stopping.

        Otherwise as :meth:`process`, whose workers it replaces. For a limit without a ``cost``, one
        call is one start. With a ``cost``, it costs the sum of its items, and a batch ends before
        the item that would raise the sum above the ``max``. While a call waits for a limit, it has
        no items; the batch is filled when the call may start. With ``retry``, each failed item is
        retried by itself, in a later batch. Any other return value is a ``TypeError``, and is not
        retried. The call runs in an empty context, because its items come from several contexts. A
        stop with a timeout returns all items of a call.
        """
        batching = self._batching(max_size, max_wait, split=split, per_key=per_key)
        workers = self._workers_wanted(num_workers)
        queue = self._in_process(BoundedQueue, "process_batches")
        size = queue.check_workers(worker_func, workers, error_handler)
        await queue._start_workers(worker_func, size, error_handler, batching)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers of :meth:`process` finish their items, and end the workers.

        Args:
            timeout: seconds after which they are cancelled and their items returned. ``None`` or
                ``math.inf``: never. ``0``: at once.

        The queue continues. A ``map`` or a batch continues too, since it has its own workers.
        Raises as :meth:`penstock.BoundedQueue.stop_workers`. If it is cancelled, the workers are
        cancelled at once.
        """
        await self.queue.stop_workers(timeout=timeout)

    async def batch_process(
        self,
        items: Iterable[T] | AsyncIterable[T],
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
        *,
        progress: bool = False,
    ) -> BatchResult:
        """Process all ``items`` and return when the last one is done.

        Args:
            items: read lazily, when there is room: at most ``maxsize`` items and one more wait. An
                async generator is closed when no more items are read.
            worker_func, num_workers, error_handler: as for :meth:`process`, but only for these
                items.
            progress: show a progress bar on standard error, with ``penstock[progress]``.

        Returns:
            How many items were processed, how many failed, and the first error of each type. On a
            queue that is not in this process: the counts of all items that it processed during the
            batch.

        Raises:
            QueueStateError: other code stopped the queue before all items were done. The accepted
                items are done then, or returned, as that stop allows.
            OutageError: the service was down for longer than ``give_up_after`` of the retry policy.
                No more items were read, and the held items have failed. ``result`` has the counts.
            ImportError: ``progress`` without the extra.
            ValueError, TypeError: for an argument that is not allowed.

        Any number of batches may run at once on the same queue, beside other puts. Each has its own
        function, and no more workers than it asks for. The batch starts the queue if it is not
        running. If only batches have used the queue, the last one stops it. An exception of
        ``worker_func`` does not end the batch; it goes to ``error_handler`` or the log. If the
        batch is cancelled, or ``items`` raises, the batch removes its items that are not done.
        """
        workers = self._check_job(items, worker_func, num_workers)
        checks.optional_function(error_handler, "error_handler", "exc", "item")
        with progress_bar(progress, items, failures_count=not self._retries) as bar:
            func = worker_func if bar is None else bar.wrap(worker_func)
            # By its type: a mock with the spec of a BoundedQueue knows only what the protocol has.
            queue: Any = self.queue
            if issubclass(type(queue), BoundedQueue):
                result = await self._batch(queue, items, func, workers, error_handler)
            else:
                result = await self._batch_elsewhere(items, func, workers, error_handler)
            if bar is not None:
                bar.finish(result.processed)
        return result

    async def _batch(
        self,
        queue: BoundedQueue[T],
        items: Iterable[T] | AsyncIterable[T],
        worker_func: WorkerFunc[T, Any],
        workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> BatchResult:
        on_exit = self._restore_signals_if_stopped
        async with RunningJob(queue, worker_func, workers, error_handler, on_exit) as running:
            try:
                async with aclosing(each(items)) as source:
                    async for item in source:
                        await running.put(item)
                        if running.is_given_up:
                            break
            except QueueStateError as error:
                is_ended = isinstance(error, QueueClosedError) or running.job.is_over
                if is_ended or queue.status is not QueueStatus.PROCESSING:  # by somebody else
                    await running.join()  # until that has ended
                raise
            await running.join()
            check_outage(running.job)
            return BatchResult.of(running.job)

    async def _batch_elsewhere(
        self,
        items: Iterable[T] | AsyncIterable[T],
        worker_func: WorkerFunc[T, Any],
        workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> BatchResult:
        """A batch on a queue of another kind, which knows no jobs."""
        before = self.metrics
        was_running = self.queue.status == QueueStatus.PROCESSING
        if not was_running:
            await self.start()
        try:
            await self.process(worker_func, workers, error_handler)
            try:
                async with aclosing(each(items)) as source:
                    async for item in source:
                        # In a loop: other kinds of queues may refuse in spite of the timeout.
                        while not await self.queue.put(item, timeout=math.inf):  # noqa: ASYNC110
                            await asyncio.sleep(_PAUSE)
            except QueueStateError:
                if self.queue.status == QueueStatus.STOPPING or self.is_closed:  # by others
                    await self.stop()  # until that has ended
                raise
            await self.queue.join()
        except BaseException:
            if not was_running and self.queue.status != QueueStatus.STOPPING:
                await self.stop(timeout=0, drain=False)
            raise
        if not was_running:
            await self.stop()
        return BatchResult.since(before, self.metrics)

    # -- results ------------------------------------------------------------------------------

    async def redrive(self, timeout: float | None = None) -> int:
        """Put the items of ``dead_letters`` back, the oldest first, as if they were new.

        Args:
            timeout: seconds that each may wait for room, as for :meth:`put`.

        Returns:
            How many were put. It ends at the first item that finds no room; the others stay.

        Raises:
            QueueStateError, ValueError: as for :meth:`put`.
        """
        count: int = await self._with("redrive").redrive(timeout)
        return count

    async def submit(
        self,
        item: T,
        *,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
    ) -> asyncio.Future[Outcome]:
        """Put an item and return a future of what the worker function makes of it.

        Args:
            item, timeout, priority, deadline: as for :meth:`put`.

        Returns:
            A future of the result, or of the exception of the last attempt. The error handler is
            not called. If the future is cancelled while the item waits, the item is skipped;
            :meth:`cancel` also ends a running call. If the queue stops first, the future raises
            ``QueueStateError``.

        Raises:
            QueueFullError: there was no room in time.
            QueueStateError, ValueError: as for :meth:`put`.
            TypeError: the queue is not one in this process; or as for :meth:`put`.

        All of it: :meth:`penstock.BoundedQueue.submit`.
        """
        return await self._in_process(BoundedQueue, "submit").submit(
            item, timeout=timeout, priority=priority, deadline=deadline
        )

    @overload
    def map(
        self,
        worker_func: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], R],
        items: Iterable[T] | AsyncIterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
    ) -> AsyncGenerator[R | BaseException, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], R],
        items: Iterable[T] | AsyncIterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
    ) -> AsyncGenerator[R | BaseException, None]: ...
    def map(
        self,
        worker_func: Callable[[T], Any],
        items: Iterable[T] | AsyncIterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """Iterate over the results of ``worker_func`` on each item.

        Args:
            worker_func: ``async def`` or a plain function.
            items: read lazily. An async generator is closed when no more items are read.
            num_workers: the largest number of items processed at once, as for :meth:`process`. By
                default, on a queue that has workers and no ``concurrency_limit``, the number of
                these workers.
            ordered: yield the results in the order of the items; with False, when they are ready.
            progress: show a bar of the results on standard error, with ``penstock[progress]``.
            return_exceptions: yield the exceptions of ``worker_func``; with False the first one is
                raised, and ends the iteration.

        Raises:
            QueueStateError: in the iteration, after the results of the accepted items, if other
                code stops the queue.
            OutageError: in the iteration, the service was down for longer than ``give_up_after`` of
                the retry policy. No more items are read. With ``return_exceptions``, it comes
                after the results of the accepted items.
            ValueError, TypeError: at the call, for an argument that is not allowed.
            ImportError: at the call, ``progress`` without the extra.

        At most ``maxsize`` items plus one for each worker are read before their results are taken.
        So if results are read slowly, ``items`` are read slowly too.

        Any number of maps, batches and puts may share a queue, as :meth:`batch_process` says. When
        the iteration ends, also by an error or a ``break``, its items are removed: those that wait
        are skipped, and running calls of ``worker_func`` are cancelled. After a ``break`` this
        happens a moment later, when Python garbage-collects the iterator;
        ``async with contextlib.aclosing(queue.map(...)) as results`` waits for it.
        """
        workers = self._check_job(items, worker_func, num_workers)
        queue = self._in_process(BoundedQueue, "map")
        results = self._map(queue, worker_func, items, workers, ordered, return_exceptions)
        return show_progress(results, items) if progress else results

    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Awaitable[Sequence[R]]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
        split: bool = True,
        per_key: bool = False,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Sequence[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
        split: bool = True,
        per_key: bool = False,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Awaitable[Sequence[R]]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
        split: bool = True,
        per_key: bool = False,
    ) -> AsyncGenerator[R | BaseException, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Sequence[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
        split: bool = True,
        per_key: bool = False,
    ) -> AsyncGenerator[R | BaseException, None]: ...
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Any],
        items: Iterable[T] | AsyncIterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        split: bool = True,
        per_key: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """Iterate over the results of ``worker_func`` on several items at once, item by item.

        Args:
            worker_func: gets a list of items, and returns a list with one result for each item; an
                exception in the list fails its item. If it raises, all items fail.
            items, num_workers, ordered, return_exceptions: as for :meth:`map`; ``num_workers``
                counts calls.
            max_size, max_wait, split, per_key: as for :meth:`process_batches`. The last batch does
                not wait.

        Raises:
            QueueStateError, ValueError, TypeError: as :meth:`map` and :meth:`process_batches`.

        As :meth:`map` otherwise, and limits and retries as for :meth:`process_batches`.
        """
        workers = self._check_job(items, worker_func, num_workers)
        queue = self._in_process(BoundedQueue, "map_batches")
        batching = self._batching(
            max_size, max_wait, split=split, needs_results=True, per_key=per_key
        )
        results = self._map(
            queue, worker_func, items, workers, ordered, return_exceptions, batching
        )
        return show_progress(results, items) if progress else results

    async def _map(
        self,
        queue: BoundedQueue[T],
        worker_func: Callable[..., Any],
        items: Iterable[T] | AsyncIterable[T],
        workers: int | AdaptiveConcurrency,
        ordered: bool,
        return_exceptions: bool,
        batching: Batching | None = None,
    ) -> AsyncGenerator[Any, None]:
        on_exit = self._restore_signals_if_stopped
        running = RunningJob(queue, worker_func, workers, on_exit=on_exit, batching=batching)
        async with running:
            a_call = 1 if batching is None else batching.max_size
            most = queue.maxsize + running.job.most * a_call
            results = ResultStream(running, most, ordered)
            running.job.feeder = feeder = asyncio.create_task(results.feed(items))
            try:
                async for future in results:
                    try:
                        outcome = [outcome_of(future, return_exceptions)]
                    except Exception as error:
                        check_outage(running.job, error)
                        raise
                    del future  # and keep nothing alive that was handed out
                    yield outcome.pop()
                await feeder
                check_outage(running.job)
            finally:
                feeder.cancel()
                results.cancel()
                await asyncio.wait([feeder])

    # -- signals ------------------------------------------------------------------------------

    def stop_on_signals(self, *signals: int, timeout: float | None = None) -> None:
        """Stop and drain on the first of ``signals``, cancel the workers on the second.

        Args:
            signals: SIGTERM and SIGINT if none are given.
            timeout: seconds for draining, as for :meth:`stop`.

        Raises:
            RuntimeError: there is no running event loop.
            ValueError: called outside the main thread; or one of ``signals`` is no signal, or
                ``timeout`` no such number.

        When the queue has stopped, the earlier handlers are set again. Puts that wait get
        ``QueueStateError``, ``join()`` returns when all items are done, and your main function
        continues.

        Several queues may call this for the same signal, in tasks and in threads. They stop one
        after the other, in the order of these calls: the workers of one may put into the next. The
        second signal cancels the workers of all. The earlier handlers are set again when the last
        queue has stopped; a handler that other code has set in that time stays. In a forked child
        the signals stop no queue.
        """
        limit = checks.optional_seconds(timeout)
        asyncio.get_running_loop()
        check_signals(signals)
        self._restore_signals()
        self._signal_handlers = LoopSignalHandlers(
            signals or (signal.SIGTERM, signal.SIGINT),
            first=partial(self.stop, timeout=limit),
            second=partial(self.stop, timeout=0),
        )
        self._call_at_end(self._restore_signals)

    def _restore_signals_if_stopped(self) -> None:
        if self.queue.status == QueueStatus.STOPPED:
            self._restore_signals()

    def _restore_signals(self) -> None:
        if self._signal_handlers is not None:
            self._signal_handlers.restore()
            self._signal_handlers = None
