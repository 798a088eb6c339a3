"""The blocking WorkQueue, for programs of threads."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, TypeVar, overload

from penstock._util import checks
from penstock._util.compat import Outcome, Self
from penstock._util.garbage import is_collecting
from penstock._util.loop_thread import LoopThread
from penstock._util.progress import progress_bar, show_progress_blocking
from penstock._util.signals import ThreadSignalHandlers, check_signals
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
from penstock.queue.jobs import BatchResult, check_outage
from penstock.queue.orders import Order
from penstock.queue.results import outcome_of
from penstock.queue.status import QueueStatus
from penstock.queue.work_queue_base import WorkQueueBase
from penstock.sync.adapter import BlockingAdapter
from penstock.sync.futures import Result, results_of
from penstock.sync.jobs import BlockingJob
from penstock.sync.provider import refuse_green_threads
from penstock.sync.queue import BlockingQueue
from penstock.sync.stream import BlockingConsumable
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc

T = TypeVar("T")
R = TypeVar("R")

#: Seconds before an item is offered again to a queue that refused it.
_PAUSE = 0.1


def _and_then(items: Iterator[T], call: Callable[[], object]) -> Iterator[T]:
    """Iterate over ``items``, and call ``call()`` when there are no more."""
    try:
        yield from items
    finally:
        call()


class WorkQueue(FromConfig, WorkQueueBase[T], BlockingConsumable[T], Generic[T, Outcome]):
    """A work queue for threads: the blocking face of :class:`penstock.WorkQueue`.

    Names, meanings, arguments and errors are the same; the differences are described here. Calls
    block the calling thread and are not awaited. Any number of threads may make them at once.
    Worker functions may be ``async def``: these run in an event loop on a background thread. Plain
    ones run in ``num_workers`` threads. The promise is that of :class:`penstock.BoundedQueue`. A
    program that ends without ``stop()`` processes all items first.

    Args:
        maxsize, timeout, concurrency_limit, logger, name: as for :class:`penstock.WorkQueue`.
        limits, retry, breaker, deadline, attempt_timeout, policy, max_dead_letters: the same.
        telemetry, order: the same.
        queue: an asynchronous queue to use, one on a broker for example, instead of one in this
            process. It has its own maxsize, timeout, logger, name and telemetry.
        loop_thread: the event loop thread to use, which several queues can share; by default the
            queue has its own, from ``start()`` to ``stop()``.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.
        RuntimeError: gevent or eventlet has patched ``threading``, so there are no threads.

    Calls that block raise ``QueueStateError`` where they could never return: in a running event
    loop, in a forked child of the process that made the queue, and some in a worker of the queue.
    In a notebook they work in each cell without ``await``. ``put_nowait`` is allowed
    everywhere; in a signal handler or a ``__del__`` that has interrupted the queue itself it raises
    ``QueueStateError``. Ctrl-C ends every call. A queue that is garbage-collected before it was
    stopped warns (``ResourceWarning``), processes its accepted items, and ends its thread.
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
        loop_thread: LoopThread | None = None,
    ) -> None:
        refuse_green_threads()
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
        self._blocking: BlockingQueue[T] | BlockingAdapter
        if self._set_up(concurrency_limit, queue, settings):
            self.queue = self._blocking = BlockingQueue(**settings, loop_thread=loop_thread)
        else:
            self._blocking = BlockingAdapter(self.queue, loop_thread)
        self._signal_handlers: ThreadSignalHandlers | None = None

    # -- lifecycle ----------------------------------------------------------------------------

    def start(self) -> None:
        """Accept items from now on, as :meth:`penstock.BoundedQueue.start` does.

        Takes about a millisecond, in which the event loop thread starts.
        """
        self._blocking.start()

    def close(self) -> None:
        """Refuse all further puts, as :meth:`penstock.BoundedQueue.close` does.

        May be called in any thread, and in a running event loop. A moment after the last item is
        done, the queue stops by itself, and its event loop thread ends; ``join()`` waits for this.

        Raises:
            TypeError: the queue is on a broker, where other machines may still put.
            QueueStateError: the event loop thread has died, or this is a forked child.
        """
        self._with("close", "close()")
        self._blocking.close()

    def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Stop, as :meth:`penstock.BoundedQueue.stop` does: True when no accepted item is left.

        The workers are cancelled after ``timeout`` seconds (``None``: never, ``0``: at once), and
        at Ctrl-C. Any number of threads may call it; the shorter timeout counts. A plain function
        that blocks in its thread cannot be cancelled: its item is in ``unprocessed``, its future
        fails, and the log says that it may still be running. For an async one that ignores its
        cancellation, the stop waits one second more. One that blocks its event loop is abandoned
        with the loop. In a finaliser that the garbage collector runs, the call does not wait: it
        begins the stop, and returns False if there is anything to stop.

        Raises:
            QueueStateError: called in a worker function, which would wait for itself; or the event
                loop thread has died.
        """
        try:
            return self._blocking.stop(timeout, drain=drain)
        finally:
            self._restore_signals_if_stopped()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted item is done; False after ``timeout`` seconds.

        Raises:
            QueueStateError: the queue stopped with items left; or as for :meth:`stop`.
        """
        try:
            return self._blocking.join(timeout)
        finally:
            self._restore_signals_if_stopped()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and stop; after an exception, stop without draining and cancel the workers."""
        if exc_type is None:
            self.stop()
        elif not getattr(self._blocking, "is_inherited", False):  # a child may leave as it likes
            self.stop(timeout=0, drain=False)

    # -- putting and taking -------------------------------------------------------------------

    def put(
        self,
        item: T,
        timeout: float | None = None,
        *,
        priority: float = 0,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Offer an item, as :meth:`penstock.BoundedQueue.put` does: True when it is accepted.

        ``timeout`` is in seconds: ``None`` the queue's own, ``0`` no wait, ``math.inf`` no limit.
        If there is room, it does not wait for another thread. The item will run in a copy of the
        thread's context. After Ctrl-C in a put that waits, the item is not in the queue, unless a
        worker has taken it at this moment; then it is processed and counted.

        ``id`` is for queues on a broker, as for :meth:`penstock.WorkQueue.put`.

        Raises:
            QueueStateError: among others, a worker function of this queue would wait for room
                without a limit.
            TypeError: an ``id``, and the queue is in this process.
        """
        if priority or id is not None:
            options = self._put_options(priority, deadline, id)
            return self._blocking.put(item, timeout, **options)
        return self._blocking.put(item, timeout, deadline=deadline)

    def put_nowait(self, item: T, *, priority: float = 0, deadline: float | None = None) -> None:
        """Offer an item, as :meth:`penstock.BoundedQueue.put_nowait` does; never wait.

        Allowed in a running event loop and in worker functions, too.
        """
        if priority:
            self._blocking.put_nowait(item, **self._put_options(priority, deadline))
        else:
            self._blocking.put_nowait(item, deadline=deadline)

    def put_many(
        self, items: Collection[T], timeout: float | None = None, *, priority: float = 0
    ) -> int:
        """Put ``items``, as :meth:`penstock.WorkQueue.put_many` does; return how many it accepted.

        ``timeout`` is in seconds, all items together: as for :meth:`put`. After Ctrl-C, what was
        accepted until then stays.
        """
        self._with("put_many", "put_many()")
        return self._blocking.put_many(items, timeout, **self._put_options(priority))

    def pause_all(self) -> None:
        """Pause the queue for all processes, as :meth:`penstock.WorkQueue.pause_all` does."""
        self._call_with("pause_all")

    def resume_all(self) -> None:
        """End a pause of all processes, as :meth:`penstock.WorkQueue.resume_all` does."""
        self._call_with("resume_all")

    def get(self, timeout: float | None = None) -> T:
        """Take an item, as :meth:`penstock.BoundedQueue.get` does, in ``timeout`` seconds."""
        return self._blocking.get(timeout)

    def get_nowait(self) -> T:
        """Take an item, as ``get(timeout=0)`` does."""
        return self._blocking.get_nowait()

    def task_done(self) -> None:
        """An item is done: as :meth:`penstock.BoundedQueue.task_done`."""
        self._blocking.task_done()

    def _call_with(self, method: str, *args: Any) -> Any:
        self._with(method, f"{method}()")
        if isinstance(self._blocking, BlockingQueue):
            return getattr(self._blocking, method)(*args)
        return self._blocking.call(method, *args)

    def _consumed(self) -> BlockingQueue[T]:
        queue: BlockingQueue[T] = self._consumed_by(BlockingQueue)
        return queue

    # -- workers ------------------------------------------------------------------------------

    def process(
        self,
        worker_func: WorkerFunc[T, Outcome],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers: ``num_workers``, or else ``concurrency_limit``, or else one.

        As :meth:`penstock.BoundedQueue.start_workers`, but plain functions run in the threads that
        are the workers, and a plain ``error_handler`` runs where the function ran. No exception out
        of an item ends a worker, not even ``SystemExit`` or ``KeyboardInterrupt``.
        """
        self._blocking.start_workers(
            worker_func=worker_func,
            num_workers=self._workers_wanted(num_workers),
            error_handler=error_handler,
        )

    def process_batches(
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

        As :meth:`penstock.WorkQueue.process_batches`. If a plain function still runs when the time
        of a stop is over, it continues in its thread, and all its items are returned.
        """
        batching = self._batching(max_size, max_wait, split=split, per_key=per_key)
        workers = self._workers_wanted(num_workers)
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "process_batches")
        queue.start_workers(worker_func, workers, error_handler, batching)  # type: ignore[arg-type]

    def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers of :meth:`process` finish their items, and end the workers.

        As :meth:`penstock.WorkQueue.stop_workers`; but a plain function that still runs after
        ``timeout`` seconds continues in its thread, and its item is returned.

        Raises:
            QueueStateError: called in a worker function, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.
        """
        self._blocking.stop_workers(timeout)

    def batch_process(
        self,
        items: Iterable[T],
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
        *,
        progress: bool = False,
    ) -> BatchResult:
        """Process all ``items``, as :meth:`penstock.WorkQueue.batch_process` does.

        ``items`` are read in the calling thread, at most one more than ``maxsize`` waits. At Ctrl-C
        the batch removes its items that are not done, as after any exception. A plain function
        that runs then continues in its thread, and its result is dropped.
        """
        workers = self._check_blocking_job(items, worker_func, num_workers)
        checks.optional_function(error_handler, "error_handler", "exc", "item")
        with progress_bar(progress, items, failures_count=not self._retries) as bar:
            func = worker_func if bar is None else bar.wrap(worker_func)
            if isinstance(self._blocking, BlockingQueue):
                result = self._batch(self._blocking, items, func, workers, error_handler)
            else:
                result = self._batch_elsewhere(items, func, workers, error_handler)
            if bar is not None:
                bar.finish(result.processed)
        return result

    def _batch(
        self,
        queue: BlockingQueue[T],
        items: Iterable[T],
        worker_func: WorkerFunc[T, Any],
        workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> BatchResult:
        on_exit = self._restore_signals_if_stopped
        with BlockingJob(queue, worker_func, workers, error_handler, on_exit) as running:
            try:
                for item in items:
                    running.put(item)
                    if running.is_given_up:
                        break
            except QueueStateError as error:
                is_ended = isinstance(error, QueueClosedError) or running.job.is_over
                if is_ended or queue.status is not QueueStatus.PROCESSING:  # by somebody else
                    running.join()  # until that has ended
                raise
            running.join()
            check_outage(running.job)
            return BatchResult.of(running.job)

    def _batch_elsewhere(
        self,
        items: Iterable[T],
        worker_func: WorkerFunc[T, Any],
        workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
    ) -> BatchResult:
        """A batch on a queue of another kind, which knows no jobs."""
        before = self.metrics
        was_running = self.queue.status == QueueStatus.PROCESSING
        if not was_running:
            self.start()
        try:
            self.process(worker_func, workers, error_handler)
            try:
                for item in items:
                    while not self.put(item, timeout=math.inf):
                        time.sleep(_PAUSE)  # another kind of queue may refuse all the same
            except QueueStateError:
                if self.queue.status == QueueStatus.STOPPING or self.is_closed:  # by others
                    self.stop()  # until that has ended
                raise
            self.join()
        except BaseException:
            if not was_running and self.queue.status != QueueStatus.STOPPING:
                self.stop(timeout=0, drain=False)
            raise
        if not was_running:
            self.stop()
        return BatchResult.since(before, self.metrics)

    def _check_blocking_job(
        self, items: Any, worker_func: Any, num_workers: Any
    ) -> int | AdaptiveConcurrency:
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an iterable, got {checks.shown(items)}")
        return self._check_job(items, worker_func, num_workers)

    # -- results ------------------------------------------------------------------------------

    def redrive(self, timeout: float | None = None) -> int:
        """Put the ``dead_letters`` back, as :meth:`penstock.BoundedQueue.redrive` does."""
        self._with("redrive")
        return self._blocking.redrive(timeout)

    def submit(
        self,
        item: T,
        *,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
    ) -> Result[Outcome]:
        """Put an item; return a ``concurrent.futures.Future`` of its result.

        The future of a running item cannot be cancelled, except with :meth:`cancel` if the worker
        function is ``async def``. If no code has read an exception when the future is
        garbage-collected, or when the program ends, the exception is logged. Otherwise as
        :meth:`penstock.WorkQueue.submit`.
        """
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "submit")
        return queue.submit(item, timeout=timeout, priority=priority, deadline=deadline)

    @overload
    def map(
        self,
        worker_func: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], R],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
    ) -> Generator[R | BaseException, None, None]: ...
    @overload
    def map(
        self,
        worker_func: Callable[[T], R],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
    ) -> Generator[R | BaseException, None, None]: ...
    def map(
        self,
        worker_func: Callable[[T], Any],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """Iterate over results, as :meth:`penstock.WorkQueue.map` does.

        ``items`` are read in the thread that iterates, between one result and the next. When the
        iteration ends in any way, its items that are not done are removed; a moment later, if the
        garbage collector ends it. A plain function that runs then continues in its thread, and its
        result is dropped.
        """
        workers = self._check_blocking_job(items, worker_func, num_workers)
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "map")
        results = self._map(queue, worker_func, items, workers, ordered, return_exceptions)
        return show_progress_blocking(results, items) if progress else results

    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Awaitable[Sequence[R]]],
        items: Iterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
        split: bool = True,
        per_key: bool = False,
    ) -> Generator[R, None, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Sequence[R]],
        items: Iterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: Literal[False] = False,
        split: bool = True,
        per_key: bool = False,
    ) -> Generator[R, None, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Awaitable[Sequence[R]]],
        items: Iterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
        split: bool = True,
        per_key: bool = False,
    ) -> Generator[R | BaseException, None, None]: ...
    @overload
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Sequence[R]],
        items: Iterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool,
        split: bool = True,
        per_key: bool = False,
    ) -> Generator[R | BaseException, None, None]: ...
    def map_batches(
        self,
        worker_func: Callable[[list[T]], Any],
        items: Iterable[T],
        *,
        max_size: int,
        max_wait: float = 0,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        progress: bool = False,
        return_exceptions: bool = False,
        split: bool = True,
        per_key: bool = False,
    ) -> Generator[Any, None, None]:
        """Iterate over results, item by item, as :meth:`penstock.WorkQueue.map_batches` does.

        ``items`` are read in the thread that iterates, as for :meth:`map`.
        """
        workers = self._check_blocking_job(items, worker_func, num_workers)
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "map_batches")
        batching = self._batching(
            max_size, max_wait, split=split, needs_results=True, per_key=per_key
        )
        results = self._map(
            queue, worker_func, items, workers, ordered, return_exceptions, batching
        )
        return show_progress_blocking(results, items) if progress else results

    def _map(
        self,
        queue: BlockingQueue[T],
        worker_func: Callable[..., Any],
        items: Iterable[T],
        workers: int | AdaptiveConcurrency,
        ordered: bool,
        return_exceptions: bool,
        batching: Batching | None = None,
    ) -> Generator[Any, None, None]:
        source = iter(items)
        on_exit = self._restore_signals_if_stopped
        running = BlockingJob(queue, worker_func, workers, on_exit=on_exit, batching=batching)
        with running:
            a_call = 1 if batching is None else batching.max_size
            most = queue.maxsize + running.job.most * a_call
            source = running.until_given_up(source)
            if batching is not None:
                source = _and_then(source, running.all_put)
            for future in results_of(running.submit, source, most, ordered):
                try:
                    outcome = [outcome_of(future, return_exceptions)]
                except Exception as error:
                    check_outage(running.job, error)
                    raise
                del future  # and keep nothing alive that was handed out
                yield outcome.pop()
            check_outage(running.job)

    # -- signals ------------------------------------------------------------------------------

    def stop_on_signals(self, *signals: int, timeout: float | None = None) -> None:
        """Stop on ``signals``, as :meth:`penstock.WorkQueue.stop_on_signals` does.

        Raises:
            ValueError: called outside the main thread; or one of ``signals`` is no signal, or
                ``timeout`` no such number.
        """
        limit = checks.optional_seconds(timeout)
        check_signals(signals)
        self._restore_signals()
        self._signal_handlers = ThreadSignalHandlers(
            signals or (signal.SIGTERM, signal.SIGINT),
            first=lambda: self.stop(timeout=limit),
            second=lambda: self.stop(timeout=0),
        )
        self._call_at_end(self._restore_signals_if_stopped)

    def _restore_signals_if_stopped(self) -> None:
        # In a finaliser the lock of the signals may be its own thread's; the loop does it then.
        if self.queue.status == QueueStatus.STOPPED and not is_collecting():
            self._restore_signals()

    def _restore_signals(self) -> None:
        if self._signal_handlers is not None and self._signal_handlers.restore():
            self._signal_handlers = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be sent to another process: it has threads and a lock here. Make a "
            "queue there, or use one on a broker"
        )
