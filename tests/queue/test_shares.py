"""Fair shares by themselves, without a queue: turns, weights, what is forgotten, waiting puts."""

from __future__ import annotations

import random
from collections import Counter
from contextvars import Context
from typing import Any

import pytest

from penstock.queue.fair_entries import FairEntries
from penstock.queue.fair_ranks import ShareRanks
from penstock.queue.orders import FairShares
from penstock.queue.shares import FEW
from penstock.workers.item import Ticket
from penstock.workers.turn import LoopTurn


class Store:
    """As much of a store as the shares need: entries that wait, and those that come back."""

    def __init__(self, **options: Any) -> None:
        self.ranks = ShareRanks(FairShares(lambda item: item[0], **options), LoopTurn())
        self.waiting: FairEntries = self.ranks.entries()
        self.requeued: FairEntries = self.ranks.requeued()
        self.number = 0

    def put(self, *items: str) -> None:
        for item in items:
            self.number += 1
            rank = self.ranks.rank(self.ranks.claim(item, 0), self.number)
            self.waiting.append((rank, item, Context(), None))

    def take(self) -> Any:
        requeued = self.requeued
        is_requeued = requeued.size and (
            not self.waiting.size or requeued.goes_before(self.waiting)
        )
        return (requeued if is_requeued else self.waiting).popleft()

    def put_back(self, entry: Any) -> None:
        self.requeued.put_back(self.ranks.returned(entry))

    def items(self) -> list[str]:
        """All items, in the order in which they are taken."""
        items = []
        while self.waiting.size or self.requeued.size:
            items.append(self.take()[1])
        return items

    @property
    def keys(self) -> dict[Any, Any]:
        return self.ranks.shares.keys


def test_keys_take_turns() -> None:
    store = Store()
    store.put("a1", "a2", "a3", "b1", "c1", "b2")
    assert store.items() == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_key_that_begins_late_catches_up_with_nothing() -> None:
    store = Store()
    store.put(*[f"a{n}" for n in range(9)])
    for _ in range(5):
        store.take()
    store.put("b1", "b2", "b3")
    assert store.items() == ["b1", "a5", "b2", "a6", "b3", "a7", "a8"]


def test_starts_are_as_the_weights() -> None:
    store = Store(weight=lambda key: {"a": 1, "b": 2, "c": 0.5}[key])
    store.put(*[f"{key}{n}" for n in range(70) for key in "abc"])
    starts = Counter(store.take()[1][0] for _ in range(70))
    assert starts == {"a": 20, "b": 40, "c": 10}


@pytest.mark.parametrize("seed", range(100))
def test_no_key_that_waits_gets_less_than_another_by_more_than_two_quanta(seed: int) -> None:
    """Goyal, Vin and Cheng, theorem 1: while both have entries, the shares differ by no more."""
    rng = random.Random(seed)
    weights = {key: rng.choice((0.5, 1, 1, 2, 3)) for key in "abcd"}
    store = Store(weight=weights.__getitem__)
    left = Counter[str]()
    #: Starts of each pair of keys since both have had entries without a break.
    since: dict[str, Counter[str]] = {}
    for _ in range(400):
        if rng.random() < 0.55:
            key = rng.choice("abcd")
            store.put(f"{key}{store.number}")
            left[key] += 1
        elif left.total():
            entry = store.take()
            key = entry[1][0]
            if rng.random() < 0.2:  # it finds that it may not start
                store.put_back(entry)
            else:
                left[key] -= 1
                for pair, starts in since.items():
                    if key in pair:
                        starts[key] += 1
        for one in "abcd":
            for other in "abcd":
                if one < other and not (left[one] and left[other]):
                    since.pop(one + other, None)
                elif one < other:
                    starts = since.setdefault(one + other, Counter())
                    gap = starts[one] / weights[one] - starts[other] / weights[other]
                    assert abs(gap) <= 1 / weights[one] + 1 / weights[other] + 1e-9


def test_what_comes_back_is_next_and_not_charged() -> None:
    store = Store()
    store.put("a1", "a2", "b1", "b2")
    entry = store.take()
    for _ in range(5):
        store.put_back(entry)
        entry = store.take()
        assert entry[1] == "a1"
    store.put_back(entry)
    assert store.items() == ["a1", "b1", "a2", "b2"]


def test_a_key_that_was_forgotten_while_its_entry_was_in_hand() -> None:
    store = Store()
    store.put("a1")
    entry = store.take()
    store.put(*[chr(1000 + n % (FEW + 10)) for n in range(2 * FEW + 20)])
    while store.waiting.size:
        store.take()
    assert not store.keys  # no entry is left
    store.put("b1", "a2")
    store.put_back(entry)
    assert entry[0][2] is not store.keys["a"]
    assert store.items() == ["a1", "b1", "a2"]


def test_cancelled_entries_are_not_charged() -> None:
    class Cancelled(Ticket):
        __slots__ = ()
        is_cancelled = True

    store = Store()
    store.put("a1", "a2", "a3", "b1", "b2")
    for entry in [*store.waiting]:
        if entry[1] in ("a1", "a2"):
            store.waiting.discard(entry)
    store.put("a4")
    rank, item, context, _ = store.take()
    assert item == "a3"
    store.put_back((rank, item, context, Cancelled()))
    assert store.take()[1] == "a3"
    assert store.ranks.shares.keys["a"].start == 0.0


def test_idle_keys_are_forgotten() -> None:
    store = Store()
    store.put(*["z"] * 20_000)
    for number in range(10_000):
        store.put((f"key {number}",))  # type: ignore[arg-type]
        store.take()
        store.take()
        assert len(store.keys) <= 2 * FEW
    assert store.waiting.size == 10_000


def test_a_queue_that_is_empty_begins_anew() -> None:
    store = Store(weight=lambda key: 0.001 if key == "a" else 1)
    store.put("a1")
    assert store.items() == ["a1"]
    store.put("b1", "b2", "a2")
    assert store.items() == ["b1", "a2", "b2"]


def test_waiting_puts_of_the_key_with_the_fewest_entries_go_first() -> None:
    store = Store(max_per_key=3)
    store.put("a1", "a2", "b1")
    line, shares = store.ranks.puts, store.ranks.shares
    for item in ("a3", "a4", "b2", "c1"):
        store.number += 1
        rank = store.ranks.rank(store.ranks.claim(item, 0), store.number)
        line.append((rank, item))

    def grant() -> Any:
        put = line.popleft()
        if put is None:
            return None
        store.number += 1
        rank = store.ranks.granted(put[0], store.number)
        store.waiting.append((rank, put[1], Context(), None))
        return put[1]

    assert [grant() for _ in range(4)] == ["c1", "b2", "a3", None]
    assert line.size == 1
    assert not shares.has_room(shares.keys["a"])
    while store.take()[1][0] != "a":
        pass
    assert grant() == "a4"
    assert line.size == 0
