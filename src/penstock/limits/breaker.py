"""The circuit breaker: it leaves a failing service alone (Nygard, "Release It!", 2007)."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from penstock._util import checks, clock
from penstock._util.hooks import tell_forked_child
from penstock.errors import CircuitBreakerOpenError
from penstock.limits.failures import Failure, Which, as_predicate, service_failed

_logger = logging.getLogger("penstock")

#: Seconds after which to ask again while all probes are under way: nobody knows how long they take.
_ASK_AGAIN = 1.0


class BreakerState(str, Enum):
    """What a circuit breaker does with the next call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it."""
    HALF_OPEN = "half_open"
    """Lets it through as a probe, unless enough of those are under way."""


class CircuitBreaker:
    """Refuses calls for a while when too many calls before them failed.

    Closed, it lets every call through and remembers how the last ``window`` calls ended. Once at
    least ``minimum`` of them ended and the share ``failure_share`` failed, it opens: it refuses
    every call for ``open_for`` seconds. Then it is half-open: it lets at most ``probes`` calls
    through at once. When that many have succeeded, it closes and forgets the earlier calls; when
    one fails, it opens again. A probe whose end is not reported within ``open_for`` seconds no
    longer counts.

    Call :meth:`allow` before each call, and report its end **once**, with the permit that it got:
    :meth:`succeeded`, :meth:`failed` or :meth:`cancelled`. The end of a call that began before the
    breaker last changed its state is ignored. ``now`` is in seconds of any clock. Any number of
    queues, in any threads, may share a breaker.

    Each change of its state is logged, by the logger ``penstock``: as a warning when it opens, for
    information when it becomes half-open or closes.

    Args:
        failure_share: The share of failures at which it opens; above 0, at most 1.
        window: The number of calls that are remembered; at least 1.
        minimum: The number of ended calls before which it does not open; at most ``window``. Half
            of the window by default.
        open_for: Seconds; above 0 and finite.
        probes: The number of calls at once when half-open; at least 1.
        on: Which errors are failures of the service: an exception class, a tuple of classes, or a
            function from the error to a bool. All other errors count as successes, because the
            service did answer. By default, any ``Exception`` is a failure, except an HTTP answer
            below 500 other than 408. Errors that say nothing about the service are not counted:
            rate limits, missed deadlines, errors of a queue.
        name: its name in the log, if there are several.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        failure_share: float = 0.5,
        window: int = 20,
        minimum: int | None = None,
        open_for: float = 30.0,
        probes: int = 1,
        *,
        on: Which | None = None,
        name: str | None = None,
    ) -> None:
        self._called = "Circuit breaker"
        if name is not None:
            self._called += f" {checks.label(name, 'name')}"
        self._failure_share = _share(failure_share)
        self._window = checks.positive_int(window, "window", "window must be at least 1")
        if minimum is None:
            minimum = (self._window + 1) // 2
        self._minimum = checks.positive_int(minimum, "minimum", "minimum must be at least 1")
        if self._minimum > self._window:
            raise ValueError(
                f"minimum must not be above window={self._window}, got {minimum}: "
                "it would never open"
            )
        self._open_for = checks.seconds(open_for, "open_for")
        if not 0 < self._open_for < math.inf:
            raise ValueError(f"open_for must be above 0 and finite, got {checks.shown(open_for)}")
        self._probes = checks.positive_int(probes, "probes", "probes must be at least 1")
        self._on: Callable[[Exception], bool] | None = (
            None if on is None else as_predicate(on, "on")
        )
        # A call that is collected tells that it was cancelled, perhaps while this very thread is
        # inside one of these methods.
        self._lock = threading.RLock()
        tell_forked_child(self)
        self._opened = 0
        self._state: BreakerState
        self._ends: deque[bool]
        self._failures: int
        self._under_way: int  # probes
        self._probed: int
        self._period = 0  # goes up with each change of state: calls of earlier periods are ignored
        # What is to be logged, which is done without the lock: handlers are functions of the user.
        self._changes: deque[tuple[int, str]] = deque()
        self._enter(BreakerState.CLOSED, -math.inf)

    def __repr__(self) -> str:
        return f"CircuitBreaker({self._state.value}, opened {self._opened} times)"

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()  # a thread of the parent may hold the old one

    @property
    def opened(self) -> int:
        """How often it has opened."""
        return self._opened

    def open(self, seconds: float | None = None) -> None:
        """Refuse every call for ``seconds`` from now; then it is half-open, as usual.

        If it is open already, the new time replaces the old one. From any thread.

        Args:
            seconds: above 0. ``None``: ``open_for``. ``math.inf``: until :meth:`close` is called.

        Raises:
            ValueError: ``seconds`` is no such number.
        """
        lasts = self._open_for if seconds is None else checks.seconds(seconds, "seconds")
        if not lasts:
            raise ValueError(f"seconds must be above 0, got {checks.shown(seconds)}")
        with self._lock:
            self._open(clock.now(), lasts, "by hand")
        self._log_changes()

    def close(self) -> None:
        """Let calls through from now on, and forget the earlier calls. From any thread.

        Items that a queue has delayed come back when their ``retry_after`` is over, in at most
        ``open_for`` seconds.
        """
        with self._lock:
            if self._state is not BreakerState.CLOSED:
                self._changes.append((logging.INFO, "is closed: close() was called"))
            self._enter(BreakerState.CLOSED, -math.inf)
        self._log_changes()

    def state(self, now: float) -> BreakerState:
        """What it would do with a call at ``now``. Changes nothing."""
        with self._lock:
            if self._state is BreakerState.OPEN and not self._is_recent(now):
                return BreakerState.HALF_OPEN
            return self._state

    def retry_after(self, now: float) -> float:
        """Seconds until it makes sense to ask again; 0: a call is allowed at ``now``.

        At most ``open_for``, for it may be closed by hand. Changes nothing.
        """
        with self._lock:
            if self._state is BreakerState.OPEN and self._is_recent(now):
                return min(self._since_by(now) + self._lasts - now, self._open_for)
            if self._state is BreakerState.HALF_OPEN and self._is_full(now):
                return min(_ASK_AGAIN, self._open_for)
            return 0.0

    def check(self, now: float) -> None:
        """Raise what :meth:`allow` would raise for a call at ``now``; counts no call as started.

        Raises:
            CircuitBreakerOpenError: The call must not start; ``retry_after`` says when to ask
                again.
        """
        if self._state is BreakerState.CLOSED:
            return
        with self._lock:
            self._since = self._since_by(now)
            wait = self.retry_after(now)
            state = self.state(now).value.replace("_", "-")
        if wait > 0:
            raise CircuitBreakerOpenError(f"Circuit breaker is {state}", retry_after=wait)

    def allow(self, now: float) -> int:
        """The permit for a call to start at ``now``, with which to report its end.

        Raises:
            CircuitBreakerOpenError: The call must not start; ``retry_after`` says when to ask
                again.
        """
        period = self._period  # before the state: if it opens meanwhile, this call began before
        if self._state is BreakerState.CLOSED:
            return period
        with self._lock:
            self.check(now)
            if self._state is BreakerState.OPEN or (
                self._state is BreakerState.HALF_OPEN and self._under_way == self._probes
            ):
                if self._state is BreakerState.OPEN:
                    news = f"is half-open: calls that it allows at once: {self._probes}"
                    self._changes.append((logging.INFO, news))
                self._enter(BreakerState.HALF_OPEN, now)
            if self._state is BreakerState.HALF_OPEN:
                self._under_way += 1
                self._since = now
            period = self._period
        self._log_changes()
        return period

    def succeeded(self, now: float, permit: int) -> None:
        """The call with this permit succeeded."""
        self._ended(now, permit, failed=False)

    def failed(
        self, now: float, permit: int, error: BaseException, failure: Failure | None = None
    ) -> None:
        """The call with this permit ended with ``error``.

        ``failure`` is what ``error`` says; unless given, that is found out here.

        Raises:
            BaseException: What the ``on`` function raised, with ``error`` as its cause. The call
                counts as failed.
        """
        if permit != self._period:
            return
        if not isinstance(error, Exception):
            self.cancelled(permit)
            return
        try:
            # Not under the lock: it may be the user's function.
            failed = service_failed(error, failure) if self._on is None else self._on(error)
        except BaseException as broken:
            self._ended(now, permit, failed=True)
            raise broken from error
        if failed is None:
            self.cancelled(permit)
        else:
            self._ended(now, permit, failed=bool(failed))

    def cancelled(self, permit: int) -> None:
        """The call with this permit ended in a way that says nothing about the service."""
        with self._lock:
            if permit == self._period and self._state is BreakerState.HALF_OPEN:
                self._under_way -= 1

    def _is_recent(self, now: float) -> bool:
        return now < self._since_by(now) + self._lasts

    def _since_by(self, now: float) -> float:
        # A clock that went back is that of another event loop: by it, the time begins now.
        return min(self._since, now)

    def _is_full(self, now: float) -> bool:
        return self._under_way == self._probes and self._is_recent(now)

    def _ended(self, now: float, permit: int, *, failed: bool) -> None:
        with self._lock:
            if permit != self._period:
                return
            if self._state is BreakerState.HALF_OPEN:
                self._under_way -= 1
                self._probed += 1
                if failed:
                    self._open(now, self._open_for, "a probe failed")
                elif self._probed >= self._probes:
                    self._changes.append((logging.INFO, "is closed: the probes succeeded"))
                    self._enter(BreakerState.CLOSED, now)
            else:
                self._remember(now, failed=failed)
        self._log_changes()

    def _remember(self, now: float, *, failed: bool) -> None:
        if len(self._ends) == self._window:
            self._failures -= self._ends.popleft()
        self._ends.append(failed)
        self._failures += failed
        known = len(self._ends)
        if known >= self._minimum and self._failures >= self._failure_share * known:
            self._open(now, self._open_for, f"{self._failures} of the last {known} calls failed")

    def _open(self, now: float, lasts: float, why: str) -> None:
        time = "until it is closed" if lasts == math.inf else f"for {lasts:g} s"
        self._changes.append((logging.WARNING, f"is open {time}: {why}"))
        self._opened += self._state is not BreakerState.OPEN
        self._enter(BreakerState.OPEN, now)
        self._lasts = lasts

    def _enter(self, state: BreakerState, now: float) -> None:
        self._since = now  # open: since when; half-open: when the last probe began
        self._lasts = self._open_for  # seconds from then on
        self._state = state
        self._period += 1
        self._ends = deque()  # of the last calls: whether they failed
        self._failures = 0
        self._under_way = 0
        self._probed = 0

    def _log_changes(self) -> None:
        while self._changes:
            try:
                level, news = self._changes.popleft()
            except IndexError:  # another thread was faster
                return
            _logger.log(level, "%s %s", self._called, news)


def _share(value: Any) -> float:
    share = checks.real(value, "failure_share")
    if not 0 < share <= 1:
        raise ValueError(f"failure_share must be above 0 and at most 1, got {checks.shown(value)}")
    return share
