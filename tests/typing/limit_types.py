"""What type checkers make of limits, retries and the breaker."""

from __future__ import annotations

from dataclasses import dataclass

import tenacity
from typing_extensions import assert_type

from penstock import (
    AdaptiveConcurrency,
    Backoff,
    Budget,
    CircuitBreaker,
    DeadLetter,
    Limit,
    Limiter,
    RateLimitedExecutor,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import Feedback, Permit, attempts_made
from penstock.limits.rate.limit import LimitOwner


@dataclass(frozen=True)
class Call:
    """An item as users write them."""

    user: str
    tokens: int


def tokens(call: Call) -> int:
    return call.tokens


def user(call: Call) -> str:
    return call.user


async def send(call: Call) -> bytes:
    return call.user.encode()


def is_busy(error: BaseException) -> bool:
    return "busy" in str(error)


def linearly(attempt: int, error: Exception) -> float:
    return attempt / 10


async def limits() -> None:
    limit = Limit(90_000, per=60, cost=tokens, key=user, name="tokens")
    Limit(0.5, 1, key=lambda call: (call.user, call.tokens))
    assert_type(limit.max, float)
    assert_type(limit.limiter, LimitOwner | None)
    limit.change(max=5)
    limiter = Limiter([limit])
    assert_type(Limit.parse("500/min", cost=tokens), Limit)
    budget = Budget(10, cost=tokens)
    assert_type(budget.used, float)
    budget.change(20)
    Limiter([limit, "500/min", budget])
    WorkQueue[Call](limits=["500/min", budget])
    assert_type(limiter.remaining(Call("a", 1)), dict[str, float])
    assert_type(limiter.utilization(), dict[str, float])
    assert_type(await limiter.acquire(Call("a", 1)), Permit)
    assert_type(limiter.acquire_blocking(Call("a", 1)), Permit)
    assert_type(limiter.try_acquire(), Permit | None)
    assert_type(limiter.wait_time(), float)
    assert_type(limiter.observe({"Retry-After": "5"}), Feedback)
    assert_type(limiter.limit("tokens"), Limit)
    with limiter as permit:
        assert_type(permit, Permit)
        assert_type(permit.limiter.observe({"Retry-After": "5"}), Feedback)
    async with limiter.permit(Call("a", 1)) as permit:
        permit.settle("tokens", 0.5)


async def a_queue_under_rules() -> None:
    queue = WorkQueue[Call](
        limits=Limiter(Limit(number, per=1) for number in range(1, 3)),
        retry=RetryPolicy(3, on=is_busy, backoff=linearly, budget=RetryBudget()),
        breaker=CircuitBreaker(on=(ConnectionError, TimeoutError)),
        concurrency_limit=AdaptiveConcurrency(1, 50),
    )
    await queue.process(send)
    for letter in queue.dead_letters:
        assert_type(letter, DeadLetter[Call])
        assert_type(letter.item, Call)
        assert_type(letter.error, BaseException)


def retries() -> None:
    RetryPolicy(on=ConnectionError, backoff=Backoff(0.1), budget=None)
    RetryPolicy(on=(ConnectionError, TimeoutError))
    RetryPolicy(tenacity.stop_after_attempt(3), backoff=tenacity.wait_fixed(1))
    assert_type(attempts_made(ValueError()), int)


async def calls_under_limits() -> None:
    async with RateLimitedExecutor([Limit(5, per=1)], max_concurrency=2) as executor:
        assert_type(executor, RateLimitedExecutor)
        assert_type(executor.limits, Limiter)
        assert_type(await executor.execute(send, Call("a", 1)), bytes)
        assert_type(await executor.map(tokens, [Call("a", 1)]), list[int])


def wrong_uses() -> None:
    Limit("5", per=1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Limit(5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Limit(5, per=1, cost=user)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Limit(5, 1, key=lambda call: [call])  # type: ignore[arg-type,return-value] # pyright: ignore[reportArgumentType]
    Limiter(Limit(5, per=1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Limiter([5])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    RetryPolicy(on="busy")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    RetryPolicy(backoff=1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    RetryPolicy().attempts = 5  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    WorkQueue[int](retry=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
