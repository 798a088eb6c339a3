"""The queue of one process: its buffer, its counters, its lifecycle.

``BoundedQueue`` makes it a queue for one event loop, ``penstock.sync`` a queue for threads. These
differ in the buffer, in the counters, and in how a caller waits. The rest is here, once.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TypeVar
from weakref import WeakMethod

from penstock._util import checks
from penstock.errors import QueueEmptyError, QueueStateError
from penstock.policies.governor import DeadLetter, Rules
from penstock.queue.base import CLOSED, NO_LIMIT, QueueBase, always, policy_statistics
from penstock.queue.counters import QueueCounters
from penstock.queue.status import NotProcessedError, QueueStatistics, QueueStatus
from penstock.queue.store import EntryBuffer, PutOutcome
from penstock.telemetry.spans import ObservedPut
from penstock.telemetry.telemetry import Telemetry
from penstock.workers.calls import AsyncCall
from penstock.workers.item import AnyFuture, Entry, Ticket
from penstock.workers.pool import WorkerPool

T = TypeVar("T")

#: Seconds after the first put in which workers are to be started, or a warning is logged.
IDLE_GRACE = 1.0


class InProcessQueue(QueueBase[T]):
    """Coroutines run in the event loop of the workers, unless they say otherwise."""

    def __init__(
        self,
        maxsize: int,
        timeout: float,
        logger: logging.Logger | None,
        name: str | None,
        telemetry: Telemetry | None,
        rules: Rules | None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name)
        self._buffer, self._counters, self._pool = self._make_parts()
        self._instrument(telemetry, self._counters.totals, self._buffer)
        if rules is not None:
            self._govern(rules)
        #: How many items the last stop left.
        self._leftover = 0
        #: Whether ``get`` or the like was called: then somebody takes items.
        self._is_taken_by_hand = False

    def _make_parts(self) -> tuple[EntryBuffer[T], QueueCounters, WorkerPool[T]]:
        """Make the buffer, the counters and the worker pool."""
        raise NotImplementedError

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
        return len(self._buffer) >= self._buffer.room

    @property
    def unprocessed(self) -> list[T]:
        """The accepted items that no worker holds, in the order of their puts.

        After ``stop()``: the accepted items that were not finished, those of cancelled workers
        first. The next ``start()`` takes them up again, in this order.
        """
        return [item for _, item, _, ticket in self._buffer.snapshot() if not _is_cancelled(ticket)]

    def statistics(self) -> QueueStatistics:
        """Everything that can be counted about the queue, at this instant."""
        counters, buffer = self._counters, self._buffer
        # Each once, and in this order: workers in other threads go on counting meanwhile.
        processed = counters.all_processed
        enqueued = buffer.accepted
        unfinished = enqueued - processed
        return QueueStatistics(
            name=self._name,
            status=self._status,
            size=len(buffer),
            maxsize=self._maxsize,
            peak_size=buffer.peak,
            enqueued=enqueued,
            processed=processed,
            errors=counters.all_errors,
            backpressure_events=counters.full,
            put_waits=counters.put_waits,
            inflight=unfinished - buffer.ready,
            unfinished=unfinished,
            worker_count=self._pool.count,
            waiting_putters=buffer.putters,
            retrying=buffer.delayed,
            **policy_statistics(self._governor),
        )

    @property
    def dead_letters(self) -> list[DeadLetter[T]]:
        """The items that failed for good, with retries configured; the oldest first.

        Items with a future, those of ``submit`` and ``map``, are not among them.
        """
        return [] if self._governor is None else list(self._governor.dead_letters)

    async def _redrive(self, timeout: float | None) -> int:
        """Put the dead letters back; return how many. The first that finds no room ends it."""
        governor = self._governor
        if governor is None:
            return 0
        limit = self._timeout if timeout is None else checks.seconds(timeout)
        count = 0
        for _ in range(len(governor.dead_letters)):  # and not those that are added meanwhile
            letter = governor.dig_up()
            if letter is None:
                break
            accepted = is_hopeless = False
            try:
                accepted = await self._put_slow(letter.item, limit)
            except (ValueError, TypeError) as error:  # no limit can ever let it pass: the next one
                is_hopeless = True
                self._logger.warning("Queue %s cannot take up %r: %s", self._name, letter, error)
                continue
            finally:
                if not accepted:
                    governor.put_back(letter, as_newest=is_hopeless)
            if not accepted:
                break
            count += 1
        return count

    # -- putting: with rules, telemetry or a future; or when there is no room -------------------

    async def _put_slow(
        self,
        item: T,
        timeout: float,
        deadline: float | None = None,
        future: AnyFuture | None = None,
        call: AsyncCall[T] | None = None,
    ) -> bool:
        """Put an item that has more to it than item and context: a ticket."""
        course = self._course(item, deadline)
        if self._telemetry.is_enabled():
            put = self._telemetry.observe_put(future, call, course)
            return await self._put_observed(put, item, timeout)
        ticket = Ticket(future, call, course)
        return self._buffer.offer(item, ticket) or await self._wait_for_room(item, timeout, ticket)

    def _put_nowait(self, item: T, deadline: float | None) -> None:
        course = self._course(item, deadline)
        self._needs_slow_path()
        if self._telemetry.is_enabled():
            with self._telemetry.observe_put(course=course) as put:
                put.accepted = accepted = self._buffer.offer(item, put.ticket, put.context)
                if not accepted:
                    put.on_full()
        else:
            ticket = None if course is None else Ticket(course=course)
            accepted = self._buffer.offer(item, ticket)
        if not accepted:
            self._reject_full()
            raise self._full_error()

    async def _submit(
        self,
        item: T,
        timeout: float,
        deadline: float | None,
        future: AnyFuture,
        call: AsyncCall[T] | None,
    ) -> None:
        self._needs_slow_path()
        if not await self._put_slow(item, timeout, deadline, future, call):
            raise self._full_error()

    async def _put_observed(self, put: ObservedPut, item: T, timeout: float) -> bool:
        with put:
            put.accepted = self._buffer.offer(item, put.ticket, put.context)
            if not put.accepted:
                put.on_full()
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
            return self._reject_full()
        self._counters.add("put_waits")
        limit = None if timeout > NO_LIMIT else timeout
        try:
            outcome = await self._buffer.wait_for_room(item, limit, ticket, context)
        except BaseException:  # a cancellation, or a KeyboardInterrupt where a thread waits
            self._counters.add("cancelled")
            raise
        if outcome is PutOutcome.CLOSED:
            self._counters.add("stopped")
            raise self._stopped_meanwhile("put")
        return outcome is PutOutcome.ACCEPTED or self._reject_full()

    def _reject_full(self) -> bool:
        """Count a put that found the queue full. Return False, as ``put`` does."""
        if self._buffer.closed:  # another thread stopped the queue in the middle of the put
            self._counters.add("stopped")
            raise self._stopped_meanwhile("put")
        self._counters.add("full")
        self._warn_full()
        return False

    def _warn_full(self) -> None:
        """Log that the queue is full, unless that was logged within WARNING_INTERVAL seconds."""
        raise NotImplementedError

    # -- a queue from which nobody takes ------------------------------------------------------

    def _first_put(self) -> bool:
        """Whether a put is slow; of the first one, whether anybody takes items, too."""
        self._needs_slow_path = self._telemetry.is_enabled if self._governor is None else always
        if not self._pool.count and not self._is_taken_by_hand and self._loop is not None:
            # A timer that does not keep the queue alive.
            check = partial(_call_if_alive, WeakMethod(self._warn_idle))
            self._loop.call_soon_threadsafe(self._loop.call_later, IDLE_GRACE, check)
        return self._needs_slow_path()

    def _warn_idle(self) -> None:
        waiting = self._buffer.ready
        if (
            waiting
            and self._status is QueueStatus.PROCESSING
            and not self._pool.count
            and not self._is_taken_by_hand
        ):
            self._logger.warning(
                "Queue %s has %d items and nobody takes any: start workers with process()",
                self._name,
                waiting,
            )

    # -- taking -------------------------------------------------------------------------------

    def _check_out(self, entry: Entry[T]) -> T:
        _, item, _, ticket = entry
        if ticket is not None:
            ticket.on_get()
        return item

    def _finish_processing(self, entry: Entry[T], error: BaseException | None) -> None:
        """End a block of ``processing()``; ``error`` is what it raised, if anything."""
        _, _, _, ticket = entry
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self._buffer.requeue(entry)
            if self._status is QueueStatus.STOPPED:
                self._drop_cancelled()
                self._fail_waiters()
                self._leftover = self._buffer.ready  # the stop may not have returned yet
            return
        if error is not None:
            self._counters.add("errors")
        if ticket is not None:
            ticket.succeed(None) if error is None else ticket.fail(error)
        self._counters.count_finished()

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = checks.optional_seconds(timeout)
        deadline = None
        stops = self._stops
        self._is_taken_by_hand = True
        while True:
            try:
                return self._take_nowait()
            except QueueEmptyError:
                if limit == 0:
                    raise
            if limit is not None:
                now = self._now()
                deadline = now + limit if deadline is None else deadline
                limit = max(0.0, deadline - now)
            if not await self._buffer.wait(limit):
                limit = 0.0
            if self._stops != stops:
                self._buffer.wake()  # this task may have been woken for an entry all the same
                raise self._stopped_meanwhile("get")

    def _take_nowait(self) -> Entry[T]:
        if _get_running_loop() is not self._open_in:
            self._refuse("get")
        while (entry := self._buffer.take()) is not None:
            if _is_cancelled(entry[3]):
                self._counters.count_finished()
                continue
            self._is_taken_by_hand = True
            self._counters.get_started()
            self._buffer.wake()
            return entry
        raise QueueEmptyError(f"Queue {self._name} is empty")

    def _now(self) -> float:
        """Seconds, by the clock of the loop or thread that waits."""
        raise NotImplementedError

    def _task_done(self) -> None:
        if not self._counters.task_done():
            raise ValueError("task_done() called more often than items were taken with get()")
        self._counters.count_finished()

    # -- workers ------------------------------------------------------------------------------

    async def _stop_workers(self, limit: float | None) -> None:
        if self._pool.is_empty:
            return
        self._check_loop("stop workers")
        self._check_not_worker("stop_workers")
        self._pool.retire()
        try:
            await self._pool.end(limit)
        finally:
            self._needs_slow_path = self._first_put
            self._drop_cancelled()

    # -- lifecycle ----------------------------------------------------------------------------

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._leave_closed_loop()
        while self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING):
            self._check_loop("start")
            if self._status is QueueStatus.PROCESSING:
                return
            self._check_not_worker("start")
            await self._pool.wait()
            self._end_stop()
        self._loop = loop
        self._buffer.open()
        self._open_in = self._callers_loop(loop)
        self._needs_slow_path = self._first_put
        self._set_status(QueueStatus.PROCESSING)

    def _callers_loop(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop | None:
        """The loop that callers of put and get must run in; None: they must not run in any."""
        return loop

    async def _stop(self, limit: float | None, drain: bool) -> bool:
        self._leave_closed_loop()
        if self._status is QueueStatus.IDLE:
            self._set_status(QueueStatus.STOPPED)
        if self._status is QueueStatus.STOPPED:
            return not self.unprocessed
        self._check_loop("stop")
        self._check_not_worker("stop")
        if self._status is QueueStatus.PROCESSING:
            self._close(QueueStatus.STOPPING)
        if not drain:
            self._pool.retire()
        stops = self._stops
        try:
            await self._pool.end(
                limit, lambda: self._stops == stops and self._status is QueueStatus.STOPPING
            )
        finally:
            self._end_stop()
        return not self._leftover

    def _close(self, status: QueueStatus) -> None:
        self._open_in = CLOSED
        self._stops += 1
        self._set_status(status)
        self._buffer.close()

    def _end_stop(self) -> None:
        """Finish a stop when all workers have ended. Each caller that waited for them calls it."""
        if self._status is not QueueStatus.STOPPING or not self._pool.is_empty:
            return
        self._set_status(QueueStatus.STOPPED)
        self._buffer.end()
        self._drop_cancelled()
        self._fail_waiters()
        self._leftover = self._buffer.ready
        if self._leftover:
            self._logger.warning(
                "Queue %s stopped with %d items unprocessed", self._name, self._leftover
            )
        if self._counters.full > self._refusals_logged:
            self._refusals_logged = self._counters.full
            self._logger.warning(
                "Queue %s refused %d puts in all: it was full", self._name, self._refusals_logged
            )

    def _fail_waiters(self) -> None:
        """The queue is stopped: fail the futures of the items that are left, and the joiners."""
        entries = self._buffer.snapshot()
        for _, _, _, ticket in entries:
            # From here on it is an item without a future, like any other.
            if ticket is not None and ticket.fail(self._not_processed()):
                ticket.forget_future()
        if entries:
            self._counters.fail_joiners()

    def _not_processed(self) -> QueueStateError:
        return NotProcessedError(
            "The queue stopped before the item was processed", current_state=self._status.value
        )

    def _drop_cancelled(self) -> None:
        cancelled = [entry for entry in self._buffer.snapshot() if _is_cancelled(entry[3])]
        if cancelled:
            for _ in range(self._buffer.discard(cancelled)):
                self._counters.count_finished()

    async def _join(self) -> None:
        if not self._counters.unfinished:
            return
        self._check_loop("join")
        self._check_not_worker("join")
        left = self._buffer.ready
        if (self._status is QueueStatus.STOPPED and left) or not await self._counters.join():
            raise QueueStateError(
                f"Cannot join: the queue stopped with {self._buffer.ready} items unprocessed",
                current_state=self._status.value,
            )

    def _forget_loop(self) -> None:
        self._buffer.forget_waiters()
        self._pool.abandon()
        self._counters.forget_joiners()
        self._drop_cancelled()
        for _, _, _, ticket in self._buffer.snapshot():
            if ticket is not None:
                ticket.forget_future()


def _call_if_alive(method: WeakMethod[Callable[[], None]]) -> None:
    call = method()
    if call is not None:
        call()


def _is_cancelled(ticket: Ticket | None) -> bool:
    """Whether the future of the item was cancelled."""
    return ticket is not None and ticket.is_cancelled
