"""The results of items, in their order or as they come: what ``map`` is made of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from penstock.limits import AdaptiveConcurrency
from penstock.queue.bounded import BoundedQueue, QueueStatus
from penstock.queue.stream import ItemStream
from penstock.workers.calls import AsyncCall, as_async

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


class MapWorkers(Generic[T]):
    """Makes sure that workers run on ``queue`` within an ``async with`` block.

    MapWorkers that run already do the work, with ``worker_func``: the block gets the call for
    ``submit``. If there are none, ``size`` workers are started, and cancelled at the end.
    """

    # Not a generator itself, since an async generator enters it: at its end ``asyncio.run`` closes
    # all generators that are open, each by itself, and not the outer one first.

    def __init__(
        self,
        queue: BoundedQueue[T],
        worker_func: Callable[[T], Any],
        size: int | AdaptiveConcurrency,
    ) -> None:
        self._queue = queue
        self._worker_func = worker_func
        self._size = size
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> AsyncCall[T] | None:
        count = self._queue.worker_count
        if not count:
            await self._queue.start_workers(self._worker_func, self._size)
            return None
        threads = self._threads = ThreadPoolExecutor(count, thread_name_prefix="penstock-map")
        return as_async(self._worker_func, lambda: threads)

    async def __aexit__(self, *error: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        elif self._queue.status is QueueStatus.PROCESSING:
            await self._queue.stop_workers(timeout=0)


class ResultStream(Generic[T]):
    """Puts items into a queue and iterates over their futures, each of them done.

    At most ``maxsize`` plus the number of workers items are put whose futures were not read.
    """

    def __init__(self, queue: BoundedQueue[T], call: AsyncCall[T] | None, ordered: bool) -> None:
        self._queue = queue
        self._call = call
        self._ordered = ordered
        # One less, because the feeder waits for its turn only after it has put an item.
        self._turns = asyncio.Semaphore(queue.maxsize + queue.worker_count - 1)
        self._futures: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
        self._unread: set[asyncio.Future[Any]] = set()
        self._all_fed = False
        self._reading = False

    async def feed(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        """Put all ``items``. Raises what the iteration over them raises."""
        try:
            async with aclosing(each(items)) as source:
                async for item in source:
                    future = await self._queue.submit(item, timeout=math.inf, call=self._call)
                    self._unread.add(future)
                    if self._ordered:
                        self._futures.put_nowait(future)
                    else:
                        future.add_done_callback(self._futures.put_nowait)
                    await self._turns.acquire()
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
