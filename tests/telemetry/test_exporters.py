"""The real SDK with an exporter that blocks, raises or reaches nobody: the queue does not notice.

What is kept for it is what the SDK keeps: ``max_queue_size`` spans, and the batch in its hands.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import penstock.sync
from penstock import BoundedQueue
from penstock.telemetry import Telemetry

pytestmark = pytest.mark.real_time

#: Seconds that anything may take.
LIMIT = 60.0
ITEMS = 300
#: What the SDK may keep: spans that wait, and those that it exports at once.
WAITING, BATCH = 64, 16


class Door:
    """Stands in the way of whoever exports, until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(LIMIT)


class BlockedSpans(SpanExporter):
    def __init__(self, door: Door) -> None:
        self.door = door
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.door.pass_through()
        self.count += len(spans)
        return SpanExportResult.SUCCESS


class BlockedMetrics(MetricExporter):
    def __init__(self, door: Door) -> None:
        super().__init__()
        self.door = door

    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
        self.door.pass_through()
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        pass

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True


class RaisingSpans(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError("the disk is gone")


class RaisingMetrics(BlockedMetrics):
    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
        raise OSError("the disk is gone")


class RaisingProcessor(SpanProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise OSError("at the start")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("at the end")


class Rig:
    """An SDK with its exporters, and the telemetry that goes there."""

    def __init__(self, spans: SpanExporter, metrics: MetricExporter, door: Door) -> None:
        self.spans, self.door = spans, door
        self.traces = TracerProvider(shutdown_on_exit=False)
        self.traces.add_span_processor(
            BatchSpanProcessor(
                spans, max_queue_size=WAITING, max_export_batch_size=BATCH, schedule_delay_millis=5
            )
        )
        reader = PeriodicExportingMetricReader(metrics, export_interval_millis=5)
        self.metrics = MeterProvider([reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(self.traces, self.metrics)

    def close(self) -> None:
        self.door.opened.set()
        self.traces.shutdown()
        with suppress(OSError):  # of the exporter that raises
            self.metrics.shutdown()


def blocked(door: Door) -> Rig:
    return Rig(BlockedSpans(door), BlockedMetrics(door), door)


def raising(door: Door) -> Rig:
    return Rig(RaisingSpans(), RaisingMetrics(door), door)


def unreachable(door: Door) -> Rig:
    base = "http://127.0.0.1:9/v1"  # nobody listens at a port that only root may have
    return Rig(
        OTLPSpanExporter(f"{base}/traces", timeout=1),
        OTLPMetricExporter(f"{base}/metrics", timeout=1),
        door,
    )


@pytest.fixture(params=[blocked, raising, unreachable])
def rig(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Rig]:
    caplog.set_level("CRITICAL", "opentelemetry")  # the SDK says a lot about it
    make: Callable[[Door], Rig] = request.param
    rig = make(Door())
    try:
        yield rig
    finally:
        rig.close()


async def test_all_items_are_processed_and_the_stop_is_not_held_up(rig: Rig) -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        done.append(item)
        if item % 3 == 0:
            raise ValueError(item)

    async def use() -> bool:
        queue: BoundedQueue[int] = BoundedQueue(10, telemetry=rig.telemetry)
        await queue.start_workers(work, 4, lambda error, item: None)
        for item in range(ITEMS):
            assert await queue.put(item, LIMIT)
        await queue.join()
        return await queue.stop()

    assert await asyncio.wait_for(use(), LIMIT)
    assert sorted(done) == list(range(ITEMS))


def test_the_same_from_threads(rig: Rig) -> None:
    with penstock.sync.WorkQueue[int](10, 1.0, telemetry=rig.telemetry) as queue:
        assert list(queue.map(lambda item: 2 * item, range(ITEMS), num_workers=4)) == [
            2 * item for item in range(ITEMS)
        ]
        assert queue.stop(LIMIT)


async def test_no_more_is_kept_for_a_blocked_exporter_than_the_sdk_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", "opentelemetry")
    door = Door()
    rig = blocked(door)
    try:
        async with BoundedQueue[int](10, telemetry=rig.telemetry) as queue:
            await queue.start_workers(_nothing, 4)
            assert await queue.put(0, LIMIT)
            assert await asyncio.to_thread(door.reached.wait, LIMIT)  # it is in the exporter now
            for item in range(ITEMS):
                assert await queue.put(item, LIMIT)
            await queue.join()
    finally:
        rig.close()
    assert isinstance(rig.spans, BlockedSpans)
    assert BATCH <= rig.spans.count <= WAITING + 2 * BATCH  # of 602


async def test_a_processor_that_raises_at_the_start_and_at_the_end_costs_spans_and_no_items(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(RaisingProcessor())
    meters = MeterProvider(shutdown_on_exit=False)
    done: list[int] = []

    async def work(item: int) -> None:
        done.append(item)

    async with BoundedQueue[int](10, telemetry=Telemetry(provider, meters)) as queue:
        await queue.start_workers(work, 2)
        for item in range(ITEMS):
            assert await queue.put(item, LIMIT)
    assert sorted(done) == list(range(ITEMS))
    ours = [record for record in caplog.records if record.name == "penstock"]
    assert [record.levelname for record in ours if "Telemetry failed" in record.message] == [
        "ERROR"
    ]


async def test_a_callback_that_blocks_the_reader_does_not_block_the_loop() -> None:
    door, reader = Door(), InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)

    def observe(options: CallbackOptions) -> list[Observation]:
        door.pass_through()
        return []

    meters.get_meter("somebody").create_observable_gauge("stuck", [observe])
    telemetry = Telemetry(None, meters)
    reading = asyncio.ensure_future(asyncio.to_thread(reader.get_metrics_data))
    try:
        assert await asyncio.to_thread(door.reached.wait, LIMIT)
        async with BoundedQueue[int](10, telemetry=telemetry) as queue:
            await queue.start_workers(_nothing, 2)
            for item in range(ITEMS):
                assert await queue.put(item, LIMIT)
            await queue.join()
            assert queue.statistics().processed == ITEMS
        assert not reading.done()
    finally:
        door.opened.set()
        await asyncio.wait_for(reading, LIMIT)


async def test_a_loop_that_is_stuck_does_not_block_the_reader() -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    read = threading.Event()

    def collect() -> None:
        reader.get_metrics_data()
        read.set()

    async def stuck(item: int) -> None:
        thread = threading.Thread(target=collect)
        thread.start()
        assert read.wait(LIMIT)  # with the loop in its hands
        thread.join(LIMIT)

    async with BoundedQueue[int](10, telemetry=Telemetry(None, meters)) as queue:
        await queue.start_workers(stuck, 1)
        await queue.put(1)
    assert read.is_set()


async def test_half_a_character_in_a_message_does_not_cost_the_other_spans() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))

    async def fail(item: int) -> None:
        try:
            raise OSError("the cause: \ud800")
        except OSError as error:
            raise ValueError("half of it: \udfff") from error

    async with BoundedQueue[int](10, telemetry=Telemetry(provider)) as queue:
        await queue.start_workers(fail, 1, lambda error, item: None)
        await queue.put(1)
    sent = encode_spans(kept.get_finished_spans()).SerializeToString()
    assert rb"half of it: \udfff" in sent
    assert rb"the cause: \ud800" in sent


async def _nothing(item: int) -> None:
    pass
