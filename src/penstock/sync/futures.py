"""Futures of what a worker function makes of the items of a queue, for threads."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from penstock._util.compat import Outcome
from penstock.errors import QueueStateError
from penstock.queue.status import NotProcessedError
from penstock.sync.pool import ThreadWorkerPool
from penstock.sync.provider import refuse_to_wait

T = TypeVar("T")


class UnreadException:
    """The exception of a future, logged when the future is collected and nobody has read it.

    An object of its own, which only the future holds: so only futures that failed have a finaliser.
    """

    def __init__(self, exception: BaseException, pool: ThreadWorkerPool[Any]) -> None:
        self._exception: BaseException | None = exception
        self._logger = pool._logger
        self._queue_name = pool._name
        _unread.add(self)

    def forget(self) -> None:
        """Somebody has read it."""
        self._exception = None

    def log(self) -> None:
        """Log it, unless that was done or somebody has read it."""
        exception, self._exception = self._exception, None
        if exception is not None:
            self._logger.error(
                "An item of queue %s failed, and its exception was never retrieved from its future",
                self._queue_name,
                exc_info=exception,
            )

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending():  # else there is no logging any more, and _log_all() came before
            self.log()


_unread: weakref.WeakSet[UnreadException] = weakref.WeakSet()


@atexit.register
def _log_all() -> None:
    """The interpreter ends: nobody will read them any more. The queues are drained by now."""
    for unread in list(_unread):
        unread.log()


def _forget_all() -> None:
    """This is a forked child: the parent has them too, and logs them."""
    for unread in list(_unread):
        unread.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class Result(concurrent.futures.Future[Outcome]):
    """A ``concurrent.futures.Future`` whose waits cannot deadlock in silence.

    ``result`` and ``exception`` raise ``QueueStateError`` where they would wait in a running event
    loop or in a forked child. While a worker of the item's own queue waits in them, one more worker
    is there.

    An exception that nobody has read when the future is garbage-collected is logged, as asyncio
    does it: else nobody would ever hear of it. But not that the queue stopped before the item was
    done: ``stop`` says so, and the item is in ``unprocessed``.
    """

    # Set for a future that failed only: one that succeeds must not pay for this.
    _unread: UnreadException | None = None
    _is_read = False

    def __init__(self, pool: ThreadWorkerPool[Any], *, is_nested: bool = False) -> None:
        super().__init__()
        self._pool = pool
        # Whether one more worker is there while a worker waits for this.
        self._is_nested = is_nested

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail. For the queue."""
        super().set_exception(exception)
        # A NotProcessedError of another queue, which the worker function raised, has a traceback.
        is_stop = isinstance(exception, NotProcessedError) and exception.__traceback__ is None
        if exception is not None and not is_stop:
            self._unread = UnreadException(exception, self._pool)
            if self._is_read:  # meanwhile, by another thread or a callback
                self._unread.forget()

    def _mark_read(self) -> None:
        # In this order, see set_exception(): one of the two threads sees what the other has set.
        self._is_read = True
        if self._unread is not None:
            self._unread.forget()

    def result(self, timeout: float | None = None) -> Outcome:
        """What the worker function returned; raises what the worker function raised.

        Raises:
            TimeoutError: the item is not done after ``timeout`` seconds (``None``: no limit). The
                class is that of ``concurrent.futures``, which on Python 3.10 is not the built-in.
            CancelledError: the future was cancelled.
            QueueStateError: the queue stopped before the item was done; or see above.
        """
        with self._waiting("result"):
            try:
                return super().result(timeout)
            except BaseException as error:
                if error is self._exception:  # and not that of a wait that took too long
                    self._mark_read()
                raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the worker function raised, or None. Raises as :meth:`result` does."""
        with self._waiting("exception"):
            error = super().exception(timeout)
        if error is not None:
            self._mark_read()
        return error

    def _get_snapshot(self) -> Any:  # how asyncio.wrap_future reads it, from Python 3.14 on
        self._mark_read()
        return super()._get_snapshot()  # type: ignore[misc]

    def discard(self) -> None:
        """Cancel it if its item still waits; nobody will read it, so let nothing be logged."""
        if not self.cancel():
            self.add_done_callback(lambda future: future.exception())

    @contextmanager
    def _waiting(self, call: str) -> Iterator[None]:
        if self.done():
            yield
            return
        pool = self._pool
        if pool.is_inherited:
            raise QueueStateError(
                f"Cannot call {call}() in a forked child: the item is its parent's"
            )
        refuse_to_wait(call)
        if self._is_nested or not pool.is_inside:
            yield
            return
        with pool.one_more_worker():
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

    If ``items`` or ``submit`` raises, that is raised after the futures of what was put; but a
    KeyboardInterrupt or SystemExit at once. At its end it discards the futures that were not read.
    """
    unread: OrderedDict[Result, None] = OrderedDict()  # for removal from the middle at once
    done: SimpleQueue[Result] = SimpleQueue()
    all_put = False
    error: BaseException | None = None
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
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as raised:  # noqa: BLE001 - raised again below
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
            future.discard()


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
