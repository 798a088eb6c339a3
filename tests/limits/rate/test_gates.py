"""A gate for each key: which calls it holds up, and when it is forgotten."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from helpers.tasks import now, settle
from penstock import Limit, Limiter


def by_key(item: Any) -> Any:
    return item


async def times_of(limiter: Limiter, *keys: Any) -> dict[Any, float]:
    """When a call for each of the keys starts."""
    began: dict[Any, float] = {}

    async def start(key: Any) -> None:
        await limiter.acquire(None, False, key)
        began[key] = now()

    await asyncio.gather(*[start(key) for key in keys])
    return began


async def test_a_gate_holds_up_the_calls_of_its_key() -> None:
    limiter = Limiter([Limit(100, 1)])
    limiter.close_for(5, key="a")
    began = await times_of(limiter, "a", "b", None)
    assert began.pop("a") >= 5
    assert set(began.values()) == {0}


async def test_and_those_that_wait_already() -> None:
    limit = Limit(1, 100)
    limiter = Limiter([limit])
    await limiter.acquire()
    waiting = asyncio.ensure_future(times_of(limiter, "a", "b", "a2"))
    await settle()
    limiter.close_for(5, key="a")
    limit.change(max=10)
    began = await waiting
    assert began["a"] >= 5
    assert max(began["b"], began["a2"]) < 1


async def test_and_those_that_were_let_through_but_have_not_gone_on() -> None:
    limit = Limit(1, 100)
    limiter = Limiter([limit])
    await limiter.acquire()
    waiting = asyncio.ensure_future(times_of(limiter, "a", "b"))
    await settle()
    limit.change(max=10)  # both may start, and would in the loop's next turn
    limiter.close_for(5, key="a")
    began = await waiting
    assert began["a"] >= 5
    assert began["b"] < 1


async def test_those_who_wait_for_a_gate_keep_their_order() -> None:
    limiter = Limiter([Limit(1, 1)])
    await limiter.acquire()
    order: list[int] = []

    async def start(number: int) -> None:
        await limiter.acquire(None, False, "a")
        order.append(number)

    tasks = [asyncio.create_task(start(number)) for number in range(4)]
    await settle()
    limiter.close_for(3, key="a")
    tasks += [asyncio.create_task(start(number)) for number in range(4, 7)]
    await asyncio.gather(*tasks)
    assert order == list(range(7))


async def test_the_gate_for_all_holds_up_every_key() -> None:
    limiter = Limiter([])
    limiter.close_for(2, key="a")
    limiter.close_for(5)
    assert min((await times_of(limiter, "a", "b", None)).values()) >= 5


async def test_the_keys_of_limits_have_gates() -> None:
    limiter = Limiter([Limit(100, 1, key=by_key), Limit(500, 1)])
    permit = await limiter.acquire("a")
    limiter.refused(5, permit=permit)
    assert limiter.try_acquire("a") is None
    assert 5 <= limiter.wait_time("a") <= 5.5
    assert limiter.try_acquire("b") is not None
    assert limiter.wait_time("b") == 0
    assert limiter.closed_for("a") == 5
    assert limiter.closed_for() == limiter.closed_for("b") == 0
    assert limiter.statistics().closed_for == 5
    assert limiter.statistics().closures == 1


async def test_headers_close_the_gate_of_a_key() -> None:
    limiter = Limiter([])
    limiter.observe({"Retry-After": "7"}, 429, key="a")
    assert (limiter.closed_for("a"), limiter.closed_for("b")) == (7, 0)


async def test_a_refusal_without_a_time_closes_the_gate_of_its_key_and_one_goes_first() -> None:
    limiter = Limiter([Limit(100, 1, key=by_key)])
    permit = await limiter.acquire("a")
    await asyncio.sleep(0.5)
    limiter.refused(permit=permit)
    starts: list[float] = []

    async def start() -> None:
        await limiter.acquire("a")
        starts.append(now())

    await asyncio.gather(*[start() for _ in range(5)])
    assert 1.5 <= starts[0] <= 2
    assert starts[1] >= starts[0] + 1  # twice as long as the refusal took
    assert len(set(starts)) == 5


async def test_what_was_let_through_in_this_moment_is_held_up_all_the_same() -> None:
    limiter = Limiter([])
    limiter.close_for(1, key="a")
    waiting = asyncio.ensure_future(times_of(limiter, "a"))
    await settle()
    await asyncio.sleep(1 - now())
    limiter.close_for(5, key="a")
    assert (await waiting)["a"] >= 6


async def test_gates_are_forgotten_and_closures_are_not() -> None:
    limiter = Limiter([Limit(10, 1, key=by_key)])
    for number in range(300):
        limiter.refused(1, permit=await limiter.acquire(number))
        await asyncio.sleep(1)
    assert len(limiter._gates.logs) < 30
    assert limiter.statistics().closures == 300
    await asyncio.sleep(100)
    for _ in range(30):
        await limiter.acquire("other")
    assert not limiter._gates.logs
    assert not limiter._is_gated


def test_a_key_that_cannot_be_one_is_refused() -> None:
    limiter = Limiter([])
    for call in (
        lambda: limiter.close_for(1, key=["a"]),  # type: ignore[arg-type]
        lambda: limiter.refused(1, key=["a"]),  # type: ignore[arg-type]
        lambda: limiter.observe({}, 429, key=["a"]),  # type: ignore[arg-type]
        lambda: limiter.closed_for(["a"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"key must be hashable, got \['a'\]"):
            call()


async def test_a_call_that_waits_for_a_gate_may_be_cancelled() -> None:
    limiter = Limiter([Limit(1, 1)])
    limiter.close_for(5, key="a")
    waiting = asyncio.ensure_future(limiter.acquire(None, False, "a"))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert limiter.statistics().waiting == 0
    assert limiter.try_acquire() is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_in_a_forked_child_all_gates_are_open() -> None:
    limiter = Limiter([])
    limiter.close_for(60, key="a")
    limiter.close_for(60)
    child = os.fork()
    if not child:
        limiter.acquire_blocking(timeout=1, gate_key="a")
        os._exit(0 if limiter.statistics().closed_for == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert limiter.closed_for("a") > 0


def test_a_gate_holds_up_tasks_of_several_loops_and_threads() -> None:
    limiter, began = Limiter([]), time.monotonic()
    limiter.close_for(0.2, key="a")

    async def start() -> None:
        await asyncio.gather(*[limiter.acquire(None, False, "a") for _ in range(3)])

    def in_loop() -> float:
        asyncio.run(start())
        return time.monotonic()

    def in_thread() -> float:
        limiter.acquire_blocking(gate_key="a")
        return time.monotonic()

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(each) for each in (in_loop, in_thread, in_loop, in_thread)]
        assert min(future.result(30) for future in futures) >= began + 0.2
    assert limiter.statistics().waiting == 0


def test_threads_wait_for_a_gate_too() -> None:
    limiter = Limiter([])
    limiter.close_for(60, key="a")
    with pytest.raises(TimeoutError):
        limiter.acquire_blocking(timeout=0.01, gate_key="a")
    limiter.acquire_blocking(timeout=0.01, gate_key="b")
    limiter.close_for(0.05, key="c")
    limiter.acquire_blocking(gate_key="c")
    assert limiter.closed_for("c") == 0
