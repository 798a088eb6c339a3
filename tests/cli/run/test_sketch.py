"""Percentiles and means of many numbers, in little memory."""

from __future__ import annotations

import math
import random

import pytest

from penstock.cli.run.sketch import RELATIVE_ERROR, Gauge, Sketch


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_as_near_as_promised(seed: int) -> None:
    dice = random.Random(seed)
    values = [dice.lognormvariate(-2, 1.5) for _ in range(5000)]
    whole, halves = Sketch(), (Sketch(), Sketch())
    for index, value in enumerate(values):
        whole.add(value)
        halves[index % 2].add(value)
    halves[0].merge(halves[1])
    values.sort()
    for percent in (0, 1, 25, 50, 90, 95, 99, 99.9, 100):
        true = values[max(math.ceil(percent / 100 * len(values)), 1) - 1]
        assert whole.percentile(percent) == pytest.approx(true, rel=RELATIVE_ERROR * 1.0001)
        assert halves[0].percentile(percent) == whole.percentile(percent)
    assert whole.mean == pytest.approx(sum(values) / len(values))
    assert halves[0].count == 5000
    assert halves[0].most == values[-1]


def test_nothing_has_no_percentile() -> None:
    assert Sketch().percentile(50) is None
    assert Sketch().mean == 0
    assert Gauge().mean is None


def test_it_stays_small_whatever_comes() -> None:
    sketch = Sketch()
    for exponent in range(-400, 400):
        sketch.add(1.09**exponent * 10)
    sketch.add(0)
    sketch.add(-1)  # a clock that was set back
    assert len(sketch._buckets) <= 462
    assert sketch.percentile(0) is not None


def test_a_percentile_is_never_above_what_was_seen() -> None:
    sketch = Sketch()
    sketch.add(0.3)
    assert sketch.percentile(99) == pytest.approx(0.3, rel=RELATIVE_ERROR)
    assert (sketch.percentile(99) or 0) <= 0.3
