"""The sliding log: now in, wait out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.limits.sliding_log import SlidingLog


def test_a_new_log_lets_as_many_through_at_once_as_it_may() -> None:
    log = SlidingLog(3, 10)
    for _ in range(3):
        assert log.wait_time(100) == 0
        log.record(100)
    assert log.wait_time(100) == 10


def test_the_wait_ends_when_the_oldest_start_leaves_the_window() -> None:
    log = SlidingLog(2, 10)
    log.record(0)
    log.record(4)
    assert [log.wait_time(now) for now in (4, 9, 9.5, 10, 11)] == [6, 1, 0.5, 0, 0]
    log.record(10)
    assert log.wait_time(10) == 4, "now the start at 4 is the oldest"


def test_asking_changes_nothing() -> None:
    log = SlidingLog(1, 10)
    for _ in range(5):
        assert log.wait_time(0) == 0
    log.record(0)
    for _ in range(5):
        assert log.wait_time(3) == 7


def test_a_long_pause_saves_nothing_up() -> None:
    log = SlidingLog(2, 1)
    log.record(0)
    log.record(0)
    for _ in range(2):
        assert log.wait_time(1000) == 0
        log.record(1000)
    assert log.wait_time(1000) == 1


@given(
    maximum=st.integers(1, 5),
    period=st.floats(0.001, 1000),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 2000)), max_size=60),
)
def test_no_window_wherever_it_begins_holds_more_than_the_maximum(
    maximum: int, period: float, pauses: list[float]
) -> None:
    log = SlidingLog(maximum, period)
    now = 0.0
    starts = []
    for pause in pauses:
        now += pause
        now += log.wait_time(now)
        while (wait := log.wait_time(now)) > 0:  # as rounding may have it
            now += wait
        log.record(now)
        starts.append(now)
    for first, too_soon in zip(starts, starts[maximum:], strict=False):
        assert too_soon - first >= period * (1 - 1e-9)


@given(maximum=st.integers(1, 5), period=st.floats(0.001, 1000), count=st.integers(1, 40))
def test_whoever_never_pauses_gets_the_whole_rate(maximum: int, period: float, count: int) -> None:
    log = SlidingLog(maximum, period)
    now = 0.0
    for _ in range(count):
        now += log.wait_time(now)
        log.record(now)
    assert now == pytest.approx((count - 1) // maximum * period)
