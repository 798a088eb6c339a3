"""BoundedQueue: its looks, put and get, join, the lifecycle, its loop and its log."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import math
import random
import re
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

import penstock.testing
from helpers.tasks import for_ever, now, settle
from helpers.workers import Worker
from penstock import (
    BoundedQueue,
    QueueEmptyError,
    QueueFullError,
    QueueStateError,
    QueueStatus,
)
from penstock.testing import VirtualTimeLoop
from sync.helpers import run_program

IDLE, PROCESSING, STOPPING, STOPPED = QueueStatus


@asynccontextmanager
async def queue_that_is(status: QueueStatus) -> AsyncIterator[BoundedQueue[Any]]:
    queue: BoundedQueue[Any] = BoundedQueue(maxsize=3)
    worker = Worker(held=True)
    stop = None
    if status is not IDLE:
        await queue.start()
    if status is STOPPED:
        await queue.stop()
    if status is STOPPING:
        await queue.start_workers(worker, 1)
        await queue.put("held")
        await settle()
        stop = asyncio.create_task(queue.stop())
        await settle()
    assert queue.status is status
    yield queue
    worker.may_go_on.set()
    if stop is not None:
        await stop
    await queue.stop()


# -- what it looks like ---------------------------------------------------------------------------


@pytest.mark.plan("UT-1")
def test_a_new_queue_has_the_documented_defaults() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    assert queue.maxsize == 100
    assert queue.timeout == 0.1
    assert queue.logger is logging.getLogger("penstock")
    assert queue.name == "default"
    assert queue.size == 0
    assert queue.is_empty
    assert not queue.is_full
    assert queue.worker_count == 0
    assert queue.unprocessed == []


@pytest.mark.plan("UT-1")
def test_a_new_queue_has_what_it_was_given() -> None:
    logger = logging.getLogger("mine")
    queue: BoundedQueue[int] = BoundedQueue(10, 2.5, logger, name="uploads")
    assert (queue.maxsize, queue.timeout, queue.logger, queue.name) == (10, 2.5, logger, "uploads")


@pytest.mark.plan("UT-2")
@pytest.mark.parametrize("maxsize", [0, -1, -100])
def test_a_queue_without_room_is_refused(maxsize: int) -> None:
    with pytest.raises(ValueError, match="Queue maxsize must be at least 1"):
        BoundedQueue(maxsize=maxsize)


@pytest.mark.plan("UT-3")
async def test_a_new_queue_is_idle_and_has_counted_nothing() -> None:
    queue: BoundedQueue[str] = BoundedQueue(maxsize=10)
    assert queue.status == QueueStatus.IDLE
    assert queue.metrics["enqueued"] == 0
    assert queue.metrics["processed"] == 0
    assert queue.metrics["errors"] == 0
    assert queue.metrics["backpressure_events"] == 0


def test_metrics_are_a_fresh_dict_of_exactly_four_counts() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    metrics = queue.metrics
    assert list(metrics) == ["enqueued", "processed", "errors", "backpressure_events"]
    metrics["enqueued"] = 99
    assert queue.metrics["enqueued"] == 0


@pytest.mark.parametrize("status", QueueStatus)
def test_a_status_equals_its_value(status: QueueStatus) -> None:
    assert status == status.value == status.name.lower()


def test_there_are_four_statuses() -> None:
    assert [status.value for status in QueueStatus] == ["idle", "processing", "stopping", "stopped"]


async def test_the_repr_tells_name_state_and_how_full_it_is() -> None:
    async with BoundedQueue[int](5, name="uploads") as queue:
        await queue.put(1)
        assert repr(queue) == "<BoundedQueue 'uploads' processing 1/5>"
        queue.pause()
        assert repr(queue) == "<BoundedQueue 'uploads' processing 1/5, paused>"
        queue.resume()
        queue.close()
        assert repr(queue) == "<BoundedQueue 'uploads' processing 1/5, closed>"
        queue.get_nowait()


async def test_statistics_tell_everything_at_one_instant() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int](2, name="uploads") as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        await settle()  # 1 is in the worker's hands now
        await queue.put(2)
        await queue.put(3)
        await queue.put(4, timeout=0)  # refused
        await queue.put(5, timeout=1)  # waits, and is refused
        waiting = asyncio.create_task(queue.put(6, timeout=math.inf))
        await settle()

        statistics = queue.statistics()

        assert dataclasses.asdict(statistics) == {
            "name": "uploads",
            "status": PROCESSING,
            "size": 2,
            "maxsize": 2,
            "peak_size": 2,
            "enqueued": 3,
            "processed": 0,
            "errors": 0,
            "backpressure_events": 2,
            "put_waits": 2,
            "inflight": 1,
            "unfinished": 3,
            "worker_count": 1,
            "waiting_putters": 1,
            "retries": 0,
            "retrying": 0,
            "dead_letters": 0,
            "concurrency_limit": None,
            "gate_closures": 0,
            "breaker_state": None,
            "is_paused": False,
            "waiting_by_key": None,
        }
        worker.may_go_on.set()
        assert await waiting


def test_statistics_cannot_be_changed() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    with pytest.raises(dataclasses.FrozenInstanceError):
        queue.statistics().size = 5  # type: ignore[misc]


async def test_the_counts_add_up_whatever_happened() -> None:
    async def fussy(item: int) -> None:
        await asyncio.sleep(item % 3)
        if item % 4 == 0:
            raise ValueError(item)

    async with BoundedQueue[int](3) as queue:
        await queue.start_workers(fussy, 2, error_handler=Mock())
        accepted = [await queue.put(item, timeout=item % 2) for item in range(20)]
        await queue.join()
        statistics = queue.statistics()
    assert statistics.enqueued == statistics.processed == sum(accepted)
    assert statistics.backpressure_events == 20 - sum(accepted)
    assert statistics.unfinished == statistics.inflight == statistics.size == 0
    assert statistics.peak_size == 3


# -- what the state allows ------------------------------------------------------------------------


def plainly(call: Callable[[BoundedQueue[Any]], Any]) -> Callable[[BoundedQueue[Any]], Any]:
    """Make a plain call look like an async one, for the tables below."""

    async def async_call(queue: BoundedQueue[Any]) -> Any:
        return call(queue)

    return async_call


ITEM_CALLS: dict[str, tuple[str, Callable[[BoundedQueue[Any]], Any]]] = {
    "put": ("put", lambda queue: queue.put(1)),
    "put with a timeout of 0": ("put", lambda queue: queue.put(1, timeout=0)),
    "put_nowait": ("put", plainly(lambda queue: queue.put_nowait(1))),
    "submit": ("put", lambda queue: queue.submit(1)),
    "get": ("get", lambda queue: queue.get()),
    "get with a timeout of 0": ("get", lambda queue: queue.get(timeout=0)),
    "get_nowait": ("get", plainly(lambda queue: queue.get_nowait())),
    "processing": ("get", lambda queue: queue.processing().__aenter__()),
}


@pytest.mark.plan("UT-11")
@pytest.mark.parametrize("call", ITEM_CALLS)
@pytest.mark.parametrize("status", [IDLE, STOPPING, STOPPED], ids=str)
async def test_items_go_neither_in_nor_out_unless_the_queue_is_processing(
    status: QueueStatus, call: str
) -> None:
    verb, attempt = ITEM_CALLS[call]
    async with queue_that_is(status) as queue:
        with pytest.raises(RuntimeError) as caught:
            await attempt(queue)
        assert isinstance(caught.value, QueueStateError)
        assert str(caught.value).startswith(f"Cannot {verb} items when queue is {status.value}")
        assert caught.value.current_state == status.value
        assert queue.status is status


@pytest.mark.plan("UT-9")
@pytest.mark.parametrize("status", [IDLE, PROCESSING, STOPPED], ids=str)
async def test_start_makes_the_queue_process(status: QueueStatus) -> None:
    async with queue_that_is(status) as queue:
        await queue.start()
        assert queue.status == QueueStatus.PROCESSING
        assert await queue.put("item")
        queue.get_nowait()


@pytest.mark.plan("UT-10")
@pytest.mark.parametrize("status", QueueStatus, ids=str)
async def test_stop_makes_the_queue_stopped(status: QueueStatus) -> None:
    async with queue_that_is(status) as queue:
        assert await queue.stop(timeout=1) is (status is not STOPPING)
        assert queue.status == QueueStatus.STOPPED


@pytest.mark.parametrize("status", [IDLE, PROCESSING, STOPPED], ids=str)
async def test_start_workers_starts_the_queue_too(status: QueueStatus) -> None:
    async with queue_that_is(status) as queue:
        await queue.start_workers(AsyncMock(), 2)
        assert queue.status is PROCESSING
        assert queue.worker_count == 2


async def test_start_workers_is_refused_while_the_queue_stops() -> None:
    async with queue_that_is(STOPPING) as queue:
        with pytest.raises(QueueStateError, match=r"^Cannot start workers when queue is stopping$"):
            await queue.start_workers(AsyncMock(), 2)
        assert queue.status is STOPPING


@pytest.mark.parametrize("status", [IDLE, STOPPED], ids=str)
async def test_stop_workers_without_workers_changes_nothing(status: QueueStatus) -> None:
    async with queue_that_is(status) as queue:
        await queue.stop_workers()
        assert queue.status is status


# -- put ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "given", "waited"),
    [
        (0.1, None, 0.1),
        (2.5, None, 2.5),
        (0, None, 0),
        (5, 2, 2),
        (5, 0, 0),
        (5, 0.0, 0),
        (0, 3, 3),
    ],
)
async def test_put_waits_for_its_timeout_or_else_the_timeout_of_the_queue(
    own: float, given: float | None, waited: float
) -> None:
    async with BoundedQueue[str](1, timeout=own) as queue:
        await queue.put("first")
        begun = now()
        assert await queue.put("second", timeout=given) is False
        assert now() - begun == pytest.approx(waited)


@pytest.mark.parametrize("own", [0.1, math.inf])
async def test_put_with_an_infinite_timeout_waits_as_long_as_it_takes(own: float) -> None:
    async with BoundedQueue[str](1, timeout=own) as queue:
        await queue.put("first")
        waiting = asyncio.create_task(queue.put("second", timeout=math.inf if own == 0.1 else None))
        await asyncio.sleep(100_000)
        assert not waiting.done()
        assert queue.get_nowait() == "first"
        assert await waiting is True
        assert queue.get_nowait() == "second"


async def test_a_put_that_waits_is_accepted_as_soon_as_there_is_room() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        waiting = asyncio.create_task(queue.put("second", timeout=10))
        await asyncio.sleep(3)
        begun = now()
        queue.get_nowait()
        assert await waiting is True
        assert now() == begun
        assert queue.metrics["backpressure_events"] == 0


async def test_put_nowait_adds_an_item_or_says_how_full_the_queue_is() -> None:
    async with BoundedQueue[int](2, name="uploads") as queue:
        assert queue.put_nowait(1) is None
        queue.put_nowait(2)
        with pytest.raises(QueueFullError, match=r"uploads.*2 of 2") as caught:
            queue.put_nowait(3)
        assert (caught.value.queue_size, caught.value.queue_capacity) == (2, 2)
        assert queue.metrics["backpressure_events"] == 1
        assert queue.unprocessed == [1, 2]


@pytest.mark.parametrize("item", [None, 0, "", [], {}, float("nan")], ids=repr)
async def test_any_object_is_an_item(item: Any) -> None:
    async with BoundedQueue[Any]() as queue:
        assert await queue.put(item)
        assert await queue.get() is item


async def test_items_are_never_compared() -> None:
    class Touchy:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("somebody compared items")

    async with BoundedQueue[Touchy](2) as queue:
        await queue.put(Touchy())
        await queue.put(Touchy())
        waiting = asyncio.create_task(queue.put(Touchy(), timeout=math.inf))
        await settle()
        queue.get_nowait()
        waiting.cancel()  # in the tick of its grant: the item must be found and removed
        with pytest.raises(asyncio.CancelledError):
            await waiting
        worker = Worker(held=True)
        await queue.start_workers(worker, 1)
        await queue.submit(Touchy())
        await settle()
        await queue.stop_workers(timeout=0)
        assert len(queue.unprocessed) == 2


# -- put: who is served when ----------------------------------------------------------------------


async def test_a_newcomer_in_the_tick_of_a_free_slot_does_not_overtake() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        waiting = asyncio.create_task(queue.put("second", timeout=math.inf))
        await settle()
        queue.get_nowait()  # the slot is free, and the one who waits has not woken up yet
        with pytest.raises(QueueFullError):
            queue.put_nowait("newcomer")
        assert await queue.put("newcomer", timeout=0) is False
        assert await waiting is True
        assert queue.unprocessed == ["second"]


async def test_a_newcomer_that_can_wait_waits_behind_those_who_wait() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        second = asyncio.create_task(queue.put("second", timeout=math.inf))
        await settle()
        queue.get_nowait()
        third = asyncio.create_task(queue.put("third", timeout=math.inf))
        await settle()
        assert queue.get_nowait() == "second"
        assert await asyncio.gather(second, third) == [True, True]
        assert queue.get_nowait() == "third"


async def test_the_short_patience_of_one_does_not_hold_up_the_next() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        impatient = asyncio.create_task(queue.put("impatient", timeout=1))
        patient = asyncio.create_task(queue.put("patient", timeout=math.inf))
        assert await impatient is False
        queue.get_nowait()
        assert await patient is True
        assert queue.get_nowait() == "patient"


async def test_an_item_is_there_to_take_only_once_its_put_is_through() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        waiting = asyncio.create_task(queue.put("second", timeout=math.inf))
        await settle()
        queue.get_nowait()
        with pytest.raises(QueueEmptyError):  # its put may still be cancelled
            queue.get_nowait()
        assert queue.unprocessed == []
        assert queue.metrics["enqueued"] == 1
        await waiting
        assert queue.get_nowait() == "second"


async def test_a_put_cancelled_while_it_waits_leaves_nothing_and_holds_up_nobody() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        cancelled = asyncio.create_task(queue.put("cancelled", timeout=math.inf))
        patient = asyncio.create_task(queue.put("patient", timeout=math.inf))
        await settle()
        cancelled.cancel()
        await settle()
        assert cancelled.cancelled()
        queue.get_nowait()
        assert await patient is True
        assert queue.unprocessed == ["patient"]
        assert queue.metrics["backpressure_events"] == 0


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_put_cancelled_in_the_tick_of_its_grant_passes_its_turn_on(
    cancelled_first: bool,
) -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        unlucky = asyncio.create_task(queue.put("unlucky", timeout=math.inf))
        next_in_line = asyncio.create_task(queue.put("next", timeout=math.inf))
        await settle()
        if cancelled_first:
            unlucky.cancel()
            queue.get_nowait()
        else:
            queue.get_nowait()
            unlucky.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unlucky
        assert await next_in_line is True
        assert queue.unprocessed == ["next"]
        assert queue.metrics["enqueued"] == 2
        assert queue.size == 1


async def test_a_put_cancelled_in_the_tick_of_its_grant_leaves_room_for_a_newcomer() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        unlucky = asyncio.create_task(queue.put("unlucky", timeout=math.inf))
        await settle()
        queue.get_nowait()
        unlucky.cancel()
        await settle()
        queue.put_nowait("newcomer")
        assert queue.unprocessed == ["newcomer"]


async def test_what_stands_behind_a_put_cancelled_in_its_grant_still_reaches_the_workers() -> None:
    seen = AsyncMock()
    async with BoundedQueue[str](2) as queue:
        await queue.put("a")
        await queue.put("b")
        unlucky = asyncio.create_task(queue.put("unlucky", timeout=math.inf))
        behind = asyncio.create_task(queue.put("behind", timeout=math.inf))
        await settle()
        queue.get_nowait()
        queue.get_nowait()
        await queue.start_workers(seen, 1)
        unlucky.cancel()
        assert await behind is True
        queue.task_done()
        queue.task_done()
        await queue.join()
    seen.assert_awaited_once_with("behind")


@pytest.mark.parametrize("freed_first", [True, False])
async def test_a_put_that_expires_in_the_tick_of_a_free_slot_is_either_in_or_refused(
    freed_first: bool,
) -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        # Two timers for the same time: they fire in the order in which they were set.
        free_a_slot = partial(asyncio.get_running_loop().call_at, now() + 1, queue.get_nowait)
        if freed_first:
            free_a_slot()
        late = asyncio.create_task(queue.put("late", timeout=1))
        await asyncio.sleep(0)
        if not freed_first:
            free_a_slot()
        assert await late is freed_first
        assert queue.unprocessed == (["late"] if freed_first else [])
        assert queue.metrics["backpressure_events"] == (0 if freed_first else 1)


async def test_the_bound_is_exact_at_every_instant() -> None:
    rng = random.Random(5)
    sizes = []

    async def worker(item: int) -> None:
        sizes.append(queue.size)
        await asyncio.sleep(rng.random())
        sizes.append(queue.size)

    async def producer() -> None:
        for item in range(30):
            put = asyncio.create_task(queue.put(item, timeout=rng.random() * 2))
            if rng.random() < 0.2:
                await asyncio.sleep(rng.random())
                put.cancel()
            await asyncio.wait([put])
            sizes.append(queue.size)

    async with BoundedQueue[int](4) as queue:
        await queue.start_workers(worker, 2)
        await asyncio.gather(*(producer() for _ in range(6)))
        await queue.join()
        assert queue.metrics["enqueued"] == queue.metrics["processed"]
    assert max(sizes) == 4
    assert queue.statistics().peak_size == 4


# -- put and take without waiting: nothing is made ------------------------------------------------


class WatchedLoop(VirtualTimeLoop):
    """Notes what is made in it and what is scheduled."""

    def __init__(self) -> None:
        self.made: list[str] = []
        super().__init__()

    def create_future(self) -> asyncio.Future[Any]:
        self.made.append("future")
        return super().create_future()

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        self.made.append("task")
        return super().create_task(*args, **kwargs)

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.made.append("callback")
        return super().call_soon(*args, **kwargs)

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.made.append("timer")
        return super().call_at(*args, **kwargs)


def run_watched(main: Callable[[list[str]], Coroutine[Any, Any, None]]) -> None:
    loop = WatchedLoop()
    try:
        loop.run_until_complete(main(loop.made))
    finally:
        loop.close()


def result_without_suspension(call: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine by hand; it must end in its first step."""
    with pytest.raises(StopIteration) as ended:
        call.send(None)
    return ended.value.value


async def test_a_put_with_room_and_a_get_with_an_item_do_not_suspend() -> None:
    async with BoundedQueue[str](1) as queue:
        assert result_without_suspension(queue.put("item")) is True
        assert result_without_suspension(queue.put("no room", timeout=0)) is False
        assert result_without_suspension(queue.get()) == "item"
        assert result_without_suspension(queue.put("item", timeout=5)) is True
        assert result_without_suspension(queue.get(timeout=5)) == "item"
        queue.task_done()
        queue.task_done()
        assert result_without_suspension(queue.join()) is None


def test_a_put_with_room_and_a_get_with_an_item_make_nothing() -> None:
    async def main(made: list[str]) -> None:
        async with BoundedQueue[int](10) as queue:
            made.clear()
            for item in range(10):
                await queue.put(item)
            assert made == []
            await queue.put(10, timeout=0)  # the first in a second is logged, and so timed
            assert made == ["timer"]
            await queue.put(11, timeout=0)
            assert made == ["timer"]
            for _ in range(10):
                await queue.get()
                queue.task_done()
            assert made == ["timer"]

    run_watched(main)


def test_a_worker_that_finds_items_makes_nothing() -> None:
    seen = []

    async def worker(item: int) -> None:
        seen.append(item)

    async def main(made: list[str]) -> None:
        async with BoundedQueue[int](50) as queue:
            await queue.start_workers(worker, 1)
            for item in range(50):
                queue.put_nowait(item)
            made.clear()
            await asyncio.sleep(0)  # one turn of the loop
            assert seen == list(range(50))
            # Ours for the one sleep, and what the worker waits on now that nothing is left.
            assert sorted(made) == ["callback", "future"]

    run_watched(main)


def test_a_put_that_wakes_a_worker_makes_one_callback_and_nothing_else() -> None:
    async def main(made: list[str]) -> None:
        async with BoundedQueue[int](50) as queue:
            await queue.start_workers(AsyncMock(), 4)
            await settle()
            made.clear()
            for item in range(50):
                await queue.put(item)
            assert made == ["callback"]

    run_watched(main)


# -- get ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.5, 3])
async def test_get_gives_up_after_its_timeout(timeout: float) -> None:
    async with BoundedQueue[str]() as queue:
        begun = now()
        with pytest.raises(QueueEmptyError, match="Queue default is empty"):
            await queue.get(timeout=timeout)
        assert now() - begun == pytest.approx(timeout)
        await queue.put("item")  # nobody waits for it any more
        assert queue.get_nowait() == "item"


async def test_get_with_an_infinite_timeout_waits_as_long_as_it_takes() -> None:
    async with BoundedQueue[str]() as queue:
        waiting = asyncio.create_task(queue.get(timeout=math.inf))
        await asyncio.sleep(100_000)
        await queue.put("item")
        assert await waiting == "item"


async def test_get_with_a_timeout_takes_an_item_that_comes_in_time() -> None:
    async with BoundedQueue[str]() as queue:
        waiting = asyncio.create_task(queue.get(timeout=3))
        await asyncio.sleep(2)
        await queue.put("item")
        assert await waiting == "item"


async def test_a_get_that_was_beaten_to_its_item_waits_for_the_rest_of_its_timeout() -> None:
    async with BoundedQueue[str]() as queue:
        begun = now()
        beaten = asyncio.create_task(queue.get(timeout=3))
        await asyncio.sleep(2)
        await queue.put("item")
        assert queue.get_nowait() == "item"  # before the one who was called has woken up
        with pytest.raises(QueueEmptyError):
            await beaten
        assert now() - begun == pytest.approx(3)


@pytest.mark.parametrize("put_first", [True, False])
async def test_a_get_that_expires_in_the_tick_of_a_put_takes_the_item(put_first: bool) -> None:
    async with BoundedQueue[str]() as queue:
        # Two timers for the same time: they fire in the order in which they were set.
        put = partial(asyncio.get_running_loop().call_at, now() + 1, queue.put_nowait, "item")
        if put_first:
            put()
        waiting = asyncio.create_task(queue.get(timeout=1))
        await asyncio.sleep(0)
        if not put_first:
            put()
        assert await waiting == "item"
        assert queue.is_empty


async def test_gets_that_wait_are_served_first_come_first_served() -> None:
    async with BoundedQueue[int]() as queue:
        gets = [asyncio.create_task(queue.get()) for _ in range(4)]
        await settle()
        for item in range(4):
            await queue.put(item)
        assert await asyncio.gather(*gets) == [0, 1, 2, 3]


async def test_a_get_cancelled_while_it_waits_loses_nothing() -> None:
    async with BoundedQueue[str]() as queue:
        cancelled = asyncio.create_task(queue.get())
        other = asyncio.create_task(queue.get())
        await settle()
        cancelled.cancel()
        await queue.put("item")
        assert await other == "item"
        assert cancelled.cancelled()


async def test_a_get_cancelled_in_the_tick_of_a_put_leaves_the_item_where_it_was() -> None:
    async with BoundedQueue[str]() as queue:
        cancelled = asyncio.create_task(queue.get())
        await settle()
        await queue.put("item")
        cancelled.cancel()
        await settle()
        assert queue.unprocessed == ["item"]


async def test_get_makes_room_for_a_put_that_waits() -> None:
    async with BoundedQueue[str](1) as queue:
        await queue.put("first")
        waiting = asyncio.create_task(queue.put("second", timeout=math.inf))
        await settle()
        assert await queue.get() == "first"
        assert await queue.get() == "second"
        assert await waiting is True


async def test_a_get_that_waits_when_the_queue_stops_gets_a_state_error() -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    await queue.start()
    gets = [asyncio.create_task(queue.get()), asyncio.create_task(queue.get(timeout=60))]
    await settle()
    await queue.stop()
    for get in gets:
        with pytest.raises(QueueStateError, match="Cannot get items when queue is stopped"):
            await get


async def test_a_get_that_waited_through_a_stop_and_a_start_does_not_cripple_the_queue() -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    await queue.start()
    waiting = asyncio.create_task(queue.get())
    await settle()
    await queue.stop()
    await queue.start()
    await asyncio.wait([waiting], timeout=1)
    later = asyncio.create_task(queue.get())
    await settle()
    await queue.put("item")
    await queue.put("another")
    await asyncio.wait([later], timeout=1)
    assert later.done()
    await queue.stop(timeout=0, drain=False)


async def test_a_get_from_before_the_stop_does_not_hold_up_one_from_after_the_start() -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    await queue.start()
    earlier = asyncio.create_task(queue.get())
    await settle()
    put = asyncio.create_task(queue.put("item"))  # will run before the earlier get is back
    await queue.stop()
    await queue.start()
    begun = now()
    assert await queue.get(timeout=1) == "item"
    assert now() == begun
    assert await put is True
    assert isinstance(earlier.exception(), QueueStateError)
    await queue.stop(timeout=0, drain=False)


# -- task_done and processing ---------------------------------------------------------------------


@pytest.mark.plan("UT-7")
async def test_task_done_counts_an_item_as_processed() -> None:
    async with BoundedQueue[str]() as queue:
        await queue.put("item")
        await queue.get()
        assert queue.metrics["processed"] == 0
        queue.task_done()
        assert queue.metrics["processed"] == 1


async def test_one_task_done_too_many_is_an_error() -> None:
    async with BoundedQueue[str]() as queue:
        with pytest.raises(ValueError, match="more often than items were taken"):
            queue.task_done()
        await queue.put("waiting")
        await queue.put("waiting too")
        await queue.get()
        queue.task_done()
        with pytest.raises(ValueError, match="more often than items were taken"):
            queue.task_done()
        assert queue.metrics["processed"] == 1


async def test_items_of_workers_are_not_for_task_done() -> None:
    complaints = []

    async def meddler(item: str) -> None:
        try:
            queue.task_done()
        except ValueError as error:
            complaints.append(str(error))

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(meddler, 1)
        await queue.put("item")
        await queue.join()
    assert len(complaints) == 1
    assert queue.metrics["processed"] == 1


async def test_task_done_on_a_queue_never_started_is_one_too_many() -> None:
    with pytest.raises(ValueError, match="more often than items were taken"):
        BoundedQueue().task_done()


async def test_task_done_is_welcome_after_the_stop() -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    await queue.start()
    await queue.put("item")
    await queue.get()
    assert await queue.stop() is True  # the item is in the hands of the caller
    queue.task_done()
    assert queue.metrics["processed"] == 1


async def test_processing_is_a_get_and_its_task_done() -> None:
    async with BoundedQueue[str]() as queue:
        await queue.put("item")
        async with queue.processing() as item:
            assert item == "item"
            assert queue.metrics["processed"] == 0
            assert queue.statistics().inflight == 1
        assert queue.metrics["processed"] == 1
        await queue.join()


async def test_processing_counts_an_error_and_passes_it_on() -> None:
    async with BoundedQueue[str]() as queue:
        await queue.put("item")
        with pytest.raises(KeyError, match="lost"):
            async with queue.processing():
                raise KeyError("lost")
        assert queue.metrics["errors"] == 1
        assert queue.metrics["processed"] == 1
        await queue.join()


async def test_a_task_done_inside_processing_is_one_too_many() -> None:
    async def use() -> None:
        async with queue.processing():
            queue.task_done()

    async with BoundedQueue[str]() as queue:
        await queue.put("taken")
        await queue.put("waiting")
        with suppress(ValueError):
            await use()
        assert queue.metrics["processed"] == 1
        assert queue.statistics().unfinished == 1


async def test_processing_waits_and_gives_up_like_get() -> None:
    async with BoundedQueue[str]() as queue:
        begun = now()
        with pytest.raises(QueueEmptyError):
            async with queue.processing(timeout=2):
                pytest.fail("there was no item")
        assert now() - begun == pytest.approx(2)


async def test_processing_that_is_cancelled_gives_the_item_back_to_be_next() -> None:
    async def use() -> None:
        async with queue.processing():
            await for_ever()

    async with BoundedQueue[str]() as queue:
        await queue.put("first")
        await queue.put("second")
        using = asyncio.create_task(use())
        await settle()
        using.cancel()
        await settle()
        assert queue.metrics["processed"] == 0
        assert queue.unprocessed == ["first", "second"]
        assert await queue.get() == "first"


@pytest.mark.parametrize("steps", range(6))
async def test_a_stop_counts_what_is_given_back_before_it_returns(steps: int) -> None:
    async def use() -> None:
        async with queue.processing():
            await for_ever()

    async def stop() -> bool:
        return await queue.stop() is (not queue.unprocessed)

    queue: BoundedQueue[str] = BoundedQueue()
    await queue.start()
    await queue.put("first")
    using = asyncio.create_task(use())
    await settle()
    await queue.start_workers(lambda item: None, 1)
    await settle()
    stopping = asyncio.create_task(stop())
    for _ in range(steps):
        await asyncio.sleep(0)
    using.cancel()
    await queue.stop()
    assert await stopping


# -- join -----------------------------------------------------------------------------------------


async def test_join_waits_for_what_is_put_meanwhile() -> None:
    async def countdown(item: int) -> None:
        await asyncio.sleep(1)
        if item:
            await queue.put(item - 1)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(countdown, 1)
        await queue.put(3)
        await queue.join()
        assert queue.metrics["processed"] == 4


async def test_a_cancelled_join_harms_nobody() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        cancelled, other = asyncio.create_task(queue.join()), asyncio.create_task(queue.join())
        await settle()
        cancelled.cancel()
        await settle()
        worker.may_go_on.set()
        await other
        assert cancelled.cancelled()


async def test_cancelling_many_joins_does_not_look_for_each_among_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparisons = 0

    class Compared(asyncio.Future[Any]):
        __hash__ = asyncio.Future.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return self is other

    loop = asyncio.get_running_loop()
    async with BoundedQueue[int]() as queue:
        await queue.put(0)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "create_future", lambda: Compared(loop=loop))
            joins = [asyncio.create_task(queue.join()) for _ in range(200)]
            await settle()
        for join in reversed(joins):
            join.cancel()
            await settle()
        assert comparisons < 200 * 5
        assert all(join.cancelled() for join in joins)
        assert queue.get_nowait() == 0
        queue.task_done()
        await queue.join()


async def test_a_join_cancelled_in_the_tick_of_the_last_item_harms_nobody() -> None:
    async with BoundedQueue[int]() as queue:
        await queue.put(1)
        await queue.get()
        cancelled, other = asyncio.create_task(queue.join()), asyncio.create_task(queue.join())
        await settle()
        cancelled.cancel()
        queue.task_done()
        await other
        assert cancelled.cancelled()


async def test_join_on_a_stopped_queue_waits_for_what_callers_hold() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start()
    await queue.put(1)
    await queue.get()
    joining = asyncio.create_task(queue.join())
    await queue.stop()
    await settle()
    assert not joining.done()
    queue.task_done()
    await joining


async def test_join_does_not_wait_for_an_item_given_back_to_a_stopped_queue() -> None:
    async def use() -> None:
        async with queue.processing():
            await for_ever()

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start()
    await queue.put(1)
    using = asyncio.create_task(use())
    await settle()
    joining = asyncio.create_task(queue.join())
    await queue.stop()
    using.cancel()
    await settle()
    assert queue.unprocessed == [1]
    with pytest.raises(QueueStateError):
        await asyncio.wait_for(joining, timeout=1)


# -- stop: what becomes of what was accepted ------------------------------------------------------


async def test_stop_cancels_the_workers_after_its_timeout_and_lists_what_they_held_first() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 2)
    for item in range(5):
        await queue.put(item)
    begun = now()
    assert await queue.stop(timeout=3) is False
    assert now() - begun == pytest.approx(3)
    assert worker.done == []
    assert queue.unprocessed == [0, 1, 2, 3, 4]
    assert queue.metrics == {
        "enqueued": 5,
        "processed": 0,
        "errors": 0,
        "backpressure_events": 0,
    }


async def test_stop_with_a_timeout_of_zero_cancels_at_once() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    await settle()
    begun = now()
    assert await queue.stop(timeout=0) is False
    assert now() == begun
    assert queue.unprocessed == [1]


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_stop_without_a_timeout_waits_as_long_as_it_takes(timeout: float | None) -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    stopping = asyncio.create_task(queue.stop(timeout))
    await asyncio.sleep(100_000)
    assert not stopping.done()
    worker.may_go_on.set()
    assert await stopping is True


async def test_a_put_that_waits_when_the_queue_stops_gets_a_state_error() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue(1)
    await queue.start_workers(worker, 1)
    await queue.put(0)
    await settle()
    await queue.put(1)
    waiting = [asyncio.create_task(queue.put(item, timeout=math.inf)) for item in (2, 3)]
    await settle()
    stopping = asyncio.create_task(queue.stop())
    for put in waiting:
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stopping"):
            await put
    worker.may_go_on.set()
    assert await stopping is True
    assert worker.done == [0, 1]
    assert queue.metrics["enqueued"] == 2


async def test_a_put_granted_in_the_tick_of_the_stop_is_either_in_or_refused_never_half() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    await queue.start()
    await queue.put(0)
    waiting = asyncio.create_task(queue.put(1, timeout=math.inf))
    await settle()
    queue.get_nowait()  # grants the slot
    await queue.stop()  # and takes it away again
    with pytest.raises(QueueStateError):
        await waiting
    assert queue.unprocessed == []
    assert queue.size == 0
    assert queue.metrics["enqueued"] == 1


async def test_a_put_cancelled_in_the_tick_of_the_stop_is_cancelled() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    await queue.start()
    await queue.put(0)
    waiting = asyncio.create_task(queue.put(1, timeout=math.inf))
    await settle()
    queue.get_nowait()
    await queue.stop()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert queue.unprocessed == []
    assert queue.metrics["enqueued"] == 1


async def test_a_put_cancelled_while_the_queue_stops_is_forgotten() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    await queue.start()
    await queue.put(0)
    waiting = asyncio.create_task(queue.put(1, timeout=math.inf))
    await settle()
    waiting.cancel()
    await queue.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert queue.unprocessed == [0]


async def test_two_stops_at_once_are_one_stop() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    stops = [asyncio.create_task(queue.stop()) for _ in range(2)]
    await settle()
    worker.may_go_on.set()
    assert await asyncio.gather(*stops) == [True, True]
    assert worker.done == [1]


@pytest.mark.parametrize(("first", "second"), [(10, 2), (2, 10), (None, 2), (2, None)])
async def test_of_two_stops_the_shorter_timeout_counts(
    first: float | None, second: float | None
) -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(Worker(held=True), 1)
    await queue.put(1)
    begun = now()
    stops = [asyncio.create_task(queue.stop(first)), asyncio.create_task(queue.stop(second))]
    assert await asyncio.gather(*stops) == [False, False]
    assert now() - begun == pytest.approx(2)
    assert queue.unprocessed == [1]


async def test_a_second_stop_can_give_up_draining() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    for item in range(3):
        await queue.put(item)
    stops = [asyncio.create_task(queue.stop())]
    await settle()
    stops.append(asyncio.create_task(queue.stop(drain=False)))
    await settle()
    worker.may_go_on.set()
    assert await asyncio.gather(*stops) == [False, False]
    assert worker.done == [0]
    assert queue.unprocessed == [1, 2]


async def test_stop_from_inside_a_worker_function_is_an_error_that_says_what_to_do() -> None:
    complaints = []

    async def worker(item: int) -> None:
        try:
            await queue.stop()
        except QueueStateError as error:
            complaints.append(str(error))

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    await queue.join()
    assert len(complaints) == 1
    assert "asyncio.create_task(queue.stop())" in complaints[0]
    assert queue.status is PROCESSING
    assert await queue.stop() is True


async def test_a_worker_function_can_have_the_queue_stopped_as_the_error_says() -> None:
    stops: list[asyncio.Task[bool]] = []
    done = []

    async def worker(item: int) -> None:
        if not item:
            stops.append(asyncio.create_task(queue.stop()))
        await asyncio.sleep(1)
        done.append(item)

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    for item in range(3):
        await queue.put(item)
    await settle()
    assert await stops[0] is True
    assert done == [0, 1, 2]


async def test_stop_from_inside_an_error_handler_is_an_error_too() -> None:
    complaints = []

    async def stop_everything(error: Exception, item: int) -> None:
        try:
            await queue.stop()
        except QueueStateError as complaint:
            complaints.append(complaint)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, stop_everything)
        await queue.put(1)
        await queue.join()
    assert len(complaints) == 1


async def test_stop_before_start_makes_the_queue_stopped_and_start_still_works() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    assert await queue.stop() is True
    assert queue.status is STOPPED
    await queue.start()
    assert await queue.put(1)
    await queue.stop(timeout=0, drain=False)


async def test_a_cancelled_stop_cancels_the_workers_and_leaves_the_queue_stopped() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 2)
    for item in range(4):
        await queue.put(item)
    stopping = asyncio.create_task(queue.stop())
    await settle()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert queue.status is STOPPED
    assert queue.worker_count == 0
    assert queue.unprocessed == [0, 1, 2, 3]


class Stubborn:
    """A worker function that ignores its cancellation until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.calls = 0

    async def __call__(self, item: Any) -> str:
        self.calls += 1
        while not self.let_go.is_set():
            with suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return f"late {item}"


async def test_stop_leaves_a_worker_that_ignores_cancellation_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(stubborn, 1)
    await queue.put(1)
    await queue.put(2)
    await settle()
    begun = now()
    assert await queue.stop(timeout=3) is False
    assert now() - begun == pytest.approx(3 + 1)
    assert queue.status is STOPPED
    assert queue.unprocessed == [1, 2]
    assert "ignored its cancellation and may still be running" in caplog.text
    stubborn.let_go.set()
    await settle()
    assert queue.metrics["processed"] == 0, "what it did in the end does not count"


async def test_an_item_taken_from_a_stubborn_worker_is_processed_once_after_a_restart() -> None:
    stubborn = Stubborn()
    patient = AsyncMock()
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(stubborn, 1)
    await queue.put(1)
    await settle()
    await queue.stop(timeout=0)
    await queue.start_workers(patient, 1)
    stubborn.let_go.set()
    await queue.join()
    patient.assert_awaited_once_with(1)
    assert queue.metrics["processed"] == 1
    assert queue.worker_count == 1
    assert await queue.stop() is True


async def test_a_stop_cancelled_twice_does_not_wait_for_a_stubborn_worker() -> None:
    stubborn = Stubborn()
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(stubborn, 1)
    await queue.put(1)
    await settle()
    stopping = asyncio.create_task(queue.stop())
    await settle()
    stopping.cancel()
    await settle()
    begun = now()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert now() == begun
    assert queue.status is STOPPED
    assert queue.unprocessed == [1]
    stubborn.let_go.set()
    await settle()


async def test_a_worker_that_cleans_up_within_the_grace_is_waited_for() -> None:
    cleaned = []

    async def tidy(item: int) -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.9)
            cleaned.append(item)

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(tidy, 2)
    await queue.put(1)
    await queue.put(2)
    await settle()
    assert await queue.stop(timeout=0) is False
    assert sorted(cleaned) == [1, 2]


async def test_an_item_that_is_finished_in_spite_of_a_cancellation_is_finished() -> None:
    async def finishes_anyway(item: int) -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(finishes_anyway, 1)
    await queue.put(1)
    await queue.put(2)
    await settle()
    assert await queue.stop(timeout=0) is False
    assert queue.metrics["processed"] == 1
    assert queue.unprocessed == [2]


async def test_items_refused_or_cancelled_never_show_up_after_a_stop() -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    await queue.start()
    await queue.put("accepted")
    await queue.put("refused", timeout=0)
    waiting = asyncio.create_task(queue.put("cancelled", timeout=math.inf))
    await settle()
    waiting.cancel()
    await settle()
    await queue.stop()
    assert queue.unprocessed == ["accepted"]


# -- start again ----------------------------------------------------------------------------------


async def test_a_restart_takes_up_what_was_left_in_order_and_what_was_in_hand_first() -> None:
    seen = []
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(Worker(held=True), 3)
    for item in range(6):
        await queue.put(item)
    await settle()
    await queue.stop(timeout=0)
    await queue.start()
    await queue.put(6)

    async def worker(item: int) -> None:
        seen.append(item)

    await queue.start_workers(worker, 1)
    await queue.join()
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert queue.metrics["enqueued"] == queue.metrics["processed"] == 7
    assert await queue.stop() is True


async def test_what_was_left_can_be_taken_with_get_as_well() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(Worker(held=True), 1)
    for item in range(3):
        await queue.put(item)
    await settle()
    await queue.stop(timeout=0)
    await queue.start()
    assert [queue.get_nowait() for _ in range(3)] == [0, 1, 2]
    await queue.stop(timeout=0, drain=False)


async def test_what_was_left_survives_any_number_of_stops() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    await queue.start()
    for item in range(3):
        await queue.put(item)
    for _ in range(3):
        await queue.stop(timeout=0)
        await queue.start_workers(Worker(held=True), 2)
        await settle()
    assert await queue.stop(timeout=0) is False
    assert queue.unprocessed == [0, 1, 2]


async def test_what_cancelled_workers_give_back_takes_no_room_in_the_line() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    await queue.start_workers(Worker(held=True), 1)
    await queue.put(0)
    await settle()
    await queue.put(1)
    await queue.stop(timeout=0)
    assert queue.unprocessed == [0, 1]
    assert queue.size == 1
    await queue.start()
    assert queue.get_nowait() == 0
    assert queue.size == 1, "the line was full before and still is"
    await queue.stop(timeout=0, drain=False)


async def test_start_during_a_stop_waits_for_it_and_then_starts() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    stopping = asyncio.create_task(queue.stop())
    await settle()
    starting = [asyncio.create_task(queue.start()) for _ in range(2)]
    await settle()
    assert queue.status is STOPPING
    assert not any(start.done() for start in starting)
    worker.may_go_on.set()
    assert await stopping is True
    await asyncio.gather(*starting)
    assert queue.status is PROCESSING
    assert worker.done == [1]
    assert await queue.stop() is True


async def test_start_during_a_stop_that_times_out_takes_up_what_is_left() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(Worker(held=True), 1)
    await queue.put(1)
    stopping = asyncio.create_task(queue.stop(timeout=2))
    await settle()
    starting = asyncio.create_task(queue.start())
    assert await stopping is False
    await starting
    assert queue.get_nowait() == 1
    await queue.stop(timeout=0, drain=False)


async def test_cancelling_a_start_that_waits_does_not_cut_the_stop_short() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    stopping = asyncio.create_task(queue.stop())
    await settle()
    starting = asyncio.create_task(queue.start())
    await settle()
    starting.cancel()
    await settle()
    worker.may_go_on.set()
    assert await stopping is True
    assert worker.done == [1]


async def test_stop_in_the_tick_of_a_start_stops() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    starting, stopping = asyncio.create_task(queue.start()), asyncio.create_task(queue.stop())
    await asyncio.gather(starting, stopping)
    assert queue.status is STOPPED


async def test_stop_while_a_start_waits_for_an_earlier_stop_is_that_stop() -> None:
    worker = Worker(held=True)
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    first = asyncio.create_task(queue.stop())
    await settle()
    starting = asyncio.create_task(queue.start())
    second = asyncio.create_task(queue.stop())
    await settle()
    worker.may_go_on.set()
    assert await asyncio.gather(first, second) == [True, True]
    await starting
    assert queue.status is PROCESSING


async def test_start_from_inside_a_worker_function_while_the_queue_stops_is_an_error() -> None:
    complaints = []
    gate = asyncio.Event()

    async def worker(item: int) -> None:
        await gate.wait()
        try:
            await queue.start()
        except QueueStateError as error:
            complaints.append(str(error))

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(worker, 1)
    await queue.put(1)
    await settle()
    stopping = asyncio.create_task(queue.stop())
    await settle()
    gate.set()
    assert await stopping is True
    assert len(complaints) == 1
    assert "inside a worker function" in complaints[0]


async def test_start_from_inside_a_worker_function_is_a_no_op_while_the_queue_runs() -> None:
    async def worker(item: int) -> None:
        await queue.start()

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        await queue.join()
    assert queue.metrics["errors"] == 0


# -- async with -----------------------------------------------------------------------------------


async def test_async_with_starts_and_gives_the_queue_itself() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    async with queue as entered:
        assert entered is queue
        assert queue.status is PROCESSING
    assert queue.status is STOPPED


async def test_a_clean_exit_drains() -> None:
    done = []

    async def worker(item: int) -> None:
        await asyncio.sleep(5)
        done.append(item)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        for item in range(3):
            await queue.put(item)
    assert done == [0, 1, 2]
    assert queue.unprocessed == []


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
async def test_an_exit_by_exception_cancels_and_keeps_what_is_left(
    error: type[BaseException],
) -> None:
    queue: BoundedQueue[int] = BoundedQueue()

    async def use() -> None:
        async with queue:
            await queue.start_workers(Worker(held=True), 1)
            for item in range(3):
                await queue.put(item)
            await settle()
            raise error

    begun = now()
    with pytest.raises(error):
        await use()
    assert now() - begun < 0.1
    assert queue.status is STOPPED
    assert queue.unprocessed == [0, 1, 2]


async def test_the_same_queue_can_be_entered_again() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    for _ in range(2):
        async with queue:
            await queue.put(1)
            await queue.get()
            queue.task_done()
    assert queue.metrics["processed"] == 2


# -- one loop -------------------------------------------------------------------------------------

FROM_ELSEWHERE: dict[str, Callable[[BoundedQueue[Any]], Coroutine[Any, Any, Any]]] = {
    "put": lambda queue: queue.put(2),
    "submit": lambda queue: queue.submit(2),
    "get": lambda queue: queue.get(),
    "join": lambda queue: queue.join(),
    "start": lambda queue: queue.start(),
    "stop": lambda queue: queue.stop(),
    "start_workers": lambda queue: queue.start_workers(AsyncMock(), 1),
    "stop_workers": lambda queue: queue.stop_workers(),
}


@pytest.mark.parametrize("call", FROM_ELSEWHERE)
async def test_another_loop_is_told_of_penstock_sync(call: str) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker := Worker(held=True), 1)
        await queue.put(1)
        await settle()
        with ThreadPoolExecutor(1) as thread:
            attempt = asyncio.get_running_loop().run_in_executor(
                thread, lambda: penstock.testing.run(FROM_ELSEWHERE[call](queue))
            )
            with pytest.raises(QueueStateError, match=r"another event loop.*penstock\.sync"):
                await attempt
        assert queue.status is PROCESSING
        assert queue.worker_count == 1
        worker.may_go_on.set()


@pytest.mark.parametrize("call", ["put_nowait", "get_nowait", "task_done"])
async def test_another_thread_is_told_of_penstock_sync(call: str) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.put(1)
        method = getattr(queue, call)
        arguments = [2] if call == "put_nowait" else []
        with ThreadPoolExecutor(1) as thread:
            attempt = asyncio.get_running_loop().run_in_executor(thread, method, *arguments)
            with pytest.raises(QueueStateError, match=r"penstock\.sync") as caught:
                await attempt
        assert caught.value.current_state == "processing"
        assert queue.unprocessed == [1]


async def test_its_properties_can_be_read_from_another_thread() -> None:
    async with BoundedQueue[int]() as queue:
        await queue.put(1)
        with ThreadPoolExecutor(1) as thread:
            look = lambda: (queue.size, queue.unprocessed, queue.statistics().enqueued)  # noqa: E731
            assert await asyncio.get_running_loop().run_in_executor(thread, look) == (1, [1], 1)


def test_a_stopped_queue_can_be_started_in_another_loop() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    seen = AsyncMock()

    async def first() -> None:
        await queue.start()
        await queue.put(1)
        await queue.stop()

    async def second() -> None:
        await queue.start_workers(seen, 1)
        await queue.put(2)
        assert await queue.stop() is True

    penstock.testing.run(first())
    penstock.testing.run(second())
    assert [call.args[0] for call in seen.await_args_list] == [1, 2]


class Wreckage:
    """What is left of a loop that was closed over unfinished tasks."""

    def __init__(self) -> None:
        #: Tasks to keep until they are cleared away.
        self.tasks: list[asyncio.Task[Any]] = []
        #: What Python could tell nobody: errors in coroutines that were thrown away.
        self.complaints: list[Any] = []

    def clear_away(self) -> None:
        for task in self.tasks:
            self._close(task.get_coro())
        self.tasks.clear()
        gc.collect()

    def _close(self, coroutine: Any) -> None:
        try:
            coroutine.close()  # as collecting it would
        except BaseException as error:
            self.complaints.append(error)


@pytest.fixture
def wreckage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wreckage]:
    wreckage = Wreckage()
    monkeypatch.setattr(sys, "unraisablehook", wreckage.complaints.append)
    # "Task was destroyed but it is pending" is true, and not our concern here.
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
    yield wreckage
    wreckage.clear_away()


def run_and_forget(main: Coroutine[Any, Any, Any]) -> None:
    """Run ``main`` and close its loop over whatever else is under way."""
    loop = VirtualTimeLoop()
    loop.run_until_complete(main)
    loop.close()


async def leave_behind(queue: BoundedQueue[Any], *, waiting: bool = True) -> list[Any]:
    """Have one item in hand, one in line, and the loop end under it."""
    await queue.start_workers(Worker(held=True), 1)
    await queue.put("in hand")
    await settle()
    await queue.put("in line")
    pending = [queue.put("waiting", timeout=math.inf)] if waiting else []
    tasks = [asyncio.create_task(call) for call in pending]
    await settle()
    return tasks


def test_a_queue_whose_loop_was_closed_starts_anew_in_another(wreckage: Wreckage) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    run_and_forget(leave_behind(queue))
    seen = AsyncMock()

    async def again() -> None:
        await queue.start()
        wreckage.clear_away()
        await queue.start_workers(seen, 1)
        await queue.join()
        assert await queue.stop() is True

    penstock.testing.run(again())
    assert [call.args[0] for call in seen.await_args_list] == ["in hand", "in line"]
    assert queue.metrics["enqueued"] == queue.metrics["processed"] == 2
    wreckage.clear_away()
    assert wreckage.complaints == []


def test_an_abandoned_attempt_is_closed_even_while_its_item_is_processed_again(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    closed = []

    async def interrupted(item: str) -> None:
        try:
            await for_ever()
        finally:
            closed.append(item)

    async def collects(item: str) -> None:
        gc.collect()  # as may happen at any time

    async def begin_and_go() -> None:
        await queue.start_workers(interrupted, 1)
        await queue.put("item")
        await settle()

    async def again() -> None:
        await queue.start_workers(collects, 1)
        await queue.join()
        await queue.stop()

    run_and_forget(begin_and_go())
    penstock.testing.run(again())
    assert wreckage.complaints == []
    assert closed == ["item"]


def test_a_put_granted_in_the_last_tick_of_a_loop_is_not_in_the_queue(wreckage: Wreckage) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)

    async def grant_and_go() -> None:
        await queue.start()
        await queue.put("first")
        put = asyncio.create_task(queue.put("second", timeout=math.inf))
        await settle()
        assert not put.done()
        asyncio.get_running_loop().call_soon(queue.get_nowait)  # nobody wakes up after that

    run_and_forget(grant_and_go())
    wreckage.clear_away()
    assert penstock.testing.run(queue.stop()) is True
    assert queue.size == 0
    assert queue.metrics["enqueued"] == 1
    assert wreckage.complaints == []


def test_a_queue_whose_loop_was_closed_can_be_stopped(wreckage: Wreckage) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    run_and_forget(leave_behind(queue))
    assert penstock.testing.run(queue.stop()) is False
    assert queue.status is STOPPED
    assert queue.unprocessed == ["in hand", "in line"]
    wreckage.clear_away()
    assert queue.unprocessed == ["in hand", "in line"]
    assert wreckage.complaints == []


def test_a_queue_whose_loop_was_closed_says_so_when_used_before_it_is_started_again(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue()
    run_and_forget(queue.start())
    with pytest.raises(QueueStateError):
        penstock.testing.run(queue.put("item"))


def test_the_workers_of_a_closed_loop_hand_back_what_they_held_when_they_are_collected(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)

    loop = VirtualTimeLoop()
    loop.run_until_complete(leave_behind(queue, waiting=False))
    tasks = asyncio.all_tasks(loop)  # as asyncio.run does at its end
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    assert queue.unprocessed == ["in hand", "in line"]
    assert queue.worker_count == 0
    with pytest.warns(ResourceWarning, match="2 accepted items are not done"):
        del queue


def test_idle_workers_of_a_closed_loop_go_quietly(wreckage: Wreckage) -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def idle() -> None:
        await queue.start_workers(AsyncMock(), 1)
        await settle()

    run_and_forget(idle())
    penstock.testing.run(queue.start())
    wreckage.clear_away()
    assert wreckage.complaints == []


def test_a_join_left_behind_in_a_closed_loop_does_not_kill_the_new_workers(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def join_and_go() -> None:
        await queue.start()
        await queue.put("item")
        wreckage.tasks.append(asyncio.create_task(queue.join()))
        await settle()

    async def again() -> None:
        await queue.start_workers(AsyncMock(), 1)
        await settle()
        assert queue.worker_count == 1
        await queue.stop()

    run_and_forget(join_and_go())
    penstock.testing.run(again())


def test_a_future_left_behind_in_a_closed_loop_is_no_error_of_the_item(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue()

    async def submit_and_go() -> None:
        await queue.start()

        async def caller() -> None:
            await (await queue.submit("item"))

        wreckage.tasks.append(asyncio.create_task(caller()))
        await settle()

    async def again() -> None:
        await queue.start_workers(AsyncMock(), 1)
        await queue.join()
        await queue.stop()

    run_and_forget(submit_and_go())
    penstock.testing.run(again())
    assert queue.metrics["processed"] == 1
    assert queue.metrics["errors"] == 0


def test_workers_can_be_started_on_a_queue_whose_loop_was_closed_in_mid_stop(
    wreckage: Wreckage,
) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)

    async def stop_and_go() -> None:
        await leave_behind(queue, waiting=False)
        wreckage.tasks.append(asyncio.create_task(queue.stop()))
        await settle()

    async def again() -> None:
        await queue.start_workers(AsyncMock(), 1)
        assert await queue.stop() is True

    run_and_forget(stop_and_go())
    penstock.testing.run(again())


def test_a_stop_left_behind_in_a_closed_loop_goes_quietly(wreckage: Wreckage) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)

    async def stop_and_go() -> None:
        await leave_behind(queue, waiting=False)
        wreckage.tasks.append(asyncio.create_task(queue.stop()))
        await settle()

    run_and_forget(stop_and_go())
    penstock.testing.run(queue.start())
    wreckage.clear_away()
    assert queue.status is PROCESSING
    assert sorted(queue.unprocessed) == ["in hand", "in line"]
    assert wreckage.complaints == []
    penstock.testing.run(queue.stop())


def test_the_log_of_a_closed_loop_blames_no_worker_function(
    wreckage: Wreckage, caplog: pytest.LogCaptureFixture
) -> None:
    queue: BoundedQueue[str] = BoundedQueue(1)
    run_and_forget(leave_behind(queue))
    penstock.testing.run(queue.stop())
    assert "ignored its cancellation" not in caplog.text


# -- the log --------------------------------------------------------------------------------------


class Unspeakable:
    """An item that must not be turned into text."""

    def __str__(self) -> str:
        raise AssertionError("somebody made a string of an item")

    __repr__ = __str__


async def test_state_changes_are_logged_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "penstock")
    async with BoundedQueue[int](name="uploads"):
        pass
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "Queue uploads is processing"),
        ("INFO", "Queue uploads is stopping"),
        ("INFO", "Queue uploads is stopped"),
    ]
    assert {record.name for record in caplog.records} == {"penstock"}


async def test_a_given_logger_is_used_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with BoundedQueue[int](1, logger=logging.getLogger("mine")) as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1)
        await queue.put(1)
        await queue.put(2, timeout=0)
        await queue.join()
    assert {record.name for record in caplog.records if record.name != "asyncio"} == {"mine"}


async def test_success_logs_nothing_per_item_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(), 3)
        caplog.clear()
        for item in range(50):
            await queue.put(item)
        await queue.join()
        assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_backpressure_is_logged_at_warning_at_most_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with BoundedQueue[int](1, name="uploads") as queue:
        await queue.put(1)
        for _ in range(35):
            await queue.put(2, timeout=0.1)  # 3.5 seconds of it
        for _ in range(35):
            with pytest.raises(QueueFullError):
                queue.put_nowait(2)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    messages = [record.getMessage() for record in warnings if "is full" in record.getMessage()]
    assert len(messages) == 4
    assert messages[0] == "Queue uploads is full: 1 items wait, 1 puts refused so far"


def test_backpressure_is_logged_in_a_second_loop_too(caplog: pytest.LogCaptureFixture) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)

    async def overflow(at: float) -> None:
        await asyncio.sleep(at)
        await queue.start()
        queue.put_nowait(1)
        await queue.put(2, timeout=0)
        queue.get_nowait()
        await queue.stop()

    penstock.testing.run(overflow(1000))
    caplog.clear()
    penstock.testing.run(overflow(0))
    assert "is full" in caplog.text


async def test_each_queue_warns_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "other"):
        async with BoundedQueue[int](1, name=name) as queue:
            await queue.put(1)
            await queue.put(2, timeout=0)
    assert "Queue one is full" in caplog.text
    assert "Queue other is full" in caplog.text


async def test_the_log_tells_how_many_items_were_left(caplog: pytest.LogCaptureFixture) -> None:
    queue: BoundedQueue[int] = BoundedQueue(name="uploads")
    await queue.start()
    for item in range(3):
        await queue.put(item)
    await queue.stop()
    await queue.stop()
    left = [record for record in caplog.records if "unprocessed" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in left] == [
        ("WARNING", "Queue uploads stopped with 3 items unprocessed")
    ]


async def test_no_text_is_made_of_an_item_whatever_happens_to_it() -> None:
    logger = logging.getLogger("penstock.tests.spoken")
    logger.setLevel(logging.DEBUG)
    async with BoundedQueue[Unspeakable](1, logger=logger) as queue:
        await queue.start_workers(AsyncMock(side_effect=[None, ValueError, None]), 1)
        for _ in range(3):
            await queue.put(Unspeakable())
            await queue.put(Unspeakable(), timeout=0)
            with pytest.raises(QueueFullError):
                queue.put_nowait(Unspeakable())
            await queue.join()
        await queue.start_workers(Worker(held=True), 1)
        await queue.put(Unspeakable())
        await settle()
        await queue.stop(timeout=0)
    assert queue.metrics["processed"] == 3


async def test_no_text_is_made_for_a_level_that_is_off() -> None:
    class Quiet(logging.Logger):
        def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
            raise AssertionError("a record was made for a level that is off")

    logger = Quiet("quiet", level=logging.CRITICAL + 1)
    async with BoundedQueue[int](1, logger=logger) as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1)
        await queue.put(1)
        await queue.put(2, timeout=0)
    assert queue.metrics["errors"] == 1


def test_before_its_start_it_takes_nothing_outside_of_a_loop_either() -> None:
    queue = BoundedQueue[int]()
    with pytest.raises(QueueStateError):
        queue.put_nowait(1)
    assert queue.metrics["enqueued"] == queue.size == 0


# -- nothing is lost in silence --------------------------------------------------------------------


async def test_items_that_nobody_takes_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    queue: BoundedQueue[int] = BoundedQueue(name="q")
    await queue.start()
    await asyncio.sleep(100)
    caplog.clear()
    for item in range(3):
        await queue.put(item)
        await asyncio.sleep(0.3)
    assert caplog.messages == []
    await asyncio.sleep(100)
    assert caplog.messages == [
        "Queue q has 3 items and no worker takes them: start workers with process()"
    ]
    assert caplog.records[0].levelname == "WARNING"
    await queue.put(4)
    await asyncio.sleep(100)
    assert len(caplog.messages) == 1
    await queue.stop()


@pytest.mark.parametrize("how", ["put_nowait", "submit", "put with a deadline"])
async def test_however_they_were_put(caplog: pytest.LogCaptureFixture, how: str) -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start()
    if how == "put_nowait":
        queue.put_nowait(1)
    elif how == "submit":
        await queue.submit(1)
    else:
        await queue.put(1, deadline=1000)
    await asyncio.sleep(2)
    assert "no worker takes them" in caplog.text
    await queue.stop()


@pytest.mark.parametrize("how", ["workers", "get", "get that waits", "processing", "stop"])
async def test_items_that_somebody_takes_are_not(
    caplog: pytest.LogCaptureFixture, how: str
) -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start()
    taking = asyncio.create_task(queue.get()) if how == "get that waits" else None
    await settle()
    for item in range(3):
        await queue.put(item)
    if how == "workers":
        await queue.start_workers(Worker(held=True), 1)
    elif how == "get":
        await queue.get()
    elif how == "processing":
        async with queue.processing():
            pass
    elif how == "stop":
        await queue.stop()
    await asyncio.sleep(100)
    assert taking is None or taking.done()
    assert "nobody takes" not in caplog.text
    await queue.stop(timeout=0, drain=False)


async def test_a_timer_for_that_does_not_keep_the_queue_alive() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start()
    await queue.put(1)
    gone = weakref.ref(queue)
    with pytest.warns(ResourceWarning, match="1 accepted items are not done"):  # noqa: PT031
        del queue
        gc.collect()
    assert gone() is None


async def test_a_stop_tells_how_many_puts_were_refused(caplog: pytest.LogCaptureFixture) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, name="q")
    in_all = 0
    for refused in (3, 0, 2):
        caplog.clear()
        await queue.start_workers(Worker(held=True), 1)
        await queue.put(0)
        await settle()
        await queue.put(0, timeout=0)
        for _ in range(refused):
            assert not await queue.put(0, timeout=0)
        await queue.stop(timeout=0)
        in_all += refused
        told = [message for message in caplog.messages if "in all" in message]
        assert told == ([f"Queue q refused {in_all} puts in all: it was full"] if refused else [])
        while queue.unprocessed:
            await queue.start()
            queue.get_nowait()
            queue.task_done()
            await queue.stop()


@pytest.mark.parametrize("where", ["global", "local"])
def test_a_queue_that_nobody_stops_says_what_is_not_done(where: str) -> None:
    outcome = run_program(f"""
        import asyncio, gc, warnings
        from penstock import BoundedQueue

        warnings.simplefilter("default")

        async def work(item):
            await asyncio.sleep(1)

        async def main():
            {"global queue" if where == "global" else ""}
            queue = BoundedQueue(name="q")
            await queue.start_workers(work, 1)
            for number in range(20):
                await queue.put(number)

        asyncio.run(main())
    """)
    assert outcome.returncode == 0
    message = (
        r"<BoundedQueue 'q' processing \d+/100> was not stopped: 20 accepted items are not done"
    )
    assert re.search(f"(?m)^{message}$", outcome.stderr), "the log"
    assert re.search(f"ResourceWarning: {message}$", outcome.stderr, re.MULTILINE)
