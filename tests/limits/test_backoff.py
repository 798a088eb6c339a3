"""Backoff: how long, and never earlier than the service said."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CircuitBreakerOpenError, RateLimitError
from penstock.limits.backoff import Backoff, not_before

ERROR = OSError()


def waits(
    backoff: Backoff, attempt: int, error: Exception = ERROR, count: int = 500
) -> list[float]:
    rng = random.Random(attempt)
    return [backoff.wait(attempt, error, rng) for _ in range(count)]


@pytest.mark.parametrize(("attempt", "longest"), [(1, 0.05), (2, 0.1), (5, 0.8), (20, 20.0)])
def test_with_full_jitter_anything_up_to_the_exponential_is_as_likely(
    attempt: int, longest: float
) -> None:
    found = waits(Backoff(), attempt)
    assert 0 <= min(found) < 0.05 * longest
    assert 0.95 * longest < max(found) <= longest
    assert sum(found) / len(found) == pytest.approx(longest / 2, rel=0.1)


def test_after_too_many_requests_it_begins_at_a_second() -> None:
    found = waits(Backoff(), 1, RateLimitError())
    assert 0.95 < max(found) <= 1


@pytest.mark.parametrize(
    ("backoff", "longest"),
    [(Backoff(max=0.5), 0.5), (Backoff(base=3), 3), (Backoff(throttle_base=0.2), 0.2)],
)
def test_or_where_that_fits(backoff: Backoff, longest: float) -> None:
    assert max(waits(backoff, 1, RateLimitError())) == pytest.approx(longest, rel=0.05)


def test_without_jitter_it_is_the_exponential() -> None:
    backoff = Backoff(base=1, factor=3, max=10, jitter="none")
    assert [backoff.wait(attempt, ERROR, random.Random()) for attempt in (1, 2, 3, 4)] == [
        1,
        3,
        9,
        10,
    ]


@settings(deadline=None)
@given(attempt=st.integers(1, 10**6), factor=st.floats(1, 1e6))
def test_it_is_never_more_than_the_maximum(attempt: int, factor: float) -> None:
    assert 0 <= Backoff(factor=factor).wait(attempt, ERROR, random.Random(1)) <= 20


@settings(deadline=None)
@given(wait=st.floats(0, 100), asked=st.floats(0, 100))
def test_it_is_never_earlier_than_the_service_said_and_not_much_later(
    wait: float, asked: float
) -> None:
    for error in (
        RateLimitError(retry_after=asked),
        CircuitBreakerOpenError("", retry_after=asked),
    ):
        found = not_before(wait, error, random.Random(1))
        assert max(wait, asked) <= found <= max(wait, 1.1 * asked)


def test_what_waits_for_the_same_moment_is_spread_a_little() -> None:
    rng = random.Random(1)
    error = RateLimitError(retry_after=10)
    found = {not_before(0, error, rng) for _ in range(10)}
    assert len(found) == 10


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"base": -1}, ValueError, "base must be zero or more seconds"),
        ({"base": math.nan}, ValueError, "base must be zero or more seconds"),
        ({"max": math.inf}, ValueError, "max must be finite"),
        ({"base": 30}, ValueError, "base must not be above max=20.0, got 30"),
        ({"throttle_base": 30}, ValueError, "throttle_base must not be above max=20.0, got 30"),
        ({"factor": 0.5}, ValueError, "factor must be at least 1"),
        ({"factor": math.nan}, ValueError, "factor must be at least 1"),
        ({"factor": math.inf}, ValueError, "factor must be at least 1 and finite"),
        ({"factor": "2"}, TypeError, "factor must be a number"),
        ({"jitter": "half"}, ValueError, 'jitter must be "full" or "none"'),
    ],
)
def test_settings_that_make_no_sense(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Backoff(**kwargs)
