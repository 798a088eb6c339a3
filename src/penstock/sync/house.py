"""Who is in the event loop thread of one queue, and when it is to end."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from penstock._util import checks
from penstock.sync import _exit
from penstock.sync.loop_thread import LoopThread

#: Seconds that the last visitor waits for the thread to end.
PATIENCE = 0.25


class House:
    """Has a loop thread while there is something to do in it.

    ``given``: the thread to use, which is somebody else's to close. Otherwise one is made with
    the first visit, and closed by the last visitor who leaves a queue that ``is_at_rest()``.
    """

    def __init__(self, given: LoopThread | None, is_at_rest: Callable[[], bool]) -> None:
        if given is not None and not isinstance(given, LoopThread):
            raise TypeError(
                f"loop_thread must be a penstock.sync.LoopThread or None, got {checks.shown(given)}"
            )
        self._given = given
        # A method of the queue, which holds the house, and must not be held by it.
        self._is_at_rest: weakref.WeakMethod[Callable[[], bool]] = weakref.WeakMethod(is_at_rest)
        self._home: LoopThread | None = None
        self._visitors = 0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a loop thread."""
        return self._home is not None

    @contextmanager
    def closed(self) -> Iterator[bool]:
        """Whether there is no loop thread; none comes or goes within the block."""
        with self._lock:
            yield self._home is None

    @contextmanager
    def visiting(self) -> Iterator[LoopThread]:
        """Have a loop thread for a call."""
        with self._lock:
            if self._home is None:
                home = LoopThread() if self._given is None else self._given
                home.start()
                self._home = home
            home = self._home
            self._visitors += 1
        try:
            yield home
        finally:
            with self._lock:
                self._visitors -= 1
                is_at_rest = self._is_at_rest()
                is_last = (
                    not self._visitors
                    and self._home is home
                    and (is_at_rest is None or is_at_rest())
                )
                if is_last:
                    self._home = None
            if is_last and home is not self._given and not home.close(PATIENCE):
                # Tasks that a worker function left behind take their time; nobody need wait here.
                assert home.thread is not None
                _exit.wait_at_exit(home.thread)

    def abandon(self, home: LoopThread) -> bool:
        """Use another thread from now on; False if this is not the one in use."""
        with self._lock:
            if self._home is not home:
                return False
            self._home = None
            return True

    def give_up(self, home: LoopThread) -> None:
        """The loop of ``home`` is blocked: nobody is to wait for it any more."""
        if home is not self._given:
            home.give_up()

    def leave_after(self, func: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Run a last call, wait for nothing, and let the thread end after it."""
        home, self._home = self._home, None
        if home is None:
            return
        if home is self._given:
            home.send(func, *args)
            return
        if home.thread is not None:
            _exit.wait_at_exit(home.thread)

        async def last_call() -> None:
            try:
                await func(*args)
            finally:
                home.leave()

        home.send(last_call)
