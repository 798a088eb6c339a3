"""What being seen costs: a queue with OpenTelemetry, against OpenTelemetry's own price.

``python -m benchmarks.telemetry``. What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import process_time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind

from benchmarks import harness
from benchmarks.harness import Contest, Contestant
from benchmarks.queue_clients import Flow, asyncio_queue, do_nothing, in_loop
from penstock import BoundedQueue
from penstock.telemetry import Telemetry

#: Items in a slice.
MANY, FEW = 20_000, 2_000


class Nowhere(SpanProcessor):
    """Spans are made and dropped: sending them is another thread's work, whoever made them."""


class Providers:
    """An SDK of its own for each contest, never the global one."""

    def __init__(self, sampler: Sampler) -> None:
        self.traces = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.traces.add_span_processor(Nowhere())
        self.metrics = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)


async def through_queue(telemetry: Telemetry | None, items: int) -> float:
    async with BoundedQueue[int](telemetry=telemetry) as queue:
        await queue.start_workers(do_nothing, 10)
        begin = process_time()
        for item in range(items):
            while not await queue.put(item):
                pass
        await queue.join()
        return process_time() - begin


def bare_price(providers: Providers, items: int) -> float:
    """The same spans and records by hand, and no queue at all: the floor."""
    tracer = providers.traces.get_tracer("bare")
    meter = providers.metrics.get_meter("bare")
    waits, durations = (
        meter.create_histogram("waits", "s"),
        meter.create_histogram("durations", "s"),
    )
    name = {"penstock.queue.name": "default"}
    put_start = {**name, "penstock.operation": "put"}
    put_end: dict[str, str | int] = {
        "penstock.queue.size": 1,
        "penstock.queue.capacity": 1,
        "penstock.put.outcome": "a",
    }
    process_start: dict[str, str | int] = {
        **name,
        "penstock.operation": "process",
        "penstock.attempt": 1,
    }
    process_end: dict[str, str | int | float] = {
        "penstock.queue.size": 1,
        "penstock.queue.capacity": 1,
        "penstock.wait_time": 0.1,
        "penstock.worker.id": "worker",
        "penstock.outcome": "ok",
    }
    by_cause = {**name, "penstock.wait.cause": "worker"}
    begin = process_time()
    for _ in range(items):
        put = tracer.start_span("put default", kind=SpanKind.PRODUCER, attributes=put_start)
        if put.is_recording():
            put.set_attributes(put_end)
        put.end()
        attempt = tracer.start_span(
            "process default",
            trace.set_span_in_context(put),
            SpanKind.CONSUMER,
            process_start,
            (Link(put.get_span_context()),),
        )
        context = trace.set_span_in_context(attempt)
        waits.record(0.1, by_cause, context)
        durations.record(0.1, name, context)
        if attempt.is_recording():
            attempt.set_attributes(process_end)
        attempt.end()
    return process_time() - begin


def contest(title: str, sampler: Sampler, goal: float) -> Contest:
    providers = Providers(sampler)
    telemetry = Telemetry(providers.traces, providers.metrics)
    floor = "two spans and two records by hand"
    return Contest(
        title,
        floor,
        [
            Contestant(floor, partial(bare_price, providers), FEW),
            _queue("penstock", telemetry),
            _queue("penstock, spans='process'", _with(providers, spans="process")),
            _queue("penstock, spans='parent'", _with(providers, spans="parent")),
            _queue("penstock, spans='none'", _with(providers, spans="none")),
        ],
        {"penstock": goal},
    )


class Healthy(SpanExporter):
    """Takes spans as soon as they come."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Blocked(SpanExporter):
    """Takes spans and does not come back until the contest is over."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.is_over.wait()
        return SpanExportResult.FAILURE


class Raising(SpanExporter):
    """Raises."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError


class Unwell:
    """Queues whose spans go to exporters that do not do their work."""

    title = "What an exporter that is unwell costs, everything recorded"

    def __init__(self) -> None:
        nobody = "http://127.0.0.1:9/v1/traces"  # nobody listens at a port that only root may have
        self._blocked = Blocked()
        exporters: dict[str, SpanExporter] = {
            "a healthy exporter": Healthy(),
            "one that blocks": self._blocked,
            "one that raises": Raising(),
            "one that reaches nobody": OTLPSpanExporter(nobody, timeout=1),
        }
        self._providers: list[Providers] = []
        contestants = []
        for name, exporter in exporters.items():
            providers = Providers(ALWAYS_ON)
            providers.traces.add_span_processor(BatchSpanProcessor(exporter))
            self._providers.append(providers)
            contestants.append(_queue(name, Telemetry(providers.traces, providers.metrics)))
        self.contest = Contest(self.title, contestants[0].name, contestants)

    def __enter__(self) -> Contest:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it says so each time
        return self.contest

    def __exit__(self, *_: object) -> None:
        self._blocked.is_over.set()
        for providers in self._providers:
            providers.traces.shutdown()


def _with(providers: Providers, spans: str) -> Telemetry:
    return Telemetry(providers.traces, providers.metrics, spans=spans)  # type: ignore[arg-type]


def _queue(name: str, telemetry: Telemetry | None, items: int = FEW) -> Contestant:
    return Contestant(
        name, partial(in_loop, asyncio.new_event_loop, partial(through_queue, telemetry)), items
    )


def no_sdk() -> Contest:
    base = "asyncio.Queue, plain workers"
    bare: Callable[[int], float] = partial(
        in_loop, asyncio.new_event_loop, partial(asyncio_queue, Flow(do_nothing))
    )
    return Contest(
        "No SDK",
        base,
        [Contestant(base, bare, MANY), _queue("penstock", None, MANY)],
        {"penstock": 1.0},
    )


def main() -> None:
    options = harness.options(__doc__ or "", rounds=21)
    contests = [
        no_sdk(),
        contest("SDK, 1 % sampled", ParentBased(TraceIdRatioBased(0.01)), 1.2),
        contest("SDK, everything recorded", ALWAYS_ON, 1.2),
    ]
    with Unwell() as exporters:
        contests.append(exporters)
        harness.hold(contests, options)
    about = harness.surroundings(("penstock", "opentelemetry-api", "opentelemetry-sdk"))
    goals = [goal for contest in contests for goal in contest.reached()]
    report = harness.report(f"{about}; {options.rounds} rounds", goals, contests)
    harness.publish("telemetry", report, write=options.write)


if __name__ == "__main__":
    main()
