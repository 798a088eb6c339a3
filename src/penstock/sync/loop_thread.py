"""An event loop on a thread of its own, for the queues of a program that has none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

from penstock._util import checks
from penstock._util.compat import Self
from penstock.errors import QueueStateError
from penstock.sync import _fork

R = TypeVar("R")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

#: Seconds that tasks which a worker function has left behind get to end in.
TASK_GRACE = 1.0

_numbers = itertools.count(1)
_logger = logging.getLogger("penstock")


class Visit(concurrent.futures.Future[R]):
    """The result of a coroutine function that was sent to the loop."""

    task: asyncio.Task[R] | None = None
    withdrawn = False

    def ends_within(self, timeout: float | None) -> bool:
        """Wait for it, at most so many seconds; whether it has ended, well or badly."""
        try:
            self.exception(timeout)
        except (TimeoutError, concurrent.futures.TimeoutError):
            return self.done()
        return True


class _Home:
    """What the thread itself holds: all but the ``LoopThread``, which must be collectable."""

    def __init__(self, factory: LoopFactory) -> None:
        self._factory = factory
        self.loop: asyncio.AbstractEventLoop | None = None
        self.error: BaseException | None = None
        self.closing = False
        #: Why nothing can be sent here any more.
        self.ended: str | None = None
        self.lock = threading.Lock()
        self.visits: set[Visit[Any]] = set()
        self.on_death: list[weakref.WeakMethod[Callable[[str], None]]] = []

    def run(self, ready: threading.Event) -> None:
        """Be the thread."""
        try:
            self.loop = self._factory()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self.error = error
            return
        finally:
            ready.set()
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - told below
            self.error = error
        finally:
            self._leave(self.loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.closing:
            why = "was stopped by somebody" if self.error is None else f"died: {self.error!r}"
            message = f"The event loop thread {threading.current_thread().name} {why}"
            _logger.critical(message, exc_info=self.error)
            with self.lock:
                self.ended = message
                on_death = list(self.on_death)
            for reference in on_death:
                callback = reference()
                if callback is not None:
                    callback(message)
        self.shut("The event loop thread is closed")
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=TASK_GRACE))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException:
            _logger.exception("An event loop thread could not end all its tasks")
        finally:
            loop.close()

    def shut(self, message: str) -> None:
        """Let nothing in any more, and nobody wait."""
        with self.lock:
            self.ended = self.ended or message
            visits = list(self.visits)
        for visit in visits:
            self._settle(visit, error=QueueStateError(self.ended))

    def begin(self, visit: Visit[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Start a visit, in the loop."""
        assert self.loop is not None
        if visit.withdrawn or visit.done():
            return
        visit.task = self.loop.create_task(func(*args))
        visit.task.add_done_callback(lambda task: self._end(visit, task))

    def _end(self, visit: Visit[Any], task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._settle(visit, error=asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._settle(visit, error=error)
        else:
            self._settle(visit, result=task.result())

    def _settle(
        self, visit: Visit[Any], result: Any = None, error: BaseException | None = None
    ) -> None:
        with self.lock:
            if visit not in self.visits:
                return
            self.visits.discard(visit)
        if error is None:
            visit.set_result(result)
        else:
            visit.set_exception(error)


class LoopThread:
    """An event loop on a daemon thread, which starts in an empty context.

    Every queue has one of its own unless it is given one: ``WorkQueue(loop_thread=...)`` lets
    several queues share. One that you make is yours to close: by ``close()``, by ``with``, or by
    letting go of it.

    Args:
        loop_factory: makes the loop, in its thread: ``uvloop.new_event_loop`` for one.
        name: of the thread, in logs and debuggers.

    Raises:
        TypeError, ValueError: for an argument that is not allowed.
    """

    def __init__(self, *, loop_factory: LoopFactory | None = None, name: str | None = None) -> None:
        if loop_factory is not None:
            checks.plain_callable(loop_factory, "loop_factory")
        number = next(_numbers)
        self.name = f"penstock-loop-{number}" if name is None else checks.label(name, "name")
        self._factory: LoopFactory = loop_factory or asyncio.new_event_loop
        self._starting = threading.Lock()
        self._home: _Home | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_inherited = False
        _fork.watch(self)

    def __repr__(self) -> str:
        return f"<LoopThread {self.name!r} {'running' if self.is_running else 'not running'}>"

    @property
    def is_running(self) -> bool:
        """Whether it was started and has neither been closed nor died."""
        home = self._home
        return home is not None and home.ended is None and not self._is_inherited

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, once it is started."""
        return self._thread

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop, once it is started."""
        return None if self._home is None else self._home.loop

    def start(self) -> None:
        """Start the thread, if it is not running.

        Raises:
            QueueStateError: it is closed, or it died, or this is a forked child.
        """
        with nullcontext() if self._is_inherited else self._starting:
            if self._home is None and not self._is_closed and not self._is_inherited:
                home = _Home(self._factory)
                ready = threading.Event()
                thread = threading.Thread(
                    # An empty context, also where threads inherit that of their maker.
                    target=Context().run,
                    args=(home.run, ready),
                    name=self.name,
                    daemon=True,
                )
                thread.start()
                ready.wait()
                if home.error is not None:
                    thread.join()
                    raise home.error
                self._home, self._thread = home, thread
        self._reach()

    def _reach(self) -> _Home:
        if self._is_inherited:
            raise QueueStateError(
                f"The event loop thread {self.name} stayed behind in the parent of this process: "
                "make queues after the fork"
            )
        if self._is_closed or self._home is None:
            state = "closed" if self._is_closed else "not started"
            raise QueueStateError(f"The event loop thread {self.name} is {state}")
        if self._home.ended is not None:
            raise QueueStateError(self._home.ended)
        return self._home

    def send(self, func: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> Visit[R]:
        """Have ``func(*args)`` run in the loop, in a copy of the caller's context.

        Raises:
            QueueStateError: the thread is not running.
        """
        home = self._reach()
        visit: Visit[R] = Visit()
        with home.lock:
            if home.ended is not None:
                raise QueueStateError(home.ended)
            home.visits.add(visit)
            assert home.loop is not None
            home.loop.call_soon_threadsafe(home.begin, visit, func, args)
        return visit

    def call(
        self, func: Callable[..., Coroutine[Any, Any, R]], *args: Any, timeout: float | None = None
    ) -> R:
        """Run ``func(*args)`` in the loop and wait for it, at most ``timeout`` seconds.

        Raises what it raises. When the wait ends early, by ``TimeoutError`` or Ctrl-C, the call is
        cancelled, but not waited for.
        """
        visit = self.send(func, *args)
        if not self.see(visit, timeout):
            self.withdraw(visit)
            raise TimeoutError(f"a call in {self.name} took longer than {timeout} seconds")
        return visit.result()

    def see(self, visit: Visit[Any], timeout: float | None) -> bool:
        """Wait for a visit to end; Ctrl-C cancels it."""
        try:
            return visit.ends_within(timeout)
        except BaseException:
            self.withdraw(visit)
            raise

    def finishes(self, func: Callable[[], Coroutine[Any, Any, Any]], limit: float | None) -> bool:
        """Whether ``func()`` ends within ``limit`` seconds; else it is cancelled.

        Raises what it raises.
        """
        visit = self.send(func)
        if not self.see(visit, limit):
            self.withdraw(visit)
            return False
        visit.result()
        return True

    def withdraw(self, visit: Visit[Any]) -> None:
        """Cancel a call that was sent; nobody waits for it."""
        home = self._home
        if home is None or home.loop is None:
            return

        def cancel() -> None:
            visit.withdrawn = True
            if visit.task is not None:
                visit.task.cancel()

        with suppress(RuntimeError):  # the loop is closed
            home.loop.call_soon_threadsafe(cancel)

    def responds(self, within: float) -> bool:
        """Whether the loop turns, within so many seconds."""
        try:
            self.call(_nothing, timeout=within)
        except (TimeoutError, concurrent.futures.TimeoutError):
            return False
        except QueueStateError:
            return True  # it has ended, which is another thing
        return True

    def tell_of_death(self, callback: Callable[[str], None]) -> None:
        """Call this method of an object, if that still exists, when the loop ends unasked."""
        home = self._reach()
        reference = weakref.WeakMethod(callback)
        with home.lock:  # many queues can share the loop
            if home.ended is not None:
                raise QueueStateError(home.ended)
            alive = [known for known in home.on_death if known() is not None]
            home.on_death = alive if reference in alive else [*alive, reference]

    def close(self, timeout: float | None = None) -> bool:
        """End the loop and its thread; False if that takes longer than ``timeout`` seconds.

        Tasks that are left are cancelled. Queues that still run on it get nothing done any more:
        stop them first. Closing it again does nothing.
        """
        limit = checks.optional_seconds(timeout)
        if self._is_inherited:
            return True
        self.leave()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(limit)
        return not thread.is_alive()

    def leave(self) -> None:
        """Close without waiting for it."""
        self._is_closed = True
        home = self._home
        if home is not None and home.loop is not None and not self._is_inherited:
            home.closing = True
            with suppress(RuntimeError):  # the loop is closed already
                home.loop.call_soon_threadsafe(home.loop.stop)

    def give_up(self) -> None:
        """Close it although the loop does not turn: whoever waits for it is told so."""
        self.leave()
        if self._home is not None:
            self._home.shut(f"The event loop thread {self.name} is blocked and was given up")

    def disown(self) -> Any:
        """This is a forked child: nothing here is ours."""
        self._is_inherited = True
        return (self._home, self._thread)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be sent to another process: make one there")

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending() and getattr(self, "_home", None) is not None:
            self.leave()


async def _nothing() -> None:
    """What takes no time in a loop that turns."""
