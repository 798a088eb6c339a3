"""Averages."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.estimate import Ewma, LogSample

positive = st.floats(1e-3, 1e3)


def test_there_is_no_average_of_nothing() -> None:
    assert Ewma().value is None


def test_the_first_values_count_alike() -> None:
    average = Ewma(0.1)
    for value in (10, 20, 60):
        average.add(value)
    assert average.value == pytest.approx(30)


@settings(deadline=None)
@given(st.lists(positive, min_size=1, max_size=50), st.floats(0.01, 1))
def test_an_average_lies_within_what_was_added(values: list[float], weight: float) -> None:
    average = Ewma(weight)
    for value in values:
        average.add(value)
    assert average.value is not None
    assert min(values) * (1 - 1e-6) <= average.value <= max(values) * (1 + 1e-6)


def test_an_average_follows_what_has_changed_for_good() -> None:
    average = Ewma(0.125)
    for value in [1.0] * 100 + [5.0] * 50:
        average.add(value)
    assert average.value == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_does_not_spoil_it(garbage: float) -> None:
    average = Ewma()
    average.add(2)
    average.add(garbage)
    assert average.value == 2


@pytest.mark.parametrize("weight", [0, -0.1, 1.1, math.nan])
def test_the_weight_is_a_share(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be above 0 and at most 1"):
        Ewma(weight)


@settings(deadline=None)
@given(st.lists(positive, min_size=2, max_size=50))
def test_mean_and_variance_are_those_of_the_logarithms(values: list[float]) -> None:
    sample = LogSample()
    for value in values:
        sample.add(value)
    logarithms = [math.log(value) for value in values]
    assert sample.count == len(values)
    assert sample.mean == pytest.approx(statistics.fmean(logarithms), abs=1e-9)
    assert sample.variance == pytest.approx(statistics.variance(logarithms), abs=1e-6)


def test_one_that_takes_very_long_hardly_moves_the_mean() -> None:
    sample = LogSample()
    for _ in range(99):
        sample.add(1.0)
    sample.add(100.0)
    assert math.exp(sample.mean) < 1.05 < statistics.fmean([1.0] * 99 + [100.0])
