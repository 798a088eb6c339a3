"""Waits for a queue from inside its own async items, in threads that the items have started."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from penstock import QueueStateError
from penstock.sync import WorkQueue
from sync.helpers import BOUND, eventually, in_thread


def test_a_put_for_which_its_own_worker_would_have_to_make_room_is_refused() -> None:
    async def work(item: int) -> None:
        if item == 1:
            assert await asyncio.to_thread(queue.put, 2, math.inf)
            with pytest.raises(QueueStateError, match="inside its own worker"):
                await asyncio.to_thread(queue.put, 3, math.inf)
            assert not await asyncio.to_thread(queue.put, 3, 0.01)

    with WorkQueue[int](1) as queue:
        queue.process(work)
        queue.submit(1).result(BOUND)
        assert queue.join(BOUND)
        assert queue.metrics["processed"] == 2


@pytest.mark.parametrize("call", ["join", "stop", "stop_workers"])
def test_what_would_wait_for_the_item_is_refused_and_what_is_said_works(call: str) -> None:
    async def work(item: int) -> str:
        with pytest.raises(QueueStateError) as told:
            await asyncio.to_thread(getattr(queue, call))
        threads.append(threading.Thread(target=getattr(queue, call)))
        threads[0].start()
        return str(told.value)

    threads: list[threading.Thread] = []
    with WorkQueue[int]() as queue:
        queue.process(work)
        told = queue.submit(1).result(BOUND)
        assert f"Use threading.Thread(target=queue.{call}).start()" in told
        threads[0].join(BOUND)
        assert not threads[0].is_alive()


@pytest.mark.parametrize("is_plain", [False, True])
def test_results_and_jobs_in_a_thread_of_an_item_are_served(is_plain: bool) -> None:
    def begin(item: int) -> Any:  # a plain function, for all that anybody can see
        return work(item)

    async def work(item: int) -> Any:
        if item == 1:
            future = await asyncio.to_thread(queue.submit, 2)
            return await asyncio.to_thread(future.result, BOUND)
        return await asyncio.to_thread(lambda: list(queue.map(str, range(5))))

    with WorkQueue[int](2, concurrency_limit=1) as queue:
        queue.process(begin if is_plain else work)
        assert queue.submit(1).result(BOUND) == list("01234")
        assert queue.join(BOUND)
        eventually(lambda: queue.worker_count == 1)


def test_a_worker_of_one_queue_is_not_inside_of_another_that_put_its_item() -> None:
    """Two stages, the second of which puts back into the first."""
    done: list[int] = []
    second_has_begun = threading.Event()

    async def first(item: int) -> None:
        if item < 3:
            await asyncio.to_thread(two.put, item, math.inf)
            assert await asyncio.to_thread(second_has_begun.wait, BOUND)
        done.append(item)

    def second(item: int) -> None:
        second_has_begun.set()
        one.put(item + 10, timeout=math.inf)

    with WorkQueue[int](1) as one, WorkQueue[int](1) as two:
        one.process(first)
        two.process(second)
        for item in range(3):
            assert one.put(item, timeout=math.inf)
        eventually(lambda: len(done) == 6)
    assert sorted(done) == [0, 1, 2, 10, 11, 12]


def test_an_item_of_a_larger_job_that_waits_adds_no_call_to_the_standing_one() -> None:
    lock = threading.Lock()
    at_once = most = 0

    def work(item: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.002)
        with lock:
            at_once -= 1

    with WorkQueue[int](20) as queue:
        queue.process(work, 1)
        list(queue.map(lambda item: queue.submit(item).result(BOUND), range(20), num_workers=4))
    assert most == 1


def test_workers_that_are_replaced_while_an_item_waits_are_replaced_by_as_many() -> None:
    may_go_on, is_held = threading.Event(), threading.Event()

    def submits(item: int) -> str:
        assert queue.put(0)
        return str(queue.submit(item).result(BOUND))

    def first(item: int) -> None:
        is_held.set()
        assert may_go_on.wait(BOUND)

    def second(item: int) -> str:
        return f"second {item}"

    with WorkQueue[int](20, concurrency_limit=1) as queue:
        queue.process(first)
        job = in_thread(list, queue.map(submits, [1]))
        assert is_held.wait(BOUND)  # the worker that is there since an item waits
        queue.process(second)
        assert job.result(BOUND) == ["second 1"]
        may_go_on.set()
