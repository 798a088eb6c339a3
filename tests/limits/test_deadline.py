"""Deadlines: what can no longer be in time is not started."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limits import simulator
from penstock.limits.deadline import ServiceTime, is_hopeless

times = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("deadline_at", "now", "expected", "hopeless"),
    [
        (10, 5, 4, False),
        (10, 5, 5, False),
        (10, 5, 6, True),
        (10, 10, 0, True),
        (10, 11, None, True),
        (10, 9.9, None, False),
        (math.inf, 1e9, 1e9, False),
    ],
)
def test_an_item_is_hopeless_when_it_cannot_be_served_in_time(
    deadline_at: float, now: float, expected: float | None, hopeless: bool
) -> None:
    assert is_hopeless(deadline_at, now, expected) is hopeless


@settings(deadline=None)
@given(deadline_at=times, now=times, expected=st.floats(0, 1e6), later=st.floats(0, 1e6))
def test_hopeless_stays_hopeless(
    deadline_at: float, now: float, expected: float, later: float
) -> None:
    if is_hopeless(deadline_at, now, expected):
        assert is_hopeless(deadline_at, now + later, expected)
        assert is_hopeless(deadline_at, now, expected + later)


def test_nothing_is_expected_of_a_service_nobody_knows() -> None:
    service = ServiceTime()
    assert service.expected is None
    assert not service.is_hopeless(10, 9.99)
    assert service.is_hopeless(10, 10)


def test_what_is_expected_is_more_than_the_average_where_calls_differ() -> None:
    steady, varied = ServiceTime(), ServiceTime()
    for _ in range(100):
        steady.add(1.0)
        varied.add(0.5)
        varied.add(1.5)
    assert steady.expected == pytest.approx(1.0, abs=0.01)
    assert varied.expected is not None
    assert 1.5 < varied.expected < 2.5


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1.0])
def test_garbage_teaches_nothing(garbage: float) -> None:
    service = ServiceTime()
    service.add(garbage)
    assert service.expected is None


def test_when_all_seem_hopeless_one_is_tried_now_and_then() -> None:
    service = ServiceTime(trial=1.0)
    service.add(60.0)
    assert not service.is_hopeless(5, 0)
    assert service.is_hopeless(5.5, 0.5)
    assert not service.is_hopeless(6, 1)
    assert service.is_hopeless(2, 3), "but never past its deadline"


def test_an_answer_teaches_no_less_than_a_trial() -> None:
    service = ServiceTime(trial=1.0)
    service.add(60.0, 100.0)
    assert service.is_hopeless(105, 100.5), "the last answer is only half a second old"
    service.add(60.0, 99.0)
    assert service.is_hopeless(105, 100.9), "an older one that is told later changes nothing"
    assert not service.is_hopeless(106, 101)


def test_a_clock_that_goes_back_is_another_clock() -> None:
    service = ServiceTime()
    service.add(60.0)
    assert not service.is_hopeless(1005, 1000)
    assert not service.is_hopeless(5, 0)


# --- simulated: 10 a second are served, 15 come for two minutes, then 5 for one ----------------

PLACES, MEAN, DEADLINE = 2, 0.2, 5.0


@dataclass
class Overload:
    """Poisson arrivals into a queue; as many under way as the server serves at once."""

    seed: int
    drops: bool
    sigma: float
    arrived: int = 0
    arrived_after: int = 0  # the overload
    in_time: int = 0
    late: int = 0
    dropped: int = 0
    started_late: int = 0
    inflight: int = 0
    waiting: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.timeline = simulator.Timeline()
        self.server = simulator.Queueing(
            self.timeline, rng, PLACES, mean=MEAN, sigma=self.sigma, network=0.0
        )
        self.service = ServiceTime()
        now = 0.0
        while now < 180:
            now += rng.expovariate(15 if now < 120 else 5)
            self.timeline.at(now, self.arrive)
        self.timeline.run(300)

    def arrive(self) -> None:
        self.arrived += 1
        self.arrived_after += self.timeline.now > 120
        self.waiting.append(self.timeline.now + DEADLINE)
        self.work()

    def work(self) -> None:
        while self.waiting and self.inflight < PLACES:
            deadline_at, now = self.waiting.popleft(), self.timeline.now
            if self.drops and self.service.is_hopeless(deadline_at, now):
                self.dropped += 1
                continue
            self.started_late += now >= deadline_at
            self.inflight += 1
            self.server.call(
                lambda served, began=now, deadline_at=deadline_at: self.end(began, deadline_at)  # type: ignore[misc]
            )

    def end(self, began: float, deadline_at: float) -> None:
        self.inflight -= 1
        self.service.add(self.timeline.now - began)
        if self.timeline.now <= deadline_at:
            self.in_time += 1
        else:
            self.late += 1
        self.work()


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_dropping_what_is_hopeless_keeps_the_rest_in_time(seed: int, sigma: float) -> None:
    run = Overload(seed, drops=True, sigma=sigma)
    assert run.started_late == 0
    assert run.in_time + run.late + run.dropped == run.arrived
    # What is served in the overload, what waits at its end and still has time, and the rest.
    reachable = (120 + DEADLINE) * PLACES / MEAN + run.arrived_after
    assert run.in_time >= 0.95 * reachable
    assert run.late <= 0.05 * run.in_time


def test_without_dropping_next_to_nothing_is_in_time() -> None:
    run = Overload(1, drops=False, sigma=0.3)
    assert run.in_time < 0.2 * run.arrived
    assert run.started_late > 1000
