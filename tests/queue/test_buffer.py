"""The buffer's own bookkeeping. What it does for users is tested through the queue."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from helpers.tasks import settle
from penstock.queue.buffer import Buffer, PutOutcome
from penstock.workers.calls import FINISHED
from penstock.workers.job import Job


def begin_to_wait(buffer: Buffer[Any], item: Any) -> asyncio.Task[PutOutcome]:
    return asyncio.ensure_future(buffer.wait_for_room(item, None))


def take(buffer: Buffer[Any], count: int) -> list[Any]:
    return [entry for _ in range(count) if (entry := buffer.take_by_hand()) is not None]


def items(buffer: Buffer[Any]) -> list[Any]:
    return [entry[1] for entry in buffer.snapshot()]


def test_the_line_is_never_longer_than_the_bound() -> None:
    buffer: Buffer[int] = Buffer(2)
    assert [buffer.offer(item) for item in range(4)] == [True, True, False, False]
    assert len(buffer) == buffer.peak == buffer.accepted == buffer.ready == 2
    assert items(buffer) == [0, 1]


def test_nothing_is_taken_from_an_empty_line() -> None:
    assert Buffer(1).take_by_hand() is None


async def test_what_is_given_back_stands_before_the_line_in_its_own_order() -> None:
    buffer: Buffer[int] = Buffer(6)
    for item in range(6):
        buffer.offer(item)
    taken = take(buffer, 4)
    random.Random(3).shuffle(taken)
    for entry in taken:
        buffer.requeue(entry)
    assert items(buffer) == [0, 1, 2, 3, 4, 5]
    assert len(buffer) == 2
    assert buffer.ready == 6
    assert [entry[1] for entry in take(buffer, 6)] == [0, 1, 2, 3, 4, 5]


async def test_the_peak_counts_the_entry_that_gets_the_room_of_a_delayed_one() -> None:
    buffer: Buffer[str] = Buffer(2)
    buffer.offer("first")
    for entry in take(buffer, 1):
        buffer.delay(entry, 0.0)
    buffer.offer("second")
    assert buffer.peak == 1
    waiting = begin_to_wait(buffer, "third")
    await settle()
    assert items(buffer) == ["first", "second"]
    take(buffer, 1)  # "first", which makes room
    assert await waiting is PutOutcome.ACCEPTED
    assert len(buffer) == buffer.peak == 2


async def test_a_granted_place_is_neither_free_nor_accepted_until_it_is_confirmed() -> None:
    buffer: Buffer[str] = Buffer(1)
    buffer.offer("first")
    waiting = begin_to_wait(buffer, "second")
    await asyncio.sleep(0)
    assert buffer.putters == 1
    assert buffer.take_by_hand() is not None  # grants the place
    assert len(buffer) == 1
    assert (buffer.putters, buffer.accepted, buffer.ready) == (1, 1, 0)
    assert items(buffer) == []
    assert buffer.take_by_hand() is None
    assert await waiting is PutOutcome.ACCEPTED
    assert (buffer.putters, buffer.accepted, buffer.ready) == (0, 2, 1)


async def test_a_job_does_not_own_what_is_granted_to_others() -> None:
    buffer: Buffer[str] = Buffer(1)
    buffer.offer("first")
    waiting = begin_to_wait(buffer, "second")
    await asyncio.sleep(0)
    assert buffer.take_by_hand() is not None  # grants the place
    buffer.open_lane(Job(print, 1))
    assert await waiting is PutOutcome.ACCEPTED
    assert buffer.take() is None  # nobody has a function for it
    assert items(buffer) == ["second"]


async def test_a_job_does_not_own_what_others_give_back() -> None:
    buffer: Buffer[str] = Buffer(1)
    buffer.offer("first")
    entry = buffer.take_by_hand()
    assert entry is not None
    buffer.open_lane(Job(print, 1))
    buffer.requeue(entry)
    assert buffer.take() is None  # nobody has a function for it
    assert items(buffer) == ["first"]


async def test_a_delay_is_no_shorter_because_another_is_over() -> None:
    buffer: Buffer[str] = Buffer(2)
    buffer.offer("soon")
    buffer.offer("late")
    for entry, seconds in zip(take(buffer, 2), (1, 1000), strict=True):
        buffer.delay(entry, seconds)
    buffer.discard(buffer.snapshot()[:1])
    await asyncio.sleep(2)
    assert buffer.take_by_hand() is None
    await asyncio.sleep(1000)
    assert take(buffer, 2)


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_discarding_an_entry_gives_its_place_to_whoever_waits(position: int) -> None:
    buffer: Buffer[int] = Buffer(3)
    for item in range(3):
        buffer.offer(item)
    waiting = begin_to_wait(buffer, 3)
    await asyncio.sleep(0)
    buffer.discard([buffer.snapshot()[position]])
    assert await waiting is PutOutcome.ACCEPTED
    assert items(buffer) == [item for item in range(4) if item != position]


async def test_discarding_what_was_given_back_frees_no_place() -> None:
    buffer: Buffer[int] = Buffer(1)
    buffer.offer(0)
    entry = buffer.take_by_hand()
    assert entry is not None
    buffer.offer(1)
    buffer.requeue(entry)
    waiting = begin_to_wait(buffer, 2)
    await asyncio.sleep(0)
    buffer.discard([entry])
    await settle()
    assert not waiting.done()
    assert items(buffer) == [1]
    waiting.cancel()


class Place(int):
    """A place in the order of puts that counts how often it is compared, or looked up."""

    comparisons = 0

    def __hash__(self) -> int:
        Place.comparisons += 1
        return int(self)

    def __add__(self, other: int) -> Place:
        return Place(int(self) + other)

    def __eq__(self, other: object) -> bool:
        Place.comparisons += 1
        return int(self) == other

    def __lt__(self, other: int) -> bool:
        Place.comparisons += 1
        return int(self) < int(other)


@pytest.fixture
def places() -> type[Place]:
    Place.comparisons = 0
    return Place


def filled(size: int) -> Buffer[int]:
    buffer: Buffer[int] = Buffer(size)
    buffer._last_number = Place()
    for item in range(size):
        assert buffer.offer(item)
    return buffer


@pytest.mark.parametrize("where", ["in line", "given back", "postponed"])
async def test_discarding_many_entries_looks_at_each_a_few_times(
    places: type[Place], where: str
) -> None:
    buffer = filled(512)
    if where != "in line":
        for entry in take(buffer, 512):
            buffer.requeue(entry) if where == "given back" else buffer.delay(entry, 1.0)
    entries = buffer.snapshot()
    places.comparisons = 0
    assert buffer.discard(entries[256:]) == 256
    assert places.comparisons < 512 * 20
    assert items(buffer) == list(range(256))
    assert buffer.discard(entries[256:]) == 0  # they are not there any more
    buffer.close()
    buffer.end()
    assert [entry[1] for entry in take(buffer, 512)] == list(range(256))


async def test_a_close_looks_a_few_times_at_each_entry_that_putters_were_granted(
    places: type[Place],
) -> None:
    buffer = filled(512)
    waiting = [begin_to_wait(buffer, item) for item in range(256)]
    await asyncio.sleep(0)
    take(buffer, 256)
    assert buffer.putters == 256
    places.comparisons = 0
    buffer.close()
    assert places.comparisons < 512 * 20
    assert items(buffer) == list(range(256, 512))
    assert set(await asyncio.gather(*waiting)) == {PutOutcome.CLOSED}


async def test_each_put_cancelled_after_it_was_granted_looks_at_few_entries(
    places: type[Place],
) -> None:
    buffer = filled(512)
    waiting = [begin_to_wait(buffer, item) for item in range(512, 768)]
    await asyncio.sleep(0)
    take(buffer, 256)
    places.comparisons = 0
    for put in waiting:
        if waiting.index(put) % 8:
            put.cancel()
    await asyncio.wait(waiting)
    assert places.comparisons < 256 * 40
    left = [*range(256, 512), *range(512, 768, 8)]
    assert items(buffer) == left
    assert len(buffer) == buffer.ready == len(left)
    assert [entry[1] for entry in take(buffer, 512)] == left


async def test_one_taker_is_called_for_a_burst_and_calls_the_others_itself() -> None:
    buffer: Buffer[int] = Buffer(10)
    takers = [asyncio.ensure_future(buffer.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    for item in range(3):
        buffer.offer(item)
    await settle()
    assert [taker.done() for taker in takers] == [True, False, False]
    buffer.take_by_hand()
    buffer.wake()  # as the first one does when it has to wait with its entry in hand
    await settle()
    assert all(taker.done() for taker in takers)


async def test_a_taker_cancelled_when_it_was_called_passes_the_call_on() -> None:
    buffer: Buffer[int] = Buffer(10)
    first, second = (asyncio.ensure_future(buffer.wait()) for _ in range(2))
    await asyncio.sleep(0)
    buffer.offer(0)
    first.cancel()
    assert await second is True
    assert first.cancelled()


async def test_a_closed_buffer_keeps_nobody_waiting() -> None:
    buffer: Buffer[int] = Buffer(1)
    buffer.offer(0)
    putter, taker = begin_to_wait(buffer, 1), asyncio.ensure_future(buffer.wait())
    await asyncio.sleep(0)
    buffer.close()
    assert await putter is PutOutcome.CLOSED
    assert await taker is True, "to have a look around"
    assert await buffer.wait() is False
    assert items(buffer) == [0]
    buffer.open()
    assert not buffer.closed


async def test_random_putters_and_takers_lose_nothing_and_keep_the_order() -> None:
    rng = random.Random(11)
    buffer: Buffer[int] = Buffer(3)
    accepted: set[int] = set()
    refused: set[int] = set()
    taken: list[int] = []

    async def put(item: int) -> None:
        try:
            if not buffer.offer(item):
                await buffer.wait_for_room(item, None)
        except asyncio.CancelledError:
            refused.add(item)
            raise
        accepted.add(item)

    async def take() -> None:
        while True:
            while (entry := buffer.take_by_hand()) is None:
                await buffer.wait()
            assert len(buffer) <= 3
            taken.append(entry[0])
            await asyncio.sleep(rng.random())

    takers = [asyncio.ensure_future(take()) for _ in range(2)]
    puts = []
    for item in range(200):
        puts.append(asyncio.ensure_future(put(item)))
        await asyncio.sleep(rng.choice([0, 0, 0.3]))
        if rng.random() < 0.3:
            rng.choice(puts).cancel()
    await asyncio.wait(puts)
    await asyncio.sleep(100)
    for taker in takers:
        taker.cancel()
    assert len(taken) == len(accepted) == buffer.accepted
    assert accepted | refused == set(range(200))
    assert taken == sorted(taken), "the order of acceptance is the order of taking"
    assert len(buffer) == buffer.ready == buffer.putters == 0


def test_the_mark_of_a_finished_call_shows_under_its_name() -> None:
    assert repr(FINISHED) == "FINISHED"
