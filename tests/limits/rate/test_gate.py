"""The gate: closed for a while, then open in small steps."""

from __future__ import annotations

import random

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
