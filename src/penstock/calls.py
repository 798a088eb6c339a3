"""One item and one call of a function on it: in the item's context, async or in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: What a user may give to process an item: ``async def`` or a plain function.
WorkerFunc: TypeAlias = "Callable[[T], Awaitable[R]] | Callable[[T], R]"
#: What a user may give to take an item that failed, with the exception.
ErrorHandler: TypeAlias = (
    "Callable[[Exception, T], Awaitable[None]] | Callable[[Exception, T], None]"
)
#: Either kind of worker function, made ready for the loop.
AsyncCall: TypeAlias = "Callable[[T], Awaitable[Any]]"
#: An accepted item: its place in the order of puts, the item, the context that it runs in, and
#: a ticket if somebody waits for its result. A tuple, because one is made for every item and
#: a class would cost as much as the whole rest of a put.
Entry: TypeAlias = "tuple[int, T, Context, Ticket | None]"


class _Finished:
    """The type of FINISHED, so that it shows under its own name in a debugger."""

    def __repr__(self) -> str:
        return "FINISHED"


FINISHED: Final = _Finished()


class Ticket:
    """Somebody waits for the result of an item: the future, and perhaps a function of its own.

    ``call`` stands in for the function of whichever worker takes the item.
    """

    __slots__ = ("call", "future")

    def __init__(self, future: asyncio.Future[Any], call: AsyncCall[Any] | None = None) -> None:
        self.future = future
        self.call = call

    async def run(self, call: AsyncCall[Any], item: Any) -> None:
        """Call the function and pass on what it returns; skip it if nobody waits any more."""
        if self.future.cancelled():
            return
        result = await (self.call or call)(item)
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> bool:
        """Pass on what the function raised; False if nobody waits any more."""
        if self.future.done():
            return False
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()  # to whoever awaits it this looks the same as the exception
        else:
            self.future.set_exception(error)
        return True


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling ``func`` gives a coroutine and runs nothing of it yet."""
    if inspect.iscoroutinefunction(func):
        return True
    return not inspect.isroutine(func) and inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004 - the method, not whether it has one
    )


def as_async(func: WorkerFunc[T, Any], threads: Callable[[], Executor | None]) -> AsyncCall[T]:
    """``func`` itself if it is async, else a call of it in one of the ``threads()``."""
    if is_async(func):
        return func

    async def call(item: T) -> Any:
        return await in_thread(threads(), func, item)

    return call


async def in_thread(
    threads: Executor | None, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Call a plain function in a thread, in a copy of the context.

    What it returns is awaited here if it can be, so that ``lambda item: fetch(client, item)``
    around an async function works.
    """
    loop = asyncio.get_running_loop()
    call = partial(copy_context().run, _plain, func, *args, **kwargs)
    result = await loop.run_in_executor(threads, call)
    return await result if inspect.isawaitable(result) else result


def _plain(func: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    try:
        return func(*args, **kwargs)
    except StopIteration as error:
        # No future can hold a StopIteration; an async function turns it into this as well.
        raise RuntimeError("the function raised StopIteration") from error
