"""What a queue looks like, and what it allows in which state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contract.helpers import AnyQueue, MakeQueue, a_while, filled, queue_that_is
from helpers.queues import put_all
from helpers.workers import Worker
from penstock import QueueStateError, QueueStatus
from penstock.protocols import Queue


async def call_put(queue: AnyQueue) -> Any:
    return await queue.put("item")


async def call_put_nowait(queue: AnyQueue) -> Any:
    return queue.put_nowait("item")


async def call_get(queue: AnyQueue) -> Any:
    return await queue.get(timeout=0.1)


async def call_get_nowait(queue: AnyQueue) -> Any:
    return queue.get_nowait()


CALLS = [
    pytest.param(call_put, "put items", id="put"),
    pytest.param(call_put_nowait, "put items", id="put_nowait"),
    pytest.param(call_get, "get items", id="get"),
    pytest.param(call_get_nowait, "get items", id="get_nowait"),
]


class TestLooks:
    async def test_it_meets_the_protocol(self, make_queue: MakeQueue) -> None:
        assert isinstance(make_queue(), Queue)

    async def test_before_the_start(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=3)
        assert queue.maxsize == 3
        assert isinstance(queue.name, str)
        assert queue.status == QueueStatus.IDLE
        assert (queue.size, queue.is_empty, queue.is_full) == (0, True, False)
        assert (queue.worker_count, queue.unprocessed) == (0, [])

    async def test_size_and_fullness_follow_the_items(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=2)
        await queue.start()
        looks = []
        for item in ("a", "b"):
            await put_all(queue, item)
            looks.append((queue.size, queue.is_empty, queue.is_full))
        assert looks == [(1, False, False), (2, False, True)]

    @pytest.mark.parametrize("maxsize", [0, -1])
    async def test_a_bound_below_one_is_refused(self, make_queue: MakeQueue, maxsize: int) -> None:
        with pytest.raises(ValueError, match="Queue maxsize must be at least 1"):
            make_queue(maxsize=maxsize)

    async def test_metrics_are_these_four_counts(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        metrics = queue.metrics
        assert metrics == {"enqueued": 0, "processed": 0, "errors": 0, "backpressure_events": 0}
        assert {type(count) for count in metrics.values()} == {int}

    async def test_metrics_are_a_copy(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        queue.metrics["enqueued"] = 17
        assert queue.metrics["enqueued"] == 0


class TestStates:
    @pytest.mark.parametrize(("call", "what"), CALLS)
    @pytest.mark.parametrize("state", ["idle", "stopping", "stopped"])
    async def test_a_queue_that_does_not_run_says_what_it_is(
        self,
        make_queue: MakeQueue,
        state: str,
        call: Callable[[AnyQueue], Awaitable[Any]],
        what: str,
    ) -> None:
        async with queue_that_is(state, make_queue) as queue:
            with pytest.raises(QueueStateError) as caught:
                await call(queue)
            cure = ": start it first, with start() or a with block" if state == "idle" else ""
            assert str(caught.value) == f"Cannot {what} when queue is {state}{cure}"
            assert caught.value.current_state == state
            assert isinstance(caught.value, RuntimeError)
            assert queue.status == state

    async def test_a_running_queue_takes_and_gives(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("processing", make_queue) as queue:
            assert await queue.put("a") is True
            assert await queue.get() == "a"

    @pytest.mark.usefixtures("calls_at_once")
    async def test_a_running_queue_takes_and_gives_at_once(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("processing", make_queue) as queue:
            queue.put_nowait("b")
            assert queue.get_nowait() == "b"

    @pytest.mark.parametrize("state", ["idle", "stopped"])
    async def test_start(self, make_queue: MakeQueue, state: str) -> None:
        async with queue_that_is(state, make_queue) as queue:
            await queue.start()
            assert queue.status == QueueStatus.PROCESSING

    async def test_start_of_a_running_queue_changes_nothing(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        await queue.start()
        assert queue.status == QueueStatus.PROCESSING
        assert queue.unprocessed == ["a", "b"]

    async def test_start_waits_for_a_stop_under_way(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("stopping", make_queue) as queue:
            start = asyncio.create_task(queue.start())
            await a_while()
            assert not start.done()
            assert queue.status == QueueStatus.STOPPING
        await start
        assert queue.status == QueueStatus.PROCESSING

    @pytest.mark.usefixtures("cancellable_calls")
    async def test_a_start_that_is_cancelled_leaves_the_stop_alone(
        self, make_queue: MakeQueue
    ) -> None:
        # queue_that_is() sees to it that the stop has drained everything
        async with queue_that_is("stopping", make_queue) as queue:
            start = asyncio.create_task(queue.start())
            await a_while()
            start.cancel()
            with pytest.raises(asyncio.CancelledError):
                await start
            await a_while()
            assert queue.status == QueueStatus.STOPPING
        assert queue.status == QueueStatus.STOPPED

    @pytest.mark.parametrize("state", ["idle", "processing", "stopped"])
    async def test_stop(self, make_queue: MakeQueue, state: str) -> None:
        async with queue_that_is(state, make_queue) as queue:
            assert await queue.stop() is True
            assert queue.status == QueueStatus.STOPPED

    async def test_stop_joins_the_stop_under_way(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("stopping", make_queue) as queue:
            second = asyncio.create_task(queue.stop())
            await a_while()
            assert not second.done()
        assert await second is True

    @pytest.mark.parametrize("state", ["idle", "processing", "stopped"])
    async def test_start_workers_starts_the_queue(self, make_queue: MakeQueue, state: str) -> None:
        worker = Worker()
        async with queue_that_is(state, make_queue) as queue:
            await queue.start_workers(worker, 2)
            assert queue.status == QueueStatus.PROCESSING
            assert queue.worker_count == 2
            await put_all(queue, "a")
            await queue.join()
        assert worker.done == ["a"]

    async def test_start_workers_on_a_queue_that_stops(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("stopping", make_queue) as queue:
            with pytest.raises(QueueStateError) as caught:
                await queue.start_workers(Worker(), 1)
            assert str(caught.value) == "Cannot start workers when queue is stopping"
            assert caught.value.current_state == "stopping"
