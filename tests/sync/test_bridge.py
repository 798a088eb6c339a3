"""The line that threads put into: its bound, its order, and its wake-ups."""

from __future__ import annotations

import asyncio
import math
from contextvars import copy_context

import pytest

from penstock.queue.store import PutOutcome
from penstock.sync.blocking import drive
from penstock.sync.bridge import Bridge
from sync.helpers import BOUND, eventually, in_thread


@pytest.fixture
async def bridge() -> Bridge[str]:
    bridge: Bridge[str] = Bridge(2)
    bridge.open()
    return bridge


def items(bridge: Bridge[str]) -> list[str]:
    return [entry[1] for entry in bridge.snapshot()]


@pytest.mark.real_time
async def test_the_bound_and_the_order(bridge: Bridge[str]) -> None:
    assert [bridge.offer(item) for item in "abc"] == [True, True, False]
    assert items(bridge) == ["a", "b"]
    waiting = in_thread(drive, bridge.wait_for_room("d", None))
    await asyncio.to_thread(eventually, lambda: bridge.putters)
    entry = bridge.take()
    assert entry is not None
    assert entry[1] == "a"
    assert bridge.offer("newcomer") is False  # the slot was the putter's before it could know
    assert items(bridge) == ["b", "d"]
    assert await asyncio.wrap_future(waiting) is PutOutcome.ACCEPTED
    assert (bridge.accepted, bridge.ready, bridge.peak) == (3, 2, 2)


@pytest.mark.real_time
async def test_what_is_given_back_comes_first_and_is_no_part_of_the_bound(
    bridge: Bridge[str],
) -> None:
    bridge.offer("a")
    bridge.offer("b")
    first = bridge.take()
    assert first is not None
    bridge.offer("c")
    bridge.requeue(first)
    assert items(bridge) == ["a", "b", "c"]
    assert len(bridge) == 2
    assert bridge.ready == 3
    bridge.discard([first])
    bridge.discard([first])
    assert items(bridge) == ["b", "c"]


@pytest.mark.real_time
async def test_a_wait_for_room_ends_in_time_and_with_the_line(bridge: Bridge[str]) -> None:
    bridge.offer("a")
    bridge.offer("b")
    assert drive(bridge.wait_for_room("c", 0.01)) is PutOutcome.TIMED_OUT
    assert bridge.putters == 0
    waiting = in_thread(drive, bridge.wait_for_room("c", 1e300))
    await asyncio.to_thread(eventually, lambda: bridge.putters)
    bridge.close()
    assert await asyncio.wrap_future(waiting) is PutOutcome.CLOSED
    assert drive(bridge.wait_for_room("d", None)) is PutOutcome.CLOSED
    assert bridge.offer("d") is False
    assert items(bridge) == ["a", "b"]


@pytest.mark.real_time
async def test_room_that_came_since_the_caller_looked_is_taken(bridge: Bridge[str]) -> None:
    assert drive(bridge.wait_for_room("a", None, None, copy_context())) is PutOutcome.ACCEPTED
    assert items(bridge) == ["a"]


@pytest.mark.real_time
async def test_threads_that_wait_for_an_entry_are_called_one_for_each(bridge: Bridge[str]) -> None:
    waits = [in_thread(drive, bridge.wait(math.inf)) for _ in range(3)]
    await asyncio.to_thread(eventually, lambda: len(bridge._waiters) == 3)
    bridge.offer("a")
    await asyncio.to_thread(eventually, lambda: sum(wait.done() for wait in waits) == 1)
    bridge.wake_all()
    assert [wait.result(BOUND) for wait in waits] == [True] * 3
    assert drive(bridge.wait(0)) is True  # there is one to take
    bridge.take()
    assert drive(bridge.wait(0.01)) is False
    bridge.close()
    assert drive(bridge.wait(None)) is False


def test_a_coroutine_that_would_suspend_is_a_mistake() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="must not suspend"):
        drive(suspends())
