"""The sliding log: now in, wait out."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.rate.exact import exact
from penstock.limits.rate.sliding_log import SlidingLog


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


@settings(deadline=None)
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


@settings(deadline=None)
@given(maximum=st.integers(1, 5), period=st.floats(0.001, 1000), count=st.integers(1, 40))
def test_whoever_never_pauses_gets_the_whole_rate(maximum: int, period: float, count: int) -> None:
    log = SlidingLog(maximum, period)
    now = 0.0
    for _ in range(count):
        now += log.wait_time(now)
        log.record(now)
    assert now == pytest.approx((count - 1) // maximum * period)


costs = st.one_of(st.integers(1, 5), st.floats(0.01, 5), st.fractions(0, 5).filter(bool))


@settings(deadline=None)
@given(
    maximum=st.one_of(st.integers(5, 12), st.floats(5, 12)),
    period=st.floats(0.001, 1000),
    begin=st.floats(0, 1e6),
    starts=st.lists(st.tuples(st.floats(0, 1), costs), max_size=60),
)
def test_no_window_costs_more_than_the_maximum_to_the_last_bit(
    maximum: float, period: float, begin: float, starts: list[tuple[float, Any]]
) -> None:
    log = SlidingLog(maximum, period)
    now, done = begin, []
    for pause, cost in starts:
        now = max(now + pause * period, log.free_at(now + pause * period, exact(cost)))
        log.record(now, cost)
        done.append((now, exact(cost)))
        within = [c for at, c in done if Fraction(now) - Fraction(at) < Fraction(period)]
        assert sum(within) <= maximum
        assert len(log) <= maximum


@settings(deadline=None)
@given(maximum=st.integers(1, 5), period=st.floats(0.001, 1000), begin=st.floats(0, 1e6))
def test_the_wait_is_not_a_float_longer_than_it_must_be(
    maximum: int, period: float, begin: float
) -> None:
    log = SlidingLog(maximum, period)
    for _ in range(maximum):
        log.record(begin)
    free_at = log.free_at(begin)
    assert Fraction(free_at) - Fraction(begin) >= Fraction(period)
    assert Fraction(math.nextafter(free_at, 0)) - Fraction(begin) < Fraction(period)


def test_a_large_cost_waits_until_enough_has_left() -> None:
    log = SlidingLog(10, 10)
    for at in range(5):
        log.record(at, 2)
    assert [log.free_at(5, cost) for cost in (1, 2, 3, 10)] == [10, 10, 11, 14]
    assert log.free_at(5, 11) == math.inf


def test_what_is_settled_gives_back_or_charges_the_difference_in_place() -> None:
    log = SlidingLog(100, 10)
    record = log.record(0, 80)
    assert log.free_at(1, 50) == 10
    log.settle(record, 30)
    assert log.free_at(1, 50) <= 1
    assert log.free_at(1, 71) == 10
    log.settle(record, 95)
    assert log.free_at(1, 6) == 10, "it counts as of its start"
    log.settle(record, 250)
    assert log.free_at(1, 1) == 10, "a charge may go beyond the maximum"
    assert log.free_at(10, 100) <= 10
    log.settle(record, 0)
    assert log.free_at(10, 100) <= 10, "and what has left the window does not come back"
    assert len(log) == 0


def test_fractions_add_up_without_drift() -> None:
    log = SlidingLog(1, 10)
    for at in range(1000):
        record = log.record(at / 1000, 0.1)
        log.settle(record, 0.3)
        log.settle(record, 0)
    assert log.free_at(1, 1) <= 1
    assert log.is_idle(1)


def test_what_is_reserved_counts_until_confirmed_and_from_then_for_a_period() -> None:
    log = SlidingLog(2, 10)
    one, other = log.reserve(), log.reserve()
    assert log.free_at(1000) == math.inf
    log.cancel(other)
    log.confirm(one, 2000)
    assert log.free_at(2000) <= 2000
    assert log.free_at(2000, 2) == 2010
    log.cancel(other)
    assert log.free_at(2000, 2) == 2010, "given back once"


def test_a_lower_maximum_counts_what_has_started() -> None:
    log = SlidingLog(4, 10)
    for at in range(4):
        log.record(at)
    log.change(maximum=2)
    assert log.free_at(4) == 12, "three of them have to leave"
    log.change(maximum=6)
    assert log.free_at(4, 2) <= 4
    log.change(period=2)
    assert log.free_at(4, 5) <= 4


def test_a_longer_period_takes_what_was_forgotten_for_as_much_as_there_may_have_been() -> None:
    log = SlidingLog(2, 1)
    for at in (0, 0, 1, 2):
        log.record(at)
    log.change(period=10)
    assert log.free_at(3) == 11, "two at 0 are forgotten, and one of 1"
    log.change(period=1)
    assert log.free_at(3, 2) <= 3


def test_and_lets_nobody_take_before_that_has_left() -> None:
    log = SlidingLog(3, 1)
    log.record(0)
    assert log.free_at(5) <= 5
    log.record(5)
    log.change(period=10)
    assert log.take(9.9, 1) is None, "there may have been three at 0"
    assert log.take(10, 1) is not None


def test_a_longer_period_of_a_log_that_forgot_nothing_is_exact() -> None:
    log = SlidingLog(3, 10)
    log.record(0)
    log.record(5)
    log.change(period=20)
    assert log.free_at(11, 1) <= 11
    assert log.free_at(11, 2) == 20


def test_a_clock_that_goes_back_is_another_clock() -> None:
    log = SlidingLog(1, 10)
    record = log.record(1000)
    assert log.free_at(5) <= 5
    log.record(5)
    log.settle(record, 0)
    assert log.free_at(6) == 15, "the record of the other clock is gone"


def test_a_start_that_is_confirmed_by_another_clock_leaves_the_window_by_that_one() -> None:
    log = SlidingLog(2, 10)
    log.record(100)
    reserved = log.reserve()
    log.confirm(reserved, 5)
    assert (log.used(14), log.used(15)) == (1, 0)
    assert log.room(15) == 2


def test_and_so_it_is_for_who_takes_what_is_free() -> None:
    log = SlidingLog(2, 10)
    log.record(1000)
    assert log.take(5, 1) is not None
    assert log.take(6, 1) is not None, "what was at 1000 does not count here"
    assert log.take(14, 1) is None
    assert log.take(15, 1) is not None
    assert log.take(15.5, 1) is None
    assert log.take(16, 1) is not None


def test_taking_keeps_to_the_maximum_wherever_the_window_begins() -> None:
    log = SlidingLog(3, 10)
    taken = [at for at in range(60) if log.take(at, 1) is not None]
    assert taken == [at for at in range(60) if at % 10 < 3]
    log = SlidingLog(3, 10)
    costly = [at for at in range(60) if log.take(at, 2) is not None]
    assert costly == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("maximum", [1, 2, 3, 10, 100])
def test_costs_below_one_do_not_make_the_log_longer_than_the_maximum(maximum: int) -> None:
    log = SlidingLog(maximum, 10)
    done: list[float] = []
    now = 0.0
    while len(done) < 2000:
        now = max(now + 0.001, log.free_at(now + 0.001, Fraction(1, 16)))
        log.record(now, Fraction(1, 16))
        done.append(now)
        assert len(log) <= maximum
    for first, too_soon in zip(done, done[16 * maximum :], strict=False):
        assert too_soon - first >= 10 - 1e-9
    if maximum >= 10:
        allowed = now / 10 * 16 * maximum
        assert len(done) >= allowed * 0.7, "and merging does not cost much"


@pytest.mark.parametrize("began", [0.0, 1e6])
@pytest.mark.parametrize(("rate", "reached"), [(1.0, 0.8), (0.7, 0.99), (0.5, 0.99)])
def test_merging_costs_little_where_starts_come_evenly(
    rate: float, reached: float, began: float
) -> None:
    log = SlidingLog(10, 10)
    pause = 1 / 16 / rate
    now = began
    for _ in range(1000):
        now = max(now + pause, log.free_at(now + pause, Fraction(1, 16)))
        log.record(now, Fraction(1, 16))
        assert len(log) <= 10
    assert (now - began) * reached <= 1000 * pause


def test_records_that_were_merged_can_be_settled() -> None:
    log = SlidingLog(10, 10)
    records = [log.record(at / 100, 0.25) for at in range(40)]
    assert len(log) <= 10
    assert log.free_at(1, 1) > 1
    for record in records:
        log.settle(record, 0)
    assert log.is_idle(1)
    for record in records:
        log.settle(record, 1)
    assert len(log) <= 10
    assert log.free_at(1, 1) > 10, "they count again, as of their start"
    assert log.is_idle(11)


def test_what_costs_something_after_all_counts_in_its_place() -> None:
    log = SlidingLog(4, 10)
    records = [log.record(at) for at in range(3)]
    log.settle(records[2], 0)
    log.record(3)
    log.settle(records[2], 1)
    assert [log.free_at(4, cost) for cost in (1, 2, 3, 4)] == [10, 11, 12, 13]


def test_starts_that_are_taken_back_do_not_pile_up() -> None:
    log = SlidingLog(5, 10)
    kept = log.record(0)
    for at in range(1000):
        taken_back, stays = log.record(1 + at / 1000), log.record(1 + at / 1000)
        log.settle(taken_back, 0)
        log.settle(stays, 0.001)
        assert len(log) <= 5
    log.settle(kept, 0)
    assert log.free_at(2, 3) <= 2
