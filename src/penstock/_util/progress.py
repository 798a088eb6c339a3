"""The progress bar of a batch: tqdm's, behind the extra ``progress``."""

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
    """Counts items that are done, on a bar."""

    def __init__(self, update: Callable[[int], object], *, failures_count: bool) -> None:
        self._update = update
        self._failures_count = failures_count
        self._count = 0
        self._lock = threading.Lock()  # plain worker functions end in their threads

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        with self._lock:
            self._count += count
            self._update(count)

    def finish(self, processed: int) -> None:
        """All are done: so many."""
        self.advance(processed - self._count)

    def following(self, func: Callable[[T], Any]) -> Callable[[T], Any]:
        """``func``, of the same kind, which advances the bar with each call that ends an item.

        One that fails may be followed by another attempt: unless ``failures_count``, it is only
        counted when all are done.
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
    """Yield what counts items that are done; None if no bar is wanted."""
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
