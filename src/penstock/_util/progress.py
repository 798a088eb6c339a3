"""The progress bar of a batch. It is tqdm's, of the extra ``progress``."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sized
from contextlib import contextmanager
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar

from penstock._util.functions import is_async

T = TypeVar("T")


class Progress:
    """Counts the items that are done, on a bar.

    Args:
        update: called with the number of items to add to the bar.
        failures_count: whether a call that failed ends its item. With retries it does not.
    """

    def __init__(self, update: Callable[[int], object], *, failures_count: bool) -> None:
        self._update = update
        self._failures_count = failures_count
        self._count = 0
        self._lock = threading.Lock()  # plain worker functions end in threads of their own

    def advance(self, count: int = 1) -> None:
        """Add ``count`` items that are done."""
        with self._lock:
            self._count += count
            self._update(count)

    def finish(self, processed: int) -> None:
        """Add the items of ``processed`` that were not added yet: all are done."""
        self.advance(processed - self._count)

    def wrap(self, func: Callable[[T], Any]) -> Callable[[T], Any]:
        """``func`` as a function, async or plain like it, that advances the bar with each call.

        A call that fails may be followed by another attempt. So its item is counted only by
        :meth:`finish`, unless ``failures_count``.
        """

        @wraps(func)
        async def async_call(item: T) -> Any:
            return await finish(func(item))

        async def finish(result: Awaitable[Any]) -> Any:
            try:
                value = await result
            except BaseException:
                self._failed()
                raise
            self.advance()
            return value

        @wraps(func)
        def plain_call(item: T) -> Any:
            try:
                result = func(item)
            except BaseException:
                self._failed()
                raise
            if isawaitable(result):
                return finish(result)
            self.advance()
            return result

        return async_call if is_async(func) else plain_call

    def _failed(self) -> None:
        if self._failures_count:
            self.advance()


@contextmanager
def progress_bar(wanted: bool, items: Any, *, failures_count: bool) -> Iterator[Progress | None]:
    """Show a bar, if ``wanted``, and yield its counter; else yield None.

    Raises:
        ImportError: tqdm is not installed.
    """
    if not wanted:
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs the package tqdm: pip install 'penstock[progress]'"
        ) from None
    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit="item") as bar:
        yield Progress(bar.update, failures_count=failures_count)
