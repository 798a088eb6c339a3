"""The real OpenTelemetry SDK for the soak, and what becomes of its spans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from penstock.telemetry import Telemetry

#: Seconds between two exports of metrics.
EVERY = 5.0


class _Exporter(OTLPSpanExporter):
    """Counts what it is given."""

    taken = sent = failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result


class _Counter(SpanProcessor):
    """Counts the spans that ended."""

    ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1  # close enough, from several threads


class _Complaints(logging.Handler):
    """Counts what the SDK logs about a collector that does not answer, and prints none of it."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Sdk:
    """The SDK as ``penstock.telemetry.setup()`` sets it up, with its own bounds, sending to one
    collector; but not as the global one, so that the soak can look into it."""

    def __init__(self, endpoint: str) -> None:
        self._complaints = _Complaints()
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self._complaints)
        logger.propagate = False
        self._counter = _Counter()
        self._exporter = _Exporter(f"{endpoint}/v1/traces")
        self._batches = BatchSpanProcessor(self._exporter)
        self._traces = TracerProvider(shutdown_on_exit=False)
        self._traces.add_span_processor(self._counter)
        self._traces.add_span_processor(self._batches)
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{endpoint}/v1/metrics"), export_interval_millis=EVERY * 1000
        )
        self._metrics = MeterProvider([reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(self._traces, self._metrics)

    @property
    def counts(self) -> dict[str, int]:
        """Spans so far: ended, sent, failed, dropped for want of room; and those that wait."""
        queue: Any = getattr(getattr(self._batches, "_batch_processor", None), "_queue", ())
        waiting, taken, ended = len(queue), self._exporter.taken, self._counter.ended
        return {
            "ended": ended,
            "sent": self._exporter.sent,
            "failed": self._exporter.failed,
            "waiting": waiting,
            "dropped": max(0, ended - taken - waiting),
            "complaints": self._complaints.count,
        }

    def close(self) -> None:
        """Give up what cannot be sent."""
        self._traces.shutdown()
        self._metrics.shutdown()
