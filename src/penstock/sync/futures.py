"""Futures of what a worker function makes of the items of a queue, for threads."""

from __future__ import annotations

import concurrent.futures
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from penstock.errors import QueueStateError
from penstock.sync.pool import ThreadWorkerPool
from penstock.sync.provider import refuse_in_loop

T = TypeVar("T")


class Result(concurrent.futures.Future[Any]):
    """A ``concurrent.futures.Future`` whose waits cannot deadlock in silence.

    ``result`` and ``exception`` raise ``QueueStateError`` where they would wait in a running event
    loop, in a forked child, or without a timeout in a worker of the item's own queue.
    """

    def __init__(self, pool: ThreadWorkerPool[Any], *, is_nested: bool = False) -> None:
        super().__init__()
        self._pool = pool
        # Whether one more worker is there while a worker waits for this.
        self._is_nested = is_nested

    def result(self, timeout: float | None = None) -> Any:
        """What the worker function returned; raises what the worker function raised.

        Raises:
            TimeoutError: the item is not done after ``timeout`` seconds (``None``: no limit). The
                class is that of ``concurrent.futures``, which on Python 3.10 is not the built-in.
            CancelledError: the future was cancelled.
            QueueStateError: the queue stopped before the item was done; or see above.
        """
        with self._waiting("result", timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the worker function raised, or None. Raises as :meth:`result` does."""
        with self._waiting("exception", timeout):
            return super().exception(timeout)

    @contextmanager
    def _waiting(self, call: str, timeout: float | None) -> Iterator[None]:
        if self.done():
            yield
            return
        pool = self._pool
        if pool.is_inherited:
            raise QueueStateError(
                f"Cannot call {call}() in a forked child: the item is its parent's"
            )
        refuse_in_loop(call)
        if timeout is None and pool.owns_this_thread() and not self._is_nested:
            raise QueueStateError(
                f"Cannot call {call}() without a timeout from inside a worker function of the same "
                "queue: if all workers did, nobody would be left to process the items"
            )
        yield


def results_of(
    submit: Callable[[T], Result], items: Iterator[T], most: int, ordered: bool
) -> Generator[Result, None, None]:
    """Submit all ``items`` and iterate over their futures, each of them done.

    Args:
        submit: puts an item.
        items: read one at a time. A future that is done is yielded before the next item is read,
            since that may take long.
        most: the most items that are put and whose futures were not read.
        ordered: the futures in the order of the items; else as they become done.

    If ``items`` or ``submit`` raises, that is raised after the futures of what was put. At its end
    it cancels the futures that were not read.
    """
    unread: OrderedDict[Result, None] = OrderedDict()  # for removal from the middle at once
    done: SimpleQueue[Result] = SimpleQueue()
    all_put = False
    error: Exception | None = None
    try:
        while unread or not all_put:
            may_put = not all_put and len(unread) < most
            is_ready = _first(unread).done() if ordered and unread else not done.empty()
            if is_ready or not may_put:
                yield _next(unread, done, ordered)
                continue
            try:
                item = next(items)
                future = submit(item)
            except StopIteration:
                all_put = True
                continue
            except Exception as raised:  # noqa: BLE001 - raised again below
                error, all_put = raised, True
                continue
            item = None  # type: ignore[assignment] # keep nothing alive
            unread[future] = None
            if not ordered:
                future.add_done_callback(done.put)  # type: ignore[arg-type]
            del future
        if error is not None:
            raise error
    finally:
        error = None  # or frame and exception would keep each other alive
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
