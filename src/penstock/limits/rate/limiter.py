"""Several limits taken as one, for tasks and for threads."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

from penstock._util import checks
from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import PenstockError
from penstock.limits.rate import headers as _headers
from penstock.limits.rate.base import LimiterBase, running_loop
from penstock.limits.rate.gate import Refused
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.permit import (
    Charge,
    Permit,
    current_permits,
    key_of,
    pop_current,
    push_current,
)
from penstock.limits.rate.sliding_log import Record, SlidingLog
from penstock.limits.rate.waiters import LONGEST, CallbackWaiter, LoopWaiter, ThreadWaiter
from penstock.limits.rate.window import Demand, Starts, Waiter, is_spent

_logger = logging.getLogger("penstock")

#: Seconds between two lines of the log about a longer time.
_TELL_EVERY = 60.0

#: Makes a waiter of a demand, of the calls that its call is part of, and of its charges.
MakeWaiter: TypeAlias = "Callable[[Demand, Starts, list[Charge] | None], CallbackWaiter]"

#: Seconds after which a thread that waits asks whether it is still wanted.
_ASK_EVERY = 0.5


class UnusableLimiterError(PenstockError, ValueError):
    """The limiter can let nobody start, as it is set up. Nothing is wrong with the call."""


class Limiter(LimiterBase):
    """Lets calls start as soon as all of its limits allow, first come, first served.

    Args:
        limits: the limits, or texts such as ``"500/min"``. A call takes from all of them at once,
            or waits and takes from none.
        name: its name in telemetry.
        rng: draws the gaps between the calls that start when the gate opens.

    Raises:
        TypeError: ``limits`` has a value that is neither a :class:`Limit` nor text.
        ValueError: a text is not a rate, two limits have the same name, or a limit is part of
            another limiter.

    Any number of event loops and threads can use one limiter at once. A call that cannot start yet
    waits behind all older calls that wait for a limit that it needs too. A call that is cancelled
    or runs out of time uses up nothing. A start counts from the moment at which the caller
    continues, so a loop that is blocked for a while does not let calls start in the wrong window.

    The clock is the monotonic clock; in an event loop that has its own clock, such as
    :class:`penstock.testing.VirtualTimeLoop`, it is the clock of the loop.
    """

    #: Whether limits learn from refusals.
    learns: bool = True
    #: Seconds for which headers close the gate at most. Within a call under a
    #: :class:`penstock.Policy`, that of the policy counts.
    max_retry_after: float = 900.0

    def __init__(
        self,
        limits: Iterable[Limit | str],
        *,
        name: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(limits, rng, name)
        for limit in self.limits:
            limit._join(self, self.log_type)
        #: What every item needs, where no limit looks at the item.
        self._fixed_demand: Demand | None = None
        #: The log of the only window, where there is just one and it keeps to the limit's own rate.
        self._only_log: SlidingLog | None = None
        #: Whether any limit has a rate, and so learns from refusals.
        self._has_rate = any(limit.per < math.inf for limit in self.limits)
        self._rates_changed()

    # -- what users call --------------------------------------------------------------------------

    async def acquire(
        self, item: Any = None, finishes: bool = False, gate_key: Hashable = None
    ) -> Permit:
        """Wait until a call for ``item`` may start, and count it as started.

        Args:
            item: what the call is for.
            finishes: whether the caller calls :meth:`Permit.finish` when the call has ended. Until
                then, calls that find no room in a :class:`penstock.Budget` wait, if they would fit
                when this call costs less than estimated.
            gate_key: a second gate that the call must pass, besides the gate for all calls: a
                hashable key. By default the gate of its key under the limits, if any has keys.

        Raises:
            BudgetExceededError: a budget has less left than the call costs.
            TypeError, ValueError: a cost or key function raised, or returned a value that cannot be
                a cost or a key; or the cost is above the ``max`` of its limit, which may be lowered
                while this method waits.

        If it is cancelled, nothing is used up. If the call may start at once, it does not suspend.
        """
        # ``finishes`` is not keyword-only: a function that has such takes longer to call.
        running = asyncio.get_running_loop()
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:  # not acquire() and try: Ctrl-C could come between the two
            now = self._clock() if running is self._clock_of else self._now(running)
            only = self._only_log
            if only is not None and not self._scheduler.waiting and not self._is_gated:
                record = only.take(now, 1)  # the same as try_start below, and quicker
                if record is not None:
                    self._grants += 1
                    return Permit(self, self._fixed_demand or (), (record,), None)
            demand = self._demand_of(charges, now, gate_key)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, running, finishes)
            waiter = LoopWaiter(demand, running, self._check_budgets(demand))
            self._add_waiter(waiter, key_of(charges) if gate_key is None else gate_key)
            self._dispatch(now, running)
            if waiter.records is not None:
                return self._permit_for(now, waiter, charges, running, finishes)
        while True:
            try:
                await waiter.future
            except GeneratorExit:
                self._abandon(waiter)
                raise
            except BaseException:
                with self._lock:
                    self._remove_waiter(waiter)
                raise
            with self._lock:
                if waiter.error is not None:
                    self._remove_waiter(waiter)
                    raise waiter.error
                now = self._now(running)
                if not self._requeued_late(now, waiter):
                    return self._permit_for(now, waiter, charges, running, finishes)
                waiter.renew()
                self._dispatch(now, running)

    def acquire_blocking(
        self,
        item: Any = None,
        timeout: float | None = None,
        *,
        is_wanted: Callable[[], bool] | None = None,
        finishes: bool = False,
        gate_key: Hashable = None,
    ) -> Permit:
        """As :meth:`acquire`, for threads.

        Args:
            item: what the call is for.
            timeout: seconds to wait at most, zero or more; ``None``: no limit.
            is_wanted: called twice a second while the thread waits; when it returns False, the wait
                ends with ``CancelledError``.
            finishes, gate_key: as for :meth:`acquire`.

        Raises:
            TimeoutError: the call could not start in time; nothing was used up.
            RuntimeError: an event loop runs in this thread, and would be blocked. (In a notebook
                this works in each cell without ``await``.)
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`; or ``timeout`` is not a
                number of seconds.

        Ctrl-C ends the wait at once, and uses up nothing.
        """
        patience = checks.seconds(math.inf if timeout is None else timeout)
        if blocks_loop():
            raise RuntimeError(
                "acquire_blocking would block the event loop that runs in this thread:"
                f" use `await limiter.acquire()` or `async with limiter:` instead{advice()}"
            )
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:
            now = self._now(None)
            demand = self._demand_of(charges, now, gate_key)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, None, finishes)
            waiter = ThreadWaiter(demand, self._check_budgets(demand))
        deadline = now + patience
        try:
            with self._lock:
                self._add_waiter(waiter, key_of(charges) if gate_key is None else gate_key)
            while True:
                with self._lock:
                    now = self._now(None)
                    self._dispatch(now, None)
                    if waiter.error is not None:
                        raise waiter.error
                    if waiter.records is not None:
                        if not self._requeued_late(now, waiter):
                            return self._permit_for(now, waiter, charges, None, finishes)
                        continue
                    if is_wanted is not None and not is_wanted():
                        raise asyncio.CancelledError("the call is no longer wanted")
                    if now >= deadline:
                        raise TimeoutError(f"no call could start within {patience:g} seconds")
                    watches = self._wakeups.watches_time(waiter)
                    waiter.wakes_at = self._scheduler.next_grant(now) if watches else math.inf
                    pause = min(waiter.wakes_at, deadline) - now
                    waiter.signal.clear()
                longest = LONGEST if is_wanted is None else _ASK_EVERY
                waiter.signal.wait(min(max(0.0, pause), longest))
        finally:
            with self._lock:
                self._remove_waiter(waiter)
            if self._standstills:
                self._standstills.tell()

    def try_acquire(
        self, item: Any = None, *, finishes: bool = False, gate_key: Hashable = None
    ) -> Permit | None:
        """As :meth:`acquire`, but returns ``None`` instead of waiting. From any thread.

        Raises:
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`.
        """
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now, gate_key)
            if self._scheduler.waiting:
                self._dispatch(now, running)
            records = self._scheduler.try_start(now, demand)
            if records is None:
                self._check_budgets(demand)
                return None
            return self._permit(now, demand, records, charges, running, finishes)

    def wait_time(self, item: Any = None, *, gate_key: Hashable = None) -> float:
        """Seconds until :meth:`try_acquire` may succeed; 0: now. Takes nothing.

        The time may become shorter, when a cost is given back or a limit is raised, and longer,
        when other calls take the room. ``math.inf``: it is not known, because it depends on calls
        that are about to start, or on the cost of running calls under a budget.

        Raises:
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`.
        """
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:
            now = self._now(running_loop())
            demand = self._demand_of(charges, now, gate_key)
            if self._scheduler.can_start(now, demand):
                return 0.0
            self._check_budgets(demand)
            free_at = [window.log.free_at(now, cost) for window, cost in demand]
            when = max(free_at, default=-math.inf)
            if when <= now and self._scheduler.waiting:  # others come first
                when = self._scheduler.next_grant(now)
            return max(0.0, max(when, self._gate.opens_at) - now)

    def check(self, item: Any) -> None:
        """Raise what :meth:`acquire` would raise for an item that can never start. Takes nothing.

        It checks no budget: less or more of it may be left when the item starts.

        Raises:
            TypeError, ValueError: as :meth:`acquire`.
        """
        self._checked(item)

    def permit(self, item: Any = None) -> PermitContext:
        """For ``async with limiter.permit(item):``, or ``with`` in a thread.

        The block acquires at its start, and raises as :meth:`acquire` or :meth:`acquire_blocking`.
        """
        return PermitContext(self, item)

    def close_for(self, seconds: float, *, key: Hashable = None) -> None:
        """Close the gate: let no call start for ``seconds``. From any thread.

        If it is closed already, the later end counts. When the gate opens, the calls that waited
        start one after the other, over a tenth of ``seconds``, at most one second.

        Args:
            seconds: finite, zero or more.
            key: the key of the calls that must wait: a value of the ``gate_key`` of a policy, or of
                the ``key`` of a limit. By default, all calls wait.

        Raises:
            ValueError: ``seconds`` is not a finite number of zero or more.
            TypeError: ``key`` is not hashable.
        """
        pause = checks.finite_seconds(seconds, "seconds")
        _check_key(key)
        with self._lock:
            running = running_loop()
            now = self._now(running)
            gate, waiting = self._gate_of(key, now)
            gate.close(now, pause, waiting)
            self._was_closed(gate, key, waiting, "the program closed the gate")
            self._dispatch(now, running)
        self._standstills.tell()

    def closed_for(self, key: Hashable = None) -> float:
        """Seconds until the gate for all calls opens, and that of ``key``; 0: they are open.

        Raises:
            TypeError: ``key`` is not hashable.
        """
        _check_key(key)
        with self._lock:
            now = self._now(running_loop())
            log = self._gates.logs.get(key)
            return max(self._gate.closed_for(now), 0.0 if log is None else log.gate.closed_for(now))

    def refused(
        self, retry_after: float = 0.0, *, permit: Permit | None = None, key: Hashable = None
    ) -> None:
        """Learn that the service answered "too many requests" to the call with this permit.

        The gate closes for ``retry_after`` seconds, as with :meth:`close_for`. If the service named
        no time, it closes for 1 to 1.25 seconds. When it opens, one call goes first. If that call
        is refused too, the gate closes for twice as long, and so on, up to a minute. Refused calls
        that had started before the gate was closed do not make this longer.

        The limit that was used most learns from it: at first it only spreads the starts. If this is
        not enough, it allows what the service accepted before it refused. After a long time without
        refusals, it allows more again. It never allows more than ``max``, and ``Limit.change`` ends
        this. If there is no limit, calls start at a rate that is learned in the same way.

        Queues, policies and executors call this method themselves when a call raises an error that
        says so. From any thread.

        Args:
            retry_after: seconds, finite; 0: the service named none.
            permit: the permit of the call. By default the permit of the running call; without one,
                only the gate closes.
            key: the key of the gate to close. By default the key of the call, if it has one; if
                not, the gate for all calls closes.

        Raises:
            ValueError: ``retry_after`` is not a finite number of zero or more.
            TypeError: ``key`` is not hashable.
        """
        pause = checks.finite_seconds(retry_after, "retry_after")
        _check_key(key)
        self._refused(pause, self._current_permit() if permit is None else permit, key)

    def _refused(
        self,
        pause: float,
        permit: Permit | None,
        key: Hashable = None,
        *,
        item: Refused | None = None,
        is_again: bool = False,
        why: str = "",
    ) -> None:
        with self._lock:
            running = running_loop()
            now = self._now(running)
            key = permit.gate_key if permit is not None and key is None else key
            has_rate = any(
                window.owner.per < math.inf and cost
                for window, cost in (() if permit is None else permit._demand)
            )
            started = None
            if self.learns and not has_rate and not self._has_rate:
                since, before = self._counts_from
                started = self._grants - before, now - since
            gate, waiting = self._gate_of(key, now)
            is_about_all = gate.refused(
                now,
                now if permit is None else permit.at,
                pause,
                waiting,
                item=item,
                is_again=is_again,
                started=started,
            )
            if not is_about_all:
                return
            closed_for = gate.closed_for(now)
            if permit is not None and has_rate and self.learns and closed_for:
                self._learner.refused(permit._demand, permit._records, now, closed_for)
                self._rates_changed()
            self._was_closed(gate, key, waiting, f"a service refused a call{why}")
            self._dispatch(now, running)
        self._standstills.tell()

    def _succeeded(self, at: float, key: Hashable) -> None:
        """A call that started ``at`` succeeded. To be told while ``_is_gated``."""
        with self._lock:
            running = running_loop()
            now = self._now(running)
            log = None if key is None else self._gates.logs.get(key)
            window = self._gates.window_of(key)
            may_start = False
            if log is not None and window is not None and log.gate.succeeded(now, at):
                self._scheduler.recheck(window)
                may_start = True
            if self._gate.succeeded(now, at) or may_start:
                self._dispatch(now, running)
        self._standstills.tell()

    def observe(
        self, headers: Any, status: int | None = None, *, key: Hashable = None
    ) -> _headers.Feedback:
        """Read the headers of a response, and close the gate if they say so.

        It closes for the time of ``Retry-After``, or else until the latest reset of a limit with
        nothing remaining; :mod:`penstock.limits.rate.headers` lists the forms. It closes for at
        most ``max_retry_after``. Values without a meaning are ignored and counted; this method does
        not raise for any headers. From any thread.

        Args:
            headers: any mapping or list of pairs, of str or bytes.
            status: the HTTP status; below 400, a ``Retry-After`` is about a redirect or about
                polling, and closes nothing.
            key: the key of the gate. By default the key of the running call, if it has one; if not,
                the gate for all calls.

        Raises:
            TypeError: ``key`` is not hashable.

        If a call succeeded, and nothing of a limit remains for longer than ``max_retry_after`` (a
        quota of a day or a month), the gate stays open, and the log says so, once in a minute. The
        next call may succeed too. If not, its refusal says how long to wait.
        """
        _check_key(key)
        feedback = _headers.parse(headers, time.time(), status)
        wait = feedback.wait
        is_failure = feedback.retry_after is not None if status is None else status >= 400
        permit = self._current_permit()
        policy = None if permit is None else getattr(permit.call, "policy", None)
        longest = self.max_retry_after if policy is None else policy.max_retry_after
        is_believed = is_failure or wait <= longest
        with self._lock:
            self._ignored_headers += feedback.ignored
            running = running_loop()
            now = self._now(running)
            is_told = is_believed or now < self._tells_again_at
            if not is_told:
                self._tells_again_at = now + _TELL_EVERY
            if wait > 0 and is_believed:
                key = permit.gate_key if permit is not None and key is None else key
                gate, waiting = self._gate_of(key, now)
                gate.close(now, min(wait, longest), waiting)
                self._was_closed(gate, key, waiting, "a service asked for it in its headers")
                self._dispatch(now, running)
        if not is_told:
            _logger.warning(
                "The headers of a successful call say that nothing is allowed for %.0f s. They are "
                "ignored, and the next calls are made",
                wait,
            )
        self._standstills.tell()
        return feedback

    def _current_permit(self) -> Permit | None:
        return next((one for one in current_permits()[::-1] if one.limiter is self), None)

    async def __aenter__(self) -> Permit:
        return push_current(await self.acquire(finishes=True))

    async def __aexit__(self, *_: object) -> None:
        pop_current(self)

    def __enter__(self) -> Permit:
        return push_current(self.acquire_blocking(finishes=True))

    def __exit__(self, *_: object) -> None:
        pop_current(self)

    # -- within -----------------------------------------------------------------------------------

    def _start_now(self, running: asyncio.AbstractEventLoop | None) -> Permit | Record | None:
        """What :meth:`acquire` returns where it need not wait; None: await that.

        ``running``: the event loop of this thread; None: the caller does not know it.

        For limits without ``cost`` and ``key``. Where others wait, it overtakes nobody. Where there
        is one limit at most it is a bare record: see :meth:`_permit_of`.
        """
        demand = self._fixed_demand
        if demand is None:
            return None
        if running is None:
            running = _get_running_loop()
        with self._lock:
            is_known = running is not None and running is self._clock_of
            now = self._clock() if is_known else self._now(running)
            only = self._only_log
            if self._is_gated and self._still_gated(now):
                return None
            if self._scheduler.waiting or (only is None and demand):
                demand = self._demand_of(None, now)
                records = self._scheduler.try_start(now, demand)
                if records is None:
                    return None
                self._grants += 1
                permit = Permit(self, demand, records, None)
                if not records:
                    permit._at = now
                return permit
            record = Record(now, 0) if only is None else only.take(now, 1)
            if record is not None:
                self._grants += 1
            return record

    def _permit_of(self, record: Record) -> Permit:
        """The permit of a call that :meth:`_start_now` let start with a bare record.

        Hardly anybody asks for it, and to make a permit for each call would cost as much as all
        else that a limit does.
        """
        windows = [limit._state.window(None, -math.inf) for limit in self.limits]
        demand = tuple([(window, 1) for window in windows])
        permit = Permit(self, demand, [record] * len(windows), None)
        permit._at, permit.call = record.at, record.call
        return permit

    def _checked(self, item: Any) -> list[Charge]:
        """What an item is to take from each limit, as of now; raises what :meth:`check` does."""
        if self._fixed_demand is not None:
            return []
        charges = self._charges(item)
        for state, _, cost in charges:
            if cost > state.max and state.per < math.inf:
                raise state.oversized(cost)
        return charges

    # -- for those who wait elsewhere: ``make`` makes their waiter ---------------------------------

    def _charges_of(self, item: Any) -> list[Charge] | None:
        """What :meth:`_start_or_wait` is to be given for an item. Raises what ``acquire`` raises.

        Call it without any lock: the key and cost functions are the user's.
        """
        return None if self._fixed_demand is not None else self._charges(item)

    def _start_or_wait(
        self, charges: list[Charge] | None, make: MakeWaiter | None, gate_key: Hashable = None
    ) -> Permit | CallbackWaiter | None:
        """A permit, where the call may start now; else its waiter, or None without ``make``.

        Raises what :meth:`acquire` raises.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now, gate_key)
            if self._scheduler.waiting or self._wakeups.abandoned:
                self._dispatch(now, running)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, running, True)
            waiter = self._wait_outside(now, demand, charges, running, make, gate_key)
            if waiter is None or waiter.records is None:
                return waiter
            return self._permit_for(now, waiter, charges, running, True)

    def _wait_for(
        self, charges: list[Charge] | None, make: MakeWaiter, gate_key: Hashable = None
    ) -> CallbackWaiter | None:
        """A waiter for a call that is to come; None: it would not have to wait.

        Raises what :meth:`acquire` raises.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now, gate_key)
            if self._scheduler.can_start(now, demand):
                return None
            return self._wait_outside(now, demand, charges, running, make, gate_key)

    def _wait_of(self, waiter: CallbackWaiter) -> float:
        """As :meth:`wait_time`, of one that waits."""
        with self._lock:
            now = self._now(running_loop())
            if waiter.records is not None:
                return 0.0
            free_at = [window.log.free_at(now, cost) for window, cost in waiter.demand]
            return max(0.0, max([*free_at, self._gate.opens_at]) - now)

    def _wait_outside(
        self,
        now: float,
        demand: Demand,
        charges: list[Charge] | None,
        running: asyncio.AbstractEventLoop | None,
        make: MakeWaiter | None,
        gate_key: Hashable,
    ) -> CallbackWaiter | None:
        outer = self._check_budgets(demand)
        if make is None:
            return None
        waiter = make(demand, outer, charges)
        self._add_waiter(waiter, key_of(charges) if gate_key is None else gate_key)
        self._dispatch(now, running)
        return waiter

    def _requeued_late(self, now: float, waiter: Waiter) -> bool:
        """Whether a waiter that was granted comes too late: then it waits again at its old place.

        There may be a gate of its key since.
        """
        key = waiter.gate_key
        gate = None if key is None else self._gates.window_of(key)
        if waiter.records is not None and not self._scheduler.is_late(now, waiter, gate):
            return False
        self._scheduler.requeue(waiter, gate)
        return True

    def _start(self, waiter: CallbackWaiter) -> Permit | None:
        """Count the start of a call that was called back: it goes on, in this thread.

        None: it comes too late, and waits again at its old place.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            if self._requeued_late(now, waiter):
                self._dispatch(now, running)
                if waiter.records is None:
                    return None
            return self._permit_for(now, waiter, waiter.charges, running, True)

    def _rates_changed(self) -> None:
        """Keep the demand of all items, if it does not depend on the item."""
        depends = any(limit.cost or limit.key or limit.max < 1 for limit in self.limits)
        windows = [] if depends else [limit._state.window(None, -math.inf) for limit in self.limits]
        self._fixed_demand = None if depends else tuple((window, 1) for window in windows)
        is_quick = len(windows) == 1 and not windows[0].has_learned_rate and not self._has_budget
        self._only_log = windows[0].log if is_quick else None

    def _charges(self, item: Any) -> list[Charge]:
        # Not under the lock: the key and cost functions are the user's.
        return [(limit._state, limit._key_of(item), limit._cost_of(item)) for limit in self.limits]

    def _demand_of(
        self, charges: list[Charge] | None, now: float, gate_key: Hashable = None
    ) -> Demand:
        if now >= self._learner.relax_at:
            self._relax(now)
        if charges is None:
            if self._fixed_demand is not None:
                demand = self._fixed_demand
                return self._gated(demand, now, gate_key) if self._is_gated else demand
            charges = self._charges(None)  # a max was lowered below 1 in this moment
        for state, _, cost in charges:
            if cost > state.max:
                raise state.oversized(cost)  # before any key is remembered
        demand = tuple([(state.window(key, now), cost) for state, key, cost in charges if cost])
        if self._is_gated:
            return self._gated(demand, now, key_of(charges) if gate_key is None else gate_key)
        return demand

    def _gated(self, demand: Demand, now: float, gate_key: Hashable) -> Demand:
        if not self._still_gated(now):
            return demand
        window = None if gate_key is None else self._gates.window_of(gate_key)
        return demand if window is None else (*demand, (window, 1))

    def _still_gated(self, now: float) -> bool:
        """Whether any gate is closed, or was lately."""
        self._gates.forget_idle(now)
        self._is_gated = bool(self._gate.is_active or self._gates.logs)
        return self._is_gated

    def _settle_current(self, limit: Limit, actual: float) -> bool:
        """Correct the cost of the call under way; False if none has a permit of this limiter."""
        for permit in reversed(current_permits()):
            if permit.limiter is self:
                permit.settle(limit, actual)
                return True
        return False

    def _permit(
        self,
        now: float,
        demand: Demand,
        records: Sequence[Record],
        charges: list[Charge] | None,
        running: asyncio.AbstractEventLoop | None,
        finishes: bool,
    ) -> Permit:
        """The permit of a call that starts now."""
        self._grants += 1
        permit = Permit(self, demand, records, charges)
        if not records:
            permit._at = now
        if self._has_budget and not finishes:
            self._finished.append(permit)
            self._dispatch(now, running)
        return permit

    def _permit_for(
        self,
        now: float,
        waiter: LoopWaiter | ThreadWaiter,
        charges: list[Charge] | None,
        running: asyncio.AbstractEventLoop | None,
        finishes: bool,
    ) -> Permit:
        records = waiter.records
        assert records is not None
        self._confirm(now, waiter, running)
        return self._permit(now, waiter.demand, records, charges, running, finishes)

    def _check_budgets(self, demand: Demand) -> Starts:
        """Raise the error of a budget in which the call will never have room.

        Returns the calls that it is part of, in this context: it cannot wait for those to be over.
        """
        if not self._has_budget:
            return ()
        outer = tuple(
            (window, record)
            for permit in current_permits()
            if permit.limiter is self
            for (window, _), record in zip(permit._demand, permit._records, strict=True)
        )
        for window, cost in demand:
            if is_spent(window, cost, outer):
                raise window.owner.oversized(cost)
        return outer


def _check_key(key: Any) -> None:
    try:
        hash(key)
    except Exception as error:
        raise TypeError(f"key must be hashable, got {checks.shown(key)}") from error


class PermitContext:
    """A permit for the time of a ``with`` or ``async with`` block, in which it is current."""

    __slots__ = ("_item", "_limiter")

    def __init__(self, limiter: Limiter, item: Any) -> None:
        self._limiter = limiter
        self._item = item

    async def __aenter__(self) -> Permit:
        return push_current(await self._limiter.acquire(self._item, finishes=True))

    async def __aexit__(self, *_: object) -> None:
        pop_current(self._limiter)

    def __enter__(self) -> Permit:
        return push_current(self._limiter.acquire_blocking(self._item, finishes=True))

    def __exit__(self, *_: object) -> None:
        pop_current(self._limiter)
