"""Several limits taken as one, for tasks and for threads."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from penstock._util import checks
from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import PenstockError
from penstock.limits.rate import headers as _headers
from penstock.limits.rate.base import LimiterBase, running_loop
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.permit import Charge, Permit, current_permits, pop_current, push_current
from penstock.limits.rate.sliding_log import Record, SlidingLog
from penstock.limits.rate.waiters import LONGEST, CallbackWaiter, LoopWaiter, ThreadWaiter
from penstock.limits.rate.window import Demand, Starts, is_spent

_logger = logging.getLogger("penstock")

#: Seconds for which a gate is closed at most by an answer that is no failure.
_LONGEST_AFTER_SUCCESS = 900.0
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
        name: what to call it in telemetry.
        rng: draws the gaps between the calls that start when the gate opens.

    Raises:
        TypeError: ``limits`` holds something that is neither a :class:`Limit` nor text.
        ValueError: a text is no rate, two limits have the same name, or a limit is part of another
            limiter.

    One limiter serves any number of event loops and threads at once. A call that cannot start yet
    waits behind all older calls that lack room in a limit that it needs too. A call that is
    cancelled or runs out of time has used nothing up. A start counts from the moment in which the
    caller goes on, so a loop that stalls does not let calls through in the wrong window.

    The clock is the monotonic one; in an event loop with a clock of its own, as
    :class:`penstock.testing.VirtualTimeLoop`, it is that one.
    """

    #: Whether limits learn from refusals.
    learns: bool = True

    def __init__(
        self,
        limits: Iterable[Limit | str],
        *,
        name: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(limits, rng)
        for limit in self.limits:
            limit._join(self, self.log_type)
        self.name = "default" if name is None else checks.label(name, "name")
        #: What every item needs, where no limit looks at the item.
        self._fixed_demand: Demand | None = None
        #: The log of the only window, where there is just one and it keeps to the limit's own rate.
        self._only_log: SlidingLog | None = None
        self._rates_changed()

    # -- what users call --------------------------------------------------------------------------

    async def acquire(self, item: Any = None, finishes: bool = False) -> Permit:
        """Wait until a call for ``item`` may start, and count it as started.

        Args:
            item: what the call is for.
            finishes: whether the caller calls :meth:`Permit.finish` when the call is over. Until
                then, calls that lack room in a :class:`penstock.Budget` wait, if they would fit
                should this call turn out cheaper.

        Raises:
            BudgetExceededError: a budget has less left than the call costs.
            TypeError, ValueError: a cost or key function raised, or returned what cannot be a cost
                or a key; or the cost is above the ``max`` of its limit, which may be lowered while
                this method waits.

        Cancelling it uses nothing up. If the call may start at once, it does not suspend.
        """
        # ``finishes`` is not keyword-only: a function that has such takes longer to call.
        running = asyncio.get_running_loop()
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:  # not acquire() and try: Ctrl-C could come between the two
            now = self._clock() if running is self._clock_of else self._now(running)
            only = self._only_log
            if only is not None and not self._scheduler.waiting and not self._gate.spreads:
                record = only.take(now, 1)  # the same as try_start below, and quicker
                if record is not None:
                    self._grants += 1
                    return Permit(self, self._fixed_demand or (), (record,), None)
            demand = self._demand_of(charges, now)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, running, finishes)
            waiter = LoopWaiter(demand, running, self._check_budgets(demand))
            self._add_waiter(waiter)
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
                if not self._scheduler.is_late(now, waiter):
                    return self._permit_for(now, waiter, charges, running, finishes)
                waiter.renew()
                self._scheduler.requeue(waiter)
                self._dispatch(now, running)

    def acquire_blocking(
        self,
        item: Any = None,
        timeout: float | None = None,
        *,
        is_wanted: Callable[[], bool] | None = None,
        finishes: bool = False,
    ) -> Permit:
        """As :meth:`acquire`, for threads.

        Args:
            item: what the call is for.
            timeout: seconds to wait at most, zero or more; ``None``: without an end.
            is_wanted: asked twice a second while the thread waits; when it returns False, the wait
                ends by ``CancelledError``.
            finishes: as for :meth:`acquire`.

        Raises:
            TimeoutError: the call could not start in time; nothing was used up.
            RuntimeError: an event loop runs in this thread, and would be blocked. (In a notebook
                this works in each cell that has no ``await`` of its own.)
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`; or ``timeout`` is no
                number of seconds.

        Ctrl-C ends the wait at once, and uses nothing up.
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
            demand = self._demand_of(charges, now)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, None, finishes)
            waiter = ThreadWaiter(demand, self._check_budgets(demand))
        deadline = now + patience
        try:
            with self._lock:
                self._add_waiter(waiter)
            while True:
                with self._lock:
                    now = self._now(None)
                    self._dispatch(now, None)
                    if waiter.error is not None:
                        raise waiter.error
                    if waiter.records is not None:
                        if not self._scheduler.is_late(now, waiter):
                            return self._permit_for(now, waiter, charges, None, finishes)
                        self._scheduler.requeue(waiter)
                        continue
                    if is_wanted is not None and not is_wanted():
                        raise asyncio.CancelledError("nobody wants to start any more")
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

    def try_acquire(self, item: Any = None, *, finishes: bool = False) -> Permit | None:
        """As :meth:`acquire`, but returns ``None`` instead of waiting. From any thread.

        Raises:
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`.
        """
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now)
            if self._scheduler.waiting:
                self._dispatch(now, running)
            records = self._scheduler.try_start(now, demand)
            if records is None:
                self._check_budgets(demand)
                return None
            return self._permit(now, demand, records, charges, running, finishes)

    def wait_time(self, item: Any = None) -> float:
        """Seconds until :meth:`try_acquire` is worth a try; 0: now. Takes nothing.

        It may become less, when a cost is given back or a limit is raised, and more, when others
        take the room. ``math.inf``: nobody can say, it depends on calls that are about to start, or
        on what those under way cost of a budget.

        Raises:
            BudgetExceededError, TypeError, ValueError: as :meth:`acquire`.
        """
        charges = None if self._fixed_demand is not None else self._charges(item)
        with self._lock:
            now = self._now(running_loop())
            demand = self._demand_of(charges, now)
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

        It asks no budget: what is left of one may be less, or more, when the item is to start.

        Raises:
            TypeError, ValueError: as :meth:`acquire`.
        """
        self._checked(item)

    def permit(self, item: Any = None) -> PermitContext:
        """For ``async with limiter.permit(item):``, or ``with`` in a thread.

        It acquires on the way in, and raises what :meth:`acquire` or :meth:`acquire_blocking` do.
        """
        return PermitContext(self, item)

    def close_for(self, seconds: float) -> None:
        """Close the gate: let no call start for ``seconds``. From any thread.

        If it is closed already, the later end counts. When the gate opens, the calls that waited
        start one after the other, spread over a tenth of ``seconds``, one second at most.

        Raises:
            ValueError: ``seconds`` is not a finite number of zero or more.
        """
        pause = checks.finite_seconds(seconds, "seconds")
        with self._lock:
            running = running_loop()
            now = self._now(running)
            self._gate.close(now, pause, self._scheduler.calls)
            self._dispatch(now, running)

    def refused(self, retry_after: float = 0.0, *, permit: Permit | None = None) -> None:
        """Learn that the service answered "too many requests" to the call with this permit.

        The gate closes for ``retry_after`` seconds, as by :meth:`close_for`. And the limit of which
        most was used learns from it: at first it only spreads the starts; if that is insufficient,
        it allows what the service took before it refused. When that has done well for long, it
        allows more again. It never allows more than ``max``, and ``Limit.change`` ends it. A
        refusal without a time to wait, while the gate is open, teaches nothing.

        A queue and ``RateLimitedExecutor`` call this method themselves when a call raises an error
        that says so. From any thread.

        Args:
            retry_after: seconds, finite; 0: the service named none.
            permit: that of the call. Unless given, that of the call under way; without one, only
                the gate closes.

        Raises:
            ValueError: ``retry_after`` is not a finite number of zero or more.
        """
        pause = checks.finite_seconds(retry_after, "retry_after")
        if permit is None:
            permit = next((one for one in current_permits()[::-1] if one.limiter is self), None)
        if pause:
            self.close_for(pause)
        if permit is None or not self.learns:
            return
        with self._lock:
            running = running_loop()
            now = self._now(running)
            pause = max(pause, self._gate.closed_for(now))
            if not pause:
                return
            self._learner.refused(permit._demand, permit._records, now, pause)
            self._rates_changed()
            self._dispatch(now, running)

    def observe(self, headers: Any, status: int | None = None) -> _headers.Feedback:
        """Read the headers of a response, and close the gate if they say so.

        It closes for the time of ``Retry-After``, or else until the latest reset of a limit with
        nothing remaining; :mod:`penstock.limits.rate.headers` lists the forms. ``headers``: any
        mapping or list of pairs, of str or bytes. ``status``: the HTTP status; below 400, a
        ``Retry-After`` is about a redirect or about polling, and closes nothing. Values that make
        no sense are ignored and counted; this method never raises. From any thread.

        Where a call succeeded, and nothing remains of a limit for more than 15 minutes (a quota of
        a day, of a month), the gate stays open, and the log says so, once in a minute: perhaps the
        next call succeeds as well, and if not, its refusal says for how long to wait.
        """
        feedback = _headers.parse(headers, time.time(), status)
        wait = feedback.wait
        is_failure = feedback.retry_after is not None if status is None else status >= 400
        is_believed = is_failure or wait <= _LONGEST_AFTER_SUCCESS
        with self._lock:
            self._ignored_headers += feedback.ignored
            now = self._now(running_loop())
            is_told = is_believed or now < self._tells_again_at
            if not is_told:
                self._tells_again_at = now + _TELL_EVERY
        if not is_told:
            _logger.warning(
                "A service says, with a call that succeeded, that nothing remains for %.0f s; the "
                "next calls are made all the same",
                wait,
            )
        if wait > 0 and is_believed:
            self.close_for(wait)
        return feedback

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
            if self._scheduler.waiting or self._gate.spreads or (only is None and demand):
                demand = self._demand_of(None, now)
                records = self._scheduler.try_start(now, demand)
                if records is None:
                    return None
                self._grants += 1
                return Permit(self, demand, records, None)
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
        return Permit(self, demand, [record] * len(windows), None)

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
        self, charges: list[Charge] | None, make: MakeWaiter | None
    ) -> Permit | CallbackWaiter | None:
        """A permit, where the call may start now; else its waiter, or None without ``make``.

        Raises what :meth:`acquire` raises.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now)
            if self._scheduler.waiting or self._wakeups.abandoned:
                self._dispatch(now, running)
            records = self._scheduler.try_start(now, demand)
            if records is not None:
                return self._permit(now, demand, records, charges, running, True)
            waiter = self._wait_outside(now, demand, charges, running, make)
            if waiter is None or waiter.records is None:
                return waiter
            return self._permit_for(now, waiter, charges, running, True)

    def _wait_for(self, charges: list[Charge] | None, make: MakeWaiter) -> CallbackWaiter | None:
        """A waiter for a call that is to come; None: it would not have to wait.

        Raises what :meth:`acquire` raises.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            demand = self._demand_of(charges, now)
            if self._scheduler.can_start(now, demand):
                return None
            return self._wait_outside(now, demand, charges, running, make)

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
    ) -> CallbackWaiter | None:
        outer = self._check_budgets(demand)
        if make is None:
            return None
        waiter = make(demand, outer, charges)
        self._add_waiter(waiter)
        self._dispatch(now, running)
        return waiter

    def _start(self, waiter: CallbackWaiter) -> Permit | None:
        """Count the start of a call that was called back: it goes on, in this thread.

        None: it comes too late, and waits again at its old place.
        """
        with self._lock:
            running = running_loop()
            now = self._now(running)
            if waiter.records is None or self._scheduler.is_late(now, waiter):
                self._scheduler.requeue(waiter)
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

    def _demand_of(self, charges: list[Charge] | None, now: float) -> Demand:
        if now >= self._learner.relax_at:
            self._relax(now)
        if charges is None:
            if self._fixed_demand is not None:
                return self._fixed_demand
            charges = self._charges(None)  # a max was lowered below 1 in this moment
        for state, _, cost in charges:
            if cost > state.max:
                raise state.oversized(cost)  # before any key is remembered
        return tuple([(state.window(key, now), cost) for state, key, cost in charges if cost])

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
