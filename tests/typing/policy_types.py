"""What type checkers make of policies, and of calls under them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import assert_type

from penstock import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Failure,
    Limit,
    Limiter,
    Policy,
    PolicyStatistics,
    RateLimitedExecutor,
    RetryPolicy,
    WorkQueue,
)
from penstock.sync import WorkQueue as BlockingWorkQueue


@dataclass(frozen=True)
class Call:
    """An item as users write them."""

    user: str


def judge(error: Exception) -> Failure | None:
    return Failure(is_throttle=True, retry_after=2) if "busy" in str(error) else None


policy = Policy(
    limits=["500/min", Limit(5, per=1, key=lambda call: call.user)],
    retry=RetryPolicy(5),
    breaker=CircuitBreaker(),
    deadline=60,
    attempt_timeout=5,
    concurrency=AdaptiveConcurrency(1, 50),
    classify=judge,
    name="vendor",
)


async def fetch(call: Call, *, retries: int = 0) -> bytes:
    return call.user.encode()


def compute(call: Call, weight: float) -> float:
    return len(call.user) * weight


@policy
async def decorated(call: Call, *, more: int = 0) -> bytes:
    return call.user.encode()


@policy
def decorated_plain(call: Call) -> int:
    return len(call.user)


class Client:
    """With methods under a policy."""

    @policy
    async def send(self, call: Call) -> int:
        return len(call.user)

    @policy
    def count(self, call: Call) -> int:
        return len(call.user)


async def calls() -> None:
    call = Call("a")
    assert_type(await policy.call(fetch, call, retries=1), bytes)
    assert_type(policy.call(compute, call, 0.5), float)
    assert_type(await policy.call(lambda one: fetch(one, retries=2), call), bytes)
    assert_type(await decorated(call, more=1), bytes)
    assert_type(decorated_plain(call), int)
    assert_type(await Client().send(call), int)
    assert_type(Client().count(call), int)
    wrapped: Callable[[Call], int] = decorated_plain
    assert_type(wrapped(call), int)


def what_it_shows() -> None:
    assert_type(policy.limits, Limiter)
    assert_type(policy.statistics(), PolicyStatistics)
    assert_type(policy.statistics().breaker_state, str | None)
    assert_type(policy.name, str)


async def who_uses_it() -> None:
    queue = WorkQueue[Call](policy=policy)
    await queue.process(fetch)
    BlockingWorkQueue[Call](policy=policy, concurrency_limit=3)
    WorkQueue[Call](attempt_timeout=5)
    executor = RateLimitedExecutor(policy=policy)
    assert_type(executor.policy, Policy)
    assert_type(await executor.execute(fetch, Call("a")), bytes)


def wrong_uses() -> None:
    Policy(RetryPolicy())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Policy(retry=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Policy(concurrency="5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Policy(classify=lambda error: "busy")  # type: ignore[arg-type,return-value] # pyright: ignore[reportArgumentType]
    policy.call(compute, Call("a"), "0.5")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue,reportArgumentType]
    decorated_plain("a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    WorkQueue[Call](policy=RetryPolicy())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
