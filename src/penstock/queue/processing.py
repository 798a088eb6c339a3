"""The block in which a caller processes one item, without workers."""

from __future__ import annotations

from contextlib import nullcontext
from types import TracebackType
from typing import Generic, TypeVar

from penstock.queue.in_process import InProcessQueue

T = TypeVar("T")


class ProcessingBlock(Generic[T]):
    """The block of :meth:`penstock.BoundedQueue.processing`.

    Not a generator: its span is the current one in the block, and the span that a generator makes
    current before a ``yield`` cannot be put away properly after it.
    """

    def __init__(self, queue: InProcessQueue[T], timeout: float | None) -> None:
        self._queue = queue
        self._timeout = timeout

    async def __aenter__(self) -> T:
        self._entry = await self._queue._take(self._timeout)
        self._queue._counters.task_done()  # it is in ours: task_done() is not for the caller
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
        self._queue._finish_item(self._entry, self._attempt, exc)
