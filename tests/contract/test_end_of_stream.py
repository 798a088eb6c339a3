"""The end of a stream: ``close()``, what is left then, and when it is over."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from contract.conftest import BLOCKING, BLOCKING_PLAIN, Kind, bounded_queues, work_queues
from contract.helpers import (
    AnyQueue,
    InOrder,
    MakeQueue,
    a_while,
    filled,
    queue_that_is,
    quite_a_while,
    until_waiting,
)
from helpers.queues import put_all
from helpers.retries import every
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import (
    QueueClosedError,
    QueueEmptyError,
    QueueStateError,
    QueueStatus,
)

THREADS = [
    pytest.param(BLOCKING, id="sync.WorkQueue", marks=pytest.mark.real_time),
    pytest.param(BLOCKING_PLAIN, id="sync.WorkQueue-plain", marks=pytest.mark.real_time),
]
WORK_QUEUES = [pytest.param(Kind(work_queues), id="WorkQueue"), *THREADS]


@pytest.fixture(
    params=[
        pytest.param(Kind(bounded_queues), id="BoundedQueue"),
        *THREADS,
    ]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kinds of queue that can be closed."""
    kind: Kind = request.param
    return kind


async def until_stopped(queue: AnyQueue) -> None:
    await until(lambda: queue.status == QueueStatus.STOPPED)


async def consume(queue: Any, into: list[Any]) -> None:
    async for item in queue:
        into.append(item)  # noqa: PERF401 - to be seen as it comes


async def closed_with(make_queue: MakeQueue, *items: Any) -> Any:
    """A queue that was closed with these in it."""
    queue = await filled(make_queue, *items)
    queue.close()  # type: ignore[attr-defined]
    return queue


class TestPut:
    async def test_it_is_refused(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        for call in (queue.put("b"), queue.put("b", timeout=0), queue.put("b", timeout=math.inf)):
            with pytest.raises(QueueClosedError) as caught:
                await call
            assert str(caught.value) == "Cannot put items when queue is closed"
            assert caught.value.current_state == "processing"
        with pytest.raises(QueueClosedError, match="Cannot put items when queue is closed"):
            queue.put_nowait("b")
        assert queue.unprocessed == ["a"]
        assert queue.metrics["backpressure_events"] == 0

    async def test_those_that_wait_are_refused(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        puts = [asyncio.create_task(queue.put(n, timeout=math.inf)) for n in range(5)]
        await until_waiting(queue, 5)
        queue.close()
        for put in puts:
            with pytest.raises(QueueClosedError, match="Cannot put items when queue is closed"):
                await soon(put)
        assert queue.unprocessed == ["a"]
        assert queue.metrics["enqueued"] == 1

    async def test_no_put_gets_the_room_that_a_close_finds(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        queue.close()
        assert await queue.get() == "a"
        with pytest.raises(QueueClosedError):
            await soon(put)
        queue.task_done()
        await soon(queue.join())
        assert queue.metrics["enqueued"] == 1

    async def test_a_put_that_was_accepted_in_time_is_in(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        assert await queue.get() == "a"
        assert await soon(put) is True
        queue.close()
        assert await queue.get() == "b"

    @pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
    async def test_submit_is_refused(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        with pytest.raises(QueueClosedError, match="Cannot put items when queue is closed"):
            await queue.submit("b")


class TestGet:
    async def test_it_hands_out_what_is_left_and_then_says_so(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a", "b", "c")
        assert await queue.get() == "a"
        assert queue.get_nowait() == "b"
        async with queue.processing() as item:
            assert item == "c"
        for call in (queue.get, queue.processing(timeout=5).__aenter__):
            with pytest.raises(QueueClosedError, match="Cannot get items when queue is closed"):
                await soon(call())
        with pytest.raises(QueueClosedError):
            queue.get_nowait()
        with pytest.raises(QueueClosedError):
            await queue.get(timeout=0)

    async def test_it_says_so_after_the_end_too(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        await queue.get()
        queue.task_done()
        await soon(queue.join())
        assert queue.status == QueueStatus.STOPPED
        with pytest.raises(QueueClosedError) as caught:
            await queue.get()
        assert caught.value.current_state == "stopped"
        with pytest.raises(QueueClosedError):
            queue.get_nowait()
        with pytest.raises(QueueClosedError):
            await queue.put("b")

    @pytest.mark.parametrize("timeout", [None, 60, math.inf])
    async def test_all_that_wait_are_told(
        self, make_queue: MakeQueue, timeout: float | None
    ) -> None:
        queue = make_queue()
        await queue.start()
        gets = [asyncio.create_task(queue.get(timeout)) for _ in range(10)]
        await quite_a_while()
        queue.close()
        for get in gets:
            with pytest.raises(QueueClosedError, match="Cannot get items when queue is closed"):
                await soon(get)

    async def test_all_that_wait_are_told_when_the_last_items_are_shared_out(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await filled(make_queue, *range(20))
        got: list[list[int]] = [[] for _ in range(7)]
        consumers = [asyncio.create_task(consume(queue, mine)) for mine in got]
        await a_while()
        await put_all(queue, 20)
        queue.close()  # type: ignore[attr-defined]
        await soon(asyncio.gather(*consumers))
        assert sorted(item for mine in got for item in mine) == list(range(21))
        await soon(queue.join())
        assert queue.status == QueueStatus.STOPPED

    async def test_one_that_waits_is_told_although_the_queue_is_opened_again(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue()
        await queue.start()
        get = asyncio.create_task(queue.get())
        await quite_a_while()
        queue.close()
        await queue.start()
        with pytest.raises(QueueClosedError):
            await soon(get)

    @pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
    async def test_it_waits_for_what_is_to_be_tried_again(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(retry=every(0.3))
        worker = Worker()
        worker.failures = [OSError(), OSError()]
        await queue.process(worker, 1)
        await put_all(queue, "a")
        await until(lambda: queue.statistics().retrying == 1)
        await soon(asyncio.create_task(_stop_workers(queue)))
        queue.close()
        with pytest.raises(QueueEmptyError):
            queue.get_nowait()
        gets = [asyncio.create_task(queue.get()) for _ in range(3)]
        await until(lambda: any(get.done() for get in gets))
        outcomes = await soon(asyncio.gather(*gets, return_exceptions=True))
        assert outcomes.count("a") == 1
        assert sum(isinstance(outcome, QueueClosedError) for outcome in outcomes) == 2


async def _stop_workers(queue: Any) -> None:
    if hasattr(queue, "stop_workers"):
        await queue.stop_workers()
    else:
        await queue.queue.stop_workers()


class TestTheEnd:
    async def test_a_queue_that_has_nothing_stops(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        queue.close()
        await soon(queue.join())
        assert queue.status == QueueStatus.STOPPED
        assert queue.is_closed
        assert await queue.stop() is True

    async def test_it_goes_on_until_the_last_item_is_done(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a", "b")
        join = asyncio.create_task(queue.join())
        for _ in range(2):
            assert queue.status == QueueStatus.PROCESSING
            await queue.get()
            await a_while()
            assert queue.status == QueueStatus.PROCESSING
            assert not join.done()
            queue.task_done()
        await soon(join)
        assert queue.status == QueueStatus.STOPPED
        assert queue.metrics["processed"] == 2

    async def test_nobody_need_ask(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        await queue.get()
        queue.task_done()
        await until_stopped(queue)

    async def test_one_who_joined_before_sees_it_stopped(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        join = asyncio.create_task(queue.join())
        await a_while()
        queue.close()
        await queue.get()
        queue.task_done()
        await soon(join)
        assert queue.status == QueueStatus.STOPPED

    async def test_workers_process_what_is_left_and_end(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 3)
        await put_all(queue, *range(10))
        queue.close()
        assert queue.status == QueueStatus.PROCESSING
        worker.may_go_on.set()
        await soon(queue.join())
        assert (queue.status, queue.worker_count) == (QueueStatus.STOPPED, 0)
        assert in_order(worker.done) == list(range(10))
        assert await queue.stop() is True

    async def test_workers_that_have_nothing_to_do_end(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start_workers(Worker(), 3)
        await quite_a_while()
        queue.close()
        await until_stopped(queue)
        assert queue.worker_count == 0

    @pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
    async def test_workers_try_again_what_failed(self, make_queue: MakeQueue) -> None:
        queue = make_queue(retry=every(0.1))
        worker = Worker()
        worker.failures = [OSError(), OSError()]
        await queue.process(worker, 2)
        await put_all(queue, "a", "b")
        queue.close()
        await soon(queue.join())
        assert sorted(worker.done) == ["a", "b"]
        assert len(worker.began) == 4
        assert queue.status == QueueStatus.STOPPED

    @pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
    async def test_futures_get_their_results(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.process(worker, 1)
        futures = [await queue.submit(item) for item in "abc"]
        queue.close()
        futures[2].cancel()
        worker.may_go_on.set()
        assert await soon(asyncio.gather(*futures[:2])) == ["a", "b"]
        await until_stopped(queue)
        assert worker.done == ["a", "b"]

    async def test_a_worker_function_closes_its_queue(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue = make_queue()
        done = []

        async def work(item: str) -> None:
            if item == "last":
                queue.close()
                with pytest.raises(QueueClosedError):
                    queue.put_nowait("more")
            done.append(item)

        await queue.start()
        await put_all(queue, "a", "last", "b")
        await queue.start_workers(work, 1)
        await until_stopped(queue)
        assert in_order(done) == in_order(["a", "last", "b"])

    async def test_workers_that_are_started_later(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a", "b")
        worker = Worker()
        await queue.start_workers(worker, 1)
        assert queue.is_closed
        await soon(queue.join())
        assert worker.done == ["a", "b"]
        assert queue.status == QueueStatus.STOPPED

    async def test_workers_that_are_replaced_meanwhile(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue = make_queue()
        old, new = Worker(held=True), Worker()
        await queue.start_workers(old, 1)
        await put_all(queue, "a", "b", "c")
        await until(lambda: old.began == ["a"])
        queue.close()
        await queue.start_workers(new, 2)
        await until(lambda: in_order(new.done) == in_order(["b", "c"]))
        assert queue.status == QueueStatus.PROCESSING
        old.may_go_on.set()
        await soon(queue.join())
        assert old.done == ["a"]
        assert queue.status == QueueStatus.STOPPED

    async def test_an_error_of_the_last_item_is_counted(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker()
        worker.failures = [KeyError()]
        failed = []
        await queue.start_workers(worker, 1, lambda error, item: failed.append(item))
        await put_all(queue, "a")
        queue.close()
        await soon(queue.join())
        assert failed == ["a"]
        assert queue.metrics["errors"] == 1


class TestAnyState:
    async def test_twice(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        queue.close()
        assert queue.unprocessed == ["a"]
        await queue.get()
        queue.task_done()
        await soon(queue.join())
        queue.close()
        assert queue.status == QueueStatus.STOPPED

    async def test_before_the_start(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        assert not queue.is_closed
        queue.close()
        assert (queue.status, queue.is_closed) == (QueueStatus.STOPPED, True)
        await soon(queue.join())
        for call in (queue.get(), queue.put("a")):
            with pytest.raises(QueueClosedError):
                await call

    async def test_after_a_stop_that_left_something(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        assert await queue.stop() is False
        queue.close()
        assert queue.is_closed
        assert queue.unprocessed == ["a"]
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stopped") as got:
            await queue.get()
        assert not isinstance(got.value, QueueClosedError)  # it has not come to its end

    async def test_during_a_stop(self, make_queue: MakeQueue) -> None:
        async with queue_that_is("stopping", make_queue) as queue:
            queue.close()  # type: ignore[attr-defined]
            assert queue.status == QueueStatus.STOPPING
            with pytest.raises(QueueClosedError):
                await queue.put("a")
        assert queue.status == QueueStatus.STOPPED

    async def test_a_stop_that_leaves_something(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        queue.close()
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == ["a", "b"]
        with pytest.raises(QueueStateError, match="stopped with 2 items"):
            await queue.join()
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stopped"):
            await queue.get()

    async def test_a_stop_that_drains(self, make_queue: MakeQueue, in_order: InOrder) -> None:
        queue = make_queue()
        worker = Worker()
        await queue.start_workers(worker, 2)
        await put_all(queue, *range(10))
        queue.close()
        assert await soon(queue.stop()) is True
        assert in_order(worker.done) == list(range(10))

    async def test_a_get_that_waits_is_told_of_a_stop_with_items_left(
        self, make_queue: MakeQueue
    ) -> None:
        """There will be more of the stream: at the next start."""
        queue = await closed_with(make_queue, "a")
        assert await soon(queue.stop()) is False
        with pytest.raises(QueueStateError) as caught:
            await consume(queue, [])
        assert not isinstance(caught.value, QueueClosedError)
        await queue.start()
        assert not queue.is_closed
        assert await queue.get() == "a"


class TestOpenAgain:
    async def test_after_the_end(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        await queue.get()
        queue.task_done()
        await soon(queue.join())
        await queue.start()
        assert (queue.status, queue.is_closed) == (QueueStatus.PROCESSING, False)
        await put_all(queue, "b")
        queue.close()
        got: list[str] = []
        await soon(consume(queue, got))
        assert got == ["b"]

    async def test_before_the_end_without_workers(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        await queue.start()
        assert not queue.is_closed
        assert await queue.get() == "a"
        queue.task_done()
        await quite_a_while()
        assert queue.status == QueueStatus.PROCESSING
        get = asyncio.create_task(queue.get())
        await put_all(queue, "b")
        assert await soon(get) == "b"

    async def test_before_the_end_with_workers_it_waits_for_that(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 2)
        await put_all(queue, "a")
        queue.close()
        start = asyncio.create_task(queue.start())
        await quite_a_while()
        assert not start.done()
        worker.may_go_on.set()
        await soon(start)
        assert (queue.status, queue.is_closed) == (QueueStatus.PROCESSING, False)
        assert worker.done == ["a"]

    async def test_after_its_workers_have_left_they_come_back(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a")
        assert await queue.get() == "a"  # so it is not done, though nothing is left for workers
        worker = Worker()
        await queue.start_workers(worker, 2)
        await until(lambda: queue.worker_count == 0)
        await queue.start()
        assert queue.worker_count == 2
        await put_all(queue, "b")
        await until(lambda: worker.done == ["b"])
        queue.task_done()

    async def test_after_its_workers_have_left_and_were_stopped(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await closed_with(make_queue, "a")
        assert await queue.get() == "a"
        await queue.start_workers(Worker(), 2)
        await until(lambda: queue.worker_count == 0)
        await queue.stop_workers()
        await queue.start()
        assert queue.worker_count == 0
        await put_all(queue, "b")
        assert await queue.get() == "b"

    async def test_by_workers(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        await queue.start()
        queue.close()
        await soon(queue.join())
        worker = Worker()
        await queue.start_workers(worker, 1)
        await put_all(queue, "a")
        await soon(queue.join())
        assert worker.done == ["a"]
        assert (queue.status, queue.is_closed) == (QueueStatus.PROCESSING, False)


class TestIteration:
    async def test_until_it_is_closed(self, make_queue: MakeQueue) -> None:
        queue = await filled(make_queue, "a", "b")
        got: list[str] = []
        consumer = asyncio.create_task(consume(queue, got))
        await until(lambda: got == ["a", "b"])
        assert not consumer.done()
        await put_all(queue, "c")
        queue.close()  # type: ignore[attr-defined]
        await soon(consumer)
        assert got == ["a", "b", "c"]
        await soon(queue.join())

    async def test_an_item_is_done_when_the_next_is_asked_for(self, make_queue: MakeQueue) -> None:
        queue: Any = await closed_with(make_queue, "a", "b", "c")
        processed = []
        async for _ in queue:
            await a_while()
            processed.append(queue.metrics["processed"])
            assert queue.statistics().inflight == 1
        assert processed == [0, 1, 2]
        await until(lambda: queue.metrics["processed"] == 3)

    async def test_the_body_closes_it(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a", "b", "c")
        got = []
        async for item in queue:
            got.append(item)
            if item == "b":
                queue.close()
        assert got == ["a", "b", "c"]

    async def test_a_stop_is_no_end(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        await queue.start()
        consumer = asyncio.create_task(consume(queue, []))
        await quite_a_while()
        await queue.stop()
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stop"):
            await soon(consumer)

    async def test_a_queue_that_does_not_run(self, make_queue: MakeQueue) -> None:
        with pytest.raises(QueueStateError, match="Cannot get items when queue is idle"):
            await consume(make_queue(), [])

    async def test_beside_workers(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, *range(50))
        worker, got = Worker(), list[int]()
        consumer = asyncio.create_task(consume(queue, got))
        await queue.start_workers(worker, 2)
        queue.close()
        await soon(consumer)
        await soon(queue.join())
        assert sorted(worker.done + got) == list(range(50))
        assert queue.metrics["processed"] == 50


class TestGivenBack:
    @pytest.mark.usefixtures("cancellable_calls")
    async def test_by_a_block_that_is_cancelled(self, make_queue: MakeQueue) -> None:
        queue = await closed_with(make_queue, "a", "b")

        async def use() -> None:
            async with queue.processing():
                await asyncio.sleep(1000)

        using = asyncio.create_task(use())
        await until(lambda: queue.statistics().inflight == 1)
        assert await queue.get() == "b"
        with pytest.raises(QueueClosedError):
            await queue.get()
        using.cancel()
        await asyncio.wait([using])
        assert queue.status == QueueStatus.PROCESSING
        assert await queue.get() == "a"
        with pytest.raises(QueueClosedError):
            await queue.get()

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_by_a_worker_that_is_cancelled(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        queue.close()
        await queue.stop_workers(timeout=0)
        assert queue.status == QueueStatus.PROCESSING
        got: list[str] = []
        await soon(consume(queue, got))
        assert got == ["a", "b"]
