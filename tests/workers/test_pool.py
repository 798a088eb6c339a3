"""Workers: how many, what they make of errors and cancellation, contexts, threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest

import penstock.testing
from helpers.tasks import for_ever, now, settle
from helpers.versions import FROM_3_11, FROM_3_12
from helpers.workers import Worker
from penstock import AdaptiveConcurrency, BoundedQueue, QueueStateError, QueueStatus
from penstock.workers.worker import Worker as PoolWorker

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


def worker_tasks(queue: BoundedQueue[Any]) -> list[asyncio.Task[Any]]:
    """The tasks of a queue's workers, as anybody can find them."""
    prefix = f"penstock-{queue.name}-worker-"
    return [task for task in asyncio.all_tasks() if task.get_name().startswith(prefix)]


# -- how many -------------------------------------------------------------------------------------


async def test_a_pool_whose_size_changes_does_not_look_for_each_worker_among_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparisons = 0

    def compare(worker: object, other: object) -> bool:
        nonlocal comparisons
        comparisons += 1
        return worker is other

    monkeypatch.setattr(PoolWorker, "__eq__", compare)
    monkeypatch.setattr(PoolWorker, "__hash__", object.__hash__)
    size = penstock.AdaptiveConcurrency(1, 64, start=64)
    async with penstock.WorkQueue[int](1_000, concurrency_limit=size) as queue:
        await queue.batch_process(range(1_000), AsyncMock())
        assert queue.metrics["processed"] == 1_000
    assert comparisons < 1_000


@pytest.mark.plan("UT-12")
@pytest.mark.parametrize("size", [1, 2, 17])
async def test_as_many_workers_start_as_were_asked_for(size: int) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(), size)
        assert queue.worker_count == size
        assert len(worker_tasks(queue)) == size
    assert queue.worker_count == 0


@pytest.mark.plan("UT-12")
@pytest.mark.parametrize("size", [0, -1])
async def test_less_than_one_worker_is_refused(size: int) -> None:
    async with BoundedQueue[int]() as queue:
        with pytest.raises(ValueError, match="Number of workers must be at least 1"):
            await queue.start_workers(AsyncMock(), size)
        assert queue.worker_count == 0


@pytest.mark.plan("UT-13")
@pytest.mark.parametrize("size", [1, 3, 50])
async def test_workers_process_every_item_once(size: int) -> None:
    seen = []

    async def worker(item: int) -> None:
        await asyncio.sleep(item % 3)
        seen.append(item)

    async with BoundedQueue[int](10) as queue:
        await queue.start_workers(worker, size)
        for item in range(40):
            await queue.put(item, timeout=math.inf)
        await queue.join()
    assert sorted(seen) == list(range(40))
    assert queue.metrics["processed"] == 40


async def test_no_more_items_are_in_hand_than_there_are_workers() -> None:
    in_hand = []
    running = 0

    async def worker(item: int) -> None:
        nonlocal running
        running += 1
        in_hand.append(running)
        await asyncio.sleep(1)
        running -= 1

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 3)
        for item in range(10):
            await queue.put(item)
    assert max(in_hand) == 3


async def test_workers_take_up_what_was_put_before_they_started() -> None:
    seen = AsyncMock()
    async with BoundedQueue[int]() as queue:
        for item in range(3):
            await queue.put(item)
        await queue.start_workers(seen, 1)
        await queue.join()
    assert [call.args for call in seen.await_args_list] == [(0,), (1,), (2,)]


async def test_a_worker_that_waits_leaves_the_other_items_to_the_other_workers() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 3)
        await settle()
        for item in range(4):
            queue.put_nowait(item)
        await settle()
        assert sorted(worker.began) == [0, 1, 2]
        worker.may_go_on.set()


async def test_idle_workers_do_not_poll() -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(), 5)
        await settle()
        loop = asyncio.get_running_loop()
        with patch.object(loop, "call_at", wraps=loop.call_at) as timers:
            await asyncio.sleep(100_000)
        assert timers.call_count == 1  # the one of this sleep


# -- replaced and ended ---------------------------------------------------------------------------


async def test_new_workers_replace_the_old_which_finish_what_they_hold() -> None:
    old, new = Worker(held=True), Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(old, 2)
        for item in range(5):
            await queue.put(item)
        await settle()
        await queue.start_workers(new, 1)
        assert queue.worker_count == 1
        await settle()
        assert (old.began, new.began) == ([0, 1], [2])
        old.may_go_on.set()
        new.may_go_on.set()
        await queue.join()
        assert sorted(old.done) == [0, 1]
        assert new.done == [2, 3, 4]


async def test_there_are_workers_at_every_moment_of_a_replacement() -> None:
    """Others look from their own threads: ``map`` starts its own workers where it sees none."""
    counts: list[int] = []

    class Nosy:
        async def __call__(self, item: int) -> None:
            pass

        def __getattr__(self, name: str) -> Any:  # its name is asked for when it becomes a worker
            counts.append(queue.worker_count)
            raise AttributeError(name)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(), 2)
        await queue.start_workers(Nosy(), 2)
        assert counts
        assert min(counts) == 2


async def test_idle_workers_that_are_replaced_end_at_once() -> None:
    old, new = AsyncMock(), AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(old, 3)
        await settle()
        await queue.start_workers(new, 2)
        await settle()
        assert len(worker_tasks(queue)) == 2
        await queue.put(1)
        await queue.join()
    old.assert_not_awaited()
    new.assert_awaited_once_with(1)


async def test_a_worker_function_may_replace_the_workers() -> None:
    new = AsyncMock()

    async def hand_over(item: int) -> None:
        await queue.start_workers(new, 2)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(hand_over, 1)
        for item in range(3):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 2
    assert [call.args for call in new.await_args_list] == [(1,), (2,)]


@pytest.mark.plan("UT-15")
async def test_stop_workers_ends_all_workers_and_the_queue_goes_on() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 3)
        for item in range(5):
            await queue.put(item)
        await settle()
        stopping = asyncio.create_task(queue.stop_workers())
        await settle()
        assert queue.worker_count == 0, "what only finishes what it holds is no worker any more"
        worker.may_go_on.set()
        await stopping
        assert worker_tasks(queue) == []
        assert sorted(worker.done) == [0, 1, 2]
        assert queue.status is QueueStatus.PROCESSING
        assert queue.unprocessed == [3, 4]
        assert await queue.put(5)
        assert queue.get_nowait() == 3


@pytest.mark.plan("UT-15")
@pytest.mark.parametrize("timeout", [0, 3])
async def test_stop_workers_cancels_them_after_its_timeout(timeout: float) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(Worker(held=True), 2)
        for item in range(3):
            await queue.put(item)
        await settle()
        begun = now()
        await queue.stop_workers(timeout=timeout)
        assert now() - begun == pytest.approx(timeout)
        assert queue.worker_count == 0
        assert queue.unprocessed == [0, 1, 2]
        assert queue.metrics["processed"] == 0


async def test_cancelling_stop_workers_cancels_the_workers() -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(Worker(held=True), 1)
        await queue.put(1)
        await settle()
        stopping = asyncio.create_task(queue.stop_workers())
        await settle()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert worker_tasks(queue) == []
        assert queue.unprocessed == [1]


async def test_stop_workers_does_not_touch_workers_that_start_meanwhile() -> None:
    old, new = Worker(held=True), AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(old, 1)
        await queue.put("old")
        await settle()
        stopping = asyncio.create_task(queue.stop_workers(timeout=2))
        await settle()
        await queue.start_workers(new, 2)
        await stopping
        assert queue.worker_count == 2
        await queue.join()
    new.assert_awaited_once_with("old")


async def test_stop_workers_from_inside_a_worker_function_is_an_error_and_no_deadlock() -> None:
    complaints = []

    async def worker(item: int) -> None:
        try:
            await queue.stop_workers()
        except QueueStateError as error:
            complaints.append(str(error))

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        await queue.join()
    assert len(complaints) == 1
    assert "stop_workers() from inside a worker function" in complaints[0]


async def test_a_given_up_worker_is_not_counted() -> None:
    let_go = asyncio.Event()

    async def stubborn(item: int) -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(stubborn, 2)
        await queue.put(1)
        await settle()
        await queue.stop_workers(timeout=0)
        assert queue.worker_count == 0
        let_go.set()
        await settle()
        assert queue.worker_count == 0


async def test_a_stopped_queue_that_gave_a_worker_up_has_no_workers() -> None:
    let_go = asyncio.Event()

    async def stubborn(item: int) -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(stubborn, 2)
    await queue.put(1)
    await settle()
    await queue.stop(timeout=0)
    counts = [queue.worker_count]
    await queue.start()
    counts.append(queue.worker_count)
    let_go.set()
    await settle()
    counts.append(queue.worker_count)
    assert counts == [0, 0, 0]
    assert queue.get_nowait() == 1
    await queue.stop(timeout=0, drain=False)


# -- errors ---------------------------------------------------------------------------------------


class Odd(BaseException):
    """Neither an Exception nor one of those that end a program."""


def raises(error: BaseException | type[BaseException]) -> Callable[[Any], Any]:
    async def at_once(item: Any) -> None:
        raise error

    return at_once


def raises_later(error: BaseException | type[BaseException]) -> Callable[[Any], Any]:
    async def later(item: Any) -> None:
        await asyncio.sleep(1)
        raise error

    return later


def raises_in_a_thread(error: BaseException | type[BaseException]) -> Callable[[Any], Any]:
    def plainly(item: Any) -> None:
        raise error

    return plainly


HOW = [raises, raises_later, raises_in_a_thread]
WHAT = [ValueError("bad"), asyncio.CancelledError(), GeneratorExit(), Odd("odd"), StopIteration()]


@pytest.mark.plan("UT-14")
async def test_an_error_counts_and_the_worker_goes_on() -> None:
    done = []

    async def fussy(item: int) -> None:
        if item % 2:
            raise ValueError(item)
        done.append(item)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(fussy, 1)
        for item in range(6):
            await queue.put(item)
        await queue.join()
        assert queue.metrics["errors"] == 3
        assert queue.metrics["processed"] == 6
        assert done == [0, 2, 4]
        assert queue.worker_count == 1


@pytest.mark.parametrize("error", WHAT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", [raises, raises_later])
async def test_whatever_an_item_raises_the_pool_does_not_shrink(how: Any, error: Any) -> None:
    handled = []
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(how(error), 2, lambda error, item: handled.append((error, item)))
        before = {task.get_name() for task in worker_tasks(queue)}
        assert len(before) == 2, "each has a name of its own"
        for item in range(5):
            await queue.put(item)
        await queue.join()
        assert {task.get_name() for task in worker_tasks(queue)} == before
        assert queue.worker_count == 2
        assert queue.metrics["errors"] == queue.metrics["processed"] == 5
    # Neither a coroutine nor a future can hold a StopIteration.
    kind = RuntimeError if isinstance(error, StopIteration) else type(error)
    assert [type(raised) for raised, _ in handled] == [kind] * 5
    assert sorted(item for _, item in handled) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        asyncio.CancelledError(),
        Odd("odd"),
        StopIteration(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_plain_function_raises_the_pool_does_not_shrink(error: Any) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(raises_in_a_thread(error), 2, Mock(return_value=None))
        for item in range(5):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 2
        assert queue.metrics["errors"] == queue.metrics["processed"] == 5


@pytest.mark.parametrize("how", HOW)
async def test_an_error_goes_to_the_error_handler_with_its_item(how: Any) -> None:
    error = ValueError("bad")
    handler = AsyncMock()
    async with BoundedQueue[str]() as queue:
        await queue.start_workers(how(error), 1, handler)
        await queue.put("item")
        await queue.join()
    handler.assert_awaited_once_with(error, "item")


async def test_an_error_handler_may_be_a_plain_function() -> None:
    handler = Mock(return_value=None)
    async with BoundedQueue[str]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, handler)
        await queue.put("item")
        await queue.join()
    handler.assert_called_once()


async def test_an_error_is_counted_before_the_handler_and_processed_after_it() -> None:
    counts = []

    async def handler(error: Exception, item: str) -> None:
        counts.append(queue.metrics)
        await asyncio.sleep(1)
        counts.append(queue.metrics)

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, handler)
        await queue.put("item")
        await queue.join()
        counts.append(queue.metrics)
    assert [(count["errors"], count["processed"]) for count in counts] == [(1, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("how", HOW)
async def test_without_a_handler_an_error_is_logged_with_its_traceback(
    how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with BoundedQueue[str]() as queue:
        await queue.start_workers(how(ValueError("bad luck")), 1)
        await queue.put("item")
        await queue.join()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "penstock"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert "bad luck" in caplog.text
    assert "item" not in record.getMessage(), "payloads stay out of the log"


async def test_with_a_handler_an_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with BoundedQueue[str]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, AsyncMock())
        await queue.put("item")
        await queue.join()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_without_a_handler_an_error_goes_to_the_exception_method_of_the_logger() -> None:
    logger = Mock(spec=logging.Logger)
    async with BoundedQueue[str](logger=logger) as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1)
        await queue.put("item")
    logger.exception.assert_called_once()


async def test_a_logger_that_fails_costs_no_worker_and_is_told_of_by_asyncio() -> None:
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    logger = Mock(spec=logging.Logger)
    logger.exception.side_effect = OSError("disk full")
    async with BoundedQueue[str](logger=logger) as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1)
        for item in ("one", "two"):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 1
    assert queue.metrics["processed"] == 2
    assert [type(context["exception"]) for context in told] == [OSError, OSError]


async def test_an_item_whose_failure_cannot_be_logged_is_not_lost() -> None:
    logger = Mock(spec=logging.Logger)
    logger.exception.side_effect = OSError("disk full")
    queue: BoundedQueue[str] = BoundedQueue(logger=logger)
    await queue.start_workers(AsyncMock(side_effect=ValueError), 1)
    await queue.put("item")
    await settle()
    nothing_left = await queue.stop(timeout=0)
    assert (queue.metrics["processed"], queue.unprocessed, nothing_left) in [
        (1, [], True),
        (0, ["item"], False),
    ]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("error", WHAT, ids=lambda error: type(error).__name__)
async def test_an_error_of_the_error_handler_is_logged_and_the_worker_goes_on(
    how: Any, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failing = how(error)

    def plain_handler(raised: Exception, item: int) -> Any:
        return failing(item)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(side_effect=KeyError("first")), 1, plain_handler)
        for item in range(2):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == queue.metrics["processed"] == 2
    failures = [record for record in caplog.records if "Error handler failed" in record.message]
    assert len(failures) == 2


async def test_the_error_a_handler_raised_is_logged_with_the_name_of_the_worker_function(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def upload(item: int) -> None:
        raise KeyError("first")

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(upload, 1, AsyncMock(side_effect=ValueError("second")))
        await queue.put(1)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "upload" in record.getMessage()
    assert "second" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", HOW)
def test_what_ends_a_program_ends_it(how: Any, error: type[BaseException]) -> None:
    handler = Mock()

    async def main() -> None:
        async with BoundedQueue[int]() as queue:
            await queue.start_workers(how(error), 1, handler)
            await queue.put(1)
            await queue.join()
            await asyncio.sleep(10)
            pytest.fail("the program went on")

    with pytest.raises(error):
        penstock.testing.run(main())
    handler.assert_not_called()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", [raises, raises_later])
def test_what_ends_a_program_ends_it_from_an_error_handler_too(
    how: Any, error: type[BaseException]
) -> None:
    failing = how(error)

    async def handler(raised: Exception, item: int) -> None:
        await failing(item)

    async def main() -> None:
        async with BoundedQueue[int]() as queue:
            await queue.start_workers(AsyncMock(side_effect=ValueError), 1, handler)
            await queue.put(1)
            await asyncio.sleep(10)
            pytest.fail("the program went on")

    with pytest.raises(error):
        penstock.testing.run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_told_to_whoever_waits_for_the_result(
    error: type[BaseException],
) -> None:
    futures = []

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue()
        await queue.start_workers(raises(error), 1)
        futures.append(await queue.submit(1))
        await asyncio.sleep(10)

    with pytest.raises(error):
        penstock.testing.run(main())
    assert isinstance(futures[0].exception(), error)


# -- cancellation: the item's own, and that of the worker -----------------------------------------


async def raise_it(item: Any) -> None:
    raise asyncio.CancelledError


async def await_a_cancelled_future(item: Any) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1, future.cancel)
    await future


async def await_a_cancelled_task(item: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_later(1, task.cancel)
    await task


async def gather_a_cancelled_task(item: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_later(1, task.cancel)
    await asyncio.gather(task, asyncio.sleep(2))


OWN_CANCELLATIONS = [
    raise_it,
    await_a_cancelled_future,
    await_a_cancelled_task,
    gather_a_cancelled_task,
]


@pytest.mark.parametrize("worker", OWN_CANCELLATIONS)
async def test_an_item_that_is_cancelled_by_its_own_doing_is_an_item_that_failed(
    worker: Any,
) -> None:
    handler = AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 2, handler)
        for item in range(4):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 2
        assert queue.metrics["errors"] == queue.metrics["processed"] == 4
    assert all(isinstance(call.args[0], asyncio.CancelledError) for call in handler.await_args_list)
    assert sorted(call.args[1] for call in handler.await_args_list) == [0, 1, 2, 3]


@pytest.mark.parametrize("worker", OWN_CANCELLATIONS)
async def test_whoever_waits_for_an_item_that_cancelled_itself_sees_it_cancelled(
    worker: Any,
) -> None:
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        future = await queue.submit(1)
        with pytest.raises(asyncio.CancelledError):
            await future
        assert queue.worker_count == 1


async def test_wait_for_inside_an_item_works_as_anywhere() -> None:
    async def impatient(item: int) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), timeout=1)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(impatient, 2)
        for item in range(4):
            await queue.put(item)
        begun = now()
        await queue.join()
        assert now() - begun == pytest.approx(2)
        assert queue.metrics["errors"] == 0


@FROM_3_11
async def test_a_timeout_block_inside_an_item_works_as_anywhere() -> None:
    caught = []

    async def impatient(item: int) -> None:
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(10)
        except TimeoutError:
            caught.append(item)
        await asyncio.sleep(1)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(impatient, 1)
        for item in range(3):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 1
    assert caught == [0, 1, 2]
    assert queue.metrics["errors"] == 0


@FROM_3_11
async def test_a_timeout_that_leaves_an_item_is_an_item_that_failed() -> None:
    async def impatient(item: int) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(10)

    handler = AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(impatient, 1, handler)
        await queue.put(1)
        await queue.put(2)
        await queue.join()
        assert queue.worker_count == 1
    assert [type(call.args[0]) for call in handler.await_args_list] == [TimeoutError] * 2


@FROM_3_11
async def test_a_task_group_inside_an_item_works_as_anywhere() -> None:
    async def spread(item: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(10))
            group.create_task(raises_later(ValueError(item))(item))

    handler = AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(spread, 1, handler)
        await queue.put(1)
        await queue.put(2)
        begun = now()
        await queue.join()
        assert now() - begun == pytest.approx(2), "each group ended with its first failure"
        assert queue.worker_count == 1
    assert [type(call.args[0]).__name__ for call in handler.await_args_list] == [
        "ExceptionGroup"
    ] * 2


@FROM_3_11
async def test_stopping_reaches_into_a_task_group_of_an_item() -> None:
    ended = []

    async def part() -> None:
        try:
            await for_ever()
        finally:
            ended.append("part")

    async def spread(item: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(part())

    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(spread, 1)
    await queue.put(1)
    await settle()
    assert await queue.stop(timeout=0) is False
    assert ended == ["part"]
    assert queue.unprocessed == [1]


async def test_the_worker_itself_is_the_current_task_of_an_item() -> None:
    tasks = []

    async def worker(item: int) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(1)
        tasks.append(asyncio.current_task())

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        await queue.join()
        assert tasks == worker_tasks(queue) * 2


@pytest.mark.parametrize("size", [1, 3, AdaptiveConcurrency(2, 2)], ids=str)
async def test_a_worker_cancelled_from_outside_fails_its_item_and_is_replaced(size: Any) -> None:
    worker, handler = Worker(held=True), AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, size, handler)
        await settle()
        count = queue.worker_count
        await queue.put(1)
        await settle()
        before = worker_tasks(queue)
        for task in before:  # the idle ones too
            task.cancel()
        await asyncio.wait(before)
        assert queue.worker_count == count
        assert not set(worker_tasks(queue)) & set(before)
        [(error, item)] = [call.args for call in handler.await_args_list]
        assert (type(error), item) == (asyncio.CancelledError, 1)
        assert queue.metrics["errors"] == queue.metrics["processed"] == 1
        worker.may_go_on.set()
        for item in range(2, 9):
            await queue.put(item)
        await queue.join()
        assert worker.done == list(range(2, 9))


@FROM_3_11
async def test_a_task_group_works_in_the_worker_that_follows_a_cancelled_one() -> None:
    """A request to cancel that stays on a task makes its task groups raise."""
    done = []

    async def worker(item: str) -> None:
        if item == "cancels":
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
        done.append(item)

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1, AsyncMock())
        for item in ("cancels", "a", "b"):
            await queue.put(item)
        await queue.join()
    assert done == ["a", "b"]


async def test_the_future_of_an_item_whose_task_is_cancelled_is_cancelled() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        future = await queue.submit(1)
        await settle()
        worker_tasks(queue)[0].cancel()
        await asyncio.wait([future])
        assert future.cancelled()
        assert queue.worker_count == 1


async def test_a_worker_that_follows_the_only_one_has_threads_too() -> None:
    done: list[int] = []
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(done.append, 1, AsyncMock())
        await queue.put(1)
        await queue.join()
        worker_tasks(queue)[0].cancel()
        await queue.put(2)
        await queue.join()
    assert done == [1, 2]


async def test_an_error_handler_whose_task_is_cancelled_does_not_run_again() -> None:
    calls = []

    async def handler(error: Exception, item: int) -> None:
        calls.append(item)
        await asyncio.sleep(10)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, handler)
        await queue.put(1)
        await settle()
        worker_tasks(queue)[0].cancel()
        await queue.join()
        assert calls == [1]
        assert queue.worker_count == 1


def test_at_the_end_of_asyncio_run_items_are_handed_back_and_no_worker_is_started() -> None:
    worker = Worker(held=True)

    async def main() -> BoundedQueue[int]:
        queue = BoundedQueue[int]()
        await queue.start_workers(worker, 2)
        for item in range(3):
            await queue.put(item)
        await settle()
        return queue

    queue = asyncio.run(main())
    assert queue.unprocessed == [0, 1, 2]
    assert queue.metrics["errors"] == queue.metrics["processed"] == 0
    with pytest.warns(ResourceWarning, match="was not stopped: 3 accepted items are not done"):
        del queue


async def test_a_worker_task_cancelled_by_an_item_that_never_waits_takes_no_other() -> None:
    handler, done = AsyncMock(), []

    async def worker(item: str) -> None:
        if item == "fatal":
            for task in worker_tasks(queue):
                task.cancel()
        else:
            await asyncio.sleep(1)
            done.append(item)

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1, handler)
        for item in ("fatal", "a", "b"):
            await queue.put(item)
        await queue.join()
        assert queue.worker_count == 1
        assert done == ["a", "b"]
    handler.assert_not_awaited()


async def test_an_item_handed_back_goes_to_the_next_worker_first() -> None:
    worker = Worker(held=True)
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 2)
        for item in range(4):
            await queue.put(item)
        await settle()
        assert worker.began == [0, 1]
        await queue.stop_workers(timeout=0)
        assert queue.unprocessed == [0, 1, 2, 3]
        worker.may_go_on.set()
        await queue.start_workers(worker, 2)
        await queue.join()
        assert worker.began == [0, 1, 0, 1, 2, 3]
        assert worker.done == [0, 1, 2, 3]


async def test_an_idle_worker_cancelled_from_outside_loses_nothing() -> None:
    seen = AsyncMock()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(seen, 2)
        await settle()
        for task in worker_tasks(queue):
            if task.get_name().endswith("1"):
                queue.put_nowait(1)  # calls the one that is cancelled in the same tick
                task.cancel()
        await queue.join()
        assert queue.worker_count == 2
    seen.assert_awaited_once_with(1)


async def test_a_worker_cancelled_in_its_error_handler_hands_its_item_back() -> None:
    async def slow_handler(error: Exception, item: int) -> None:
        await for_ever()

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(side_effect=ValueError), 1, slow_handler)
        await queue.put(1)
        await settle()
        await queue.stop_workers(timeout=0)
        assert queue.unprocessed == [1]
        assert queue.metrics["processed"] == 0
        queue.get_nowait()


async def test_an_error_in_the_face_of_a_cancellation_is_an_item_that_failed() -> None:
    async def fails_while_cleaning_up(item: int) -> None:
        try:
            await for_ever()
        finally:
            raise OSError("the file was gone")

    handler = AsyncMock()
    queue: BoundedQueue[int] = BoundedQueue()
    await queue.start_workers(fails_while_cleaning_up, 1, handler)
    await queue.put(1)
    await settle()
    assert await queue.stop(timeout=0) is True
    assert handler.await_args.args[1] == 1
    assert queue.metrics["errors"] == queue.metrics["processed"] == 1


async def test_a_worker_that_shrugs_a_cancellation_off_goes_on() -> None:
    """As a task anywhere does; stop() is what insists."""

    async def shrugs(item: int) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(2)

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(shrugs, 1)
        await queue.put(1)
        await settle()
        for task in worker_tasks(queue):
            task.cancel()
        await queue.put(2)
        await queue.join()
        assert queue.worker_count == 1
        assert queue.metrics["processed"] == 2


@FROM_3_11
async def test_a_cancellation_that_was_shrugged_off_does_not_haunt_the_next_item() -> None:
    handler = AsyncMock()

    async def worker(item: str) -> None:
        if item == "shrugs":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(raises_later(ValueError(item))(item))

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1, handler)
        await queue.put("shrugs")
        await settle()
        for task in worker_tasks(queue):
            task.cancel()
        await queue.put("spreads")
        await queue.join()
    [failed] = handler.await_args_list
    assert type(failed.args[0]).__name__ == "ExceptionGroup"


# -- context --------------------------------------------------------------------------------------


async def test_each_item_runs_in_the_context_of_its_put() -> None:
    seen: dict[str, list[str]] = {}

    async def worker(item: str) -> None:
        seen[item] = [request_id.get()]
        await asyncio.sleep(1)
        seen[item].append(request_id.get())

    async def request(name: str, queue: BoundedQueue[str]) -> None:
        request_id.set(name)
        await queue.put(name, timeout=math.inf)
        request_id.set("changed after the put")

    request_id.set("whoever started the workers")
    async with BoundedQueue[str](1) as queue:
        await queue.start_workers(worker, 2)
        await asyncio.gather(*(request(name, queue) for name in "abcde"))
        await queue.join()
    assert seen == {name: [name, name] for name in "abcde"}


async def test_workers_hold_nothing_of_the_context_in_which_they_were_started() -> None:
    class Request:
        pass

    current: contextvars.ContextVar[Request] = contextvars.ContextVar("current")

    async def handle_a_request() -> weakref.ref[Request]:
        request = Request()
        current.set(request)
        await queue.start_workers(AsyncMock(), 1)
        return weakref.ref(request)

    async with BoundedQueue[int]() as queue:
        gone = await asyncio.create_task(handle_a_request())
        await settle()
        gc.collect()
        assert gone() is None
        assert queue.worker_count == 1


@FROM_3_12  # nobody could ask before
async def test_the_context_of_a_worker_itself_is_empty() -> None:
    request_id.set("whoever started the workers")
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(AsyncMock(), 1)
        [task] = worker_tasks(queue)
        assert request_id not in task.get_context()


async def test_what_an_item_sets_reaches_neither_the_next_item_nor_the_caller() -> None:
    seen = []

    async def worker(item: str) -> None:
        seen.append(request_id.get())
        request_id.set(item)
        await asyncio.sleep(1)
        seen.append(request_id.get())

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put("a")
        await queue.put("b")
        await queue.join()
    assert seen == ["none", "a", "none", "b"]
    assert request_id.get() == "none"


async def test_the_error_handler_runs_in_the_context_of_the_item() -> None:
    seen = []

    async def worker(item: str) -> None:
        request_id.set("set by the item")
        raise ValueError

    async def handler(error: Exception, item: str) -> None:
        seen.append(request_id.get())
        await asyncio.sleep(1)
        seen.append(request_id.get())

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1, handler)
        await queue.put("a")
        await queue.join()
    assert seen == ["set by the item"] * 2


async def test_a_plain_function_runs_in_the_context_of_the_put_too() -> None:
    seen = []

    def worker(item: str) -> None:
        seen.append(request_id.get())
        request_id.set("changed in the thread")

    async with BoundedQueue[str]() as queue:
        await queue.start_workers(worker, 1)
        for name in "ab":
            request_id.set(name)
            await queue.put(name)
        await queue.join()
    assert seen == ["a", "b"]


# -- plain functions, in threads ------------------------------------------------------------------


async def test_plain_functions_run_in_threads_as_many_at_once_as_there_are_workers() -> None:
    together = threading.Barrier(3)  # passes only when three are inside at once
    lock = threading.Lock()
    inside = peak = 0
    threads = set()

    def worker(item: int) -> None:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
            threads.add(threading.current_thread())
        together.wait(timeout=60)
        with lock:
            inside -= 1

    async with BoundedQueue[int](12) as queue:
        await queue.start_workers(worker, 3)
        for item in range(12):
            await queue.put(item)
        await queue.join()
    assert peak == 3
    assert len(threads) == 3
    assert threading.current_thread() not in threads
    assert queue.metrics["processed"] == 12


async def test_a_plain_function_in_its_thread_does_not_hold_up_the_loop() -> None:
    release = threading.Event()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(lambda item: release.wait(60), 1)
        await queue.put(1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert queue.metrics["processed"] == 0
        release.set()
        await queue.join()


async def test_the_threads_end_with_the_workers() -> None:
    threads = set()
    async with BoundedQueue[int]() as queue:
        await queue.start_workers(lambda item: threads.add(threading.current_thread()), 2)
        for item in range(4):
            await queue.put(item)
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


async def test_a_plain_function_that_is_stuck_is_listed_and_the_log_says_that_it_may_still_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release, begun = threading.Event(), threading.Event()

    def stuck(item: int) -> None:
        begun.set()
        release.wait(60)

    queue: BoundedQueue[int] = BoundedQueue()
    try:
        await queue.start_workers(stuck, 1)
        await queue.put(1)
        await queue.put(2)
        await asyncio.sleep(0)
        assert begun.wait(60)
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == [1, 2]
        assert "may still be running in its thread" in caplog.text
    finally:
        release.set()


async def test_a_put_from_a_plain_worker_function_is_told_where_it_should_go() -> None:
    complaints = []

    def worker(item: int) -> None:
        try:
            queue.put_nowait(item + 1)
        except QueueStateError as error:
            complaints.append(str(error))

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        await queue.put(1)
        await queue.join()
    assert len(complaints) == 1
    assert "penstock.sync" in complaints[0]


# -- worker functions and their own queue ---------------------------------------------------------


async def test_a_worker_function_may_put_into_its_own_queue() -> None:
    seen = []

    async def split(item: int) -> None:
        seen.append(item)
        if item > 1:
            await queue.put(item // 2)
            await queue.put(item - item // 2)

    async with BoundedQueue[int](10) as queue:
        await queue.start_workers(split, 2)
        await queue.put(4)
        await queue.join()
    assert sorted(seen) == [1, 1, 1, 1, 2, 2, 4]


async def test_a_worker_that_waits_for_room_in_its_own_queue_gets_false_in_the_end() -> None:
    outcomes = []

    async def greedy(item: str) -> None:
        if item == "root":
            outcomes.append(await queue.put("fits", timeout=2))
            outcomes.append(await queue.put("one too many", timeout=2))

    async with BoundedQueue[str](1) as queue:
        await queue.start_workers(greedy, 1)
        await queue.put("root")
        begun = now()
        await queue.join()
        assert now() - begun == pytest.approx(2)
    assert outcomes == [True, False]
    assert queue.metrics["processed"] == 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_workers_that_would_all_wait_for_room_for_ever_are_told(workers: int) -> None:
    told: list[str] = []

    async def greedy(item: int) -> None:
        if item < workers:
            try:
                await queue.put(item + workers, timeout=math.inf)
                await queue.put(item + 2 * workers, timeout=math.inf)
            except QueueStateError as error:
                told.append(str(error))

    async with BoundedQueue[int](workers) as queue:
        for item in range(workers):
            await queue.put(item)
        await queue.start_workers(greedy, workers)
        await queue.join()
    assert len(told) == 1
    assert "if all workers waited, no worker would make room" in told[0]
    assert "put_nowait()" in told[0]
    assert queue.metrics["processed"] == queue.metrics["enqueued"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_item_may_await_an_item_of_its_own_queue(workers: int) -> None:
    """Its worker does nothing meanwhile, and one more is there."""

    async def factorial(item: int) -> int:
        await asyncio.sleep(1)
        return item * (await (await queue.submit(item - 1))) if item else 1

    async with BoundedQueue[int](100) as queue:
        await queue.start_workers(factorial, workers)
        futures = [await queue.submit(item) for item in range(8)]
        assert await asyncio.gather(*futures) == [1, 1, 2, 6, 24, 120, 720, 5040]
        await settle()
        assert queue.worker_count == len(worker_tasks(queue)) == workers


async def test_a_worker_that_waits_for_room_gets_it_when_another_worker_takes_something() -> None:
    outcomes = []

    async def greedy(item: str) -> None:
        if item == "root":
            outcomes.append(await queue.put("one", timeout=math.inf))
            outcomes.append(await queue.put("two", timeout=math.inf))
            outcomes.append(await queue.put("three", timeout=math.inf))

    async with BoundedQueue[str](1) as queue:
        await queue.start_workers(greedy, 2)
        await queue.put("root")
        await queue.join()
    assert outcomes == [True, True, True]


async def test_a_worker_function_may_start_and_read_and_submit_to_its_own_queue() -> None:
    async def worker(item: int) -> Any:
        if item:
            return await (await queue.submit(item - 1))
        return [queue.size, queue.status]

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 3)
        assert await (await queue.submit(2)) == [0, QueueStatus.PROCESSING]


# -- what is kept alive ---------------------------------------------------------------------------


class Heavy:
    """Something that one would not like to be kept."""


async def test_an_idle_worker_keeps_no_item_alive() -> None:
    async def worker(item: Heavy) -> None:
        await asyncio.sleep(1)

    async with BoundedQueue[Heavy]() as queue:
        await queue.start_workers(worker, 1)
        heavy = Heavy()
        gone = weakref.ref(heavy)
        await queue.put(heavy)
        del heavy
        await queue.join()
        await settle()
        assert gone() is None


@pytest.mark.parametrize(
    "pause",
    [
        0,
        1,
    ],
)
async def test_an_idle_worker_keeps_no_error_alive(pause: float) -> None:
    class WeakError(Exception):
        pass

    failures = []

    async def worker(item: Heavy) -> None:
        if pause:
            await asyncio.sleep(pause)
        raise WeakError

    def handler(error: Exception, item: Heavy) -> None:
        failures.append(weakref.ref(error))

    gc.disable()  # what is freed here is freed without its help
    try:
        async with BoundedQueue[Heavy]() as queue:
            await queue.start_workers(worker, 1, handler)
            await queue.put(Heavy())
            await queue.join()
            await settle()
            assert [failure() for failure in failures] == [None]
    finally:
        gc.enable()


async def test_an_error_that_is_kept_keeps_no_other_item_of_its_worker_alive() -> None:
    kept = []

    async def worker(item: Heavy) -> None:
        await asyncio.sleep(1)
        raise OSError

    async def handler(error: Exception, item: Heavy) -> None:
        if kept:
            await for_ever()
        kept.append(error)

    queue: BoundedQueue[Heavy] = BoundedQueue()
    await queue.start()
    await queue.start_workers(worker, 1, handler)
    await queue.put(Heavy())
    await queue.put(Heavy())
    await asyncio.sleep(3)
    await queue.stop(timeout=0)  # while the error of the second one is handled
    await queue.start()
    gone = weakref.ref(await queue.get())
    await queue.stop()
    gc.collect()
    assert gone() is None


async def test_an_idle_worker_keeps_no_result_alive() -> None:
    async def worker(item: int) -> Heavy:
        return Heavy()

    async with BoundedQueue[int]() as queue:
        await queue.start_workers(worker, 1)
        gone = weakref.ref(await (await queue.submit(1)))
        await settle()
        gc.collect()
        assert gone() is None


async def test_a_queue_that_is_no_longer_used_is_collected() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    async with queue:
        await queue.start_workers(AsyncMock(), 2)
        await queue.put(1)
    gone = weakref.ref(queue)
    del queue
    await settle()
    gc.collect()
    assert gone() is None


async def test_worker_functions_of_a_pool_executor_of_ones_own_work() -> None:
    with ThreadPoolExecutor(1) as pool:

        async def worker(item: int) -> int:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: item * 2)

        async with BoundedQueue[int]() as queue:
            await queue.start_workers(worker, 2)
            assert await (await queue.submit(21)) == 42


# -- turns ----------------------------------------------------------------------------------------


class Turns:
    """Notes how many items were processed in each turn of the event loop."""

    def __init__(self, queue: BoundedQueue[int]) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._before = 0
        self.items: list[int] = []
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        processed = self._queue.metrics["processed"]
        self.items.append(processed - self._before)
        self._before = processed
        if self._queue.status is QueueStatus.PROCESSING:
            self._loop.call_soon(self._turn)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize(("each", "most"), [(0.02, 1), (0.004, 3), (0.0001, 132)])
async def test_workers_that_never_wait_leave_the_loop_to_others(
    workers: int, each: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten milliseconds, all of them together, and as many items as pass between two looks."""
    loop, seconds = asyncio.get_running_loop(), 100.0

    async def work(item: int) -> None:
        nonlocal seconds
        seconds += each

    monkeypatch.setattr(loop, "time", lambda: seconds)
    async with BoundedQueue[int](1_000) as queue:
        await queue.start_workers(work, workers)
        turns = Turns(queue)
        for item in range(1_000):
            queue.put_nowait(item)
        await queue.join()
    assert sum(turns.items) == 1_000
    assert max(turns.items) <= most
