"""WorkQueue for threads: no knowledge of asyncio needed."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from penstock._util import checks
from penstock._util.compat import Self
from penstock._util.progress import progress_bar
from penstock._util.signals import check_signals
from penstock.limits import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Limit,
    Limiter,
    RetryPolicy,
)
from penstock.policies.governor import MAX_DEAD_LETTERS
from penstock.protocols import Queue
from penstock.queue.status import NotProcessedError, QueueStatus
from penstock.queue.work_queue_base import WorkQueueBase
from penstock.sync.loop_thread import LoopThread
from penstock.sync.on_loop import QueueOnLoop
from penstock.sync.queue import BlockingQueue
from penstock.sync.result import Result
from penstock.sync.results import results_of
from penstock.sync.signals import SignalStop
from penstock.telemetry import Telemetry
from penstock.workers.calls import ErrorHandler, WorkerFunc

T = TypeVar("T")
R = TypeVar("R")

#: Seconds before an item is offered again to a queue that refused it.
_PAUSE = 0.1


class WorkQueue(WorkQueueBase[T]):
    """A work queue for threads: the blocking face of :class:`penstock.WorkQueue`.

    The names and their meanings are the same; calls block the calling thread instead of being
    awaited, and any number of threads may make them at once. Worker functions may be ``async def``:
    these run in an event loop on a background thread. Plain ones run in ``num_workers`` threads.

    The promise: an item for which ``put`` returned True is handled by a worker (or the error
    handler), or handed back in ``unprocessed``; exactly once. An item for which it returned False,
    or raised, never runs. A program that ends without ``stop()`` has everything processed first.

    Args:
        maxsize: the most items that may wait, at least 1. Items in the hands of workers do not
            count.
        timeout: seconds that a put waits for room unless it says otherwise: zero or more, or
            ``math.inf``.
        concurrency_limit: how many workers ``process``, ``batch_process`` and ``map`` start when
            they are not told, at least 1, or an :class:`penstock.AdaptiveConcurrency`, which finds
            the number out. ``None``: one.
        logger: gets state changes (INFO), refusals (WARNING, at most one a second) and errors of
            worker functions that have no handler; ``logging.getLogger("penstock")`` by default.
        name: what the queue is called in logs and telemetry. Queues of one name add up there.
        queue: an asynchronous queue to use, one on a broker for example, instead of one in this
            process. It has its own maxsize, timeout, logger, name and telemetry.
        telemetry: where its spans and metrics go, and which; by default OpenTelemetry's global
            providers, and all.
        limits: how fast calls may start: a list of :class:`penstock.Limit`, or a
            :class:`penstock.Limiter` that others share.
        retry: what happens to an item that failed: a :class:`penstock.RetryPolicy`. ``None``: it
            goes to the error handler at once.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        deadline: seconds from its put in which each item is to be done; one that cannot be in time
            any more is not attempted, and fails with ``DeadlineExceededError``. ``None``: none.
        max_dead_letters: how many of the items that failed for good are kept, zero or more. With
            any of these rules, a worker function that raises ``RateLimitError(retry_after=...)``
            holds up all workers for so long.
        loop_thread: the event loop thread to use, which several queues can share; by default one
            of its own, from ``start()`` to ``stop()``.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.
        RuntimeError: gevent has patched ``threading``, so there are no threads.

    Calls that block raise ``QueueStateError`` where they could never return: in a running event
    loop, in a forked child of the process that made the queue, and some in a worker of the queue.
    ``put_nowait`` is allowed everywhere else. Ctrl-C gets out of every call. A queue that is
    garbage-collected unstopped warns (``ResourceWarning``), processes what it has accepted, and
    ends its thread.
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
        limits: Iterable[Limit] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        max_dead_letters: int = MAX_DEAD_LETTERS,
        telemetry: Telemetry | None = None,
        loop_thread: LoopThread | None = None,
    ) -> None:
        _refuse_gevent()
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
            "max_dead_letters": max_dead_letters,
        }
        self._blocking: BlockingQueue[T] | QueueOnLoop
        if self._set_up(concurrency_limit, queue, settings):
            self.queue = self._blocking = BlockingQueue(**settings, loop_thread=loop_thread)
        else:
            self._blocking = QueueOnLoop(self.queue, loop_thread)
        self._signal_stop: SignalStop | None = None

    # -- lifecycle ----------------------------------------------------------------------------

    def start(self) -> None:
        """Take items from now on; what was left by a stop comes first.

        Does nothing if the queue is processing. Waits for a stop under way. Takes about a
        millisecond, in which the event loop thread starts.

        Raises:
            QueueStateError: in a running event loop, a worker function or a forked child.
        """
        self._blocking.start()

    def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, finish what was accepted, end the workers.

        Args:
            timeout: seconds for the workers to finish; then they are cancelled. ``None`` or
                ``math.inf``: as long as it takes. ``0``: cancel at once.
            drain: have the workers process all that waits. With False, or without workers, what
                waits stays, and the workers finish what they hold.

        Returns:
            True when nothing was left. False when something was: ``unprocessed`` lists it, and
            the next ``start()`` takes it up again. Nothing is dropped.

        Raises:
            QueueStateError: called in a worker function, which would wait for itself, in a running
                event loop, or in a forked child; or the event loop thread has died.
            ValueError: the timeout is negative, NaN or no number.

        Any number of threads may call it; the shorter timeout counts. Puts and gets that wait get
        ``QueueStateError``. Ctrl-C in here cancels the workers. A plain function that is stuck in
        its thread cannot be cancelled: its item is in ``unprocessed``, its future fails, and the
        log says that it may still be running. An async one that ignores its cancellation is waited
        for one second more, and one that blocks its event loop is left behind, loop and all.
        """
        try:
            return self._blocking.stop(timeout, drain=drain)
        finally:
            self._release_signals_if_stopped()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted item is done.

        Args:
            timeout: seconds. ``None`` or ``math.inf``: as long as it takes.

        Returns:
            True when all is done, False when the time is over first.

        Raises:
            QueueStateError: the queue stopped with items left; or as for :meth:`stop`.
            ValueError: the timeout is negative, NaN or no number.
        """
        try:
            return self._blocking.join(timeout)
        finally:
            self._release_signals_if_stopped()

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

    def put(self, item: T, timeout: float | None = None, *, deadline: float | None = None) -> bool:
        """Offer an item; True when it is accepted, False when the queue stayed full.

        Args:
            item: anything. It will run in a copy of the calling thread's context.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            deadline: seconds from now in which the item is to be done. If its call could not end
                in time it is not made, and the item fails with ``DeadlineExceededError``.

        Raises:
            QueueStateError: the queue is not processing, or stopped while the put waited; the call
                comes from a running event loop or a forked child; a worker function of this queue
                would wait without a limit.
            ValueError: the timeout is negative, NaN or no number.

        Decides in the calling thread: where there is room it waits for nobody. False says that the
        item is not accepted and never will be; ``backpressure_events`` counts it. Puts that wait
        are served first come, first served. Ctrl-C in a put that waits leaves nothing behind,
        unless a worker has the item already in that very instant; then it is processed and counted.
        """
        return self._blocking.put(item, timeout, deadline=deadline)

    def put_nowait(self, item: T, *, deadline: float | None = None) -> None:
        """Like ``put(item, timeout=0)``, but raises ``QueueFullError`` instead of returning False.

        Allowed in a running event loop and in worker functions.

        Args:
            item, deadline: as for :meth:`put`.

        Raises:
            QueueFullError: there is no room.
            QueueStateError: the queue is not processing, or this is a forked child.
            ValueError: the deadline is negative, NaN or no number; or a limit can never let the
                item pass.
        """
        self._blocking.put_nowait(item, deadline=deadline)

    def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest. Call ``task_done()`` when it is done.

        Args:
            timeout: seconds to wait for an item. ``None`` or ``math.inf``: as long as it takes.
                ``0``: do not wait.

        Raises:
            QueueEmptyError: no item came in time.
            QueueStateError: the queue is not processing, or stopped while the get waited; the call
                comes from a running event loop or a forked child.
            ValueError: the timeout is negative, NaN or no number.
        """
        item: T = self._blocking.get(timeout)
        return item

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``."""
        item: T = self._blocking.get_nowait()
        return item

    def task_done(self) -> None:
        """An item that was taken with ``get`` is done.

        Raises:
            ValueError: every item that was taken is done already.
        """
        self._blocking.task_done()

    # -- workers ------------------------------------------------------------------------------

    def process(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be.

        Args:
            worker_func: takes an item; ``async def``, or a plain function, which runs in one of
                ``num_workers`` threads. It runs in the context of the item's put.
            num_workers: at least 1. ``None``: ``concurrency_limit``, or else one.
            error_handler: called with the exception and the item when ``worker_func`` raised;
                ``async def`` ones run in the event loop, plain ones where ``worker_func`` ran.
                Without one the exception is logged.

        Raises:
            QueueStateError: the queue is stopping; or a running event loop or forked child calls.
            ValueError, TypeError: for an argument that is not allowed.

        Called again, it replaces the workers: the old ones finish what they hold. No exception out
        of an item ends a worker, not even ``SystemExit`` or ``KeyboardInterrupt``.
        """
        self._blocking.start_workers(
            worker_func=worker_func,
            num_workers=self._workers_wanted(num_workers),
            error_handler=error_handler,
        )

    def batch_process(
        self,
        items: Iterable[T],
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency | None = None,
        error_handler: ErrorHandler[T] | None = None,
        *,
        progress: bool = False,
    ) -> None:
        """Process all ``items`` and return when the last one is done.

        Args:
            items: read lazily, in the calling thread: at most one more than ``maxsize`` waits.
            worker_func, num_workers, error_handler: as for :meth:`process`.
            progress: show a bar on standard error, with ``penstock[progress]``.

        Raises:
            QueueStateError: the queue was stopped before all was done, or is stopping.
            ImportError: ``progress`` without the extra.
            ValueError, TypeError: for an argument that is not allowed.

        Starts the queue, and stops it at the end. On a queue that runs already it replaces the
        workers, waits by ``join()``, and leaves queue and workers running. If ``items`` raises, or
        at Ctrl-C, a queue that it started is stopped without draining, and what was accepted and
        not done is in ``unprocessed``.
        """
        workers = self._check_blocking_job(items, worker_func, num_workers)
        checks.optional_function(error_handler, "error_handler", "exc", "item")
        began_with = self.metrics["processed"]
        with progress_bar(progress, items, failures_count=not self._retries) as bar:
            func = worker_func if bar is None else bar.wrap(worker_func)
            with self._running():
                self.process(func, workers, error_handler)
                for item in items:
                    while not self.put(item, timeout=math.inf):
                        time.sleep(_PAUSE)  # another kind of queue may refuse all the same
                self.join()
                if bar is not None:
                    bar.finish(self.metrics["processed"] - began_with)

    def _check_blocking_job(
        self, items: Any, worker_func: Any, num_workers: Any
    ) -> int | AdaptiveConcurrency:
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an iterable, got {checks.shown(items)}")
        return self._check_job(items, worker_func, num_workers)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Start the queue and stop it, unless it runs already."""
        if self.queue.status == QueueStatus.PROCESSING:
            yield
            return
        self.start()
        try:
            yield
        except BaseException:
            self.stop(timeout=0, drain=False)
            raise
        self.stop()

    # -- results ------------------------------------------------------------------------------

    def redrive(self, timeout: float | None = None) -> int:
        """Put the items of ``dead_letters`` back, the oldest first, as if they were new.

        Args:
            timeout: seconds that each may wait for room, as in :meth:`put`.

        Returns:
            How many were put. At the first that finds no room it ends; that one and those after it
            are still in ``dead_letters``.

        Raises:
            QueueStateError, ValueError: as for :meth:`put`; no item is lost.
        """
        self._with("redrive")
        return self._blocking.redrive(timeout)

    def submit(
        self, item: T, *, timeout: float | None = None, deadline: float | None = None
    ) -> Result:
        """Put an item and return a future of what the worker function makes of it.

        The future is a ``concurrent.futures.Future``. An exception of the worker function goes
        there and not to the error handler. Cancelling the future of an item that still waits skips
        the item when its turn comes; that of one that runs already cannot be cancelled. If the
        queue stops before the item is done, the future raises ``QueueStateError`` and the item is
        in ``unprocessed``.

        Raises:
            QueueFullError: there was no room in time.
            QueueStateError, ValueError: as for :meth:`put`.
            TypeError: the queue is not one in this process.
        """
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "submit")
        return queue.submit(item, timeout=timeout, deadline=deadline)

    @overload
    def map(
        self,
        worker_func: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
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
        return_exceptions: bool,
    ) -> Generator[R | BaseException, None, None]: ...
    def map(
        self,
        worker_func: Callable[[T], Any],
        items: Iterable[T],
        *,
        num_workers: int | AdaptiveConcurrency | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Generator[Any, None, None]:
        """Iterate over the results of ``worker_func`` on each item.

        Args:
            worker_func: ``async def`` or a plain function.
            items: read lazily, in the thread that iterates, between one result and the next.
            num_workers: how many workers to start, as for :meth:`process`. On a queue that has
                workers already these do the work, and this must be left out.
            ordered: results in the order of the items; else as they come.
            return_exceptions: yield what ``worker_func`` raises; else raise it, which ends all.

        Raises:
            QueueStateError: in the iteration, if the queue is stopped before all is done.
            ValueError, TypeError: at the call, for an argument that is not allowed.

        Bounded at both ends: at most ``maxsize`` plus the number of workers items are read whose
        results have not been, so a slow reader slows down the reading of ``items``.

        At its end, however it comes, it stops what it started: its workers, and the queue unless
        it ran before. Items that still wait are skipped then.
        """
        workers = self._check_blocking_job(items, worker_func, num_workers)
        queue: BlockingQueue[T] = self._in_process(BlockingQueue, "map")
        if num_workers is not None and queue.worker_count:
            raise ValueError(
                f"num_workers={num_workers} cannot apply: {queue.worker_count} workers run on this "
                "queue already and will do the work; leave it out"
            )
        return self._map(queue, worker_func, items, workers, ordered, return_exceptions)

    def _map(
        self,
        queue: BlockingQueue[T],
        worker_func: Callable[[T], Any],
        items: Iterable[T],
        workers: int | AdaptiveConcurrency,
        ordered: bool,
        return_exceptions: bool,
    ) -> Generator[Any, None, None]:
        with self._running():
            for future in results_of(queue, worker_func, items, workers, ordered):
                error = future.exception()
                if error is None:
                    yield future.result()
                elif return_exceptions and not isinstance(error, NotProcessedError):
                    yield error
                else:
                    raise error

    # -- signals ------------------------------------------------------------------------------

    def stop_on_signals(self, *signals: int, timeout: float | None = None) -> None:
        """Stop and drain on the first of ``signals``, cancel the workers on the second.

        Args:
            signals: SIGTERM and SIGINT if none are given.
            timeout: seconds for draining, as for :meth:`stop`.

        Raises:
            ValueError: called outside the main thread; or one of ``signals`` is no signal, or
                ``timeout`` no such number.

        Opt-in, and until the queue stops: then the handlers that were there before come back.
        Puts that wait get ``QueueStateError``, ``join()`` returns when all is drained, and your
        main function goes on from there.
        """
        limit = checks.optional_seconds(timeout)
        check_signals(signals)
        self._release_signals()
        self._signal_stop = SignalStop(
            signals or (signal.SIGTERM, signal.SIGINT),
            first=lambda: self.stop(timeout=limit),
            second=lambda: self.stop(timeout=0),
        )

    def _release_signals_if_stopped(self) -> None:
        if self.queue.status == QueueStatus.STOPPED:
            self._release_signals()

    def _release_signals(self) -> None:
        if self._signal_stop is not None and self._signal_stop.release():
            self._signal_stop = None

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be sent to another process: it has threads and a lock here. Make a "
            "queue there, or use one on a broker"
        )


def _refuse_gevent() -> None:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise RuntimeError(
            "penstock.sync needs real threads, and gevent.monkey has patched the module threading: "
            "do not patch it (gevent.monkey.patch_all(thread=False)), or use gevent's own queues"
        )
