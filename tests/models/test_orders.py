"""The models of the orders hold what they are to show, and see what is wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from models.orders import FairModel, Key, PriorityModel, Shares, UnfairError, most_starts


@dataclass(eq=False)
class Entry:
    number: int
    key: Key = None
    priority: Any = 0
    put_at: float = 0.0


def test_a_lower_priority_goes_first_and_first_come_within_one() -> None:
    entries = [Entry(1, priority=2), Entry(2, priority=1), Entry(3, priority=1)]
    first = PriorityModel().first(entries, 0)
    assert first is entries[1]


def test_what_has_waited_long_enough_goes_first() -> None:
    entries = [Entry(1, priority=9, put_at=0), Entry(2, priority=1, put_at=4)]
    model = PriorityModel(max_wait=5)
    assert model.first(entries, 4.9) is entries[1]
    assert model.first(entries, 5) is entries[0]


def run(seed: int, *, is_fair: bool) -> None:
    """Keys come and go, at random; what is started is checked."""
    rng = random.Random(seed)
    weights = {key: rng.choice((0.5, 1, 2, 3)) for key in range(4)}
    model, shares = FairModel(weights.__getitem__), Shares(weights.__getitem__)
    entries: list[Entry] = []
    for number in range(200):
        if rng.random() < 0.5:
            key = rng.choice((0, 0, 0, 1, 2, 3))
            entries.append(Entry(number, key))
            model.came(key)
        if entries and rng.random() < 0.5:
            entry = model.first(entries) if is_fair else entries[0]
            assert isinstance(entry, Entry)
            ready = {one.key for one in entries}
            entries.remove(entry)
            model.started(entry.key)
            shares.started(entry.key, ready)
            if entry.key not in {one.key for one in entries}:
                shares.stopped(entry.key)


@pytest.mark.parametrize("seed", range(50))
def test_the_fair_model_is_fair(seed: int) -> None:
    run(seed, is_fair=True)


def test_first_come_first_served_is_not_fair() -> None:
    with pytest.raises(UnfairError):
        run(1, is_fair=False)


@pytest.mark.parametrize(
    ("weight", "others", "ten_are_done"),
    [(1, [1], 20), (2, [1], 15), (1, [2], 29), (1, [1, 1], 30)],
)
def test_how_long_ten_wait_behind_ten_thousand(
    weight: float, others: list[float], ten_are_done: int
) -> None:
    weights = {"late": weight, **{f"busy {place}": one for place, one in enumerate(others)}}
    model = FairModel(weights.__getitem__)
    entries = []
    for place in range(len(others)):
        for number in range(100):
            entries.append(Entry(number, f"busy {place}"))
            model.came(f"busy {place}")
    for number in range(10):
        entries.append(Entry(1000 + number, "late"))
        model.came("late")
    started: list[Key] = []
    while started.count("late") < 10:
        entry = model.first(entries)
        assert isinstance(entry, Entry)
        entries.remove(entry)
        model.started(entry.key)
        started.append(entry.key)
    assert len(started) <= most_starts(10, weight, others) == ten_are_done
