"""Spans and metrics of the blocking face: the same as of the asynchronous one."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from penstock.sync import WorkQueue
from penstock.telemetry import Telemetry
from sync.helpers import BOUND, Held, eventually, in_thread


class Recorded:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = tracers.get_tracer("test")
        self.telemetry = Telemetry(tracers, MeterProvider([self.reader], shutdown_on_exit=False))

    def span(self, name: str) -> ReadableSpan:
        eventually(lambda: [s for s in self.exporter.get_finished_spans() if s.name == name])
        (found,) = (s for s in self.exporter.get_finished_spans() if s.name == name)
        return found

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: [
                (dict(p.attributes or {}), getattr(p, "value", None) or getattr(p, "count", 0))
                for p in metric.data.data_points
            ]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


async def async_work(item: str) -> str:
    await asyncio.sleep(0)
    if item == "bad":
        raise KeyError("why")
    return item


def plain_work(item: str) -> str:
    if item == "bad":
        raise KeyError("why")
    return item


@pytest.mark.parametrize("work", [async_work, plain_work])
def test_the_put_belongs_to_the_callers_trace_and_the_attempt_follows_it(
    recorded: Recorded, work: Any
) -> None:
    def request(queue: WorkQueue[str], item: str) -> int:
        with recorded.tracer.start_as_current_span(f"request {item}") as span:
            assert queue.put(item)
            return span.get_span_context().trace_id

    with WorkQueue[str](name="calls", telemetry=recorded.telemetry) as queue:
        with recorded.tracer.start_as_current_span("who starts it"):
            queue.process(work, 1, lambda exc, item: None)
        trace_id = in_thread(request, queue, "good").result(BOUND)
        assert queue.join(BOUND)
        put, process = recorded.span("put calls"), recorded.span("process calls")
        assert put.context.trace_id == process.context.trace_id == trace_id
        assert put.kind is SpanKind.PRODUCER
        assert process.kind is SpanKind.CONSUMER
        assert process.parent is not None
        assert process.parent.span_id == put.context.span_id
        assert process.attributes is not None
        assert str(process.attributes["penstock.worker.id"]).startswith("penstock-calls-worker-")
        recorded.exporter.clear()
        in_thread(request, queue, "bad").result(BOUND)
        failed = recorded.span("process calls")
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes is not None
        assert failed.attributes["error.type"] == "KeyError"


def test_a_put_that_waits_and_one_that_is_refused(recorded: Recorded) -> None:
    with WorkQueue[str](1, name="calls", telemetry=recorded.telemetry) as queue:
        queue.put("a")
        recorded.exporter.clear()
        assert queue.put("b", timeout=0.02) is False
        wait = recorded.span("backpressure calls")
        assert wait.attributes is not None
        assert wait.attributes["penstock.put.outcome"] == "full"
        assert wait.end_time is not None
        assert wait.start_time is not None
        assert wait.end_time - wait.start_time >= 0.015 * 1e9
        recorded.exporter.clear()
        put = in_thread(queue.put, "c", timeout=math.inf)
        eventually(lambda: queue.statistics().waiting_putters)
        assert queue.get() == "a"
        queue.task_done()
        assert put.result(BOUND) is True
        wait = recorded.span("backpressure calls")
        assert wait.attributes is not None
        assert wait.attributes["penstock.put.outcome"] == "accepted"


@pytest.mark.parametrize("work", [async_work, plain_work])
def test_metrics_carry_the_same_names(recorded: Recorded, work: Any) -> None:
    held = Held()
    with WorkQueue[Any](2, name="calls", telemetry=recorded.telemetry) as queue:
        queue.process(held, 1, lambda exc, item: None)
        queue.put("held")
        eventually(lambda: held.began)
        queue.put("waits")
        queue.put("waits")
        queue.put("refused", timeout=0)
        now = recorded.metrics()
        name = {"penstock.queue.name": "calls"}
        assert ({**name, "penstock.item.state": "ready"}, 2) in now["penstock.queue.size"]
        assert now["penstock.queue.capacity"] == [(name, 2)]
        assert ({**name, "penstock.worker.state": "busy"}, 1) in now["penstock.worker.count"]
        assert ({**name, "penstock.worker.state": "idle"}, 0) in now["penstock.worker.count"]
        assert now["penstock.backpressure.events"] == [(name, 1)]
        assert ({**name, "penstock.put.outcome": "accepted"}, 3) in now["penstock.put.items"]
        held.may_go_on.set()
        queue.join(BOUND)
        queue.process(work, 1, lambda exc, item: None)
        queue.put("bad")
        queue.join(BOUND)
        now = recorded.metrics()
        assert ({**name, "penstock.process.outcome": "ok"}, 3) in now["penstock.process.items"]
        assert ({**name, "penstock.process.outcome": "failed"}, 1) in now["penstock.process.items"]
        assert now["penstock.worker.errors"] == [({**name, "error.type": "KeyError"}, 1)]
        assert sum(count for _, count in now["penstock.process.duration"]) == 4
        assert sum(count for _, count in now["penstock.item.wait_time"]) == 4


def test_a_trace_goes_on_in_what_the_worker_puts(recorded: Recorded) -> None:
    with WorkQueue[str](name="second", telemetry=recorded.telemetry) as second:
        second.process(plain_work)
        with WorkQueue[str](name="first", telemetry=recorded.telemetry) as first:
            first.process(second.put)
            with recorded.tracer.start_as_current_span("request") as span:
                first.put("a")
                first.join(BOUND)
            second.join(BOUND)
        last = recorded.span("process second")
        assert last.context.trace_id == span.get_span_context().trace_id
        assert not trace.get_current_span().get_span_context().is_valid
