"""How a queue waits for the limits of its policy, while no worker holds an item for that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Protocol

from penstock._util.clock import now
from penstock.limits.rate.limiter import Limiter, MakeWaiter
from penstock.limits.rate.permit import Charge, Permit
from penstock.limits.rate.waiters import CallbackWaiter
from penstock.limits.rate.window import Demand, Starts
from penstock.policies.admission import NoRoom
from penstock.policies.item_state import ItemState
from penstock.queue.holder import Holder


class HeldBuffer(Protocol):
    """What a :class:`LimitHold` needs of the buffer."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the queue, while there is one."""
        ...

    @property
    def ready(self) -> int:
        """How many accepted entries no worker holds."""
        ...

    @property
    def startable(self) -> int:
        """How many more entries workers would start by now, if no limit held them up."""
        ...

    def hold(self) -> None:
        """Let workers take nothing, until :meth:`go_on`."""

    def go_on(self) -> bool:
        """Let workers take entries again, one at a time; False if no worker comes for one."""
        ...


class LimitHold(Holder):
    """The place of a queue among those who wait for a limiter, for limits without ``key``.

    The worker that finds no room puts its item back, and the queue is *held*: its workers take
    nothing. One waiter stands at the limiter for all of them. When a call may start, the loop is
    told, the queue is held no longer, and the next item that a worker takes starts by what is
    reserved. If others wait behind it, the next waiter is made in the same moment.

    What is reserved and not used would be lost to all who share the limiter. So it is given back
    when no worker is free to come for it, or none has used it a moment later.

    Any thread may call the methods, but none that has the lock of the buffer or of the limiter.

    Args:
        limiter: without keys.
        buffer: holds its workers back.
        grace: seconds in which a worker that is woken begins with an item; 0: when the loop has
            done what it has to do now.
    """

    def __init__(self, limiter: Limiter, buffer: HeldBuffer, grace: float) -> None:
        super().__init__()
        self._limiter = limiter
        self._buffer = buffer
        self._grace = grace
        self._lock = threading.RLock()
        self._waiting: CallbackWaiter | None = None
        #: The waiter whose call may start, if any. A list, since threads can take it out of that.
        self.granted: list[CallbackWaiter] = []

    def start(self, state: ItemState, item: Any) -> Permit:
        """A permit for an item that a worker has taken. ``waits_since`` is set if it had to wait.

        Raises:
            NoRoom: it may not start yet, and the queue is held.
            BudgetExceededError, TypeError, ValueError: as ``Limiter.acquire``.
        """
        charges = self._limiter._charges_of(item)
        with self._lock:
            permit = self._start_granted(state)
            if permit is not None:
                self._wait_for_next()
                return permit
            is_first = self._waiting is None
            owner = None if charges is None else state
            make = self._maker(owner) if is_first else None
            place = self._limiter._start_or_wait(charges, make)
            if isinstance(place, Permit):
                return place
            if is_first:
                self._waiting = place
            if state.waits_since is None:
                state.waits_since = now()
            if self._waiting is not None:
                self._buffer.hold()
            raise NoRoom

    def _start_granted(self, state: ItemState) -> Permit | None:
        try:
            waiter = self.granted.pop()
        except IndexError:
            return None
        if waiter.owner not in (None, state):  # an older item came back, which goes first
            self._limiter._abandon(waiter)
            return None
        if waiter.error is not None:
            self._limiter._abandon(waiter)
            raise waiter.error
        permit = self._limiter._start(waiter)
        if state.waits_since is None:
            state.waits_since = waiter.since
        if permit is None:  # it came too late
            self._waiting = waiter
            self._buffer.hold()
            raise NoRoom
        return permit

    def _wait_for_next(self) -> None:
        """Have those that wait behind an item that starts be held at once, if they must."""
        make = self._maker(None)
        is_for_any = self._limiter._fixed_demand is not None
        if self._waiting is None and make is not None and is_for_any and self._buffer.startable:
            with suppress(Exception):  # the next item finds that out, and tells
                self._waiting = self._limiter._wait_for(None, make)
            if self._waiting is not None:
                self._buffer.hold()

    def _maker(self, owner: ItemState | None) -> MakeWaiter | None:
        loop = self._buffer.loop
        if loop is None:
            return None  # the loop is gone, and no worker will go on

        def make(demand: Demand, outer: Starts, charges: list[Charge] | None) -> CallbackWaiter:
            return CallbackWaiter(
                demand,
                loop,
                self._on_grant,
                outer=outer,
                count=self._count,
                charges=charges,
                owner=owner,
                since=now(),
            )

        return make

    def _on_grant(self, waiter: CallbackWaiter) -> None:
        with self._lock:
            if self._waiting is not waiter:  # it has started by now, or was given back
                return
            self._waiting = None
            self.granted.append(waiter)
            is_used = self._buffer.go_on()
        if is_used:
            call_after(self._grace, self._give_back, waiter)
        else:
            self._give_back(waiter)

    def _count(self) -> int:
        return self._buffer.startable

    def is_reserved_for(self, state: ItemState) -> bool:
        """Whether what the item needs is reserved."""
        return bool(self.granted)

    def changed(self) -> None:
        """If nothing is left, wait no more. To be called with the lock of the buffer."""
        loop = self._buffer.loop
        if self._waiting is not None and loop is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._end_if_empty, context=Context())

    def _end_if_empty(self) -> None:
        with self._lock:
            waiter = self._waiting
            if waiter is None or self._buffer.ready:
                return
            self._waiting = None
            self._buffer.go_on()
        self._limiter._abandon(waiter)

    def _give_back(self, waiter: CallbackWaiter) -> None:
        with suppress(ValueError):  # it was used
            self.granted.remove(waiter)
            self._limiter._abandon(waiter)

    def end(self) -> None:
        """Wait no more, and give back what is reserved: no worker is left."""
        with self._lock:
            waiter, self._waiting = self._waiting, None
        if waiter is not None:
            self._limiter._abandon(waiter)
        for waiter in [*self.granted]:
            self._give_back(waiter)


def call_after(grace: float, callback: Callable[..., None], *args: Any) -> None:
    """Have the loop that runs call ``callback(*args)`` after ``grace`` seconds.

    0: when it has done what it has to do now, and what that leads to at once.
    """
    loop = asyncio.get_running_loop()
    if grace:
        loop.call_later(grace, callback, *args, context=Context())
    else:
        loop.call_soon(partial(loop.call_soon, callback, *args, context=Context()))
