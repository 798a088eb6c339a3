"""The progress bar of a batch: tqdm's, behind the extra ``progress``."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sized
from contextlib import contextmanager
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar

from penstock.calls import is_async

T = TypeVar("T")


@contextmanager
def progress_bar(
    wanted: bool, items: Any, processed: Callable[[], int]
) -> Iterator[Callable[[], None] | None]:
    """Yield what to call when more may be ``processed()``; None if no bar is wanted."""
    if not wanted:
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs the package tqdm: pip install 'penstock[progress]'"
        ) from None
    lock = threading.Lock()  # plain worker functions end in their threads
    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit="item") as bar:
        began_with = processed()

        def advance() -> None:
            with lock:  # not one for each call: an item that is tried again is not done
                bar.update(processed() - began_with - bar.n)

        yield advance


def followed_by(advance: Callable[[], None], func: Callable[[T], Any]) -> Callable[[T], Any]:
    """``func``, of the same kind, and ``advance()`` after each call."""

    @wraps(func)
    async def async_call(item: T) -> Any:
        try:
            return await func(item)
        finally:
            advance()

    async def finish(result: Awaitable[Any]) -> Any:
        try:
            return await result
        finally:
            advance()

    @wraps(func)
    def plain_call(item: T) -> Any:
        try:
            result = func(item)
        except BaseException:
            advance()
            raise
        if isawaitable(result):
            return finish(result)
        advance()
        return result

    return async_call if is_async(func) else plain_call
