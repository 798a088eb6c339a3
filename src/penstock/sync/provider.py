"""The event loop thread of one queue: who uses it, and when it ends."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, NoReturn

from penstock._util import checks, hooks
from penstock._util.garbage import is_collecting, refuse_in_collection
from penstock._util.loop_thread import LoopThread
from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import QueueStateError

#: Seconds that the last user waits for the thread to end.
CLOSE_TIMEOUT = 0.25


def may_wait() -> bool:
    """Whether a call may block: no event loop and no garbage collection runs in this thread."""
    return not is_collecting() and not blocks_loop()


def refuse_to_wait(call: str) -> None:
    """Refuse a call that blocks in a running event loop, which could do nothing meanwhile.

    Or in a finaliser that has interrupted the thread: for whatever it would wait, the thread may be
    about to do that itself.

    Raises:
        QueueStateError: an event loop runs in this thread, and this is no cell of a notebook; or
            a garbage collection does.
    """
    refuse_in_collection(call)
    if blocks_loop():
        raise QueueStateError(
            f"Cannot call {call}() in a running event loop: it would block the loop. Use "
            f"put_nowait(), or asyncio.to_thread, or the asynchronous penstock.WorkQueue{advice()}"
        )


def refuse_green_threads() -> None:
    """Refuse to work where gevent or eventlet has replaced threads, with a ``RuntimeError``."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        _refuse_patched("gevent.monkey", "gevent.monkey.patch_all(thread=False)", "gevent")
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        _refuse_patched("eventlet", "eventlet.monkey_patch(thread=False)", "eventlet")


def _refuse_patched(who: str, advice: str, library: str) -> NoReturn:
    raise RuntimeError(
        f"penstock.sync needs real threads, and {who} has patched the module threading: do not "
        f"patch it ({advice}), or use {library}'s own queues"
    )


class LoopThreadProvider:
    """Provides a queue with a loop thread while calls of the queue need one.

    Args:
        external: the thread to use, which somebody else closes. ``None``: the first user makes a
            thread, and the last one closes it if the queue is at rest.
        is_at_rest: the method of the queue that says whether it is idle or stopped.

    Raises:
        TypeError: ``external`` is no ``LoopThread``.
    """

    def __init__(self, external: LoopThread | None, is_at_rest: Callable[[], bool]) -> None:
        if external is not None and not isinstance(external, LoopThread):
            raise TypeError(
                "loop_thread must be a penstock.sync.LoopThread or None, got "
                f"{checks.shown(external)}"
            )
        self._external = external
        # The queue holds its provider, which must not hold the queue.
        self._is_at_rest: weakref.WeakMethod[Callable[[], bool]] = weakref.WeakMethod(is_at_rest)
        self._thread: LoopThread | None = None
        self._users = 0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a loop thread."""
        return self._thread is not None

    @contextmanager
    def closed(self) -> Iterator[bool]:
        """Whether there is no loop thread; none comes or goes within the block."""
        with self._lock:
            yield self._thread is None

    @contextmanager
    def acquire(self) -> Iterator[LoopThread]:
        """Have a loop thread within the block."""
        with self._lock:
            if self._thread is None:
                thread = LoopThread() if self._external is None else self._external
                thread.start()
                self._thread = thread
            thread = self._thread
            self._users += 1
        try:
            yield thread
        finally:
            with self._lock:
                self._users -= 1
                is_at_rest = self._is_at_rest()
                is_last = (
                    not self._users
                    and self._thread is thread
                    and (is_at_rest is None or is_at_rest())
                )
                if is_last:
                    self._thread = None
            if is_last and thread is not self._external and not thread.close(CLOSE_TIMEOUT):
                # Tasks that a worker function left behind take their time; nobody need wait here.
                assert thread.thread is not None
                hooks.wait_at_exit(thread.thread)

    def release(self) -> None:
        """The queue has come to rest without a call: let the thread end, unless a call uses it.

        For the thread itself. Does not wait.
        """
        with self._lock:
            is_at_rest = self._is_at_rest()
            if self._users or self._thread is None or is_at_rest is None or not is_at_rest():
                return  # the last call that uses it does the same
            thread, self._thread = self._thread, None
        if thread is not self._external:
            assert thread.thread is not None
            hooks.wait_at_exit(thread.thread)
            thread.close_nowait()

    def send(self, func: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Run a call without waiting for it; False if there is no loop thread.

        For finalisers: takes no lock but the re-entrant one of the loop thread's calls. The call
        runs in an empty context.
        """
        thread = self._thread
        with suppress(QueueStateError):  # it has ended, or is about to
            if thread is not None:
                Context().run(thread.send, func)
                return True
        return False

    def discard(self, thread: LoopThread) -> bool:
        """Use another thread from now on; False if ``thread`` is not the one in use."""
        with self._lock:
            if self._thread is not thread:
                return False
            self._thread = None
            return True

    def close_blocked(self, thread: LoopThread) -> None:
        """The loop of ``thread`` is blocked: have its callers wait no longer, if it is our own."""
        if thread is not self._external:
            thread._abandon()

    def run_then_close(self, func: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        """Run a last call without waiting for it, and let the thread end after it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if thread is self._external:
            thread.send(func, *args)
            return
        if thread.thread is not None:
            hooks.wait_at_exit(thread.thread)

        async def last_call() -> None:
            try:
                await func(*args)
            finally:
                thread.close_nowait()

        thread.send(last_call)
