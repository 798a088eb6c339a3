"""One worker: a task that takes entries and calls the worker function on each item."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from inspect import isawaitable
from itertools import repeat
from typing import Any, ClassVar, Generic, TypeVar

from penstock._util.compat import CountingTask, cancel_requests, is_being_cancelled, uncancel
from penstock.policies.observer import CANCELLED, outcome_of
from penstock.workers.batch import BatchFailed, parts_of
from penstock.workers.calls import FINISHED, AsyncCall
from penstock.workers.failure_log import FailureLog
from penstock.workers.inside import CURRENT_CALL
from penstock.workers.item import Entry, Ticket, job_of
from penstock.workers.job import Job
from penstock.workers.source import Counters, Source

T = TypeVar("T")

# How an item runs in the context of its put, inside the task of the worker.
#
# A task for each item would do it, at three to five times the cost. Instead the worker takes the
# first step of the coroutine itself, ``context.run(next, steps, FINISHED)``: an item that never
# waits is done after this step, with no exception and no suspension. An item that waits goes on in
# ``_drive``, one step each time that the loop resumes the worker. The worker's own task stays the
# current one throughout, so that cancellation, ``asyncio.timeout`` and task groups inside the item
# work as anywhere else.


class WorkerTask(CountingTask):
    """The task of a worker, which tells the worker of each request to cancel it."""

    worker: Worker[Any]

    def cancel(self, msg: Any = None) -> bool:
        """Cancel, as any task."""
        self.worker.on_cancel()
        return super().cancel(msg)


async def _no_standing_job(item: Any) -> None:
    raise AssertionError(f"nobody was to take {item!r}: there is no standing job")


class Worker(Generic[T]):
    """A task that takes entries until the pool needs it no more or no entry will come any more.

    Args:
        standing: the job of entries that have none of their own. ``None``: it takes no such.
        may_go_on: asked before the next entry when ``must_ask`` is set.
    """

    __slots__ = (
        "_cancelled_after",
        "_counters",
        "_failures",
        "_item_cancels",
        "_may_go_on",
        "_source",
        "_ticket",
        "call",
        "cancelled",
        "cancelled_by_others",
        "entry",
        "handled_cancels",
        "must_ask",
        "name",
        "since",
        "standing",
        "task",
    )

    #: What the first step of an item returns that is done after it.
    _done_at_once: ClassVar[object] = FINISHED

    def __init__(
        self,
        source: Source[T],
        counters: Counters,
        standing: Job[T] | None,
        failures: FailureLog,
        may_go_on: Callable[[Worker[T]], bool],
    ) -> None:
        self._source = source
        self._counters = counters
        self.standing = standing
        self._failures = failures
        self._may_go_on = may_go_on
        #: Whether it asks the pool before its next entry: the number of workers has changed.
        self.must_ask = False
        #: Done when the worker has ended.
        self.task: asyncio.Future[None]
        #: Whether the pool has cancelled it.
        self.cancelled = False
        #: Whether its task was cancelled by somebody else, who meant the item.
        self.cancelled_by_others = False
        # How many items were done when somebody last asked to cancel the task; -1: nobody has.
        self._cancelled_after = -1
        #: Requests to cancel the task that were meant for items, and are no reason to end.
        self.handled_cancels = 0
        # How many of the requests to cancel the task came by :meth:`cancel_item`, if it is watched.
        # Below 0: it was not yet when it took its entry.
        self._item_cancels = 0
        #: What it is called: the name of its task or thread. The pool sets it.
        self.name = ""
        #: When it took the entry with which it is suspended, by the clock of its turn, if it is
        #: watched.
        self.since = 0.0
        #: Stands for the call of its item, or of one before, to know code that runs inside of it.
        #: (Not the call itself: contexts keep it, for longer than the call may live.)
        self.call: object = None
        self._ticket: Ticket | None = None
        #: Its entry while it is suspended. The pool reclaims it from a worker that is stuck.
        self.entry: Entry[T] | None = None

    async def run(self) -> None:  # noqa: PLR0912, PLR0915 - in one piece, for speed
        """Take and process entries until there are no more. Cancellation just ends it."""
        source, counters = self._source, self._counters
        turn, left = source.turn, 1
        standing: Any = self.standing
        call: AsyncCall[Any] = _no_standing_job if standing is None else standing.call
        may_suspend = standing is not None and standing.may_suspend
        enter, done_at_once = CURRENT_CALL.set, self._done_at_once
        error: BaseException | None = None
        try:
            while True:
                for _ in repeat(None, left):
                    if self.must_ask and not self._may_go_on(self):
                        return
                    entry = source.take()
                    if entry is None:
                        item = context = ticket = job = None  # keep nothing alive
                        steps = awaited = None
                        self.call = self._ticket = None
                        if counters.joiners:  # only here, since with an entry left not all is done
                            counters.notify_if_done()
                        call = None  # type: ignore[assignment] # nor the owner of the function
                        if not await source.wait():
                            return
                        call = _no_standing_job if standing is None else standing.call
                        continue
                    _, item, context, ticket = entry
                    try:
                        if ticket is None:
                            steps = call(item).__await__()
                            if may_suspend:
                                self._ticket = None
                                self.call = this_call = object()
                                context.run(enter, this_call)
                            awaited = context.run(next, steps, FINISHED)
                            if awaited is FINISHED:  # most items; all the rest is below
                                counters.processed += 1
                                continue
                        else:
                            job = ticket.job
                            if job is None:
                                steps = ticket.run(call, standing, item).__await__()
                                waits = may_suspend
                            else:
                                steps = ticket.run(job.call, job, item).__await__()
                                waits = job.may_suspend
                            if waits or ticket.call is not None:
                                self._ticket = ticket
                                self.call = this_call = object()
                                context.run(enter, this_call)
                            awaited = context.run(next, steps, FINISHED)
                    except BaseException as raised:
                        error = raised
                    else:
                        if awaited is not done_at_once:
                            error = await self._drive(entry, steps, awaited)
                    if error is not None:
                        failure = error
                        if ticket is not None:
                            delay, failure = context.run(ticket.after, error)
                            if delay is not None:
                                source.delay(entry, delay)
                                error = failure = None  # type: ignore[assignment]
                                continue
                        counters.errors += 1
                        error = await self._report(entry, failure)
                        if error is None and self.cancelled_by_others:
                            error = asyncio.CancelledError()  # the pool starts another worker
                        counters.add_failure(self._on_failure(entry, failure))
                        failure = None  # type: ignore[assignment] # or both keep each other alive
                    counters.processed += 1
                    if ticket is not None and ticket.job is not None:
                        ticket.job.add_done()
                    if error is not None:
                        try:
                            raise error
                        finally:
                            error = None  # or frame and exception would keep each other alive
                left = turn.look()
                if turn.is_over:
                    entry = item = context = ticket = job = steps = awaited = None
                    await source.pause()
        except asyncio.CancelledError:
            return  # and not raise: the task would keep the error, and the error the item
        finally:
            # A kept error (that of a dead letter, say) keeps this frame. The frame must keep no
            # item, and no other error, whose frames have items.
            entry = item = context = ticket = job = steps = awaited = None
            error = failure = None  # type: ignore[assignment]
            self.call = self._ticket = None
            if counters.joiners:
                counters.notify_if_done()
            source.wake()

    # For an item that suspends in its first step. A generator, because each resumption climbs
    # through every level of ``await``.
    @types.coroutine
    def _drive(  # noqa: PLR0915 - in one piece, for speed
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> Generator[Any, Any, BaseException | None]:
        """Drive a suspended call to its end; return the error that it raised, or None.

        Raises:
            CancelledError: the pool has cancelled the worker, or the event loop is ending. The
                entry is requeued. (An item that raises CancelledError of its own accord, or whose
                task is cancelled by somebody else, is an item that failed.)
            GeneratorExit: the event loop was closed, and the entry is requeued.
        """
        self.entry = entry
        ticket = entry[3]
        job: Any = self.standing if ticket is None or ticket.job is None else ticket.job
        job.suspended += 1
        # An item before this one may have asked to cancel the task, and ended without a wait.
        is_meant = self._cancelled_after in (-1, self._counters.processed)
        self._source.wake()
        task: Any = self.task  # only a worker that is a task holds anything here
        run = entry[2].run
        error: BaseException | None = None
        try:
            while awaited is not FINISHED:
                thrown: BaseException | None = None
                try:
                    yield awaited
                except GeneratorExit:
                    self._requeue(entry)
                    # In a copy: another worker may be in the context already, with the same item.
                    entry[2].copy().run(steps.close)
                    raise
                except BaseException as raised:
                    thrown = raised
                try:
                    awaited = (
                        run(next, steps, FINISHED) if thrown is None else run(steps.throw, thrown)
                    )
                except StopIteration:  # how throw() says that the coroutine returned
                    break
                except BaseException as raised:
                    error = raised
                    break
                finally:
                    thrown = None  # or frame and exception would keep each other alive
        finally:
            job.suspended -= 1
        if self.entry is not entry:
            raise asyncio.CancelledError("the pool abandoned this worker and took its item")
        if isinstance(error, asyncio.CancelledError):
            handled = self.handled_cancels + max(0, self._item_cancels)
            is_asked_to = cancel_requests(task) > handled
            if self.cancelled or (is_asked_to and (not is_meant or self.is_loop_ending())):
                self._requeue(entry)
                try:
                    raise error
                finally:
                    error = None
            self.cancelled_by_others |= is_asked_to
        self.entry = None
        self._cancelled_after = -1
        self.handled_cancels = cancel_requests(task)  # all so far were the item's own
        try:
            return error
        finally:
            error = None

    async def _drive_handler(
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> BaseException | None:
        """:meth:`_drive` for the error handler of the entry."""
        return await self._drive(entry, steps, awaited)

    @property
    def in_hand(self) -> Entry[T] | None:
        """The entry with which it is suspended, or None."""
        return self.entry

    @property
    def seconds_in_hand(self) -> float:
        """How long ago it took that, or since when it is watched."""
        return max(0.0, self._source.turn.clock() - self.since)

    def watch(self) -> None:
        """Note from now on when it takes an entry, and let calls be cancelled one by one."""
        self._be_watched(WatchedWorker)

    def _be_watched(self, watched: type[Worker[T]]) -> None:
        me: Any = self
        me.__class__ = watched  # so that the others do not pay for this
        if self.entry is not None:
            self.since, self._item_cancels = self._source.turn.clock(), -1

    def cancel_item(self, entry: Entry[T]) -> bool:
        """Cancel the call on an entry in hand, which fails then; the worker goes on.

        In the loop of the worker, which is watched. False: it has the entry no longer.
        """
        if self.entry is not entry or self.task.done():
            return False
        if self.task is asyncio.current_task():  # at its next wait, if there is one
            self.task.get_loop().call_soon(self.cancel_item, entry)
            return True
        if self._item_cancels >= 0:  # else another worker takes its place
            self._item_cancels += 1
        self.task.cancel()
        return True

    def has_been_cancelled(self) -> bool:
        """Whether a cancellation of its task ended it, and not the end of all entries."""
        task: Any = self.task
        return cancel_requests(task) > self.handled_cancels or self.cancelled_by_others

    def is_loop_ending(self) -> bool:
        """Whether all tasks of the event loop are being cancelled, as at the end of asyncio.run."""
        tasks = asyncio.all_tasks(self.task.get_loop())
        return all(task.done() or is_being_cancelled(task) for task in tasks)

    def _requeue(self, entry: Entry[T]) -> None:
        if self.entry is not entry:  # the pool has reclaimed it already
            return
        job = self._give_back()
        if job is not None and job.is_threaded:
            self._warn_of_thread(job)

    def _warn_of_thread(self, job: Job[T]) -> None:
        self._failures.logger.warning(
            "Worker function %s was cancelled but may still be running in its thread", job.label
        )

    @staticmethod
    def _is_dropped(entry: Entry[T]) -> bool:
        """Whether the job of the entry has ended: what becomes of it is nobody's business."""
        return entry[3] is not None and entry[3].is_dropped

    @property
    def job_in_hand(self) -> Job[T] | None:
        """The job of the entry with which it is suspended, or None."""
        return None if self.entry is None else job_of(self.entry) or self.standing

    @property
    def job_of_call(self) -> Job[T] | None:
        """The job of the item that ``call`` stands for."""
        return (None if self._ticket is None else self._ticket.job) or self.standing

    def on_cancel(self) -> None:
        """Somebody asks to cancel the task."""
        self._cancelled_after = self._counters.processed

    def cancel(self) -> None:
        """Cancel the call under way; its entry is requeued."""
        self.task.cancel()

    def reclaim(self) -> Job[T] | None:
        """Take the entry from a worker that is stuck; return its job, or None without one."""
        return self._give_back()

    def _give_back(self) -> Job[T] | None:
        """Give back the entry in hand, or drop it if its job has ended.

        Returns:
            The job of the entry; None if the worker has none, or it was dropped.
        """
        entry, self.entry = self.entry, None
        if entry is None:
            return None
        if self._is_dropped(entry):
            for _ in parts_of(entry):
                self._counters.add_failure(CANCELLED)
                self._counters.processed += 1
            self._counters.notify_if_done()
            return None
        self._source.requeue(entry)
        return job_of(entry) or self.standing

    def abandon(self) -> None:
        """Reclaim the entry of a worker that ignores its cancellation."""
        job = self.reclaim()
        if job is not None and job.is_threaded:
            self._warn_of_thread(job)
        elif job is not None:
            self._failures.logger.error(
                "Worker function %s ignored its cancellation and may still be running", job.label
            )

    def leave(self) -> None:
        """Count it as ended: it has, or the pool has abandoned it."""
        if self.standing is not None:
            self.standing.remove_worker()

    async def _report(self, entry: Entry[T], error: BaseException) -> BaseException | None:
        """Tell of a failed item: its future, or else the error handler, or else the log.

        Returns:
            The exception that is to end the program (KeyboardInterrupt, SystemExit), or None.
        """
        _, item, context, ticket = entry
        if isinstance(error, BatchFailed):
            return await self._report_batch(entry)
        job: Any = job_of(entry) or self.standing
        awaited_by_somebody = ticket is not None and (ticket.fail(error) or ticket.is_dropped)
        if job.can_end_program and isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if awaited_by_somebody:
            return None
        handler: Any = job.error_handler
        if handler is None:
            context.run(self._log, "Worker function %s failed", job, error)
            return None
        failure: BaseException | None = None
        steps: Any = None
        awaited: Any = FINISHED
        try:
            result = context.run(handler, error, item)
            if isawaitable(result):
                steps = result.__await__()
                self._ticket = ticket
                self.call = object()
                context.run(CURRENT_CALL.set, self.call)
                awaited = context.run(next, steps, FINISHED)
        except BaseException as raised:
            failure = raised
        if awaited is not FINISHED:
            failure = await self._drive_handler(entry, steps, awaited)
        if job.can_end_program and isinstance(failure, (KeyboardInterrupt, SystemExit)):
            return failure
        if failure is not None:
            if ticket is not None:
                ticket.handler_failed(failure)
            context.run(
                self._log, "Error handler failed on an error of worker function %s", job, failure
            )
            failure = None  # or frame and exception would keep each other alive
        return None

    async def _report_batch(self, entry: Entry[T]) -> BaseException | None:
        """:meth:`_report` for each of the items of a batch that failed; count all but one."""
        batch: Any = entry[3]
        ending: BaseException | None = None
        self._counters.errors += len(batch.failed) - 1
        try:
            while batch.failed:
                one, error = batch.failed.pop(0)
                ending = await self._report(one, error) or ending
                del batch.entries[0]
                batch.outcome = (
                    outcome_of(error)
                    if one[3] is None
                    else one[2].run(one[3].on_failure, error, one[1])
                )
                if batch.failed:  # the last one is counted by the worker
                    self._counters.add_failure(batch.outcome)
                    self._counters.processed += 1
        except BaseException:  # the worker is to end: the one that was told is requeued already
            for rest, _ in batch.failed:
                self._source.requeue(rest)
            raise
        finally:
            del batch  # or frame and exceptions would keep each other alive
        return ending

    def _on_failure(self, entry: Entry[T], error: BaseException) -> str:
        """An item failed for good, and its error was told; return its outcome."""
        _, item, context, ticket = entry
        return outcome_of(error) if ticket is None else context.run(ticket.on_failure, error, item)

    def _log(self, message: str, job: Job[T], error: BaseException) -> None:
        try:
            self._failures.add(message, job.label, error, self.task.get_loop())
        except Exception as failure:
            # A logger that raises must not end the worker. asyncio tells the user.
            self.task.get_loop().call_exception_handler(
                {"message": "penstock could not log an error", "exception": failure}
            )


class WatchedWorker(Worker[T]):
    """A worker whose calls somebody looks at: it notes when each began, and each can be cancelled.

    A worker becomes one, by its class, when somebody has asked what is in hand.
    """

    __slots__ = ()

    def watch(self) -> None:
        """It is watched."""

    @types.coroutine
    def _drive(
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> Generator[Any, Any, BaseException | None]:
        self.since, self._item_cancels = self._source.turn.clock(), 0
        drive: Any = super()._drive(entry, steps, awaited)
        task: Any = self.task
        try:
            return (yield from drive)  # type: ignore[no-any-return]
        finally:
            if self._item_cancels > 0:
                # What its next items start, and ``asyncio.timeout``, ask the task for this number.
                for _ in range(self._item_cancels):
                    uncancel(task)
                self.handled_cancels = cancel_requests(task)
            self._item_cancels = 0
