"""How many calls at once, whoever makes them: tasks of any event loops, and threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from penstock._util.hooks import tell_forked_child

#: Seconds after which a thread that waits asks whether it is still wanted.
_ASK_EVERY = 0.5


class _Borrower:
    """A task or thread that waits for its slot."""

    __slots__ = ("is_gone", "slot", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        #: Wakes it; raises ``RuntimeError`` if its event loop is closed.
        self.wake = wake
        #: Has one member once a slot is given to it. Whoever takes that out gives the slot back.
        self.slot: deque[None] = deque()
        #: Whether it waits no longer.
        self.is_gone = False


class CapacityLimiter:
    """At most ``total()`` slots are taken at once; those who wait get theirs in turn.

    What trio and anyio call so, for any number of event loops and threads together. The total may
    change: call :meth:`adapt` then.

    A finaliser may give a slot back, and it may interrupt this very object. So what it calls waits
    for no lock: whoever holds the lock looks once more after letting it go.
    """

    def __init__(self, total: Callable[[], int]) -> None:
        self._total = total
        self._after_fork_in_child()
        tell_forked_child(self)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._borrowers: deque[_Borrower] = deque()
        # Slots that were given back and are not given on yet. Appended to without the lock.
        self._released: deque[None] = deque()
        self._must_look = False

    @property
    def total(self) -> int:
        """How many slots there are."""
        return self._total()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return max(0, self._taken - len(self._released))

    @property
    def waiting(self) -> int:
        """How many tasks and threads wait for one."""
        return sum(not one.is_gone for one in list(self._borrowers))

    def try_acquire(self) -> bool:
        """Take a slot, if one is free and nobody waits for it."""
        with self._lock:
            self._give_on()
            is_free = not self._borrowers and self._taken < self._total()
            self._taken += is_free
        if self._must_look:
            self.adapt()
        return is_free

    async def acquire(self, timeout: float | None = None) -> bool:
        """Wait for a slot; False if there was none for ``timeout`` seconds.

        A cancelled call has taken none.
        """
        if self.try_acquire():
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        borrower = _Borrower(lambda: loop.call_soon_threadsafe(resolve))
        self._add(borrower)
        timer = None if timeout is None else loop.call_later(timeout, resolve)
        try:
            await future
        except BaseException:
            self._leave(borrower)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self._has_slot(borrower)

    def acquire_blocking(self, is_wanted: Callable[[], bool], timeout: float | None = None) -> bool:
        """:meth:`acquire`, for threads.

        Raises:
            CancelledError: ``is_wanted``, which is asked twice a second, returned False.
        """
        if self.try_acquire():
            return True
        event = threading.Event()
        borrower = _Borrower(event.set)
        give_up_at = math.inf if timeout is None else time.monotonic() + timeout
        try:
            self._add(borrower)
            while not event.wait(min(_ASK_EVERY, give_up_at - time.monotonic())):
                if not is_wanted():
                    raise asyncio.CancelledError("the call is no longer wanted")
                if time.monotonic() >= give_up_at:
                    break
        except BaseException:
            self._leave(borrower)
            raise
        return self._has_slot(borrower)

    def _has_slot(self, borrower: _Borrower) -> bool:
        """Whether one that waits no longer has its slot."""
        with self._lock:
            has_slot = bool(borrower.slot)
            borrower.is_gone = not has_slot
        if self._must_look:
            self.adapt()
        return has_slot

    def release(self) -> None:
        """Give a slot back. From anywhere."""
        self._released.append(None)
        self.adapt()

    def adapt(self) -> None:
        """Give slots to those who may have one now. From anywhere."""
        self._must_look = True
        while self._must_look and self._lock.acquire(blocking=False):
            try:
                self._give_on()
            finally:
                self._lock.release()

    def _add(self, borrower: _Borrower) -> None:
        with self._lock:
            self._borrowers.append(borrower)
        self.adapt()

    def _leave(self, borrower: _Borrower) -> None:
        borrower.is_gone = True
        self._take_back(borrower)
        self.adapt()

    def _take_back(self, borrower: _Borrower) -> None:
        """Give back the slot of one that is gone, unless that was done."""
        if borrower.slot:
            try:
                borrower.slot.pop()
            except IndexError:  # by another thread, in this moment
                return
            self._released.append(None)

    def _give_on(self) -> None:
        """Give free slots to those who have waited longest. With the lock held."""
        self._must_look = False
        while True:
            while self._released:
                self._released.pop()
                if self._taken:  # a forked child may give back what its parent took
                    self._taken -= 1
            while self._borrowers and self._borrowers[0].is_gone:
                self._borrowers.popleft()
            if not self._borrowers or self._taken >= self._total():
                return
            borrower = self._borrowers.popleft()
            self._taken += 1
            borrower.slot.append(None)
            try:
                borrower.wake()
            except RuntimeError:  # its event loop is closed
                borrower.is_gone = True
            if borrower.is_gone:  # perhaps since before it had the slot
                self._take_back(borrower)
