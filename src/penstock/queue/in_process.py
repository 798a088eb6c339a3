"""The queue of one process: what putting and taking are, and what can be counted.

``BoundedQueue`` makes it a queue for one event loop, ``penstock.sync`` a queue for threads. These
differ in the buffer, in the counters, and in how a caller waits. The rest is here, once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from penstock._util import checks
from penstock.errors import QueueClosedError, QueueEmptyError, QueueStateError
from penstock.policies.dead_letters import DeadLetter, check_max_dead_letters
from penstock.policies.item_state import Hold
from penstock.policies.observer import (
    CANCELLED,
    MAX_PER_KEY,
    ObservedPut,
    ObserverProvider,
    Origin,
    QueueReadings,
    outcome_of,
)
from penstock.policies.policy import Policy
from penstock.queue.base import CLOSED, NO_LIMIT, policy_statistics, utilization_of
from penstock.queue.control import QueueControl
from penstock.queue.counters import QueueCounters
from penstock.queue.entry_buffer import EntryBuffer, PutOutcome
from penstock.queue.holder import Holder
from penstock.queue.key_hold import KeyHold
from penstock.queue.lifecycle import is_cancelled
from penstock.queue.limit_hold import LimitHold
from penstock.queue.orders import Order, checked_order, checked_priority
from penstock.queue.status import QueueStatistics, QueueStatus
from penstock.workers.calls import AsyncCall
from penstock.workers.inside import Caller
from penstock.workers.item import AnyFuture, Entry, Ticket
from penstock.workers.job import Job
from penstock.workers.observed import ObservedTicket
from penstock.workers.pool import WorkerPool

T = TypeVar("T")

_NOTHING = nullcontext()


class InProcessQueue(QueueControl[T]):
    """Coroutines run in the event loop of the workers, unless they say otherwise."""

    #: Seconds in which a worker that is woken has taken an item and begun, in all likelihood.
    _grace = 0.0

    def __init__(
        self,
        maxsize: int,
        timeout: float,
        logger: logging.Logger | None,
        name: str | None,
        telemetry: ObserverProvider | None,
        policy: Policy | None,
        max_dead_letters: int,
        order: Order | None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name)
        self._buffer, self._counters, self._pool = self._make_parts(checked_order(order))
        self._observe(telemetry, self._counters.totals, self._buffer)
        self._log_failures()
        max_dead_letters = check_max_dead_letters(max_dead_letters)
        if policy is not None:
            if not isinstance(policy, Policy):
                raise TypeError(f"policy must be a Policy or None, got {checks.shown(policy)}")
            self._use(policy, max_dead_letters)
        self._leftover = 0
        self._is_taken_by_hand = False
        self._idle_timer = None
        self._takes_in = CLOSED
        self._is_closed = False
        self._ends = 0
        self._last_stop = None
        self._end_calls = set()
        self._left_items: deque[Callable[[], None]] = deque()
        self._is_of_jobs = False

    def _use(self, policy: Policy, max_dead_letters: int) -> None:
        super()._use(policy, max_dead_letters)
        hold = None if self._scope is None else self._scope.hold
        assert isinstance(hold, Holder)
        if self._buffer.limits is not hold:
            hold.loop = self._buffer.limits.loop
            hold.is_paused = self._buffer.limits.is_paused
            self._buffer.limits = hold

    def _limit_hold(self, policy: Policy) -> Hold:
        kind = KeyHold if policy._has_gate_keys else LimitHold
        return kind(policy.limits, self._buffer, self._grace)

    def _make_parts(
        self, order: Order | None
    ) -> tuple[EntryBuffer[T], QueueCounters, WorkerPool[T]]:
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
            is_paused=self.is_paused,
            waiting_by_key=buffer.waiting_by_key,
            **policy_statistics(self._policy, self._scope, self._pool.adaptive),
        )

    def readings(self) -> QueueReadings:
        """What telemetry reads of the queue beside its statistics."""
        buffer, limits = self._buffer, self._buffer.limits
        oldest, held_up = buffer.oldest, 0
        if limits.is_held or limits.parked:
            held_up = buffer.ready if limits.is_held else len(limits.parked)
            held_up = min(held_up, max(0, self._pool.count - self.statistics().inflight))
        return QueueReadings(
            oldest=getattr(None if oldest is None else oldest[3], "observed", None),
            held_workers=held_up,
            checked_out=self._counters.checked_out,
            utilization=utilization_of(self._policy),
        )

    @property
    def dead_letters(self) -> list[DeadLetter[T]]:
        """The items that failed for good, with retries configured; the oldest first.

        Items with a future, those of ``submit`` and ``map``, are not among them.
        """
        return [] if self._scope is None else self._scope.dead_letters.snapshot()

    async def _redrive(self, timeout: float | None) -> int:
        """Put the dead letters back; return how many. The first that finds no room ends it."""
        if self._scope is None:
            return 0
        letters = self._scope.dead_letters
        limit = self._timeout if timeout is None else checks.seconds(timeout)
        count = 0
        for _ in range(len(letters)):  # and not those that are added meanwhile
            letter = letters.pop()
            if letter is None:
                break
            accepted = is_hopeless = False
            try:
                ticket = self._new_ticket(letter.item, None)
                ticket.priority = letter.priority
                accepted = await self._put_with(ticket, letter.item, limit, letter.origin)
            except (ValueError, TypeError) as error:  # no limit can ever let it pass: the next one
                is_hopeless = True
                self._logger.warning("Queue %s cannot put %r back: %s", self._name, letter, error)
                continue
            finally:
                if not accepted:
                    letters.restore(letter, as_newest=is_hopeless)
            if not accepted:
                break
            count += 1
        return count

    # -- putting: with a policy, an observer or a future; or when there is no room --------------

    async def _put_slow(
        self,
        item: T,
        timeout: float,
        deadline: float | None = None,
        future: AnyFuture | None = None,
        call: AsyncCall[T] | None = None,
        job: Job[T] | None = None,
        priority: float = 0,
    ) -> bool:
        """Put an item that has more to it than item and context: a ticket."""
        ticket = self._new_ticket(item, deadline)
        if priority:
            ticket.priority = self._checked_priority(priority)
        if future is not None:
            ticket.future, ticket.call = future, call
        if job is not None:
            ticket.job = job
        return await self._put_with(ticket, item, timeout)

    def _new_ticket(self, item: T, deadline: float | None) -> Ticket:
        """Make the ticket of an item. Raises what a policy has against the item."""
        if deadline is not None:
            deadline = checks.seconds(deadline, "deadline")
            self._some_policy()
        scope = self._scope
        ticket = ObservedTicket(scope) if self._observer.is_enabled() else Ticket(scope)
        if scope is not None:
            scope.policy.prepare(ticket, item, deadline)
        return ticket

    def _checked_priority(self, priority: Any) -> float:
        """``priority``, if the queue's order takes one.

        Raises:
            TypeError, ValueError: it does not; or the priority is no number, or NaN.
        """
        ranks = self._buffer.ranks
        if ranks is None or not ranks.takes_priority:
            cause = (
                "needs a queue with order=Priorities(), or FairShares(..., within=Priorities())"
                if ranks is None or not ranks.is_by_priority
                else "is not for a queue whose Priorities have a key, by which an item has its own"
            )
            raise TypeError(f"priority {cause}; queue {self._name} got {checks.shown(priority)}")
        return checked_priority(priority)

    async def _put_with(
        self, ticket: Ticket, item: T, timeout: float, origin: Origin | None = None
    ) -> bool:
        """Put an item that has this ticket; ``origin``: where a dead letter comes from."""
        if isinstance(ticket, ObservedTicket):
            ticket.observed = put = self._observer.on_put(origin)
            with put:
                put.accepted = self._buffer.offer(item, ticket, put.context)
                if not put.accepted:
                    self._tell_full(put)
                    put.accepted = await self._wait_for_room(item, timeout, ticket, put.context)
                return put.accepted
        return self._buffer.offer(item, ticket) or await self._wait_for_room(item, timeout, ticket)

    def _tell_full(self, put: ObservedPut) -> None:
        if self._buffer.has_room_for_others:
            put.on_full(MAX_PER_KEY)
        else:
            put.on_full()

    async def _put_many(
        self, items: Collection[T], timeout: float | None, priority: float = 0
    ) -> int:
        """Put items, each as ``put`` does; return how many were accepted before the first not."""
        checks.collection(items)
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        ends_at = self._now() + (self._timeout if timeout is None else checks.seconds(timeout))
        count = 0
        is_slow, offer = self._needs_slow_path(), self._offer_of(priority)
        try:
            for item in items:
                if not is_slow and offer(item):
                    count += 1
                    continue
                if _get_running_loop() is not self._open_in:  # it was stopped since the last one
                    self._refuse("put")
                left = max(0.0, ends_at - self._now())
                if is_slow or priority:
                    accepted = await self._put_slow(item, left, priority=priority)
                else:
                    accepted = await self._wait_for_room(item, left)
                    if _get_running_loop() is self._open_in:
                        is_slow = self._needs_slow_path()
                    else:  # the next item meets that
                        is_slow = True
                if not accepted:
                    break
                count += 1
        except Exception:
            if not count:  # else the next call meets it
                raise
        return count

    def _offer_of(self, priority: float) -> Callable[[T], bool]:
        """How to offer items of this priority that have no ticket."""
        if not priority:
            return self._buffer.offer
        priority = self._checked_priority(priority)
        return partial(self._buffer.offer, ticket=None, context=None, priority=priority)

    def _put_nowait(self, item: T, deadline: float | None, priority: float) -> None:
        if priority:
            priority = self._checked_priority(priority)
        if not self._needs_slow_path() and deadline is None:
            offer = self._buffer.offer
            accepted = offer(item, None, None, priority) if priority else offer(item)
        else:
            ticket = self._new_ticket(item, deadline)
            if priority:
                ticket.priority = priority
            if isinstance(ticket, ObservedTicket):
                with self._observer.on_put() as put:
                    ticket.observed = put
                    put.accepted = accepted = self._buffer.offer(item, ticket, put.context)
                    if not accepted:
                        self._tell_full(put)
            else:
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
        priority: float,
    ) -> None:
        self._needs_slow_path()  # it is slow in any case, and may be the first put
        accepted = await self._put_slow(item, timeout, deadline, future, call, priority=priority)
        if not accepted:
            raise self._full_error()

    async def _put_of(
        self, job: Job[T], ticket: Ticket, item: T, future: AnyFuture | None = None
    ) -> None:
        """Put an item of a job, and wait for room as long as it takes.

        ``ticket`` is that of all items of the job that have nothing more to them.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        if job.is_over:
            raise QueueStateError("Cannot put: the job has ended", current_state=self._status.value)
        if future is None and self._scope is None and not self._observer.is_enabled():
            accepted = self._buffer.offer(item, ticket) or await self._wait_for_room(
                item, math.inf, ticket
            )
        else:
            accepted = await self._put_slow(item, math.inf, future=future, job=job)
        job.accepted += accepted

    async def _wait_for_room(
        self,
        item: T,
        timeout: float,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> bool:
        if not timeout:
            return self._reject_full()
        limit = None if timeout > NO_LIMIT else timeout
        is_served = limit is not None or (ticket is not None and ticket.is_nested)
        worker = None if is_served else self._pool.worker_around()
        with _NOTHING if worker is None else self._waiting_as_worker(worker):
            self._counters.add("put_waits")
            try:
                outcome = await self._buffer.wait_for_room(item, limit, ticket, context)
            except BaseException:  # a cancellation, or a KeyboardInterrupt where a thread waits
                self._counters.add("cancelled")
                raise
        if outcome is PutOutcome.CLOSED:
            self._counters.add("stopped")
            raise self._stopped_meanwhile("put")
        return outcome is PutOutcome.ACCEPTED or self._reject_full()

    def _waiting_as_worker(self, worker: Caller) -> AbstractContextManager[None]:
        """The block in which a worker of the queue waits for room without a limit.

        Raises:
            QueueStateError: it may not, for none would make room.
        """
        raise NotImplementedError

    def _none_would_make_room(self) -> QueueStateError:
        return QueueStateError(
            f"Cannot wait for room in queue {self._name} from inside its own worker function: "
            "if all workers waited, no worker would make room. Use a timeout, put_nowait(), or "
            "another queue for the items that workers put",
            current_state=self._status.value,
        )

    def _reject_full(self) -> bool:
        """Count a put that found the queue full. Return False, as ``put`` does."""
        if self._buffer.closed:  # another thread stopped the queue in the middle of the put
            self._counters.add("stopped")
            raise self._stopped_meanwhile("put")
        self._counters.add("full")
        self._warn_full()
        return False

    def _log_full(self) -> None:
        if not self._buffer.has_room_for_others:
            super()._log_full()
            return
        self._refusals_logged = self._counters.full
        self._logger.warning(
            "Queue %s has max_per_key=%d items of a key: %d puts refused so far",
            self._name,
            self._buffer.ranks.shares.most,
            self._counters.full,
        )

    def _why_full(self) -> str:
        if self._buffer.has_room_for_others:
            return f"has max_per_key={self._buffer.ranks.shares.most} items of the item's key"
        return super()._why_full()

    def _warn_full(self) -> None:
        """Log that the queue is full, unless that was logged within WARNING_INTERVAL seconds."""
        raise NotImplementedError

    # -- taking -------------------------------------------------------------------------------

    def _check_out(self, entry: Entry[T]) -> T:
        _, item, _, ticket = entry
        if ticket is not None:
            ticket.on_get()
        return item

    def _finish_item(
        self,
        entry: Entry[T],
        attempt: AbstractContextManager[object],
        error: BaseException | None,
    ) -> None:
        """End what a consumer does with an item; ``error`` is what that raised, if anything."""
        _, _, _, ticket = entry
        if error is None:
            attempt.__exit__(None, None, None)
        else:
            attempt.__exit__(type(error), error, error.__traceback__)
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self._buffer.requeue(entry)
            if self._status is QueueStatus.STOPPED:
                self._drop_cancelled()
                self._fail_waiters()
                self._leftover = self._buffer.ready  # the stop may not have returned yet
            return
        if error is not None:
            self._counters.add("errors")
            self._counters.add_failure(outcome_of(error))
        if ticket is not None:
            ticket.succeed(None) if error is None else ticket.fail(error)
        self._counters.count_finished()

    def _finish_item_later(
        self,
        entry: Entry[T],
        attempt: AbstractContextManager[object],
        how: Callable[[], BaseException | None],
    ) -> None:
        """:meth:`_finish_item`, in the loop, where no call is interrupted. For finalisers."""
        assert self._loop is not None
        self._left_items.append(lambda: self._finish_item(entry, attempt, how()))
        try:
            self._loop.call_soon_threadsafe(self._finish_left_items)
        except RuntimeError:  # the loop is closed, so no call is under way in it
            self._finish_left_items()

    def _finish_left_items(self) -> None:
        """Finish what iterators have left behind: in the loop, or when it is closed."""
        while self._left_items:
            try:
                finish = self._left_items.popleft()
            except IndexError:  # another thread was faster
                return
            finish()

    def _leave_closed_loop(self) -> None:
        if self._loop is not None and self._loop.is_closed():
            self._finish_left_items()  # it may have taken the call and not made it
        super()._leave_closed_loop()

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = checks.optional_seconds(timeout)
        deadline = None
        stops, ends = self._stops, self._ends
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
            if not await self._wait_for_entry(limit, stops):
                limit = 0.0
            if self._stops != stops:
                self._buffer.wake()  # this task may have been woken for an entry all the same
                if self._ends != ends:  # though it may have been started again since
                    raise QueueClosedError(
                        "Cannot get items when queue is closed", current_state=self._status.value
                    )
                raise self._stopped_meanwhile("get")

    async def _wait_for_entry(self, limit: float | None, stops: int) -> bool:
        """Wait until there may be an entry to take, as the buffer does, or for the next stop.

        ``stops``: how many stops there were when the caller looked.
        """
        return await self._buffer.wait_by_hand(limit)

    def _take_nowait(self) -> Entry[T]:
        if _get_running_loop() is not self._takes_in:
            self._refuse("get")
        while (entry := self._buffer.take_by_hand()) is not None:
            if is_cancelled(entry[3]):
                self._counters.add_failure(CANCELLED)
                self._counters.count_finished()
                continue
            self._is_taken_by_hand = True
            self._counters.get_started()
            self._buffer.wake()
            return entry
        if self._is_closed:
            error = self._closed_error("get")
            if error is not None:
                raise error
        raise QueueEmptyError(f"Queue {self._name} is empty")

    def _now(self) -> float:
        """Seconds, by the clock of the loop or thread that waits."""
        raise NotImplementedError

    def _task_done(self) -> None:
        if not self._counters.task_done():
            raise ValueError("task_done() called more often than items were taken with get()")
        self._counters.count_finished()
