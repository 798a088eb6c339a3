"""The buffer that threads put into: its bound, its number, and its wake-ups."""

from __future__ import annotations

import asyncio
import math
from contextvars import copy_context

import pytest

from penstock.queue.entry_buffer import PutOutcome
from penstock.sync.buffer import JanusBuffer
from penstock.sync.pool import run_to_completion
from sync.helpers import BOUND, eventually, in_thread


@pytest.fixture
async def buffer() -> JanusBuffer[str]:
    buffer: JanusBuffer[str] = JanusBuffer(2)
    buffer.open()
    return buffer


def items(buffer: JanusBuffer[str]) -> list[str]:
    return [entry[1] for entry in buffer.snapshot()]


@pytest.mark.real_time
async def test_the_bound_and_the_order(buffer: JanusBuffer[str]) -> None:
    assert [buffer.offer(item) for item in "abc"] == [True, True, False]
    assert items(buffer) == ["a", "b"]
    waiting = in_thread(run_to_completion, buffer.wait_for_room("d", None))
    await asyncio.to_thread(eventually, lambda: buffer.putters)
    entry = buffer.take_by_hand()
    assert entry is not None
    assert entry[1] == "a"
    assert buffer.offer("newcomer") is False  # the waiting put had the room before it could know
    assert items(buffer) == ["b", "d"]
    assert await asyncio.wrap_future(waiting) is PutOutcome.ACCEPTED
    assert (buffer.accepted, buffer.ready, buffer.peak) == (3, 2, 2)


@pytest.mark.real_time
async def test_what_is_given_back_comes_first_and_is_no_part_of_the_bound(
    buffer: JanusBuffer[str],
) -> None:
    buffer.offer("a")
    buffer.offer("b")
    first = buffer.take_by_hand()
    assert first is not None
    buffer.offer("c")
    buffer.requeue(first)
    assert items(buffer) == ["a", "b", "c"]
    assert len(buffer) == 2
    assert buffer.ready == 3
    buffer.discard([first])
    buffer.discard([first])
    assert items(buffer) == ["b", "c"]


@pytest.mark.real_time
async def test_a_wait_for_room_ends_in_time_and_with_the_buffer(buffer: JanusBuffer[str]) -> None:
    buffer.offer("a")
    buffer.offer("b")
    assert run_to_completion(buffer.wait_for_room("c", 0.01)) is PutOutcome.TIMED_OUT
    assert buffer.putters == 0
    waiting = in_thread(run_to_completion, buffer.wait_for_room("c", 1e300))
    await asyncio.to_thread(eventually, lambda: buffer.putters)
    buffer.close()
    assert await asyncio.wrap_future(waiting) is PutOutcome.CLOSED
    assert run_to_completion(buffer.wait_for_room("d", None)) is PutOutcome.CLOSED
    assert buffer.offer("d") is False
    assert items(buffer) == ["a", "b"]


@pytest.mark.real_time
async def test_room_that_came_since_the_caller_looked_is_taken(buffer: JanusBuffer[str]) -> None:
    outcome = run_to_completion(buffer.wait_for_room("a", None, None, copy_context()))
    assert outcome is PutOutcome.ACCEPTED
    assert items(buffer) == ["a"]


@pytest.mark.real_time
async def test_threads_that_wait_are_called_one_for_each_entry(
    buffer: JanusBuffer[str],
) -> None:
    waits = [in_thread(run_to_completion, buffer.wait_by_hand(math.inf)) for _ in range(3)]
    await asyncio.to_thread(eventually, lambda: len(buffer._waiters) == 3)
    buffer.offer("a")
    await asyncio.to_thread(eventually, lambda: sum(wait.done() for wait in waits) == 1)
    buffer.wake_all()
    assert [wait.result(BOUND) for wait in waits] == [True] * 3
    assert run_to_completion(buffer.wait_by_hand(0)) is True  # there is one to take
    buffer.take_by_hand()
    assert run_to_completion(buffer.wait_by_hand(0.01)) is False
    buffer.close()
    assert run_to_completion(buffer.wait_by_hand(None)) is False


def test_a_coroutine_that_would_suspend_is_a_mistake() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="must not suspend"):
        run_to_completion(suspends())
