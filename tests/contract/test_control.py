"""Pauses, items that are removed, calls that are cancelled, and puts of many items."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from contract.conftest import BLOCKING, BLOCKING_PLAIN, Kind, bounded_queues, work_queues
from contract.helpers import (
    NOT_SECONDS,
    InOrder,
    MakeQueue,
    a_while,
    check_that_it_took,
    filled,
    queue_that_is,
    quite_a_while,
    until_waiting,
)
from helpers.queues import put_all
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import now, soon, until
from helpers.workers import Worker
from penstock import (
    Limit,
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


@pytest.fixture(params=[pytest.param(Kind(bounded_queues), id="BoundedQueue"), *THREADS])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kinds of queue that have all of this."""
    kind: Kind = request.param
    return kind


async def paused_with(make_queue: MakeQueue, *items: Any, maxsize: int = 100) -> Any:
    """A queue that is paused, and has these in it."""
    queue: Any = make_queue(maxsize=maxsize)
    await queue.start()
    queue.pause()
    await put_all(queue, *items)
    return queue


class TestPause:
    async def test_workers_take_nothing_and_puts_go_on(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = await paused_with(make_queue, maxsize=3)
        await queue.start_workers(worker, 2)
        await put_all(queue, "a", "b", "c")
        assert queue.is_paused is True
        assert queue.statistics().is_paused is True
        assert await queue.put("d", timeout=0) is False
        await quite_a_while()
        assert worker.began == []
        assert queue.unprocessed == ["a", "b", "c"]
        queue.resume()
        assert queue.is_paused is False
        await soon(queue.join())
        assert sorted(worker.done) == ["a", "b", "c"]

    async def test_what_is_in_hand_goes_on(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, "in hand", "waits")
        await until(lambda: worker.began)
        queue.pause()
        worker.may_go_on.set()
        await until(lambda: worker.done)
        await quite_a_while()
        assert worker.began == ["in hand"]
        queue.resume()
        await soon(queue.join())
        assert worker.done == ["in hand", "waits"]

    async def test_a_put_that_waits_is_accepted_when_it_is_over(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await paused_with(make_queue, "a", maxsize=1)
        await queue.start_workers(Worker(), 1)
        put = asyncio.create_task(queue.put("b", timeout=math.inf))
        await until_waiting(queue, 1)
        await a_while()
        assert not put.done()
        queue.resume()
        assert await soon(put) is True

    async def test_twice_is_as_once(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, "a")
        queue.pause()
        queue.resume()
        queue.resume()
        assert await queue.get() == "a"
        queue.task_done()

    async def test_a_get_waits(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, "a")
        began = now()
        with pytest.raises(QueueEmptyError):
            await queue.get(timeout=0.2)
        check_that_it_took(began, 0.2)
        with pytest.raises(QueueEmptyError):
            queue.get_nowait()
        get = asyncio.create_task(queue.get())
        await a_while()
        assert not get.done()
        queue.resume()
        assert await soon(get) == "a"
        queue.task_done()

    @pytest.mark.parametrize("state", ["idle", "stopping", "stopped"])
    @pytest.mark.parametrize("call", ["pause", "resume"])
    async def test_only_where_the_queue_is_processing(
        self, make_queue: MakeQueue, state: str, call: str
    ) -> None:
        async with queue_that_is(state, make_queue) as some_queue:
            queue: Any = some_queue
            with pytest.raises(QueueStateError, match=f"Cannot {call} when queue is {state}"):
                getattr(queue, call)()
            assert queue.is_paused is False

    async def test_a_stop_ends_it_and_drains(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = await paused_with(make_queue, *range(5))
        await queue.start_workers(worker, 2)
        assert await soon(queue.stop()) is True
        assert sorted(worker.done) == list(range(5))
        await queue.start()
        assert queue.is_paused is False

    async def test_a_stop_without_drain_leaves_everything(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = await paused_with(make_queue, *range(5))
        await queue.start_workers(worker, 2)
        assert await soon(queue.stop(drain=False)) is False
        assert worker.began == []
        assert queue.unprocessed == list(range(5))
        assert queue.is_paused is False
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == list(range(5))

    async def test_a_close_ends_it(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = await paused_with(make_queue, *range(3))
        await queue.start_workers(worker, 1)
        queue.close()
        await until(lambda: queue.status == QueueStatus.STOPPED)
        assert worker.done == [0, 1, 2]

    async def test_a_closed_queue_is_not_paused(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        queue.close()
        with pytest.raises(QueueClosedError, match="Cannot pause when queue is closed"):
            queue.pause()
        assert await soon(queue.get()) == "a"
        queue.task_done()

    async def test_workers_that_are_replaced_are_paused_too(self, make_queue: MakeQueue) -> None:
        first, second = Worker(), Worker()
        queue = await paused_with(make_queue)
        await queue.start_workers(first, 1)
        await put_all(queue, "a")
        await queue.start_workers(second, 1)
        await quite_a_while()
        assert first.began == second.began == []
        await soon(queue.stop_workers())
        assert queue.is_paused is True
        await queue.start_workers(second, 1)
        queue.resume()
        await soon(queue.join())
        assert second.done == ["a"]


@pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
class TestPauseOfAWorkQueue:
    async def test_another_attempt_waits_for_its_end(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        worker.failures = [ConnectionError("once")]
        queue: Any = make_queue(retry=every(0.05))
        await queue.process(worker)
        await put_all(queue, "a")
        await until(lambda: worker.began)
        queue.pause()
        await quite_a_while()
        assert worker.began == ["a"]
        queue.resume()
        await soon(queue.join())
        assert worker.done == ["a"]

    @pytest.mark.parametrize("key", [None, lambda item: 0], ids=["no key", "key"])
    async def test_what_waits_for_a_limit_does_not_start(
        self, make_queue: MakeQueue, key: Any
    ) -> None:
        limit, service = Limit(1, per=1000, key=key), Service()
        queue: Any = make_queue(limits=[limit])
        await queue.process(service, 2)
        await put_all(queue, 0, 1, 2)
        await until(lambda: service.items == [0])
        queue.pause()
        limit.change(max=2)
        await quite_a_while()
        assert service.items == [0]
        assert queue.unprocessed == [1, 2]
        queue.resume()
        await until(lambda: len(service.items) == 2)  # what was reserved meanwhile was given back
        limit.change(max=3)
        await soon(queue.join())

    async def test_a_batch_and_a_map_wait_for_its_end(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue: Any = make_queue()
        await queue.start()
        queue.pause()

        async def double(item: int) -> int:
            return item * 2

        async def doubled() -> list[int]:
            return [result async for result in queue.map(double, range(3))]

        batch = asyncio.create_task(queue.batch_process(range(3), worker, 2))
        results = asyncio.create_task(doubled())
        await until(lambda: queue.size == 6)
        await a_while()
        assert worker.began == []
        queue.resume()
        assert (await soon(batch)).processed == 3
        assert await soon(results) == [0, 2, 4]


class TestClear:
    async def test_what_waits_is_removed_and_returned(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, *range(4))
        assert queue.clear() == [0, 1, 2, 3]
        assert queue.size == 0
        assert queue.unprocessed == []
        queue.resume()
        await soon(queue.join())
        assert await queue.stop() is True
        assert queue.clear() == []

    async def test_what_is_in_hand_is_not_removed(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, *range(4))
        await until(lambda: worker.began)
        assert queue.clear() == [1, 2, 3]
        worker.may_go_on.set()
        await soon(queue.join())
        assert worker.done == [0]

    async def test_puts_that_wait_get_the_room(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, "a", "b", maxsize=2)
        put = asyncio.create_task(queue.put("c", timeout=math.inf))
        await until_waiting(queue, 1)
        assert queue.clear() == ["a", "b"]
        assert await soon(put) is True
        assert queue.unprocessed == ["c"]

    async def test_those_that_join_are_told(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, "a", "b")
        join = asyncio.create_task(queue.join())
        await a_while()
        assert not join.done()
        queue.clear()
        await soon(join)

    async def test_what_a_stop_has_left(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, "a", "b")
        assert await queue.stop(drain=False) is False
        assert queue.clear() == ["a", "b"]
        assert await queue.stop() is True

    async def test_a_closed_queue_stops_when_nothing_is_left(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a", "b")
        queue.close()
        assert queue.clear() == ["a", "b"]
        await until(lambda: queue.status == QueueStatus.STOPPED)

    async def test_a_stop_that_drains_has_less_to_do(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await put_all(queue, *range(4))
        await until(lambda: worker.began)
        stop = asyncio.create_task(queue.stop())
        await until(lambda: queue.status == QueueStatus.STOPPING)
        assert queue.clear() == [1, 2, 3]
        worker.may_go_on.set()
        assert await soon(stop) is True
        assert worker.done == [0]


@pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
class TestClearOfAWorkQueue:
    async def test_futures_are_cancelled(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        await queue.start()
        queue.pause()
        future = await queue.submit("a")
        assert queue.clear() == ["a"]
        with pytest.raises(asyncio.CancelledError):
            await soon(future)

    async def test_an_item_whose_future_was_cancelled_is_not_returned(
        self, make_queue: MakeQueue
    ) -> None:
        queue: Any = make_queue()
        await queue.start()
        queue.pause()
        future = await queue.submit("a")
        await put_all(queue, "b")
        assert queue.cancel(future) is True
        assert queue.clear() == ["b"]

    async def test_what_waits_for_another_attempt(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        worker.failures = [ConnectionError("once")]
        queue: Any = make_queue(retry=every(1000))
        await queue.process(worker)
        await put_all(queue, "a")
        await until(lambda: queue.statistics().retrying == 1)
        assert queue.clear() == ["a"]
        assert await soon(queue.stop()) is True

    @pytest.mark.parametrize("key", [None, lambda item: 0], ids=["no key", "key"])
    async def test_what_waits_for_a_limit(self, make_queue: MakeQueue, key: Any) -> None:
        service = Service()
        queue: Any = make_queue(limits=[Limit(1, per=1000, key=key)])
        await queue.process(service, 2)
        await put_all(queue, 0, 1, 2)
        # A worker that has looked at an item, and found no room for it, is about to put it back.
        await until(
            lambda: (
                service.items == [0]
                and queue.limits.statistics().waiting
                and queue.unprocessed == [1, 2]
            )
        )
        assert queue.clear() == [1, 2]
        await until(lambda: not queue.limits.statistics().waiting)
        assert await soon(queue.stop()) is True

    async def test_a_map_and_a_batch_keep_their_items(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue: Any = make_queue()
        await queue.start()
        queue.pause()
        await put_all(queue, "a")
        batch = asyncio.create_task(queue.batch_process(range(3), worker, 2))
        await until(lambda: queue.size == 4)
        assert queue.clear() == ["a"]
        queue.resume()
        assert (await soon(batch)).processed == 3


class TestRemove:
    async def test_those_for_which_the_predicate_is_true(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue = await paused_with(make_queue, *range(6))
        assert queue.remove(lambda item: item % 2) == [1, 3, 5]
        await queue.start_workers(worker, 1)
        queue.resume()
        await soon(queue.join())
        assert worker.done == [0, 2, 4]

    async def test_a_predicate_that_raises_removes_nothing(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, 1, 0, 2)
        with pytest.raises(ZeroDivisionError):
            queue.remove(lambda item: 1 / item)
        assert queue.unprocessed == [1, 0, 2]

    async def test_a_predicate_that_uses_the_queue(self, make_queue: MakeQueue) -> None:
        queue = await paused_with(make_queue, *range(4))
        assert queue.remove(lambda item: not item and queue.remove(lambda other: other == 3)) == [0]
        assert queue.unprocessed == [1, 2]

    @pytest.mark.parametrize("predicate", [None, 1, lambda: True, lambda a, b: True])
    async def test_no_function_of_an_item(self, make_queue: MakeQueue, predicate: Any) -> None:
        queue = await paused_with(make_queue, "a")
        with pytest.raises(TypeError, match="predicate must"):
            queue.remove(predicate)
        assert queue.unprocessed == ["a"]


async def in_hand(queue: Any) -> list[Any]:
    """What is in hand, once that is anything: an item is not before its function first waits."""
    await until(queue.in_hand)
    held: list[Any] = queue.in_hand()
    return held


class TestInHand:
    async def test_the_items_and_their_workers(
        self, make_queue: MakeQueue, in_order: InOrder
    ) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 2)
        assert queue.in_hand() == []
        await put_all(queue, "a", "b", "c")
        await until(lambda: len(worker.began) == 2)
        await until(lambda: len(queue.in_hand()) == 2)
        await asyncio.sleep(0.1)
        held = queue.in_hand()
        assert sorted(one.item for one in held) == ["a", "b"]
        assert len({one.worker for one in held}) == 2
        assert all(one.worker.startswith(f"penstock-{queue.name}-worker-") for one in held)
        assert all(0.05 <= one.seconds < 60 for one in held)
        worker.may_go_on.set()
        await soon(queue.join())
        await until(lambda: queue.in_hand() == [])
        assert [one.cancel() for one in held] == [False, False]

    @pytest.mark.parametrize("is_watched", [True, False])
    @pytest.mark.usefixtures("cancellable_workers")
    async def test_a_call_is_cancelled_and_workers_go_on(
        self, make_queue: MakeQueue, is_watched: bool
    ) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        if is_watched:
            assert queue.in_hand() == []
        errors: list[Any] = []

        async def on_error(error: BaseException, item: Any) -> None:
            errors.append((type(error), item))

        await queue.start_workers(worker, 1, on_error)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        held = await in_hand(queue)
        name = held[0].worker
        assert [one.cancel() for one in held] == [True]
        await until(lambda: worker.began == ["a", "b"])
        assert errors == [(asyncio.CancelledError, "a")]
        assert [one.worker for one in await in_hand(queue)] == [name] or not is_watched
        worker.may_go_on.set()
        await soon(queue.join())
        assert worker.done == ["b"]
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == 1

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_what_a_worker_does_after_a_cancelled_call_can_time_out(
        self, make_queue: MakeQueue
    ) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        timed_out: list[str] = []

        async def work(item: str) -> None:
            if item == "b":
                try:
                    await asyncio.wait_for(asyncio.sleep(1000), 0.01)
                except TimeoutError:
                    timed_out.append(item)
            else:
                await worker(item)

        await queue.start_workers(work, 1, lambda error, item: None)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        assert (await in_hand(queue))[0].cancel() is True
        await soon(queue.join())
        assert timed_out == ["b"] or not issubclass(asyncio.TimeoutError, TimeoutError)

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_a_call_that_ignores_it_goes_on(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        done: list[str] = []
        began = asyncio.Event()

        async def work(item: str) -> None:
            began.set()
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                done.append(item)

        await queue.start_workers(work, 1)
        await put_all(queue, "a")
        await soon(began.wait())
        assert (await in_hand(queue))[0].cancel() is True
        await soon(queue.join())
        assert done == ["a"]
        assert queue.metrics["errors"] == 0

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_a_stop_after_a_cancelled_call(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        worker = Worker(held=True)
        await queue.start_workers(worker, 1, lambda error, item: None)
        await put_all(queue, "a", "b")
        await until(lambda: worker.began == ["a"])
        (await in_hand(queue))[0].cancel()
        await until(lambda: worker.began == ["a", "b"])
        assert await soon(queue.stop(timeout=0)) is False
        assert queue.unprocessed == ["b"]

    async def test_not_what_was_taken_by_hand(self, make_queue: MakeQueue) -> None:
        queue: Any = await filled(make_queue, "a")
        assert await queue.get() == "a"
        assert queue.in_hand() == []
        queue.task_done()


@pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
class TestCancel:
    async def test_an_item_that_waits_is_skipped(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue: Any = make_queue()
        await queue.process(worker)
        queue.pause()
        future = await queue.submit("a")
        await put_all(queue, "b")
        assert queue.cancel(future) is True
        assert queue.cancel(future) is False
        queue.resume()
        await soon(queue.join())
        assert worker.began == ["b"]

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_a_call_under_way_is_cancelled(self, make_queue: MakeQueue) -> None:
        worker = Worker(held=True)
        queue: Any = make_queue(retry=every(0.05))
        await queue.process(worker)
        future = await queue.submit("a")
        await put_all(queue, "b")
        await until(lambda: worker.began == ["a"])
        await in_hand(queue)
        assert queue.cancel(future) is True
        with pytest.raises(asyncio.CancelledError):
            await soon(future)
        worker.may_go_on.set()
        await soon(queue.join())
        assert worker.done == ["b"]
        assert worker.began == ["a", "b"]  # it was not tried again

    async def test_an_item_that_waits_for_another_attempt(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        worker.failures = [ConnectionError("once"), ConnectionError("once")]
        queue: Any = make_queue(retry=every(1000))
        await queue.process(worker)
        futures = [await queue.submit(name) for name in "ab"]
        await until(lambda: queue.statistics().retrying == 2)
        assert queue.cancel(futures[0]) is True
        with pytest.raises(asyncio.CancelledError):
            await soon(futures[0])
        assert queue.clear() == ["b"]
        with pytest.raises(asyncio.CancelledError):
            await soon(futures[1])
        assert await soon(queue.stop()) is True

    async def test_a_future_of_something_else(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue()
        await queue.start()
        for other in (None, 1, asyncio.get_running_loop().create_future()):
            with pytest.raises(TypeError, match=r"future must be one that submit\(\) of queue"):
                queue.cancel(other)


class TestPutMany:
    async def test_as_many_as_there_is_room_for(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(maxsize=3)
        await queue.start()
        assert await queue.put_many(range(5), timeout=0) == 3
        assert queue.unprocessed == [0, 1, 2]
        assert queue.metrics["backpressure_events"] == 1
        assert await queue.put_many([5], timeout=0) == 0
        assert await queue.put_many([]) == 0
        assert queue.metrics["backpressure_events"] == 2

    async def test_all_of_them_in_order(self, make_queue: MakeQueue) -> None:
        worker = Worker()
        queue: Any = make_queue(maxsize=2)
        await queue.start_workers(worker, 1)
        assert await soon(queue.put_many(tuple(range(20)), timeout=math.inf)) == 20
        await soon(queue.join())
        assert worker.done == list(range(20))

    @pytest.mark.parametrize("timeout", [0.2, None])
    async def test_the_timeout_is_for_all_together(
        self, make_queue: MakeQueue, timeout: float | None
    ) -> None:
        queue: Any = make_queue(maxsize=1, timeout=0.2)
        await queue.start()
        await put_all(queue, "first")
        began = now()
        assert await queue.put_many(["ab"] * 3, timeout=timeout) == 0
        check_that_it_took(began, 0.2)

    async def test_a_stop_in_the_middle(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(maxsize=2)
        await queue.start()
        put = asyncio.create_task(queue.put_many(range(5), timeout=math.inf))
        await until_waiting(queue, 1)
        await queue.stop()
        assert await soon(put) == 2
        assert queue.unprocessed == [0, 1]
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stopped"):
            await queue.put_many([2, 3, 4])

    @pytest.mark.usefixtures("cancellable_calls")
    async def test_one_that_is_cancelled(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(maxsize=2)
        await queue.start()
        put = asyncio.create_task(queue.put_many(range(5), timeout=math.inf))
        await until_waiting(queue, 1)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert queue.unprocessed == [0, 1]
        assert await queue.get() == 0
        assert await put_room(queue) is True

    @pytest.mark.parametrize("items", [None, 5, "text", b"bytes", iter([1]), (n for n in [1])])
    async def test_no_collection(self, make_queue: MakeQueue, items: Any) -> None:
        queue: Any = make_queue()
        await queue.start()
        with pytest.raises(TypeError, match="items must be a list or another collection, got"):
            await queue.put_many(items)
        assert queue.size == 0

    @pytest.mark.parametrize("timeout", NOT_SECONDS)
    async def test_no_timeout(self, make_queue: MakeQueue, timeout: Any) -> None:
        queue: Any = make_queue()
        await queue.start()
        with pytest.raises(ValueError, match="timeout must be"):
            await queue.put_many(["a"], timeout=timeout)
        assert queue.size == 0


async def put_room(queue: Any) -> bool:
    accepted: bool = await queue.put("there was room", timeout=0)
    return accepted


@pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)
async def test_an_item_that_no_limit_lets_pass_ends_a_put_of_many(make_queue: MakeQueue) -> None:
    queue: Any = make_queue(limits=[Limit(3, per=1, cost=lambda item: item)])
    await queue.start()
    assert await queue.put_many([1, 2, 9, 1]) == 2
    with pytest.raises(ValueError, match="9"):
        await queue.put_many([9, 1])
    assert queue.unprocessed == [1, 2]
