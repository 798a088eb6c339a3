"""An event loop on a thread of its own, for programs that have no loop."""

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
from typing import Any, NoReturn, TypeVar

from penstock._util import checks, hooks
from penstock._util.compat import Self
from penstock._util.functions import deprecated_name
from penstock.errors import QueueStateError

R = TypeVar("R")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

#: Seconds that tasks which a worker function has left behind get to end in.
TASK_GRACE = 1.0

_numbers = itertools.count(1)
_logger = logging.getLogger("penstock")


class LoopFuture(concurrent.futures.Future[R]):
    """The result of a coroutine function that runs in the loop."""

    task: asyncio.Task[R] | None = None
    cancel_requested = False

    def ends_within(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds; return whether the call has ended, well or badly."""
        try:
            self.exception(timeout)
        except (TimeoutError, concurrent.futures.TimeoutError):
            return self.done()
        return True


class _Runner:
    """What the thread itself holds: all but the ``LoopThread``, which must be collectable."""

    def __init__(self, factory: LoopFactory) -> None:
        self._factory = factory
        self.loop: asyncio.AbstractEventLoop | None = None
        self.error: BaseException | None = None
        self.closing = False
        #: Why the loop takes no calls any more.
        self.end_reason: str | None = None
        # Re-entrant: a queue that is collected in the middle of a call sends its last one.
        self.lock = threading.RLock()
        self.pending: set[LoopFuture[Any]] = set()
        self.crash_callbacks: list[weakref.WeakMethod[Callable[[str], None]]] = []
        self.end_callbacks: list[weakref.WeakMethod[Callable[[], None]]] = []

    def run(self, ready: threading.Event) -> None:
        """Make the loop, set ``ready``, and run the loop until it is stopped. In the thread."""
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
            self._finish(self.loop)

    def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call the crash callbacks if nobody closed the loop; cancel its tasks; close it."""
        if not self.closing:
            why = "was stopped by other code" if self.error is None else f"died: {self.error!r}"
            message = f"The event loop thread {threading.current_thread().name} {why}"
            _logger.critical(message, exc_info=self.error)
            with self.lock:
                self.end_reason = message
            self._call_all(self.crash_callbacks, message)
        self.refuse_calls("The event loop thread is closed")
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
            self._call_all(self.end_callbacks)

    def register(
        self, callbacks: list[weakref.WeakMethod[Any]], callback: Callable[..., None]
    ) -> None:
        """Add a method to ``callbacks``, once, and drop those whose objects are gone.

        Raises:
            QueueStateError: the loop has ended.
        """
        reference = weakref.WeakMethod(callback)
        with self.lock:  # many queues can share the loop
            if self.end_reason is not None:
                raise QueueStateError(self.end_reason)
            callbacks[:] = [known for known in callbacks if known() is not None]
            if reference not in callbacks:
                callbacks.append(reference)

    def _call_all(self, callbacks: list[weakref.WeakMethod[Any]], *args: str) -> None:
        with self.lock:
            references = list(callbacks)
        for reference in references:
            callback = reference()
            if callback is not None:
                callback(*args)

    def refuse_calls(self, reason: str) -> None:
        """Refuse later calls, and fail the pending ones."""
        with self.lock:
            self.end_reason = self.end_reason or reason
            pending = list(self.pending)
        for future in pending:
            self._resolve(future, error=QueueStateError(self.end_reason))

    def start_task(
        self, future: LoopFuture[Any], func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Start the task of a call. In the loop."""
        assert self.loop is not None
        if future.cancel_requested or future.done():
            return
        future.task = self.loop.create_task(func(*args))
        future.task.add_done_callback(lambda task: self._task_done(future, task))

    def _task_done(self, future: LoopFuture[Any], task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._resolve(future, error=asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._resolve(future, error=error)
        else:
            self._resolve(future, result=task.result())

    def _resolve(
        self, future: LoopFuture[Any], result: Any = None, error: BaseException | None = None
    ) -> None:
        with self.lock:
            if future not in self.pending:
                return
            self.pending.discard(future)
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class LoopThread:
    """An event loop on a daemon thread, which starts in an empty context.

    By default every queue has its own. With ``WorkQueue(loop_thread=...)`` several queues can share
    one. If you create one, you must close it: with ``close()`` or ``with``. It is also closed when
    it is garbage-collected.

    Args:
        loop_factory: creates the loop, in its thread, for example ``uvloop.new_event_loop``.
        name: the name of the thread, in logs and debuggers.

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
        self._runner: _Runner | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_inherited = False
        hooks.tell_forked_child(self)

    def __repr__(self) -> str:
        return f"<LoopThread {self.name!r} {'running' if self.is_running else 'not running'}>"

    @property
    def is_running(self) -> bool:
        """Whether it was started and has neither been closed nor died."""
        runner = self._runner
        return runner is not None and runner.end_reason is None and not self._is_inherited

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, once it is started."""
        return self._thread

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop, once it is started."""
        return None if self._runner is None else self._runner.loop

    def start(self) -> None:
        """Start the thread, if it is not running.

        Raises:
            QueueStateError: it is closed, or it died, or this is a forked child.
        """
        with nullcontext() if self._is_inherited else self._starting:
            if self._runner is None and not self._is_closed and not self._is_inherited:
                runner = _Runner(self._factory)
                ready = threading.Event()
                thread = threading.Thread(
                    # An empty context, also where threads inherit that of their maker.
                    target=Context().run,
                    args=(runner.run, ready),
                    name=self.name,
                    daemon=True,
                )
                thread.start()
                ready.wait()
                if runner.error is not None:
                    thread.join()
                    raise runner.error
                self._runner, self._thread = runner, thread
        self._get_runner()

    def _get_runner(self) -> _Runner:
        if self._is_inherited:
            raise QueueStateError(
                f"The event loop thread {self.name} is in the parent process: "
                "make queues after the fork"
            )
        if self._is_closed or self._runner is None:
            state = "closed" if self._is_closed else "not started"
            raise QueueStateError(f"The event loop thread {self.name} is {state}")
        if self._runner.end_reason is not None:
            raise QueueStateError(self._runner.end_reason)
        return self._runner

    def send(self, func: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> LoopFuture[R]:
        """Let the loop run ``func(*args)``, in a copy of the caller's context; do not wait.

        Returns a ``concurrent.futures.Future``, for :meth:`wait` or :meth:`cancel`.

        Raises:
            QueueStateError: the thread is not running.
        """
        runner = self._get_runner()
        future: LoopFuture[R] = LoopFuture()
        with runner.lock:
            if runner.end_reason is not None:
                raise QueueStateError(runner.end_reason)
            runner.pending.add(future)
            assert runner.loop is not None
            runner.loop.call_soon_threadsafe(runner.start_task, future, func, args)
        return future

    def call(
        self, func: Callable[..., Coroutine[Any, Any, R]], *args: Any, timeout: float | None = None
    ) -> R:
        """Run ``func(*args)`` in the loop, in a copy of the caller's context, and wait for it.

        Raises:
            TimeoutError: the call took longer than ``timeout`` seconds (``None``: no limit).
            QueueStateError: the thread is not running, or ended before the call did.

        An exception of ``func`` is raised here. After ``TimeoutError`` or Ctrl-C the call is
        cancelled, and this method does not wait for its end.
        """
        future = self.send(func, *args)
        if not self.wait(future, timeout):
            self.cancel(future)
            raise TimeoutError(f"a call in {self.name} took longer than {timeout} seconds")
        return future.result()

    def wait(self, future: LoopFuture[Any], timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds for a call of :meth:`send`; whether it has ended.

        ``None``: as long as it takes. Ctrl-C cancels the call.
        """
        try:
            return future.ends_within(timeout)
        except BaseException:
            self.cancel(future)
            raise

    def run_with_timeout(
        self, func: Callable[[], Coroutine[Any, Any, object]], timeout: float | None
    ) -> bool:
        """Like :meth:`call`, but return whether ``func()`` ended in time; if not, cancel it."""
        future = self.send(func)
        if not self.wait(future, timeout):
            self.cancel(future)
            return False
        future.result()
        return True

    def cancel(self, future: LoopFuture[Any]) -> None:
        """Cancel a call that was sent; do not wait for its end. Does nothing if it has ended."""
        runner = self._runner
        if runner is None or runner.loop is None:
            return

        def cancel_task() -> None:
            future.cancel_requested = True
            if future.task is not None:
                future.task.cancel()

        with suppress(RuntimeError):  # the loop is closed
            runner.loop.call_soon_threadsafe(cancel_task)

    def responds(self, within: float) -> bool:
        """Whether the loop runs a call in ``within`` seconds; also True if the loop has ended."""
        try:
            self.call(_nothing, timeout=within)
        except (TimeoutError, concurrent.futures.TimeoutError):
            return False
        except QueueStateError:
            return True
        return True

    def on_crash(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(message)`` if the loop ends without a ``close()``. In the loop's thread.

        ``callback`` is a method of an object; it is called only if the object still exists then.

        Raises:
            QueueStateError: the thread is not running.
        """
        runner = self._get_runner()
        runner.register(runner.crash_callbacks, callback)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` when the loop is closed, whatever ended it. In the loop's thread.

        If the loop is asked to make a call in its last moment, it may never make it. ``callback``
        is a method of an object; it is called only if the object still exists then.

        Raises:
            QueueStateError: the thread is not running.
        """
        runner = self._get_runner()
        runner.register(runner.end_callbacks, callback)

    def close(self, timeout: float | None = None) -> bool:
        """End the loop and its thread; False if that takes longer than ``timeout`` seconds.

        Tasks that are left are cancelled. Queues that still run on it can process nothing any more:
        stop them first. Closing it again does nothing.

        Raises:
            ValueError: the timeout is negative, NaN or no number.
        """
        limit = checks.optional_seconds(timeout)
        if self._is_inherited:
            return True
        self.close_nowait()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(limit)
        return not thread.is_alive()

    def close_nowait(self) -> None:
        """Like :meth:`close`, but does not wait for the end of the thread."""
        self._is_closed = True
        runner = self._runner
        if runner is not None and runner.loop is not None and not self._is_inherited:
            runner.closing = True
            with suppress(RuntimeError):  # the loop is closed already
                runner.loop.call_soon_threadsafe(runner.loop.stop)

    def _abandon(self) -> None:
        """Close it although the loop is blocked; pending calls raise ``QueueStateError``."""
        self.close_nowait()
        if self._runner is not None:
            reason = f"The event loop thread {self.name} is blocked and was abandoned"
            self._runner.refuse_calls(reason)

    def _after_fork_in_child(self) -> object:
        self._is_inherited = True
        return (self._runner, self._thread)

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

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be sent to another process: make one there")

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending() and getattr(self, "_runner", None) is not None:
            self.close_nowait()

    # Names of earlier versions.
    see = deprecated_name("LoopThread.see", wait)
    finishes = deprecated_name("LoopThread.finishes", run_with_timeout)
    withdraw = deprecated_name("LoopThread.withdraw", cancel)
    tell_of_death = deprecated_name("LoopThread.tell_of_death", on_crash)
    leave = deprecated_name("LoopThread.leave", close_nowait)
    give_up = deprecated_name("LoopThread.give_up", _abandon)
    disown = deprecated_name("LoopThread.disown", _after_fork_in_child)


async def _nothing() -> None:
    """A call that takes no time in a loop that turns."""
