"""How waiters are woken: one timer for each event loop, and one thread that watches the time."""

from __future__ import annotations

import asyncio
import math

from penstock.limits.rate.waiters import LoopTimer, LoopWaiter, ThreadWaiter, Wakeups


def no_callback(timer: LoopTimer) -> None:
    raise AssertionError("no timer is set")


async def test_a_late_call_of_a_dropped_timer_leaves_the_next_timer_of_its_loop_alone() -> None:
    loop = asyncio.get_running_loop()
    wakeups = Wakeups()
    first, second = LoopWaiter((), loop), LoopWaiter((), loop)
    wakeups.add(first, no_callback)
    dropped = wakeups.timers[loop]
    wakeups.remove(first, loop)
    assert not wakeups.timers
    wakeups.add(second, no_callback)
    wakeups.drop_unused(dropped)
    assert wakeups.timers[loop].waiters == {second}


async def test_all_waiters_of_a_loop_have_one_timer() -> None:
    loop = asyncio.get_running_loop()
    wakeups = Wakeups()
    waiters = [LoopWaiter((), loop) for _ in range(3)]
    for waiter in waiters:
        wakeups.add(waiter, no_callback)
    assert [timer.waiters for timer in wakeups.timers.values()] == [set(waiters)]


def test_the_thread_that_came_first_watches_the_time_and_then_the_next_one_does() -> None:
    wakeups = Wakeups()
    first, second = ThreadWaiter(()), ThreadWaiter(())
    for waiter in (first, second):
        wakeups.add(waiter, no_callback)
    assert wakeups.watches_time(first)
    assert not wakeups.watches_time(second)
    wakeups.remove(first, None)
    assert second.signal.is_set(), "it learns that it watches the time now"
    assert wakeups.watches_time(second)


def test_the_thread_that_watches_the_time_is_woken_for_an_earlier_time_only() -> None:
    wakeups = Wakeups()
    first, second = ThreadWaiter(()), ThreadWaiter(())
    for waiter in (first, second):
        wakeups.add(waiter, no_callback)
    first.wakes_at = 5
    wakeups.schedule(0, 5, None)
    assert not first.signal.is_set()
    wakeups.schedule(0, 4, None)
    assert first.signal.is_set()
    assert second.wakes_at == math.inf
    assert not second.signal.is_set()


def test_waiters_of_closed_loops_and_destroyed_tasks_are_dead() -> None:
    closed, open_ = asyncio.new_event_loop(), asyncio.new_event_loop()
    wakeups = Wakeups()
    waiters = [LoopWaiter((), loop) for loop in (closed, closed, open_, open_)]
    for waiter in waiters:
        wakeups.add(waiter, no_callback)
    closed.close()
    wakeups.abandoned.append(waiters[2])
    assert set(wakeups.take_dead(None)) == set(waiters[:3])
    assert wakeups.take_dead(None) == []
    assert wakeups.timers[open_].waiters == {waiters[3]}
    open_.close()
