"""Rates of late, and how figures are told."""

from __future__ import annotations

import random

import pytest

from penstock.cli.run.meter import Meter, duration, number
from penstock.limits.rate.sliding_log import SlidingLog


def test_a_steady_stream_reads_as_its_rate() -> None:
    meter = Meter(8, 1)
    for step in range(400):
        meter.add(step / 8)
    assert meter.rate(399 / 8) == pytest.approx(8, rel=1 / 50)
    assert meter.told(399 / 8) == "8/s of 8/s"
    # It looks back over five seconds: half of them without anything is half of the rate.
    assert meter.rate(399 / 8 + 2.5) == pytest.approx(4, abs=0.3)
    assert meter.rate(399 / 8 + 6) == 0


@pytest.mark.parametrize(("maximum", "per"), [(8, 1.0), (500, 60.0), (3, 0.2), (7, 10.0)])
def test_what_keeps_to_the_limit_never_reads_as_more(maximum: int, per: float) -> None:
    dice = random.Random(7)
    meter, log = Meter(maximum, per), SlidingLog(maximum, per)
    at, most = 0.0, 0.0
    for _ in range(3000):  # bursts and pauses, as fast as the limit lets through
        at += dice.choice((0, 0, 0, per / maximum))
        at = max(at, log.free_at(at, 1))
        assert log.take(at, 1) is not None
        meter.add(at)
        most = max(most, meter.rate(at))
    assert maximum * 0.9 < most <= maximum


def test_amounts_count_as_such() -> None:
    meter = Meter(90_000, 60)
    meter.add(1.0, 30_000)
    meter.add(2.0, 15_000)
    assert meter.told(3.0) == "45,000/min of 90,000/min"


def test_it_keeps_little_however_much_comes() -> None:
    meter = Meter()
    for step in range(100_000):
        meter.add(step / 1000)
    assert len(meter._counts) <= 60


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.0321, "0.032"),
        (0.97, "1"),
        (7.94, "7.9"),
        (8.0, "8"),
        (12.3, "12"),
        (4e6, "4,000,000"),
    ],
)
def test_numbers_are_told_shortly(value: float, told: str) -> None:
    assert number(value) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.25, "0.25 s"),
        (9.99, "10 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100_000, "27 h 47 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told
