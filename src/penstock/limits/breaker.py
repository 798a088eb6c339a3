"""Leaving alone a service that fails: the circuit breaker (Nygard, "Release It!", 2007)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from penstock._util import checks
from penstock.errors import CircuitBreakerOpenError
from penstock.limits.failures import Which, as_predicate, service_failed

#: While probes are under way nobody knows how long they take. Seconds until one asks again.
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
    """Refuses calls for a while when too many before them failed.

    Closed, it lets every call through and remembers how the last ``window`` of them ended. Once at
    least ``minimum`` are known and ``failure_share`` of them failed, it opens: it refuses every
    call for ``open_for`` seconds. Then it is half-open: it lets ``probes`` calls through, no more
    at once however many ask. When that many have succeeded it closes, and begins anew; when one
    fails it opens again. Probes that are not heard of for ``open_for`` seconds are given up.

    :meth:`allow` each call that is to start, and say how it ended, **once**: :meth:`succeeded`,
    :meth:`failed` or :meth:`cancelled`, with the permit it got. What is told of a call that began
    before the breaker last changed its state changes nothing. It reads no clock: ``now`` is in
    seconds of any clock. Not thread-safe.

    Args:
        failure_share: Above 0, at most 1.
        window: So many calls are remembered; at least 1.
        minimum: With fewer of them known it does not open; at most ``window``. Half of the window
            unless given.
        open_for: Seconds; above 0 and finite.
        probes: Calls at once when half-open; at least 1.
        on: Which errors are failures of the service: an exception class, several, or a function
            from the error to a bool; all others count as successes, as the service did answer.
            Unless given, any ``Exception`` is a failure, except an HTTP answer below 500 other than
            408; and what says nothing is not counted at all: rate limits, missed deadlines, errors
            of a queue.

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
    ) -> None:
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
        self._is_failure: Callable[[Exception], bool | None] = (
            service_failed if on is None else as_predicate(on, "on")
        )
        self._opened = 0
        self._ends: deque[bool]
        self._failures: int
        self._under_way: int  # probes
        self._probed: int
        self._period = 0  # goes up with each change of state, and so tells whose calls are whose
        self._enter(BreakerState.CLOSED, -math.inf)

    def __repr__(self) -> str:
        return f"CircuitBreaker({self._state.value}, opened {self._opened} times)"

    @property
    def opened(self) -> int:
        """How often it has opened."""
        return self._opened

    def state(self, now: float) -> BreakerState:
        """What it would do with a call at ``now``."""
        if self._state is BreakerState.OPEN and not self._is_open(now):
            return BreakerState.HALF_OPEN
        return self._state

    def retry_after(self, now: float) -> float:
        """Seconds until it makes sense to ask again; 0: a call is allowed now. Changes nothing."""
        if self._state is BreakerState.OPEN and self._is_open(now):
            return self._since + self._open_for - now
        if self._state is BreakerState.HALF_OPEN and self._is_full(now):
            return min(_ASK_AGAIN, self._open_for)
        return 0.0

    def allow(self, now: float) -> int:
        """The permit for a call to start at ``now``.

        Raises:
            CircuitBreakerOpenError: It must not start; ``retry_after`` says when to ask again.
        """
        wait = self.retry_after(now)
        if wait > 0:
            raise CircuitBreakerOpenError(
                f"Circuit breaker is {self.state(now).value.replace('_', '-')}", retry_after=wait
            )
        if self._state is BreakerState.OPEN or (
            self._state is BreakerState.HALF_OPEN and self._under_way == self._probes
        ):
            self._enter(BreakerState.HALF_OPEN, now)
        if self._state is BreakerState.HALF_OPEN:
            self._under_way += 1
            self._since = now
        return self._period

    def succeeded(self, now: float, permit: int) -> None:
        """The call with this permit was served."""
        if permit == self._period:
            self._ended(now, failed=False)

    def failed(self, now: float, permit: int, error: BaseException) -> None:
        """The call with this permit ended with ``error``.

        An ``on`` function that raises: the call counts as failed, and what it raised is raised
        from here, with ``error`` as its cause.
        """
        if permit != self._period:
            return
        if not isinstance(error, Exception):
            self.cancelled(permit)
            return
        try:
            failed = self._is_failure(error)
        except Exception as broken:
            self._ended(now, failed=True)
            raise broken from error
        if failed is None:
            self.cancelled(permit)
        else:
            self._ended(now, failed=bool(failed))

    def cancelled(self, permit: int) -> None:
        """The call with this permit ended, and that says nothing about the service."""
        if permit == self._period and self._state is BreakerState.HALF_OPEN:
            self._under_way -= 1

    def _is_open(self, now: float) -> bool:
        self._since = min(self._since, now)  # the clock of another event loop
        return now < self._since + self._open_for

    def _is_full(self, now: float) -> bool:
        self._since = min(self._since, now)
        return self._under_way == self._probes and now < self._since + self._open_for

    def _ended(self, now: float, *, failed: bool) -> None:
        if self._state is BreakerState.HALF_OPEN:
            self._under_way -= 1
            self._probed += 1
            if failed:
                self._open(now)
            elif self._probed >= self._probes:
                self._enter(BreakerState.CLOSED, now)
            return
        if len(self._ends) == self._window:
            self._failures -= self._ends.popleft()
        self._ends.append(failed)
        self._failures += failed
        known = len(self._ends)
        if known >= self._minimum and self._failures >= self._failure_share * known:
            self._open(now)

    def _open(self, now: float) -> None:
        self._opened += 1
        self._enter(BreakerState.OPEN, now)

    def _enter(self, state: BreakerState, now: float) -> None:
        self._state = state
        self._since = now  # open: since when; half-open: when the last probe began
        self._period += 1
        self._ends = deque()  # of the last calls: whether they failed
        self._failures = 0
        self._under_way = 0
        self._probed = 0


def _share(value: Any) -> float:
    share = checks.real(value, "failure_share")
    if not 0 < share <= 1:
        raise ValueError(f"failure_share must be above 0 and at most 1, got {checks.shown(value)}")
    return share
