"""Calls that may block, out of the way of the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class IoThread:
    """Calls functions one after the other in a thread of its own, from the first one to the end.

    A daemon: unlike the threads of an executor, one that is stuck does not keep the program from
    ending. What was called is called to its end, even if nobody waits for it any more.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None]
        self._calls = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        # Each of them is written by one thread only.
        self._begun = self._ended = 0

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way, or waits for one that is."""
        return self._begun > self._ended

    def call(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """Call ``func()`` when all earlier calls are done."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._begun += 1
        self._calls.put((future, func))
        if self._thread.ident is None:
            self._thread.start()
        return future

    def end(self) -> None:
        """End the thread, to be called when nothing else is.

        One that is in the middle of a call ends after it: nothing can break off a read from a pipe
        that nobody writes to, nor a write to one that nobody reads.
        """
        self._calls.put(None)
        if self._thread.ident is not None and not self.is_busy:
            self._thread.join()

    def _work(self) -> None:
        while (called := self._calls.get()) is not None:
            future, func = called
            result, error = None, None
            try:
                result = func()
            except Exception as raised:  # noqa: BLE001 - it is raised again where it is awaited
                error = raised
            self._ended += 1
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it
                self._loop.call_soon_threadsafe(settle, future, result, error)
            del called, future, func, result, error  # keep nothing alive while idle


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give ``future`` its result or exception, if it still wants one."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
