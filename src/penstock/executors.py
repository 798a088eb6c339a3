"""Executors: calls with a bound on how many run at once, or on how fast they start."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar, overload
from weakref import WeakSet

from penstock._util import checks
from penstock._util.compat import Self
from penstock._util.functions import is_async
from penstock.errors import QueueStateError
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.calling import check_timeout
from penstock.policies.policy import Policy, policy_of
from penstock.queue.results import each
from penstock.workers.calls import in_thread

T = TypeVar("T")
R = TypeVar("R")


class LoopLocal(Generic[T]):
    """An object that ``make()`` returns, and a new one in each other event loop.

    asyncio's locks and semaphores belong to the first loop in which a task waited for them.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get(self) -> T:
        """The object of the running loop."""
        loop = asyncio.get_running_loop()
        if self._made is None or self._made[0] is not loop:
            self._made = (loop, self._make())
        return self._made[1]


class AsyncExecutor:
    """Runs calls, at most ``max_concurrency`` at once; the others wait, first come, first served.

    Args:
        max_concurrency: at least 1. ``None``: no bound.

    Raises:
        ValueError, TypeError: for a ``max_concurrency`` that is not allowed.
    """

    def __init__(self, max_concurrency: int | None = None) -> None:
        if max_concurrency is not None:
            max_concurrency = checks.positive_int(
                max_concurrency, "max_concurrency", "Maximum concurrency must be at least 1"
            )
        self.max_concurrency = max_concurrency
        self._slots = LoopLocal(lambda: asyncio.Semaphore(max_concurrency or sys.maxsize))
        self._calls: set[asyncio.Task[Any]] = set()
        # Weak, since the caller of a call may have been cancelled twice and be gone.
        self._cut_off: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "open"
        most = self.max_concurrency or "any number"
        return f"<{type(self).__name__} {state}: calls: {len(self._calls)}, at once: {most}>"

    @overload
    async def execute(
        self, func: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any
    ) -> R: ...
    @overload
    async def execute(self, func: Callable[..., R], /, *args: Any, **kwargs: Any) -> R: ...
    async def execute(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``func(*args, **kwargs)`` when its turn has come, and return the result.

        ``func`` is ``async def``, or a plain function, which runs in a thread.

        Raises:
            QueueStateError: the executor is shut down, or was shut down before the call ended.
            TypeError: ``func`` cannot be called.
            Exception: any exception of ``func``.

        If this is cancelled, the call is cancelled. (A plain function goes on in its thread.)
        """
        checks.plain_callable(func, "func")
        if self._closed:
            raise QueueStateError(
                "Cannot execute calls when executor is stopped", current_state="stopped"
            )
        call = asyncio.create_task(self._call(func, args, kwargs))
        self._calls.add(call)
        call.add_done_callback(self._has_ended)
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.wait([call])
            raise
        else:
            if call.cancelled() and call in self._cut_off:
                raise QueueStateError(
                    "The executor was shut down before the call ended", current_state="stopped"
                )
            return call.result()
        finally:
            self._cut_off.discard(call)

    def _has_ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # or asyncio logs it, if the caller was cancelled twice and is gone

    async def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        async with self._slots.get():
            return await self._invoke(func, args, kwargs)

    async def _invoke(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if is_async(func):
            return await func(*args, **kwargs)
        if self._threads is None and self.max_concurrency is not None:
            self._threads = ThreadPoolExecutor(self.max_concurrency, "penstock-executor")
        return await in_thread(self._threads, func, *args, **kwargs)

    @overload
    async def map(
        self, func: Callable[[T], Awaitable[R]], items: Iterable[T] | AsyncIterable[T]
    ) -> list[R]: ...
    @overload
    async def map(
        self, func: Callable[[T], R], items: Iterable[T] | AsyncIterable[T]
    ) -> list[R]: ...
    async def map(
        self, func: Callable[[T], Any], items: Iterable[T] | AsyncIterable[T]
    ) -> list[Any]:
        """Call ``func`` on each item, and return the results in the order of the items.

        ``items`` is read lazily, no faster than calls start. An async generator is closed when no
        more items are read. The first exception cancels the running calls and is raised;
        otherwise the errors are those of :meth:`execute`.
        """
        checks.items(items)
        checks.function(func, "func", "item")
        turns = asyncio.Semaphore(self.max_concurrency or sys.maxsize)
        calls: list[asyncio.Task[Any]] = []
        under_way = 0
        # The first call that failed; None when all have succeeded.
        outcome: asyncio.Future[asyncio.Task[Any] | None] = (
            asyncio.get_running_loop().create_future()
        )

        def on_done(call: asyncio.Task[Any]) -> None:
            nonlocal under_way
            under_way -= 1
            if not call.cancelled() and call.exception() is None:
                turns.release()
                if feeder.done() and not under_way and not outcome.done():
                    outcome.set_result(None)
            elif not outcome.done():  # and no other call starts
                outcome.set_result(call)

        async def feed() -> None:
            nonlocal under_way
            async with aclosing(each(items)) as source:
                async for item in source:
                    await turns.acquire()
                    calls.append(asyncio.create_task(self.execute(func, item)))
                    under_way += 1
                    calls[-1].add_done_callback(on_done)

        feeder = asyncio.create_task(feed())
        try:
            either: tuple[asyncio.Future[Any], ...] = (feeder, outcome)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                await feeder
            if under_way:
                await asyncio.wait([outcome])
            if outcome.done() and (failed := outcome.result()) is not None:
                failed.result()
            feeder.result()  # it may have failed in the moment in which the last call ended
            return [call.result() for call in calls]
        finally:
            everything = [feeder, *calls]
            for task in everything:
                task.cancel()
            try:
                await asyncio.wait(everything)
            except asyncio.CancelledError:  # the first, if a source that failed has brought us here
                await asyncio.wait(everything)
                raise
            finally:
                for task in everything:
                    if task.done() and not task.cancelled():
                        task.exception()  # or asyncio logs it

    async def shutdown(self, timeout: float | None = None) -> None:
        """Start no more calls, and wait until the running calls have ended.

        Args:
            timeout: seconds after which they are cancelled; their callers get
                ``QueueStateError``. ``None`` or ``math.inf``: never. ``0``: at once.

        Raises:
            QueueStateError: it is called from inside a call, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.

        No task of the executor is left when this returns. If this is cancelled, the calls are
        cancelled.
        """
        limit = checks.optional_seconds(timeout)
        if asyncio.current_task() in self._calls:
            raise QueueStateError(
                "Cannot call shutdown() from inside a call: it would wait for itself",
                current_state="processing",
            )
        self._closed = True
        try:
            if self._calls:
                await asyncio.wait(self._calls, timeout=limit)
        finally:
            calls = [*self._calls]
            self._cut_off.update(calls)
            for call in calls:
                call.cancel()
            if calls:
                await asyncio.wait(calls)
            if self._threads is not None:
                self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until all calls have ended; after an exception, cancel them."""
        await self.shutdown(timeout=None if exc_type is None else 0)


class RateLimitedExecutor(AsyncExecutor):
    """Runs calls under a policy: with limits, retries, and a largest number of calls at once.

    Args:
        limits: a list of :class:`penstock.Limit`, or of texts such as ``"500/min"``; or a
            :class:`penstock.Limiter` that others, such as queues, share. ``cost`` and ``key``
            functions get the first positional argument of the call, or None where there is none.
        max_concurrency: as for :class:`AsyncExecutor`.
        retry, breaker, deadline: as for :class:`penstock.Policy`.
        policy: a :class:`penstock.Policy`, in place of limits, retry, breaker and deadline. Others
            may share it.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    A call first waits for its turn among ``max_concurrency``, and then for the limits. A retry
    waits for its turn too.

    When the service says "too many requests" to a call, all calls wait for the seconds that the
    exception asks for. Such exceptions are ``RateLimitError`` and those of clients that say so
    (:func:`penstock.limits.failures.failure_of`).
    """

    def __init__(
        self,
        limits: Iterable[Limit | str] | Limiter = (),
        max_concurrency: int | None = None,
        *,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(max_concurrency)
        parts = {"limits": limits, "retry": retry, "breaker": breaker, "deadline": deadline}
        #: What each call runs under.
        self.policy = policy_of(policy, parts) or Policy(limits=limits, name="executor")
        #: Each call waits for it before it starts. ``limits.observe(headers)`` reads the limits
        #: that a service reports.
        self.limits = self.policy.limits

    async def _invoke(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        async def call(item: Any) -> Any:
            return await AsyncExecutor._invoke(self, func, args, kwargs)

        check_timeout(func, self.policy.attempt_timeout)
        return await self.policy.call(call, args[0] if args else None)
