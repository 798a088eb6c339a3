"""The gate: closed for a while, then open in small steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.rate.gate import Gate


def passing(gate: Gate, now: float, count: int) -> list[float]:
    """When each of ``count`` calls passes that wait at ``now``."""
    times = []
    for waiting in range(count - 1, -1, -1):
        now = max(now, gate.opens_at)
        times.append(now)
        gate.passed(now, waiting)
    return times


def test_a_new_gate_is_open() -> None:
    assert passing(Gate(), 7, 3) == [7, 7, 7]


def test_closing_for_no_time_is_no_closing() -> None:
    gate = Gate()
    gate.close(5, 0)
    assert gate.closures == 0
    assert passing(gate, 5, 1) == [5]


@settings(deadline=None)
@given(
    seconds=st.floats(0.001, 1000),
    count=st.integers(1, 100),
    seed=st.integers(0, 1000),
    begin=st.floats(0, 1e5),
)
def test_who_waited_passes_within_the_spread(
    seconds: float, count: int, seed: int, begin: float
) -> None:
    gate = Gate(random.Random(seed))
    gate.close(begin, seconds, count)
    times = passing(gate, begin, count + 1)
    assert times[0] >= begin + seconds
    assert times[-1] <= begin + seconds + min(seconds / 10, 1) + 1e-6
    assert times == sorted(times)


def test_who_waited_is_spread_and_not_in_step() -> None:
    gate = Gate(random.Random(1))
    gate.close(0, 5, 100)
    times = passing(gate, 0, 100)
    assert len(set(times)) > 60
    assert max(times) - min(times) > 0.25


def test_the_later_of_two_closings_wins_and_both_are_one_closure() -> None:
    gate = Gate()
    gate.close(0, 10)
    gate.close(1, 2)
    assert gate.closed_for(1) == 9
    gate.close(2, 20)
    assert gate.closed_for(2) == 20
    assert gate.closures == 1
    gate.close(30, 1)
    assert gate.closures == 2
    assert gate.closed_for(31) == 0


# -- refusals without a time ------------------------------------------------------------------


class Item:
    """What a call was for."""

    closing = 0


def gate_of(draw: float = 0.0) -> Gate:
    """A gate that draws always the same."""
    rng = random.Random()
    rng.random = lambda: draw  # type: ignore[method-assign]
    return Gate(rng)


def open_and_pass(gate: Gate) -> float:
    """Let the first call pass when the gate opens; return when that was."""
    when = gate.opens_at
    gate.passed(when, 5)
    return when


def test_a_refusal_without_a_time_closes_it_for_a_second_and_some_jitter() -> None:
    for draw in (0.0, 0.5, 1.0):
        gate = gate_of(draw)
        assert gate.refused(10, 9.9, 0)
        assert gate.closed_for(10) == 1 + draw / 4


def test_the_next_ones_close_it_for_longer_up_to_a_minute() -> None:
    gate, now, pauses = gate_of(1.0), 0.0, []
    for _ in range(9):
        gate.refused(now + 0.1, now, 0, item=Item())
        pauses.append(gate.closed_for(now + 0.1))
        now = open_and_pass(gate)
    assert pauses == pytest.approx([1.25, 2.5, 5, 10, 20, 40, 60, 60, 60])


def test_what_had_started_before_it_was_closed_makes_no_closing_longer() -> None:
    gate = gate_of()
    gate.refused(1, 0.5, 0)
    for at in (0.6, 0.7, 0.8):
        assert gate.refused(1.1, at, 0)
    assert gate.closed_for(1.1) == pytest.approx(0.9)
    first = open_and_pass(gate)
    gate.refused(first + 0.1, 0.9, 0)  # it took long to be refused
    assert gate.closed_for(first + 0.1) == 0
    assert gate.closures == 1


def test_nor_does_the_same_item() -> None:
    gate, item, now = gate_of(), Item(), 0.0
    for _ in range(4):
        gate.refused(now, now, 0, item=item)
        assert gate.closed_for(now) == pytest.approx(1)
        now = open_and_pass(gate)


def test_a_success_begins_anew() -> None:
    gate, now = gate_of(), 0.0
    for _ in range(4):
        gate.refused(now, now, 0)
        now = open_and_pass(gate)
    gate.succeeded(now + 0.1, now)
    gate.refused(now + 0.5, now + 0.2, 0)
    assert gate.closed_for(now + 0.5) == pytest.approx(1)


def test_a_success_of_what_had_started_before_it_was_closed_does_not() -> None:
    gate = gate_of()
    gate.refused(1, 0.5, 0)
    gate.succeeded(1.5, 0.6)
    now = open_and_pass(gate)
    gate.succeeded(now, 0.7)
    gate.refused(now, now, 0)
    assert gate.closed_for(now) == pytest.approx(2)


def test_one_call_goes_first_and_the_others_wait_for_what_becomes_of_it() -> None:
    gate = gate_of()
    gate.refused(1, 0.5, 0)  # a refusal takes half a second
    first = open_and_pass(gate)
    assert gate.opens_at == first + 1
    assert gate.succeeded(first + 0.2, first)
    assert gate.opens_at == first + 0.2


@pytest.mark.parametrize(("latency", "wait"), [(0.001, 0.05), (1.0, 2.0), (60.0, 5.0)])
def test_and_not_for_long_if_it_takes_longer_than_a_refusal(latency: float, wait: float) -> None:
    gate = gate_of()
    gate.refused(100, 100 - latency, 0)
    first = open_and_pass(gate)
    assert gate.opens_at == pytest.approx(first + wait)
    gate.passed(gate.opens_at, 5)
    # What was not refused for so long has passed: the next refusal begins anew.
    gate.refused(gate.opens_at + 1, gate.opens_at, 0)
    assert gate.closed_for(gate.opens_at) <= 1.001


def test_an_item_that_is_refused_again_while_others_succeed_waits_alone() -> None:
    gate = gate_of()
    gate.refused(1, 0.5, 0)
    now = open_and_pass(gate)
    assert gate.refused(now, now, 0, is_again=True), "nothing succeeded yet"
    now = open_and_pass(gate)
    for _ in range(2):
        gate.succeeded(now + 0.1, now)
    for _ in range(2):
        assert not gate.refused(now + 0.2, now, 0, is_again=True)
    assert gate.closed_for(now + 0.2) == 0
    assert gate.refused(now + 0.2, now, 0, is_again=True), "more are refused than succeed"


def test_a_time_to_wait_is_kept_to_whatever_succeeds() -> None:
    gate = gate_of()
    gate.refused(1, 0.5, 0)
    now = open_and_pass(gate)
    gate.succeeded(now, now)
    assert gate.refused(now, now, 30, is_again=True)
    assert gate.closed_for(now) == 30
    gate.refused(now + 1, now, 40)
    assert gate.closed_for(now + 1) == 40


def test_it_says_for_how_long_nothing_passes() -> None:
    gate = gate_of()
    gate.refused(0, 0, 0)
    now = open_and_pass(gate)
    gate.refused(now, now, 0)
    assert gate.stands_still_for == pytest.approx(3)
    now = open_and_pass(gate)
    assert gate.stands_still_for > 0
    gate.succeeded(now, now)
    assert gate.stands_still_for == 0
    assert gate.stood_for == pytest.approx(now)


def test_nobody_goes_first_when_the_refusal_was_long_ago() -> None:
    gate = gate_of()
    gate.refused(0, 0, 0, started=(10, 1.0))
    gate.passed(60, 5)
    assert gate.opens_at <= 60
    assert not gate.is_active


def test_after_a_while_it_is_as_if_it_had_never_been_closed() -> None:
    gate = gate_of()
    gate.refused(0, 0, 0)
    now = open_and_pass(gate)
    assert gate.is_active
    assert not gate.is_idle(now + 1)
    gate.passed(now + 1, 0)
    assert gate.is_active
    gate.passed(now + 60, 0)
    assert not gate.is_active
    assert gate.is_idle(now + 60)
    assert gate.opens_at <= now + 60
