"""What a job against a service with a rate limit takes, by simulation, and what users see of it."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable

import pytest

from limits.service import Fixed, Outcome, Rule, Sliding, at_least, do
from penstock import Limit, Limiter, RateLimitedExecutor, RateLimitError

SEEDS = range(5)
COUNT = 400


def told(calls: int, per: float = 1.0) -> Callable[[], list[Limit]]:
    return lambda: [Limit(calls, per=per)]


def in_portions(calls: int) -> list[Limit]:
    return [Limit(calls, per=1.04), Limit(calls / 4, per=0.25, name="spread")]


def jobs(rule: Callable[[], Rule], limits: Callable[[], list[Limit]]) -> list[Outcome]:
    outcomes = [do(rule(), limits, seed=seed, count=COUNT) for seed in SEEDS]
    for one in outcomes:
        assert sorted(one.done) == list(range(COUNT))  # none lost
        assert set(one.done.values()) == {1}  # none doubled
    return outcomes


def over_the_minimum(rule: Callable[[], Rule], outcomes: list[Outcome]) -> float:
    return statistics.median(
        one.seconds / at_least(rule(), COUNT + one.answers[500]) for one in outcomes
    )


def test_a_limit_that_is_known_costs_little_more_than_the_minimum() -> None:
    outcomes = jobs(lambda: Sliding(20), told(20))
    assert over_the_minimum(lambda: Sliding(20), outcomes) <= 1.14
    # It was 1.76, and 17. All in flight when the first refusal comes may be refused.
    assert statistics.median(one.queue.limits.statistics().closures for one in outcomes) <= 2
    assert statistics.median(one.refused for one in outcomes) <= 12
    assert all(one.most_in_any(1.0) <= 20 for one in outcomes)


def test_a_limit_that_is_told_twice_too_high_is_found_out() -> None:
    outcomes = jobs(lambda: Sliding(20), told(40))
    assert over_the_minimum(lambda: Sliding(20), outcomes) <= 1.20  # it was 1.44
    assert statistics.median(one.refused for one in outcomes) <= 8
    held_back = outcomes[0].queue.limits.statistics().held_back
    assert held_back["40 per 1 s"] == pytest.approx(20, rel=0.15)


def test_it_is_found_out_behind_a_shorter_limit_that_is_kept_to() -> None:
    outcomes = jobs(lambda: Sliding(20), lambda: in_portions(40))
    assert over_the_minimum(lambda: Sliding(20), outcomes) <= 1.30  # it was 1.58


def test_a_limit_that_is_never_refused_stays_as_it_was_told() -> None:
    for one in jobs(lambda: Fixed(20), told(15)):
        statistics_of_it = one.queue.limits.statistics()
        assert (statistics_of_it.closures, dict(statistics_of_it.held_back)) == (0, {})


async def test_nobody_starts_before_the_time_that_the_service_named() -> None:
    limiter = Limiter([Limit(2, per=1)])
    loop = asyncio.get_running_loop()
    async with limiter:
        limiter.refused(retry_after=5)
    await limiter.acquire()
    assert loop.time() >= 5


async def test_a_changed_limit_is_believed_anew() -> None:
    limit = Limit(10, per=1)
    limiter = Limiter([limit])
    permits = [await limiter.acquire() for _ in range(6)]
    limiter.refused(permit=permits[-1])
    assert dict(limiter.statistics().held_back) != {}
    limit.change(max=10)
    assert dict(limiter.statistics().held_back) == {}
    for _ in range(4):
        assert limiter.try_acquire() is not None


async def test_what_costs_more_than_is_left_of_a_limit_still_passes() -> None:
    limit = Limit(100, per=1, cost=lambda item: item)
    limiter = Limiter([limit])
    await limiter.acquire(40)
    limiter.refused(1, permit=await limiter.acquire(10))
    assert limiter.statistics().held_back[limit.name] < 60
    await asyncio.wait_for(limiter.acquire(100), 5)


async def test_keys_learn_each_for_itself() -> None:
    limiter = Limiter([Limit(10, per=1, key=lambda item: item)])
    for _ in range(2):
        permit = await limiter.acquire("busy")
    limiter.refused(permit=permit)
    for _ in range(10):
        assert limiter.try_acquire("quiet") is not None
    assert limiter.try_acquire("busy") is not None
    assert limiter.try_acquire("busy") is None  # one after the other now


async def test_a_limiter_may_be_told_not_to_learn() -> None:
    limiter = Limiter([Limit(10, per=1)])
    limiter.learns = False
    limiter.refused(permit=await limiter.acquire())
    assert dict(limiter.statistics().held_back) == {}


async def test_an_executor_learns_from_rate_limit_errors() -> None:
    async def refused() -> None:
        raise RateLimitError

    executor = RateLimitedExecutor([Limit(10, per=1)])
    async with executor:
        with pytest.raises(RateLimitError):
            await executor.execute(refused)
    assert set(executor.limits.statistics().held_back) == {"10 per 1 s"}


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "soon"])
async def test_what_is_no_time_to_wait_is_an_error(seconds: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Limiter([]).refused(retry_after=seconds)  # type: ignore[arg-type]
