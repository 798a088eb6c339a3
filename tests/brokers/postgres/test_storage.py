"""The queue in its schema: each statement against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from brokers.postgres.helpers import Opened
from penstock.brokers.engine import Stored
from penstock.brokers.sql.rows import Kept, NewItem
from penstock.errors import BrokerError

pytestmark = pytest.mark.real_time

Open = Callable[..., Awaitable[Opened]]


class TestPut:
    async def test_is_refused_at_the_bound_and_accepted_when_there_is_room(
        self, open_queue: Open
    ) -> None:
        queue = await open_queue(maxsize=2)
        assert await queue.put(b"a", b"b", b"c") == 2
        item = await queue.take_one()
        assert await queue.put(b"c") == 0  # what is in hand has its place still
        assert await queue.done(item.lease) is True  # it was full
        assert await queue.put(b"c") == 1
        assert await queue.take_data() == [b"b", b"c"]

    async def test_brings_back_what_went_with_the_item(self, open_queue: Open) -> None:
        queue = await open_queue()
        await queue.put(b"\0\xff", headers={"traceparent": "00-ab", "é": "ü\0"})
        await queue.put(b"")
        first, second = await queue.take(2)
        assert (first.data, first.headers) == (b"\0\xff", {"traceparent": "00-ab", "é": "ü\0"})
        assert (second.data, second.headers, second.deliveries) == (b"", {}, 1)

    async def test_queues_of_one_schema_have_nothing_to_do_with_each_other(
        self, open_queue: Open
    ) -> None:
        one, other = await open_queue("one", maxsize=1), await open_queue("other", maxsize=2)
        assert await one.put(b"1", b"2") == 1
        assert await other.put(b"3", b"4", b"5") == 2
        assert await other.take_data() == [b"3", b"4"]
        assert await one.take_data() == [b"1"]

    async def test_lower_ranks_go_first_and_within_one_the_first_put(
        self, open_queue: Open
    ) -> None:
        queue = await open_queue()
        for data, rank in ((b"a", 1), (b"b", 0), (b"c", -1.5), (b"d", 0)):
            await queue.put(data, rank=rank)
        assert await queue.take_data() == [b"c", b"b", b"d", b"a"]

    async def test_the_order_stays_when_slots_are_used_again(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=5)
        await queue.put(b"a", b"b", b"c", b"d")
        first, second = await queue.take(2)
        await queue.done(first.lease)
        await queue.put(b"e", b"f")
        await queue.done(second.lease)
        await queue.put(b"g")
        assert await queue.take_data() == [b"c", b"d", b"e", b"f", b"g"]

    async def test_many_at_once_keep_to_the_bound_together(self, open_queue: Open) -> None:
        queues = [await open_queue(maxsize=100) for _ in range(4)]
        counts = await asyncio.gather(*(queue.put(*[b"x"] * 7) for queue in queues * 8))
        assert sum(counts) == 100
        assert await queues[0].storage.size() == 100


class TestIds:
    async def put(self, queue: Opened, data: bytes, id_: str = "1") -> Stored:
        return await queue.storage.put(NewItem(data, id=id_))

    async def test_of_two_puts_with_one_id_one_is_stored(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=1)
        assert await self.put(queue, b"a") is Stored.NEW
        assert await self.put(queue, b"other") is Stored.DUPLICATE  # though the queue is full
        assert await queue.take_data() == [b"a"]

    async def test_at_the_same_time_too(self, open_queue: Open) -> None:
        queues = [await open_queue() for _ in range(4)]
        stored = await asyncio.gather(*(self.put(queue, b"a") for queue in queues))
        assert sorted(one.name for one in stored) == ["DUPLICATE"] * 3 + ["NEW"]

    async def test_is_known_for_a_while_also_after_the_item_is_done(self, open_queue: Open) -> None:
        queue = await open_queue(dedupe=100)
        await self.put(queue, b"a")
        await queue.done((await queue.take_one()).lease)
        await queue.pass_time(50)
        assert await self.put(queue, b"a") is Stored.DUPLICATE
        await queue.pass_time(51)
        assert await self.put(queue, b"a") is Stored.NEW

    async def test_those_that_are_over_are_removed(self, open_queue: Open) -> None:
        queue = await open_queue(dedupe=100)
        await self.put(queue, b"a")
        await queue.pass_time(101)
        await self.put(queue, b"a", "2")
        await queue.storage.tell("me", "all is well")
        assert await queue.execute("SELECT id FROM penstock.ids") == [("2",)]

    async def test_of_a_refused_put_is_not_known(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=1)
        await queue.put(b"a")
        assert await self.put(queue, b"b") is Stored.FULL
        await queue.done((await queue.take_one()).lease)
        assert await self.put(queue, b"b") is Stored.NEW
        assert await queue.take_data() == [b"b"]

    async def test_is_of_one_queue(self, open_queue: Open) -> None:
        one, other = await open_queue("one"), await open_queue("other")
        await self.put(one, b"a")
        assert await self.put(other, b"b") is Stored.NEW


class TestLeases:
    async def test_two_workers_and_one_item(self, open_queue: Open) -> None:
        workers = [await open_queue() for _ in range(4)]
        for _ in range(20):
            await workers[0].put(b"a")
            taken = await asyncio.gather(*(worker.take() for worker in workers))
            (item,) = [item for items in taken for item in items]
            await workers[0].done(item.lease)

    async def test_an_item_is_handed_out_again_when_its_lease_ends(self, open_queue: Open) -> None:
        dead, heir = await open_queue(ack_wait=3000), await open_queue(ack_wait=3000)
        await dead.put(b"a")
        await dead.take()
        await heir.pass_time(2000)
        items, left = await heir.storage.take(1)
        assert items == []
        assert left == pytest.approx(1000, abs=100)
        await heir.pass_time(1001)
        item = await heir.take_one()
        assert (item.data, item.deliveries) == (b"a", 2)
        assert item.age == pytest.approx(3001, abs=100)

    async def test_one_that_is_extended_goes_on(self, open_queue: Open) -> None:
        alive, other = await open_queue(ack_wait=3000), await open_queue(ack_wait=3000)
        await alive.put(b"a")
        item = await alive.take_one()
        for _ in range(5):
            await alive.pass_time(2000)
            assert await alive.storage.extend([item.lease]) == 1
            assert await other.take() == []

    async def test_who_lost_the_lease_cannot_hand_the_item_back(self, open_queue: Open) -> None:
        slow, heir = await open_queue(), await open_queue()
        await slow.put(b"a")
        lost = await slow.take_one()
        await slow.pass_time(31)
        item = await heir.take_one()
        assert await slow.storage.extend([lost.lease]) == 0
        assert await slow.storage.give_back([(lost.lease, 0)]) == 0
        assert await slow.storage.add_dead_letter(lost.lease, "E", "") is Kept.LOST
        assert await slow.take() == []
        assert (await slow.storage.counts()).dead_letters == 0
        await heir.done(item.lease)
        assert await heir.storage.size() == 0

    async def test_an_item_that_is_done_late_is_done(self, open_queue: Open) -> None:
        slow, heir = await open_queue(maxsize=1), await open_queue(maxsize=1)
        await slow.put(b"a")
        late = await slow.take_one()
        await slow.pass_time(31)
        item = await heir.take_one()
        await slow.done(late.lease)
        await heir.done(item.lease)
        assert await heir.put(b"b", b"c") == 1  # one place was left, and not two

    async def test_a_late_end_does_not_meet_an_item_that_came_after(self, open_queue: Open) -> None:
        slow, heir = await open_queue(maxsize=1), await open_queue(maxsize=1)
        await slow.put(b"a")
        lost = await slow.take_one()
        await slow.pass_time(31)
        await heir.done((await heir.take_one()).lease)
        await slow.put(b"b")  # in the same slot
        await slow.done(lost.lease)
        assert await slow.take_data() == [b"b"]


class TestFailures:
    async def test_an_item_waits_for_its_next_attempt_and_keeps_its_place(
        self, open_queue: Open
    ) -> None:
        queue = await open_queue()
        await queue.put(b"a", b"b")
        item = await queue.take_one()
        assert await queue.storage.give_back([(item.lease, 500)]) == 1
        assert (await queue.storage.counts()).delayed == 1
        await queue.pass_time(501)
        assert [(one.data, one.deliveries) for one in await queue.take(2)] == [(b"a", 2), (b"b", 1)]

    async def test_a_dead_letter_has_its_reason_and_takes_no_room(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=1)
        await queue.put(b"a", headers={"x": "y"})
        item = await queue.take_one()
        assert await queue.storage.add_dead_letter(item.lease, "LookupError", "no a") is Kept.YES
        assert await queue.put(b"b") == 1
        (letter,) = await queue.storage.dead_letters(10, last=99)
        assert (letter.data, letter.headers, letter.deliveries) == (b"a", {"x": "y"}, 1)
        assert (letter.error_type, letter.error) == ("LookupError", "no a")

    async def test_where_there_are_as_many_as_may_be_the_item_stays(self, open_queue: Open) -> None:
        queue = await open_queue(max_dead_letters=1)
        await queue.put(b"a", b"b")
        first, second = await queue.take(2)
        assert await queue.storage.add_dead_letter(first.lease, "E", "") is Kept.YES
        assert await queue.storage.add_dead_letter(second.lease, "E", "") is Kept.FULL
        assert await queue.storage.size() == 1


class TestPause:
    async def test_nothing_is_handed_out_to_anybody_until_it_is_over(
        self, open_queue: Open
    ) -> None:
        one, other = await open_queue(), await open_queue()
        await one.put(b"a")
        await one.storage.set_paused(True)
        assert await other.storage.take(1) == ([], None)
        assert (await other.storage.counts()).is_paused is True
        assert await other.put(b"b") == 1
        await other.storage.set_paused(False)
        assert await one.take_data() == [b"a", b"b"]


class TestRedrive:
    async def dead(self, queue: Opened, *data: bytes) -> None:
        for one in data:
            await queue.put(one, headers={"of": one.decode()}, rank=3)
            await queue.storage.add_dead_letter((await queue.take_one()).lease, "E", "")

    async def numbers(self, queue: Opened) -> list[int]:
        return [letter.number for letter in await queue.storage.dead_letters(9, last=99)]

    async def test_puts_them_back_as_if_they_were_new(self, open_queue: Open) -> None:
        queue = await open_queue()
        await self.dead(queue, b"a", b"b")
        await queue.put(b"c")  # of a lower rank
        stored = [await queue.storage.redrive(number) for number in await self.numbers(queue)]
        assert stored == [Stored.NEW] * 2
        assert [(i.data, i.deliveries, i.headers) for i in await queue.take(9)] == [
            (b"c", 1, {}),
            (b"a", 1, {"of": "a"}),
            (b"b", 1, {"of": "b"}),
        ]
        assert await self.numbers(queue) == []

    async def test_one_that_finds_no_room_stays(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=1)
        await self.dead(queue, b"a")
        await queue.put(b"d")
        (number,) = await self.numbers(queue)
        assert await queue.storage.redrive(number) is Stored.FULL
        assert await self.numbers(queue) == [number]

    async def test_twice_is_once_also_at_the_same_time(self, open_queue: Open) -> None:
        queues = [await open_queue() for _ in range(4)]
        await self.dead(queues[0], b"a")
        (number,) = await self.numbers(queues[0])
        stored = await asyncio.gather(*(queue.storage.redrive(number) for queue in queues))
        assert sorted(one.name for one in stored) == ["DUPLICATE"] * 3 + ["NEW"]
        assert await queues[0].storage.size() == 1

    async def test_dead_letters_are_read_in_pages(self, open_queue: Open) -> None:
        queue = await open_queue()
        await self.dead(queue, b"a", b"b", b"c", b"d")
        last = await queue.storage.last_dead_letter()
        await self.dead(queue, b"e")
        first = await queue.storage.dead_letters(2, last=last)
        rest = await queue.storage.dead_letters(9, after=first[-1].number, last=last)
        assert [letter.data for letter in first + rest] == [b"a", b"b", b"c", b"d"]


class TestLooking:
    async def test_counts(self, open_queue: Open) -> None:
        queue = await open_queue(maxsize=7)
        await queue.put(b"a", b"bb", b"ccc", b"dddd")
        first, second, _ = await queue.take(3)
        await queue.storage.give_back([(first.lease, 10)])
        await queue.storage.add_dead_letter(second.lease, "E", "")
        counts = await queue.storage.counts()
        assert (counts.maxsize, counts.size, counts.in_flight, counts.delayed) == (7, 3, 1, 1)
        assert (counts.dead_letters, counts.bytes, counts.redelivered) == (1, 8, 0)

    async def test_of_an_empty_queue(self, open_queue: Open) -> None:
        counts = await (await open_queue()).storage.counts()
        assert (counts.size, counts.bytes, counts.in_flight) == (0, 0, 0)

    async def test_processes_are_seen_until_they_leave_or_are_silent(
        self, open_queue: Open
    ) -> None:
        one, other = await open_queue(), await open_queue()
        await one.storage.tell("one", "first")
        await one.storage.tell("one", "second")
        assert await other.storage.processes("other") == ["second"]
        assert await one.storage.processes("one") == []
        await other.pass_time(31)
        assert await other.storage.processes("other") == []
        await one.storage.tell("one", "third")
        await one.storage.tell("one", None)
        assert await other.storage.processes("other") == []


class TestSettings:
    async def test_that_differ_are_told_with_the_sql_that_changes_them(
        self, open_queue: Open
    ) -> None:
        first = await open_queue("it's", maxsize=10)
        with pytest.raises(BrokerError, match="maxsize is 10 there and 20 here") as raised:
            await open_queue("it's", maxsize=20)
        assert "postgres" in str(raised.value).lower()
        statement = str(raised.value).partition("by SQL: ")[2]
        await first.execute(statement)
        assert await (await open_queue("it's", maxsize=20)).put(*[b"a"] * 21) == 20

    async def test_a_bound_that_is_lowered_holds_at_once_and_items_stay(
        self, open_queue: Open
    ) -> None:
        queue = await open_queue(maxsize=6)
        await queue.put(b"a", b"b", b"c", b"d")
        await queue.execute("UPDATE penstock.queues SET maxsize = 2")
        assert await queue.put(b"e") == 0
        for left, room in ((b"a", 0), (b"b", 0), (b"c", 1)):
            item = await queue.take_one()
            assert item.data == left
            await queue.done(item.lease)
            assert await queue.put(b"x") == room
        await queue.execute("UPDATE penstock.queues SET maxsize = 4")
        assert await queue.put(b"y", b"y", b"y") == 2
        slots = await queue.execute("SELECT count(*) FROM penstock.slots")
        assert slots == [(4,)]


class TestCallersTransaction:
    async def test_two_that_put_at_the_same_time_keep_to_the_bound(
        self, open_queue: Open, url: str
    ) -> None:
        queue = await open_queue(maxsize=2)
        one, other = [await psycopg.AsyncConnection.connect(url) for _ in range(2)]
        put = b"SELECT penstock.put('calls', '1')"
        async with one, other:
            for connection in (one, other):
                assert await (await connection.execute(put)).fetchone() == ("new",)
            assert await (await one.execute(put)).fetchone() == ("full",)
            await other.rollback()
            assert await (await one.execute(put)).fetchone() == ("new",)
            assert await queue.take() == []  # it did not commit yet
            await one.commit()
        assert await queue.take_data() == [b"1", b"1"]
