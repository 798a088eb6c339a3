"""Penstock: a bounded work queue for calling services that can say "too many requests".

>>> import asyncio, penstock
>>> async def main():
...     async with penstock.WorkQueue(maxsize=100, concurrency_limit=5) as queue:
...         await queue.process(print)
...         return await queue.put("an item")
>>> asyncio.run(main())
an item
True
"""

from typing import TYPE_CHECKING, Any

from penstock.errors import (
    APIClientError,
    APITimeoutError,
    BatchError,
    BrokerError,
    BudgetExceededError,
    CircuitBreakerOpenError,
    CodecError,
    DeadlineExceededError,
    OutageError,
    PenstockError,
    QueueClosedError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    QueueStateError,
    QueueUnknownError,
    RateLimitError,
)
from penstock.events import Event, Execution, ExecutionStatus, Executor
from penstock.executors import AsyncExecutor, RateLimitedExecutor
from penstock.limits import (
    AdaptiveConcurrency,
    Backoff,
    Budget,
    CircuitBreaker,
    Limit,
    Limiter,
    RetryBudget,
    RetryPolicy,
)
from penstock.limits.failures import Failure
from penstock.policies import observer as _observer
from penstock.policies.dead_letters import DeadLetter
from penstock.policies.policy import Policy, PolicyStatistics
from penstock.queue.bounded import BoundedQueue, QueueStatistics, QueueStatus
from penstock.queue.control import ItemInHand
from penstock.queue.jobs import BatchResult
from penstock.queue.orders import FairShares, Priorities
from penstock.telemetry.telemetry import default_observer as _default_observer
from penstock.work_queue import WorkQueue

if TYPE_CHECKING:
    from penstock.config import QueueConfig

# Queues and policies that are given no telemetry use OpenTelemetry's global providers.
_observer.default_observer = _default_observer

__all__ = [
    "APIClientError",
    "APITimeoutError",
    "AdaptiveConcurrency",
    "AsyncExecutor",
    "Backoff",
    "BatchError",
    "BatchResult",
    "BoundedQueue",
    "BrokerError",
    "Budget",
    "BudgetExceededError",
    "CircuitBreaker",
    "CircuitBreakerOpenError",
    "CodecError",
    "DeadLetter",
    "DeadlineExceededError",
    "Event",
    "Execution",
    "ExecutionStatus",
    "Executor",
    "Failure",
    "FairShares",
    "ItemInHand",
    "Limit",
    "Limiter",
    "OutageError",
    "PenstockError",
    "Policy",
    "PolicyStatistics",
    "Priorities",
    "QueueClosedError",
    "QueueConfig",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "QueueStateError",
    "QueueStatistics",
    "QueueStatus",
    "QueueUnknownError",
    "RateLimitError",
    "RateLimitedExecutor",
    "RetryBudget",
    "RetryPolicy",
    "WorkQueue",
]


def __getattr__(name: str) -> Any:
    """Import what pydantic makes when somebody asks for it: pydantic takes as long as the rest."""
    if name != "QueueConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from penstock.config import QueueConfig

    globals()[name] = QueueConfig
    return QueueConfig


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
