"""Taking the items of a queue without workers, one after the other, until it is closed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from penstock._util.compat import cancel_requests
from penstock.errors import QueueClosedError
from penstock.queue.in_process import InProcessQueue
from penstock.queue.processing import ProcessingBlock
from penstock.workers.item import Entry

T = TypeVar("T")


class Consumable(Generic[T]):
    """What has items to be taken one after the other, without workers."""

    def _consumed(self) -> InProcessQueue[T]:
        """The queue that items are taken from."""
        raise NotImplementedError

    def processing(self, timeout: float | None = None) -> AbstractAsyncContextManager[T]:
        """``async with queue.processing() as item``: a ``get`` and its ``task_done``, traced.

        An exception in the block counts in ``errors`` and is raised in the caller. When the block
        is cancelled, the item is returned to the queue, and is taken next.

        Args:
            timeout: as in :meth:`get`; so are the exceptions.
        """
        return ProcessingBlock(self._consumed(), timeout)

    def items(self) -> ItemStream[T]:
        """Iterate over the items until the queue is closed and no item is left.

        ``async for item in queue`` does the same. Each item is done when the loop asks for the
        next one. If the body of the loop may raise, close the iterator, so that the last item
        counts as failed: ``async with contextlib.aclosing(queue.items()) as items``. The item is
        returned when the body is cancelled, as in :meth:`processing`, and done after a ``break``.

        An iterator that is not closed is closed when Python garbage-collects it, and its item is
        done a moment later; it is returned, or has failed, if the task that took it ended by a
        cancellation or an exception. If the loop may end early, use ``processing()``: there it is
        clear what happens to the item.

        An iterator is for one task: each task needs its own. Each item has a span, which is
        not the current span in the body. Do not call ``task_done()``.

        Raises:
            QueueStateError: in the iteration, if the queue is not processing, or is stopped.
            RuntimeError: in the iteration, if two tasks ask for the next item at once.
        """
        return ItemStream(self._consumed())

    def __aiter__(self) -> AsyncIterator[T]:
        """Iterate as :meth:`items` does."""
        return self.items()


class StreamBase(Generic[T]):
    """What iterators for tasks and for threads share: the item that is not done yet."""

    _entry: Entry[T] | None = None

    def __init__(self, queue: InProcessQueue[T]) -> None:
        self._queue = queue
        self._attempt: AbstractContextManager[object] = nullcontext()
        self._has_ended = False
        #: Held while the next item is waited for.
        self._asking = threading.Lock()
        # What was being handled when the item was handed out. Another exception is the body's.
        self._handled: BaseException | None = None

    async def _next(self) -> T:
        """The next item, when the one before it is done.

        Raises:
            QueueClosedError: the queue is closed, and nothing is left to be taken.
        """
        if not self._asking.acquire(blocking=False):
            raise RuntimeError(
                "Two consumers use one iterator at once: give each consumer an iterator of its "
                "own, with items()"
            )
        try:
            self._finish(None)
            if self._has_ended:
                raise QueueClosedError("the iterator has ended")
            entry = await self._queue._take(None)
        except QueueClosedError:
            self._has_ended = True
            raise
        finally:
            self._asking.release()
        self._queue._counters.task_done()  # it is in ours: task_done() is not for the caller
        _, item, context, ticket = self._entry = entry
        # Not entered: its span would stay the current one when the loop is left.
        self._attempt = nullcontext() if ticket is None else ticket.attempt(context)
        self._handled = sys.exc_info()[1]
        return item

    def _end(self) -> None:
        """The body of the loop was left, by the exception that is being handled, if there is one.

        ``contextlib.closing`` and ``aclosing`` do not tell it.
        """
        self._has_ended = True
        error = sys.exc_info()[1]
        self._finish(None if error is self._handled else error)

    def _finish(self, error: BaseException | None) -> None:
        entry, self._entry = self._entry, None
        self._handled = None
        if entry is not None:
            self._queue._finish_item(entry, self._attempt, error)

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        entry = self._entry
        if entry is not None and not is_ending():
            self._queue._finish_item_later(entry, self._attempt, self._how_it_was_left())

    def _how_it_was_left(self) -> Callable[[], BaseException | None]:
        """Return a function that returns by what exception the loop was left, asked later."""
        return _by_none


class ItemStream(StreamBase[T]):
    """The iterator of ``async for item in queue``; see :meth:`penstock.BoundedQueue.items`."""

    _task: asyncio.Task[Any] | None = None
    _requests = 0

    def __aiter__(self) -> ItemStream[T]:
        return self

    async def __anext__(self) -> T:
        try:
            item = await self._next()
        except QueueClosedError:
            raise StopAsyncIteration from None
        self._task = asyncio.current_task()
        self._requests = 0 if self._task is None else cancel_requests(self._task)
        return item

    async def aclose(self) -> None:
        """End the iteration: the item that was handed out last is done, or failed."""
        self._end()

    def _how_it_was_left(self) -> Callable[[], BaseException | None]:
        task = self._task
        if task is None:
            return _by_none
        if cancel_requests(task) > self._requests:
            return asyncio.CancelledError

        def outcome() -> BaseException | None:
            if not task.done():
                return None
            return asyncio.CancelledError() if task.cancelled() else task.exception()

        return outcome


def _by_none() -> None:
    """The loop was left without an exception."""
