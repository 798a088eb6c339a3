"""What "too many requests" does to a policy: the gate, ``max_retry_after``, final refusals."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from helpers.handlers import Handler
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import now
from helpers.versions import FROM_3_11
from penstock import (
    AdaptiveConcurrency,
    Failure,
    Limiter,
    Policy,
    RateLimitError,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import attempts_made

MONTH = 30 * 86400.0


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


class SpentError(Exception):
    """What OpenAI answers when credit is spent."""

    def __init__(self) -> None:
        super().__init__()
        self.status_code = 429
        self.body = {"error": {"code": "insufficient_quota", "message": "exceeded your quota"}}


async def test_a_refusal_without_a_time_holds_up_all_and_nothing_is_lost() -> None:
    service = Service({0: 1}, takes=0.01, error=RateLimitError)
    queue = WorkQueue[int](concurrency_limit=3, retry=RetryPolicy(5))
    result = await queue.batch_process(range(30), service)
    assert result.processed == 30
    between = [at for _, at in service.calls if 0.01 < at < 1.01]
    assert between == []
    assert queue.statistics().gate_closures == 1
    # One goes first, and the others follow one by one.
    first = min(at for _, at in service.calls if at > 0.01)
    assert sum(at == first for _, at in service.calls) == 1


async def test_a_budget_gets_nothing_back_for_a_retry_that_cost_nothing() -> None:
    """Queued work that is throttled is tried again for nothing."""
    budget = RetryBudget(tokens=100, refund=0)
    assert budget.take(ConnectionError())
    left = budget.tokens
    queue = WorkQueue[int](concurrency_limit=1, retry=RetryPolicy(2, budget=budget))
    result = await queue.batch_process([1], Service({1: 3}, error=RateLimitError))
    assert (result.processed, budget.tokens) == (1, left)


async def test_a_success_is_heard_and_begins_anew() -> None:
    policy = Policy()
    refuse = True

    async def call(item: int) -> None:
        if refuse:
            raise RateLimitError

    async def pause() -> float:
        with pytest.raises(RateLimitError):
            await policy.call(call, 1)
        return policy.statistics().gate_closed_for

    pauses = [await pause() for _ in range(3)]
    assert [math.floor(seconds) for seconds in pauses] in ([1, 2, 4], [1, 2, 5])
    refuse = False
    await policy.call(call, 1)
    refuse = True
    assert 1 <= await pause() <= 1.25


async def test_what_is_refused_for_longer_than_is_allowed_fails_at_once_and_says_so() -> None:
    handler = Handler()
    service = Service({1: 9}, error=lambda: RateLimitError(retry_after=MONTH))
    policy = Policy(retry=RetryPolicy(5, on=Exception), max_retry_after=60)
    queue = WorkQueue[int](concurrency_limit=1, policy=policy)
    result = await queue.batch_process([1, 2], service, error_handler=handler)
    assert (result.processed, result.failed) == (2, 1)
    assert service.items == [1, 2]
    ((_, error),) = handler.got
    assert attempts_made(error) == 1
    if FROM_3_11:
        assert "asks to wait 2.592e+06 s, and max_retry_after is 60" in notes(error)
    # The others wait for no longer than that.
    assert 60 <= service.times(2)[0] <= 62


async def test_what_is_allowed_is_waited_for() -> None:
    service = Service({1: 1}, error=lambda: RateLimitError(retry_after=MONTH))
    await Policy(retry=RetryPolicy(2), max_retry_after=math.inf).call(service, 1)
    assert now() >= MONTH


@pytest.mark.parametrize(
    ("error", "classify"),
    [
        (SpentError, None),
        (Exception, lambda error: Failure(429, is_throttle=True, is_permanent=True)),
    ],
)
async def test_a_final_refusal_ends_at_once_and_closes_no_gate(error: Any, classify: Any) -> None:
    service = Service({1: 9}, error=error)
    policy = Policy(retry=RetryPolicy(5), classify=classify)
    with pytest.raises(error):
        await policy.call(service, 1)
    await policy.call(service, 2)
    assert (service.items, now()) == ([1, 2], 0)
    assert policy.statistics().gate_closures == 0


async def test_what_the_users_classify_says_closes_the_gate() -> None:
    service = Service({1: 1}, error=Exception)
    policy = Policy(
        retry=RetryPolicy(2),
        classify=lambda error: Failure(is_throttle=True, is_transient=True, retry_after=7),
    )
    await policy.call(service, 1)
    assert service.times(1)[1] >= 7


async def test_a_refusal_that_may_be_about_calls_at_once_is_left_to_who_adapts_them() -> None:
    adaptive = AdaptiveConcurrency(1, 8, start=8)
    policy = Policy(concurrency=adaptive, retry=every(0.1, attempts=9))
    service = Service({1: 1}, error=RateLimitError)
    await asyncio.gather(*[policy.call(service, item) for item in range(8)])
    assert adaptive.limit < 8
    assert policy.statistics().gate_closures == 0
    # It can do no more where one call at a time is too many.
    one = Policy(concurrency=AdaptiveConcurrency(1, 8), retry=every(0.1, attempts=9))
    await one.call(Service({1: 1}, error=RateLimitError), 1)
    assert one.statistics().gate_closures == 1


async def test_two_policies_that_share_a_limiter_share_its_gate() -> None:
    limiter = Limiter(["100/s"])
    one, other = (Policy(limits=limiter, retry=RetryPolicy(2)) for _ in range(2))
    service = Service({1: 1}, error=lambda: RateLimitError(retry_after=5))
    await one.call(service, 1)
    assert other.statistics().gate_closures == 1
    limiter.close_for(3)
    began = now()
    await other.call(service, 2)
    assert now() >= began + 3
