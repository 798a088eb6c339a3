"""The future of what a worker function makes of one item, for threads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penstock.errors import QueueStateError
from penstock.sync.blocking import refuse_in_loop
from penstock.sync.pool import BridgePool


class Result(concurrent.futures.Future[Any]):
    """A ``concurrent.futures.Future`` whose waits cannot deadlock in silence.

    ``result`` and ``exception`` raise ``QueueStateError`` where they would wait in a running event
    loop, in a forked child, or without a timeout in a worker of the item's own queue.
    """

    def __init__(self, pool: BridgePool[Any]) -> None:
        super().__init__()
        self._pool = pool

    def result(self, timeout: float | None = None) -> Any:
        """What the worker function returned; raises what it raised.

        Raises:
            TimeoutError: it is not done after ``timeout`` seconds (``None``: no limit). That of
                ``concurrent.futures``, which is another one on Python 3.10.
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
        if timeout is None and pool.owns_this_thread():
            raise QueueStateError(
                f"Cannot call {call}() without a timeout from inside a worker function of the same "
                "queue: if all workers did, nobody would be left to process the items"
            )
        yield
