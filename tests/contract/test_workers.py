"""What workers do with items, and with what goes wrong."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from contract.helpers import InOrder, MakeQueue, a_while, check_that_it_took
from helpers.queues import put_all
from helpers.tasks import now, until
from helpers.workers import Worker
from penstock import QueueStatus


class TestWorkers:
    async def test_each_item_once_and_in_order(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=3)
        worker = Worker()
        await queue.start_workers(worker, 1)
        for number in range(20):
            assert await queue.put(number, timeout=math.inf) is True
        await queue.join()
        assert worker.done == list(range(20))
        assert queue.metrics == {
            "enqueued": 20,
            "processed": 20,
            "errors": 0,
            "backpressure_events": 0,
        }

    @pytest.mark.parametrize("workers", [1, 3])
    async def test_so_many_at_once(
        self, make_queue: MakeQueue, in_order: InOrder, workers: int
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, workers)
        await put_all(queue, *range(5))
        await until(lambda: len(worker.began) == workers)
        await a_while()
        assert in_order(worker.began) == list(range(workers))
        assert queue.worker_count == workers
        worker.may_go_on.set()
        await queue.join()

    async def test_a_plain_function(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        threads: dict[str, threading.Thread] = {}

        def work(item: str) -> None:
            threads[item] = threading.current_thread()

        await queue.start_workers(work, 2)
        await put_all(queue, "a", "b")
        await queue.join()
        assert sorted(threads) == ["a", "b"]
        assert threading.current_thread() not in threads.values()

    @pytest.mark.parametrize("workers", [0, -1])
    async def test_fewer_than_one_are_refused(self, make_queue: MakeQueue, workers: int) -> None:
        queue = make_queue()
        with pytest.raises(ValueError, match="Number of workers must be at least 1"):
            await queue.start_workers(Worker(), workers)
        assert queue.worker_count == 0

    async def test_a_failure_is_counted_and_handled(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        error = KeyError("why")
        handled: list[tuple[BaseException, Any]] = []
        done: list[Any] = []

        async def work(item: str) -> None:
            if item == "bad":
                raise error
            done.append(item)

        await queue.start_workers(work, 1, lambda exc, item: handled.append((exc, item)))
        await put_all(queue, "bad", "good")
        await queue.join()
        assert handled == [(error, "bad")]
        assert done == ["good"]
        assert queue.worker_count == 1
        assert queue.metrics == {
            "enqueued": 2,
            "processed": 2,
            "errors": 1,
            "backpressure_events": 0,
        }

    async def test_join_waits_for_an_error_handler(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        handled = []

        async def work(item: str) -> None:
            raise ValueError(item)

        async def handle(exc: Exception, item: str) -> None:
            await a_while()
            handled.append((str(exc), item))

        await queue.start_workers(work, 1, error_handler=handle)
        await put_all(queue, "a")
        await queue.join()
        assert handled == [("a", "a")]

    @pytest.mark.parametrize("stray", [asyncio.CancelledError, BaseException, ZeroDivisionError])
    async def test_no_exception_ends_a_worker(
        self, make_queue: MakeQueue, stray: type[BaseException]
    ) -> None:
        queue = make_queue()
        done = []

        async def work(item: str) -> None:
            if item == "bad":
                raise stray
            done.append(item)

        def handle(exc: BaseException, item: str) -> None:
            raise stray

        await queue.start_workers(work, 1, handle)
        await put_all(queue, "bad", "bad", "good")
        await queue.join()
        assert done == ["good"]
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == 2
        assert queue.metrics["processed"] == 3

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_one_whose_task_is_cancelled_is_replaced(self, make_queue: MakeQueue) -> None:
        done, failed = [], []

        async def work(item: str) -> None:
            if item == "cancels":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(10)
            done.append(item)

        queue = make_queue()
        await queue.start_workers(work, 1, lambda error, item: failed.append((type(error), item)))
        await put_all(queue, "a", "cancels", "b", "cancels", "c")
        await queue.join()
        assert done == ["a", "b", "c"]
        assert failed == [(asyncio.CancelledError, "cancels")] * 2
        assert queue.worker_count == 1

    async def test_new_workers_replace_the_old(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue = make_queue()
        old, new = Worker(held=True), Worker()
        await queue.start_workers(old, 2)
        await put_all(queue, "a", "b")
        await until(lambda: len(old.began) == 2)
        await queue.start_workers(new, 1)
        assert queue.worker_count == 1
        await put_all(queue, "c", "d")
        await until(lambda: new.done == ["c", "d"])
        old.may_go_on.set()
        await queue.join()
        await put_all(queue, "e")
        await queue.join()
        assert in_order(old.done) == ["a", "b"]
        assert new.done == ["c", "d", "e"]

    async def test_stop_workers_lets_them_finish(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        stopping = asyncio.create_task(queue.stop_workers())
        await until(lambda: queue.worker_count == 0)
        await a_while()
        assert not stopping.done()
        worker.may_go_on.set()
        await stopping
        await a_while()
        assert worker.done == ["a"]
        assert queue.worker_count == 0
        assert queue.status is QueueStatus.PROCESSING
        assert queue.unprocessed == ["b"]

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_stop_workers_cancels_them_in_the_end(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        began = now()
        await queue.stop_workers(timeout=0.5)
        check_that_it_took(began, 0.5)
        assert queue.unprocessed == ["a", "b"]
        assert queue.metrics["processed"] == 0
        worker.may_go_on.set()
        await queue.start_workers(worker, 1)
        await queue.join()
        assert worker.done == ["a", "b"]
