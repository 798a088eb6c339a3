"""An SDK that keeps everything in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock.telemetry import Telemetry

# To find out about the process that runs the tests takes longer than most of them.
NONE = Resource.get_empty()


class Recorder:
    """Has a tracer provider and a meter provider, and shows what came out of them."""

    def __init__(self, *, temporality: Any = None, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(resource=NONE, shutdown_on_exit=False, **options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader(temporality)
        self.meter_provider = MeterProvider([self._reader], NONE, shutdown_on_exit=False)
        #: For the spans of the program around the queue.
        self.tracer = self.tracer_provider.get_tracer("program")

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(self.tracer_provider, self.meter_provider, **options)

    # -- spans --------------------------------------------------------------------------------

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended, in the order in which they started."""
        spans = [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        """The one span of that name."""
        (span,) = self.spans(name)
        return span

    def names(self) -> list[str]:
        """The names of all spans, sorted."""
        return sorted(span.name for span in self.spans())

    # -- metrics ------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Metric]:
        """All metrics as they are now, by name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, metric: str) -> dict[tuple[Any, ...], Any]:
        """The data points of a metric, by the values of their attributes."""
        found = self.metrics().get(metric)
        points: list[Any] = [] if found is None else list(found.data.data_points)
        return {tuple((point.attributes or {}).values()): point for point in points}

    def values(self, metric: str) -> dict[tuple[Any, ...], Any]:
        """The values of a counter, or the (count, sum) of a histogram, likewise."""
        return {
            key: (point.count, point.sum) if hasattr(point, "sum") else point.value
            for key, point in self.points(metric).items()
        }


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id
