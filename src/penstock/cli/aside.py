"""Calls that may block, out of the way of the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Aside:
    """Calls functions one after the other in a thread of its own.

    A daemon: unlike the threads of an executor, one that is stuck does not keep the program from
    ending. What was called is called to its end, even if nobody waits for it any more.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """Call ``func()`` when all earlier calls are done."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((future, func))
        return future

    def _work(self) -> None:
        while True:
            future, func = self._calls.get()
            result, error = None, None
            try:
                result = func()
            except Exception as raised:  # noqa: BLE001 - it is raised again where it is awaited
                error = raised
            try:
                self._loop.call_soon_threadsafe(settle, future, result, error)
            except RuntimeError:  # the loop is closed
                return
            del future, func, result, error  # keep nothing alive while idle


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give ``future`` its result or exception, if it still wants one."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
