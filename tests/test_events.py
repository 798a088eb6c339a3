"""Events and their executions, and Executor, which runs them."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import logging
import pickle
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import AsyncMock

import pytest

import penstock.testing
from helpers.tasks import now, settle
from penstock import (
    DeadlineExceededError,
    Event,
    Execution,
    ExecutionStatus,
    Executor,
    QueueConfig,
    QueueStateError,
    QueueStatus,
    RateLimitError,
    WorkQueue,
)
from penstock.config import RetryConfig
from telemetry.recorder import Recorder

PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = ExecutionStatus


class Greeting(Event):
    """Takes arguments and does not call ``super().__init__()``."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def invoke(self) -> str:
        return f"hello {self.name}"


def test_an_event_is_pending_and_has_no_outcome_yet() -> None:
    execution = Greeting("you").execution
    assert execution == Execution(
        status=ExecutionStatus.PENDING, result=None, error=None, duration=None
    )


def test_each_event_has_an_id_and_an_execution_of_its_own() -> None:
    one, other = Greeting("one"), Greeting("one")
    assert one.id != other.id
    assert one.execution is not other.execution


async def test_an_event_that_does_not_say_how_to_invoke_it_says_so() -> None:
    class Silent(Event):
        pass

    with pytest.raises(NotImplementedError, match="Silent"):
        await Silent().invoke()


def test_a_dataclass_can_be_an_event() -> None:
    @dataclass
    class Upload(Event):
        path: str
        tags: list[str] = field(default_factory=list)

    upload = Upload("a.txt")
    assert upload.path == "a.txt"
    assert upload.execution.status is ExecutionStatus.PENDING
    assert upload.id


def test_a_frozen_dataclass_can_be_an_event() -> None:
    @dataclass(frozen=True)
    class Upload(Event):
        path: str

    assert Upload("a.txt").execution.status is ExecutionStatus.PENDING


def test_an_event_may_choose_its_own_id() -> None:
    class Order(Event):
        def __init__(self, number: int) -> None:
            self.id = f"order-{number}"

    assert Order(7).id == "order-7"


def test_events_keep_their_identity_when_pickled() -> None:
    event = Greeting("you")
    event.execution.status = ExecutionStatus.COMPLETED
    event.execution.result = "hello you"
    twin: Any = pickle.loads(pickle.dumps(event))
    assert (twin.id, twin.name, twin.execution) == (event.id, event.name, event.execution)


def test_events_keep_their_identity_when_copied() -> None:
    event = Greeting("you")
    assert copy.copy(event).id == event.id


@pytest.mark.parametrize("status", ExecutionStatus)
def test_a_status_equals_its_value(status: ExecutionStatus) -> None:
    assert status == status.value == status.name.lower()


def test_an_execution_has_no_room_for_misspelt_fields() -> None:
    with pytest.raises(AttributeError):
        Execution().stauts = ExecutionStatus.FAILED  # type: ignore[attr-defined]


# -- Executor --------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=f"event {event.id} is appended already"):
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
    assert waits == {("q", "queue_capacity"): (3, pytest.approx(0 + 10 + 10))}
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


@pytest.mark.parametrize("attempts", [2, 9])
async def test_an_event_that_will_be_tried_again_has_not_ended(attempts: int) -> None:
    seen: list[tuple[bool, list[Event]]] = []

    class Flaky(Event):
        """Fails until it was invoked ``attempts`` times."""

        count = 0

        async def invoke(self) -> None:
            self.count += 1
            asyncio.get_running_loop().call_soon(look)  # as soon as this has ended
            if self.count < attempts:
                raise ConnectionError

    def look() -> None:
        seen.append((executor.is_all_processed, executor.forget_ended()))

    event = Flaky()
    async with Executor(Flaky, QueueConfig(retry=RetryConfig(attempts=3))) as executor:
        executor.append(event)
        await executor.wait()
        assert executor.is_all_processed
    assert seen[:-1] == [(False, [])] * (min(attempts, 3) - 1)
    assert event.execution.status is (COMPLETED if attempts == 2 else FAILED)
    assert seen[-1][1] + executor.forget_ended() == [event]


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
