"""Several limits taken as one, for tasks and for threads."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from penstock._util import checks
from penstock.errors import PenstockError
from penstock.limits import headers as _headers
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.line import Needs
from penstock.limits.rate.permit import Permit, PermitContext, Price, current_permits, enter, leave
from penstock.limits.rate.sliding_log import SlidingLog
from penstock.limits.rate.statistics import LimiterStatistics
from penstock.limits.rate.turnstile import Turnstile, running_loop
from penstock.limits.rate.waiting import LONGEST, LoopWaiter, ThreadWaiter

#: Seconds after which a thread that waits asks whether it is still to.
_LOOK = 0.5


class UnusableLimiterError(PenstockError, ValueError):
    """The limiter can let nobody start, as it is set up. Nothing is wrong with the call."""


class Limiter(Turnstile):
    """Lets calls start as soon as all of its limits allow, first come, first served.

    Args:
        limits: the limits. A call takes from all of them at once, or waits and takes from none.
        name: what to call it in telemetry.
        rng: draws the gaps after a closure of the gate.

    Raises:
        TypeError: for what is not a :class:`Limit`.
        ValueError: two limits have the same name, or a limit is part of another limiter.

    One limiter serves any number of event loops and threads at once. A call that cannot start yet
    waits behind all older ones that lack something it needs too; a waiter that is cancelled, or
    runs out of time, has used nothing up. A start counts from the moment in which the caller goes
    on, so a loop that stalls does not let calls through in the wrong window.

    The clock is the monotonic one; in an event loop with a clock of its own, as
    :class:`penstock.testing.VirtualTimeLoop`, it is that one.
    """

    #: In what each of its limits is counted.
    log_type: ClassVar[type[SlidingLog]] = SlidingLog
    #: Whether limits learn from refusals.
    learns: bool = True

    def __init__(
        self,
        limits: Iterable[Limit],
        *,
        name: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(limits, Iterable):
            raise TypeError(f"limits must be an iterable of Limit, got {checks.shown(limits)}")
        if rng is not None and not callable(getattr(rng, "random", None)):
            raise TypeError(f"rng must be a random.Random or None, got {checks.shown(rng)}")
        self.limits: tuple[Limit, ...] = tuple(limits)
        self._by_name: dict[str, Limit] = {}
        for limit in self.limits:
            if not isinstance(limit, Limit):
                raise TypeError(
                    f"limits must be an iterable of Limit, got {checks.shown(limit)} in it"
                )
            if limit.name in self._by_name:
                called = checks.shown(limit.name)
                raise ValueError(f"two limits are called {called}: give them names")
            self._by_name[limit.name] = limit
        for limit in self.limits:
            limit.belong_to(self)
        self.name = "default" if name is None else checks.label(name, "name")
        super().__init__(self.limits, rng)
        self._grants = 0
        self._ignored_headers = 0
        #: What every item needs, where no limit looks at the item.
        self._fixed: Needs | None = None
        #: The log in which that is written, where there is just one limit.
        self._only: SlidingLog | None = None
        self._rates_changed()

    # -- what users call --------------------------------------------------------------------------

    async def acquire(self, item: Any = None) -> Permit:
        """Wait until a call for ``item`` may start, and count it as started.

        Raises:
            ValueError, TypeError: what a cost or key function says cannot be, or the cost is above
                the ``max`` of its limit, which may be lowered while this waits.

        Cancelling it uses nothing up. With room it does not suspend.
        """
        running = asyncio.get_running_loop()
        prices = None if self._fixed is not None else self._prices(item)
        with self._lock:  # not acquire() and try: Ctrl-C could come between the two
            now = self._clock() if running is self._clock_of else self._now(running)
            only = self._only
            if only is not None and not self._line.waiting and not self._gate.spreads:
                record = only.take(now, 1)  # the same as below, and quicker
                if record is not None:
                    self._grants += 1
                    return Permit(self, self._fixed or (), (record,), None)
            needs = self._needs(prices, now)
            records = self._line.start(now, needs)
            if records is not None:
                self._grants += 1
                return Permit(self, needs, records, prices)
            waiter = LoopWaiter(needs, running)
            self._enter(waiter)
            self._turn(now, running)
            if waiter.records is not None:
                return self._confirmed(now, waiter, prices)
        while True:
            try:
                await waiter.future
            except GeneratorExit:
                self._abandon(waiter)
                raise
            except BaseException:
                with self._lock:
                    self._withdraw(waiter)
                raise
            with self._lock:
                if waiter.error is not None:
                    self._withdraw(waiter)
                    raise waiter.error
                now = self._now(running)
                if not self._line.is_late(now, waiter):
                    return self._confirmed(now, waiter, prices)
                waiter.renew()
                self._line.enter_again(waiter)
                self._turn(now, running)

    def acquire_blocking(
        self,
        item: Any = None,
        timeout: float | None = None,
        *,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Permit:
        """As :meth:`acquire`, for threads. ``timeout``: seconds to wait at most.

        ``is_wanted`` is asked twice a second while it waits; when it says no, the wait ends by
        ``CancelledError``.

        Raises:
            TimeoutError: it could not start in time; nothing was used up.
            RuntimeError: an event loop runs in this thread, and would stand still.
            ValueError, TypeError: as :meth:`acquire`.

        Ctrl-C gets out of it at once, and uses nothing up.
        """
        patience = checks.seconds(math.inf if timeout is None else timeout)
        if running_loop() is not None:
            raise RuntimeError(
                "acquire_blocking would block the event loop that runs in this thread:"
                " use `await limiter.acquire()` or `async with limiter:` instead"
            )
        prices = None if self._fixed is not None else self._prices(item)
        with self._lock:
            now = self._now(None)
            needs = self._needs(prices, now)
            records = self._line.start(now, needs)
            if records is not None:
                self._grants += 1
                return Permit(self, needs, records, prices)
            waiter = ThreadWaiter(needs)
        deadline = now + patience
        try:
            with self._lock:
                self._enter(waiter)
            while True:
                with self._lock:
                    now = self._now(None)
                    self._turn(now, None)
                    if waiter.error is not None:
                        raise waiter.error
                    if waiter.records is not None:
                        if not self._line.is_late(now, waiter):
                            return self._confirmed(now, waiter, prices)
                        self._line.enter_again(waiter)
                        continue
                    if is_wanted is not None and not is_wanted():
                        raise asyncio.CancelledError("nobody wants to start any more")
                    if now >= deadline:
                        raise TimeoutError(f"no call could start within {patience:g} seconds")
                    minds = next(iter(self._threads)) is waiter
                    waiter.until = self._line.next_turn(now) if minds else math.inf
                    pause = min(waiter.until, deadline) - now
                    waiter.signal.clear()
                waiter.signal.wait(min(max(0.0, pause), LONGEST if is_wanted is None else _LOOK))
        finally:
            with self._lock:
                self._withdraw(waiter)

    def try_acquire(self, item: Any = None) -> Permit | None:
        """As :meth:`acquire`, but ``None`` where that would wait. From any thread."""
        prices = None if self._fixed is not None else self._prices(item)
        with self._lock:
            now = self._now(running_loop())
            needs = self._needs(prices, now)
            if self._line.waiting:
                self._turn(now, running_loop())
            records = self._line.start(now, needs)
            if records is None:
                return None
            self._grants += 1
            return Permit(self, needs, records, prices)

    def wait_time(self, item: Any = None) -> float:
        """Seconds until :meth:`try_acquire` is worth a try; 0: now. Takes nothing.

        It may be earlier, when something is given back or a limit grows, and later, when others
        take the room. ``math.inf``: not before something happens.
        """
        prices = None if self._fixed is not None else self._prices(item)
        with self._lock:
            now = self._now(running_loop())
            needs = self._needs(prices, now)
            if self._line.may_start(now, needs):
                return 0.0
            when = max([meter.log.free_at(now, cost) for meter, cost in needs], default=-math.inf)
            if when <= now and self._line.waiting:  # others come first
                when = self._line.next_turn(now)
            return max(0.0, max(when, self._gate.opens_at) - now)

    def check(self, item: Any) -> None:
        """Raise what :meth:`acquire` would raise for an item that can never pass. Takes nothing.

        Raises:
            ValueError, TypeError: as :meth:`acquire`.
        """
        if self._fixed is None:
            for limit, _, cost in self._prices(item):
                if cost > limit.max:
                    raise limit.too_much(cost)

    def permit(self, item: Any = None) -> PermitContext:
        """``async with limiter.permit(item):``, or ``with`` in a thread."""
        return PermitContext(self, item)

    def close_for(self, seconds: float) -> None:
        """Let nobody start for so many seconds. The later of two closings wins.

        When it opens again, those who waited start one after the other, spread over a tenth of
        that time, one second at most. From any thread.

        Raises:
            ValueError: ``seconds`` is not a finite number of zero or more.
        """
        pause = _finite(seconds, "seconds")
        with self._lock:
            running = running_loop()
            now = self._now(running)
            self._gate.close(now, pause, self._line.waiting)
            self._turn(now, running)

    def refused(self, retry_after: float = 0.0, *, permit: Permit | None = None) -> None:
        """The service said "too many requests" to the call of this permit.

        The gate closes for ``retry_after`` seconds, as by :meth:`close_for`. And the limit that was
        used most learns from it: at first what it lets through is less close together; if that does
        not help, it is what the service took before it refused. When that has done well for long,
        more is tried. It is never more than the limit says, and ``Limit.change`` ends it. A refusal
        for which nobody has to wait teaches nothing.

        ``permit``: unless given, that of the call under way; without one, only the gate closes.
        A queue and ``RateLimitedExecutor`` call this themselves where a call raises an error that
        says so.

        Raises:
            ValueError: ``retry_after`` is not a finite number of zero or more.
        """
        pause = _finite(retry_after, "retry_after")
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
            permit.refused_at(now, pause, self._lessons)
            self._rates_changed()
            self._turn(now, running)

    def observe(self, headers: Any) -> _headers.Feedback:
        """Read the headers of a response, and close the gate if they say so.

        It closes for the time of ``Retry-After``, or else until the latest reset of what has
        nothing remaining; :mod:`penstock.limits.headers` lists the forms. ``headers``: any mapping
        or list of pairs, of str or bytes. What makes no sense is ignored, counted, never raised.
        """
        feedback = _headers.parse(headers, time.time())
        with self._lock:
            self._ignored_headers += feedback.ignored
        if feedback.wait > 0:
            self.close_for(feedback.wait)
        return feedback

    def limit(self, which: Limit | str) -> Limit:
        """The limit of that name: ``KeyError`` if there is none."""
        limit = self._by_name.get(which) if isinstance(which, str) else which
        if limit not in self.limits:
            names = ", ".join(map(checks.shown, self._by_name)) or "none"
            raise KeyError(
                f"the limiter has no limit {checks.shown(which)}; its limits are {names}"
            )
        assert limit is not None
        return limit

    def statistics(self) -> LimiterStatistics:
        """What it has done so far, and who waits."""
        with self._lock:
            return LimiterStatistics(
                waiting=self._line.waiting,
                grants=self._grants,
                closures=self._gate.closures,
                closed_for=self._gate.closed_for(self._now(running_loop())),
                ignored_headers=self._ignored_headers,
                held_back=self._lessons.in_force(),
            )

    async def __aenter__(self) -> Permit:
        return enter(await self.acquire())

    async def __aexit__(self, *_: object) -> None:
        leave(self)

    def __enter__(self) -> Permit:
        return enter(self.acquire_blocking())

    def __exit__(self, *_: object) -> None:
        leave(self)

    # -- within -----------------------------------------------------------------------------------

    def _rates_changed(self) -> None:
        """Where no limit looks at the item, all items need the same: then it is said here."""
        looks = any(limit.cost or limit.key or limit.max < 1 for limit in self.limits)
        meters = [] if looks else [limit.meter(None, -math.inf) for limit in self.limits]
        self._fixed = None if looks else tuple((meter, 1) for meter in meters)
        is_quick = len(meters) == 1 and not meters[0].is_restrained
        self._only = meters[0].log if is_quick else None

    def _prices(self, item: Any) -> list[Price]:
        # Not under the lock: these functions are the user's.
        return [(limit, limit.key_of(item), limit.price(item)) for limit in self.limits]

    def _needs(self, prices: list[Price] | None, now: float) -> Needs:
        if now >= self._lessons.eases_at:
            self._ease(now)
        if prices is None:
            if self._fixed is not None:
                return self._fixed
            prices = self._prices(None)  # a max was lowered below 1 in this moment
        for limit, _, cost in prices:
            if cost > limit.max:
                raise limit.too_much(cost)  # before any key is remembered
        return tuple([(limit.meter(key, now), cost) for limit, key, cost in prices if cost])

    def _confirmed(
        self, now: float, waiter: LoopWaiter | ThreadWaiter, prices: list[Price] | None
    ) -> Permit:
        records = waiter.records
        assert records is not None
        self._grants += 1
        self._start_now(now, waiter)
        return Permit(self, waiter.needs, records, prices)


def _finite(value: Any, name: str) -> float:
    seconds = checks.seconds(value, name)
    if seconds == math.inf:
        raise ValueError(f"{name} must be finite, got inf")
    return seconds
