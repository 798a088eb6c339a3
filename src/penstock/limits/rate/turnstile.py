"""The line of a limiter, with what it takes to be shared by event loops and threads."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from penstock.limits.rate.exact import Exact
from penstock.limits.rate.gate import Gate
from penstock.limits.rate.lessons import Lessons
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.line import Line
from penstock.limits.rate.permit import Permit
from penstock.limits.rate.waiting import Alarm, LoopWaiter, ThreadWaiter


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Turnstile:
    """One lock, one clock, one line. All methods but those that say so want the lock to be held.

    Whoever changes something takes a turn: decides who may start and wakes them, wherever they
    wait. Each event loop in which somebody waits has one timer for the next turn; of the threads
    that wait, the first minds the time. So none of them depends on another that stalls.
    """

    def __init__(self, limits: tuple[Limit, ...], rng: random.Random | None) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._gate = Gate(rng)
        self._line = Line(self._gate)
        self._lessons = Lessons()
        self._clock: Callable[[], float] = time.monotonic
        self._clock_of: asyncio.AbstractEventLoop | None = None
        self._clock_was_read = False
        self._alarms: dict[asyncio.AbstractEventLoop, Alarm] = {}
        self._threads: dict[ThreadWaiter, None] = {}
        #: Waiters whose tasks were thrown away.
        self._abandoned: deque[LoopWaiter] = deque()

    def _now(self, running: asyncio.AbstractEventLoop | None) -> float:
        # Read under the lock, always: a log takes a clock that goes back for another clock.
        if running is not self._clock_of and running is not None:
            self._clock_of = running
            clock = _clock_of(running)
            if clock != self._clock:
                self._clock = clock
                if self._clock_was_read:
                    self._start_anew()
        elif running is None and self._clock_of is not None and self._clock_of.is_closed():
            self._clock_of, self._clock = None, time.monotonic
        self._clock_was_read = True
        return self._clock()

    def _start_anew(self) -> None:
        """Times of another clock mean nothing."""
        self._gate.reopen()
        self._lessons.forget()
        for limit in self._limits:
            limit.use_another_clock()
        self._line.reconsider()

    def _enter(self, waiter: LoopWaiter | ThreadWaiter) -> None:
        if isinstance(waiter, ThreadWaiter):
            self._threads[waiter] = None
        else:
            alarm = self._alarms.get(waiter.loop)
            if alarm is None:
                alarm = self._alarms[waiter.loop] = Alarm(waiter.loop, self._ring)
            alarm.waiters.add(waiter)
        self._line.enter(waiter)

    def _turn(self, now: float, running: asyncio.AbstractEventLoop | None) -> None:
        """Let start who may, and set the timers."""
        self._reap()
        if now >= self._lessons.eases_at:
            self._ease(now)
        line = self._line
        while line.waiting and (started := line.turn(now)):
            for waiter in started:
                assert isinstance(waiter, (LoopWaiter, ThreadWaiter))
                if not waiter.wake(running):  # its loop was closed in this moment
                    line.give_back(waiter)
        when = line.next_turn(now) if line.waiting else math.inf
        for alarm in self._alarms.values():
            if when < alarm.when:
                if alarm.loop is running:
                    alarm.set(now, when)
                else:
                    alarm.set_soon()
        for waiter in self._threads:
            if when < waiter.until:
                waiter.signal.set()
            break  # the first minds the time

    def _reap(self) -> None:
        """Those who can never go on do not keep others waiting."""
        for loop in [loop for loop in self._alarms if loop.is_closed()]:
            for waiter in self._alarms.pop(loop).waiters:
                self._line.leave(waiter)
                self._line.give_back(waiter)
        while self._abandoned:
            self._withdraw_from_loop(self._abandoned.popleft())

    def _start_now(self, now: float, waiter: LoopWaiter | ThreadWaiter) -> None:
        """One that was let through goes on: its start counts from here."""
        self._line.confirm(now, waiter)
        if isinstance(waiter, LoopWaiter):
            self._forget(waiter)
        if self._line.waiting:
            self._turn(now, running_loop())

    def _withdraw(self, waiter: LoopWaiter | ThreadWaiter) -> None:
        """It does not want to wait, or to start, any more: all that it had is given back."""
        if isinstance(waiter, LoopWaiter):
            self._withdraw_from_loop(waiter)
        else:
            self._line.leave(waiter)
            self._line.give_back(waiter)
            self._threads.pop(waiter, None)
            for next_thread in self._threads:
                next_thread.signal.set()  # it has to mind the time now
                break
        running = running_loop()
        self._turn(self._now(running), running)

    def _withdraw_from_loop(self, waiter: LoopWaiter) -> None:
        self._line.leave(waiter)
        self._line.give_back(waiter)
        self._forget(waiter)

    def _forget(self, waiter: LoopWaiter) -> None:
        alarm = self._alarms.get(waiter.loop)
        if alarm is None:
            return
        alarm.waiters.discard(waiter)
        if not alarm.waiters and waiter.loop is running_loop():
            alarm.cancel()
            del self._alarms[waiter.loop]

    def _abandon(self, waiter: LoopWaiter) -> None:
        """For one whose task is thrown away. Takes the lock only if it is free.

        The garbage collector may throw a task away at any time, and so while this very thread
        holds the lock. Then the next turn sees to it.
        """
        self._abandoned.append(waiter)
        if self._lock.acquire(blocking=False):
            try:
                running = running_loop()
                self._turn(self._now(running), running)
            finally:
                self._lock.release()

    def _ring(self, alarm: Alarm) -> None:
        """An alarm rings, in its loop. Takes the lock."""
        with self._lock:
            now = self._now(alarm.loop)
            self._turn(now, alarm.loop)
            if not alarm.waiters:
                alarm.cancel()
                self._alarms.pop(alarm.loop, None)

    def _change(self, limit: Limit, maximum: float, period: float) -> None:
        """Another rate. Takes the lock."""
        with self._lock:
            running = running_loop()
            now = self._now(running)
            self._lessons.forget(limit)
            limit.set_rate(maximum, period)
            self._rates_changed()
            for waiter in self._line.reject_too_much():
                assert isinstance(waiter, (LoopWaiter, ThreadWaiter))
                waiter.wake(running)
            self._line.reconsider()
            self._turn(now, running)

    def _ease(self, now: float) -> None:
        """What refusals took away may be tried again."""
        self._lessons.ease(now)
        self._rates_changed()
        self._line.reconsider()

    def _rates_changed(self) -> None:
        """For those who know something that depends on them."""

    def _settle(self, permit: Permit, limit: Limit, cost: Exact) -> None:
        """What a call cost in truth. Takes the lock."""
        with self._lock:
            running = running_loop()
            now = self._now(running)
            meter = permit.settle_at(now, limit, cost)
            if meter is not None and self._line.waiting:
                self._line.freed(meter)
                self._turn(now, running)


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The monotonic clock, unless the loop has one of its own: its time is virtual.

    uvloop's ``time`` is monotonic too, but stands still while a callback runs.
    """
    if not isinstance(loop, asyncio.BaseEventLoop):
        return time.monotonic
    own = getattr(loop.time, "__func__", None) is not asyncio.BaseEventLoop.time
    return loop.time if own else time.monotonic
