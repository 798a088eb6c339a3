"""The limiter with threads, and with threads and loops at once. Every wait is bounded."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.rate.permit import Permit
from sync.helpers import eventually

#: Seconds after which something is taken to hang.
PATIENCE = 60


def counted_at(permit: Permit) -> float:
    """When a start was counted. A thread goes on later: how much later is the machine's doing."""
    return permit._records[0].at


def most_in_any_window(times: list[float], per: float) -> int:
    times = sorted(times)
    return max(sum(a <= b < a + per for b in times) for a in times)


class Starter(threading.Thread):
    """A thread that acquires once, and remembers what came of it."""

    def __init__(self, limiter: Limiter, item: Any = None, timeout: float | None = None) -> None:
        super().__init__(daemon=True)
        self.work = (limiter, item, timeout)
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        limiter, item, timeout = self.work
        try:
            self.outcome = limiter.acquire_blocking(item, timeout)
        except BaseException as error:
            self.outcome = error

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "it hangs"
        return self.outcome


def waiting(limiter: Limiter) -> int:
    return limiter.statistics().waiting


def test_threads_share_a_limit_and_no_window_holds_too_much() -> None:
    per = 0.1
    limiter = Limiter([Limit(5, per)])
    times: list[float] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait(PATIENCE)
        permits = [limiter.acquire_blocking(timeout=PATIENCE) for _ in range(5)]
        times.extend(map(counted_at, permits))

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result(PATIENCE)
    assert len(times) == 40
    assert most_in_any_window(times, per) == 5
    assert time.monotonic() - began >= 7 * per


@pytest.mark.parametrize("loops", [1, 2])
def test_threads_and_loops_share_one_limiter(loops: int) -> None:
    per = 0.05
    limiter = Limiter([Limit(4, per)])
    times: list[float] = []
    barrier = threading.Barrier(loops + 4)

    async def tasks() -> None:
        async def one() -> None:
            async with limiter.permit() as permit:
                times.append(counted_at(permit))

        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(10))), PATIENCE)

    def loop() -> None:
        barrier.wait(PATIENCE)
        asyncio.run(tasks())

    def thread() -> None:
        barrier.wait(PATIENCE)
        for _ in range(3):
            with limiter.permit() as permit:
                times.append(counted_at(permit))

    began = time.monotonic()
    with ThreadPoolExecutor(loops + 4) as pool:
        futures = [pool.submit(loop) for _ in range(loops)] + [
            pool.submit(thread) for _ in range(4)
        ]
        for future in futures:
            future.result(PATIENCE)
    count = loops * 10 + 12
    assert len(times) == count
    assert most_in_any_window(times, per) == 4
    assert time.monotonic() - began >= (math.ceil(count / 4) - 1) * per
    assert waiting(limiter) == 0
    assert not limiter._wakeups.timers
    assert not limiter._wakeups.threads


def test_threads_are_served_first_come_first_served() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    limiter.acquire_blocking()
    starters = []
    for number in range(5):
        starters.append(Starter(limiter))
        eventually(lambda number=number: waiting(limiter) == number + 1)  # type: ignore[misc]
    for number, starter in enumerate(starters):
        assert all(each.is_alive() for each in starters[number:])
        limit.change(max=number + 2)
        assert starter.result() is not None


def test_a_thread_that_runs_out_of_time_has_used_nothing_up() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    permit = limiter.acquire_blocking(timeout=0)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no call could start within 0\.02 seconds"):
        limiter.acquire_blocking(timeout=0.02)
    assert time.monotonic() - began >= 0.02
    with pytest.raises(TimeoutError):
        limiter.acquire_blocking(timeout=0)
    starter = Starter(limiter)
    eventually(lambda: waiting(limiter) == 1)
    permit.settle(limit, 0)
    assert starter.result() is not None
    assert waiting(limiter) == 0


def test_when_the_thread_that_watches_the_time_gives_up_another_does() -> None:
    limiter = Limiter([Limit(1, 0.2)])
    limiter.acquire_blocking()
    first = Starter(limiter, timeout=0.02)
    eventually(lambda: waiting(limiter) == 1 or not first.is_alive())
    second = Starter(limiter)
    eventually(lambda: waiting(limiter) == 2 or not first.is_alive())
    first.result()  # a TimeoutError, unless this machine stood still until there was room again
    assert isinstance(second.result(), Permit)


def test_a_thread_wakes_up_when_its_cost_can_no_longer_pass() -> None:
    limit = Limit(10, 1000, cost=lambda item: item)
    limiter = Limiter([limit])
    limiter.acquire_blocking(5)
    starter = Starter(limiter, 8)
    eventually(lambda: waiting(limiter) == 1)
    limit.change(max=7)
    assert isinstance(starter.result(), ValueError)
    assert waiting(limiter) == 0


@pytest.mark.parametrize("change", [{"max": 4}, {"per": 1e-9}, {"max": 5, "per": 900}])
def test_a_higher_rate_wakes_the_threads_and_tasks_of_every_key(change: dict[str, float]) -> None:
    limit = Limit(2, 1000, key=lambda item: item[0])
    limiter = Limiter([limit])
    for item in ("a1", "b1", "a2", "b2"):
        limiter.acquire_blocking(item)
    starters = [Starter(limiter, item) for item in ("a3", "b3")]
    loop = threading.Thread(target=asyncio.run, args=[_acquire_all(limiter, "a4", "b4")])
    loop.start()
    eventually(lambda: waiting(limiter) == 4)
    limit.change(**change)
    assert all(isinstance(starter.result(), Permit) for starter in starters)
    loop.join(PATIENCE)
    assert not loop.is_alive()
    assert waiting(limiter) == 0


async def _acquire_all(limiter: Limiter, *items: str) -> None:
    await asyncio.gather(*map(limiter.acquire, items))


def test_a_thread_settles_the_call_under_way() -> None:
    limit = Limit(10, 1000, cost=lambda item: item)
    limiter = Limiter([limit])
    with limiter.permit(10):
        starter = Starter(limiter, 6)
        eventually(lambda: waiting(limiter) == 1)
        limit.settle(4)
        assert starter.result() is not None


@pytest.mark.real_time
async def test_blocking_in_an_event_loop_is_refused() -> None:
    limiter = Limiter([Limit(1, 1)])
    with pytest.raises(RuntimeError, match=r"would block the event loop.*`await limiter.acquire"):
        limiter.acquire_blocking()
    with pytest.raises(RuntimeError), limiter:
        pass
    assert limiter.statistics().grants == 0


@pytest.mark.parametrize("timeout", [-1, math.nan, "1"])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        Limiter([Limit(1, 1)]).acquire_blocking(timeout=timeout)


@pytest.mark.real_time
async def test_a_loop_that_stands_still_does_not_hold_up_threads() -> None:
    limit = Limit(1, 0.05)
    limiter = Limiter([limit])
    await limiter.acquire()
    assert isinstance(Starter(limiter).result(), Permit), "though this loop did not turn"
    limit.change(per=1000)
    task = asyncio.ensure_future(limiter.acquire())
    await asyncio.sleep(0)
    behind = Starter(limiter)
    eventually(lambda: waiting(limiter) == 2)
    limit.change(per=0.05)
    time.sleep(0.2)  # noqa: ASYNC251 - this is the stall
    assert behind.is_alive(), "the task was first, and its start is still to be counted"
    await asyncio.wait_for(task, PATIENCE)
    assert await asyncio.to_thread(behind.result) is not None


def test_a_loop_that_was_closed_with_waiters_does_not_hold_up_threads() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def leave_some_waiting() -> None:
        await limiter.acquire()
        tasks.extend(asyncio.ensure_future(limiter.acquire()) for _ in range(3))
        await asyncio.sleep(0)

    loop.run_until_complete(leave_some_waiting())
    assert waiting(limiter) == 3
    limit.change(per=0.05)
    loop.close()
    assert Starter(limiter).result() is not None
    assert waiting(limiter) == 0
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.real_time
async def test_a_loop_that_stands_still_is_told_once_of_a_new_time() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    await limiter.acquire()
    task = asyncio.ensure_future(limiter.acquire())
    await asyncio.sleep(0)

    def change_much() -> None:
        for per in range(999, 500, -1):
            limit.change(per=per)

    thread = threading.Thread(target=change_much)
    thread.start()
    thread.join(PATIENCE)  # which blocks this loop
    loop: Any = asyncio.get_running_loop()
    assert len(loop._ready) < 10
    limit.change(per=0.01)
    await asyncio.wait_for(task, PATIENCE)


def test_a_waiter_that_is_thrown_away_holds_nobody_up() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        await limiter.acquire()
        coroutine = limiter.acquire()
        coroutine.send(None)
        return coroutine

    coroutine = loop.run_until_complete(begin())
    assert waiting(limiter) == 1
    with limiter._lock:  # as when the garbage collector comes while the lock is held
        coroutine.close()
    limit.change(per=0.05)
    assert Starter(limiter).result() is not None
    assert waiting(limiter) == 0
    loop.close()


@pytest.mark.real_time
async def test_in_real_time_no_window_holds_too_much() -> None:
    limiter = Limiter([Limit(5, 0.02)])
    times: list[float] = []

    async def call() -> None:
        times.append(counted_at(await limiter.acquire()))

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(20)))
    assert most_in_any_window(times, 0.02) == 5
    assert time.monotonic() - began >= 3 * 0.02
