"""Taking the items of a queue for threads without workers, until it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

from penstock.errors import QueueClosedError
from penstock.queue.in_process import InProcessQueue
from penstock.queue.processing import ProcessingBlock
from penstock.queue.stream import StreamBase
from penstock.sync.pool import run_to_completion

T = TypeVar("T")


class BlockingConsumable(Generic[T]):
    """What has items to be taken one after the other, without workers, by threads."""

    def _consumed(self) -> InProcessQueue[T]:
        """The queue that items are taken from."""
        raise NotImplementedError

    def processing(self, timeout: float | None = None) -> AbstractContextManager[T]:
        """``with queue.processing() as item``: a ``get`` and its ``task_done``, traced.

        An exception in the block counts in ``errors`` and is raised in the caller.

        Args:
            timeout: as in :meth:`get`; so are the exceptions.
        """
        return BlockingProcessingBlock(self._consumed(), timeout)

    def items(self) -> BlockingItemStream[T]:
        """Iterate over the items until the queue is closed and no item is left.

        ``for item in queue`` does the same. Each item is done when the loop asks for the next one.
        If the body of the loop may raise, close the iterator, so that the last item counts as
        failed: ``with contextlib.closing(queue.items()) as items``. After a ``break`` it is done.

        An iterator that is not closed is closed when Python garbage-collects it, and its item is
        done a moment later in any case. If the loop may end early, use ``processing()``: there it
        is clear what happens to the item.

        An iterator is for one thread: each thread needs its own. Each item has a span, which
        is not the current span in the body. Do not call ``task_done()``.

        Raises:
            QueueStateError: in the iteration, if the queue is not processing, or is stopped.
            RuntimeError: in the iteration, if two threads ask for the next item at once.
        """
        return BlockingItemStream(self._consumed())

    def __iter__(self) -> Iterator[T]:
        """Iterate as :meth:`items` does."""
        return self.items()


class BlockingProcessingBlock(ProcessingBlock[T]):
    """The block of :meth:`penstock.sync.WorkQueue.processing`."""

    def __enter__(self) -> T:
        return run_to_completion(self.__aenter__())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run_to_completion(self.__aexit__(exc_type, exc, traceback))


class BlockingItemStream(StreamBase[T]):
    """The iterator of ``for item in queue``; see :meth:`penstock.sync.WorkQueue.items`."""

    def __iter__(self) -> BlockingItemStream[T]:
        return self

    def __next__(self) -> T:
        try:
            return run_to_completion(self._next())
        except QueueClosedError:
            raise StopIteration from None

    def close(self) -> None:
        """End the iteration: the item that was handed out last is done, or failed."""
        self._end()
