"""Adaptive concurrency: what it does on each sign, and how well it does against simulated servers.

The figures in the simulations hold for each of the seeds, not on average.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limits import simulator
from penstock.limits.adaptive import AdaptiveConcurrency


class Service:
    """Answers calls one by one, in ``latency`` seconds, with the limit always used."""

    def __init__(self, control: AdaptiveConcurrency) -> None:
        self.control = control
        self.now = 0.0

    def serves(self, count: int, latency: float, inflight: int | None = None) -> None:
        for _ in range(count):
            limit = self.control.limit
            self.now += latency / limit
            self.control.succeeded(self.now, latency, limit if inflight is None else inflight)

    def serves_until_cut(self, latency: float) -> int:
        """How many it took."""
        cuts = self.control.cuts
        for count in range(1, 10_000):
            self.serves(1, latency)
            if self.control.cuts > cuts:
                return count
        raise AssertionError("never cut")

    def rejects(self, count: int = 1, inflight: int | None = None) -> None:
        for _ in range(count):
            self.control.rejected(self.now, self.control.limit if inflight is None else inflight)


def settled(limit: int = 20, maximum: int = 1000) -> Service:
    """A service with latency 0.1, and a control that no longer doubles, at about ``limit``."""
    service = Service(AdaptiveConcurrency(1, maximum, start=limit))
    service.serves(2 * limit + 16, 0.1, inflight=1)
    return service


def test_it_begins_with_the_least() -> None:
    assert AdaptiveConcurrency(3, 10).limit == 3
    assert AdaptiveConcurrency(3, 10, start=7).limit == 7


def test_it_doubles_until_the_first_sign_of_too_much() -> None:
    service = Service(AdaptiveConcurrency(1, 64))
    seen = []
    for _ in range(500):
        service.serves(1, 0.1)
        seen.append(service.control.limit)
    assert sorted(set(seen)) == [1, 2, 4, 8, 16, 32, 64]


def test_a_rejection_cuts_it_to_seven_tenths_and_growth_is_slow_from_then_on() -> None:
    service = settled(20)
    service.rejects()
    assert service.control.limit == 14
    before = service.control.limit
    service.serves(45, 0.1)
    assert before < service.control.limit < 20


def test_a_burst_of_rejections_is_one_cut() -> None:
    service = settled(20)
    for inflight in range(20, 0, -1):
        service.rejects(inflight=inflight)
    assert service.control.cuts == 1


def test_a_burst_of_rejections_at_the_very_first_is_one_cut() -> None:
    service = Service(AdaptiveConcurrency(1, 100, start=20))
    for inflight in range(20, 0, -1):
        service.rejects(inflight=inflight)
    assert service.control.cuts == 1
    service.serves(1, 0.1)
    assert service.control.limit == 14


def test_after_a_rejection_it_does_not_allow_more_than_the_service_held() -> None:
    service = settled(20)
    service.rejects(inflight=8)
    assert service.control.limit == 7
    service.now += 1  # much later than a round trip
    service.serves(1, 0.1)
    assert service.control.limit == 14


def test_a_failure_ends_that_too() -> None:
    service = settled(20)
    service.rejects(inflight=8)
    service.control.failed(service.now + 1, 0.1, 3)
    assert service.control.limit == 14


def test_a_limit_at_which_it_was_rejected_is_not_tried_again_soon() -> None:
    service = settled(20)
    service.rejects()
    for _ in range(190):
        service.serves(1, 0.1)
        assert service.control.limit < 20
    service.serves(200, 0.1)
    assert service.control.limit >= 20


def test_a_limit_at_which_calls_were_served_before_is_back_after_one_good_round() -> None:
    service = settled(20, maximum=20)
    service.serves(100, 0.1)
    service.rejects()
    assert service.control.limit == 14
    service.serves(45, 0.1)
    assert service.control.limit == 20


def test_nor_does_that_end_the_doubling() -> None:
    service = Service(AdaptiveConcurrency(1, 64, start=8))
    service.serves(10, 0.1)
    service.rejects()
    assert service.control.limit == 6
    service.serves(60, 0.1)
    assert service.control.limit == 22


def test_if_it_is_rejected_once_more_before_that_the_service_takes_fewer() -> None:
    service = settled(20, maximum=20)
    service.serves(100, 0.1)
    service.rejects()
    service.serves(45, 0.1)
    service.rejects()
    for _ in range(190):
        service.serves(1, 0.1)
        assert service.control.limit < 20


def test_calls_that_were_only_sent_were_not_served() -> None:
    service = settled(20, maximum=20)
    service.serves(10, 0.1)
    service.rejects()
    service.serves(45, 0.1)
    assert 14 < service.control.limit < 20


def test_latency_well_above_the_baseline_cuts_it() -> None:
    service = settled(20, maximum=20)
    assert service.control.baseline == pytest.approx(0.1)
    assert service.serves_until_cut(0.3) < 100
    assert service.control.limit == 14


def test_there_is_at_most_one_cut_per_round_trip_for_latency() -> None:
    service = settled(20)
    service.serves_until_cut(0.3)
    first = service.now
    service.serves_until_cut(0.3)
    assert service.now - first >= 0.3


def test_latency_a_little_above_the_baseline_does_not() -> None:
    service = settled(20)
    service.serves(500, 0.12)
    assert service.control.cuts == 0


def test_calls_that_time_out_count_as_slow() -> None:
    service = settled(20)
    for _ in range(100):
        service.now += 0.1
        service.control.failed(service.now, 1.0, 20)
    assert service.control.cuts > 0


def test_calls_that_fail_fast_change_nothing() -> None:
    service = settled(20)
    for _ in range(100):
        service.now += 0.001
        service.control.failed(service.now, 0.001, 20)
    assert (service.control.limit, service.control.baseline) == (20, pytest.approx(0.1))


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    service = Service(AdaptiveConcurrency(4, 100))
    service.serves(500, 0.1, inflight=2)
    assert service.control.limit == 4


def test_a_service_that_became_slower_for_good_is_accepted_and_the_cuts_undone() -> None:
    service = settled(20, maximum=20)
    service.serves(1000, 0.4)
    assert service.control.baseline == pytest.approx(0.4, rel=0.05)
    assert service.control.limit == 20


def test_a_service_that_became_faster_is_noticed() -> None:
    service = settled(20, maximum=20)
    service.serves(500, 0.02)
    assert service.control.baseline == pytest.approx(0.02, rel=0.2)


def test_at_the_least_there_is_nothing_to_cut() -> None:
    service = settled(1, maximum=1)
    service.serves(500, 5.0)
    service.rejects(5)
    assert service.control.limit == 1
    assert service.control.baseline == pytest.approx(5)


@pytest.mark.parametrize("latency", [math.nan, math.inf, -1.0])
def test_a_latency_that_is_none_teaches_nothing(latency: float) -> None:
    service = settled(20)
    for _ in range(100):
        service.control.succeeded(service.now, latency, 20)
    assert service.control.baseline == pytest.approx(0.1)


def test_calls_that_take_no_time_at_all_are_all_the_same() -> None:
    service = Service(AdaptiveConcurrency(1, 8))
    for _ in range(300):
        service.control.succeeded(service.now, 0.0, service.control.limit)
        service.control.succeeded(service.now, 0.0005, service.control.limit)
    assert (service.control.limit, service.control.cuts) == (8, 0)


def test_a_clock_that_goes_back_is_another_clock() -> None:
    service = settled(20)
    service.rejects()
    service.now = -1000.0
    service.serves(100, 0.1)
    assert service.control.limit > 14
    service.serves_until_cut(0.3)


def test_and_a_rejection_under_it_is_heeded() -> None:
    service = settled(20)
    service.rejects()
    service.now = -1000.0
    service.serves(100, 0.1)
    limit = service.control.limit
    service.rejects()
    assert service.control.limit < limit
    assert service.control.cuts == 2


def test_unless_told_it_lies_between_one_and_a_thousand() -> None:
    control = AdaptiveConcurrency()
    assert (control.min, control.max, control.limit) == (1, 1000, 1)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"min": 0}, ValueError, "min must be at least 1, got 0"),
        ({"max": -1}, ValueError, "max must be at least 1, got -1"),
        ({"min": 5, "max": 4}, ValueError, "min must not be above max, got min=5 and max=4"),
        ({"min": 2, "max": 4, "start": 5}, ValueError, "start must lie between min=2 and max=4"),
        ({"start": 0}, ValueError, "start must be at least 1"),
        ({"min": 1.5}, TypeError, "min must be an int, got 1.5"),
        ({"max": True}, TypeError, "max must be an int, got True"),
    ],
)
def test_settings_that_make_no_sense(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        AdaptiveConcurrency(**kwargs)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    least=st.integers(1, 20),
    spread=st.integers(0, 50),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["succeeded", "failed", "rejected"]),
            st.floats(-1, 10),
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(0, 100),
        ),
        max_size=200,
    ),
)
def test_it_stays_between_least_and_most_whatever_happens(
    least: int, spread: int, steps: list[tuple[str, float, float, int]]
) -> None:
    control = AdaptiveConcurrency(least, least + spread)
    now = 0.0
    for kind, pause, latency, inflight in steps:
        now += pause
        if kind == "rejected":
            control.rejected(now, inflight)
        else:
            getattr(control, kind)(now, latency, inflight)
        assert least <= control.limit <= least + spread


# --- against simulated servers ---------------------------------------------------------------

SEEDS = range(3)


def adaptive(server: simulator.Server) -> AdaptiveConcurrency:
    return AdaptiveConcurrency(1, 200)


def compared(kind: type[simulator.Server], seed: int, **how: Any) -> tuple[float, float, float]:
    """Goodput and p99 over the oracle's, and rejections per success; 20 → 5 → 20 places."""
    ours = simulator.run(kind, adaptive, seed=seed, **how)
    oracle = simulator.run(kind, simulator.Oracle, seed=seed, **how)
    return (
        len(ours.latencies) / len(oracle.latencies),
        ours.p99 / oracle.p99,
        ours.rejections / len(ours.latencies),
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_against_a_server_that_queues(seed: int, sigma: float) -> None:
    goodput, p99, _ = compared(simulator.Queueing, seed, sigma=sigma)
    assert goodput >= 0.95
    assert p99 <= 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_against_a_server_that_rejects(seed: int, sigma: float) -> None:
    goodput, p99, rejections = compared(simulator.Rejecting, seed, sigma=sigma)
    assert goodput >= 0.85
    assert p99 <= 2
    assert rejections <= 0.05


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_against_servers_whose_latency_is_mostly_noise(seed: int) -> None:
    goodput, p99, _ = compared(simulator.Queueing, seed, sigma=0.8)
    assert goodput >= 0.9
    assert p99 <= 2
    goodput, _, rejections = compared(simulator.Rejecting, seed, sigma=0.8)
    assert goodput >= 0.8
    assert rejections <= 0.05


@pytest.mark.parametrize("kind", [simulator.Queueing, simulator.Rejecting])
def test_against_a_server_that_becomes_three_times_slower_for_good(
    kind: type[simulator.Server],
) -> None:
    goodput, p99, rejections = compared(
        kind, 1, phases=((120, 20),), changes=((40, 0.6),)
    )  # seconds
    assert goodput >= 0.85
    assert p99 <= 2
    assert rejections <= 0.05


def test_two_clients_of_one_server_share_it() -> None:
    timeline = simulator.Timeline()
    server = simulator.Queueing(timeline, random.Random(1), 20)
    clients = [
        simulator.Client(timeline, server, AdaptiveConcurrency(1, 200, start=start))
        for start in (1, 30)
    ]
    for client in clients:
        timeline.at(0, client.work)
    timeline.run(120)
    served = [len(client.latencies) for client in clients]
    assert sum(served) >= 0.9 * 120 * 20 / 0.2
    assert min(served) >= 0.2 * sum(served)
