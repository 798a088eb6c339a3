"""Places of ranked entries against a model: a list that is sorted each time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.queue.overdue import OverdueFirst
from penstock.queue.priority_lines import PriorityLines
from penstock.queue.ranked_entries import RankHeap
from penstock.workers.turn import LoopTurn

SEEDS = 200
STEPS = 150
MAX_WAIT = 5.0


class Incomparable:
    """An item that no order may look at."""

    def __lt__(self, other: object) -> bool:
        raise AssertionError("items are not compared")

    __eq__ = __gt__ = __le__ = __ge__ = __lt__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


Entry = tuple[Any, Incomparable]


@dataclass
class Model:
    """What a place is to do, as simply as it can be said."""

    max_wait: float
    now: float = 0.0
    entries: list[Entry] = field(default_factory=list)

    def first(self) -> Entry:
        def place(entry: Entry) -> Any:
            priority, number, since = entry[0]
            is_overdue = self.now - since >= self.max_wait
            return (-math.inf, number) if is_overdue else (priority, number)

        return min(self.entries, key=place)


class Program:
    """A random program of all that a place can be told."""

    def __init__(self, place: Any, seed: int, max_wait: float, *, is_in_order: bool) -> None:
        self.random = random.Random(seed)
        self.place = place
        self.turn = LoopTurn()
        self.model = Model(max_wait)
        self.is_in_order = is_in_order
        self.number = 0

    def entry(self) -> Entry:
        self.number += 1
        priority = self.random.choice((0, 0, 1, 2, -1, 0.5, self.random.random()))
        return (priority, self.number, self.model.now), Incomparable()

    def some(self) -> list[Entry]:
        count = self.random.randint(0, len(self.model.entries))
        return self.random.sample(self.model.entries, count)

    def step(self) -> None:
        roll = self.random.random()
        entries = self.model.entries
        if roll < 0.45:
            entry = self.entry()
            entries.append(entry)
            self.place.append(entry)
        elif roll < 0.75 and entries:
            first = self.model.first()
            assert self.place.head is first
            assert self.place.popleft() is first
            self.model.entries = [one for one in entries if one is not first]
            if not self.is_in_order and roll < 0.5:  # it comes back
                self.model.entries.append(first)
                self.place.put_back(first)
        elif roll < 0.8 and entries:
            entry = self.random.choice(entries)
            assert self.place.discard(entry) is True
            assert self.place.discard(entry) is False
            self.model.entries = [one for one in entries if one is not entry]
        elif roll < 0.85:
            ranks = {one[0] for one in self.some()}
            self.place.remove_all(ranks)
            self.model.entries = [one for one in entries if one[0] not in ranks]
        elif roll < 0.9:
            new = [self.entry() for _ in range(3)]
            self.random.shuffle(new)
            self.place.extend(new)
            entries.extend(new)
        elif roll < 0.91:
            self.place.clear()
            entries.clear()
        else:
            self.model.now += self.random.choice((0.5, 1.0, 3.0))

    def check(self) -> None:
        assert self.place.size == len(self.place) == len(self.model.entries)
        numbers = sorted(entry[0][1] for entry in self.place)
        assert numbers == sorted(entry[0][1] for entry in self.model.entries)
        if self.model.entries:
            assert self.place.head is self.model.first()

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
            self.check()


def check_all(make: Callable[[], Any], *, is_in_order: bool) -> None:
    for seed in range(SEEDS):
        Program(make(), seed, math.inf, is_in_order=is_in_order).run()


def test_lines_of_priorities() -> None:
    check_all(PriorityLines, is_in_order=True)


def test_a_heap_of_ranks() -> None:
    check_all(RankHeap, is_in_order=False)


@pytest.mark.parametrize("max_wait", [0.0, MAX_WAIT, math.inf])
def test_what_is_overdue_goes_first(max_wait: float) -> None:
    for seed in range(SEEDS):
        turn = LoopTurn()
        program = Program(OverdueFirst(turn, max_wait), seed, max_wait, is_in_order=False)
        turn.clock = lambda program=program: program.model.now  # type: ignore[misc]
        program.run()


def test_what_is_gone_takes_up_no_memory() -> None:
    turn = LoopTurn()
    turn.clock = lambda: 0.0
    place = OverdueFirst(turn, 1.0)
    place.append(((9, 0, 0.0), "waits for long"))
    for number in range(1, 10_000):
        place.append(((0, number, 0.0), None))
        assert place.popleft()[0][1] == number
    assert len(place._ages) + len(place._ranks) < 300
    assert place.popleft()[1] == "waits for long"
