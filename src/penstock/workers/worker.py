"""One worker: a task that takes entries and calls the worker function on each item."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Generator
from inspect import isawaitable
from typing import Any, Generic, TypeVar

from penstock._util.compat import CountingTask, cancel_requests, is_being_cancelled
from penstock.workers.calls import FINISHED
from penstock.workers.group import WorkerGroup
from penstock.workers.item import Entry
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


class Worker(Generic[T]):
    """A task that takes entries until its group is retired or no entry will come any more."""

    __slots__ = (
        "_cancelled_after",
        "_counters",
        "_logger",
        "_source",
        "cancelled",
        "cancelled_by_others",
        "entry",
        "group",
        "handled_cancels",
        "task",
    )

    def __init__(
        self, source: Source[T], counters: Counters, group: WorkerGroup[T], logger: logging.Logger
    ) -> None:
        self._source = source
        self._counters = counters
        self.group = group
        self._logger = logger
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
        #: Its entry while it is suspended. The pool reclaims it from a worker that is stuck.
        self.entry: Entry[T] | None = None

    async def run(self) -> None:  # noqa: PLR0912, PLR0915 - in one piece, for speed
        """Take and process entries until there are no more. Cancellation just ends it."""
        source, counters, group = self._source, self._counters, self.group
        call = group.call
        try:
            while not group.retired:
                entry = source.take()
                if entry is None:
                    item = context = ticket = coro = steps = awaited = None  # keep nothing alive
                    if await source.wait():
                        continue
                    return
                _, item, context, ticket = entry
                error: BaseException | None = None
                try:
                    coro = call(item) if ticket is None else ticket.run(call, item)
                    steps = coro.__await__()
                    awaited = context.run(next, steps, FINISHED)
                except BaseException as raised:
                    error = raised
                else:
                    if awaited is not FINISHED:
                        error = await self._drive(entry, steps, awaited)
                if error is not None:
                    failure = error
                    if ticket is not None:
                        delay, failure = context.run(ticket.verdict, error)
                        if delay is not None:
                            source.delay(entry, delay)
                            error = failure = None  # type: ignore[assignment]
                            continue
                    counters.errors += 1
                    error = await self._report(entry, failure)
                    if error is None and self.cancelled_by_others:
                        error = asyncio.CancelledError()  # the pool starts another worker
                    if ticket is not None:
                        context.run(ticket.add_dead_letter, failure, item)
                    failure = None  # type: ignore[assignment] # or both keep each other alive
                counters.processed += 1
                if counters.joiners:
                    counters.notify_if_done()
                if error is not None:
                    try:
                        raise error
                    finally:
                        error = None  # or frame and exception would keep each other alive
        except asyncio.CancelledError:
            return  # and not raise: the task would keep the error, and the error the item
        finally:
            # A kept error (that of a dead letter, say) keeps this frame. The frame must keep no
            # item, and no other error, whose frames have items.
            entry = item = context = ticket = coro = steps = awaited = None
            error = failure = None  # type: ignore[assignment]
            source.wake()

    # For an item that suspends in its first step. A generator, because each resumption climbs
    # through every level of ``await``.
    @types.coroutine
    def _drive(
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
        # An item before this one may have asked to cancel the task, and ended without a wait.
        is_meant = self._cancelled_after in (-1, self._counters.processed)
        self._source.wake()
        task: Any = self.task  # only a worker that is a task holds anything here
        run = entry[2].run
        error: BaseException | None = None
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
                awaited = run(next, steps, FINISHED) if thrown is None else run(steps.throw, thrown)
            except StopIteration:  # how throw() says that the coroutine returned
                break
            except BaseException as raised:
                error = raised
                break
            finally:
                thrown = None  # or frame and exception would keep each other alive
        if self.entry is not entry:
            raise asyncio.CancelledError("the pool abandoned this worker and took its item")
        if isinstance(error, asyncio.CancelledError):
            is_asked_to = cancel_requests(task) > self.handled_cancels
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
        self.entry = None
        self._source.requeue(entry)
        if self.group.is_threaded:
            self._logger.warning(
                "Worker function %s was cancelled but may still be running in its thread",
                self.group.label,
            )

    def on_cancel(self) -> None:
        """Somebody asks to cancel the task."""
        self._cancelled_after = self._counters.processed

    def cancel(self) -> None:
        """Cancel the call under way; its entry is requeued."""
        self.task.cancel()

    def reclaim(self) -> bool:
        """Requeue the entry of a worker that is stuck; False if it has none."""
        entry, self.entry = self.entry, None
        if entry is not None:
            self._source.requeue(entry)
        return entry is not None

    def abandon(self) -> None:
        """Reclaim the entry of a worker that ignores its cancellation."""
        if self.reclaim():
            self._logger.error(
                "Worker function %s ignored its cancellation and may still be running",
                self.group.label,
            )

    def leave(self) -> None:
        """Count it as ended: it has, or the pool has abandoned it."""
        self.group.leave()

    async def _report(self, entry: Entry[T], error: BaseException) -> BaseException | None:
        """Tell of a failed item: its future, or else the error handler, or else the log.

        Returns:
            The exception that is to end the program (KeyboardInterrupt, SystemExit), or None.
        """
        group = self.group
        _, item, context, ticket = entry
        awaited_by_somebody = ticket is not None and ticket.fail(error)
        if group.can_end_program and isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if awaited_by_somebody:
            return None
        handler: Any = group.error_handler
        if handler is None:
            self._log("Worker function %s failed", error)
            return None
        failure: BaseException | None = None
        steps: Any = None
        awaited: Any = FINISHED
        try:
            result = context.run(handler, error, item)
            if isawaitable(result):
                steps = result.__await__()
                awaited = context.run(next, steps, FINISHED)
        except BaseException as raised:
            failure = raised
        if awaited is not FINISHED:
            failure = await self._drive(entry, steps, awaited)
        if group.can_end_program and isinstance(failure, (KeyboardInterrupt, SystemExit)):
            return failure
        if failure is not None:
            if ticket is not None:
                ticket.handler_failed(failure)
            self._log("Error handler failed on an error of worker function %s", failure)
            failure = None  # or frame and exception would keep each other alive
        return None

    def _log(self, message: str, error: BaseException) -> None:
        try:
            self._logger.exception(  # noqa: LOG004 - the exception is at hand, not under way
                message, self.group.label, exc_info=error
            )
        except Exception as failure:
            # A logger that raises must not end the worker. asyncio tells the user.
            self.task.get_loop().call_exception_handler(
                {"message": "penstock could not log an error", "exception": failure}
            )
