"""Stopping, and what becomes of the items that are left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from contract.helpers import (
    NOT_SECONDS,
    SLACK,
    InOrder,
    MakeQueue,
    a_while,
    check_that_it_took,
    filled,
    queue_that_is,
    quite_a_while,
)
from helpers.queues import put_all
from helpers.tasks import now, until
from helpers.workers import Worker
from penstock import QueueStateError, QueueStatus


class TestStop:
    @pytest.mark.usefixtures("drains")
    async def test_it_drains(self, make_queue: MakeQueue, in_order: InOrder) -> None:
        queue = make_queue()
        worker = Worker()
        await queue.start_workers(worker, 2)
        await put_all(queue, *range(10))
        assert await queue.stop() is True
        assert in_order(worker.done) == list(range(10))
        assert queue.unprocessed == []
        assert queue.worker_count == 0

    async def test_without_workers_all_is_left(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        assert await queue.stop() is False
        assert queue.unprocessed == ["a", "b"]
        assert await queue.stop() is False

    async def test_without_draining_what_waits_is_left(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b", "c")
        await until(lambda: worker.began == ["a"])
        stop = asyncio.create_task(queue.stop(drain=False))
        await until(lambda: queue.status == "stopping")
        worker.may_go_on.set()
        assert await stop is False
        assert worker.done == ["a"]
        assert queue.unprocessed == ["b", "c"]

    @pytest.mark.parametrize("timeout", [0, 0.5])
    async def test_after_the_timeout_what_was_in_hand_comes_first(
        self, make_queue: MakeQueue, in_order: InOrder, timeout: float
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 2)
        await put_all(queue, *"abcde")
        await until(lambda: in_order(worker.began) == ["a", "b"])
        began = now()
        assert await queue.stop(timeout=timeout) is False
        check_that_it_took(began, timeout)
        assert queue.unprocessed == list("abcde")
        assert queue.metrics["processed"] == 0

    async def test_the_next_start_takes_up_what_was_left(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 2)
        await put_all(queue, *"abc")
        await until(lambda: in_order(worker.began) == ["a", "b"])
        await queue.stop(timeout=0)
        await queue.start()
        await put_all(queue, "d")
        assert queue.unprocessed == list("abcd")
        worker = Worker()
        await queue.start_workers(worker, 1)
        await queue.join()
        assert worker.done == list("abcd")
        assert await queue.stop() is True
        assert queue.metrics["enqueued"] == queue.metrics["processed"] == 4

    @pytest.mark.parametrize("timeout", NOT_SECONDS)
    async def test_what_is_no_timeout(self, make_queue: MakeQueue, timeout: Any) -> None:
        queue = make_queue()
        await queue.start()
        await queue.start_workers(Worker(), 1)
        with pytest.raises(ValueError, match="timeout"):
            await queue.stop(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            await queue.stop_workers(timeout=timeout)
        assert queue.status == QueueStatus.PROCESSING
        assert queue.worker_count == 1

    async def test_the_shorter_timeout_of_two_counts(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a")
        await until(lambda: worker.began == ["a"])
        began = now()
        stops = [queue.stop(), queue.stop(timeout=0.5), queue.stop(timeout=60)]
        assert await asyncio.gather(*stops) == [False, False, False]
        check_that_it_took(began, 0.5)

    @pytest.mark.usefixtures("cancellable_calls")
    async def test_cancelling_it_stops_at_once(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        stop = asyncio.create_task(queue.stop())
        await until(lambda: queue.status == "stopping")
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        assert queue.status == QueueStatus.STOPPED
        assert queue.unprocessed == ["a", "b"]

    async def test_a_worker_that_ignores_its_cancellation_is_left_behind(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue()
        began: list[str] = []
        done: list[str] = []
        may_end = asyncio.Event()

        async def work(item: str) -> None:
            began.append(item)
            while not may_end.is_set():
                with suppress(asyncio.CancelledError):
                    await may_end.wait()
            done.append(item)

        await queue.start_workers(work, 1)
        await put_all(queue, "a", "b")
        await until(lambda: began == ["a"])
        called_at = now()
        assert await queue.stop(timeout=0) is False
        check_that_it_took(called_at, 0, 1 + SLACK)
        assert queue.unprocessed == ["a", "b"]
        may_end.set()
        await until(lambda: done == ["a"])
        assert queue.unprocessed == ["a", "b"]  # its end comes too late to count
        assert queue.metrics["processed"] == 0

    async def test_it_tells_what_was_left_even_if_the_queue_has_started_again(
        self, make_queue: MakeQueue
    ) -> None:
        async with queue_that_is("stopping", make_queue) as queue:

            async def start_and_put() -> None:
                await queue.start()
                await put_all(queue, "more")

            restart = asyncio.create_task(start_and_put())
            await a_while()
            stop = asyncio.create_task(queue.stop())
            await quite_a_while()
        await restart
        assert await stop is True

    @pytest.mark.parametrize("call", ["stop", "join", "stop_workers"])
    async def test_a_worker_cannot_wait_for_itself(self, make_queue: MakeQueue, call: str) -> None:
        queue = make_queue()
        errors: list[BaseException] = []

        async def work(item: str) -> None:
            try:
                await getattr(queue, call)()
            except QueueStateError as error:
                errors.append(error)

        await queue.start_workers(work, 1)
        await put_all(queue, "a")
        await until(lambda: bool(errors))
        assert "inside a worker function" in str(errors[0])
        await queue.join()


class TestAsyncWith:
    @pytest.mark.usefixtures("drains")
    async def test_it_starts_and_drains(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = make_queue()
        async with queue as same:
            assert same is queue
            assert queue.status == QueueStatus.PROCESSING
            await queue.start_workers(worker, 1)
            await put_all(queue, "a", "b")
        assert queue.status == QueueStatus.STOPPED
        assert worker.done == ["a", "b"]

    async def test_an_exception_does_not_drain(self, make_queue: MakeQueue) -> None:
        worker = Worker(held=True)
        queue = make_queue()
        began = now()

        async def fail_in_the_middle() -> None:
            async with queue:
                await queue.start_workers(worker, 1)
                await put_all(queue, "a", "b")
                await until(lambda: worker.began == ["a"])
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await fail_in_the_middle()
        check_that_it_took(began, 0)
        assert queue.status == QueueStatus.STOPPED
        assert worker.done == []
        assert queue.unprocessed == ["a", "b"]

    async def test_again(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        for item in ("a", "b"):
            worker = Worker()
            async with queue:
                await queue.start_workers(worker, 1)
                await put_all(queue, item)
                await queue.join()
            assert worker.done == [item]
