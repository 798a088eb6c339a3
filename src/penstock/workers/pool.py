"""The worker pool, over anything that hands out items.

A pool knows nothing of bounds, putters or brokers: it draws entries from a :class:`Source`, calls
the worker function on each, in the context of its put, and says how it went. Workers never poll.
A worker with nothing to do waits in ``source.wait()``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import types
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from inspect import isawaitable
from typing import Any, Generic, Protocol, TypeVar

from penstock._util.compat import CountingTask, cancel_requests
from penstock.workers.calls import (
    FINISHED,
    AsyncCall,
    Entry,
    ErrorHandler,
    WorkerFunc,
    as_async,
)

T = TypeVar("T")

#: Seconds that a cancelled worker gets to clean up before it is given up.
CANCEL_GRACE = 1.0


class Source(Protocol[T]):
    """Where a pool gets its entries."""

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none right now."""

    async def wait(self) -> bool:
        """Return True when a look is worth it again, False when nothing will ever come."""
        ...

    def wake(self) -> None:
        """A worker ends, or waits with an entry in its hands: call others to what is there."""

    def wake_all(self) -> None:
        """Let every worker that waits look around: something other than an entry is news."""

    def give_back(self, entry: Entry[T]) -> None:
        """A worker was cancelled with the entry in its hands."""

    def postpone(self, entry: Entry[T], delay: float) -> None:
        """The entry is to be handed out again in ``delay`` seconds."""


class Accounts(Protocol):
    """Who counts."""

    #: Items that are done, well or badly.
    processed: int
    #: Failures of worker functions. The item may still be done or given back.
    errors: int
    #: Who waits for all items to be done.
    joiners: dict[Any, None]

    def settle(self) -> None:
        """Tell the joiners, if all items are done. To be called after ``processed`` grew."""


def _never() -> bool:
    return False


class Crew(Generic[T]):
    """What the workers of one ``start`` share: the function, the error handler, the threads.

    Args:
        call: ``func``, made ready for the workers; by default a plain one runs in threads.
        can_end_program: whether a KeyboardInterrupt or SystemExit out of an item ends the program.
        is_of_threads: whether the workers are threads themselves.
    """

    def __init__(
        self,
        func: WorkerFunc[T, Any],
        size: int,
        error_handler: ErrorHandler[T] | None,
        *,
        call: AsyncCall[T] | None = None,
        can_end_program: bool = True,
        is_of_threads: bool = False,
    ) -> None:
        self.call: AsyncCall[T] = as_async(func, self._get_threads) if call is None else call
        self.can_end_program = can_end_program
        self.is_of_threads = is_of_threads
        self.label = getattr(func, "__qualname__", None) or type(func).__qualname__
        self.error_handler = error_handler
        self.retired = False
        self._size = self.left = size
        self._threads: ThreadPoolExecutor | None = None

    @property
    def is_threaded(self) -> bool:
        """Whether the function runs in threads."""
        return self.is_of_threads or self._threads is not None

    def _get_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="penstock-worker")
        return self._threads

    def leave(self) -> None:
        """One of the workers has ended; the last one closes the threads."""
        self.left -= 1
        if not self.left and self._threads is not None:
            self._threads.shutdown(wait=False)


class FlexibleCrew(Crew[T]):
    """One worker of a pool whose size changes.

    Whoever comes to look for its next entry first leaves when there are too many. (Were it always
    the newest, the others would start new calls while those that are to go still make theirs.)
    """

    is_one_too_many: Callable[[], bool] | None = None
    _is_retired = False

    @property
    def retired(self) -> bool:
        """Whether the worker is to take no more."""
        if not self._is_retired and self.is_one_too_many is not None:
            self._is_retired = self.is_one_too_many()
        return self._is_retired

    @retired.setter
    def retired(self, value: bool) -> None:
        self._is_retired = value


# How an item runs in the context of its put, inside the task of the worker.
#
# A task per item would do it, at three to five times the cost. Instead the first step of the
# coroutine is taken by hand, ``context.run(next, steps, FINISHED)``: an item that never waits is
# done after it, with no exception and no suspension. One that waits goes on in ``_hold``, a step
# each time that the loop resumes the worker. The worker's own task stays the current one
# throughout, so that cancellation, ``asyncio.timeout`` and task groups inside the item work as
# anywhere else.


class Worker(Generic[T]):
    """One worker: a task that takes entries until it is retired or there will be no more."""

    __slots__ = (
        "_accounts",
        "_logger",
        "_source",
        "cancelled",
        "crew",
        "entry",
        "requests",
        "task",
    )

    def __init__(
        self, source: Source[T], accounts: Accounts, crew: Crew[T], logger: logging.Logger
    ) -> None:
        self._source = source
        self._accounts = accounts
        self.crew = crew
        self._logger = logger
        #: Done when the worker has left; to be cancelled if it won't.
        self.task: asyncio.Future[None]
        self.cancelled = False
        #: How many cancellations of the task are no reason to end.
        self.requests = 0
        #: What it holds while it is suspended; the pool takes it out of the hands of the stuck.
        self.entry: Entry[T] | None = None

    async def run(self) -> None:  # noqa: PLR0912 - in one piece, for speed
        """Take entries, and process each, until there are no more."""
        source, accounts, crew = self._source, self._accounts, self.crew
        call = crew.call
        try:
            while not crew.retired:
                entry = source.take()
                if entry is None:
                    item = context = ticket = coro = steps = awaited = None  # keep nothing alive
                    if await source.wait():
                        continue
                    return
                _, item, context, ticket = entry
                error: BaseException | None = None
                try:
                    coro = call(item) if ticket is None else ticket.run(call, item)
                    steps = coro.__await__()
                    awaited = context.run(next, steps, FINISHED)
                except BaseException as raised:
                    error = raised
                else:
                    if awaited is not FINISHED:
                        error = await self._hold(entry, steps, awaited)
                if error is not None:
                    failure = error
                    if ticket is not None:
                        delay, failure = context.run(ticket.verdict, error)
                        if delay is not None:
                            source.postpone(entry, delay)
                            error = failure = None  # type: ignore[assignment]
                            continue
                    accounts.errors += 1
                    error = await self._report(entry, failure)
                    if ticket is not None:
                        context.run(ticket.bury, failure, item)
                    failure = None  # type: ignore[assignment] # or both keep each other alive
                accounts.processed += 1
                if accounts.joiners:
                    accounts.settle()
                if error is not None:
                    try:
                        raise error
                    finally:
                        error = None  # or frame and exception would keep each other alive
        except asyncio.CancelledError:
            return  # that is all: were it passed on, the task would keep it, and the item with it
        finally:
            # An error that somebody keeps, as dead letters are, keeps this frame: and no item, nor
            # another error, whose frames have items.
            entry = item = context = ticket = coro = steps = awaited = None
            error = failure = None  # type: ignore[assignment]
            source.wake()

    # An item that suspends in its first step comes here. A generator, because every level of
    # ``await`` is one more to climb each time the loop resumes the worker.
    @types.coroutine
    def _hold(
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> Generator[Any, Any, BaseException | None]:
        """See a suspended call to its end, and return what it raised, or None.

        What is raised out of here is meant for the worker: CancelledError when it shall end, with
        the entry given back, and GeneratorExit when its loop died. An item that raises
        CancelledError of its own accord is an item that failed.
        """
        self.entry = entry
        self._source.wake()
        task: Any = self.task  # only a worker that is a task holds anything here
        run = entry[2].run
        error: BaseException | None = None
        while awaited is not FINISHED:
            thrown: BaseException | None = None
            try:
                yield awaited
            except GeneratorExit:
                self._let_go(entry)
                # In a copy: somebody may process the item again already, in the context itself.
                entry[2].copy().run(steps.close)
                raise
            except BaseException as raised:
                thrown = raised
            try:
                awaited = run(next, steps, FINISHED) if thrown is None else run(steps.throw, thrown)
            except StopIteration:  # how throw() says that the coroutine returned
                break
            except BaseException as raised:
                error = raised
                break
            finally:
                thrown = None  # or frame and exception would keep each other alive
        if self.entry is not entry:
            raise asyncio.CancelledError("the pool gave this worker up and took its item")
        if isinstance(error, asyncio.CancelledError) and (
            self.cancelled or cancel_requests(task) > self.requests
        ):
            self._let_go(entry)
            try:
                raise error
            finally:
                error = None
        self.entry = None
        self.requests = cancel_requests(task)  # those so far were the item's own business
        try:
            return error
        finally:
            error = None

    def _let_go(self, entry: Entry[T]) -> None:
        if self.entry is not entry:  # the pool has taken it already
            return
        self.entry = None
        self._source.give_back(entry)
        if self.crew.is_threaded:
            self._logger.warning(
                "Worker function %s was cancelled but may still be running in its thread",
                self.crew.label,
            )

    def cancel(self) -> None:
        """Break off what it does; the item goes back to its source."""
        self.task.cancel()

    def take_away(self) -> bool:
        """Take the item from the hands of a worker that will not let go; False if it has none."""
        entry, self.entry = self.entry, None
        if entry is not None:
            self._source.give_back(entry)
        return entry is not None

    def give_up(self) -> None:
        """The worker ignores its cancellation: go on without it."""
        if self.take_away():
            self._logger.error(
                "Worker function %s ignored its cancellation and may still be running",
                self.crew.label,
            )

    def leave(self) -> None:
        """It has ended, or is gone on without."""
        self.crew.leave()

    async def _report(self, entry: Entry[T], error: BaseException) -> BaseException | None:
        """Hand a failed item to whoever waits for it, or the error handler, or the log.

        Returns an exception that shall end the program, if one came up.
        """
        crew = self.crew
        _, item, context, ticket = entry
        awaited_by_somebody = ticket is not None and ticket.fail(error)
        if crew.can_end_program and isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        if awaited_by_somebody:
            return None
        handler: Any = crew.error_handler
        if handler is None:
            self._log("Worker function %s failed", error)
            return None
        failure: BaseException | None = None
        steps: Any = None
        awaited: Any = FINISHED
        try:
            result = context.run(handler, error, item)
            if isawaitable(result):
                steps = result.__await__()
                awaited = context.run(next, steps, FINISHED)
        except BaseException as raised:
            failure = raised
        if awaited is not FINISHED:
            failure = await self._hold(entry, steps, awaited)
        if crew.can_end_program and isinstance(failure, (KeyboardInterrupt, SystemExit)):
            return failure
        if failure is not None:
            if ticket is not None:
                ticket.handler_failed(failure)
            self._log("Error handler failed on an error of worker function %s", failure)
            failure = None  # or frame and exception would keep each other alive
        return None

    def _log(self, message: str, error: BaseException) -> None:
        try:
            self._logger.exception(  # noqa: LOG004 - the exception is at hand, not under way
                message, self.crew.label, exc_info=error
            )
        except Exception as failure:
            # A logger that raises must not cost a worker; asyncio says that it does, and why.
            self.task.get_loop().call_exception_handler(
                {"message": "penstock could not log an error", "exception": failure}
            )


class WorkerPool(Generic[T]):
    """The workers of one queue. Its methods belong to the thread of the running loop."""

    def __init__(
        self, source: Source[T], accounts: Accounts, name: str, logger: logging.Logger
    ) -> None:
        self._source = source
        self._accounts = accounts
        self._name = name
        self._logger = logger
        # Those who take items: one crew, or where their number changes, one for each worker.
        self._crews: list[Crew[T]] = []
        self._recruit_one: Callable[[], Crew[T]] | None = None
        self._wanted: Callable[[], int] = int
        self._counting = threading.Lock()
        self._workers: dict[asyncio.Future[None], Worker[T]] = {}
        # Who waits for which workers to leave.
        self._farewells: list[tuple[set[asyncio.Future[None]], asyncio.Future[None]]] = []
        self._made = 0

    @property
    def count(self) -> int:
        """Workers that take items; those that only finish what they hold are not counted."""
        return sum(crew.left for crew in self._crews[:])  # telemetry asks from its own thread

    @property
    def is_empty(self) -> bool:
        """Whether no worker is left, not even one that finishes what it holds."""
        return not self._workers

    def owns(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether ``task`` is one of the workers."""
        return task in self._workers

    def start(
        self,
        func: WorkerFunc[T, Any],
        size: int | Callable[[], int],
        error_handler: ErrorHandler[T] | None,
    ) -> None:
        """Replace the workers by ``size`` new ones, which begin at once.

        Where ``size`` is a function, call :meth:`follow` when it says something new.
        """
        recruit_one: Callable[[], Crew[T]] | None = None
        if callable(size):
            self._wanted = size
            recruit_one = partial(self._recruit, FlexibleCrew, func, 1, error_handler)
            crew, count = recruit_one(), 1
        else:
            crew, count = self._recruit(Crew, func, size, error_handler), size
        self._replace([crew])
        self._recruit_one = recruit_one
        self._launch_all(crew, count)
        self.follow()

    def follow(self) -> None:
        """Let there be as many workers as are wanted, if that may change."""
        if self._recruit_one is None:
            return
        while len(self._crews) < self._wanted():
            crew = self._recruit_one()
            self._crews.append(crew)
            self._launch_all(crew, 1)
        if len(self._crews) > self._wanted():
            self._source.wake_all()

    def _lose(self, crew: Crew[T]) -> bool:
        with self._counting:  # workers may be threads
            # In this order: it is asked before each item, and looked for only where one must go.
            if len(self._crews) <= self._wanted() or crew not in self._crews:
                return False
            self._crews.remove(crew)
            return True

    def _launch_all(self, crew: Crew[T], size: int) -> None:
        empty = Context()
        for _ in range(size):
            self._made += 1
            worker = self._make_worker(crew)
            worker.task = self._launch(worker, f"penstock-{self._name}-worker-{self._made}")
            self._workers[worker.task] = worker
            worker.task.add_done_callback(self._ended, context=empty)
        if isinstance(crew, FlexibleCrew):
            crew.is_one_too_many = partial(self._lose, crew)

    def _recruit(
        self,
        kind: type[Crew[T]],
        func: WorkerFunc[T, Any],
        size: int,
        error_handler: ErrorHandler[T] | None,
    ) -> Crew[T]:
        return kind(func, size, error_handler)

    def _make_worker(self, crew: Crew[T]) -> Worker[T]:
        return Worker(self._source, self._accounts, crew, self._logger)

    def _launch(self, worker: Worker[T], name: str) -> asyncio.Future[None]:
        """Let the worker begin; return what is done when it has left."""
        # In an empty context: a worker outlives the request that happened to start it, and must
        # not carry that request's trace into the items of all others. Not through the loop's task
        # factory: an eager one would run items before the pool knows the worker.
        make = partial(CountingTask, worker.run(), loop=asyncio.get_running_loop(), name=name)
        return Context().run(make)

    def retire(self) -> None:
        """Let the workers finish what they hold and take no more."""
        self._replace([])

    def _replace(self, crews: list[Crew[T]]) -> None:
        """Let ``crews`` take the items from now on."""
        self._recruit_one = None
        with self._counting:
            # In one step: other threads look whether there are any, and in between there were none.
            retired, self._crews = self._crews, crews
        for crew in retired:
            crew.retired = True
        if retired:
            self._source.wake_all()

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until the workers there are now have left, at most ``timeout`` seconds."""
        await self._wait_for(list(self._workers), timeout)

    async def _wait_for(self, tasks: Iterable[asyncio.Future[None]], timeout: float | None) -> None:
        # Not for the tasks: a worker that is given up leaves, though its task may never end.
        staying = {task for task in tasks if task in self._workers}
        if staying:
            farewell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._farewells.append((staying, farewell))
            await asyncio.wait([farewell], timeout=timeout)

    async def end(
        self, timeout: float | None, all_that_come_while: Callable[[], bool] | None = None
    ) -> None:
        """Wait for the workers there are now to leave; cancel them after ``timeout`` seconds.

        ``None`` waits as long as it takes. While ``all_that_come_while()`` it is for those too that
        are recruited meanwhile. Cancelling this call cancels them at once. One that is still there
        ``CANCEL_GRACE`` seconds after that, because its function ignores cancellation, is given up
        and its item taken from it.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        tasks = list(self._workers)
        is_for_all = _never if all_that_come_while is None else all_that_come_while
        try:
            await self.wait(timeout)
            while self._workers and is_for_all() and (deadline is None or loop.time() < deadline):
                await self.wait(None if deadline is None else max(0.0, deadline - loop.time()))
        finally:
            if is_for_all():
                self.retire()
                tasks = list(self._workers)
            await self._cancel(tasks)

    async def _cancel(self, tasks: list[asyncio.Future[None]]) -> None:
        remaining = [task for task in tasks if task in self._workers]
        if not remaining:
            return
        for task in remaining:
            worker = self._workers[task]
            worker.cancelled = worker.crew.retired = True
            worker.cancel()
        self._source.wake_all()  # a thread that waits for what was postponed cannot be cancelled
        try:
            await self._wait_for(remaining, CANCEL_GRACE)
        except asyncio.CancelledError:
            self._give_up(remaining)
            raise
        self._give_up(remaining)

    def break_off(self, is_to: Callable[[Entry[T]], bool]) -> None:
        """Cancel the workers whose entries are such; those go back to their source."""
        for worker in list(self._workers.values()):
            if worker.entry is not None and is_to(worker.entry):
                worker.cancelled = True
                worker.cancel()

    def _give_up(self, tasks: Iterable[asyncio.Future[None]]) -> None:
        for task in tasks:
            worker = self._workers.get(task)
            if worker is not None and not task.done():
                worker.give_up()
            self._leave(task)

    def abandon(self) -> None:
        """Take all items back: the loop was closed, so the workers will never go on."""
        with self._counting:
            self._crews = []
        self._recruit_one = None
        for worker in [*self._workers.values()]:
            worker.crew.retired = True
        for task in [*self._workers]:
            self._workers[task].take_away()
            self._leave(task)
        self._farewells.clear()

    def _leave(self, task: asyncio.Future[None]) -> None:
        worker = self._workers.pop(task, None)
        if worker is None:
            return
        worker.leave()
        for staying, farewell in [*self._farewells]:
            staying.discard(task)
            if not staying:
                self._farewells.remove((staying, farewell))
                if not farewell.done() and not farewell.get_loop().is_closed():
                    farewell.set_result(None)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._leave(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._logger.critical("A worker of queue %s died", self._name, exc_info=error)
