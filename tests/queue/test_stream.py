"""Iterating over the items of a queue in one event loop, and closing it there."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import pytest

from helpers.tasks import for_ever, settle, soon
from helpers.workers import Worker
from penstock import BoundedQueue, QueueClosedError, QueueStateError, QueueStatus, WorkQueue
from penstock.brokers.nats import NatsQueue

Filled = Callable[..., Awaitable[BoundedQueue[str]]]


@pytest.fixture
async def filled() -> AsyncIterator[Filled]:
    """Makes queues that run and have items, and stops them at the end."""
    made: list[BoundedQueue[str]] = []

    async def make(*items: str) -> BoundedQueue[str]:
        queue: BoundedQueue[str] = BoundedQueue()
        made.append(queue)
        await queue.start()
        for item in items:
            assert await queue.put(item)
        return queue

    yield make
    for queue in made:
        await queue.stop(timeout=0, drain=False)


class TestAnIteratorThatIsClosed:
    async def test_by_an_exception_of_the_body_its_item_has_failed(self, filled: Filled) -> None:
        queue = await filled("a", "b")
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012
            async with aclosing(queue.items()) as items:
                async for item in items:
                    assert item == "a"
                    raise KeyError("mine")
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 1)
        assert queue.unprocessed == ["b"]

    async def test_by_a_break_its_item_is_done(self, filled: Filled) -> None:
        queue = await filled("a", "b")
        async with aclosing(queue.items()) as items:
            async for _ in items:
                break
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 0)
        assert await queue.get() == "b"

    async def test_by_a_break_while_another_exception_is_handled_its_item_is_done(
        self, filled: Filled
    ) -> None:
        queue = await filled("a")
        try:
            raise KeyError("another")
        except KeyError:
            async with aclosing(queue.items()) as items:
                async for _ in items:
                    break
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 0)

    async def test_by_a_cancellation_its_item_is_given_back(self, filled: Filled) -> None:
        queue = await filled("a", "b")

        async def consume() -> None:
            async with aclosing(queue.items()) as items:
                async for _ in items:
                    await for_ever()

        await cancel_when_it_waits(consume)
        assert queue.metrics["processed"] == 0
        assert queue.unprocessed == ["a", "b"]

    async def test_it_has_ended(self, filled: Filled) -> None:
        queue = await filled("a", "b")
        items = queue.items()
        assert await anext(items) == "a"
        await items.aclose()
        await items.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        assert queue.unprocessed == ["b"]
        assert queue.metrics["processed"] == 1


async def cancel_when_it_waits(func: Callable[[], Any]) -> None:
    task = asyncio.create_task(func())
    await settle()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await settle()


class TestAnIteratorThatIsNotClosed:
    """As it is collected."""

    async def test_after_a_break_its_item_is_done(self, filled: Filled) -> None:
        queue = await filled("a", "b")
        async for _ in queue:
            break
        gc.collect()
        await settle()
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 0)
        assert queue.unprocessed == ["b"]

    async def test_after_a_cancellation_its_item_is_given_back(self, filled: Filled) -> None:
        queue = await filled("a", "b")

        async def consume() -> None:
            async for _ in queue:
                await for_ever()

        await cancel_when_it_waits(consume)
        assert queue.metrics["processed"] == 0
        assert queue.unprocessed == ["a", "b"]

    async def test_after_an_exception_that_ended_the_task_its_item_has_failed(
        self, filled: Filled
    ) -> None:
        queue = await filled("a", "b")

        async def consume() -> None:
            async for _ in queue:
                raise KeyError("mine")

        task = asyncio.create_task(consume())
        with pytest.raises(KeyError, match="mine"):
            await task
        gc.collect()
        await settle()
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 1)

    @pytest.mark.skipif(not hasattr(asyncio.Task, "cancelling"), reason="new in Python 3.11")
    async def test_while_its_task_cleans_up_after_a_cancellation_its_item_is_given_back(
        self, filled: Filled
    ) -> None:
        queue = await filled("a", "b")

        async def consume() -> None:
            try:
                async for _ in queue:
                    await for_ever()
            except asyncio.CancelledError:
                await asyncio.sleep(60)
                raise

        task = asyncio.create_task(consume())
        await settle()
        task.cancel()
        await settle()
        await settle()
        assert not task.done()
        assert queue.unprocessed == ["a", "b"]
        with suppress(asyncio.CancelledError):
            await task

    async def test_after_a_timeout_around_the_body_its_item_is_given_back(
        self, filled: Filled
    ) -> None:
        queue = await filled("a")

        async def consume() -> None:
            async for _ in queue:
                await for_ever()

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consume(), 1)
        gc.collect()
        await settle()
        assert queue.unprocessed == ["a"]

    async def test_after_its_queue_was_stopped_its_item_is_done(self, filled: Filled) -> None:
        queue = await filled("a")
        async for _ in queue:
            assert await queue.stop() is True
            break
        gc.collect()
        await settle()
        assert queue.metrics["processed"] == 1
        await queue.start()
        await soon(queue.join())


@pytest.mark.real_time
def test_an_item_of_a_loop_that_has_ended_is_given_back() -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def main() -> None:
        await queue.start()
        await queue.put("a")

        async def consume() -> None:
            async for _ in queue:
                await for_ever()

        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())
    gc.collect()
    assert queue.unprocessed == ["a"]

    async def again() -> None:
        await queue.start()
        assert await queue.get() == "a"
        queue.task_done()
        await queue.stop()

    asyncio.run(again())


async def test_an_iterator_can_be_asked_with_a_timeout(filled: Filled) -> None:
    queue = await filled()
    items = queue.items()
    for _ in range(2):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(items), 1)
    await queue.put("a")
    assert await asyncio.wait_for(anext(items), 1) == "a"
    await items.aclose()
    assert queue.metrics["processed"] == 1


async def test_two_tasks_that_ask_one_iterator_are_told(filled: Filled) -> None:
    queue = await filled()
    items = queue.items()
    first = asyncio.create_task(anext(items))
    await settle()
    with pytest.raises(RuntimeError, match="give each consumer an iterator of its own"):
        await anext(items)
    await queue.put("a")
    assert await first == "a"
    await items.aclose()


async def test_a_task_done_inside_an_iteration_is_one_too_many(filled: Filled) -> None:
    queue = await filled("a", "b")
    queue.close()
    async for _ in queue:
        with pytest.raises(ValueError, match="task_done"):
            queue.task_done()
    assert queue.metrics["processed"] == 2


async def test_a_closed_queue_stops_in_the_instant_in_which_the_last_item_is_done(
    filled: Filled,
) -> None:
    queue = await filled("a", "b")
    queue.close()
    async for _ in queue:
        assert queue.status == QueueStatus.PROCESSING
    assert queue.status == QueueStatus.STOPPED
    queue = await filled("a")
    queue.close()
    await queue.get()
    queue.task_done()
    assert queue.status == QueueStatus.STOPPED
    queue = await filled()
    queue.close()
    assert queue.status == QueueStatus.STOPPED


async def test_items_whose_futures_were_cancelled_hold_up_no_end(filled: Filled) -> None:
    queue = await filled()
    future = await queue.submit("a")
    queue.close()
    future.cancel()
    with pytest.raises(QueueClosedError):
        await soon(queue.get())
    assert queue.status == QueueStatus.STOPPED


async def test_in_another_thread_or_loop_close_is_refused(filled: Filled) -> None:
    queue = await filled("a")
    for run in (queue.close, lambda: asyncio.run(_async(queue.close))):
        with pytest.raises(QueueStateError, match=r"another event loop or thread.*penstock\.sync"):
            await asyncio.to_thread(run)
    assert not queue.is_closed
    assert await queue.put("b")


async def _async(func: Callable[[], None]) -> None:
    func()


@pytest.mark.real_time
def test_a_queue_whose_loop_is_closed_can_be_closed_anywhere() -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def main() -> None:
        await queue.start()
        await queue.put("a")

    asyncio.run(main())
    queue.close()
    assert (queue.status, queue.is_closed) == (QueueStatus.STOPPED, True)
    assert queue.unprocessed == ["a"]


@pytest.mark.real_time
def test_a_loop_that_ends_before_a_closed_queue_is_done_leaves_the_rest() -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def main() -> None:
        await queue.start_workers(Worker(held=True), 1)
        await queue.put("a")
        await queue.put("b")
        queue.close()
        await asyncio.sleep(0)

    asyncio.run(main())

    async def again() -> list[str]:
        await queue.start()
        queue.close()
        return [item async for item in queue]

    assert asyncio.run(again()) == ["a", "b"]


async def test_a_queue_on_a_broker_cannot_be_closed() -> None:
    queue: WorkQueue[str] = WorkQueue(queue=NatsQueue("nats://localhost", "numbers"))
    with pytest.raises(TypeError, match=r"close\(\) needs a queue that has it"):
        queue.close()
    assert not queue.is_closed
    for call in (queue.items, queue.processing, lambda: aiter(queue)):
        with pytest.raises(TypeError, match="need a queue in this process"):
            call()


async def test_a_work_queue_passes_it_on() -> None:
    async with WorkQueue[str]() as queue:
        await queue.put("a")
        await queue.put("b")
        async with queue.processing(timeout=0) as item:
            assert item == "a"
        queue.close()
        assert [item async for item in queue.items()] == ["b"]
    assert queue.is_closed
    assert await queue.stop() is True


@pytest.mark.real_time
async def test_the_handlers_of_signals_come_back_at_the_end() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    async with WorkQueue[str]() as queue:
        await queue.process(Worker(), 2)
        queue.stop_on_signals(signal.SIGUSR1)
        await queue.put("a")
        assert signal.getsignal(signal.SIGUSR1) != before
        queue.close()
        await queue.join()
        while signal.getsignal(signal.SIGUSR1) != before:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_batch_that_is_closed_by_others_waits_for_what_was_accepted() -> None:
    queue: WorkQueue[int] = WorkQueue(2)
    worker = Worker(held=True)
    batch = asyncio.create_task(queue.batch_process(range(100), worker, 1))
    await settle()
    queue.close()
    await settle()
    assert not batch.done()
    worker.may_go_on.set()
    with pytest.raises(QueueClosedError):
        await batch
    assert worker.done == [0, 1, 2]
    assert queue.unprocessed == []


async def test_a_queue_is_the_items_of_a_batch_of_another(filled: Filled) -> None:
    first = await filled("a", "b", "c")
    first.close()
    worker = Worker()
    await WorkQueue[str](1).batch_process(first, worker)
    assert worker.done == ["a", "b", "c"]
    assert first.status == QueueStatus.STOPPED


async def test_a_batch_that_fails_gives_back_the_item_that_it_could_not_put(filled: Filled) -> None:
    first = await filled("a", "b", "c")
    worker = Worker(held=True)
    second: WorkQueue[str] = WorkQueue(1)
    batch = asyncio.create_task(second.batch_process(first, worker))
    await settle()
    second.close()
    worker.may_go_on.set()
    with pytest.raises(QueueClosedError):
        await batch
    assert worker.done == ["a", "b"]
    assert first.unprocessed == ["c"]
    assert (first.metrics["processed"], first.metrics["errors"]) == (2, 0)


@pytest.mark.real_time
async def test_threads_of_a_plain_function_come_back_with_its_workers(filled: Filled) -> None:
    queue = await filled("a")
    done: list[str] = []
    await queue.start_workers(done.append, 1)
    await settle_threads(lambda: done == ["a"])
    await queue.stop_workers()
    await queue.put("b")
    assert await queue.get() == "b"
    await queue.start_workers(done.append, 1)
    await queue.put("c")
    await settle_threads(lambda: done == ["a", "c"])
    queue.close()
    await settle_threads(lambda: not queue.worker_count)
    await queue.start()
    await queue.put("d")
    await settle_threads(lambda: done == ["a", "c", "d"])
    queue.task_done()


async def settle_threads(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def test_a_get_does_not_wait_for_the_items_of_a_batch() -> None:
    """They are not for it; and the batch has them done."""
    async with WorkQueue[int](5) as queue:
        worker = Worker(held=True)
        batch = asyncio.create_task(queue.batch_process(range(3), worker, 1))
        await settle()
        get = asyncio.create_task(queue.get())
        await settle()
        queue.close()
        with pytest.raises(QueueClosedError):
            await soon(get)
        assert queue.status == QueueStatus.PROCESSING
        worker.may_go_on.set()
        assert (await batch).processed == 3
        await soon(queue.join())
        assert queue.status == QueueStatus.STOPPED


async def test_a_map_that_is_closed_by_others_yields_what_was_accepted() -> None:
    got = []
    async with WorkQueue[int](2) as queue:
        with pytest.raises(QueueClosedError):  # noqa: PT012
            async for result in queue.map(Worker(), range(100)):
                got.append(result)
                queue.close()
        assert got == list(range(len(got)))
        assert queue.metrics["enqueued"] == queue.metrics["processed"] == len(got) < 10


async def test_the_end_is_told_to_the_log(caplog: pytest.LogCaptureFixture, filled: Filled) -> None:
    caplog.set_level("INFO", "penstock")
    queue = await filled("a")
    queue.close()
    assert [item async for item in queue] == ["a"]
    words = [record.getMessage() for record in caplog.records]
    assert words[-3:] == [
        "Queue default is closed",
        "Queue default is stopping",
        "Queue default is stopped",
    ]


def test_threads_stay_out_of_it() -> None:
    """An iterator that is collected in another thread finishes its item in the loop."""
    done = threading.Event()

    async def main() -> None:
        queue: BoundedQueue[str] = BoundedQueue()
        await queue.start()
        await queue.put("a")
        items = queue.items()
        assert await anext(items) == "a"
        box = [items]
        del items

        def drop() -> None:
            box.clear()
            gc.collect()
            done.set()

        await asyncio.to_thread(drop)
        await asyncio.sleep(0)
        assert done.is_set()
        assert queue.metrics["processed"] == 1
        await queue.stop(drain=False)

    asyncio.run(main())


def test_an_iterator_may_outlive_a_loop_in_which_somebody_joins() -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def main() -> tuple[AsyncIterator[str], asyncio.Task[None]]:
        await queue.start()
        await queue.put("a")
        iterator = aiter(queue)
        await anext(iterator)
        joined = asyncio.create_task(queue.join())
        await asyncio.sleep(0)
        return iterator, joined

    loop = asyncio.new_event_loop()
    iterator, joined = loop.run_until_complete(main())
    loop.close()
    del iterator  # pytest would tell of an exception in its finaliser
    gc.collect()
    assert queue.statistics().unfinished == 0
    joined._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.real_time
def test_an_item_that_is_left_in_the_last_moment_of_its_loop_is_done_at_the_next_start() -> None:
    """The loop takes the call then, and makes none any more."""
    queue: BoundedQueue[str] = BoundedQueue()
    left: list[Any] = []

    class Loop(asyncio.SelectorEventLoop):
        def close(self) -> None:
            left.clear()
            super().close()

    async def leave() -> None:
        await queue.start()
        await queue.put("a")
        left.append(queue.items())
        assert await anext(left[0]) == "a"
        await queue.stop(drain=False)

    async def start() -> None:
        await queue.start()
        assert queue.statistics().inflight == 0
        assert queue.metrics["processed"] == 1
        await queue.stop()

    loop = Loop()
    loop.run_until_complete(leave())
    assert queue.statistics().inflight == 1
    loop.close()
    asyncio.run(start())
