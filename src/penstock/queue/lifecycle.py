"""The lifecycle of a queue in one process: start, close, stop, join, and what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakMethod

from penstock.errors import QueueClosedError, QueueStateError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.queue.base import CLOSED, QueueBase, always
from penstock.queue.counters import QueueCounters
from penstock.queue.entry_buffer import EntryBuffer
from penstock.queue.status import NotProcessedError, QueueStatus
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.item import Ticket
from penstock.workers.job import Job

T = TypeVar("T")

#: Seconds after the first put in which workers are to be started, or a warning is logged.
IDLE_GRACE = 1.0


class QueueLifecycle(QueueBase[T]):
    """Coroutines run in the event loop of the workers."""

    _buffer: EntryBuffer[T]
    _counters: QueueCounters
    #: How many items the last stop left.
    _leftover: int
    #: Whether ``get`` or the like was called: then somebody takes items.
    _is_taken_by_hand: bool
    #: The timer of the warning that nobody takes items.
    _idle_timer: asyncio.TimerHandle | None
    #: The loop in which calls of ``get`` are accepted; as ``_open_in``, which is for puts.
    _takes_in: Any
    #: Whether ``close`` was called since the last start.
    _is_closed: bool
    #: How often everything was done after a ``close``, so that the queue stopped by itself.
    _ends: int
    #: Stops a queue whose last item is done after a ``close``, while workers are to end first.
    _last_stop: asyncio.Task[None] | None
    #: Called when the queue has stopped by itself.
    _end_calls: set[WeakMethod[Callable[[], None]]]
    #: Whether jobs alone use the queue: one of them started it, and the last of them stops it.
    _is_of_jobs: bool

    @property
    def unprocessed(self) -> list[T]:
        """The accepted items that no worker holds, in the order of their puts.

        After ``stop()``: the accepted items that were not finished, those of cancelled workers
        first. The next ``start()`` takes them up again, in this order.
        """
        return [item for _, item, _, ticket in self._buffer.snapshot() if not is_cancelled(ticket)]

    # -- workers ------------------------------------------------------------------------------

    async def _start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
        batching: Batching | None = None,
    ) -> None:
        self._buffer.split()
        if batching is not None:
            self._use_batches()
        await super()._start_workers(worker_func, size, error_handler, batching)
        self._note_waiting()

    def _use_batches(self) -> None:
        """From now on the buffer knows batches."""
        raise NotImplementedError

    def _note_waiting(self) -> None:
        """What waits may be of batches now."""
        note: Callable[[], None] | None = getattr(self._buffer, "note_waiting", None)
        if note is not None:
            note()
            self._buffer.wake()

    async def _without_workers(self) -> None:
        self._needs_slow_path = self._first_put
        self._drop_cancelled()

    # -- lifecycle ----------------------------------------------------------------------------

    async def _open(self) -> None:
        """Start, or open a queue again that was closed and is not done."""
        self._stop_if_done()  # if threads have taken the last item, the loop may not know yet
        await self._start()
        while self._is_closed and not self._pool.is_empty:
            # Its workers end when nothing is left, one after the other: some may have left.
            self._check_not_worker("start")
            await self._pool.wait()
            await self._start()
        if self._is_closed:
            self._is_closed = self._buffer.closed = False
            self._open_in = self._takes_in
            self._pool.resize()  # workers that had nothing left to do are wanted again

    async def _start(self) -> None:
        self._is_of_jobs = False
        await self._be_started()

    async def _be_started(self) -> bool:
        """Start, unless the queue is processing; return whether this call has started it."""
        loop = asyncio.get_running_loop()
        self._leave_closed_loop()
        while self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING):
            self._check_loop("start")
            if self._status is QueueStatus.PROCESSING:
                return False
            self._check_not_worker("start")
            await self._pool.wait()
            self._end_stop()
        self._loop = loop
        self._is_closed = False
        self._buffer.open()
        self._open_in = self._takes_in = self._callers_loop(loop)
        if self._scope is not None:
            self._scope.loop = self._takes_in  # of threads it is None: their items may run there
        self._needs_slow_path = self._first_put
        self._set_status(QueueStatus.PROCESSING)
        return True

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
            self._close(QueueStatus.STOPPING, drain=drain)
        if not drain:
            nested = self._pool.nested_jobs
            self._pool.retire()
            self._interrupt(nested)
        stops = self._stops
        try:
            await self._pool.end(
                limit, lambda: self._stops == stops and self._status is QueueStatus.STOPPING
            )
        finally:
            self._end_stop()
        return not self._leftover

    def _close(self, status: QueueStatus, *, drain: bool = True) -> None:
        self._open_in = self._takes_in = CLOSED
        self._stops += 1
        self._set_status(status)
        self._buffer.close(drain=drain)

    def _end_stop(self) -> None:
        """Finish a stop when all workers have ended. Each caller that waited for them calls it."""
        if self._status is not QueueStatus.STOPPING or not self._pool.is_empty:
            return
        self._set_status(QueueStatus.STOPPED)
        self._clear_idle_timer()
        self._pool.retire()
        jobs = self._buffer.end()
        self._drop_cancelled()
        self._fail_waiters()
        for job in jobs:
            job.interrupt()
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

    def _interrupt(self, jobs: list[Job[T]]) -> None:
        """No worker will take what is left of these jobs, and other workers wait for them."""
        if not jobs:
            return
        for _, _, _, ticket in self._buffer.snapshot():
            if ticket is not None and ticket.job in jobs and ticket.fail(self._not_processed()):
                ticket.forget_future()
        for job in jobs:
            job.interrupt()

    def _fail_waiters(self) -> None:
        """The queue is stopped: fail the futures of the items that are left, and the joiners."""
        entries = self._buffer.snapshot()
        for _, _, _, ticket in entries:
            # From here on it is an item without a future, like any other.
            if ticket is not None and ticket.fail(self._not_processed()):
                ticket.forget_future()
        if entries:
            self._counters.fail_joiners()

    def _not_processed(self, what: str = "the item was") -> QueueStateError:
        return NotProcessedError(
            f"The queue stopped before {what} processed", current_state=self._status.value
        )

    def _drop_cancelled(self) -> None:
        cancelled = [entry for entry in self._buffer.snapshot() if is_cancelled(entry[3])]
        if cancelled:
            for _ in range(self._buffer.discard(cancelled)):
                self._counters.count_finished()

    async def _join(self) -> None:
        if self._counters.unfinished:
            await self._join_unfinished()
        # It stops by itself now, unless it has been started again since.
        is_open = not self._is_closed or self._counters.unfinished
        if not is_open and self._status is not QueueStatus.STOPPED:
            self._check_loop("join")
            self._stop_if_done()
            await self._pool.wait()
            self._end_stop()

    async def _join_unfinished(self) -> None:
        self._check_loop("join")
        self._check_not_inside()
        left = self._buffer.ready
        if (self._status is QueueStatus.STOPPED and left) or not await self._counters.join():
            raise QueueStateError(
                f"Cannot join: the queue stopped with {self._buffer.ready} items unprocessed",
                current_state=self._status.value,
            )

    def _forget_loop(self) -> None:
        self._takes_in = CLOSED
        self._idle_timer = None
        self._buffer.forget_waiters()
        self._pool.abandon()
        self._buffer.end()
        self._counters.forget_joiners()
        self._drop_cancelled()
        for _, _, _, ticket in self._buffer.snapshot():
            if ticket is not None:
                ticket.forget_future()

    # -- the end of a stream ------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called since the last start."""
        return self._is_closed

    def close(self) -> None:
        """Refuse all further puts. The accepted items are processed or taken; then the queue stops.

        Raises:
            QueueStateError: the queue runs in another event loop.

        Returns at once. New puts, and puts that wait for room, get ``QueueClosedError``. ``get``,
        ``processing`` and iteration continue: they return the items that are left, wait for items
        that will be retried, and raise ``QueueClosedError`` when no item is left. (They do not wait
        for items that others have taken. If such an item is returned, the next ``get`` finds it.)
        Workers process the items that are left.

        The queue stays ``PROCESSING`` until the last item is done. Then it stops by itself:
        workers end, and the signal handlers from before ``stop_on_signals`` are set again.
        ``join()`` waits for this. ``stop()`` works as usual.

        ``start()`` opens the queue again, and so does ``start_workers()`` when the queue has
        stopped. If workers still process the items that are left, ``start()`` waits for them first.

        To close a queue twice is the same as once. If a queue was not started, ``close`` stops it.
        A worker function may close its own queue. A signal handler or a ``__del__`` may not: it
        may interrupt another call. There, use ``loop.call_soon_threadsafe(queue.close)``.
        """
        self._leave_closed_loop()
        if self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING):
            self._check_loop("close")
        if not self._is_closed:
            self._close_stream()

    def _close_stream(self) -> None:
        self._refuse_puts()
        if self._status is QueueStatus.IDLE:
            self._set_status(QueueStatus.STOPPED)
        elif self._status is QueueStatus.PROCESSING:
            assert self._loop is not None
            self._counters.call_when_done(self._stop_if_done, self._loop)

    def _refuse_puts(self) -> None:
        if not self._is_closed:
            self._logger.info("Queue %s is closed", self._name)
        self._is_closed = True
        self._open_in = CLOSED
        self._buffer.close()

    def _stop_if_done(self) -> None:
        """Stop a queue that is closed, and whose last item is done. In its loop."""
        is_open = not self._is_closed or self._status is not QueueStatus.PROCESSING
        if is_open or self._counters.unfinished:  # it was opened again since, or is stopped already
            return
        self._ends += 1
        self._close(QueueStatus.STOPPING)
        if self._pool.is_empty:
            self._end_stop()
            self._stopped_by_itself()
        else:
            assert self._loop is not None
            self._last_stop = Context().run(self._loop.create_task, self._stop_by_itself())

    async def _stop_by_itself(self) -> None:
        while self._status is QueueStatus.STOPPING and not self._pool.is_empty:
            await self._pool.wait()
        self._end_stop()
        if self._status is QueueStatus.STOPPED:  # and not started again by now
            self._stopped_by_itself()

    def _stopped_by_itself(self) -> None:
        for call in list(self._end_calls):
            _call_if_alive(call)

    def _closed_error(self, verb: str) -> QueueClosedError | None:
        """The error for a call that finds the queue closed: a put, or a get with nothing left."""
        if not self._is_closed or (verb == "get" and not self._buffer.is_drained()):
            return None
        return QueueClosedError(
            f"Cannot {verb} items when queue is closed", current_state=self._status.value
        )

    def _refuse(self, verb: str) -> None:
        error = self._closed_error(verb)
        if error is not None:
            raise error
        super()._refuse(verb)

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        return self._closed_error(verb) or super()._stopped_meanwhile(verb)

    # -- jobs beside the standing one -----------------------------------------------------------

    async def _open_job(self, job: Job[T]) -> None:
        """Let a job put its items, and workers take them. Starts the queue, if need be."""
        if await self._be_started():
            self._is_of_jobs = True
        job.is_nested |= self._pool.is_inside
        self._buffer.open_lane(job)
        self._needs_slow_path = self._first_put
        if self._buffer.unclaimed:  # left by a stop, or put by others: they use up its room
            self._arm_idle_warning()
        try:
            self._pool.open(job)
        except BaseException:
            self._buffer.close_lane(job)
            raise

    async def _close_job(self, job: Job[T]) -> None:
        """Take back the claim of a job, and its items that are not done; nothing else.

        The last job stops a queue that was started for jobs, unless somebody has used it since.
        """
        job.is_over = True
        self._pool.release(job)
        for _ in range(self._buffer.close_lane(job)):
            self._counters.count_finished()
        try:
            await self._pool.close(job)
        finally:
            # Not from inside an item: the job of the item has ended too, and waits for its worker.
            is_last = not self._pool.has_jobs and not self._pool.is_inside
            if self._is_of_jobs and is_last:
                self._is_of_jobs = False
                if self._status is QueueStatus.PROCESSING:
                    await self._stop(None, drain=True)

    # -- a queue from which nobody takes ------------------------------------------------------

    def _first_put(self) -> bool:
        """Whether a put is slow; of the first one, whether anybody takes items, too."""
        self._needs_slow_path = self._observer.is_enabled if self._scope is None else always
        self._is_of_jobs = False
        self._buffer.split()
        self._arm_idle_warning()
        return self._needs_slow_path()

    def _arm_idle_warning(self) -> None:
        """Have the log tell, in a second, if there are items and still nobody takes any."""
        if not self._pool.has_standing and not self._is_taken_by_hand and self._loop is not None:
            # Neither this nor the timer keeps the queue alive.
            set_timer = partial(_call_if_alive, WeakMethod(self._set_idle_timer))
            with suppress(RuntimeError):  # the loop is closed, which the queue has not heard of
                self._loop.call_soon_threadsafe(set_timer)

    def _set_idle_timer(self) -> None:
        # In the loop, and once, though several threads may have made the first put together.
        if self._idle_timer is None and self._status is QueueStatus.PROCESSING:
            assert self._loop is not None
            warn = partial(_call_if_alive, WeakMethod(self._warn_idle))
            self._idle_timer = self._loop.call_later(IDLE_GRACE, warn)

    def _clear_idle_timer(self) -> None:
        timer, self._idle_timer = self._idle_timer, None
        if timer is not None:
            timer.cancel()

    def _warn_idle(self) -> None:
        self._idle_timer = None
        waiting = self._buffer.unclaimed  # a map or a batch has workers of its own
        is_idle = not self._pool.has_standing and not self._is_taken_by_hand
        is_idle &= not self._buffer.limits.is_paused  # resume() sets the timer again
        if waiting and is_idle and self._status is QueueStatus.PROCESSING:
            self._logger.warning(
                "Queue %s has %d items and no worker takes them: start workers with process()",
                self._name,
                waiting,
            )


def _call_if_alive(method: WeakMethod[Callable[[], None]]) -> None:
    call = method()
    if call is not None:
        call()


def is_cancelled(ticket: Ticket | None) -> bool:
    """Whether the future of the item was cancelled."""
    return ticket is not None and ticket.is_cancelled
