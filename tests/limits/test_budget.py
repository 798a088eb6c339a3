"""The retry budget."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CircuitBreakerOpenError, RateLimitError
from penstock.limits.budget import RetryBudget

ERROR = OSError()


def test_a_retry_costs_more_after_a_failure_than_after_a_throttle() -> None:
    budget = RetryBudget()
    assert budget.take(ERROR)
    assert budget.tokens == 486
    assert budget.take(RateLimitError())
    assert budget.tokens == 481


def test_a_call_that_was_not_made_costs_nothing() -> None:
    budget = RetryBudget(tokens=14)
    assert budget.take(ERROR)
    assert budget.take(CircuitBreakerOpenError("open"))


def test_it_pays_for_no_more_than_it_has() -> None:
    budget = RetryBudget()
    assert sum(budget.take(ERROR) for _ in range(100)) == 35


def test_a_retry_that_succeeds_gives_back_what_it_cost_and_a_first_attempt_one() -> None:
    budget = RetryBudget(tokens=100)
    budget.take(ERROR)
    budget.succeeded(ERROR)
    assert budget.tokens == 100
    budget.take(RateLimitError())
    budget.succeeded()
    assert budget.tokens == 96


@settings(deadline=None)
@given(st.lists(st.sampled_from(["take", "first", "retried"]), max_size=300))
def test_there_are_never_fewer_than_none_nor_more_than_at_first(steps: list[str]) -> None:
    budget = RetryBudget(tokens=50)
    for step in steps:
        if step == "take":
            budget.take(ERROR)
        else:
            budget.succeeded(ERROR if step == "retried" else None)
        assert 0 <= budget.tokens <= 50


def test_threads_do_not_spend_the_same_token_twice() -> None:
    budget = RetryBudget(tokens=10_000, cost=1)
    paid = []

    def spend() -> None:
        paid.append(sum(budget.take(ERROR) for _ in range(4000)))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(paid) == 10_000


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"tokens": -1}, ValueError, "tokens must be zero or more"),
        ({"tokens": math.inf}, ValueError, "tokens must be zero or more and finite"),
        ({"tokens": 10}, ValueError, "cost must be above 0 and at most tokens=10"),
        ({"cost": 0}, ValueError, "cost must be above 0"),
        ({"throttle_cost": math.nan}, ValueError, "throttle_cost must be zero or more"),
        ({"refund": "1"}, TypeError, "refund must be a number"),
    ],
)
def test_settings_that_make_no_sense(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RetryBudget(**kwargs)


def test_a_retry_gives_back_its_own_price_whatever_others_cost() -> None:
    budget = RetryBudget(tokens=100, cost=10, throttle_cost=4)
    error = RateLimitError()
    assert budget.take(error)
    assert budget.take(ConnectionError())
    assert budget.tokens == 86
    budget.succeeded(error)
    assert budget.tokens == 90
    budget.succeeded(ConnectionError())
    assert budget.tokens == 100
