"""A call of a worker function, async or in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from penstock._util.functions import is_async

T = TypeVar("T")
R = TypeVar("R")

#: A worker function: ``async def`` or a plain function of an item.
WorkerFunc: TypeAlias = "Callable[[T], Awaitable[R]] | Callable[[T], R]"
#: An error handler: ``async def`` or a plain function of an exception and its item.
ErrorHandler: TypeAlias = (
    "Callable[[Exception, T], Awaitable[None]] | Callable[[Exception, T], None]"
)
#: A worker function of either kind, made ready for the event loop.
AsyncCall: TypeAlias = "Callable[[T], Awaitable[Any]]"


class _Finished:
    """The type of FINISHED, so that it shows under its own name in a debugger."""

    def __repr__(self) -> str:
        return "FINISHED"


FINISHED: Final = _Finished()


def as_async(func: WorkerFunc[T, Any], threads: Callable[[], Executor | None]) -> AsyncCall[T]:
    """Return ``func`` itself if it is async, else a function that calls it in ``threads()``."""
    if is_async(func):
        return func

    async def call(item: T) -> Any:
        return await in_thread(threads(), func, item)

    return call


async def in_thread(
    threads: Executor | None, func: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call a plain function in a thread of ``threads``, in a copy of the caller's context.

    An awaitable result is awaited here, in the event loop, so that a lambda around an async
    function works: ``lambda item: fetch(client, item)``. ``None``: threads of the event loop.
    """
    loop = asyncio.get_running_loop()
    call: Any = partial(copy_context().run, _capture, func, *args, **kwargs)
    captured: _Captured = await loop.run_in_executor(threads, call)
    # Taken out, or the exception and the frames of its traceback would keep each other alive.
    error, captured.error = captured.error, None
    if error is not None:
        try:
            raise error
        finally:
            error = None
    result = captured.result
    return await result if inspect.isawaitable(result) else result


def instead_of(error: StopIteration) -> RuntimeError:
    """What a plain function that raises StopIteration fails with; an async one does the same."""
    substitute = RuntimeError("the function raised StopIteration")
    substitute.__cause__ = error
    return substitute


class _Captured:
    """The result of a function, or its exception.

    Handed over as a value: a future cannot hold a StopIteration, and would throw a GeneratorExit
    into the coroutine that awaits it, as if the coroutine were being closed.
    """

    __slots__ = ("error", "result")

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


def _capture(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> _Captured:
    try:
        return _Captured(func(*args, **kwargs))
    except StopIteration as error:
        return _Captured(error=instead_of(error))
    except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
        return _Captured(error=error)
