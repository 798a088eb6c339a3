"""A job on a queue for threads, from its begin to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from penstock._util.compat import Self
from penstock.queue.jobs import note_stop
from penstock.sync.futures import Result
from penstock.sync.pool import run_to_completion
from penstock.sync.provider import may_wait, refuse_to_wait
from penstock.sync.queue import BlockingQueue
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.item import JobTicket
from penstock.workers.job import Job

T = TypeVar("T")


class BlockingJob(Generic[T]):
    """``with``: what ``penstock.queue.jobs.RunningJob`` is, blocking, for one thread."""

    def __init__(
        self,
        queue: BlockingQueue[T],
        worker_func: WorkerFunc[T, Any],
        size: Any,
        error_handler: ErrorHandler[T] | None = None,
        on_exit: Callable[[], object] = bool,
        batching: Batching | None = None,
    ) -> None:
        self._queue = queue
        self._on_exit = on_exit
        self._settings = (worker_func, size, error_handler, batching)

    def __enter__(self) -> Self:
        queue = self._queue
        queue._check_alive()
        refuse_to_wait("map or batch_process")
        is_nested = queue._pool.is_inside
        with queue._acquire_thread() as thread:
            self.job: Job[T] = queue._make_job(*self._settings)
            self.job.is_nested = is_nested
            if self.job.batching is not None:
                queue._use_batches()
            thread.call(queue._open_job, self.job)
        self._ticket = JobTicket(self.job)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        queue = self._queue
        note_stop(self.job, queue, error)
        self.job.is_over = True  # whatever happens to the call below
        if not may_wait():  # the iterator of a map that is collected
            queue._call_soon(self._close)
            return
        try:
            if queue._crash is None and not queue.is_inherited:
                with queue._acquire_thread() as thread:
                    thread.call(queue._close_job, self.job)
        finally:
            self._on_exit()

    async def _close(self) -> None:
        try:
            await self._queue._close_job(self.job)
        finally:
            self._on_exit()

    def put(self, item: T, future: Result | None = None) -> None:
        """Put an item, and wait for room as long as it takes."""
        run_to_completion(self._queue._put_of(self.job, self._ticket, item, future))

    def submit(self, item: T) -> Result:
        """:meth:`put` an item, and return the future of its result."""
        future = Result(self._queue._pool, is_nested=self.job.is_nested)
        self.put(item, future)
        return future

    def all_put(self) -> None:
        """No more items will come: the last batch, if it is a job of batches, waits for none."""
        if self.job.batching is not None:
            self.job.batching.is_complete = True
            self._queue._buffer.wake()

    @property
    def is_given_up(self) -> bool:
        """Whether no more items are to be read: their service has been down for too long."""
        return self.job.outage_error is not None

    def until_given_up(self, items: Iterator[T]) -> Iterator[T]:
        """``items``, as long as they are to be read."""
        while not self.is_given_up:
            try:
                item = next(items)
            except StopIteration:
                return
            yield item
            del item  # and keep nothing alive that was handed out

    def join(self) -> None:
        """Wait until the items that were put are done.

        Raises:
            QueueStateError: the queue stopped, and some are not done.
        """
        done = threading.Event()
        self.job.when_all_done(done.set)
        done.wait()
        left = self.job.accepted - self.job.done
        if left:
            raise self._queue._not_processed(f"{left} items of the batch were")
