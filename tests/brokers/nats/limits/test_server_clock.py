"""What is known of the server's clock: how far off it may be, and that the truth lies within."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.brokers.nats.limits.leases import UNITS
from penstock.brokers.nats.limits.server_clock import ServerClock

DAY = 1_800_000_000 * UNITS


def test_before_it_is_asked_anything_may_be() -> None:
    assert ServerClock().doubt(0) == math.inf


def test_the_quicker_the_answer_the_less_the_doubt() -> None:
    clock = ServerClock()
    clock.learn(10.0, 10.5, DAY)
    assert clock.doubt(10.5) == pytest.approx(0.5, abs=1e-3)
    clock.learn(11.0, 11.01, DAY + UNITS)
    assert clock.doubt(11.01) == pytest.approx(0.01, abs=1e-3)


def test_a_slow_answer_does_not_make_it_worse() -> None:
    clock = ServerClock()
    clock.learn(10.0, 10.01, DAY)
    clock.learn(11.0, 11.9, DAY + UNITS)
    assert clock.doubt(11.9) < 0.011


def test_it_follows_a_clock_that_was_set() -> None:
    clock = ServerClock()
    clock.learn(10.0, 10.01, DAY)
    clock.learn(11.0, 11.01, DAY + 100 * UNITS)
    assert clock.at_least(11.01) <= DAY + 100 * UNITS + 0.01 * UNITS
    assert clock.at_most(11.01) >= DAY + 100 * UNITS


@settings(deadline=None)
@given(
    offset=st.floats(-1e6, 1e6),
    rate=st.floats(1 - 0.9e-4, 1 + 0.9e-4),
    asked=st.lists(
        st.tuples(st.floats(0, 60), st.floats(1e-5, 0.3), st.floats(0, 1)), min_size=1, max_size=20
    ),
    later=st.floats(0, 60),
)
def test_the_truth_lies_within_the_doubt(
    offset: float, rate: float, asked: list[tuple[float, float, float]], later: float
) -> None:
    clock = ServerClock()
    now = 0.0
    for pause, took, part in asked:
        now += pause
        stamp = DAY + round((now + took * part) * UNITS)
        clock.learn(now * rate + offset, (now + took) * rate + offset, stamp)
        now += took
    now += later
    local = now * rate + offset
    truth = DAY + now * UNITS
    assert clock.at_least(local) - 2 <= truth <= clock.at_most(local) + 2
    # When it is surely that late there, and when surely not yet later: by the clock here.
    assert clock.surely_until(local, int(truth)) <= local + 2e-6
    assert clock.surely_since(local, int(truth)) >= local - 2e-6
