"""One item and one call of a function on it: in the item's context, async or in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, InvalidStateError
from concurrent.futures import Future as ThreadFuture
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import Context, copy_context
from copy import copy
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from penstock._util.functions import is_async
from penstock.errors import QueueStateError
from penstock.policies.governor import Course

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
#: What somebody waits on for the result of an item, in an event loop or in a thread.
AnyFuture: TypeAlias = "asyncio.Future[Any] | ThreadFuture[Any]"
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
    """What goes along with an item, where there is more than the item and its context.

    ``future``: somebody waits for the result. ``call``: stands in for the function of whichever
    worker takes the item. ``course``: the item keeps to rules. Telemetry has a kind of ticket that
    observes what happens to the item.
    """

    __slots__ = ("call", "course", "future")

    def __init__(
        self,
        future: AnyFuture | None = None,
        call: AsyncCall[Any] | None = None,
        course: Course | None = None,
    ) -> None:
        self.future = future
        self.call = call
        self.course = course

    @property
    def is_unwanted(self) -> bool:
        """Whether somebody waited for the result and no longer does."""
        future = self.future  # which another thread may forget in this very moment
        return future is not None and future.cancelled()

    async def run(self, call: AsyncCall[Any], item: Any) -> None:
        """Call the function and pass on what it returns; skip an item that is unwanted."""
        if not self.claim():
            return
        call = self.call or call
        if self.course is None:
            self.succeed(await call(item))
            return
        await self._admit(self.course, item)
        self.succeed(await self.course.run(call, item))

    async def _admit(self, course: Course, item: Any) -> None:
        await course.admit(item)
        if course.is_void:  # a thread waited for this, and its item was taken from it meanwhile
            course.give_up()
            raise asyncio.CancelledError("somebody else has the item now")

    def verdict(self, error: BaseException) -> tuple[float | None, BaseException]:
        """In how many seconds the item is tried again, or None; and the error that counts."""
        return (None, error) if self.course is None else self.course.verdict(error)

    def bury(self, error: BaseException, item: Any) -> None:
        """The item failed for good, and whoever was to hear of it has."""
        if self.course is not None and self.future is None:
            self.course.bury(error, item)

    def reissue(self) -> Ticket:
        """The same, for whoever processes the item next; this one is void from now on."""
        new = copy(self)
        # In this order: what has no future and is not void is buried when it fails.
        if self.course is not None:
            new.course = copy(self.course)
            self.course.is_void = True
        self.future = None
        return new

    def claim(self) -> bool:
        """Whether the item is to run. A future of another thread can't be cancelled from here on.

        (Or it could be, between a look at it and the setting of its result.)
        """
        future = self.future
        if isinstance(future, ThreadFuture) and not (future.running() or future.done()):
            return future.set_running_or_notify_cancel()
        return not self.is_unwanted

    def forget_future(self) -> None:
        """Nobody waits for the result any more: their loop was closed, or they heard of a stop."""
        self.future = None

    def fail(self, error: BaseException) -> bool:
        """Pass on what the function raised; False if nobody waits for it."""
        future = self.future
        if future is None or future.done():
            return False
        if isinstance(error, asyncio.CancelledError) and isinstance(future, asyncio.Future):
            future.cancel()  # to whoever awaits it this looks the same as the exception
        else:
            try:
                future.set_exception(error)
            except InvalidStateError:  # another thread was faster
                return False
        return True

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised as well."""

    def succeed(self, result: Any) -> None:
        """Pass on a result, if somebody waits for it."""
        future = self.future  # which another thread may forget in this very moment
        if future is not None and not future.done():
            with suppress(InvalidStateError):  # another thread was faster
                future.set_result(result)

    def taken_by_hand(self) -> None:
        """The item was taken by ``get``, so no worker will tell its result."""
        self.fail(QueueStateError("An item that is taken with get() has no result"))

    def attempt(self, context: Context) -> AbstractContextManager[object]:
        """What to process an item in that was taken by hand; ``context`` is that of its put."""
        return nullcontext()


def as_async(func: WorkerFunc[T, Any], threads: Callable[[], Executor | None]) -> AsyncCall[T]:
    """``func`` itself if it is async, else a call of it in one of the ``threads()``."""
    if is_async(func):
        return func

    async def call(item: T) -> Any:
        return await in_thread(threads(), func, item)

    return call


async def in_thread(
    threads: Executor | None, func: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call a plain function in a thread, in a copy of the context.

    What it returns is awaited here if it can be, so that ``lambda item: fetch(client, item)``
    around an async function works.
    """
    loop = asyncio.get_running_loop()
    call: Any = partial(copy_context().run, _outcome_of, func, *args, **kwargs)
    outcome: _Outcome = await loop.run_in_executor(threads, call)
    # Taken out, or the frames in the exception's traceback and the exception would keep each
    # other alive.
    error, outcome.error = outcome.error, None
    if error is not None:
        try:
            raise error
        finally:
            error = None
    result = outcome.result
    return await result if inspect.isawaitable(result) else result


class _Outcome:
    """What a function returned, or what it raised.

    Handed over as a value: a future cannot hold a StopIteration, and would throw a GeneratorExit
    into whoever awaits it, as if it were being closed.
    """

    __slots__ = ("error", "result")

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


def _outcome_of(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> _Outcome:
    try:
        return _Outcome(func(*args, **kwargs))
    except StopIteration as error:
        substitute = RuntimeError("the function raised StopIteration")
        substitute.__cause__ = error  # an async function turns it into the same
        return _Outcome(error=substitute)
    except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
        return _Outcome(error=error)
