"""A job on a queue, from its begin to its end: what ``map`` and ``batch_process`` are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from penstock._util.compat import add_note
from penstock.errors import BatchError, OutageError, QueueStateError
from penstock.queue.bounded import BoundedQueue, QueueStatus
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.item import JobTicket
from penstock.workers.job import Job

T = TypeVar("T")


@dataclass(frozen=True)
class BatchResult:
    """The numbers of a batch: how many items were processed and failed, and the first errors."""

    #: Items that are done, succeeded or failed for good.
    processed: int
    #: Those of them that failed for good.
    failed: int
    #: Those of the failed ones that became dead letters, with ``retry`` given.
    dead_letters: int
    #: The first error of each type, in the order in which they came.
    errors: tuple[BaseException, ...] = ()

    @classmethod
    def of(cls, job: Job[Any]) -> BatchResult:
        """The result of a job whose items are all done."""
        return cls(job.done, job.failed, job.dead_letters, tuple(job.errors.values()))

    @classmethod
    def since(cls, before: dict[str, int], after: dict[str, int]) -> BatchResult:
        """The result by what a queue has counted between two looks at its ``metrics``."""
        processed, failed = (after.get(n, 0) - before.get(n, 0) for n in ("processed", "errors"))
        return cls(processed, failed, 0)

    def raise_if_failed(self) -> None:
        """Do nothing if no item failed.

        Raises:
            BatchError: some failed. It has this result, and the first error as its cause.
        """
        if self.failed:
            first = self.errors[0] if self.errors else None
            about = "" if first is None else f"; the first error: {first!r}"
            raise BatchError(
                f"{self.failed} of {self.processed} items failed{about}", result=self
            ) from first


def check_outage(job: Job[Any], error: BaseException | None = None) -> None:
    """Do nothing if the service of the job's items is there.

    Raises:
        OutageError: it has been away for too long. ``error`` is its cause, or else the first error
            of the job.
    """
    if job.outage_error is not None:
        result = BatchResult.of(job)
        raise OutageError(
            f"{job.outage_error}: {result.failed} items have failed, and no more were read",
            result=result,
        ) from (error or next(iter(result.errors), None))


def note_stop(job: Job[Any], queue: Any, error: object) -> None:
    """Note on ``error``, with which a job ends, that somebody has stopped its queue."""
    is_open = queue.status is QueueStatus.PROCESSING and not queue.is_closed
    if isinstance(error, QueueStateError) and not is_open:
        add_note(
            error,
            "penstock: the queue was stopped or closed before this map or batch had put all of its "
            f"items; it had put {job.accepted}",
        )


class RunningJob(Generic[T]):
    """``async with``: in the block a job puts its items, and workers process them.

    The queue is started if need be. At the end the job's items that are not done are taken back,
    and with them its claim to workers: nothing else.
    """

    # Not a generator itself, since an async generator enters it: at its end ``asyncio.run`` closes
    # all generators that are open, each by itself, and not the outer one first.

    def __init__(
        self,
        queue: BoundedQueue[T],
        worker_func: WorkerFunc[T, Any],
        size: Any,
        error_handler: ErrorHandler[T] | None = None,
        on_exit: Callable[[], object] = bool,
        batching: Batching | None = None,
    ) -> None:
        self._queue = queue
        self._on_exit = on_exit
        self.job: Job[T] = queue._make_job(worker_func, size, error_handler, batching)
        if batching is not None:
            queue._use_batches()
        self._ticket = JobTicket(self.job)

    async def __aenter__(self) -> RunningJob[T]:
        await self._queue._open_job(self.job)
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        note_stop(self.job, self._queue, error)
        try:
            await self._queue._close_job(self.job)
        finally:
            self._on_exit()

    def put(self, item: T) -> Awaitable[None]:
        """Put an item, and wait for room as long as it takes.

        Raises:
            QueueStateError: the queue does not accept items any more.
        """
        return self._queue._put_of(self.job, self._ticket, item)

    async def submit(self, item: T) -> asyncio.Future[Any]:
        """:meth:`put` an item, and return the future of its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._queue._put_of(self.job, self._ticket, item, future)
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

    async def join(self) -> None:
        """Wait until the items that were put are done.

        Raises:
            QueueStateError: the queue stopped, and some are not done.
        """
        done = asyncio.Event()
        self.job.when_all_done(done.set)
        await done.wait()
        left = self.job.accepted - self.job.done
        if left:
            raise self._queue._not_processed(f"{left} items of the batch were")
