"""What is left to do when the interpreter ends: drain the queues that nobody stopped."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see below
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

_logger = logging.getLogger("penstock")


class Drainable(Protocol):
    """What is drained when the interpreter ends."""

    def join_at_exit(self) -> bool:
        """Wait until all that was accepted is processed; False if there was nothing to wait for."""
        ...

    def stop_at_exit(self) -> None:
        """Let nothing in any more, and end."""


_running: weakref.WeakSet[Drainable] = weakref.WeakSet()
#: Threads that are about to end by themselves when they have drained their queue.
_leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def drain_at_exit(queue: Drainable) -> None:
    """Drain this queue when the interpreter ends, if it is still there."""
    _running.add(queue)


def wait_at_exit(thread: threading.Thread) -> None:
    """Wait for this thread when the interpreter ends, although it is a daemon."""
    _leaving.add(thread)


def _drain_all() -> None:
    queues = list(_running)
    # All are empty before any is stopped: the workers of one may put into another.
    while [queue for queue in queues if _safely(queue.join_at_exit)]:
        pass
    for queue in queues:
        _safely(queue.stop_at_exit)
    for thread in list(_leaving):
        thread.join()


def _safely(call: Callable[[], bool | None]) -> bool | None:
    try:
        return call()
    except Exception:
        _logger.exception("A queue could not be drained")
        return False


# Before the interpreter waits for its threads, and before daemons are frozen, which is what comes
# before atexit's own. These hooks run last in, first out, and the one of concurrent.futures lets
# nobody submit any more: so it must have been registered before.
getattr(threading, "_register_atexit", atexit.register)(_drain_all)
