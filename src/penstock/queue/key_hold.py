"""How the items of a queue wait for limits with a ``key``: beside it, while others go on."""

from __future__ import annotations

import asyncio
import math
from asyncio import _get_running_loop
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, Protocol, TypeAlias

from penstock._util.clock import now
from penstock.limits.deadline import is_hopeless
from penstock.limits.rate.limiter import Limiter
from penstock.limits.rate.permit import Charge, Permit
from penstock.limits.rate.waiters import CallbackWaiter
from penstock.limits.rate.window import Demand, Starts
from penstock.policies.admission import NoRoom
from penstock.policies.item_state import ItemState
from penstock.queue.holder import Holder
from penstock.queue.limit_hold import call_after
from penstock.queue.places import Places

#: The job of an item, the key of its gate, and the limits of which the item takes something: their
#: places, each with its key.
Keys: TypeAlias = "tuple[Any, ...]"


class ParkingBuffer(Protocol):
    """What a :class:`KeyHold` needs of the buffer."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the queue, while there is one."""
        ...

    @property
    def guard(self) -> AbstractContextManager[Any]:
        """What keeps others away from the entries."""
        ...

    def places(self) -> Places:
        """Make a place for parked items that need the same keys."""
        ...

    def unpark(self, number: int) -> bool:
        """Let workers take a parked entry next; False if none comes for it."""
        ...


class _Place:
    """Where an item waits, and for what."""

    __slots__ = ("charges", "deadline_at", "gate_key", "keys", "number")

    def __init__(self, keys: Keys, charges: list[Charge], state: ItemState) -> None:
        self.keys = keys
        self.charges = charges
        self.gate_key = state.gate_key
        self.deadline_at = state.deadline_at
        #: That of the entry.
        self.number = 0


class _Line:
    """The parked entries of a job that need the same keys. One at a time goes to a worker."""

    __slots__ = ("granted", "keys", "out", "places", "waiter")

    def __init__(self, keys: Keys, places: Places) -> None:
        self.keys = keys
        #: Those of the parked entries; some may be gone.
        self.places = places
        #: The waiter at the limiter, for the first of them.
        self.waiter: CallbackWaiter | None = None
        #: The entry that is on its way to a worker, and what is reserved for it.
        self.out: _Place | None = None
        self.granted: CallbackWaiter | None = None


class KeyHold(Holder):
    """The places of a queue among those who wait for a limiter, one for all items of a key.

    An item that finds no room is parked, in the line of its keys. The first of a line has a waiter
    at the limiter. When that may start, the item is handed out next, and what is reserved is kept
    for it, if a worker is free to take it. When a worker has it, the next in the line has its turn.
    So an item is looked at twice or so, however many there are.

    The lines are guarded by the lock of the buffer, with which nobody waits for the limiter.
    Waiters are made, and called back, in the loop of the queue alone.

    Args:
        limiter: with keys.
        buffer: parks the entries.
        grace: as for :class:`LimitHold`.
    """

    #: Nothing is reserved for just any item.
    granted: tuple[Any, ...] = ()

    def __init__(self, limiter: Limiter, buffer: ParkingBuffer, grace: float) -> None:
        super().__init__()
        self._limiter = limiter
        self._buffer = buffer
        self._grace = grace
        self._lines: dict[Keys, _Line] = {}
        # The keys of lines where something has changed, and whether the loop is about to look.
        self._changed: dict[Keys, None] = {}
        self._is_called = False
        # The deadlines of parked entries, as a heap with their numbers, and the timer of the first.
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    # -- what workers call ------------------------------------------------------------------------

    def start(self, state: ItemState, item: Any) -> Permit:
        """A permit for an item that a worker has taken. ``waits_since`` is set if it had to wait.

        Raises:
            NoRoom: it may not start yet, and is to be parked.
            BudgetExceededError, TypeError, ValueError: as ``Limiter.acquire``.
        """
        place: _Place | None = state.place
        permit: Any = None
        if place is None:
            charges = self._limiter._charges(item)
            keys = _keys_of(charges, state)
            if keys not in self._lines:  # or it is not the first of those that wait
                permit = self._limiter._start_or_wait(charges, None, state.gate_key)
            if permit is None:
                state.place = _Place(keys, charges, state)
        else:
            permit = self._start_granted(place)
            if permit is None:
                permit = self._limiter._start_or_wait(place.charges, None, place.gate_key)
            if permit is not None:
                state.place = None
                self._left(place)
        if permit is None:
            if state.waits_since is None:
                state.waits_since = now()
            raise NoRoom
        started: Permit = permit
        return started

    def _start_granted(self, place: _Place) -> Permit | None:
        waiter = self._take_granted(place)
        if waiter is None:
            return None
        permit = self._limiter._start(waiter)
        if permit is None:  # it came too late
            self._limiter._abandon(waiter)
        return permit

    def _take_granted(self, place: _Place) -> CallbackWaiter | None:
        with self._buffer.guard:
            line = self._lines.get(place.keys)
            if line is None or line.out is not place:
                return None
            waiter, line.granted = line.granted, None
            return waiter

    def _left(self, place: _Place) -> None:
        with self._buffer.guard:
            line = self._lines.get(place.keys)
            if line is not None and line.out is place:
                line.out = None
                self._look_soon(place.keys)

    def is_reserved_for(self, state: ItemState) -> bool:
        """Whether what the item needs is reserved for it."""
        place = state.place
        line = None if place is None else self._lines.get(place.keys)
        return line is not None and line.out is place and line.granted is not None

    # -- what the buffer calls, with its lock ------------------------------------------------------

    def was_parked(self, number: int, place: _Place) -> None:
        """The entry of this number is parked."""
        place.number = number
        line = self._lines.get(place.keys)
        if line is None:
            line = self._lines[place.keys] = _Line(place.keys, self._buffer.places())
        line.places.push(number, place)
        if line.out is place:
            line.out = None
        if place.deadline_at is not None and place.deadline_at < math.inf:
            heappush(self._deadlines, (place.deadline_at, number))
            self._look_soon(place.keys)
        elif line.waiter is None and line.out is None:
            self._look_soon(place.keys)

    def was_taken(self, place: _Place) -> None:
        """The entry of this place, which was handed out, was taken, or is gone."""
        loop = self._buffer.loop
        if self._grace and loop is not None:  # its worker may be about to start it
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._look_later, loop, place.keys, context=Context())
        else:
            self._look_soon(place.keys)

    def changed(self) -> None:
        """Any of the entries may be gone."""
        for keys in self._lines:
            self._look_soon(keys)

    def end(self) -> None:
        """Wait no more, and give back what is reserved: no worker is left."""
        with self._buffer.guard:
            lines = list(self._lines.values())
            self._lines.clear()
            self._changed.clear()
            self._deadlines.clear()
            self._is_called = False  # what was called may have been of a loop that is closed
        timer, self._timer = self._timer, None
        if timer is not None and _get_running_loop() is self._buffer.loop:
            timer.cancel()
        for line in lines:
            for waiter in (line.waiter, line.granted):
                if waiter is not None:
                    self._limiter._abandon(waiter)
            line.waiter = line.granted = None

    # -- in the loop ------------------------------------------------------------------------------

    def _look_soon(self, keys: Keys) -> None:
        self._changed[keys] = None
        loop = self._buffer.loop
        if self._is_called or loop is None:
            return
        self._is_called = True
        is_here = _get_running_loop() is loop
        try:
            (loop.call_soon if is_here else loop.call_soon_threadsafe)(
                self._look, context=Context()
            )
        except RuntimeError:  # it is closed
            self._is_called = False

    def _look_later(self, loop: asyncio.AbstractEventLoop, keys: Keys) -> None:
        loop.call_later(self._grace, self._look_at, keys, context=Context())

    def _look(self) -> None:
        self._is_called = False
        while True:
            try:
                keys, _ = self._changed.popitem()
            except KeyError:
                break
            self._look_at(keys)
        self._set_timer()

    def _look_at(self, keys: Keys) -> None:
        """See that the first of a line has its waiter, or is on its way to a worker."""
        with self._buffer.guard:
            line = self._lines.get(keys)
            if line is None:
                return
            stale: list[CallbackWaiter | None] = []
            if line.out is not None and line.out.number not in self.handed_out:
                stale.append(line.granted)
                line.granted = line.out = None
            first = self._first(line)
            if first is None:
                stale.append(line.waiter)
                line.waiter = None
            has_turn = line.waiter is None and line.out is None
            if has_turn and first is None:
                del self._lines[keys]
        for waiter in stale:
            if waiter is not None:
                self._limiter._abandon(waiter)
        if has_turn and first is not None:
            self._wait_for(line, first)

    def _first(self, line: _Line) -> _Place | None:
        first: _Place | None = line.places.first(self.parked)
        return first

    def _wait_for(self, line: _Line, place: _Place) -> None:
        loop = self._buffer.loop
        assert loop is not None

        def make(demand: Demand, outer: Starts, charges: list[Charge] | None) -> CallbackWaiter:
            return CallbackWaiter(
                demand, loop, self._on_grant, outer=outer, charges=charges, owner=line
            )

        try:
            line.waiter = self._limiter._wait_for(place.charges, make, place.gate_key)
        except Exception:  # noqa: BLE001 - its worker finds that out, and tells
            line.waiter = None
        if line.waiter is None:
            self._hand_out(line, None)
        elif place.deadline_at is not None:
            wait = self._limiter._wait_of(line.waiter)
            if wait < math.inf and is_hopeless(place.deadline_at, now() + wait):
                waiter, line.waiter = line.waiter, None
                self._limiter._abandon(waiter)
                self._hand_out(line, None)  # its worker lets it fail

    def _on_grant(self, waiter: CallbackWaiter) -> None:
        line: Any = waiter.owner
        if line.waiter is not waiter:
            return
        line.waiter = None
        with self._buffer.guard:
            first = self._first(line)
        if waiter.error is None and first is not None and first.charges == waiter.charges:
            self._hand_out(line, waiter)
            return
        self._limiter._abandon(waiter)
        if waiter.error is None:
            self._look_at(line.keys)
        else:
            self._hand_out(line, None)  # its worker gets the error

    def _hand_out(self, line: _Line, waiter: CallbackWaiter | None) -> None:
        with self._buffer.guard:
            first = self._first(line)
            is_used, line.granted = False, waiter
            if first is not None:
                line.out = first
                is_used = self._buffer.unpark(first.number)
        if first is None:
            self._look_soon(line.keys)
        if waiter is None:
            return
        if is_used:
            call_after(self._grace, self._give_back, line, waiter)
        else:  # all workers are busy, or nothing is left
            self._give_back(line, waiter)

    def _give_back(self, line: _Line, waiter: CallbackWaiter) -> None:
        with self._buffer.guard:
            is_used = line.granted is not waiter
            if not is_used:
                line.granted = None
        if not is_used:
            self._limiter._abandon(waiter)

    def _set_timer(self) -> None:
        loop = self._buffer.loop
        with self._buffer.guard:
            while self._deadlines and self._deadlines[0][1] not in self.parked:
                heappop(self._deadlines)
            when = self._deadlines[0][0] if self._deadlines else math.inf
        if self._timer is not None:
            if self._timer.when() == when:
                return
            self._timer.cancel()
            self._timer = None
        if when < math.inf and loop is not None:
            self._timer = loop.call_at(when, self._on_deadline, when, context=Context())

    def _on_deadline(self, when: float) -> None:
        self._timer = None
        with self._buffer.guard:
            while self._deadlines and self._deadlines[0][0] <= when:
                _, number = heappop(self._deadlines)
                if number in self.parked:
                    self._buffer.unpark(number)  # its worker lets it fail
        self._set_timer()


def _keys_of(charges: list[Charge], state: ItemState) -> Keys:
    # The job too: one that has as many items in hand as it may must not hold up those of others,
    # which its own items may be waiting for.
    return (
        state.job,
        state.gate_key,
        *[(place, key) for place, (_, key, cost) in enumerate(charges) if cost],
    )
