"""The progress bar of a batch or a map. It is tqdm's, of the extra ``progress``."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sized
from contextlib import aclosing, closing, contextmanager
from functools import partial, wraps
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
    with _bar_of(items)() as bar:
        yield Progress(bar.update, failures_count=failures_count)


def show_progress(results: AsyncGenerator[T, None], items: Any) -> AsyncGenerator[T, None]:
    """Iterate over ``results``, those of ``items``, beside a bar.

    Raises:
        ImportError: tqdm is not installed.
    """
    bar_of_results = _bar_of(items)

    async def shown() -> AsyncGenerator[T, None]:
        with bar_of_results() as bar:
            async with aclosing(results):
                async for result in results:
                    bar.update()
                    yield result

    return shown()


def show_progress_blocking(
    results: Generator[T, None, None], items: Any
) -> Generator[T, None, None]:
    """:func:`show_progress` for threads."""
    bar_of_results = _bar_of(items)

    def shown() -> Generator[T, None, None]:
        with bar_of_results() as bar, closing(results):
            for result in results:
                bar.update()
                yield result

    return shown()


def _bar_of(items: Any) -> Callable[[], Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs the package tqdm: pip install 'penstock[progress]'"
        ) from None
    return partial(tqdm, total=len(items) if isinstance(items, Sized) else None, unit="item")
