"""The results of items, in their order or as they come: what ``map`` is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from penstock.queue.jobs import RunningJob
from penstock.queue.status import NotProcessedError
from penstock.queue.stream import ItemStream
from penstock.workers.item import AnyFuture

T = TypeVar("T")


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """``async for`` over an iterable of either kind.

    An async generator, or the iterator of a queue, is closed together with this one. Nobody else
    knows when it is read no further, and the garbage collector would close it at an odd time, or
    never.
    """
    if not isinstance(items, AsyncIterable):
        for item in items:
            yield item
        return
    source = aiter(items)
    try:
        async for item in source:
            yield item
    finally:
        if isinstance(source, (AsyncGenerator, ItemStream)):
            await source.aclose()


def outcome_of(future: AnyFuture, return_exceptions: bool) -> Any:
    """The result of a future that is done, or its exception if it is to be returned.

    Raises:
        BaseException: that of the future otherwise; and always if the queue stopped before the
            item was processed, which is no outcome.
    """
    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if error is None:
        return future.result()
    if return_exceptions and not isinstance(error, NotProcessedError):
        return error
    try:
        raise error
    finally:
        error = None  # or frame and exception would keep each other alive


class ResultStream(Generic[T]):
    """Submits items to a job and iterates over their futures, each of them done.

    Args:
        job: where the items are submitted.
        most: the most items that are put and whose futures were not read.
        ordered: the futures in the order of the items; else as they become done.
    """

    def __init__(self, job: RunningJob[T], most: int, ordered: bool) -> None:
        self._job = job
        self._ordered = ordered
        # One less, because the feeder waits for its turn only after it has put an item.
        self._turns = asyncio.Semaphore(most - 1)
        self._futures: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
        self._unread: set[asyncio.Future[Any]] = set()
        self._all_fed = False
        self._reading = False

    async def feed(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        """Put all ``items``. Raises what the iteration over them raises."""
        try:
            async with aclosing(each(items)) as source:
                async for item in source:
                    future = await self._job.submit(item)
                    self._unread.add(future)
                    if self._ordered:
                        self._futures.put_nowait(future)
                    else:
                        future.add_done_callback(self._futures.put_nowait)
                    await self._turns.acquire()
                    if self._job.is_given_up:
                        break
        finally:
            self._futures.put_nowait(None)

    def __aiter__(self) -> ResultStream[T]:
        return self

    async def __anext__(self) -> asyncio.Future[Any]:
        if self._reading:  # the reader is done with the future before this one
            self._reading = False
            self._turns.release()
        while self._unread or not self._all_fed:
            future = await self._futures.get()
            if future is None:
                self._all_fed = True
                continue
            if not future.done():
                await asyncio.wait([future])
            self._unread.discard(future)
            self._reading = True
            return future
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Cancel the futures that were not read: nobody will read them."""
        for future in self._unread:
            if future.done() and not future.cancelled():
                future.exception()  # read here, so that asyncio does not log it
            future.cancel()
