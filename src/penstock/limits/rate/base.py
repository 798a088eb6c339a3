"""What tasks and threads that use one limiter share: lock, clock, scheduler and timers."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, ClassVar

from penstock._util import checks
from penstock._util.hooks import tell_forked_child
from penstock.limits.rate.budget import Budget
from penstock.limits.rate.exact import Exact
from penstock.limits.rate.gate import Closures, Gate
from penstock.limits.rate.gates import KeyedGates
from penstock.limits.rate.learning import RefusalLearner
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.permit import Permit
from penstock.limits.rate.scheduler import Scheduler
from penstock.limits.rate.sliding_log import SlidingLog
from penstock.limits.rate.standstill import Standstills
from penstock.limits.rate.waiters import LoopTimer, LoopWaiter, ThreadWaiter, Wakeups

#: All keys of a limit.
_ALL = object()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(frozen=True)
class LimiterStatistics:
    """What a limiter has done so far."""

    #: Calls that wait now. What waits in a queue counts as far as workers are free for it, or for
    #: limits with a ``key``, as one for each key.
    waiting: int
    #: Calls that were let through.
    grants: int
    #: How often the gate went from open to closed; where each key has a gate, all of them.
    closures: int
    #: Seconds until the gate opens, 0 when it is open; where each key has one, until the last of
    #: them opens.
    closed_for: float
    #: Header fields given to ``observe`` that made no sense.
    ignored_headers: int
    #: By the name of the limit, the rate a second that refusals taught, where it is lower than the
    #: rate of the limit, or bursts are smaller.
    learned_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def held_back(self) -> Mapping[str, float]:
        """Deprecated: the old name of ``learned_rates``."""
        warnings.warn(
            "held_back is deprecated: use learned_rates", DeprecationWarning, stacklevel=2
        )
        return self.learned_rates


class LimiterBase:
    """The shared state of a limiter, and the ways to change it.

    One lock guards all of it. A method needs the lock to be held by its caller, unless it says that
    it takes the lock. Whoever changes something dispatches: decides who may start, and wakes them.

    It is a base class, and not an attribute of the limiter: ``acquire`` reads its attributes for
    each call, and a limiter that machines share overrides some of its methods.
    """

    #: The class of the logs in which starts are counted.
    log_type: ClassVar[type[SlidingLog]] = SlidingLog

    def __init__(
        self, limits: Iterable[Limit | str], rng: random.Random | None, name: str | None
    ) -> None:
        if isinstance(limits, (Limit, str)):
            given = checks.shown(limits)
            raise TypeError(
                f"limits must be a list of Limit, or a Limiter: write limits=[{given}], got {given}"
            )
        if not isinstance(limits, Iterable):
            raise TypeError(f"limits must be a list of Limit, got {checks.shown(limits)}")
        if rng is not None and not callable(getattr(rng, "random", None)):
            raise TypeError(f"rng must be a random.Random or None, got {checks.shown(rng)}")
        self.limits: tuple[Limit, ...] = tuple(map(_as_limit, limits))
        self._by_name: dict[str, Limit] = {}
        for limit in self.limits:
            if limit.name in self._by_name:
                called = checks.shown(limit.name)
                raise ValueError(f"two limits have the name {called}: give them different names")
            self._by_name[limit.name] = limit
        #: Whether calls are to be told to be over.
        self._has_budget = any(isinstance(limit, Budget) for limit in self.limits)
        #: Permits of calls that are over. May be appended to without the lock.
        self._finished: deque[Permit] = deque()
        self._lock = threading.Lock()
        self._closings = closures = Closures()
        self._gate = Gate(rng, closures)
        self._gates = KeyedGates(rng, closures)
        #: Whether any gate is closed, or was lately.
        self._is_gated = False
        #: What it is called in telemetry and in the log.
        self.name = "default" if name is None else checks.label(name, "name")
        self._standstills = Standstills(f"of the limiter {checks.shown(self.name)}")
        self._scheduler = Scheduler(self._gate, self._gates.waiters)
        self._learner = RefusalLearner()
        self._wakeups = Wakeups()
        self._clock: Callable[[], float] = time.monotonic
        self._clock_of: asyncio.AbstractEventLoop | None = None
        self._clock_was_read = False
        self._grants = 0
        #: From when on calls are counted, by this clock, and how many there were before.
        self._counts_from = -math.inf, 0
        self._ignored_headers = 0
        self._tells_again_at = -math.inf  # of a long wait
        tell_forked_child(self)

    def limit(self, which: Limit | str) -> Limit:
        """The limit of this name.

        Raises:
            KeyError: the limiter has no such limit.
        """
        limit = self._by_name.get(which) if isinstance(which, str) else which
        if limit not in self.limits:
            names = ", ".join(map(checks.shown, self._by_name)) or "none"
            raise KeyError(
                f"the limiter has no limit {checks.shown(which)}; its limits are {names}"
            )
        assert limit is not None
        return limit

    @property
    def _closures(self) -> int:
        """How often a gate went from open to closed. Takes no lock: finalisers may read it."""
        return self._gate.closures

    def _gate_closed_from_now(self) -> Callable[[], float]:
        """What tells for how many seconds the gate has been closed since this call.

        It takes no lock: finalisers may call it, from any thread.
        """
        before = self._closings.seconds(self._clock())
        return lambda: self._closings.seconds(self._clock()) - before

    def _scarcest(self, permit: Permit) -> str:
        """The name of the limit that has least left, of those that ``permit`` took from.

        Takes the lock.
        """
        with self._lock:
            now = self._now(running_loop())
            shares = [
                (float(window.log.used(now)) / float(window.owner.max), window.owner.name)
                for window, _ in permit._demand
            ]
        return max(shares, default=(0.0, ""))[1]

    def remaining(self, item: Any = None) -> dict[str, float]:
        """How much of each limit may start now, by its name; zero or more. Takes nothing.

        Args:
            item: what is asked for; of a limit with a ``key``, what remains for the key of this
                item. Unless given, what remains for the key that has used most.

        Raises:
            TypeError, ValueError: a key function raised, or returned what cannot be a key.

        It is less than ``max`` allows where refusals taught so. It does not look at the gate, nor
        at calls that wait. From any thread.
        """
        keys = self._keys_of(item)
        with self._lock:
            now = self._now(running_loop())
            return {
                limit.name: float(
                    min([log.room(now) for log in _logs_of(limit, key)], default=limit.max)
                )
                for limit, key in keys
            }

    def utilization(self, item: Any = None) -> dict[str, float]:
        """The share of each limit's ``max`` that is used now, by its name: 0 is nothing.

        It may be above 1, where ``max`` was lowered or a cost was more than its estimate. ``item``,
        and what is raised: as for :meth:`remaining`. With many keys and no ``item`` it looks at all
        of them. From any thread.
        """
        keys = self._keys_of(item)
        with self._lock:
            now = self._now(running_loop())
            return {
                limit.name: float(max([log.used(now) for log in _logs_of(limit, key)], default=0))
                / float(limit.max)
                for limit, key in keys
            }

    def _keys_of(self, item: Any) -> list[tuple[Limit, Hashable]]:
        # Not under the lock: the key functions are the user's.
        return [(limit, _ALL if item is None else limit._key_of(item)) for limit in self.limits]

    def __repr__(self) -> str:
        # Without the lock: a debugger may ask while it is held.
        seconds = self._gate.closed_for(self._clock())
        gate = f"gate closed for {seconds:.3g} s" if seconds else "gate open"
        what = f"{type(self).__name__} {self.name!r}: limits={list(self.limits)}"
        return f"<{what}, {gate}, calls that wait: {self._scheduler.calls}>"

    def statistics(self) -> LimiterStatistics:
        """What the limiter has done so far, and how many calls wait. From any thread."""
        with self._lock:
            return LimiterStatistics(
                waiting=self._scheduler.calls,
                grants=self._grants,
                closures=self._closures,
                closed_for=self._closed_for(self._now(running_loop())),
                ignored_headers=self._ignored_headers,
                learned_rates=self._learner.learned_rates(),
            )

    def _closed_for(self, now: float) -> float:
        """Seconds until the last gate that is closed opens."""
        waits = [log.gate.closed_for(now) for log in self._gates.logs.values()]
        return max([self._gate.closed_for(now), *waits])

    # -- gates ------------------------------------------------------------------------------------

    def _gate_of(self, key: Hashable, now: float) -> tuple[Gate, int]:
        """The gate of a key, which is made if needed, or that for all; and how many wait for it."""
        if key is None:
            return self._gate, self._scheduler.calls
        log, is_new = self._gates.make(key, now)
        window = self._gates.window_of(key)
        if is_new and window is not None:
            self._scheduler.close_gate(window)
        return log.gate, log.waiting

    def _was_closed(self, gate: Gate, key: Hashable, waiting: int, why: str) -> None:
        """A gate was closed, or stays so for longer: the log may have to say so."""
        self._is_gated = True
        self._standstills.note(gate, key, waiting, why)

    # -- the clock --------------------------------------------------------------------------------

    def _now(self, running: asyncio.AbstractEventLoop | None) -> float:
        # Always read under the lock: to a log, a time before the last one is another clock's.
        if running is not self._clock_of and running is not None:
            self._clock_of = running
            clock = _clock_of(running)
            if clock != self._clock:
                self._clock = clock
                if self._clock_was_read:
                    self._clock_was_read = False
                    self._forget_times()
        elif running is None and self._clock_of is not None and self._clock_of.is_closed():
            self._clock_of, self._clock = None, time.monotonic
        if not self._clock_was_read:
            self._clock_was_read = True
            self._counts_from = self._clock(), self._grants
        return self._clock()

    def _forget_times(self) -> None:
        """Forget all times, because the clock is another one."""
        self._gate.reopen()
        self._closings.reopen()
        self._gates.clear()
        self._learner.forget()
        for limit in self.limits:
            limit._state.clear()
        self._scheduler.recheck_all()

    def _after_fork_in_child(self) -> object:
        """Be as new: the waiters, timers and starts are those of the parent."""
        inherited = (self._scheduler, self._wakeups)
        self._lock = threading.Lock()
        self._clock_of, self._clock = None, time.monotonic
        self._clock_was_read = False
        self._gate.reopen()
        self._closings.reopen()
        self._gates.reset()
        self._is_gated = False
        self._standstills.forget()
        self._scheduler = Scheduler(self._gate, self._gates.waiters)
        self._learner = RefusalLearner()
        self._wakeups = Wakeups()
        self._finished.clear()
        for limit in self.limits:
            limit._state.reset()
        self._rates_changed()
        return inherited

    # -- who waits --------------------------------------------------------------------------------

    def _add_waiter(self, waiter: LoopWaiter | ThreadWaiter, gate_key: Hashable = None) -> None:
        waiter.gate_key = gate_key
        self._wakeups.add(waiter, self._on_timer)
        self._scheduler.add(waiter)

    def _dispatch(self, now: float, running: asyncio.AbstractEventLoop | None) -> None:
        """Let the waiters start that may, and set the timers for the next ones."""
        scheduler, wakeups = self._scheduler, self._wakeups
        # Those that can never go on must not keep others waiting.
        for dead in wakeups.take_dead(running):
            scheduler.remove(dead)
            scheduler.cancel(dead)
        while self._finished:
            permit = self._finished.popleft()
            scheduler.finish(permit._demand, permit._records)
        if now >= self._learner.relax_at:
            self._relax(now)
        while scheduler.waiting and (granted := scheduler.grant(now)):
            for waiter in granted:
                if not waiter.wake(running):  # its loop was closed in this moment
                    scheduler.cancel(waiter)
        when = scheduler.next_grant(now) if scheduler.waiting else math.inf
        wakeups.schedule(now, when, running)

    def _confirm(
        self,
        now: float,
        waiter: LoopWaiter | ThreadWaiter,
        running: asyncio.AbstractEventLoop | None,
    ) -> None:
        """Count the start of ``waiter`` from ``now`` on: its caller goes on, in this thread."""
        self._scheduler.confirm(now, waiter)
        if isinstance(waiter, LoopWaiter):  # a thread removes its own
            self._wakeups.remove(waiter, running)
        if self._scheduler.waiting:
            self._dispatch(now, running)
        if self._standstills and running is not None:
            running.call_soon(self._standstills.tell, context=Context())

    def _remove_waiter(self, waiter: LoopWaiter | ThreadWaiter) -> None:
        """Let ``waiter`` neither wait nor start, and free what is reserved for it."""
        running = running_loop()
        self._scheduler.remove(waiter)
        self._scheduler.cancel(waiter)
        self._wakeups.remove(waiter, running)
        self._dispatch(self._now(running), running)

    def _abandon(self, waiter: LoopWaiter) -> None:
        """Remove a waiter, from anywhere, and free what is reserved for it. Waits for no lock.

        The garbage collector may destroy a task at any time, also while this very thread holds the
        lock. Then the next dispatch removes the waiter, as soon as the loop has time for it.
        """
        self._wakeups.abandoned.append(waiter)
        self._dispatch_or_leave_it(may_wait=False)

    def _dispatch_or_leave_it(self, *, may_wait: bool) -> None:
        """Dispatch; where another has the lock and this must not wait, those who wait see to it."""
        if not self._lock.acquire(blocking=may_wait):
            self._wakeups.look_again()
            return
        try:
            running = running_loop()
            self._dispatch(self._now(running), running)
        finally:
            self._lock.release()

    def _on_timer(self, timer: LoopTimer) -> None:
        """Dispatch because it is the time of ``timer``; in its loop. Takes the lock."""
        with self._lock:
            self._dispatch(self._now(timer.loop), timer.loop)
            self._wakeups.drop_unused(timer)

    # -- what changes -----------------------------------------------------------------------------

    def _change(self, limit: Limit, maximum: float, period: float) -> None:
        """Set the rate of ``limit``. Takes the lock."""
        with self._lock:
            running = running_loop()
            now = self._now(running)
            self._learner.forget(limit._state)
            limit._state.set_rate(maximum, period)
            self._rates_changed()
            for waiter in self._scheduler.reject_oversized():
                waiter.wake(running)
            self._scheduler.recheck_all()
            self._dispatch(now, running)

    def _relax(self, now: float) -> None:
        """Allow more where refusals had left less, because it is time to try."""
        self._learner.relax(now)
        self._rates_changed()
        self._scheduler.recheck_all()

    def _rates_changed(self) -> None:
        """For subclasses that keep something which depends on the rates."""

    def _settle(self, permit: Permit, limit: Limit, cost: Exact) -> None:
        """Correct the cost of a call that started. Takes the lock."""
        with self._lock:
            running = running_loop()
            now = self._now(running)
            window = permit._settle(now, limit._state, cost)
            if window is not None and self._scheduler.waiting:
                self._scheduler.recheck(window)
                self._dispatch(now, running)

    def _finish(self, permit: Permit) -> None:
        """A call that started is over. Takes the lock, where that matters to anybody."""
        if not self._has_budget:
            return
        self._finished.append(permit)
        # The garbage collector may destroy a call at any time, also while this very thread holds
        # the lock.
        self._dispatch_or_leave_it(may_wait=sys.exc_info()[0] is not GeneratorExit)


def _logs_of(limit: Limit, key: Hashable) -> list[SlidingLog]:
    state = limit._state
    return [window.log for window in (state.windows() if key is _ALL else state.windows_of(key))]


def _as_limit(limit: Any) -> Limit:
    if isinstance(limit, str):
        try:
            return Limit.parse(limit)
        except ValueError as error:
            raise ValueError(f"limits: {error}") from None
    if not isinstance(limit, Limit):
        shown = checks.shown(limit)
        is_pair = isinstance(limit, tuple) and len(limit) == 2
        raise TypeError(
            "limits must be a list of Limit, or of texts such as '500/min', "
            f"got {shown} in it{f': write Limit{shown}' if is_pair else ''}"
        )
    return limit


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The monotonic clock, or the loop's own one where it has one: then its time is virtual.

    uvloop's ``time`` is monotonic too, but stands still while a callback runs.
    """
    if not isinstance(loop, asyncio.BaseEventLoop):
        return time.monotonic
    own = getattr(loop.time, "__func__", None) is not asyncio.BaseEventLoop.time
    return loop.time if own else time.monotonic
