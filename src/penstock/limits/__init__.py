"""How fast calls may start, how many at once, and what becomes of calls that fail.

The classes that decide are pure: they take the time and return how long to wait. The
:class:`Limiter` alone waits, for tasks and for threads.
"""

from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.backoff import Backoff
from penstock.limits.breaker import BreakerState, CircuitBreaker
from penstock.limits.budget import RetryBudget
from penstock.limits.rate.base import LimiterStatistics
from penstock.limits.rate.budget import Budget
from penstock.limits.rate.headers import Feedback
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.rate.permit import Permit
from penstock.limits.retry import RetryPolicy, attempts_made

__all__ = [
    "AdaptiveConcurrency",
    "Backoff",
    "BreakerState",
    "Budget",
    "CircuitBreaker",
    "Feedback",
    "Limit",
    "Limiter",
    "LimiterStatistics",
    "Permit",
    "RetryBudget",
    "RetryPolicy",
    "attempts_made",
]
