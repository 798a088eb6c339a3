"""BoundedQueue: the bound, the lifecycle and the accounts of one queue in one event loop."""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from penstock import _checks
from penstock.accounts import Accounts
from penstock.buffer import Buffer, Outcome
from penstock.calls import AsyncCall, Entry, ErrorHandler, Ticket, WorkerFunc
from penstock.errors import QueueEmptyError, QueueFullError, QueueStateError
from penstock.telemetry.api import Telemetry, default_telemetry
from penstock.telemetry.spans import PutObservation
from penstock.workers import WorkerPool

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

#: Seconds between two warnings about backpressure from one queue.
WARN_EVERY = 1.0


class QueueStatus(str, Enum):
    """What a queue is doing. A member equals its value: ``QueueStatus.IDLE == "idle"``."""

    #: Made, not started. Nothing can be put or taken.
    IDLE = "idle"
    #: Started. Items go in and out.
    PROCESSING = "processing"
    #: ``stop()`` is under way: nothing goes in; workers finish what was accepted.
    STOPPING = "stopping"
    #: Stopped. What is left is in ``unprocessed``, and ``start()`` takes it up again.
    STOPPED = "stopped"


@dataclass(frozen=True)
class QueueStatistics:
    """Everything that can be counted about a queue, at one instant."""

    name: str
    status: QueueStatus
    #: Items that wait, and the most that may.
    size: int
    maxsize: int
    #: The most that ever waited at once.
    peak_size: int
    #: Items accepted, and how many of these are done, well or badly.
    enqueued: int
    processed: int
    #: Failures of worker functions.
    errors: int
    #: Puts refused for want of room, and puts that had to wait, whatever became of them.
    backpressure_events: int
    put_waits: int
    #: Items in the hands of workers or of callers of ``get``.
    inflight: int
    #: Items accepted and not done: waiting, given back by cancelled workers, or in flight.
    unfinished: int
    worker_count: int
    #: Puts that wait for room right now.
    waiting_putters: int


# What stands in for the loop of a queue that takes nothing, so that one comparison in put()
# tells both the state and the loop. No running loop is ever equal to it.
_CLOSED: Any = object()
# Timeouts of these types need no long look.
_PLAIN_NUMBERS = (int, float)
# Thirty years of seconds: as good as no limit, and an int beyond a float's range is more than that.
_LONG = 1e9


class BoundedQueue(Generic[T]):
    """A bounded queue with backpressure, workers and an explicit lifecycle, for one event loop.

    The promise: an item for which ``put`` returned True is handled by a worker (or the error
    handler), or handed back in ``unprocessed``; exactly once, in one process. An item for which
    it returned False, or raised, never runs.

    Args:
        maxsize: the most items that may wait, at least 1. Items in the hands of workers do not
            count. What cancelled workers give back does not count either: it never waited twice.
        timeout: seconds that a put waits for room unless it says otherwise: zero or more, or
            ``math.inf``.
        logger: gets state changes (INFO), refusals (WARNING, at most one a second) and errors of
            worker functions that have no handler; ``logging.getLogger("penstock")`` by default.
        name: what the queue is called in logs and telemetry. Queues of one name add up there.
        telemetry: where its spans and metrics go, and which; by default OpenTelemetry's global
            providers, and all.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    The queue is made anywhere and belongs to the event loop in which it is started. Everything
    but reading its properties must happen there: another loop or thread gets a
    ``QueueStateError``. To share a queue between threads, use ``penstock.sync``.
    """

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        name: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._maxsize = _checks.positive_int(maxsize, "maxsize", "Queue maxsize must be at least 1")
        self._timeout = _checks.seconds(timeout)
        _checks.logger(logger)
        self._logger = logging.getLogger("penstock") if logger is None else logger
        self._name = "default" if name is None else _checks.label(name, "name")
        self._status = QueueStatus.IDLE
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open_on: Any = _CLOSED
        self._buffer: Buffer[T] = Buffer(self._maxsize)
        self._line = self._buffer.line
        self._accounts = Accounts(self._buffer)
        self._pool: WorkerPool[T] = WorkerPool(
            self._buffer, self._accounts, self._name, self._logger
        )
        if telemetry is None:
            telemetry = default_telemetry()
        elif not isinstance(telemetry, Telemetry):
            raise TypeError(f"telemetry must be a penstock.telemetry.Telemetry, got {telemetry!r}")
        self._probe = telemetry.watch(self, self._accounts.totals, self._buffer, self._maxsize)
        self._is_observed = self._probe.is_on
        self._in_callers_hands = 0
        self._stops = 0
        self._left = 0  # by the last stop
        self._is_quiet = False
        self._quiet_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<BoundedQueue {self._name!r} {self._status.value} {self.size}/{self._maxsize}>"

    # -- what it looks like: readable from anywhere -------------------------------------------

    @property
    def maxsize(self) -> int:
        """The most items that may wait."""
        return self._maxsize

    @property
    def timeout(self) -> float:
        """Seconds that a put waits for room unless it says otherwise."""
        return self._timeout

    @property
    def logger(self) -> logging.Logger:
        """Where the queue logs."""
        return self._logger

    @property
    def name(self) -> str:
        """What the queue is called in logs and telemetry."""
        return self._name

    @property
    def status(self) -> QueueStatus:
        """What the queue is doing."""
        return self._status

    @property
    def size(self) -> int:
        """How many items wait, never more than ``maxsize``."""
        return len(self._buffer)

    @property
    def is_empty(self) -> bool:
        """Whether no item waits."""
        return not len(self._buffer)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item."""
        return len(self._buffer) >= self._maxsize

    @property
    def worker_count(self) -> int:
        """How many workers take items."""
        return self._pool.count

    @property
    def unprocessed(self) -> list[T]:
        """The accepted items that are in nobody's hands, in the order of their puts.

        After ``stop()``: what was accepted and not finished. The next ``start()`` takes it up
        again, in this order. What was in the hands of cancelled workers comes first.
        """
        return [entry[1] for entry in self._buffer.snapshot() if not _is_unwanted(entry)]

    @property
    def metrics(self) -> dict[str, int]:
        """A new dict of four counts: enqueued, processed, errors, backpressure_events.

        ``enqueued`` counts accepted items. ``processed`` counts items that are done: once each,
        failed or not. ``errors`` counts failures. ``backpressure_events`` counts puts that were
        refused because the queue was full.
        """
        return {
            "enqueued": self._buffer.accepted,
            "processed": self._accounts.processed,
            "errors": self._accounts.errors,
            "backpressure_events": self._accounts.full,
        }

    def statistics(self) -> QueueStatistics:
        """Everything that can be counted about the queue, at this instant."""
        accounts, buffer = self._accounts, self._buffer
        return QueueStatistics(
            name=self._name,
            status=self._status,
            size=len(buffer),
            maxsize=self._maxsize,
            peak_size=buffer.peak,
            enqueued=buffer.accepted,
            processed=accounts.processed,
            errors=accounts.errors,
            backpressure_events=accounts.full,
            put_waits=accounts.put_waits,
            inflight=accounts.unfinished - buffer.ready,
            unfinished=accounts.unfinished,
            worker_count=self._pool.count,
            waiting_putters=buffer.putters,
        )

    # -- putting ------------------------------------------------------------------------------

    async def put(self, item: T, timeout: float | None = None) -> bool:
        """Offer an item; True when it is accepted, False when the queue stayed full.

        Args:
            item: anything. It will run in a copy of the caller's context.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.

        Raises:
            QueueStateError: the queue is not processing, or stopped while the put waited.
            ValueError: the timeout is negative, NaN or no number.

        False says that the item is not accepted and never will be; ``backpressure_events``
        counts it. Puts that wait are served first come, first served. If the put is cancelled
        and raises ``CancelledError``, the item is not in the queue and never runs.

        A worker function that puts into its own queue waits for a worker to take something: if
        all of them wait like that, each waits out its timeout and gets False, or, with
        ``math.inf``, waits for ever.
        """
        if _get_running_loop() is not self._open_on:
            self._refuse("put")
        if timeout is None:
            timeout = self._timeout
        elif type(timeout) not in _PLAIN_NUMBERS or not timeout >= 0:
            timeout = _checks.seconds(timeout)
        if self._is_observed():
            return await self._put_observed(self._probe.observe_put(), item, timeout)
        if not timeout and len(self._line) >= self._maxsize:  # a refusal is to cost nothing
            self._accounts.full += 1
            if not self._is_quiet:
                self._warn()
            return False
        if self._buffer.offer(item):
            return True
        return await self._wait_for_room(item, timeout)

    def put_nowait(self, item: T) -> None:
        """Like ``put(item, timeout=0)``, but raises ``QueueFullError`` instead of returning False.

        Raises:
            QueueFullError: there is no room.
            QueueStateError: the queue is not processing.
        """
        if _get_running_loop() is not self._open_on:
            self._refuse("put")
        if self._is_observed():
            with self._probe.observe_put() as put:
                put.accepted = accepted = self._buffer.offer(item, put.ticket, put.context)
                if not accepted:
                    put.had_to_wait()
        else:
            accepted = self._buffer.offer(item)
        if not accepted:
            self._turn_away()
            raise self._full_error()

    async def submit(
        self, item: T, *, timeout: float | None = None, call: AsyncCall[T] | None = None
    ) -> asyncio.Future[Any]:
        """Put an item and return a future of what the worker function makes of it.

        Args:
            item: as in :meth:`put`.
            timeout: as in :meth:`put`.
            call: an async function to call in place of the workers' own, for this item alone.

        Raises:
            QueueFullError: the queue stayed full.
            QueueStateError, ValueError: as in :meth:`put`.

        An exception of the worker function goes to the future and not to the error handler.
        Cancelling the future of an item that still waits skips the item when its turn comes; one
        that runs already runs on, and its result is dropped. If the queue stops before the item
        is done, the future raises ``QueueStateError`` and the item is in ``unprocessed``.
        """
        if _get_running_loop() is not self._open_on:
            self._refuse("put")
        timeout = self._timeout if timeout is None else _checks.seconds(timeout)
        if call is not None:
            _checks.plain_callable(call, "call")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._is_observed():
            put = self._probe.observe_put(future, call)
            accepted = await self._put_observed(put, item, timeout)
        else:
            ticket = Ticket(future, call)
            accepted = self._buffer.offer(item, ticket) or await self._wait_for_room(
                item, timeout, ticket
            )
        if not accepted:
            raise self._full_error()
        return future

    async def _put_observed(self, put: PutObservation, item: T, timeout: float) -> bool:
        with put:
            put.accepted = self._buffer.offer(item, put.ticket, put.context)
            if not put.accepted:
                put.had_to_wait()
                put.accepted = await self._wait_for_room(item, timeout, put.ticket, put.context)
            return put.accepted

    async def _wait_for_room(
        self,
        item: T,
        timeout: float,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> bool:
        if not timeout:
            return self._turn_away()
        accounts = self._accounts
        accounts.put_waits += 1
        limit = None if timeout > _LONG else timeout
        try:
            outcome = await self._buffer.wait_for_room(item, limit, ticket, context)
        except asyncio.CancelledError:
            accounts.cancelled += 1
            raise
        if outcome is Outcome.CLOSED:
            accounts.stopped += 1
            raise self._stopped_meanwhile("put")
        return outcome is Outcome.ACCEPTED or self._turn_away()

    def _turn_away(self) -> bool:
        """Count a put that is refused for want of room. Returns what ``put`` returns then."""
        self._accounts.full += 1
        if not self._is_quiet:
            self._warn()
        return False

    def _warn(self) -> None:
        self._logger.warning(
            "Queue %s is full: %d items wait, %d puts refused so far",
            self._name,
            self._maxsize,
            self._accounts.full,
        )
        assert self._loop is not None
        # A timer and a flag, because a look at the clock would double the cost of a refusal.
        self._is_quiet = True
        self._quiet_timer = self._loop.call_later(WARN_EVERY, self._end_quiet)

    def _end_quiet(self) -> None:
        self._is_quiet = False
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
            self._quiet_timer = None

    def _full_error(self) -> QueueFullError:
        return QueueFullError(
            f"Queue {self._name} is full: {self.size} of {self._maxsize} places are taken",
            queue_size=self.size,
            queue_capacity=self._maxsize,
        )

    # -- taking, without workers --------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest. Call ``task_done()`` when it is done.

        Args:
            timeout: seconds to wait for an item. ``None`` or ``math.inf``: as long as it takes.
                ``0``: do not wait.

        Raises:
            QueueEmptyError: no item came in time.
            QueueStateError: the queue is not processing, or stopped while the get waited.
            ValueError: the timeout is negative, NaN or no number.

        Cancelling a get loses nothing.
        """
        return self._into_callers_hands(await self._take(timeout))

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``, without ``await``.

        Raises:
            QueueEmptyError: no item waits.
            QueueStateError: the queue is not processing.
        """
        return self._into_callers_hands(self._take_nowait())

    def task_done(self) -> None:
        """Say that an item taken with ``get`` is done.

        Raises:
            ValueError: every item that was taken is done already.
        """
        if self._loop is not None:
            self._check_loop("call task_done()")
        if not self._in_callers_hands:
            raise ValueError("task_done() called more often than items were taken with get()")
        self._in_callers_hands -= 1
        self._accounts.count_finished()

    def processing(self, timeout: float | None = None) -> AbstractAsyncContextManager[T]:
        """``async with queue.processing() as item``: a ``get`` and its ``task_done``, traced.

        An exception in the block counts in ``errors`` and goes on to the caller. When the block is
        cancelled, the item is given back, as from a cancelled worker: it is the next to be taken.

        Args:
            timeout: as in :meth:`get`; so are the exceptions.
        """
        return _Processing(self, timeout)

    def _into_callers_hands(self, entry: Entry[T]) -> T:
        if entry[3] is not None:
            entry[3].taken_by_hand()
        return entry[1]

    def _settle(self, entry: Entry[T], error: BaseException | None) -> None:
        """The block in which an item was processed has ended, by ``error`` if that is one."""
        ticket = entry[3]
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self._buffer.give_back(entry)
            if self._status is QueueStatus.STOPPED:
                self._drop_unwanted()
                self._hand_back()
            return
        if error is not None:
            self._accounts.errors += 1
        if ticket is not None:
            ticket.succeed(None) if error is None else ticket.fail(error)
        self._accounts.count_finished()

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = _checks.optional_seconds(timeout)
        deadline = None
        stops = self._stops
        while True:
            try:
                return self._take_nowait()
            except QueueEmptyError:
                if limit == 0:
                    raise
            assert self._loop is not None
            if limit is not None:
                now = self._loop.time()
                deadline = now + limit if deadline is None else deadline
                limit = max(0.0, deadline - now)
            if not await self._buffer.wait(limit):
                limit = 0.0
            if self._stops != stops:
                self._buffer.wake()  # it may have been called to an entry all the same
                raise self._stopped_meanwhile("get")

    def _take_nowait(self) -> Entry[T]:
        if _get_running_loop() is not self._open_on:
            self._refuse("get")
        while (entry := self._buffer.take()) is not None:
            if _is_unwanted(entry):
                self._accounts.count_finished()
                continue
            self._in_callers_hands += 1
            self._buffer.wake()
            return entry
        raise QueueEmptyError(f"Queue {self._name} is empty")

    # -- workers ------------------------------------------------------------------------------

    async def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be.

        Args:
            worker_func: takes an item; ``async def``, or a plain function, which runs in one of
                ``num_workers`` threads. It runs in the context of the item's put.
            num_workers: at least 1.
            error_handler: called with the exception and the item when ``worker_func`` raised,
                after the item was counted in ``errors``; ``async def`` or a plain function, which
                runs on the loop. Without one the exception is logged. Also gets a
                ``CancelledError`` that the function raised of its own accord.

        Raises:
            QueueStateError: the queue is stopping.
            ValueError, TypeError: for an argument that is not allowed.

        Called again, it replaces the workers at once: the old ones finish what they hold and take
        no more, so for that long more than ``num_workers`` items can be in hand.

        Nothing but ``KeyboardInterrupt`` and ``SystemExit`` out of an item ends a worker: those
        end the program, as asyncio has it.
        """
        _checks.function(worker_func, "worker_func", "item")
        size = _checks.positive_int(
            num_workers, "num_workers", "Number of workers must be at least 1"
        )
        _checks.optional_function(error_handler, "error_handler", "exc", "item")
        self._leave_dead_loop()
        if self._status is QueueStatus.STOPPING:
            raise _state_error("start workers", self._status)
        await self.start()
        self._pool.start(worker_func, size, error_handler)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers finish what they hold, and end them; the queue goes on.

        Args:
            timeout: seconds after which they are cancelled and their items given back. ``None``
                or ``math.inf``: never. ``0``: at once.

        Raises:
            QueueStateError: called from inside a worker function.
            ValueError: the timeout is negative, NaN or no number.

        Cancelling this call cancels the workers at once.
        """
        limit = _checks.optional_seconds(timeout)
        if self._pool.is_empty:
            return
        self._check_loop("stop workers")
        self._check_not_worker("stop_workers")
        self._pool.retire()
        try:
            await self._pool.end(limit)
        finally:
            self._drop_unwanted()

    # -- lifecycle ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Take items from now on, in the running event loop; what was left by a stop comes first.

        Does nothing if the queue is processing. Waits for a stop under way.

        Raises:
            QueueStateError: the queue runs in another event loop.
        """
        loop = asyncio.get_running_loop()
        self._leave_dead_loop()
        while self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING):
            self._check_loop("start")
            if self._status is QueueStatus.PROCESSING:
                return
            self._check_not_worker("start")
            await self._pool.wait()
            self._end_stop()
        self._loop = self._open_on = loop
        self._buffer.open()
        self._set_status(QueueStatus.PROCESSING)

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
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
            QueueStateError: called from inside a worker function, which would wait for itself.
                There, use ``asyncio.create_task(queue.stop())``.
            ValueError: the timeout is negative, NaN or no number.

        Puts and gets that wait get ``QueueStateError``. A stop while another is under way joins
        it; the shorter timeout counts. Cancelling a stop cancels the workers: the queue is stopped
        when ``CancelledError`` comes out. A worker function that ignores its cancellation is
        waited for one second more and then left to itself, its item in ``unprocessed``; a plain
        function cannot be cancelled and may go on in its thread.
        """
        limit = _checks.optional_seconds(timeout)
        self._leave_dead_loop()
        if self._status is QueueStatus.IDLE:
            self._set_status(QueueStatus.STOPPED)
        if self._status is QueueStatus.STOPPED:
            return not self.unprocessed
        self._check_loop("stop")
        self._check_not_worker("stop")
        if self._status is QueueStatus.PROCESSING:
            self._open_on = _CLOSED
            self._stops += 1
            self._set_status(QueueStatus.STOPPING)
            self._buffer.close()
        if not drain:
            self._pool.retire()
        try:
            await self._pool.end(limit)
        finally:
            self._end_stop()
        return not self._left

    def _end_stop(self) -> None:
        """All workers are gone: settle what is left. (Whoever waited for them calls this.)"""
        if self._status is not QueueStatus.STOPPING or not self._pool.is_empty:
            return
        self._set_status(QueueStatus.STOPPED)
        self._drop_unwanted()
        self._hand_back()
        self._left = self._buffer.ready
        if self._left:
            self._logger.warning(
                "Queue %s stopped with %d items unprocessed", self._name, self._left
            )

    def _hand_back(self) -> None:
        """The queue is stopped: tell whoever waits for the items that are left."""
        entries = self._buffer.snapshot()
        for entry in entries:
            if entry[3] is not None:
                entry[3].fail(
                    QueueStateError(
                        "The queue stopped before the item was processed",
                        current_state=self._status.value,
                    )
                )
        if entries:
            self._accounts.dismiss()

    def _drop_unwanted(self) -> None:
        for entry in self._buffer.snapshot():
            if _is_unwanted(entry):
                self._buffer.discard(entry)
                self._accounts.count_finished()

    async def join(self) -> None:
        """Wait until every accepted item is done.

        Raises:
            QueueStateError: the queue stopped with items left; or the call comes from inside a
                worker function, which would wait for itself.
        """
        if not self._accounts.unfinished:
            return
        self._check_loop("join")
        self._check_not_worker("join")
        left = self._buffer.ready
        if (self._status is QueueStatus.STOPPED and left) or not await self._accounts.join():
            raise QueueStateError(
                f"Cannot join: the queue stopped with {self._buffer.ready} items unprocessed",
                current_state=self._status.value,
            )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and stop; after an exception, stop without draining and cancel the workers."""
        if exc_type is None:
            await self.stop()
        else:
            await self.stop(timeout=0, drain=False)

    def _set_status(self, status: QueueStatus) -> None:
        self._status = status
        if status is QueueStatus.STOPPED:
            self._end_quiet()
        self._logger.info("Queue %s is %s", self._name, status.value)

    def _leave_dead_loop(self) -> None:
        """A loop that was closed without a stop: the queue is stopped, whatever it says."""
        if (
            self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING)
            and self._loop is not None
            and self._loop.is_closed()
        ):
            self._open_on = _CLOSED
            self._stops += 1
            self._buffer.forget_waiters()
            self._pool.abandon()
            self._accounts.forget_joiners()
            self._drop_unwanted()
            for entry in self._buffer.snapshot():
                if entry[3] is not None:
                    entry[3].forget_future()
            self._set_status(QueueStatus.STOPPED)

    def _check_loop(self, what: str) -> None:
        if _get_running_loop() is not self._loop:
            raise QueueStateError(
                f"Cannot {what}: queue {self._name} belongs to another event loop or thread. "
                "To share a queue between threads, use penstock.sync.WorkQueue",
                current_state=self._status.value,
            )

    def _check_not_worker(self, what: str) -> None:
        if self._pool.owns(asyncio.current_task()):
            raise QueueStateError(
                f"Cannot call {what}() from inside a worker function: it would wait for itself. "
                f"Use asyncio.create_task(queue.{what}()) and do not await it there",
                current_state=self._status.value,
            )

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        status = self._status
        if status is QueueStatus.PROCESSING:  # it was started again since
            status = QueueStatus.STOPPING
        return _state_error(f"{verb} items", status)

    def _refuse(self, verb: str) -> NoReturn:
        if self._status is not QueueStatus.PROCESSING:
            raise _state_error(f"{verb} items", self._status)
        self._check_loop(f"{verb} items")
        raise AssertionError("a queue that is open here refused nothing")


class _Processing(Generic[T]):
    """The block of :meth:`BoundedQueue.processing`.

    Not a generator: its span is the current one in the block, and the span that a generator makes
    current before a ``yield`` cannot be put away properly after it.
    """

    def __init__(self, queue: BoundedQueue[T], timeout: float | None) -> None:
        self._queue = queue
        self._timeout = timeout

    async def __aenter__(self) -> T:
        self._entry = await self._queue._take(self._timeout)
        self._queue._in_callers_hands -= 1  # it is in ours: task_done() is not for the caller
        _, item, context, ticket = self._entry
        self._attempt = nullcontext() if ticket is None else ticket.attempt(context)
        self._attempt.__enter__()
        return item

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._attempt.__exit__(exc_type, exc, traceback)
        self._queue._settle(self._entry, exc)


def _is_unwanted(entry: Entry[Any]) -> bool:
    """Whether somebody waited for the result of this item and no longer does."""
    return entry[3] is not None and entry[3].is_unwanted


def _state_error(what: str, status: QueueStatus) -> QueueStateError:
    return QueueStateError(
        f"Cannot {what} when queue is {status.value}", current_state=status.value
    )
