"""The retry budget: an outage must not multiply the calls, as three attempts each would."""

from __future__ import annotations

import math
import threading
from typing import Any

from penstock._util import checks
from penstock._util.hooks import tell_forked_child
from penstock.limits.failures import Failure, failure_of


class RetryBudget:
    """A bucket of ``tokens`` that pays for retries, as in the standard retry mode of the AWS SDKs.

    A retry costs ``cost`` tokens, or ``throttle_cost`` after "too many requests"; after an error of
    a circuit breaker it costs nothing. A retry that succeeds gives back what it cost, and a first
    attempt that succeeds gives ``refund``; the bucket holds at most ``tokens``. With the defaults
    (those of 2026) a total outage gets at most 35 retries, however many items there are.

    Shared by all items of a queue, and by as many queues as it is given to. Thread-safe.

    Raises:
        TypeError: A setting is not a number.
        ValueError: A setting is negative or not finite, or a cost is 0 or above ``tokens``: then
            the budget would allow every retry, or never one.
    """

    def __init__(
        self,
        tokens: float = 500,
        cost: float = 14,
        throttle_cost: float = 5,
        refund: float = 1,
    ) -> None:
        self._most = _amount(tokens, "tokens")
        self._cost = _amount(cost, "cost")
        self._throttle_cost = _amount(throttle_cost, "throttle_cost")
        self._refund = _amount(refund, "refund")
        for price, name in ((self._cost, "cost"), (self._throttle_cost, "throttle_cost")):
            if not 0 < price <= self._most:
                raise ValueError(
                    f"{name} must be above 0 and at most tokens={self._most:g}, got {price}"
                )
        self._tokens = self._most
        #: Whether there is nothing to give back to it, as most often.
        self.is_full = True
        self._lock = threading.Lock()
        tell_forked_child(self)

    def __repr__(self) -> str:
        return f"RetryBudget(tokens={self._most:g}): {self._tokens:g} left"

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may hold the old one

    @property
    def tokens(self) -> float:
        """The tokens that are left."""
        return self._tokens

    def take(self, error: BaseException | Failure) -> bool:
        """Pay for a retry after ``error``. ``False``: too few tokens are left; none was taken."""
        price = self._price(error)
        with self._lock:
            if self._tokens < price:
                return False
            self._tokens -= price
            self.is_full = self._tokens >= self._most
            return True

    def succeeded(self, last_error: BaseException | Failure | None = None) -> None:
        """An attempt succeeded: the first (``None``), or the retry after ``last_error``."""
        if self.is_full:  # what others take meanwhile comes after this
            return
        amount = self._refund if last_error is None else self._price(last_error)
        with self._lock:
            self._tokens = min(self._most, self._tokens + amount)
            self.is_full = self._tokens >= self._most

    def _price(self, error: BaseException | Failure) -> float:
        failure = failure_of(error)
        if failure.is_short_circuit:
            return 0.0
        return self._throttle_cost if failure.is_throttle else self._cost


def _amount(value: Any, name: str) -> float:
    number = checks.real(value, name)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be zero or more and finite, got {checks.shown(value)}")
    return number
