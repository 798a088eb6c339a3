"""The metrics of queues: their shapes, their values, and what the reader's thread may see."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    InMemoryMetricReader,
    Sum,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import penstock
from helpers.handlers import ignore
from helpers.tasks import settle
from penstock.policies.observer import QueueReadings
from penstock.queue.buffer import Buffer
from penstock.telemetry import Telemetry
from penstock.telemetry.names import SCHEMA_URL
from sync.helpers import run_program
from telemetry.recorder import Recorder, trace_id

pytestmark = pytest.mark.usefixtures("exact_times")

#: What §9 of the design says: kind and unit, and which attributes a point may have beside the
#: name of its queue.
UP_DOWN, COUNTER, GAUGE, HISTOGRAM = "up-down counter", "counter", "gauge", "histogram"
TABLE: dict[str, tuple[str, str, set[str]]] = {
    "penstock.queue.size": (UP_DOWN, "{item}", {"penstock.item.state"}),
    "penstock.queue.capacity": (UP_DOWN, "{item}", set()),
    "penstock.queue.oldest_item.age": (GAUGE, "s", set()),
    "penstock.put.items": (COUNTER, "{item}", {"penstock.put.outcome"}),
    "penstock.backpressure.events": (COUNTER, "{event}", set()),
    "penstock.backpressure.wait_time": (HISTOGRAM, "s", {"penstock.put.outcome"}),
    "penstock.item.wait_time": (HISTOGRAM, "s", {"penstock.wait.cause"}),
    "penstock.process.duration": (HISTOGRAM, "s", {"error.type"}),
    "penstock.process.items": (COUNTER, "{item}", {"penstock.process.outcome"}),
    "penstock.worker.errors": (COUNTER, "{error}", {"error.type"}),
    "penstock.worker.count": (UP_DOWN, "{worker}", {"penstock.worker.state"}),
    "penstock.dead_letter.items": (UP_DOWN, "{item}", set()),
    "penstock.gate.closed_time": (COUNTER, "s", set()),
}


def done(recorder: Recorder) -> dict[str, int]:
    """How many items are done, by the name of the queue."""
    sums: dict[str, int] = {}
    for (name, _), count in recorder.values("penstock.process.items").items():
        sums[name] = sums.get(name, 0) + count
    return sums


async def work(item: Any) -> None:
    """Take that many seconds, or raise that exception after one."""
    if isinstance(item, BaseException):
        await asyncio.sleep(1)
        raise item
    await asyncio.sleep(item)


def queue_of(
    recorder: Recorder, maxsize: int = 100, timeout: float = 0.1, name: str = "q", **options: Any
) -> penstock.BoundedQueue[Any]:
    return penstock.BoundedQueue(
        maxsize, timeout, name=name, telemetry=recorder.telemetry(**options)
    )


async def run_all(queue: penstock.BoundedQueue[Any], *items: Any) -> None:
    async with queue:
        await queue.start_workers(work, 1, ignore)
        for item in items:
            await queue.put(item, timeout=math.inf)


async def everything_happens(queue: penstock.BoundedQueue[Any]) -> None:
    """On a queue of two: each outcome of a put, an error, an error of the handler."""

    def fail_too(error: Exception, item: Any) -> None:
        raise RuntimeError("the handler")

    await queue.start()
    assert await queue.put(ValueError("x"))
    assert await queue.put(2)
    assert not await queue.put(3)
    with pytest.raises(penstock.QueueFullError):
        queue.put_nowait(3)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(queue.put(4, timeout=math.inf), 0.3)
    waiting = asyncio.create_task(queue.put(5, timeout=math.inf))
    await asyncio.sleep(0.5)
    await queue.start_workers(work, 1, fail_too)
    assert await waiting
    await queue.join()
    await queue.stop_workers()
    await queue.put(6)
    await queue.put(7)
    waiting = asyncio.create_task(queue.put(8, timeout=math.inf))
    await settle()
    await queue.stop()
    with pytest.raises(penstock.QueueStateError):
        await waiting


# -- shapes -----------------------------------------------------------------------------------


async def test_every_metric_has_its_kind_its_unit_and_its_attributes(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=2)
    await everything_happens(queue)
    metrics = recorder.metrics()
    assert metrics.keys() == TABLE.keys()
    for name, (kind, unit, extra) in TABLE.items():
        metric = metrics[name]
        assert metric.unit == unit, name
        assert metric.description, name
        if kind is HISTOGRAM:
            assert isinstance(metric.data, Histogram), name
        elif kind is GAUGE:
            assert isinstance(metric.data, Gauge), name
        else:
            assert isinstance(metric.data, Sum), name
            assert metric.data.is_monotonic == (kind is COUNTER), name
            assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE, name
        for point in metric.data.data_points:
            attributes = dict(point.attributes or {})
            assert attributes.pop("penstock.queue.name") == "q", name
            optional = {"error.type"} if name == "penstock.process.duration" else set()
            assert extra - optional <= attributes.keys() <= extra, name


async def test_metrics_tell_which_library_and_which_conventions_they_are_of() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    queue: Any = penstock.BoundedQueue(telemetry=Telemetry(meter_provider=provider))
    data: Any = reader.get_metrics_data()
    scope = data.resource_metrics[0].scope_metrics[0].scope
    assert (scope.name, scope.version) == ("penstock", version("penstock"))
    assert scope.schema_url == SCHEMA_URL
    assert queue.is_empty
    provider.shutdown()


async def test_buckets_are_those_of_calls_or_of_waits_that_may_be_an_hour(
    recorder: Recorder,
) -> None:
    queue = queue_of(recorder, maxsize=2)
    await everything_happens(queue)
    metrics = recorder.metrics()
    for name in (name for name, (kind, *_) in TABLE.items() if kind is HISTOGRAM):
        longest = 10 if name == "penstock.process.duration" else 3600
        for point in metrics[name].data.data_points:
            bounds = getattr(point, "explicit_bounds")  # noqa: B009 - not every point has them
            assert (bounds[0], bounds[-1]) == (0.001, longest), name


# -- values -----------------------------------------------------------------------------------


async def test_every_put_is_counted_by_its_outcome(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=2)
    await everything_happens(queue)
    assert recorder.values("penstock.put.items") == {
        ("q", "accepted"): 5,
        ("q", "full"): 2,
        ("q", "cancelled"): 1,
        ("q", "stopped"): 1,
    }
    assert recorder.values("penstock.backpressure.events") == {("q",): 2}


async def test_waits_for_room_are_measured_by_their_outcome(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=2)
    await everything_happens(queue)
    waits = recorder.values("penstock.backpressure.wait_time")
    assert waits["q", "full"] == (2, pytest.approx(0.1))  # one waited, put_nowait() did not
    assert waits["q", "cancelled"] == (1, pytest.approx(0.3))
    assert waits["q", "accepted"] == (1, pytest.approx(0.5))
    assert waits["q", "stopped"] == (1, pytest.approx(0, abs=1e-5))


async def test_a_put_with_room_is_no_backpressure(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    await run_all(queue, 0, 0, 0)
    assert recorder.values("penstock.backpressure.wait_time") == {}
    assert recorder.values("penstock.backpressure.events") == {("q",): 0}


async def test_waits_in_the_queue_and_durations_are_measured_item_by_item(
    recorder: Recorder,
) -> None:
    queue = queue_of(recorder)
    await run_all(queue, 2, 3, ValueError("x"), 4)  # by one worker, one after the other
    assert recorder.values("penstock.item.wait_time") == {
        ("q", "worker"): (4, pytest.approx(0 + 2 + 5 + 6))
    }
    assert recorder.values("penstock.process.duration") == {
        ("q",): (3, pytest.approx(2 + 3 + 4)),
        ("q", "ValueError"): (1, pytest.approx(1)),
    }
    assert recorder.values("penstock.process.items") == {
        ("q", "ok"): 3,
        ("q", "failed"): 1,
        ("q", "dead_letter"): 0,
        ("q", "deadline"): 0,
        ("q", "cancelled"): 0,
    }
    assert recorder.values("penstock.worker.errors") == {("q", "ValueError"): 1}


async def test_failures_are_counted_by_what_was_raised(recorder: Recorder) -> None:
    def fail_too(error: Exception, item: Any) -> None:
        raise KeyError("the handler")

    queue = queue_of(recorder)
    async with queue:
        await queue.start_workers(work, 1, fail_too)
        await queue.put(ValueError("x"))
        await queue.put(penstock.QueueFullError("y", queue_size=1, queue_capacity=1))
        await queue.put(ValueError("z"))
    assert recorder.values("penstock.worker.errors") == {
        ("q", "ValueError"): 2,
        ("q", "penstock.errors.QueueFullError"): 1,
        ("q", "KeyError"): 3,
    }
    assert recorder.values("penstock.process.items")["q", "failed"] == 3


async def test_what_was_submitted_and_fails_is_counted_too(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    async with queue:
        await queue.start_workers(work, 1)
        with pytest.raises(ValueError, match="x"):
            await (await queue.submit(ValueError("x")))
    assert recorder.values("penstock.worker.errors") == {("q", "ValueError"): 1}


async def test_an_item_whose_future_was_cancelled_is_no_success(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    async with queue:
        future = await queue.submit(1)
        future.cancel()
        await queue.put(1)
        await queue.start_workers(work, 1)
    items = recorder.values("penstock.process.items")
    assert (items["q", "ok"], items["q", "cancelled"]) == (1, 1)


async def test_an_attempt_that_is_cancelled_is_neither_a_failure_nor_a_duration(
    recorder: Recorder,
) -> None:
    queue = queue_of(recorder)
    await queue.start_workers(work, 1)
    await queue.put(60)
    await settle()
    assert not await queue.stop(timeout=1)
    assert recorder.values("penstock.worker.errors") == {}
    assert recorder.values("penstock.process.duration") == {}
    assert done(recorder) == {"q": 0}
    assert recorder.values("penstock.item.wait_time")["q", "worker"][0] == 1


async def test_levels_are_those_of_the_moment(recorder: Recorder) -> None:
    def levels() -> list[int]:
        sizes = recorder.values("penstock.queue.size")
        workers = recorder.values("penstock.worker.count")
        assert sizes["q", "delayed"] == workers["q", "limited"] == 0
        capacity = recorder.values("penstock.queue.capacity")["q",]
        return [sizes["q", "ready"], workers["q", "busy"], workers["q", "idle"], capacity]

    queue = queue_of(recorder, maxsize=7)
    assert levels() == [0, 0, 0, 7]
    await queue.start()
    for _ in range(5):
        await queue.put(10)
    assert levels() == [5, 0, 0, 7]
    await queue.start_workers(work, 3)
    await settle()
    assert levels() == [2, 3, 0, 7]
    await queue.join()
    assert levels() == [0, 0, 3, 7]
    await queue.stop_workers()
    await queue.put(1)
    await queue.get()
    assert levels() == [0, 0, 0, 7]  # no worker has it
    queue.task_done()
    await queue.stop()


async def test_a_queue_that_is_stopped_counts_in_no_level(recorder: Recorder) -> None:
    stopped, runs = queue_of(recorder, maxsize=3), queue_of(recorder, maxsize=4)
    for queue in (stopped, runs):
        await queue.start()
        await queue.put(1)
    await stopped.stop()
    assert recorder.values("penstock.queue.size") == {("q", "ready"): 1, ("q", "delayed"): 0}
    assert recorder.values("penstock.queue.capacity") == {("q",): 4}
    await runs.stop()
    for name in ("queue.size", "queue.capacity", "queue.oldest_item.age", "worker.count"):
        assert set(recorder.values(f"penstock.{name}").values()) == {0}, name


async def test_the_age_is_that_of_the_oldest_item_that_may_start(recorder: Recorder) -> None:
    def age() -> float:
        found: float = recorder.values("penstock.queue.oldest_item.age")["q",]
        return found

    one, other = queue_of(recorder), queue_of(recorder)
    async with one, other:
        assert age() == 0
        await one.put(1)
        await asyncio.sleep(5)
        await one.put(2)
        await other.put(3)
        await asyncio.sleep(2)
        assert age() == pytest.approx(7)  # not the sum
        await one.get()
        one.task_done()
        assert age() == pytest.approx(2)
        await one.get()
        await other.get()
        one.task_done()
        other.task_done()
        assert age() == 0


async def test_what_is_taken_by_hand_is_measured_too(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    async with queue:
        await queue.put(1)
        await queue.put(2)
        await asyncio.sleep(5)
        await queue.get()
        queue.task_done()
        with pytest.raises(ValueError, match="x"):
            async with queue.processing():
                await work(ValueError("x"))
    assert recorder.values("penstock.item.wait_time") == {("q", "worker"): (2, pytest.approx(10))}
    assert recorder.values("penstock.process.duration") == {("q", "ValueError"): (1, 1)}
    assert recorder.values("penstock.worker.errors") == {("q", "ValueError"): 1}
    assert recorder.values("penstock.process.items")["q", "ok"] == 1
    assert recorder.values("penstock.process.items")["q", "failed"] == 1


async def test_metrics_and_the_queue_count_alike(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=2)
    await everything_happens(queue)
    now = queue.statistics()
    assert recorder.values("penstock.put.items")["q", "accepted"] == now.enqueued
    assert done(recorder)["q"] == now.processed
    assert recorder.values("penstock.backpressure.events")["q",] == now.backpressure_events
    assert recorder.values("penstock.worker.errors")["q", "ValueError"] == now.errors


async def test_where_instrumentation_is_suppressed_nothing_is_measured(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=1)
    with suppress_instrumentation():
        await queue.start()
        assert await queue.put(ValueError("x"))
        assert not await queue.put(2)
    await queue.start_workers(work, 1, ignore)
    await queue.stop()
    assert recorder.spans() == []
    measured = {name for name, (kind, *_) in TABLE.items() if kind is HISTOGRAM}
    assert recorder.metrics().keys() & {*measured, "penstock.worker.errors"} == set()


# -- exemplars --------------------------------------------------------------------------------


def traces(recorder: Recorder) -> dict[str, set[int | None]]:
    """The traces that each metric leads to. (Reading them uses them up.)"""
    return {
        metric.name: {
            exemplar.trace_id for point in metric.data.data_points for exemplar in point.exemplars
        }
        for metric in recorder.metrics().values()
    }


@pytest.mark.parametrize("relation", ["parent", "link"])
async def test_exemplars_lead_to_the_trace_of_the_attempt(
    recorder: Recorder, relation: str
) -> None:
    queue = queue_of(recorder, relation=relation)
    await run_all(queue, ValueError("x"))
    process = {trace_id(recorder.span("process q"))}
    found = traces(recorder)
    assert found["penstock.process.duration"] == process
    assert found["penstock.item.wait_time"] == process
    assert found["penstock.worker.errors"] == process


async def test_exemplars_of_backpressure_lead_to_the_trace_of_the_put(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=1)
    async with queue:
        await queue.put(1)
        assert not await queue.put(2)
    refused = recorder.spans("put q")[1]
    assert traces(recorder)["penstock.backpressure.wait_time"] == {trace_id(refused)}


async def test_what_is_not_sampled_leaves_no_exemplar() -> None:
    recorder = Recorder(sampler=ALWAYS_OFF)
    queue = queue_of(recorder)
    await run_all(queue, 1)
    assert traces(recorder)["penstock.process.duration"] == set()
    recorder.shutdown()


# -- several queues, and queues that are gone -------------------------------------------------


async def test_two_queues_of_one_name_add_up(recorder: Recorder) -> None:
    one, other = queue_of(recorder, maxsize=3), queue_of(recorder, maxsize=4)
    await run_all(one, 1, 1)
    await other.start()
    await other.put(1)
    await one.start()
    assert recorder.values("penstock.put.items")["q", "accepted"] == 3
    assert done(recorder) == {"q": 2}
    assert recorder.values("penstock.queue.capacity") == {("q",): 7}
    assert recorder.values("penstock.queue.size")["q", "ready"] == 1
    await one.stop()
    await other.stop()


async def test_queues_of_two_names_are_told_apart(recorder: Recorder) -> None:
    one, other = queue_of(recorder, name="one"), queue_of(recorder, name="other")
    await run_all(one, 1, 1)
    await run_all(other, 1)
    assert done(recorder) == {"one": 2, "other": 1}


async def test_a_queue_that_was_dropped_is_collected_and_vanishes(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes = queue_of(recorder, name="stays"), queue_of(recorder, name="goes")
    await run_all(stays, 1)
    await run_all(goes, 1)
    await stays.start()
    await goes.start()
    await goes.stop()
    assert "goes" in done(recorder)
    gone = weakref.ref(goes)
    del goes
    gc.collect()
    assert gone() is None
    levels = {name for name, (kind, *_) in TABLE.items() if kind is UP_DOWN}
    for name in levels:
        assert {key[0] for key in recorder.values(name)} == {"stays"}, name
    # Its last totals are exported for some time: no reader may have had them yet.
    for _ in range(3):
        assert done(recorder) == {"goes": 1, "stays": 1}
    much_later = time.monotonic() + 3600
    monkeypatch.setattr("penstock.telemetry.registry.time.monotonic", lambda: much_later)
    for name in ("penstock.process.items", "penstock.backpressure.events", "penstock.put.items"):
        assert {key[0] for key in recorder.values(name)} == {"stays"}, name
    await stays.stop()


async def test_a_queue_that_was_dropped_vanishes_though_a_worker_holds_an_item(
    recorder: Recorder,
) -> None:
    queue = queue_of(recorder)
    await queue.start_workers(work, 1)
    await queue.put(60)
    await settle()
    gone = weakref.ref(queue)
    with pytest.warns(ResourceWarning, match="1 accepted items are not done"):  # noqa: PT031
        del queue
        gc.collect()
    assert gone() is None
    assert recorder.values("penstock.worker.count") == {}


async def test_items_that_know_their_queue_do_not_keep_it_alive(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    await queue.start()
    await queue.put(queue.put_nowait)
    await queue.stop()
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
    assert recorder.values("penstock.queue.size") == {}


async def test_a_sum_never_goes_down_when_one_of_its_queues_is_dropped(
    recorder: Recorder,
) -> None:
    def sums() -> tuple[int, int, int]:
        return (
            done(recorder)["q"],
            recorder.values("penstock.put.items")["q", "accepted"],
            recorder.values("penstock.backpressure.events")["q",],
        )

    stays, goes = queue_of(recorder, maxsize=2), queue_of(recorder, maxsize=2)
    await everything_happens(goes)
    before_death = sums()
    await run_all(goes)
    await run_all(stays, 1)
    del goes
    gc.collect()
    assert sums() == (6, 6, 2)
    assert all(now >= then for now, then in zip(sums(), before_death, strict=True))
    await run_all(stays, 1)
    assert sums() == (7, 7, 2)


@pytest.mark.parametrize("read_between", [True, False])
async def test_a_sum_goes_on_with_the_next_queue_of_that_name(read_between: bool) -> None:
    """A queue for each batch, say: a sum that began again would look like no work at all."""
    deltas = {ObservableCounter: AggregationTemporality.DELTA}
    recorder = Recorder(temporality=deltas)
    total = 0
    for batch in (5, 2):
        queue = queue_of(recorder)
        await run_all(queue, *[0] * batch)
        total += batch
        if read_between:
            assert done(recorder) == {"q": batch}
        elif batch == 2:
            assert done(recorder) == {"q": total}
        del queue
        gc.collect()
    recorder.shutdown()


async def test_queues_that_come_and_go_leave_nothing_behind_but_their_sum(
    recorder: Recorder,
) -> None:
    telemetry = recorder.telemetry()
    for _ in range(100):
        queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(name="q", telemetry=telemetry)
        await run_all(queue, 0)
    assert done(recorder) == {"q": 100}
    assert len(telemetry.instruments._registry._records) == 1


async def test_garbage_collection_in_the_middle_of_a_read_disturbs_nothing(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = recorder.telemetry()
    victims: list[penstock.BoundedQueue[Any]] = []

    class Nosy:
        """A queue that happens to be read when the garbage collector runs."""

        name = "nosy"

        def totals(self) -> dict[str, int]:
            if victims:
                victims.clear()
                gc.collect()
            return {"accepted": 1}

        def statistics(self) -> penstock.QueueStatistics:
            return survivor.statistics()

        def readings(self) -> QueueReadings:
            return QueueReadings()

    nosy = [Nosy() for _ in range(3)]
    registrations = [telemetry.instruments.register(each, each.totals) for each in nosy]  # type: ignore[arg-type]
    survivor = queue_of(recorder, name="victim")
    for _ in range(20):
        victim = queue_of(recorder, name="victim")
        await run_all(victim, 0)
        victims.append(victim)
    del victim
    for _ in range(2):
        values = recorder.values("penstock.put.items")
        assert values["nosy", "accepted"] == len(registrations)
        assert values["victim", "accepted"] == 20
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert survivor.is_empty


# -- one snapshot for each collection ---------------------------------------------------------


class CountingQueue(penstock.BoundedQueue[Any]):
    """Counts how often its statistics are asked for, and says what was counted then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[penstock.QueueStatistics] = []
        #: Called when the statistics are asked for.
        self.on_asked: Callable[[], object] = bool

    def statistics(self) -> penstock.QueueStatistics:
        self.on_asked()
        statistics = super().statistics()
        self.asked.append(statistics)
        return statistics

    def looks(self) -> int:
        """How often it was asked since the last call of this."""
        count = len(self.asked)
        self.asked.clear()
        return count


#: Asks of one snapshot: what reads the same twice was so at one instant.
ONE_LOOK = 2


async def test_a_collection_asks_each_queue_for_one_snapshot(recorder: Recorder) -> None:
    telemetry = recorder.telemetry()
    queues = [CountingQueue(name=name, telemetry=telemetry) for name in ("one", "two", "two")]
    for queue in queues:
        await run_all(queue, 1)
        queue.looks()
    metrics = recorder.metrics()
    assert {name for name, (kind, *_) in TABLE.items() if kind is not HISTOGRAM} - {
        "penstock.worker.errors"
    } <= metrics.keys()
    assert [queue.looks() for queue in queues] == [ONE_LOOK] * 3
    recorder.metrics()
    assert [queue.looks() for queue in queues] == [ONE_LOOK] * 3


async def test_each_collection_has_a_snapshot_of_its_own(recorder: Recorder) -> None:
    queue = CountingQueue(name="q", telemetry=recorder.telemetry())
    await queue.start()
    for size in range(1, 4):
        queue.put_nowait(1)
        assert recorder.values("penstock.queue.size")["q", "ready"] == size
        assert queue.looks() == ONE_LOOK
    await queue.stop()


def two_readers() -> tuple[MeterProvider, list[InMemoryMetricReader], CountingQueue]:
    readers = [InMemoryMetricReader() for _ in range(2)]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    telemetry = Telemetry(meter_provider=provider)
    return provider, readers, CountingQueue(name="q", telemetry=telemetry)


def size_of(reader: InMemoryMetricReader) -> int | float:
    data: Any = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    points = next(each for each in metrics if each.name == "penstock.queue.size").data.data_points
    values: list[int | float] = [point.value for point in points]
    return sum(values)


async def test_two_readers_in_one_thread_have_a_snapshot_each() -> None:
    provider, readers, queue = two_readers()
    await queue.start()
    for expected, reader in enumerate([*readers, *reversed(readers)], 1):
        queue.put_nowait(1)
        assert size_of(reader) == expected
        assert queue.looks() == ONE_LOOK
    await queue.stop()
    provider.shutdown()


class BareMeterProvider(NoOpMeterProvider):
    """Keeps the callbacks of observable instruments, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Any] = []

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        provider = self

        class BareMeter(NoOpMeter):
            def create_observable_counter(
                self, name: str, callbacks: Any = None, *args: Any, **kwargs: Any
            ) -> Any:
                provider.callbacks.extend(callbacks)

            create_observable_up_down_counter = create_observable_counter
            create_observable_gauge = create_observable_counter

        return BareMeter("bare")


def callbacks_of(provider: BareMeterProvider) -> list[Callable[[], dict[Any, int | float]]]:
    """The callbacks of all observable instruments: what they say, by the values of attributes."""

    def call(callback: Any) -> dict[Any, int | float]:
        return {
            tuple((each.attributes or {}).values()): each.value
            for each in callback(CallbackOptions())
        }

    return [partial(call, callback) for callback in provider.callbacks]


async def test_a_queue_that_goes_on_during_a_collection_changes_nothing_in_it() -> None:
    provider = BareMeterProvider()
    queue = CountingQueue(name="q", telemetry=Telemetry(meter_provider=provider))
    await queue.start()
    size, *others = callbacks_of(provider)
    assert size()["q", "ready"] == 0
    queue.put_nowait(1)
    accepted = [read["q", "accepted"] for other in others if ("q", "accepted") in (read := other())]
    assert accepted == [0]
    assert queue.looks() == ONE_LOOK
    assert size()["q", "ready"] == 1
    await queue.stop()


@pytest.mark.real_time
async def test_two_collections_in_two_threads_have_a_snapshot_each() -> None:
    """Also where no lock of an SDK keeps them apart: here they take turns, metric by metric."""
    provider = BareMeterProvider()
    queue = CountingQueue(name="q", telemetry=Telemetry(meter_provider=provider))
    await queue.start()
    size, *others = callbacks_of(provider)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        accepted: dict[Any, list[Any]] = {one: [], two: []}
        assert one.submit(size).result()["q", "ready"] == 0
        queue.put_nowait(1)
        assert two.submit(size).result()["q", "ready"] == 1
        for other in others:
            for thread, values in accepted.items():
                read = thread.submit(other).result()
                if ("q", "accepted") in read:
                    values.append(read["q", "accepted"])
        assert list(accepted.values()) == [[0], [1]]
        assert queue.looks() == 2 * ONE_LOOK
    await queue.stop()


async def test_a_snapshot_of_a_collection_that_was_given_up_is_not_used_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader that asks for another metric long after gets what is so by then."""
    provider = BareMeterProvider()
    queue = CountingQueue(name="q", telemetry=Telemetry(meter_provider=provider))
    size, _, workers, *_ = callbacks_of(provider)
    await queue.start()
    assert size()["q", "ready"] == 0
    await queue.start_workers(work, 3)
    assert workers()["q", "idle"] == 0
    monkeypatch.setattr("penstock.telemetry.metrics._SNAPSHOT_LIFETIME", -1)
    assert workers()["q", "idle"] == 3
    await queue.stop_workers()
    assert workers()["q", "idle"] == 0
    await queue.stop()


async def test_a_queue_that_is_collected_during_a_collection_keeps_its_totals(
    recorder: Recorder,
) -> None:
    telemetry = recorder.telemetry()
    goes: list[CountingQueue] = [CountingQueue(name="goes", telemetry=telemetry)]
    await run_all(goes[0], 0, 0)
    stays = CountingQueue(name="stays", telemetry=telemetry)

    def drop() -> None:
        goes.clear()
        gc.collect()

    stays.on_asked = drop
    gone = weakref.ref(goes[0])
    assert done(recorder)["goes"] == 2
    assert gone() is None
    for _ in range(2):
        assert done(recorder)["stays"] == 0
    again = CountingQueue(name="goes", telemetry=telemetry)
    await run_all(again, 0)
    assert done(recorder)["goes"] == 3


async def test_a_queue_whose_statistics_raise_does_not_hide_the_others(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ArithmeticError

    telemetry = recorder.telemetry()
    broken = CountingQueue(name="broken", telemetry=telemetry)
    broken.on_asked = fail
    sound = CountingQueue(name="sound", maxsize=7, telemetry=telemetry)
    for _ in range(2):
        assert recorder.values("penstock.queue.capacity") == {("sound",): 7}
        assert done(recorder) == {"broken": 0, "sound": 0}
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [ArithmeticError]
    assert sound.is_empty


# -- the reader's thread ----------------------------------------------------------------------


def in_another_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


@pytest.mark.real_time
async def test_levels_are_those_of_one_instant_though_the_loop_goes_on(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, loop = queue_of(recorder), asyncio.get_running_loop()
    await queue.start_workers(work, 1)
    accepted = Buffer.accepted.fget  # type: ignore[attr-defined]
    disturbances = iter(range(9))  # as many as three looks at the statistics can suffer

    async def process_some() -> None:
        for _ in range(5):
            await queue.put(0)
        await queue.join()

    def disturbed(buffer: Buffer[Any]) -> int:
        count = int(accepted(buffer))
        if in_another_thread() and next(disturbances, None) is not None:
            asyncio.run_coroutine_threadsafe(process_some(), loop).result(60)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(Buffer, "accepted", property(disturbed))
        workers = await asyncio.to_thread(recorder.values, "penstock.worker.count")
    assert workers["q", "busy"] == 0
    assert next(disturbances, None) is None
    await queue.stop()


@pytest.mark.real_time
async def test_a_counter_never_goes_down_though_the_loop_goes_on(recorder: Recorder) -> None:
    queue, loop = queue_of(recorder, maxsize=1, timeout=math.inf), asyncio.get_running_loop()
    await queue.start()
    await queue.put(0)
    waiting = asyncio.create_task(queue.put(0))
    await settle()
    taken, counted = threading.Event(), threading.Event()

    def take_one() -> None:
        queue.get_nowait()  # the put that waits has the place now, and does not know it yet
        taken.set()
        assert counted.wait(60)

    class Granted(dict[int, Any]):
        """Read when half of the count is read."""

        def __len__(self) -> int:
            if not is_counting or not in_another_thread() or taken.is_set():
                return super().__len__()
            loop.call_soon_threadsafe(take_one)
            assert taken.wait(60)
            length = super().__len__()
            counted.set()
            return length

    queue._buffer._granted = Granted()
    registration = queue._observer._registration
    read_totals, is_counting = registration.read_totals, False

    def counting() -> Any:
        nonlocal is_counting
        is_counting = True
        return read_totals()

    registration.read_totals = counting

    def read() -> Any:
        return recorder.values("penstock.put.items")["q", "accepted"]

    assert read() == 1
    is_counting = False
    assert await asyncio.to_thread(read) == 1
    assert taken.is_set()
    await waiting
    assert read() == 2
    await queue.stop()


@pytest.mark.real_time
async def test_two_readers_see_the_same(recorder: Recorder) -> None:
    readers = [InMemoryMetricReader() for _ in range(2)]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(
        name="q", telemetry=Telemetry(meter_provider=provider)
    )
    await run_all(queue, 0, 0)
    read = [asyncio.to_thread(reader.get_metrics_data) for reader in readers]
    one, other = [processed(data) for data in await asyncio.gather(*read)]
    assert one == other == {"ok": 2, "failed": 0, "dead_letter": 0, "deadline": 0, "cancelled": 0}
    provider.shutdown()


def processed(data: Any) -> dict[str, int]:
    """The items that are done, by outcome, of all queues that a reader was told of."""
    (metric,) = [
        metric
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "penstock.process.items"
    ]
    return {
        point.attributes["penstock.process.outcome"]: point.value
        for point in metric.data.data_points
    }


async def test_every_reader_hears_the_last_counts_of_a_queue_that_is_gone() -> None:
    readers = [InMemoryMetricReader() for _ in range(2)]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    queue = penstock.BoundedQueue[Any](name="q", telemetry=Telemetry(meter_provider=provider))
    await run_all(queue, 0, 0)
    del queue
    gc.collect()
    assert [processed(reader.get_metrics_data())["ok"] for reader in readers] == [2, 2]
    provider.shutdown()


async def test_a_queue_that_is_gone_is_told_though_an_error_of_it_is_kept(
    recorder: Recorder,
) -> None:
    """As a BatchResult keeps those of its items, and a program that is about to end."""
    queue = penstock.WorkQueue[Any](name="q", telemetry=recorder.telemetry())
    errors = (await queue.batch_process([ValueError("no")], work)).errors
    gone = weakref.ref(queue.queue)
    del queue
    gc.collect()
    assert gone() is None
    assert len(errors) == 1
    assert recorder.values("penstock.process.items")["q", "failed"] == 1


def test_a_queue_collected_in_the_middle_of_a_limiters_work_does_not_wait_for_it() -> None:
    """The collector may run at any line, and so within the lock of the limiter itself."""
    outcome = run_program("""
        import asyncio, gc, penstock

        limiter = penstock.Limiter([penstock.Limit(10**9, per=1)])

        async def main():
            for count in range(1, 100):
                gc.disable()
                gc.collect()
                queue = penstock.WorkQueue(limits=limiter)
                ring = [queue]  # as an exception and its traceback make one
                ring.append(ring)
                del queue, ring
                gc.set_threshold(gc.get_count()[0] + count)
                gc.enable()
                for _ in range(20):
                    (await limiter.acquire()).settle(limiter.limits[0], 2)
                    limiter.statistics()
                gc.set_threshold(700)
            print("done")

        asyncio.run(main())
    """)
    assert outcome.stdout == "done\n", outcome.stderr
