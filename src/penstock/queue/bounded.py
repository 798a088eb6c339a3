"""BoundedQueue: a bounded queue with backpressure, workers and a lifecycle, in one event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from asyncio import _get_running_loop
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, TypeVar

from penstock._util import checks
from penstock._util.hooks import drain_at_exit
from penstock._util.lifecycle import Lifecycle
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.policies.dead_letters import MAX_DEAD_LETTERS
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy
from penstock.queue.base import WARNING_INTERVAL
from penstock.queue.batch_buffer import BatchBuffer
from penstock.queue.buffer import Buffer
from penstock.queue.counters import QueueCounters
from penstock.queue.entry_buffer import EntryBuffer
from penstock.queue.in_process import InProcessQueue
from penstock.queue.ordered_buffer import OrderedBatchBuffer, make_buffer
from penstock.queue.orders import Order
from penstock.queue.status import QueueStatistics, QueueStatus
from penstock.queue.stream import Consumable
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc
from penstock.workers.inside import Caller
from penstock.workers.pool import WorkerPool

__all__ = ["BoundedQueue", "QueueStatistics", "QueueStatus"]

T = TypeVar("T")

# Timeouts of these types need no long look.
_PLAIN_NUMBERS = (int, float)


class Submitted(asyncio.Future[Any]):
    """The future of an item that was submitted.

    While an item of the same queue awaits it, its worker does nothing, and one more worker is
    there.
    """

    def __init__(self, pool: WorkerPool[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._pool = pool
        self._is_awaited = False

    def __await__(self) -> Generator[Any, None, Any]:
        self._is_awaited = True
        try:
            if self.done() or not self._pool.is_inside:
                return (yield from super().__await__())
            with self._pool.one_more_worker():
                return (yield from super().__await__())
        finally:
            self._is_awaited = False

    __iter__ = __await__

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        """Have ``fn`` called when it is done. That is how ``asyncio.gather`` waits, too."""
        super().add_done_callback(fn, context=context)
        if not self._is_awaited and not self.done():
            self._pool.watch(self)


class BoundedQueue(Lifecycle, Consumable[T], InProcessQueue[T]):
    """A bounded queue with backpressure, workers and an explicit lifecycle, for one event loop.

    The promise: an item for which ``put`` returned True is processed by a worker (or the error
    handler), or returned in ``unprocessed``; exactly once, in one process. An item for which
    ``put`` returned False, or raised, never runs.

    Args:
        maxsize: the largest number of items that may wait, at least 1. Items that workers process
            do not count. Items that cancelled workers return do not count either.
        timeout: seconds that a put without its own timeout waits for room: zero or more, or
            ``math.inf``.
        logger: gets state changes (INFO), refusals (WARNING, at most one a second) and errors of
            worker functions that have no handler; ``logging.getLogger("penstock")`` by default.
        name: its name in logs and telemetry. Queues with the same name add up there.
        telemetry: a :class:`penstock.telemetry.Telemetry`, which says where its spans and metrics
            go, and which; by default all, to OpenTelemetry's global providers.
        policy: a :class:`penstock.Policy`: limits, retries and so on for all items.
        max_dead_letters: how many items that failed for good are kept, zero or more, if the
            policy has retries.
        order: which item is next: a :class:`penstock.Priorities` or a
            :class:`penstock.FairShares`. ``None``: first come, first served.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    The queue may be created anywhere. It belongs to the event loop in which it is started: in
    another loop or thread, every call raises ``QueueStateError``, and only its properties can be
    read. To share a queue between threads, use ``penstock.sync``.
    """

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = MAX_DEAD_LETTERS,
        order: Order | None = None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name, telemetry, policy, max_dead_letters, order)
        # The calls of items inside of which puts wait for room as long as it takes.
        self._calls_that_put = self._pool.waiting_calls()
        self._warning_muted = False
        self._unmute_timer: asyncio.TimerHandle | None = None

    def _make_parts(
        self, order: Order | None
    ) -> tuple[EntryBuffer[T], QueueCounters, WorkerPool[T]]:
        buffer: Buffer[T] = make_buffer(self._maxsize, order)
        self._entries = buffer.entries
        counters = QueueCounters(buffer)
        return buffer, counters, WorkerPool(buffer, counters, self._name, self._logger)

    def _use_batches(self) -> None:
        buffer: Any = self._buffer
        if not isinstance(buffer, BatchBuffer):
            buffer.__class__ = BatchBuffer if buffer.ranks is None else OrderedBatchBuffer
            buffer.counters = self._counters
            buffer.know_batches()

    # -- putting ------------------------------------------------------------------------------

    async def put(
        self,
        item: T,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
    ) -> bool:
        """Offer an item; True when it is accepted, False when the queue stayed full.

        Pass ``priority`` and ``deadline`` by keyword.

        Args:
            item: anything. It will run in a copy of the caller's context.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            priority: a number, lower is sooner, for a queue with ``order=Priorities()``.
            deadline: seconds from now in which the item is to be done. If its call could not end
                in time it is not made, and the item fails with ``DeadlineExceededError``.

        Raises:
            QueueStateError: the queue is not processing, or stopped while the put waited; a
                ``QueueClosedError`` if it is closed.
            ValueError: the timeout or deadline is negative, NaN or no number; the priority is NaN;
                or a limit can never let the item pass.
            TypeError: the priority is no number, or the queue's order takes none.
            Exception: what a function of the queue's order raised; the item is not in the queue.

        False says that the item is not accepted and never will be; ``backpressure_events``
        counts it. Puts that wait are served first come, first served, or in the queue's order. If
        the put is cancelled and raises ``CancelledError``, the item is not in the queue and never
        runs.

        A worker function that puts into its own queue waits for a worker to take something. If all
        of them wait like that, each waits out its timeout and gets False; with ``math.inf`` the
        last of them gets ``QueueStateError``.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        if timeout is None:
            timeout = self._timeout
        elif type(timeout) not in _PLAIN_NUMBERS or not timeout >= 0:
            timeout = checks.seconds(timeout)
        if self._needs_slow_path() or deadline is not None:
            ticket = self._new_ticket(item, deadline)
            if priority:
                ticket.priority = self._checked_priority(priority)
            if not ticket.is_observed and self._buffer.offer(item, ticket):
                return True  # with no coroutine in between: most items under a policy
            return await self._put_with(ticket, item, timeout)
        if priority:
            ranks = self._buffer.ranks
            if type(priority) is not int or ranks is None or not ranks.takes_priority:
                priority = self._checked_priority(priority)
            offered = self._buffer.offer(item, None, None, priority)
            return offered or await self._put_slow(item, timeout, priority=priority)
        if not timeout and len(self._entries) >= self._maxsize:  # a refusal is to cost nothing
            self._counters.full += 1
            if not self._warning_muted:
                self._warn_full()
            return False
        if self._buffer.offer(item):
            return True
        return await self._wait_for_room(item, timeout)

    def put_nowait(self, item: T, priority: float = 0, deadline: float | None = None) -> None:
        """Like ``put(item, timeout=0)``, but raises ``QueueFullError`` instead of returning False.

        Pass ``priority`` and ``deadline`` by keyword.

        Args:
            item, priority, deadline: as for :meth:`put`.

        Raises:
            QueueFullError: there is no room.
            QueueStateError, TypeError, ValueError: as :meth:`put`.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        self._put_nowait(item, deadline, priority)

    async def put_many(
        self, items: Collection[T], timeout: float | None = None, *, priority: float = 0
    ) -> int:
        """Put ``items`` in their order; return how many were accepted, from the front.

        Args:
            items: a list or another collection. An iterator is refused: what it gave away and was
                not accepted would be lost.
            timeout: seconds to wait for room, all items together. ``None``: the queue's own
                timeout. ``0``: do not wait. ``math.inf``: as long as it takes.
            priority: that of all of them, as in :meth:`put`.

        Raises:
            QueueStateError, ValueError: as :meth:`put`, about the first item. If some were accepted
                before, their number is returned, and the next call with the rest raises.
            TypeError: ``items`` is no collection; or as :meth:`put`.

        ``items[count:]`` were not accepted. At the first that finds no room it ends, which counts
        once in ``backpressure_events``. If it is cancelled, what was accepted until then stays.
        Each item is a put of its own: other puts may come in between, and it costs less than
        ``put``.
        """
        return await self._put_many(items, timeout, priority)

    async def redrive(self, timeout: float | None = None) -> int:
        """Put the items of ``dead_letters`` back, the oldest first, as if they were new.

        Args:
            timeout: seconds that each may wait for room, as in :meth:`put`.

        Returns:
            How many were put. At the first that finds no room it ends; that one and those after it
            are still in ``dead_letters``.

        Raises:
            QueueStateError, ValueError: as in :meth:`put`; no item is lost.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        return await self._redrive(timeout)

    async def submit(
        self,
        item: T,
        *,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
        call: AsyncCall[T] | None = None,
    ) -> asyncio.Future[Any]:
        """Put an item and return a future of what the worker function makes of it.

        Args:
            item: as in :meth:`put`.
            timeout, priority, deadline: as in :meth:`put`.
            call: an async function to call in place of the workers' own, for this item alone.

        Raises:
            QueueFullError: the queue stayed full.
            QueueStateError, TypeError, ValueError: as in :meth:`put`.

        An exception of the worker function goes to the future and not to the error handler.
        If the future is cancelled while the item waits, the item is skipped when its turn comes. If
        the item is running, it continues and its result is dropped; :meth:`cancel` ends it. If the
        queue stops before the item is done, the future raises ``QueueStateError`` and the item is
        in ``unprocessed``.

        A worker function may submit to its own queue and await the future: the queue has one more
        worker in that time. If it waits with ``asyncio.gather`` or ``asyncio.wait``, the queue
        cannot be certain of this, and has one more worker only if all workers may wait like this.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        timeout = self._timeout if timeout is None else checks.seconds(timeout)
        if call is not None:
            checks.plain_callable(call, "call")
        future = Submitted(self._pool, asyncio.get_running_loop())
        await self._submit(item, timeout, deadline, future, call, priority)
        return future

    @contextmanager
    def _waiting_as_worker(self, worker: Caller) -> Iterator[None]:
        call = worker.call or worker
        try:
            count = self._calls_that_put.add(call)
            if count >= self._pool.count and not self._is_taken_by_hand:
                raise self._none_would_make_room()
            yield
        finally:
            self._calls_that_put.remove(call)

    def _warn_full(self) -> None:
        if self._warning_muted:
            return
        self._log_full()
        assert self._loop is not None
        # A timer and a flag, because a look at the clock would double the cost of a refusal.
        self._warning_muted = True
        self._unmute_timer = self._loop.call_later(WARNING_INTERVAL, self._unmute_warning)

    def _unmute_warning(self) -> None:
        self._warning_muted = False
        if self._unmute_timer is not None:
            self._unmute_timer.cancel()
            self._unmute_timer = None

    # -- taking, without workers --------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest. Call ``task_done()`` when it is done.

        Args:
            timeout: seconds to wait for an item. ``None`` or ``math.inf``: as long as it takes.
                ``0``: do not wait.

        Raises:
            QueueEmptyError: no item came in time.
            QueueClosedError: the queue is closed, and nothing is left to be taken.
            QueueStateError: the queue is not processing, or stopped while the get waited.
            ValueError: the timeout is negative, NaN or no number.

        Cancelling a get loses nothing.
        """
        return self._check_out(await self._take(timeout))

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``, without ``await``.

        Raises:
            QueueEmptyError: no item waits.
            QueueStateError: the queue is not processing.
        """
        return self._check_out(self._take_nowait())

    def task_done(self) -> None:
        """Say that an item taken with ``get`` is done.

        Raises:
            ValueError: every item that was taken is done already.
        """
        if self._loop is not None:
            self._check_loop("call task_done()")
        self._task_done()

    def _consumed(self) -> InProcessQueue[T]:
        return self

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    # -- workers ------------------------------------------------------------------------------

    async def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be.

        Args:
            worker_func: takes an item; ``async def``, or a plain function, which runs in one of
                ``num_workers`` threads. It runs in the context of the item's put.
            num_workers: at least 1; or an ``AdaptiveConcurrency``, which adapts the number.
            error_handler: called with the exception and the item when ``worker_func`` raised,
                after the item was counted in ``errors``; ``async def`` or a plain function, which
                runs on the loop. Without one the exception is logged. Also gets a
                ``CancelledError`` that the function raised itself.

        Raises:
            QueueStateError: the queue is stopping.
            ValueError, TypeError: for an argument that is not allowed.

        A second call replaces the workers at once: the old ones finish their items and take no
        more. Until then, more than ``num_workers`` items can be in hand.

        Of the exceptions of an item, only ``KeyboardInterrupt`` and ``SystemExit`` end a worker:
        they end the program, as always in asyncio.
        """
        size = self.check_workers(worker_func, num_workers, error_handler)
        await self._start_workers(worker_func, size, error_handler)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers finish their items, and end the workers; the queue continues.

        Args:
            timeout: seconds after which they are cancelled and their items returned. ``None``
                or ``math.inf``: never. ``0``: at once.

        Raises:
            QueueStateError: called from inside a worker function.
            ValueError: the timeout is negative, NaN or no number.

        Cancelling this call cancels the workers at once.
        """
        await self._stop_workers(checks.optional_seconds(timeout))

    # -- lifecycle ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Take items from now on, in the running event loop; what was left by a stop comes first.

        Does nothing if the queue is processing, but opens it again if it was closed. Waits for a
        stop under way.

        Raises:
            QueueStateError: the queue runs in another event loop.
        """
        await self._open()

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Accept no more items, finish the accepted items, end the workers.

        Args:
            timeout: seconds for the workers to finish; then they are cancelled. ``None`` or
                ``math.inf``: as long as it takes. ``0``: cancel at once.
            drain: let the workers process all items that wait. With False, or without workers,
                items that wait stay, and the workers finish the items in hand.

        Returns:
            True if no item is left. False if items are left: ``unprocessed`` lists them, and
            the next ``start()`` continues with them. No item is dropped.

        Raises:
            QueueStateError: called from inside a worker function, which would wait for itself.
                There, use ``asyncio.create_task(queue.stop())``.
            ValueError: the timeout is negative, NaN or no number.

        Puts and gets that wait get ``QueueStateError``. A second stop waits for the running one;
        the shorter timeout counts. If a stop is cancelled, the workers are cancelled, and the queue
        is stopped when ``CancelledError`` is raised. For a worker function that ignores its
        cancellation, the stop waits one second more; then its item is in ``unprocessed``. A plain
        function cannot be cancelled, and may continue in its thread.
        """
        return await self._stop(checks.optional_seconds(timeout), drain)

    async def join(self) -> None:
        """Wait until every accepted item is done.

        Raises:
            QueueStateError: the queue stopped with items left; or the call comes from inside a
                worker function, which would wait for itself.
        """
        await self._join()

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending() and hasattr(self, "_observer"):  # it was made
            self._warn_unfinished()

    def _join_at_exit(self) -> bool:
        """The interpreter ends: there is no event loop that could process anything."""
        return False

    def _stop_at_exit(self) -> None:
        """The interpreter ends: tell of the items that are not done."""
        with suppress(ResourceWarning):  # where warnings are errors, nobody is there to catch it
            self._warn_unfinished()

    def _warn_unfinished(self) -> None:
        """Nobody will stop the queue any more."""
        unfinished = self._counters.unfinished
        if self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING) and unfinished:
            message = f"{self!r} was not stopped: {unfinished} accepted items are not done"
            self._logger.error(message)
            warnings.warn(message, ResourceWarning, source=self, stacklevel=3)

    def _set_status(self, status: QueueStatus) -> None:
        if status is QueueStatus.PROCESSING:
            drain_at_exit(self)
        if status is QueueStatus.STOPPED:
            self._unmute_warning()
        super()._set_status(status)
