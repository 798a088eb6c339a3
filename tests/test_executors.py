"""AsyncExecutor, which runs calls, and Executor, which runs events."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import math
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock

import pytest

import penstock.testing
from helpers.tasks import for_ever, now, settle
from helpers.versions import FROM_3_11
from penstock import (
    AsyncExecutor,
    DeadlineExceededError,
    Event,
    ExecutionStatus,
    Executor,
    Limit,
    Limiter,
    QueueConfig,
    QueueStateError,
    QueueStatus,
    RateLimitedExecutor,
    RateLimitError,
    WorkQueue,
)
from telemetry.recorder import Recorder

PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = ExecutionStatus


class Meter:
    """An async function that notes how many of its calls ran at once."""

    def __init__(self, seconds: float = 1) -> None:
        self.seconds = seconds
        self.running = self.peak = 0
        self.begun: list[Any] = []

    async def __call__(self, item: Any = None) -> Any:
        self.begun.append(item)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await (for_ever() if self.seconds == math.inf else asyncio.sleep(self.seconds))
        finally:
            self.running -= 1
        return item


# -- AsyncExecutor.execute ------------------------------------------------------------------------


async def test_execute_returns_what_the_function_returns() -> None:
    async def join(*parts: str, end: str) -> str:
        await asyncio.sleep(1)
        return "".join(parts) + end

    async with AsyncExecutor() as executor:
        assert await executor.execute(join, "a", "b", end="!") == "ab!"


async def test_execute_raises_what_the_function_raises() -> None:
    async with AsyncExecutor() as executor:
        with pytest.raises(KeyError, match="lost"):
            await executor.execute(AsyncMock(side_effect=KeyError("lost")))
        assert await executor.execute(AsyncMock(return_value=1)) == 1


async def shows(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def plainly_shows(**kwargs: Any) -> dict[str, Any]:
    return kwargs


@pytest.mark.parametrize(
    "func",
    [
        shows,
        plainly_shows,
    ],
)
async def test_arguments_of_any_name_reach_the_function(func: Any) -> None:
    arguments = {"self": 1, "func": 2, "threads": 3, "args": 4, "kwargs": 5}
    async with AsyncExecutor() as executor:
        assert await executor.execute(func, **arguments) == arguments


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_calls_run_at_once_than_allowed(limit: int) -> None:
    meter = Meter()
    async with AsyncExecutor(limit) as executor:
        begun = now()
        await asyncio.gather(*(executor.execute(meter, item) for item in range(9)))
        assert now() - begun == pytest.approx(9 / limit)
    assert meter.peak == limit


async def test_without_a_limit_all_calls_run_at_once() -> None:
    meter = Meter()
    async with AsyncExecutor() as executor:
        assert executor.max_concurrency is None
        await asyncio.gather(*(executor.execute(meter) for _ in range(50)))
    assert meter.peak == 50


async def test_calls_that_wait_are_served_first_come_first_served() -> None:
    meter = Meter()
    async with AsyncExecutor(2) as executor:
        await asyncio.gather(*(executor.execute(meter, item) for item in range(8)))
    assert meter.begun == list(range(8))


async def test_plain_functions_run_in_threads_no_more_at_once_than_allowed() -> None:
    together = threading.Barrier(2)  # passes only when two are inside at once
    lock = threading.Lock()
    inside = peak = 0

    def work() -> int:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        together.wait(60)
        with lock:
            inside -= 1
        return threading.get_ident()

    async with AsyncExecutor(2) as executor:
        threads = await asyncio.gather(*(executor.execute(work) for _ in range(6)))
    assert peak == 2
    assert threading.get_ident() not in threads


async def test_a_call_runs_in_the_context_of_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def on_the_loop() -> str:
        await asyncio.sleep(1)
        return variable.get()

    async with AsyncExecutor(1) as executor:
        for name, func in {"one": on_the_loop, "two": variable.get}.items():
            variable.set(name)
            assert await executor.execute(func) == name


async def test_a_cancelled_caller_cancels_its_call() -> None:
    meter = Meter(math.inf)
    async with AsyncExecutor(1) as executor:
        calling = asyncio.create_task(executor.execute(meter, 1))
        await settle()
        assert meter.running == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert meter.running == 0
        assert await executor.execute(AsyncMock(return_value="next")) == "next"


@pytest.mark.parametrize("ending", [None, KeyError("lost")], ids=repr)
async def test_a_caller_cancelled_is_cancelled_whatever_its_call_makes_of_it(
    ending: Exception | None,
) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))

    async def shrugs() -> None:
        with suppress(asyncio.CancelledError):
            await for_ever()
        if ending is not None:
            raise ending

    async with AsyncExecutor() as executor:
        calling = asyncio.create_task(executor.execute(shrugs))
        await settle()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    gc.collect()
    assert complaints == []


async def test_a_caller_cancelled_twice_leaves_no_exception_that_nobody_looks_at() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))

    async def cleans_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(1)
            raise KeyError("lost")

    async with AsyncExecutor() as executor:
        calling = asyncio.create_task(executor.execute(cleans_up))
        for _ in range(2):
            await settle()
            calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    del calling
    gc.collect()
    assert complaints == []


async def test_a_caller_cancelled_while_it_waits_never_has_its_call_begun() -> None:
    meter = Meter()
    async with AsyncExecutor(1) as executor:
        first, second, third = (
            asyncio.create_task(executor.execute(meter, item)) for item in range(3)
        )
        await settle()
        second.cancel()
        await asyncio.gather(first, third)
        assert second.cancelled()
    assert meter.begun == [0, 2]


async def test_a_call_that_cancels_itself_looks_cancelled_to_its_caller() -> None:
    async with AsyncExecutor() as executor:
        with pytest.raises(asyncio.CancelledError):
            await executor.execute(AsyncMock(side_effect=asyncio.CancelledError))


def test_an_executor_can_be_made_outside_a_loop() -> None:
    executor = AsyncExecutor(2)
    assert executor.max_concurrency == 2
    assert penstock.testing.run(executor.execute(AsyncMock(return_value=1))) == 1


def test_an_executor_can_be_used_in_one_loop_after_another() -> None:
    executor = AsyncExecutor(1)

    async def use() -> None:
        await asyncio.gather(*(executor.execute(Meter()) for _ in range(3)))

    for _ in range(2):
        penstock.testing.run(use())


# -- AsyncExecutor.map ----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_map_returns_the_results_in_the_order_of_the_items(limit: int | None) -> None:
    async def slow_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item * 2

    async with AsyncExecutor(limit) as executor:
        assert await executor.map(slow_first, range(6)) == [0, 2, 4, 6, 8, 10]


async def test_map_takes_async_iterables_and_plain_functions() -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(3):
            await asyncio.sleep(1)
            yield item

    async with AsyncExecutor(2) as executor:
        assert await executor.map(lambda item: item * 2, source()) == [0, 2, 4]
        assert await executor.map(str, []) == []


async def test_map_reads_items_no_faster_than_calls_start() -> None:
    meter = Meter()
    ahead = []

    def source() -> Iterator[int]:
        for read in range(1, 21):
            ahead.append(read - len(meter.begun))
            yield read

    async with AsyncExecutor(3) as executor:
        await executor.map(meter, source())
    assert max(ahead) <= 3 + 1
    assert meter.peak == 3


async def test_the_first_exception_of_map_cancels_the_rest_and_comes_out() -> None:
    meter = Meter(100)

    async def fussy(item: int) -> Any:
        if item == 2:
            await asyncio.sleep(1)
            raise ValueError(item)
        return await meter(item)

    async with AsyncExecutor(3) as executor:
        begun = now()
        with pytest.raises(ValueError, match="2"):
            await executor.map(fussy, range(1_000_000))
        assert now() - begun == pytest.approx(1)
        assert meter.running == 0
        assert meter.begun == [0, 1]


async def test_an_exception_comes_out_of_map_though_the_next_item_is_long_in_coming() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1000)
        yield 2

    async with AsyncExecutor(3) as executor:
        begun = now()
        with pytest.raises(ValueError, match="at once"):
            await executor.map(AsyncMock(side_effect=ValueError("at once")), source())
        assert now() - begun < 1


async def test_items_that_fail_to_come_cancel_the_calls_of_map() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    meter = Meter()
    async with AsyncExecutor(3) as executor:
        with pytest.raises(OSError, match="the file ends here"):
            await executor.map(meter, source())
        assert meter.running == 0


async def test_a_map_that_fails_closes_the_async_generator_that_it_reads() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for item in range(100):
                yield item
        finally:
            closed.append("source")

    items = source()
    async with AsyncExecutor(2) as executor:
        with pytest.raises(KeyError):
            await executor.map(AsyncMock(side_effect=KeyError), items)
    assert closed == ["source"]


async def test_cancelling_map_cancels_its_calls() -> None:
    meter = Meter(math.inf)
    async with AsyncExecutor(3) as executor:
        mapping = asyncio.create_task(executor.map(meter, range(100)))
        await settle()
        assert meter.running == 3
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert meter.running == 0


async def test_map_shares_the_limit_with_other_calls() -> None:
    meter = Meter()
    async with AsyncExecutor(2) as executor:
        await asyncio.gather(
            executor.map(meter, range(4)),
            executor.map(meter, range(4)),
            executor.execute(meter),
        )
    assert meter.peak == 2


# -- AsyncExecutor.shutdown -----------------------------------------------------------------------


async def test_shutdown_waits_for_the_calls_and_takes_no_more() -> None:
    executor = AsyncExecutor(1)
    calls = [asyncio.create_task(executor.execute(Meter(), item)) for item in range(3)]
    await settle()
    closing = asyncio.create_task(executor.shutdown())
    await settle()
    with pytest.raises(QueueStateError, match="Cannot execute calls when executor is stopped"):
        await executor.execute(Meter())
    with pytest.raises(QueueStateError):
        await executor.map(Meter(), [1])
    await closing
    assert await asyncio.gather(*calls) == [0, 1, 2]


@pytest.mark.parametrize("timeout", [0, 3])
async def test_shutdown_cancels_the_calls_after_its_timeout(timeout: float) -> None:
    meter = Meter(math.inf)
    executor = AsyncExecutor(2)
    calls = [asyncio.create_task(executor.execute(meter, item)) for item in range(3)]
    await settle()
    begun = now()
    await executor.shutdown(timeout=timeout)
    assert now() - begun == pytest.approx(timeout)
    assert meter.running == 0
    for call in calls:
        with pytest.raises(QueueStateError, match="shut down before the call was over") as caught:
            await call
        assert caught.value.current_state == "stopped"


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_shutdown_without_a_timeout_waits_as_long_as_it_takes(timeout: float | None) -> None:
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(Meter(100_000), "done"))
    await settle()
    await executor.shutdown(timeout)
    assert await call == "done"


async def test_no_task_outlives_shutdown() -> None:
    before = asyncio.all_tasks()
    cleaned = []

    async def tidy() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)
            cleaned.append(True)

    executor = AsyncExecutor()
    calls = [asyncio.create_task(executor.execute(tidy)) for _ in range(3)]
    await settle()
    await executor.shutdown(timeout=0)
    assert cleaned == [True] * 3
    await asyncio.wait(calls)
    assert asyncio.all_tasks() == before


async def test_cancelling_a_shutdown_cancels_the_calls() -> None:
    meter = Meter(math.inf)
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(meter))
    await settle()
    closing = asyncio.create_task(executor.shutdown())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert meter.running == 0
    with pytest.raises(QueueStateError):
        await call


async def test_shutdown_twice_or_without_calls_is_fine() -> None:
    executor = AsyncExecutor()
    await executor.shutdown()
    await executor.shutdown(timeout=0)


async def test_two_shutdowns_at_once_are_one() -> None:
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(Meter(10), "done"))
    await settle()
    begun = now()
    await asyncio.gather(executor.shutdown(), executor.shutdown(timeout=2))
    assert now() - begun == pytest.approx(2)
    with pytest.raises(QueueStateError):
        await call


async def test_shutdown_from_inside_a_call_is_an_error_and_no_deadlock() -> None:
    executor = AsyncExecutor()
    with pytest.raises(QueueStateError, match=r"shutdown\(\) from inside a call"):
        await executor.execute(executor.shutdown)
    assert await executor.execute(AsyncMock(return_value=1)) == 1
    await executor.shutdown()


async def test_a_clean_exit_waits_and_an_exit_by_exception_cancels() -> None:
    async with AsyncExecutor() as executor:
        call = asyncio.create_task(executor.execute(Meter(10), "done"))
        await settle()
    assert await call == "done"

    calls = []

    async def fail() -> None:
        async with AsyncExecutor() as executor:
            calls.append(asyncio.create_task(executor.execute(for_ever)))
            await settle()
            raise KeyError("lost")

    with pytest.raises(KeyError):
        await fail()
    with pytest.raises(QueueStateError):
        await calls[0]


async def test_the_threads_end_with_the_executor() -> None:
    async with AsyncExecutor(2) as executor:
        thread = await executor.execute(threading.current_thread)
    thread.join(60)
    assert not thread.is_alive()


async def test_a_call_whose_caller_was_cancelled_twice_does_not_outlive_shutdown() -> None:
    cleaned = []

    async def slow_to_clean_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)
            cleaned.append(True)

    executor = AsyncExecutor()
    calling = asyncio.create_task(executor.execute(slow_to_clean_up))
    for _ in range(2):
        await settle()
        calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    await executor.shutdown()
    assert cleaned == [True]


async def test_a_caller_cancelled_during_a_shutdown_is_cancelled() -> None:
    async def slow_to_clean_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)

    executor = AsyncExecutor()
    calling = asyncio.create_task(executor.execute(slow_to_clean_up))
    await settle()
    closing = asyncio.create_task(executor.shutdown(timeout=0))
    await settle()
    calling.cancel()
    await asyncio.wait([calling, closing])
    assert calling.cancelled()


# -- Executor -------------------------------------------------------------------------------------


class Echo(Event):
    """Gives back its value after a while."""

    def __init__(self, value: Any = None, seconds: float = 1) -> None:
        self.value = value
        self.seconds = seconds
        self.begun_at: list[float] = []

    async def invoke(self) -> Any:
        self.begun_at.append(now())
        await asyncio.sleep(self.seconds)
        return self.value


class Failing(Echo):
    """Raises its value after a while."""

    async def invoke(self) -> Any:
        await super().invoke()
        raise self.value


class Broken(BaseException):
    """Neither an Exception nor a cancellation."""


def fast(capacity: int = 100, workers: int = 1) -> QueueConfig:
    """A config whose refresh time is of no concern."""
    return QueueConfig(
        queue_capacity=capacity, capacity_refresh_time=1e-6, concurrency_limit=workers
    )


@pytest.mark.plan("IT-1")
async def test_an_executor_processes_events_through_its_work_queue() -> None:
    config = QueueConfig(queue_capacity=5, concurrency_limit=2)
    executor = Executor(event_type=Echo, queue_config=config)
    assert isinstance(executor.queue, WorkQueue)
    assert executor.queue.maxsize == 5

    events = []
    async with executor:
        assert executor.queue.worker_count == 2
        for number in range(10):
            event = Echo(f"value {number}")
            events.append(event)
            executor.append(event)
        await executor.forward()
        while not executor.is_all_processed:  # noqa: ASYNC110 - as it was promised
            await asyncio.sleep(0.1)

    assert [event.execution.status for event in events] == [COMPLETED] * 10
    assert [event.execution.result for event in events] == [f"value {n}" for n in range(10)]
    assert executor.queue.metrics["processed"] == 10


@pytest.mark.plan("IT-2")
async def test_an_executor_waits_out_backpressure() -> None:
    executor = Executor(Echo, QueueConfig(queue_capacity=1, concurrency_limit=1))
    async with executor:
        events = [Echo(number) for number in range(5)]
        for event in events:
            executor.append(event)
        forwarding = asyncio.create_task(executor.forward())
        await settle()
        assert not forwarding.done()
        assert executor.queue.is_full
        await forwarding
        assert executor.queue.metrics["enqueued"] == 5
        assert executor.queue.metrics["backpressure_events"] == 0
        await executor.wait()
    assert [event.execution.result for event in events] == [0, 1, 2, 3, 4]


@pytest.mark.plan("IT-3")
async def test_an_executor_cleans_up_when_it_exits() -> None:
    before = asyncio.all_tasks()
    async with Executor(Echo, fast(workers=3)) as executor:
        for number in range(5):
            executor.append(Echo(number))
        await executor.forward()
    assert executor.queue.status is QueueStatus.STOPPED
    assert executor.queue.worker_count == 0
    assert executor.queue.is_empty
    assert executor.queue.unprocessed == []
    assert len(executor.completed) == 5, "a clean exit processes what was forwarded"
    assert asyncio.all_tasks() == before


@pytest.mark.plan("IT-3")
async def test_an_executor_cleans_up_when_it_exits_by_an_exception() -> None:
    before = asyncio.all_tasks()
    executor = Executor(Echo, fast())
    events = [Echo(number, seconds=10) for number in range(3)]

    async def fail() -> None:
        async with executor:
            for event in events:
                executor.append(event)
            await executor.forward()
            await settle()
            raise KeyError("lost")

    begun = now()
    with pytest.raises(KeyError):
        await fail()
    assert now() - begun < 1
    assert executor.queue.status is QueueStatus.STOPPED
    assert [event.execution.status for event in events] == [CANCELLED, PENDING, PENDING]
    assert executor.queue.unprocessed == events
    assert asyncio.all_tasks() == before


def test_an_executor_has_the_documented_defaults() -> None:
    executor = Executor(Echo)
    assert executor.event_type is Echo
    assert executor.queue.maxsize == 100
    assert executor.queue.name == "default"
    assert executor.is_all_processed, "there is nothing to process"
    assert executor.pending == executor.processing == executor.completed == []
    assert executor.failed == executor.cancelled == []


async def test_without_a_limit_one_event_runs_at_a_time() -> None:
    async with Executor(Echo) as executor:
        assert executor.queue.worker_count == 1


def test_its_name_and_logger_are_those_of_its_queue() -> None:
    logger = logging.getLogger("mine")
    executor = Executor(Echo, logger=logger, name="uploads")
    assert executor.queue.name == "uploads"
    assert executor.queue.queue.logger is logger


async def test_the_views_show_how_far_each_event_is() -> None:
    good, bad, late = Echo("good"), Failing(ValueError("bad")), Echo("late")
    executor = Executor(Echo, fast())
    for event in (good, bad, late):
        executor.append(event)
    assert executor.pending == [good, bad, late]
    assert not executor.is_all_processed
    async with executor:
        await executor.forward()
        await asyncio.sleep(1.5)
        assert executor.completed == [good]
        assert executor.processing == [bad]
        assert executor.pending == [late]
        assert not executor.is_all_processed
        await executor.wait()
        assert executor.is_all_processed
        assert executor.completed == [good, late]
        assert executor.failed == [bad]
        assert executor.pending == executor.processing == []


async def test_the_views_are_lists_of_ones_own() -> None:
    executor = Executor(Echo)
    executor.append(Echo())
    executor.pending.clear()
    assert len(executor.pending) == 1


async def test_an_execution_tells_result_and_duration() -> None:
    event = Echo("value", seconds=2.5)
    async with Executor(Echo, fast()) as executor:
        executor.append(event)
        await executor.wait()
    execution = event.execution
    assert (execution.status, execution.result, execution.error) == (COMPLETED, "value", None)
    assert execution.duration == pytest.approx(2.5)


@pytest.mark.parametrize("error", [ValueError("bad"), Broken("very bad"), GeneratorExit()])
async def test_a_failure_is_recorded_and_the_executor_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Failing(error, seconds=2), Echo("good")
    async with Executor(Echo, fast()) as executor:
        executor.append(bad)
        executor.append(good)
        await executor.wait()
        assert executor.is_all_processed
        assert executor.queue.metrics["errors"] == 1
    assert bad.execution.status is FAILED
    assert bad.execution.error is error
    assert bad.execution.result is None
    assert bad.execution.duration == pytest.approx(2)
    assert good.execution.status is COMPLETED
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_event_that_cancels_itself_is_cancelled_and_ended() -> None:
    class Quitter(Event):
        async def invoke(self) -> None:
            raise asyncio.CancelledError

    event = Quitter()
    async with Executor(Quitter, fast()) as executor:
        executor.append(event)
        await executor.wait()
        assert executor.is_all_processed
        assert executor.cancelled == [event]
        assert executor.queue.worker_count == 1


async def test_an_event_may_record_its_result_itself() -> None:
    class Recorder(Event):
        async def invoke(self) -> None:
            self.execution.result = "recorded"

    event = Recorder()
    async with Executor(Recorder) as executor:
        executor.append(event)
        await executor.wait()
    assert event.execution.result == "recorded"


async def test_an_event_that_was_begun_but_not_described_says_so() -> None:
    event = Event()
    async with Executor(Event) as executor:
        executor.append(event)
        await executor.wait()
    assert isinstance(event.execution.error, NotImplementedError)


async def test_subclasses_of_the_event_type_are_taken_and_others_refused() -> None:
    executor = Executor(Echo)
    executor.append(Failing(ValueError()))
    with pytest.raises(TypeError, match="event must be a Echo, got"):
        executor.append(Event())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="event must be a Echo, got 'text'"):
        executor.append("text")  # type: ignore[arg-type]
    assert len(executor.pending) == 1


async def test_an_event_is_appended_once() -> None:
    executor = Executor(Echo)
    event = Echo()
    executor.append(event)
    with pytest.raises(ValueError, match=f"event {event.id} was appended before"):
        executor.append(event)
    assert executor.pending == [event]


async def test_events_that_are_equal_are_still_two() -> None:
    @dataclass
    class Order(Event):
        number: int

        async def invoke(self) -> int:
            return self.number

    async with Executor(Order, fast()) as executor:
        executor.append(Order(1))
        executor.append(Order(1))
        await executor.wait()
        assert len(executor.completed) == 2


async def test_events_run_in_the_context_of_forward() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    class Reader(Event):
        async def invoke(self) -> str:
            return variable.get()

    event = Reader()
    async with Executor(Reader) as executor:
        variable.set("forwarded")
        executor.append(event)
        await executor.wait()
    assert event.execution.result == "forwarded"


# -- Executor: forward and wait -------------------------------------------------------------------


@pytest.mark.parametrize("call", [Executor.forward, Executor.wait])
async def test_events_cannot_be_forwarded_before_the_start(call: Callable[[Any], Any]) -> None:
    executor = Executor(Echo)
    executor.append(Echo())
    with pytest.raises(QueueStateError, match="Cannot put items when queue is idle"):
        await call(executor)
    assert len(executor.pending) == 1


async def test_events_appended_before_the_start_are_forwarded_after_it() -> None:
    executor = Executor(Echo, fast())
    event = Echo("early")
    executor.append(event)
    async with executor:
        await executor.forward()
    assert event.execution.result == "early"


async def test_forward_with_nothing_to_forward_is_fine() -> None:
    async with Executor(Echo) as executor:
        await executor.forward()
        await executor.wait()


async def test_a_cancelled_forward_loses_nothing_and_doubles_nothing() -> None:
    async with Executor(Echo, fast(capacity=2)) as executor:
        events = [Echo(number) for number in range(10)]
        for event in events:
            executor.append(event)
        for _ in range(4):
            forwarding = asyncio.create_task(executor.forward())
            await asyncio.sleep(0.7)
            forwarding.cancel()
            with suppress(asyncio.CancelledError):
                await forwarding
        await executor.wait()
    assert [event.execution.result for event in events] == list(range(10))
    assert [len(event.begun_at) for event in events] == [1] * 10


async def test_two_forwards_at_once_forward_each_event_once() -> None:
    async with Executor(Echo, fast(capacity=1)) as executor:
        events = [Echo(number) for number in range(5)]
        for event in events:
            executor.append(event)
        await asyncio.gather(executor.forward(), executor.forward())
        await executor.wait()
    assert [len(event.begun_at) for event in events] == [1] * 5
    assert executor.queue.metrics["enqueued"] == 5


async def test_forward_takes_events_that_are_appended_meanwhile() -> None:
    async with Executor(Echo, fast(capacity=1)) as executor:
        for number in range(3):
            executor.append(Echo(number))
        forwarding = asyncio.create_task(executor.forward())
        await settle()
        executor.append(Echo("late"))
        await forwarding
        await executor.wait()
        assert [event.value for event in executor.completed] == [0, 1, 2, "late"]


async def test_forward_says_so_when_the_executor_stops_under_it() -> None:
    executor = Executor(Echo, fast(capacity=1))
    await executor.start()
    for number in range(5):
        executor.append(Echo(number))
    forwarding = asyncio.create_task(executor.forward())
    await settle()
    assert await executor.stop() is True
    with pytest.raises(QueueStateError):
        await forwarding
    assert [event.value for event in executor.completed] == [0, 1]
    assert [event.value for event in executor.pending] == [2, 3, 4]


async def test_wait_says_so_when_the_executor_stops_with_events_left() -> None:
    executor = Executor(Echo, fast())
    await executor.start()
    executor.append(Echo(seconds=100))
    waiting = asyncio.create_task(executor.wait())
    await settle()
    assert await executor.stop(timeout=1) is False
    with pytest.raises(QueueStateError, match="1 items unprocessed"):
        await waiting


async def test_events_that_were_never_forwarded_stay_pending_and_the_log_says_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Executor(Echo) as executor:
        for _ in range(3):
            executor.append(Echo())
    assert len(executor.pending) == 3
    assert not executor.is_all_processed
    assert "Executor of Echo stops with 3 events that were not forwarded" in caplog.text


async def test_is_all_processed_turns_with_the_last_event() -> None:
    async with Executor(Echo, fast()) as executor:
        executor.append(Echo())
        assert not executor.is_all_processed
        await executor.wait()
        assert executor.is_all_processed
        executor.append(Echo())
        assert not executor.is_all_processed
        await executor.wait()
        assert executor.is_all_processed


# -- Executor: start, stop, start -----------------------------------------------------------------


async def test_start_twice_starts_once() -> None:
    executor = Executor(Echo, fast(workers=3))
    await executor.start()
    await executor.start()
    assert executor.queue.worker_count == 3
    await executor.stop()


async def test_a_restart_runs_again_what_was_cancelled_and_then_the_rest() -> None:
    executor = Executor(Echo, fast())
    events = [Echo(number, seconds=10) for number in range(3)]
    await executor.start()
    for event in events:
        executor.append(event)
    await executor.forward()
    await settle()
    assert await executor.stop(timeout=1) is False
    assert executor.cancelled == [events[0]]
    assert executor.pending == events[1:]
    assert events[0].execution.duration == pytest.approx(1)

    for event in events:
        event.seconds = 1
    await executor.start()
    await executor.wait()
    assert await executor.stop() is True
    assert executor.completed == events
    assert [len(event.begun_at) for event in events] == [2, 1, 1]
    assert events[0].execution.error is None


async def test_stop_without_draining_finishes_what_runs_and_keeps_the_rest() -> None:
    executor = Executor(Echo, fast())
    await executor.start()
    for number in range(3):
        executor.append(Echo(number))
    await executor.forward()
    await settle()
    assert await executor.stop(drain=False) is False
    assert [event.value for event in executor.completed] == [0]
    assert [event.value for event in executor.pending] == [1, 2]


async def test_ended_events_can_be_forgotten() -> None:
    good, bad, waiting = Echo("good"), Failing(ValueError()), Echo("waiting")
    async with Executor(Echo, fast()) as executor:
        for event in (good, bad):
            executor.append(event)
        await executor.wait()
        executor.append(waiting)
        assert executor.forget_ended() == [good, bad]
        assert executor.completed == executor.failed == []
        assert executor.pending == [waiting]
        assert executor.forget_ended() == []
        await executor.wait()
        assert executor.completed == [waiting]


async def test_a_forgotten_event_is_not_kept_alive() -> None:
    async with Executor(Echo, fast()) as executor:
        event = Echo()
        gone = weakref.ref(event)
        executor.append(event)
        await executor.wait()
        executor.forget_ended()
        del event
        await settle()
        gc.collect()
        assert gone() is None


def test_an_executor_can_be_used_in_one_loop_after_the_other() -> None:
    executor = Executor(Echo, fast())

    async def use(value: str) -> None:
        async with executor:
            executor.append(Echo(value))
            await executor.wait()

    penstock.testing.run(use("one"))
    penstock.testing.run(use("two"))
    assert [event.value for event in executor.completed] == ["one", "two"]


def test_an_executor_under_load_can_be_used_in_one_loop_after_the_other() -> None:
    executor = Executor(
        Echo, QueueConfig(queue_capacity=1, capacity_refresh_time=1, concurrency_limit=3)
    )

    async def use() -> None:
        async with executor:
            for number in range(5):
                executor.append(Echo(number))
            await executor.wait()

    for _ in range(2):
        penstock.testing.run(use())
    assert len(executor.completed) == 10
    assert executor.is_all_processed


def test_forward_can_be_used_in_one_loop_after_the_other() -> None:
    executor = Executor(Echo, fast(capacity=1))

    async def use() -> None:
        async with executor:
            for number in range(3):
                executor.append(Echo(number))
            await asyncio.gather(executor.forward(), executor.forward())

    for _ in range(2):
        penstock.testing.run(use())
    assert len(executor.completed) == 6


# -- Executor: the capacity and its refresh -------------------------------------------------------


def most_in_a_window(starts: list[float], period: float) -> int:
    """The most starts in any window of ``period`` seconds, its end left out."""
    nearly = period - 1e-9
    return max(sum(1 for start in starts if first <= start < first + nearly) for first in starts)


@pytest.mark.parametrize(
    ("capacity", "period", "workers"), [(1, 1.0, 3), (5, 1.0, 10), (3, 0.5, 1), (4, 10.0, 20)]
)
async def test_no_more_events_than_the_capacity_start_in_any_refresh_time(
    capacity: int, period: float, workers: int
) -> None:
    config = QueueConfig(
        queue_capacity=capacity, capacity_refresh_time=period, concurrency_limit=workers
    )
    events = [Echo(number, seconds=0.07 * (number % 4)) for number in range(25)]
    async with Executor(Echo, config) as executor:
        for event in events:
            executor.append(event)
            if event.value % 7 == 6:  # in bursts, so that windows begin anywhere
                await executor.forward()
                await asyncio.sleep(0.3)
        await executor.wait()
    starts = [event.begun_at[0] for event in events]
    assert starts == sorted(starts), "first come, first served"
    assert most_in_a_window(starts, period) <= capacity


async def test_a_burst_starts_at_once_and_the_next_after_the_refresh_time() -> None:
    config = QueueConfig(queue_capacity=3, capacity_refresh_time=2, concurrency_limit=10)
    events = [Echo(number, seconds=0) for number in range(7)]
    async with Executor(Echo, config) as executor:
        begun = now()
        for event in events:
            executor.append(event)
        await executor.wait()
    assert [event.begun_at[0] - begun for event in events] == pytest.approx([0, 0, 0, 2, 2, 2, 4])


def test_the_refresh_time_goes_by_the_clock_of_the_loop_that_runs() -> None:
    config = QueueConfig(queue_capacity=1, capacity_refresh_time=1, concurrency_limit=1)
    executor = Executor(Echo, config)

    async def use(at: float) -> float:
        await asyncio.sleep(at)
        async with executor:
            executor.append(Echo(seconds=0))
            await executor.wait()
        return now()

    penstock.testing.run(use(1000))
    assert penstock.testing.run(use(0)) <= 1


async def test_an_event_that_waits_for_the_refresh_is_still_pending() -> None:
    config = QueueConfig(queue_capacity=1, capacity_refresh_time=10, concurrency_limit=5)
    async with Executor(Echo, config) as executor:
        for number in range(2):
            executor.append(Echo(number, seconds=0))
        await executor.forward()
        await asyncio.sleep(5)
        assert [event.value for event in executor.completed] == [0]
        assert [event.value for event in executor.pending] == [1]


async def test_an_event_cancelled_while_it_waits_for_the_refresh_stays_pending() -> None:
    config = QueueConfig(queue_capacity=1, capacity_refresh_time=10, concurrency_limit=5)
    executor = Executor(Echo, config)
    await executor.start()
    for number in range(3):
        executor.append(Echo(number, seconds=0))
    await executor.forward()
    await settle()
    assert await executor.stop(timeout=0) is False
    assert [event.value for event in executor.pending] == [1, 2]
    assert executor.cancelled == []
    await executor.start()
    await executor.wait()
    await executor.stop()
    assert [event.value for event in executor.completed] == [0, 1, 2]


async def test_the_capacity_and_the_limits_of_the_queue_are_taken_at_once() -> None:
    config = QueueConfig(
        queue_capacity=1, capacity_refresh_time=10, concurrency_limit=5, limits=["3/60s"]
    )
    async with Executor(Echo, config) as executor:
        for number in range(3):
            executor.append(Echo(number, seconds=0))
        waiting = asyncio.create_task(executor.wait())
        await asyncio.sleep(5)
        limits = executor.queue.limits
        assert limits.statistics().grants == 1, "an event that waits has used nothing up"
        assert [limit.name for limit in limits.limits] == ["3 per 60 s", "queue_capacity"]
        await waiting
    assert [event.begun_at[0] for event in executor.completed] == pytest.approx([0, 10, 20])


@pytest.mark.parametrize("limit", ["1/10s", {"max": 1, "per": 10, "name": "queue_capacity"}])
async def test_a_limit_like_the_capacity_or_of_its_name_may_be_given_too(limit: Any) -> None:
    config = QueueConfig(queue_capacity=1, capacity_refresh_time=10, limits=[limit])
    async with Executor(Echo, config) as executor:
        for number in range(2):
            executor.append(Echo(number, seconds=0))
        await executor.wait()
    assert [event.begun_at[0] for event in executor.completed] == pytest.approx([0, 10])


async def test_the_wait_for_the_capacity_is_no_latency_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.telemetry.spans._clock", now)
    recorder = Recorder()
    config = QueueConfig(queue_capacity=1, capacity_refresh_time=10, concurrency_limit=3)
    async with Executor(Echo, config, name="q", telemetry=recorder.telemetry()) as executor:
        for number in range(3):
            executor.append(Echo(number, seconds=2))
        await executor.wait()
    assert [event.execution.duration for event in executor.completed] == pytest.approx([2, 2, 2])
    waits = recorder.values("penstock.limit.wait_time")
    assert waits == {("q", "queue_capacity"): (3, pytest.approx(0 + 10 + 20))}
    assert recorder.values("penstock.process.duration") == {("q",): (3, pytest.approx(6))}
    recorder.shutdown()


async def test_an_event_that_would_wait_beyond_its_deadline_fails_and_does_not_start() -> None:
    config = QueueConfig(
        queue_capacity=1, capacity_refresh_time=10, concurrency_limit=3, deadline=5
    )
    first, late = Echo("first", seconds=0), Echo("late", seconds=0)
    async with Executor(Echo, config) as executor:
        for event in (first, late):
            executor.append(event)
        await executor.wait()
        assert executor.is_all_processed
        assert executor.completed == [first]
        assert executor.failed == [late]
    assert isinstance(late.execution.error, DeadlineExceededError)
    assert (late.begun_at, late.execution.duration) == ([], None)
    assert now() < 10


async def test_an_event_that_is_refused_holds_up_the_others() -> None:
    refused, other = Failing(RateLimitError(retry_after=10), seconds=0), Echo("other", seconds=0)
    async with Executor(Echo, fast()) as executor:
        for event in (refused, other):
            executor.append(event)
        await executor.wait()
    assert refused.execution.status is FAILED
    assert other.execution.status is COMPLETED
    assert 10 <= other.begun_at[0] <= 11


# -- Executor: bad arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [None, "Echo", 1, int, object, Echo()],
    ids=["None", "a str", "an int", "int", "object", "an event"],
)
def test_what_is_no_event_type_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"event_type must be a subclass of penstock\.Event, got"):
        Executor(bad)


@pytest.mark.parametrize("bad", ["config", 5, {"queue_capacity": 5}, QueueConfig])
def test_what_is_no_config_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="config must be a QueueConfig, got"):
        Executor(Echo, bad)


def test_an_event_type_whose_invoke_is_not_async_is_refused() -> None:
    class Plain(Event):
        def invoke(self) -> int:  # type: ignore[override]
            return 1

    with pytest.raises(TypeError, match=r"Plain\.invoke must be async def"):
        Executor(Plain)


async def test_an_event_whose_invoke_was_mocked_works() -> None:
    class Mocked(Event):
        invoke = AsyncMock(return_value="mocked")

    async with Executor(Mocked) as executor:
        event = Mocked()
        executor.append(event)
        await executor.wait()
    assert event.execution.result == "mocked"


async def test_an_event_whose_own_invoke_is_not_async_fails_by_itself() -> None:
    class Wrong(Echo):
        def invoke(self) -> int:  # type: ignore[override]
            return 1

    event = Wrong()
    async with Executor(Echo) as executor:
        executor.append(event)
        await executor.wait()
    assert event.execution.status is FAILED
    assert isinstance(event.execution.error, TypeError)


@FROM_3_11
async def test_executors_and_task_groups_go_together() -> None:
    async with AsyncExecutor(2) as executor, asyncio.TaskGroup() as group:
        tasks = [group.create_task(executor.execute(Meter(), item)) for item in range(4)]
    assert [task.result() for task in tasks] == [0, 1, 2, 3]


class TestRateLimitedExecutor:
    async def test_calls_start_no_faster_than_the_limits_allow(self) -> None:
        started: list[float] = []

        async def call(number: int) -> int:
            started.append(now())
            return number

        async with RateLimitedExecutor([Limit(3, per=10)], max_concurrency=5) as executor:
            assert await executor.map(call, range(8)) == list(range(8))
        assert started == [0, 0, 0, 10, 10, 10, 20, 20]

    async def test_what_a_call_costs_is_said_by_its_first_argument(self) -> None:
        tokens = Limit(10, per=1, cost=lambda size: size, name="tokens")
        async with RateLimitedExecutor([tokens]) as executor:

            async def call(size: int, settled: int) -> float:
                tokens.settle(settled)
                return now()

            assert await executor.execute(call, 8, 2) == 0
            assert await executor.execute(call, 8, 8) == 0
            assert await executor.execute(call, 8, 8) == 1
            with pytest.raises(ValueError, match="can never pass"):
                await executor.execute(call, 11, 0)

    async def test_one_limiter_for_an_executor_and_a_queue(self) -> None:
        limiter = Limiter([Limit(2, per=1)])
        times: list[float] = []

        async def call(item: Any) -> None:
            times.append(now())

        async with (
            RateLimitedExecutor(limiter) as executor,
            WorkQueue[int](limits=limiter, concurrency_limit=3) as queue,
        ):
            await queue.process(call)
            await asyncio.gather(*(executor.execute(call, n) for n in range(3)))
            for number in range(3):
                await queue.put(number)
            await queue.join()
        assert times == [0, 0, 1, 1, 2, 2]

    async def test_a_rate_limit_error_holds_up_all(self) -> None:
        times: list[float] = []

        async def call(number: int) -> None:
            times.append(now())
            if number == 0:
                raise RateLimitError(retry_after=10)

        async with RateLimitedExecutor([]) as executor:
            with pytest.raises(RateLimitError):
                await executor.execute(call, 0)
            await executor.execute(call, 1)
        assert times[0] == 0
        assert 10 <= times[1] <= 11

    async def test_any_clients_too_many_requests_holds_up_all(self) -> None:
        class ClientError(Exception):
            """As clients of services raise it."""

            def __init__(self, status: int) -> None:
                super().__init__()
                self.status_code = status
                self.retry_after = 10

        times: list[float] = []

        async def call(status: int) -> None:
            times.append(now())
            raise ClientError(status)

        async with RateLimitedExecutor([]) as executor:
            for status in (503, 429, 400):
                with pytest.raises(ClientError):
                    await executor.execute(call, status)
        assert times[:2] == [0, 0], "what is no refusal holds up nothing"
        assert 10 <= times[2] <= 11

    async def test_a_cancelled_call_uses_nothing_up(self) -> None:
        async def call() -> float:
            return now()

        async with RateLimitedExecutor([Limit(1, per=10)]) as executor:
            assert await executor.execute(call) == 0
            waiting = asyncio.create_task(executor.execute(call))
            await asyncio.sleep(5)
            waiting.cancel()
            assert await executor.execute(call) == 10

    @pytest.mark.parametrize("limits", [None, 5, [5], [Limit(1, 1), Limit(1, 1)]])
    def test_what_are_no_limits(self, limits: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="limits"):
            RateLimitedExecutor(limits)
