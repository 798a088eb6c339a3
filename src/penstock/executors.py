"""Executors: calls with a bound on how many run at once, and events that keep their own state."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from penstock._util import checks
from penstock._util.compat import Self
from penstock._util.functions import is_async
from penstock._util.lifecycle import Lifecycle
from penstock.config import QueueConfig
from penstock.errors import QueueStateError, RateLimitError
from penstock.events import Event, ExecutionStatus
from penstock.limits.failures import retry_after
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.queue.results import each
from penstock.telemetry import Telemetry
from penstock.work_queue import WorkQueue
from penstock.workers.calls import in_thread

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Event)


class _LoopLocal(Generic[T]):
    """What ``make()`` returns, made anew when it is used in another event loop than before.

    asyncio's locks and semaphores bind themselves to the first loop in which somebody waits.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get(self) -> T:
        """The one that belongs to the running loop."""
        loop = asyncio.get_running_loop()
        if self._made is None or self._made[0] is not loop:
            self._made = (loop, self._make())
        return self._made[1]


class AsyncExecutor:
    """Runs calls, at most ``max_concurrency`` at once; the others wait, first come, first served.

    Args:
        max_concurrency: at least 1. ``None``: as many as there are.

    Raises:
        ValueError, TypeError: for a ``max_concurrency`` that is not allowed.
    """

    def __init__(self, max_concurrency: int | None = None) -> None:
        if max_concurrency is not None:
            max_concurrency = checks.positive_int(
                max_concurrency, "max_concurrency", "Maximum concurrency must be at least 1"
            )
        self.max_concurrency = max_concurrency
        self._slots = _LoopLocal(lambda: asyncio.Semaphore(max_concurrency or sys.maxsize))
        self._calls: set[asyncio.Task[Any]] = set()
        self._cut_off: set[asyncio.Task[Any]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    @overload
    async def execute(
        self, func: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any
    ) -> R: ...
    @overload
    async def execute(self, func: Callable[..., R], /, *args: Any, **kwargs: Any) -> R: ...
    async def execute(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``func(*args, **kwargs)`` when its turn has come, and return what it returns.

        ``func`` is ``async def``, or a plain function, which runs in a thread.

        Raises:
            QueueStateError: the executor is shut down, or was before the call was over.
            TypeError: ``func`` cannot be called.
            Exception: whatever ``func`` raises.

        Cancelling this cancels the call. (A plain function goes on in its thread.)
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
                    "The executor was shut down before the call was over", current_state="stopped"
                )
            return call.result()
        finally:
            self._cut_off.discard(call)

    def _has_ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # looked at: whoever was cancelled twice is not there to do it

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
        """Call ``func`` on each item and return the results in the order of the items.

        ``items`` is read lazily, no faster than calls start, and closed when it is read no further
        if it is an async generator. The first exception cancels the calls under way and is raised.
        Raises otherwise what :meth:`execute` raises.
        """
        checks.items(items)
        checks.function(func, "func", "item")
        turns = asyncio.Semaphore(self.max_concurrency or sys.maxsize)
        calls: list[asyncio.Task[Any]] = []
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_done(call: asyncio.Task[Any]) -> None:
            if not call.cancelled() and call.exception() is None:
                turns.release()
            elif not failure.done():  # and no turn for another
                failure.set_result(None)

        async def feed() -> None:
            async with aclosing(each(items)) as source:
                async for item in source:
                    await turns.acquire()
                    calls.append(asyncio.create_task(self.execute(func, item)))
                    calls[-1].add_done_callback(on_done)

        feeder = asyncio.create_task(feed())
        try:
            await asyncio.wait([feeder, failure], return_when=asyncio.FIRST_COMPLETED)
            if not failure.done():
                await feeder
            return list(await asyncio.gather(*calls))
        finally:
            everything = [feeder, *calls]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Start no more calls, and wait for those there are.

        Args:
            timeout: seconds after which they are cancelled; their callers get
                ``QueueStateError``. ``None`` or ``math.inf``: never. ``0``: at once.

        Raises:
            QueueStateError: called from inside a call, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.

        No task is left when it returns. Cancelling it cancels the calls.
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
        """Wait for the calls; after an exception, cancel them."""
        await self.shutdown(timeout=None if exc_type is None else 0)


class RateLimitedExecutor(AsyncExecutor):
    """Runs calls no faster than limits allow, and at most ``max_concurrency`` at once.

    Args:
        limits: a list of :class:`penstock.Limit`, or a :class:`penstock.Limiter` that others, such
            as queues, share. What ``cost`` and ``key`` functions get is the first argument of the
            call, or None.
        max_concurrency: as for :class:`AsyncExecutor`.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    A call that raises ``RateLimitError`` with ``retry_after`` holds up all others for so long.
    """

    def __init__(
        self, limits: Iterable[Limit] | Limiter, max_concurrency: int | None = None
    ) -> None:
        super().__init__(max_concurrency)
        #: What each call asks before it starts; ``limits.observe(headers)`` tells it more.
        self.limits = limits if isinstance(limits, Limiter) else Limiter(limits)

    async def _invoke(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        async with self.limits.permit(args[0] if args else None) as permit:
            try:
                return await super()._invoke(func, args, kwargs)
            except RateLimitError as error:
                self.limits.refused(retry_after(error), permit=permit)
                raise


class Executor(Lifecycle, Generic[E]):
    """Runs events, objects with a state of their own, through a ``WorkQueue``.

    Args:
        event_type: a subclass of :class:`penstock.Event`; only such events are taken.
        queue_config: how many events wait, how many run at once, and that at most
            ``queue_capacity`` start in any stretch of ``capacity_refresh_time`` seconds.
        logger, name, telemetry: as for :class:`penstock.BoundedQueue`.

    Raises:
        TypeError: for an argument that is not allowed.

    How an event went is in its ``execution``; a failure is there too, and is not logged.
    """

    def __init__(
        self,
        event_type: type[E],
        queue_config: QueueConfig | None = None,
        *,
        logger: logging.Logger | None = None,
        name: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise TypeError(
                f"event_type must be a subclass of penstock.Event, got {checks.shown(event_type)}"
            )
        if not is_async(event_type.invoke):
            raise TypeError(f"{event_type.__qualname__}.invoke must be async def")
        config = QueueConfig() if queue_config is None else queue_config
        self.event_type = event_type
        self.queue: WorkQueue[E] = WorkQueue.from_config(
            config, logger=logger, name=name, telemetry=telemetry
        )
        self._limiter = Limiter([Limit(config.queue_capacity, config.capacity_refresh_time)])
        self._logger = logging.getLogger("penstock") if logger is None else logger
        self._events: dict[str, E] = {}
        self._unsettled: set[str] = set()
        self._unforwarded: deque[E] = deque()
        self._forwarding = _LoopLocal(asyncio.Lock)

    def append(self, event: E) -> None:
        """Add an event; :meth:`forward` sends it on its way.

        Raises:
            TypeError: it is not an ``event_type``.
            ValueError: it was appended before.
        """
        if not isinstance(event, self.event_type):
            raise TypeError(
                f"event must be a {self.event_type.__qualname__}, got {checks.shown(event)}"
            )
        if event.id in self._events:
            raise ValueError(f"event {event.id} was appended before")
        self._events[event.id] = event
        self._unsettled.add(event.id)
        self._unforwarded.append(event)

    async def forward(self) -> None:
        """Move all events that were appended into the queue, waiting for room where it is full.

        Raises:
            QueueStateError: the executor is not started, or stops meanwhile.

        When this is cancelled, the events not yet moved are moved by the next call.
        """
        async with self._forwarding.get():
            while self._unforwarded:
                await self.queue.put(self._unforwarded[0], timeout=math.inf)
                self._unforwarded.popleft()

    async def wait(self) -> None:
        """Forward what was appended, and return when all is processed.

        Raises:
            QueueStateError: the executor is not started, or stops before all is processed.
        """
        await self.forward()
        await self.queue.join()

    @property
    def is_all_processed(self) -> bool:
        """Whether every event has ended: completed, failed or cancelled."""
        return not self._unsettled

    @property
    def pending(self) -> list[E]:
        """Events that have not started."""
        return self._in_status(ExecutionStatus.PENDING)

    @property
    def processing(self) -> list[E]:
        """Events that are running."""
        return self._in_status(ExecutionStatus.PROCESSING)

    @property
    def completed(self) -> list[E]:
        """Events whose ``invoke`` returned."""
        return self._in_status(ExecutionStatus.COMPLETED)

    @property
    def failed(self) -> list[E]:
        """Events whose ``invoke`` raised."""
        return self._in_status(ExecutionStatus.FAILED)

    @property
    def cancelled(self) -> list[E]:
        """Events that were cancelled while they ran; the next ``start()`` runs them again."""
        return self._in_status(ExecutionStatus.CANCELLED)

    def _in_status(self, status: ExecutionStatus) -> list[E]:
        return [event for event in self._events.values() if event.execution.status is status]

    def forget_ended(self) -> list[E]:
        """Stop holding completed and failed events, and return them: a long life, bounded."""
        ended = self.completed + self.failed
        for event in ended:
            del self._events[event.id]
        return ended

    async def start(self) -> None:
        """Start the queue and its workers. Does nothing if they run.

        Raises:
            QueueStateError: it runs in another event loop.
        """
        await self.queue.start()
        if not self.queue.worker_count:
            await self.queue.process(self._run, error_handler=_recorded_already)

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Stop as :meth:`penstock.BoundedQueue.stop` does; False if forwarded events are left.

        Events that were never forwarded stay pending, and the log says how many.
        """
        if self._unforwarded:
            self._logger.warning(
                "Executor of %s stops with %d events that were not forwarded",
                self.event_type.__qualname__,
                len(self._unforwarded),
            )
        return await self.queue.stop(timeout, drain=drain)

    async def _run(self, event: E) -> None:
        clock = asyncio.get_running_loop().time
        execution = event.execution
        self._unsettled.add(event.id)
        started: float | None = None
        try:
            await self._limiter.acquire()
            started = clock()
            execution.status = ExecutionStatus.PROCESSING
            result = await event.invoke()
        except asyncio.CancelledError:
            if started is not None:
                execution.status = ExecutionStatus.CANCELLED
            raise
        except BaseException as error:
            execution.status = ExecutionStatus.FAILED
            execution.error = error
            raise
        else:
            execution.status = ExecutionStatus.COMPLETED
            execution.error = None
            # An event may have recorded its result itself.
            execution.result = execution.result if result is None else result
        finally:
            if started is not None:
                execution.duration = clock() - started
            if execution.status is not ExecutionStatus.PENDING:
                self._unsettled.discard(event.id)


def _recorded_already(error: Exception, event: Event) -> None:
    """The error handler of an executor: the event holds the error, and whoever reads it decides."""
