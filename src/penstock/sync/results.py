"""The results of a queue's items, as they come or in the order of the items; behind ``map``."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from penstock.limits import AdaptiveConcurrency
from penstock.queue.status import QueueStatus
from penstock.sync.queue import BlockingQueue
from penstock.sync.result import Result
from penstock.workers.calls import AsyncCall

T = TypeVar("T")


@contextmanager
def workers_for(
    queue: BlockingQueue[T], worker_func: Callable[[T], Any], size: int | AdaptiveConcurrency
) -> Iterator[AsyncCall[T] | None]:
    """See that workers run on ``queue``; yield the call that they have to be told of, if any.

    Workers that are there already do the work, but with ``worker_func``. If there are none,
    ``size`` workers are started, and cancelled at the end.
    """
    if queue.worker_count:
        with_threads = ThreadPoolExecutor(queue.worker_count, thread_name_prefix="penstock-map")
        try:
            yield queue.either_way(worker_func, with_threads)
        finally:
            with_threads.shutdown(wait=False)
    else:
        queue.start_workers(worker_func, size)
        try:
            yield None
        finally:
            if queue.status is QueueStatus.PROCESSING:
                queue.stop_workers(timeout=0)


def results_of(
    queue: BlockingQueue[T],
    worker_func: Callable[[T], Any],
    items: Iterable[T],
    size: int | AdaptiveConcurrency,
    ordered: bool,
) -> Generator[Result, None, None]:
    """Put all ``items`` and iterate over their futures, each of them done.

    At most ``maxsize`` plus the number of workers items are put whose futures were not read. What
    is done is told before the next item is read, since reading that may take long.
    """
    unread: OrderedDict[Result, None] = OrderedDict()  # for removal from the middle at once
    done: SimpleQueue[Result] = SimpleQueue()
    source = iter(items)
    with workers_for(queue, worker_func, size) as call:
        most = queue.maxsize + queue.worker_count
        all_put = False
        try:
            while unread or not all_put:
                may_put = not all_put and len(unread) < most
                is_ready = _first(unread).done() if ordered and unread else not done.empty()
                if is_ready or not may_put:
                    yield _next(unread, done, ordered)
                    continue
                try:
                    item = next(source)
                except StopIteration:
                    all_put = True
                    continue
                future = queue.submit(item, timeout=math.inf, call=call)
                unread[future] = None
                if not ordered:
                    future.add_done_callback(done.put)  # type: ignore[arg-type]
        finally:
            for future in unread:
                future.cancel()


def _next(unread: OrderedDict[Result, None], done: SimpleQueue[Result], ordered: bool) -> Result:
    if ordered:
        future = _first(unread)
        future.exception()  # waits
    else:
        future = done.get()
    del unread[future]
    return future


def _first(unread: OrderedDict[Result, None]) -> Result:
    return next(iter(unread))
