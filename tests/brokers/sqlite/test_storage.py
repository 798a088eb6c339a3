"""The queue in its file: each statement against a real file, the time as the test sets it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from brokers.sqlite.helpers import Clock, Opened
from penstock.brokers.engine import Stored
from penstock.brokers.sql.rows import Kept, NewItem
from penstock.brokers.sqlite.storage import Storage
from penstock.errors import BrokerError

Open = Callable[..., Opened]


class TestPut:
    def test_is_refused_at_the_bound_and_accepted_when_there_is_room(
        self, open_queue: Open
    ) -> None:
        queue = open_queue(maxsize=2)
        assert queue.put(b"a", b"b", b"c") == [True, True, False]
        (item,) = queue.take()
        assert queue.put(b"c") == [False]  # what is in hand has its place still
        assert queue.done(item.lease) == [True]
        assert queue.put(b"c") == [True]
        assert queue.take_data() == [b"b", b"c"]

    def test_brings_back_what_went_with_the_item(self, open_queue: Open) -> None:
        queue = open_queue()
        queue.put(b"\0\xff", headers={"traceparent": "00-ab", "é": "ü"})
        queue.put(b"")
        first, second = queue.take(2)
        assert (first.data, first.headers) == (b"\0\xff", {"traceparent": "00-ab", "é": "ü"})
        assert (second.data, second.headers, second.deliveries) == (b"", {}, 1)

    def test_queues_in_one_file_have_nothing_to_do_with_each_other(self, open_queue: Open) -> None:
        one, other = open_queue("one", maxsize=1), open_queue("other", maxsize=2)
        assert one.put(b"1", b"2") == [True, False]
        assert other.put(b"3", b"4", b"5") == [True, True, False]
        assert other.take_data() == [b"3", b"4"]
        assert one.take_data() == [b"1"]

    def test_lower_ranks_go_first_and_within_one_the_first_put(self, open_queue: Open) -> None:
        queue = open_queue()
        for data, rank in ((b"a", 1), (b"b", 0), (b"c", -1.5), (b"d", 0)):
            queue.put(data, rank=rank)
        assert queue.take_data() == [b"c", b"b", b"d", b"a"]


class TestIds:
    def test_of_two_puts_with_one_id_one_is_stored(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=1)
        assert queue.put(b"a", id="1") == [True]
        assert queue.put(b"other", id="1") == [True]  # though the queue is full
        assert queue.take_data() == [b"a"]

    def test_two_in_one_call_are_one(self, open_queue: Open) -> None:
        queue = open_queue()
        assert queue.put(b"a", b"a", id="1") == [True, True]
        assert queue.storage.size() == 1

    def test_is_known_for_a_while_also_after_the_item_is_done(
        self, open_queue: Open, clock: Clock
    ) -> None:
        queue = open_queue(dedupe=10)
        queue.put(b"a", id="1")
        queue.done(queue.take()[0].lease)
        clock.now += 9.9
        queue.put(b"a", id="1")
        assert queue.storage.size() == 0
        clock.now += 0.1
        queue.put(b"a", id="1")
        assert queue.storage.size() == 1

    def test_of_a_refused_put_is_not_known(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=1)
        queue.put(b"a")
        assert queue.put(b"b", id="1") == [False]
        queue.done(queue.take()[0].lease)
        assert queue.put(b"b", id="1") == [True]
        assert queue.take_data() == [b"b"]

    def test_is_of_one_queue(self, open_queue: Open) -> None:
        one, other = open_queue("one"), open_queue("other")
        one.put(b"a", id="1")
        other.put(b"b", id="1")
        assert other.take_data() == [b"b"]


class TestCallersTransaction:
    def put_in(self, connection: sqlite3.Connection, queue: Opened, item: NewItem) -> list[Stored]:
        own = queue.storage
        return Storage(connection, own._queue, own._settings).put([item])

    def test_the_item_is_there_when_it_commits_and_not_before(
        self, open_queue: Open, path: Path
    ) -> None:
        queue = open_queue()
        theirs = sqlite3.connect(path)
        theirs.row_factory = sqlite3.Row
        theirs.execute("CREATE TABLE orders (id INTEGER)")
        theirs.execute("BEGIN IMMEDIATE")
        theirs.execute("INSERT INTO orders VALUES (1)")
        assert self.put_in(theirs, queue, NewItem(b"a", id="1")) == [Stored.NEW]
        assert queue.storage.size() == 0
        theirs.commit()
        theirs.close()
        assert queue.take_data() == [b"a"]

    def test_a_rollback_leaves_neither_the_item_nor_its_id(
        self, open_queue: Open, path: Path
    ) -> None:
        queue = open_queue(maxsize=1)
        theirs = sqlite3.connect(path)
        theirs.execute("BEGIN IMMEDIATE")
        assert self.put_in(theirs, queue, NewItem(b"a", id="1")) == [Stored.NEW]
        theirs.rollback()
        theirs.close()
        assert queue.put(b"b", id="1") == [True]
        assert queue.take_data() == [b"b"]


class TestLeases:
    def test_two_workers_and_one_item(self, open_queue: Open) -> None:
        one, other = open_queue(), open_queue()
        one.put(b"a")
        assert len(one.take() + other.take()) == 1

    def test_an_item_is_handed_out_again_when_its_lease_ends(
        self, open_queue: Open, clock: Clock
    ) -> None:
        dead, heir = open_queue(ack_wait=30), open_queue(ack_wait=30)
        dead.put(b"a")
        dead.take()
        clock.now += 29.9
        assert heir.take() == []
        assert heir.storage.next_ready() == pytest.approx(0.1)
        clock.now += 0.1
        (item,) = heir.take()
        assert (item.data, item.deliveries) == (b"a", 2)

    def test_one_that_is_extended_goes_on(self, open_queue: Open, clock: Clock) -> None:
        alive, other = open_queue(ack_wait=30), open_queue(ack_wait=30)
        alive.put(b"a")
        (item,) = alive.take()
        for _ in range(5):
            clock.now += 20
            assert alive.extend([item.lease]) == []
            assert other.take() == []
        assert alive.done(item.lease) == [True]

    def test_who_lost_the_lease_cannot_hand_the_item_back(
        self, open_queue: Open, clock: Clock
    ) -> None:
        slow, heir = open_queue(), open_queue()
        slow.put(b"a")
        (lost,) = slow.take()
        clock.now += 30
        (item,) = heir.take()
        assert slow.extend([lost.lease]) == [lost.lease]
        assert slow.do(lambda storage: storage.give_back(lost.lease)) is False
        assert slow.do(lambda storage: storage.add_dead_letter(lost.lease, "E", "")) is Kept.LOST
        assert slow.take() == []
        assert slow.storage.counts().dead_letters == 0
        assert heir.done(item.lease) == [True]
        assert heir.storage.size() == 0

    def test_an_item_that_is_done_late_is_done(self, open_queue: Open, clock: Clock) -> None:
        slow, heir = open_queue(maxsize=1), open_queue(maxsize=1)
        slow.put(b"a")
        (late,) = slow.take()
        clock.now += 30
        (item,) = heir.take()
        assert slow.done(late.lease) == [True]
        assert heir.done(item.lease) == [False]
        assert heir.put(b"b", b"c") == [True, False]  # one place was left, and not two

    def test_a_late_end_does_not_meet_an_item_that_came_after(
        self, open_queue: Open, clock: Clock
    ) -> None:
        slow, heir = open_queue(), open_queue()
        slow.put(b"a")
        (lost,) = slow.take()
        clock.now += 30
        heir.done(heir.take()[0].lease)
        slow.put(b"b")
        slow.take()
        assert slow.done(lost.lease) == [False]
        assert slow.storage.size() == 1

    def test_a_clock_that_is_set_back_does_not_make_a_lease_longer(
        self, open_queue: Open, clock: Clock
    ) -> None:
        dead, heir = open_queue(ack_wait=30), open_queue(ack_wait=30)
        dead.put(b"a")
        dead.take()
        clock.now -= 3600
        assert [item.data for item in heir.take()] == [b"a"]


class TestFailures:
    def test_an_item_waits_for_its_next_attempt_and_keeps_its_place(
        self, open_queue: Open, clock: Clock
    ) -> None:
        queue = open_queue()
        queue.put(b"a", b"b")
        (item,) = queue.take()
        assert queue.do(lambda storage: storage.give_back(item.lease, 5.0)) is True
        assert queue.storage.counts().delayed == 1
        clock.now += 4.9
        assert queue.storage.next_ready() == 0  # b
        clock.now += 0.1
        assert [(one.data, one.deliveries) for one in queue.take(2)] == [(b"a", 2), (b"b", 1)]

    def test_a_dead_letter_has_its_reason_and_takes_no_room(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=1)
        queue.put(b"a", headers={"x": "y"})
        (item,) = queue.take()
        assert queue.do(lambda s: s.add_dead_letter(item.lease, "LookupError", "no a")) is Kept.YES
        assert queue.put(b"b") == [True]
        (letter,) = queue.storage.dead_letters(10)
        assert (letter.data, letter.headers, letter.deliveries) == (b"a", {"x": "y"}, 1)
        assert (letter.error_type, letter.error) == ("LookupError", "no a")

    def test_where_there_are_as_many_as_may_be_the_item_stays(self, open_queue: Open) -> None:
        queue = open_queue(max_dead_letters=1)
        queue.put(b"a", b"b")
        first, second = queue.take(2)
        assert queue.do(lambda s: s.add_dead_letter(first.lease, "E", "")) is Kept.YES
        assert queue.do(lambda s: s.add_dead_letter(second.lease, "E", "")) is Kept.FULL
        assert queue.storage.size() == 1
        assert queue.done(second.lease) == [True]


class TestPause:
    def test_nothing_is_handed_out_to_anybody_until_it_is_over(self, open_queue: Open) -> None:
        one, other = open_queue(), open_queue()
        one.put(b"a")
        one.do(lambda s: s.set_paused(True))
        assert other.take() == []
        assert other.storage.next_ready() is None
        assert other.storage.counts().is_paused is True
        assert other.put(b"b") == [True]
        other.do(lambda s: s.set_paused(False))
        assert one.take_data() == [b"a", b"b"]


class TestRedrive:
    def dead(self, queue: Opened, *data: bytes) -> None:
        for one in data:
            queue.put(one, headers={"of": one.decode()}, rank=3)
            (item,) = queue.take()
            queue.do(lambda s, lease=item.lease: s.add_dead_letter(lease, "E", ""))

    def redrive(self, queue: Opened) -> list[Stored]:
        return [
            queue.do(lambda storage, number=letter.number: storage.redrive(number))
            for letter in queue.storage.dead_letters(100)
        ]

    def test_puts_them_back_as_if_they_were_new(self, open_queue: Open) -> None:
        queue = open_queue()
        self.dead(queue, b"a", b"b")
        queue.put(b"c")  # of a lower rank
        assert self.redrive(queue) == [Stored.NEW] * 2
        assert [(i.data, i.deliveries, i.headers) for i in queue.take(9)] == [
            (b"c", 1, {}),
            (b"a", 1, {"of": "a"}),
            (b"b", 1, {"of": "b"}),
        ]
        assert queue.storage.counts().dead_letters == 0

    def test_one_that_finds_no_room_stays(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=2)
        self.dead(queue, b"a", b"b")
        queue.put(b"d")
        assert self.redrive(queue) == [Stored.NEW, Stored.FULL]
        assert queue.storage.size() == 2
        assert [letter.data for letter in queue.storage.dead_letters(9)] == [b"b"]

    def test_twice_is_once(self, open_queue: Open) -> None:
        queue = open_queue()
        self.dead(queue, b"a")
        (letter,) = queue.storage.dead_letters(1)
        assert queue.do(lambda s: s.redrive(letter.number)) is Stored.NEW
        assert queue.do(lambda s: s.redrive(letter.number)) is Stored.DUPLICATE
        assert queue.storage.size() == 1

    def test_dead_letters_are_read_in_pages(self, open_queue: Open) -> None:
        queue = open_queue()
        self.dead(queue, b"a", b"b", b"c", b"d")
        last = queue.storage.last_dead_letter()
        self.dead(queue, b"e")
        first = queue.storage.dead_letters(2, last=last)
        rest = queue.storage.dead_letters(9, after=first[-1].number, last=last)
        assert [letter.data for letter in first + rest] == [b"a", b"b", b"c", b"d"]


class TestLooking:
    def test_counts(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=7)
        queue.put(b"a", b"bb", b"ccc", b"dddd")
        first, second, _ = queue.take(3)
        queue.do(lambda s: s.give_back(first.lease, 10))
        queue.do(lambda s: s.add_dead_letter(second.lease, "E", ""))
        counts = queue.storage.counts()
        assert (counts.maxsize, counts.size, counts.in_flight, counts.delayed) == (7, 3, 1, 1)
        assert (counts.dead_letters, counts.bytes, counts.redelivered) == (1, 8, 0)

    def test_of_an_empty_queue(self, open_queue: Open) -> None:
        counts = open_queue().storage.counts()
        assert (counts.size, counts.bytes, counts.in_flight) == (0, 0, 0)

    def test_processes_are_seen_until_they_leave_or_are_silent(
        self, open_queue: Open, clock: Clock
    ) -> None:
        one, other = open_queue(ack_wait=30), open_queue(ack_wait=30)
        one.do(lambda s: s.tell("one", "first"))
        one.do(lambda s: s.tell("one", "second"))
        assert other.storage.processes("other") == ["second"]
        assert one.storage.processes("one") == []
        clock.now += 31
        assert other.storage.processes("other") == []
        one.do(lambda s: s.tell("one", "third"))
        one.do(lambda s: s.leave("one"))
        assert other.storage.processes("other") == []


class TestSettings:
    def test_that_differ_are_told_with_the_sql_that_changes_them(
        self, open_queue: Open, path: Path
    ) -> None:
        first = open_queue("it's", maxsize=10)
        with pytest.raises(BrokerError, match="maxsize is 10 there and 20 here") as raised:
            open_queue("it's", maxsize=20)
        assert str(path) in str(raised.value)
        statement = str(raised.value).partition("by SQL: ")[2]
        first.do(lambda storage: storage._execute(statement))
        assert open_queue("it's", maxsize=20).put(*[b"a"] * 21) == [True] * 20 + [False]

    def test_a_bound_that_is_changed_there_holds_at_once(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=1)
        queue.do(lambda s: s._execute("UPDATE penstock_queues SET maxsize = 2"))
        assert queue.put(b"a", b"b", b"c") == [True, True, False]

    def test_items_that_were_removed_by_hand_leave_room_at_the_next_start(
        self, open_queue: Open
    ) -> None:
        queue = open_queue(maxsize=1)
        queue.put(b"a")
        queue.do(lambda s: s._execute("DELETE FROM penstock_items"))
        assert queue.put(b"b") == [False]
        assert open_queue(maxsize=1).put(b"b") == [True]
