"""How fast calls start after refusals, where no limit of the program learns from them."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from helpers.tasks import now
from limits.service import Bucket, Fixed, Outcome, Rule, Sliding, at_least, do, seed_all
from penstock import Limit, Policy, RateLimitError, RetryPolicy, WorkQueue
from penstock.limits.rate.pace import Pace

SEEDS = range(3)
COUNT = 600


def bare(wait: float) -> None:
    """Names no time to wait."""


def jobs(rule: Callable[[], Rule], *limits: str, **settings: Any) -> list[Outcome]:
    """Jobs whose service refuses without a time; no item is lost, and none is done twice."""
    settings = {"workers": 40, "latency": 0.1, "at_once": 10**6, "says": bare} | settings
    outcomes = []
    for seed in SEEDS:
        one = do(
            rule(),
            lambda: [Limit.parse(each) for each in limits],
            seed=seed,
            count=COUNT,
            attempts=5,
            **settings,
        )
        assert sorted(one.done) == list(range(COUNT))
        assert set(one.done.values()) == {1}
        outcomes.append(one)
    return outcomes


def over_the_minimum(rule: Callable[[], Rule], outcomes: list[Outcome]) -> float:
    return statistics.median(
        one.seconds / at_least(rule(), COUNT + one.answers[500]) for one in outcomes
    )


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        (lambda: Sliding(50), 1.3),
        (lambda: Fixed(50), 1.45),
        (lambda: Bucket(50, 10), 1.45),
        (lambda: Sliding(300, 6), 1.6),
    ],
    ids=["sliding", "fixed", "bucket", "six seconds"],
)
def test_what_a_service_takes_is_found_out_though_nothing_is_known(
    rule: Callable[[], Rule], bound: float
) -> None:
    outcomes = jobs(rule)
    assert over_the_minimum(rule, outcomes) <= bound
    calls = statistics.median(sum(one.answers.values()) for one in outcomes)
    assert calls <= 1.1 * COUNT  # it was 2.9 times as many, and a fifth of the items was lost


@pytest.mark.parametrize(("workers", "latency"), [(2, 0.02), (100, 0.4)])
def test_and_with_few_workers_or_many(workers: int, latency: float) -> None:
    outcomes = jobs(lambda: Sliding(50), workers=workers, latency=latency)
    assert over_the_minimum(lambda: Sliding(50), outcomes) <= 1.4
    assert max(sum(one.answers.values()) for one in outcomes) <= 1.2 * COUNT


def test_a_limit_told_twice_too_high_is_found_out_though_no_time_is_named() -> None:
    outcomes = jobs(lambda: Sliding(50), "100/s")
    assert over_the_minimum(lambda: Sliding(50), outcomes) <= 1.30
    assert max(one.refused for one in outcomes) <= 0.05 * COUNT


class Users:
    """A service of which one user may make a call a second, and the others any number."""

    def __init__(self) -> None:
        self.rule = Sliding(1)
        self.done: dict[str, list[float]] = {"greedy": [], "others": []}
        self.calls = 0

    async def __call__(self, item: tuple[str, int]) -> None:
        self.calls += 1
        await asyncio.sleep(0.01)
        if item[0] == "greedy" and self.rule.start(now()) > 0:
            raise RateLimitError
        await asyncio.sleep(0.1)
        self.done[item[0]].append(now())

    async def do(self, **settings: Any) -> None:
        names = ["greedy"] * 30 + ["others"] * 270
        random.Random(1).shuffle(names)
        policy = Policy(retry=RetryPolicy(100, budget=None), **settings)
        queue = WorkQueue[tuple[str, int]](concurrency_limit=10, policy=policy)
        await queue.batch_process(zip(names, range(300), strict=True), self)
        assert [len(times) for times in self.done.values()] == [30, 270]


async def test_one_users_own_refusals_do_not_hold_up_the_others_for_long() -> None:
    """Without keys nobody knows whose they are: but they do not end when calls are fewer."""
    took = []
    for seed in range(5):
        seed_all(seed)
        users, began = Users(), now()
        await users.do()
        took.append(max(users.done["others"]) - began)
        assert users.calls < 500
    # Without refusals it were 3 s. If they went on closing the gate, it were 130.
    assert statistics.median(took) < 60


async def test_and_not_at_all_where_each_user_has_a_gate() -> None:
    seed_all(1)
    users = Users()
    await users.do(gate_key=lambda item: item[0])
    assert max(users.done["others"]) < 8
    assert max(users.done["greedy"]) < 90  # 30 of them, one a second
    assert users.calls < 450


def test_a_pace_that_is_not_refused_ends_whatever_time_passes() -> None:
    pace = Pace()
    pace.closed(1.0, 0.5, succeeded=False)
    pace.opened(2.0, 2.0)
    assert not pace.is_over(3)
    for _ in range(50):
        pace.passed(2.5)
    pace.closed(2.6, 2.55, succeeded=True)
    pace.opened(4.0, 4.0)
    assert not pace.is_over(13)
    assert pace.rate(14) == pytest.approx(0.95 * 50)
    assert pace.is_over(10.0**9)
    assert pace.rate(10.0**9) == pytest.approx(2 * 0.95 * 50)
