"""Putting, taking, and waiting until all is done."""

from __future__ import annotations

import asyncio
import math
import queue as stdlib_queue
from fractions import Fraction
from typing import Any

import pytest

from contract.helpers import (
    NOT_SECONDS,
    MakeQueue,
    a_while,
    check_that_it_took,
    filled,
    queue_that_is,
    quite_a_while,
    until_waiting,
)
from helpers.queues import put_all
from helpers.tasks import now
from helpers.workers import Worker
from penstock import QueueEmptyError, QueueFullError, QueueStateError


class TestPut:
    @pytest.mark.plan("UT-4")
    async def test_true_says_that_it_is_in(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        for size, item in enumerate(("a", "b"), 1):
            assert await queue.put(item) is True
            assert queue.size == size
            assert queue.metrics["enqueued"] == size
        assert queue.unprocessed == ["a", "b"]

    @pytest.mark.plan("UT-5")
    async def test_false_says_that_it_never_will_be(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        assert await queue.put("b") is False
        worker = Worker()
        await queue.start_workers(worker, 1)
        await queue.join()
        await a_while()
        assert worker.began == ["a"]
        assert queue.metrics["enqueued"] == 1
        assert queue.metrics["backpressure_events"] == 1

    @pytest.mark.parametrize("timeout", [0, 0.0, 0.25, 1, Fraction(1, 4)])
    async def test_a_full_queue_refuses_after_the_timeout(
        self, make_queue: MakeQueue, timeout: float
    ) -> None:
        queue = await filled(make_queue, "a", timeout=7)
        began = now()
        assert await queue.put("b", timeout=timeout) is False
        check_that_it_took(began, timeout)

    @pytest.mark.parametrize("arguments", [{}, {"timeout": None}])
    async def test_without_a_timeout_the_queue_has_its_own(
        self, make_queue: MakeQueue, arguments: dict[str, Any]
    ) -> None:
        queue = await filled(make_queue, "a", timeout=0.5)
        began = now()
        assert await queue.put("b", **arguments) is False
        check_that_it_took(began, 0.5)

    async def test_infinity_waits_for_room(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", timeout=0)
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await quite_a_while()
        assert not put.done()
        assert await queue.get() == "a"
        queue.task_done()
        assert await put is True
        assert queue.unprocessed == ["b"]

    async def test_room_in_time_is_taken(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        put = asyncio.create_task(queue.put("b", timeout=60))
        await until_waiting(queue, 1)
        assert await queue.get() == "a"
        queue.task_done()
        assert await put is True
        assert queue.metrics["backpressure_events"] == 0

    @pytest.mark.parametrize("timeout", NOT_SECONDS)
    async def test_what_is_no_timeout(self, make_queue: MakeQueue, timeout: Any) -> None:
        queue = make_queue()
        await queue.start()
        with pytest.raises(ValueError, match="timeout"):
            await queue.put("a", timeout=timeout)
        assert queue.metrics["enqueued"] == 0
        assert queue.is_empty

    async def test_first_come_first_served(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        puts = []
        for item in ("b", "c", "d"):
            puts.append(asyncio.create_task(queue.put(item, timeout=math.inf)))
            await until_waiting(queue, len(puts))
        worker = Worker()
        await queue.start_workers(worker, 1)
        assert await asyncio.gather(*puts) == [True, True, True]
        await queue.join()
        assert worker.done == ["a", "b", "c", "d"]

    @pytest.mark.usefixtures("calls_at_once")
    async def test_a_newcomer_does_not_overtake(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        waiting = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        assert queue.get_nowait() == "a"
        queue.task_done()
        with pytest.raises(QueueFullError):
            queue.put_nowait("newcomer")  # the room belongs to the put that waits
        assert await waiting is True
        assert queue.unprocessed == ["b"]

    @pytest.mark.usefixtures("cancellable_calls")
    async def test_a_cancelled_put_leaves_nothing(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        worker = Worker()
        await queue.start_workers(worker, 1)
        await queue.join()
        await a_while()
        assert worker.began == ["a"]
        assert queue.metrics["enqueued"] == 1
        assert queue.metrics["backpressure_events"] == 0

    async def test_a_put_that_waits_is_told_of_a_stop(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        await queue.stop()
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stop"):
            await put
        assert queue.unprocessed == ["a"]

    @pytest.mark.usefixtures("calls_at_once")
    async def test_put_nowait_into_a_full_queue(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        with pytest.raises(QueueFullError) as caught:
            queue.put_nowait("c")
        assert isinstance(caught.value, stdlib_queue.Full)
        assert isinstance(caught.value, asyncio.QueueFull)
        assert caught.value.queue_size == 2
        assert caught.value.queue_capacity == 2
        assert queue.metrics["backpressure_events"] == 1
        assert queue.unprocessed == ["a", "b"]

    async def test_falsy_and_equal_items_are_items(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        items: list[Any] = [0, None, "", False, [], 0]
        await put_all(queue, *items)
        assert queue.unprocessed == items
        assert [await queue.get() for _ in items] == items


class TestGet:
    @pytest.mark.plan("UT-6")
    async def test_in_the_order_of_the_puts(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b", "c")
        assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]

    async def test_it_waits_for_an_item(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        get = asyncio.create_task(queue.get())
        await quite_a_while()
        assert not get.done()
        await put_all(queue, "a")
        assert await get == "a"

    @pytest.mark.parametrize("timeout", [0, 0.25, 1])
    async def test_no_item_in_time(self, make_queue: MakeQueue, timeout: float) -> None:
        queue = make_queue()
        await queue.start()
        began = now()
        with pytest.raises(QueueEmptyError) as caught:
            await queue.get(timeout=timeout)
        check_that_it_took(began, timeout)
        assert isinstance(caught.value, stdlib_queue.Empty)
        assert isinstance(caught.value, asyncio.QueueEmpty)

    @pytest.mark.usefixtures("calls_at_once")
    async def test_get_nowait(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b", "c")
        assert [await queue.get(), queue.get_nowait(), await queue.get()] == ["a", "b", "c"]

    @pytest.mark.usefixtures("calls_at_once")
    async def test_get_nowait_from_an_empty_queue(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        with pytest.raises(QueueEmptyError) as caught:
            queue.get_nowait()
        assert isinstance(caught.value, stdlib_queue.Empty)
        assert isinstance(caught.value, asyncio.QueueEmpty)

    @pytest.mark.parametrize("timeout", NOT_SECONDS)
    async def test_what_is_no_timeout(self, make_queue: MakeQueue, timeout: Any) -> None:
        queue = await filled(make_queue, "a")
        with pytest.raises(ValueError, match="timeout"):
            await queue.get(timeout=timeout)
        assert queue.unprocessed == ["a"]

    @pytest.mark.usefixtures("cancellable_calls", "calls_at_once")
    async def test_a_cancelled_get_loses_nothing(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        first = asyncio.create_task(queue.get())
        await a_while()
        second = asyncio.create_task(queue.get())
        await a_while()
        queue.put_nowait("a")
        first.cancel()  # in the same step in which its item came
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == "a"

    async def test_a_get_that_waits_is_told_of_a_stop(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        get = asyncio.create_task(queue.get())
        await a_while()
        await queue.stop()
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stop"):
            await get

    async def test_a_get_that_waits_is_told_of_a_stop_before_the_next_start(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue()
        await queue.start()
        get = asyncio.create_task(queue.get())
        await quite_a_while()
        await queue.stop()
        await queue.start()
        await put_all(queue, "a")
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stop"):
            await get
        assert await queue.get() == "a"

    async def test_task_done_once_too_often(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        await queue.get()
        queue.task_done()
        with pytest.raises(ValueError, match="task_done"):
            queue.task_done()
        assert queue.metrics["processed"] == 1


class TestJoin:
    @pytest.mark.parametrize("state", ["idle", "processing", "stopped"])
    async def test_nothing_to_wait_for(self, make_queue: MakeQueue, state: str) -> None:
        async with queue_that_is(state, make_queue) as queue:
            await queue.join()

    @pytest.mark.plan("UT-8")
    async def test_it_waits_for_the_last_item(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        joins = [asyncio.create_task(queue.join()) for _ in range(2)]
        for _ in range(2):
            await a_while()
            assert not any(join.done() for join in joins)
            await queue.get()
            await a_while()
            assert not any(join.done() for join in joins)
            queue.task_done()
        await asyncio.gather(*joins)

    @pytest.mark.plan("UT-8")
    async def test_it_waits_for_workers(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 2)
        await put_all(queue, "a", "b", "c")
        join = asyncio.create_task(queue.join())
        await a_while()
        assert not join.done()
        worker.may_go_on.set()
        await join
        assert sorted(worker.done) == ["a", "b", "c"]

    async def test_a_stop_with_items_left_ends_it(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        join = asyncio.create_task(queue.join())
        await a_while()
        assert await queue.stop() is False
        with pytest.raises(QueueStateError, match=r"stopped .*with 1 items") as caught:
            await join
        assert caught.value.current_state == "stopped"
        with pytest.raises(QueueStateError, match=r"stopped .*with 1 items"):
            await queue.join()

    @pytest.mark.usefixtures("drains")
    async def test_a_stop_that_drains_lets_it_return(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        join = asyncio.create_task(queue.join())
        stop = asyncio.create_task(queue.stop())
        await a_while()
        worker.may_go_on.set()
        await join
        assert await stop is True

    @pytest.mark.usefixtures("cancellable_calls")
    async def test_it_can_be_cancelled(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a")
        join = asyncio.create_task(queue.join())
        await a_while()
        join.cancel()
        with pytest.raises(asyncio.CancelledError):
            await join
        await queue.get()
        queue.task_done()
        await queue.join()
