"""Hooks of the process: the interpreter ends, or a forked child begins.

At the end of the interpreter, queues that nobody stopped are drained. In a forked child, objects
whose threads and event loops stayed behind in the parent learn that they did.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see the end of this module
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

_logger = logging.getLogger("penstock")


class ExitHooks(Protocol):
    """A queue that has accepted items to finish when the interpreter ends."""

    def _join_at_exit(self) -> bool:
        """Wait until all accepted items are processed; False if there was nothing to wait for."""
        ...

    def _stop_at_exit(self) -> None:
        """Stop: every queue is empty."""


class ForkHook(Protocol):
    """An object with threads, locks or event loops, which a forked child must not use."""

    def _after_fork_in_child(self) -> object:
        """Refuse every call from now on, or be as new.

        Returns the objects that the child must not even collect: collecting an event loop closes
        it, and that would reach into the parent's loop, because the two share what the kernel
        holds of it.
        """


_queues: weakref.WeakSet[ExitHooks] = weakref.WeakSet()
#: Daemon threads that are about to end by themselves.
_ending_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_fork_hooks: weakref.WeakSet[ForkHook] = weakref.WeakSet()
_never_collected: list[object] = []


def drain_at_exit(queue: ExitHooks) -> None:
    """Drain ``queue`` when the interpreter ends, if ``queue`` still exists then."""
    _queues.add(queue)


def wait_at_exit(thread: threading.Thread) -> None:
    """Wait for ``thread`` when the interpreter ends, although it is a daemon."""
    _ending_threads.add(thread)


def tell_forked_child(hook: ForkHook) -> None:
    """Call ``hook._after_fork_in_child()`` in every forked child, if ``hook`` still exists then."""
    _fork_hooks.add(hook)


class ForkSafeLock:
    """A lock that is free in a forked child, whichever thread held it in the parent.

    Args:
        make: makes the lock itself, ``threading.Lock`` or ``threading.RLock``.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        self._make = make
        self._lock = make()
        tell_forked_child(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = self._make()


def _drain_queues() -> None:
    queues = list(_queues)
    # All are empty before any is stopped: the workers of one may put into another.
    while [queue for queue in queues if _logged(queue._join_at_exit)]:
        pass
    for queue in queues:
        _logged(queue._stop_at_exit)
    for thread in list(_ending_threads):
        thread.join()


def _logged(call: Callable[[], bool | None]) -> bool | None:
    """Make a call; log its exception, so that the other queues are drained all the same."""
    try:
        return call()
    except Exception:
        _logger.exception("A queue could not be drained")
        return False


def _after_fork_in_child() -> None:
    _never_collected.extend([hook._after_fork_in_child() for hook in list(_fork_hooks)])


# The queues are drained before the interpreter waits for its threads, and before it freezes its
# daemon threads, which it does before it calls atexit's own functions. Those of threading are
# called last in, first out, and the one of concurrent.futures refuses every later submit: so
# concurrent.futures.thread is imported above, to register its own before ours.
getattr(threading, "_register_atexit", atexit.register)(_drain_queues)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
