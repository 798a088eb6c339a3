"""WorkQueue: what it passes on, ``process``, ``batch_process``, and the usage that was promised."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest

from helpers.tasks import now, settle
from penstock import (
    AdaptiveConcurrency,
    AsyncExecutor,
    BoundedQueue,
    QueueConfig,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    WorkQueue,
    sync,
)
from penstock.telemetry import Telemetry

IDLE, PROCESSING, STOPPING, STOPPED = QueueStatus


class Recorder:
    """An async worker function that takes its time and notes what it was given."""

    def __init__(self, seconds: float = 1) -> None:
        self.seconds = seconds
        self.seen: list[Any] = []
        self.done: list[Any] = []

    async def __call__(self, item: Any) -> None:
        self.seen.append(item)
        await asyncio.sleep(self.seconds)
        self.done.append(item)


# -- what it is made of ---------------------------------------------------------------------------


@pytest.mark.plan("UT-16")
def test_a_work_queue_has_the_documented_defaults() -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert queue.concurrency_limit is None
    assert isinstance(queue.queue, BoundedQueue)
    assert queue.maxsize == queue.queue.maxsize == 100
    assert queue.queue.timeout == 0.1
    assert queue.queue.logger is logging.getLogger("penstock")
    assert queue.name == queue.queue.name == "default"
    assert queue.status == QueueStatus.IDLE
    assert queue.size == 0
    assert queue.is_empty
    assert not queue.is_full
    assert queue.worker_count == 0
    assert queue.unprocessed == []
    assert queue.metrics == dict.fromkeys(
        ["enqueued", "processed", "errors", "backpressure_events"], 0
    )


@pytest.mark.plan("UT-16")
def test_a_work_queue_has_what_it_was_given() -> None:
    logger = logging.getLogger("mine")
    queue: WorkQueue[int] = WorkQueue(10, 2.5, 4, logger, name="uploads")
    assert queue.concurrency_limit == 4
    assert queue.maxsize == 10
    assert queue.name == "uploads"
    assert isinstance(queue.queue, BoundedQueue)
    assert queue.queue.timeout == 2.5
    assert queue.queue.logger is logger


@pytest.mark.parametrize("limit", [0, -1])
def test_a_concurrency_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="Concurrency limit must be at least 1"):
        WorkQueue(concurrency_limit=limit)


def test_a_work_queue_is_made_from_a_config() -> None:
    config = QueueConfig(queue_capacity=7, concurrency_limit=3)
    queue: WorkQueue[int] = WorkQueue.from_config(config, name="uploads")
    assert (queue.maxsize, queue.concurrency_limit, queue.name) == (7, 3, "uploads")


def test_from_config_makes_the_subclass_it_is_called_on() -> None:
    class Uploads(WorkQueue[str]):
        pass

    assert type(Uploads.from_config(QueueConfig())) is Uploads


@pytest.mark.parametrize("kind", [WorkQueue, sync.WorkQueue])
def test_the_type_of_results_may_be_said_or_left_out(kind: Any) -> None:
    assert isinstance(kind[int](5), kind)
    assert isinstance(kind[int, str](5), kind)


def test_its_repr_shows_the_queue_inside() -> None:
    assert repr(WorkQueue(5, name="uploads")) == (
        "<WorkQueue over <BoundedQueue 'uploads' idle 0/5>>"
    )


def test_a_queue_that_is_given_is_used() -> None:
    inner: BoundedQueue[int] = BoundedQueue(3)
    queue = WorkQueue(queue=inner, concurrency_limit=2)
    assert queue.queue is inner
    assert queue.maxsize == 3


@pytest.mark.parametrize(
    "own",
    [
        {"maxsize": 5},
        {"timeout": 1},
        {"logger": logging.getLogger("mine")},
        {"name": "uploads"},
        {"telemetry": Telemetry(spans="none")},
    ],
    ids=lambda own: next(iter(own)),
)
def test_what_belongs_to_the_inner_queue_is_refused_beside_one(own: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has its own"):
        WorkQueue(queue=BoundedQueue(), **own)


# -- what it passes on ----------------------------------------------------------------------------


def mocked_queue(**attributes: Any) -> AsyncMock:
    return AsyncMock(spec=BoundedQueue, **attributes)


@pytest.fixture(params=["given", "assigned", "without a spec"])
def mock_and_work_queue(request: pytest.FixtureRequest) -> tuple[AsyncMock, WorkQueue[Any]]:
    """A mocked queue in a work queue, by each of the ways in which one may get there."""
    mock = AsyncMock() if request.param == "without a spec" else mocked_queue()
    if request.param == "given":
        return mock, WorkQueue(queue=mock, concurrency_limit=3)
    work_queue: WorkQueue[Any] = WorkQueue(maxsize=10, concurrency_limit=3)
    work_queue.queue = mock
    return mock, work_queue


@pytest.mark.plan("UT-17")
async def test_calls_are_passed_on_to_a_mocked_queue(
    mock_and_work_queue: tuple[AsyncMock, WorkQueue[Any]],
) -> None:
    mock, work_queue = mock_and_work_queue
    worker = AsyncMock()

    await work_queue.start()
    await work_queue.process(worker)
    await work_queue.put("item")
    await work_queue.get()
    await work_queue.join()
    await work_queue.stop()

    mock.start.assert_awaited_once_with()
    mock.start_workers.assert_awaited_once_with(
        worker_func=worker, num_workers=3, error_handler=None
    )
    mock.put.assert_awaited_once_with("item")
    mock.get.assert_awaited_once_with()
    mock.join.assert_awaited_once_with()
    mock.stop.assert_awaited_once_with(timeout=None)


@pytest.mark.plan("UT-17")
async def test_arguments_and_results_are_passed_on_as_they_are() -> None:
    mock = mocked_queue()
    work_queue: WorkQueue[Any] = WorkQueue(queue=mock)
    mock.put.return_value = False
    mock.get.return_value = "taken"
    mock.get_nowait.return_value = "taken now"
    mock.stop.return_value = False
    handler = AsyncMock()

    assert await work_queue.put("item", timeout=0) is False
    assert await work_queue.put("item", 2.5) is False
    assert work_queue.put_nowait("item") is None
    assert await work_queue.get(timeout=0) == "taken"
    assert work_queue.get_nowait() == "taken now"
    work_queue.task_done()
    assert await work_queue.stop(5) is False
    assert await work_queue.stop(timeout=5, drain=False) is False
    await work_queue.process(print, 7, handler)

    assert mock.put.await_args_list == [call("item", timeout=0), call("item", timeout=2.5)]
    mock.put_nowait.assert_called_once_with("item")
    work_queue.put_nowait("item", deadline=5)
    mock.put_nowait.assert_called_with("item", deadline=5)
    mock.get.assert_awaited_once_with(timeout=0)
    mock.task_done.assert_called_once_with()
    assert mock.stop.await_args_list == [call(timeout=5), call(timeout=5, drain=False)]
    mock.start_workers.assert_awaited_once_with(
        worker_func=print, num_workers=7, error_handler=handler
    )


@pytest.mark.plan("UT-17")
@pytest.mark.parametrize(
    "name",
    [
        "maxsize",
        "name",
        "size",
        "is_empty",
        "is_full",
        "status",
        "worker_count",
        "unprocessed",
        "metrics",
    ],
)
def test_properties_are_those_of_the_queue_inside(name: str) -> None:
    mock = Mock()
    work_queue: WorkQueue[Any] = WorkQueue()
    work_queue.queue = mock
    assert getattr(work_queue, name) is getattr(mock, name)


@pytest.mark.plan("UT-17")
def test_statistics_are_those_of_the_queue_inside() -> None:
    mock = mocked_queue()
    assert WorkQueue(queue=mock).statistics() is mock.statistics.return_value


async def test_errors_of_the_queue_inside_come_through() -> None:
    mock = mocked_queue()
    mock.put.side_effect = QueueStateError("Cannot put items when queue is idle")
    mock.put_nowait.side_effect = QueueFullError()
    with pytest.raises(QueueStateError, match="queue is idle"):
        await WorkQueue(queue=mock).put(1)
    with pytest.raises(QueueFullError):
        WorkQueue(queue=mock).put_nowait(1)


@pytest.mark.plan("UT-19")
async def test_async_with_starts_and_stops_the_queue_inside() -> None:
    mock = mocked_queue()
    work_queue: WorkQueue[Any] = WorkQueue(queue=mock)
    async with work_queue as entered:
        assert entered is work_queue
        mock.start.assert_awaited_once_with()
        mock.stop.assert_not_awaited()
    mock.stop.assert_awaited_once_with(timeout=None)


@pytest.mark.plan("UT-19")
async def test_an_exit_by_exception_stops_the_queue_inside_at_once() -> None:
    mock = mocked_queue()
    with pytest.raises(KeyError):
        async with WorkQueue(queue=mock):
            raise KeyError
    mock.stop.assert_awaited_once_with(timeout=0, drain=False)


async def test_a_clean_exit_drains_and_another_keeps_what_is_left() -> None:
    worker = Recorder()
    async with WorkQueue[int](concurrency_limit=2) as queue:
        await queue.process(worker)
        for item in range(4):
            await queue.put(item)
    assert sorted(worker.done) == [0, 1, 2, 3]

    async def fail() -> None:
        async with queue:
            await queue.process(Recorder(math.inf))
            for item in range(4):
                await queue.put(item)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert queue.unprocessed == [0, 1, 2, 3]


async def test_batch_process_works_with_a_mocked_queue() -> None:
    mock = mocked_queue(status=QueueStatus.IDLE)
    worker = AsyncMock()
    await WorkQueue(queue=mock).batch_process(["a", "b"], worker, 2)
    assert [name for name, _, _ in mock.mock_calls if "." not in name] == [
        "start",
        "start_workers",
        "put",
        "put",
        "join",
        "stop",
    ]
    assert [args[0] for args, _ in mock.put.await_args_list] == ["a", "b"]


async def test_batch_process_offers_an_item_again_that_another_kind_of_queue_refused() -> None:
    mock = mocked_queue(status=QueueStatus.IDLE)
    mock.put.side_effect = [False, True]
    await WorkQueue(queue=mock).batch_process(["a"], AsyncMock())
    assert mock.put.await_count == 2


async def test_batch_process_lets_others_run_while_its_items_are_refused() -> None:
    room = False
    refusals = 0

    async def put(item: str, timeout: float) -> bool:
        nonlocal refusals
        refusals += not room
        assert refusals < 1000, "nothing else had its turn"
        return room

    def make_room() -> None:
        nonlocal room
        room = True

    mock = mocked_queue(status=QueueStatus.IDLE)
    mock.put = put
    asyncio.get_running_loop().call_later(1, make_room)
    await WorkQueue(queue=mock).batch_process(["a"], AsyncMock())
    assert refusals > 0


@pytest.mark.parametrize("call_it", [lambda q: q.map(AsyncMock(), []), lambda q: q.submit(1)])
async def test_results_need_a_queue_in_this_process(call_it: Callable[[Any], Any]) -> None:
    work_queue: WorkQueue[Any] = WorkQueue(queue=AsyncMock())
    with pytest.raises(TypeError, match="needs a queue in this process"):
        await call_it(work_queue)


# -- process --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "told", "expected"), [(None, None, 1), (4, None, 4), (4, 2, 2), (None, 3, 3)]
)
async def test_process_starts_as_many_workers_as_it_is_told_or_the_limit_or_one(
    limit: int | None, told: int | None, expected: int
) -> None:
    async with WorkQueue[int](concurrency_limit=limit) as queue:
        await queue.process(AsyncMock(), num_workers=told)
        assert queue.worker_count == expected


async def test_process_starts_the_queue_too() -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.process(AsyncMock())
    assert queue.status is PROCESSING
    await queue.stop()


async def test_process_passes_errors_to_the_handler() -> None:
    handler = AsyncMock()
    error = KeyError("lost")
    async with WorkQueue[int]() as queue:
        await queue.process(AsyncMock(side_effect=error), error_handler=handler)
        await queue.put(1)
    handler.assert_awaited_once_with(error, 1)


async def test_zero_workers_are_not_taken_for_the_default() -> None:
    async with WorkQueue[int](concurrency_limit=3) as queue:
        with pytest.raises(ValueError, match="Number of workers must be at least 1"):
            await queue.process(AsyncMock(), num_workers=0)
        assert queue.worker_count == 0


# -- batch_process --------------------------------------------------------------------------------


@pytest.mark.plan("UT-18")
@pytest.mark.parametrize("maxsize", [1, 5, 100])
@pytest.mark.parametrize("workers", [1, 4])
async def test_a_batch_is_processed_whole(maxsize: int, workers: int) -> None:
    worker = Recorder()
    queue: WorkQueue[int] = WorkQueue(maxsize, concurrency_limit=workers)
    await queue.batch_process(list(range(20)), worker)
    assert sorted(worker.done) == list(range(20))
    assert queue.status is STOPPED
    assert queue.worker_count == 0
    assert queue.metrics["processed"] == 20
    assert queue.metrics["backpressure_events"] == 0, "waiting for room is no refusal"


@pytest.mark.plan("UT-18")
async def test_an_empty_batch_is_a_batch() -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.batch_process([], AsyncMock())
    assert queue.status is STOPPED


async def test_a_batch_takes_any_iterable_and_any_async_iterable() -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(3):
            await asyncio.sleep(1)
            yield item

    for items in (range(3), (i for i in range(3)), {0: "a", 1: "b", 2: "c"}, source()):
        worker = Recorder()
        await WorkQueue[int]().batch_process(items, worker)
        assert worker.done == [0, 1, 2]


async def test_a_batch_takes_as_long_as_its_work_and_no_longer() -> None:
    begun = now()
    await WorkQueue[int](2, concurrency_limit=2).batch_process(range(10), Recorder(3))
    assert now() - begun == pytest.approx(15)


@pytest.mark.parametrize(("maxsize", "workers"), [(1, 1), (3, 1), (3, 2)])
async def test_a_batch_is_read_lazily(maxsize: int, workers: int) -> None:
    worker = Recorder()
    waiting = []

    def source() -> Iterator[int]:
        for read in range(1, 31):
            waiting.append(read - len(worker.seen))
            yield read

    await WorkQueue[int](maxsize).batch_process(source(), worker, workers)
    assert max(waiting) == maxsize + 1
    assert len(worker.done) == 30


async def test_a_batch_goes_on_after_failures() -> None:
    async def fussy(item: int) -> None:
        if item % 2:
            raise ValueError(item)

    handler = AsyncMock()
    queue: WorkQueue[int] = WorkQueue()
    await queue.batch_process(range(6), fussy, error_handler=handler)
    assert [args[1] for args, _ in handler.await_args_list] == [1, 3, 5]
    assert queue.metrics["errors"] == 3
    assert queue.metrics["processed"] == 6


async def test_a_batch_of_plain_calls_works() -> None:
    done = []
    await WorkQueue[int](2).batch_process(range(5), done.append, 2)
    assert sorted(done) == [0, 1, 2, 3, 4]


async def test_a_batch_on_a_running_queue_leaves_it_and_its_items_alone() -> None:
    worker = Recorder()
    async with WorkQueue[int](concurrency_limit=2) as queue:
        await queue.put(-1)
        await queue.batch_process(range(3), worker)
        assert sorted(worker.done) == [0, 1, 2]
        assert queue.status is PROCESSING
        assert queue.worker_count == 0
        assert queue.unprocessed == [-1]
        assert queue.get_nowait() == -1
        queue.task_done()


async def test_a_batch_leaves_the_workers_of_a_running_queue_alone() -> None:
    usual, own = AsyncMock(), AsyncMock()
    async with WorkQueue[int]() as queue:
        await queue.process(usual, 3)
        await queue.batch_process(range(3), own, 1)
        assert queue.worker_count == 3
        await queue.put(-1)
    usual.assert_awaited_once_with(-1)
    assert own.await_count == 3


async def test_batch_after_batch_on_the_same_queue_works() -> None:
    worker = Recorder()
    queue: WorkQueue[int] = WorkQueue()
    await queue.batch_process([1, 2], worker)
    await queue.batch_process([3], worker)
    assert worker.done == [1, 2, 3]


async def test_stop_workers_between_two_batches_ends_no_worker_of_the_second() -> None:
    begun = []

    async def slow(item: int) -> None:
        begun.append(item)
        await asyncio.sleep(1)

    queue: WorkQueue[int] = WorkQueue(5)
    inner = queue.queue
    assert isinstance(inner, BoundedQueue)
    async with queue:
        # All in one step of the loop, in which the workers of the first have no time to end.
        _, _, result = await asyncio.gather(
            queue.batch_process([], slow, 2),
            inner.stop_workers(timeout=0.25),
            queue.batch_process(range(3), slow, 1),
        )
    assert result.failed == 0
    assert begun == [0, 1, 2]


async def test_a_batch_leaves_what_an_earlier_stop_left_to_process() -> None:
    worker = Recorder()
    queue: WorkQueue[int] = WorkQueue()
    await queue.start()
    await queue.put(1)
    await queue.stop()
    await queue.batch_process([2], worker)
    assert worker.done == [2]
    assert queue.unprocessed == [1]


async def test_items_that_nobody_takes_are_told_of_where_they_hold_up_a_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: WorkQueue[int] = WorkQueue(1)
    await queue.start()
    await queue.put(1)
    await queue.stop()
    await asyncio.sleep(2)
    assert "no worker takes them" not in caplog.text
    batch = asyncio.create_task(queue.batch_process([2], Recorder()))
    await asyncio.sleep(2)
    assert not batch.done()
    assert "Queue default has 1 items and no worker takes them" in caplog.text
    await queue.process(AsyncMock())
    assert (await batch).processed == 1
    await queue.stop()


async def test_items_of_a_batch_that_wait_are_nothing_to_tell_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: WorkQueue[int] = WorkQueue(1)
    batch = asyncio.create_task(queue.batch_process(range(5), Recorder(10), 1))
    await asyncio.sleep(1)
    assert await queue.put(9, timeout=0) is False
    await asyncio.sleep(2)
    assert "no worker takes them" not in caplog.text
    assert (await batch).processed == 5
    await queue.stop()


@pytest.mark.parametrize("running", [True, False])
async def test_items_that_fail_to_come_end_the_batch(running: bool) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    worker = Recorder()
    queue: WorkQueue[int] = WorkQueue()
    if running:
        await queue.start()
    with pytest.raises(OSError, match="the file ends here"):
        await queue.batch_process(source(), worker)
    assert queue.status is (PROCESSING if running else STOPPED)
    assert queue.unprocessed == []
    assert await queue.stop() is True
    assert worker.done == [], "it took back its items"
    assert queue.metrics["enqueued"] == queue.metrics["processed"] == 2


@pytest.mark.parametrize("running", [True, False])
async def test_a_cancelled_batch_takes_back_its_items(running: bool) -> None:
    worker = Recorder(10)
    queue: WorkQueue[int] = WorkQueue(2)
    if running:
        await queue.start()
    batch = asyncio.create_task(queue.batch_process(range(100), worker))
    await asyncio.sleep(15)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert queue.status is (PROCESSING if running else STOPPED)
    assert queue.worker_count == 0
    assert queue.unprocessed == []
    assert await queue.stop() is True
    assert worker.done == [0]
    assert queue.metrics["enqueued"] == queue.metrics["processed"] == 4


async def test_a_batch_that_ends_early_closes_the_async_generator_that_it_reads() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for item in range(100):
                yield item
        finally:
            closed.append("source")

    items = source()
    batch = asyncio.create_task(WorkQueue[int](2).batch_process(items, Recorder(10)))
    await settle()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert closed == ["source"]


async def test_a_batch_says_so_when_the_queue_is_stopped_under_it() -> None:
    queue: WorkQueue[int] = WorkQueue(2)
    batch = asyncio.create_task(queue.batch_process(range(100), Recorder(10)))
    await settle()
    assert await queue.stop(timeout=0) is False
    with pytest.raises(QueueStateError):
        await batch
    assert queue.unprocessed == [0, 1, 2]


@pytest.mark.parametrize("running", [False, True])
async def test_a_batch_does_not_shorten_the_stop_of_somebody_else(running: bool) -> None:
    """Not even where it started the queue: what was accepted is drained, as that stop has it."""
    done = []

    async def work(item: int) -> None:
        await asyncio.sleep(1)
        done.append(item)

    queue: WorkQueue[int] = WorkQueue(5)
    if running:
        await queue.start()
    batch = asyncio.create_task(queue.batch_process(range(100), work, 1))
    await asyncio.sleep(2.5)
    accepted = queue.metrics["enqueued"]
    assert await queue.stop(timeout=20) is True
    assert done == list(range(accepted))
    with pytest.raises(QueueStateError):
        await batch
    assert queue.unprocessed == []


async def test_a_map_does_not_either() -> None:
    results = []

    async def work(item: int) -> int:
        await asyncio.sleep(1)
        return item

    async def read() -> None:
        async for result in queue.map(work, range(100), num_workers=1):
            results.append(result)  # noqa: PERF401 - what came before the error counts

    queue: WorkQueue[int] = WorkQueue(5)
    reading = asyncio.create_task(read())
    await asyncio.sleep(2.5)
    accepted = queue.metrics["enqueued"]
    assert await queue.stop(timeout=20) is True
    with pytest.raises(QueueStateError):
        await reading
    assert results == list(range(accepted))


async def test_a_batch_started_while_the_queue_stops_waits_for_the_stop() -> None:
    slow, worker = Recorder(10), Recorder()
    queue: WorkQueue[int] = WorkQueue()
    await queue.process(slow)
    await queue.put(1)
    await settle()
    stopping = asyncio.create_task(queue.stop())
    await settle()
    await queue.batch_process([2], worker)
    assert await stopping is True
    assert (slow.done, worker.done) == ([1], [2])


# -- the usage that was promised, in our own words ------------------------------------------------


async def test_usage_queue_in_async_with() -> None:
    handled = []

    async def handle(request: str) -> None:
        handled.append(request)

    async with BoundedQueue(maxsize=100) as queue:
        await queue.start_workers(handle, num_workers=5)
        await queue.put("low level")
        await queue.join()

    async with WorkQueue(maxsize=100, concurrency_limit=5) as work_queue:
        await work_queue.process(handle)
        await work_queue.put("high level")
        await work_queue.join()

    assert handled == ["low level", "high level"]


async def test_usage_batch() -> None:
    handled = []

    async def handle(request: int) -> None:
        handled.append(request)

    queue: WorkQueue[int] = WorkQueue(maxsize=100, concurrency_limit=5)
    requests = [1, 2, 3]
    await queue.batch_process(requests, handle)
    assert sorted(handled) == [1, 2, 3]


async def test_usage_trying_again_after_backpressure() -> None:
    worker = Recorder(0.35)
    queue: WorkQueue[int] = WorkQueue(maxsize=1)
    await queue.start()
    await queue.process(worker)
    for request in range(4):
        while True:
            if await queue.put(request):
                break
            await asyncio.sleep(0.1)
    await queue.join()
    assert worker.done == [0, 1, 2, 3]
    assert queue.metrics["backpressure_events"] > 0
    assert await queue.stop() is True


async def test_usage_error_handler(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mine")
    kept = []

    async def handle(request: str) -> None:
        raise ConnectionError("refused")

    async def on_error(error: Exception, request: str) -> None:
        logger.error("%s failed: %s", request, error)
        kept.append(request)

    queue: WorkQueue[str] = WorkQueue(maxsize=100)
    await queue.start()
    await queue.process(handle, error_handler=on_error)
    await queue.put("a request")
    await queue.join()
    await queue.stop()
    assert kept == ["a request"]
    assert "a request failed: refused" in caplog.text


async def test_usage_together_with_an_executor() -> None:
    at_once = peak = 0

    async def send(request: int) -> int:
        nonlocal at_once, peak
        at_once += 1
        peak = max(peak, at_once)
        await asyncio.sleep(1)
        at_once -= 1
        return request * 2

    executor = AsyncExecutor(max_concurrency=10)
    queue: WorkQueue[int] = WorkQueue(maxsize=100, concurrency_limit=10)
    answers = []

    async def worker(request: int) -> None:
        answers.append(await executor.execute(send, request))

    async with executor, queue:
        await queue.process(worker)
        for request in range(25):
            await queue.put(request)
        await queue.join()
    assert sorted(answers) == [request * 2 for request in range(25)]
    assert peak == 10


async def test_a_map_that_returns_exceptions_raises_when_the_queue_is_stopped() -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(1)
        return item

    queue: WorkQueue[int] = WorkQueue()
    await queue.process(work)

    async def stop() -> bool:
        await asyncio.sleep(1.5)
        return await queue.stop(timeout=0)

    stopping = asyncio.create_task(stop())
    results = []
    with pytest.raises(QueueStateError, match="was processed"):  # noqa: PT012
        async for result in queue.map(work, range(3), return_exceptions=True):
            results.append(result)  # noqa: PERF401 - those that came before the exception
    assert results == [0]
    assert not await stopping


async def test_an_adaptive_number_of_workers_must_keep_to_the_concurrency_limit() -> None:
    async with WorkQueue[int](concurrency_limit=3) as queue:
        await queue.process(Recorder(), AdaptiveConcurrency(1, 3))
        assert queue.worker_count <= 3
        with pytest.raises(ValueError, match="at most concurrency_limit=3, got AdaptiveConc"):
            await queue.process(Recorder(), AdaptiveConcurrency(1, 4))
