"""Random programs against a queue in a file, beside a model that is easy to see through."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from brokers.sqlite.helpers import Clock, Opened
from penstock.brokers.engine import Stored
from penstock.brokers.sql.rows import Kept, NewItem, StoredItem

MAXSIZE, ACK_WAIT, DEDUPE, MAX_DEAD = 6, 30.0, 50.0, 3


@dataclass
class Row:
    """An item, as the model has it."""

    data: bytes
    rank: float
    order: int
    due: float | None = None
    #: Which handing-out has it, if one has.
    holder: int | None = None
    deliveries: int = 0


class Model:
    """What a queue is to do: a list of rows."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: list[Row] = []
        self.dead: list[Row] = []
        self.ids: dict[str, float] = {}
        self.puts = self.handed_out = 0

    def put(self, data: bytes, rank: float, id: str | None = None) -> Stored:
        if id is not None and self.ids.get(id, -DEDUPE) > self.clock.now - DEDUPE:
            return Stored.DUPLICATE
        if len(self.rows) >= MAXSIZE:
            return Stored.FULL
        if id is not None:
            self.ids[id] = self.clock.now
        self.puts += 1
        self.rows.append(Row(data, rank, self.puts))
        return Stored.NEW

    def take(self, most: int) -> list[tuple[Row, int]]:
        for row in self.rows:
            if row.due is not None and row.due <= self.clock.now:
                row.due = row.holder = None
        ready = sorted(
            (row for row in self.rows if row.due is None), key=lambda row: (row.rank, row.order)
        )
        taken = []
        for row in ready[:most]:
            self.handed_out += 1
            row.due, row.holder = self.clock.now + ACK_WAIT, self.handed_out
            row.deliveries += 1
            taken.append((row, self.handed_out))
        return taken

    def add_dead_letter(self, row: Row, holder: int) -> Kept:
        if len(self.dead) >= MAX_DEAD:
            return Kept.FULL
        if row not in self.rows or row.holder != holder:
            return Kept.LOST
        self.rows.remove(row)
        self.dead.append(row)
        return Kept.YES


class Program:
    """Makes the same random calls of a file, by two connections, and of the model."""

    def __init__(self, seed: int, open_queue: Callable[..., Opened], clock: Clock) -> None:
        self.random = random.Random(seed)
        settings = {
            "maxsize": MAXSIZE,
            "ack_wait": ACK_WAIT,
            "dedupe": DEDUPE,
            "max_dead_letters": MAX_DEAD,
        }
        self.queues = [open_queue(synchronous="NORMAL", **settings) for _ in range(2)]
        self.clock, self.model = clock, Model(clock)
        self.in_hand: list[tuple[StoredItem, Row, int]] = []
        self.count = 0

    @property
    def queue(self) -> Opened:
        return self.random.choice(self.queues)

    def step(self) -> None:
        calls = (self.put, self.put, self.take, self.done, self.give_back, self.extend)
        self.random.choice((*calls, self.die, self.redrive, self.pass_time))()
        size = len(self.model.rows)
        assert {queue.storage.size() for queue in self.queues} == {size}
        counts = self.queue.storage.counts()
        assert (counts.size, counts.dead_letters) == (size, len(self.model.dead))

    def put(self) -> None:
        self.count += 1
        data, rank = str(self.count).encode(), self.random.choice((0, 0, 1))
        id_ = self.random.choice((None, None, "a", "b"))
        item = NewItem(data, rank=rank, id=id_)
        assert self.queue.do(lambda s: s.put([item])) == [self.model.put(data, rank, id_)]

    def take(self) -> None:
        most = self.random.randint(1, 3)
        items, expected = self.queue.take(most), self.model.take(most)
        assert [(item.data, item.deliveries) for item in items] == [
            (row.data, row.deliveries) for row, _ in expected
        ]
        self.in_hand += [(item, *pair) for item, pair in zip(items, expected, strict=True)]

    def some(self) -> tuple[StoredItem, Row, int] | None:
        """One of the handings-out so far, also one whose lease has ended."""
        if not self.in_hand:
            return None
        return self.in_hand.pop(self.random.randrange(len(self.in_hand)))

    def done(self) -> None:
        if some := self.some():
            item, row, _ = some
            assert self.queue.done(item.lease) == [row in self.model.rows]
            if row in self.model.rows:
                self.model.rows.remove(row)

    def give_back(self) -> None:
        if some := self.some():
            item, row, holder = some
            delay = self.random.choice((0.0, 0.0, 20.0))
            holds = row in self.model.rows and row.holder == holder
            assert self.queue.do(lambda s: s.give_back(item.lease, delay)) is holds
            if holds:
                row.holder, row.due = None, self.clock.now + delay if delay else None

    def extend(self) -> None:
        lost = [
            item.lease
            for item, row, holder in self.in_hand
            if row not in self.model.rows or row.holder != holder
        ]
        assert self.queue.extend([item.lease for item, _, _ in self.in_hand]) == lost
        for _, row, holder in self.in_hand:
            if row in self.model.rows and row.holder == holder:
                row.due = self.clock.now + ACK_WAIT

    def die(self) -> None:
        if some := self.some():
            item, row, holder = some
            expected = self.model.add_dead_letter(row, holder)
            assert self.queue.do(lambda s: s.add_dead_letter(item.lease, "E", "")) is expected

    def redrive(self) -> None:
        letters = self.queue.storage.dead_letters(10)
        assert [letter.data for letter in letters] == [row.data for row in self.model.dead]
        for letter, row in zip(letters, list(self.model.dead), strict=True):
            expected = self.model.put(row.data, row.rank)
            assert self.queue.do(lambda s, n=letter.number: s.redrive(n)) is expected
            if expected is Stored.NEW:
                self.model.dead.remove(row)

    def pass_time(self) -> None:
        self.clock.now += self.random.choice((1.0, 10.0, 31.0))


@pytest.mark.parametrize("seed", range(10))
def test_a_random_program(seed: int, open_queue: Callable[..., Opened], clock: Clock) -> None:
    program = Program(seed, open_queue, clock)
    for _ in range(150):
        program.step()
    # At the end all that was accepted comes out, in order, and nothing is left.
    while rows := program.model.take(10):
        items = program.queue.take(10)
        assert [item.data for item in items] == [row.data for row, _ in rows]
        for item, (row, _) in zip(items, rows, strict=True):
            assert program.queue.done(item.lease) == [True]
            program.model.rows.remove(row)
        program.clock.now += 31
    program.clock.now += 31
    while rows := program.model.take(10):
        items = program.queue.take(10)
        assert [item.data for item in items] == [row.data for row, _ in rows]
        for item, (row, _) in zip(items, rows, strict=True):
            assert program.queue.done(item.lease) == [True]
            program.model.rows.remove(row)
    assert program.queue.storage.size() == 0
