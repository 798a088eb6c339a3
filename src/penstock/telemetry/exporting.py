"""What :func:`penstock.telemetry.setup` makes of the SDK: providers, exporters, lines for people.

Imported by ``setup`` alone: the SDK is of an extra.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)

from penstock._util import checks
from penstock.telemetry import names


def tracer_provider(resource: Resource, exporters: Sequence[Any]) -> TracerProvider:
    """A tracer provider; its spans go to ``exporters``. Whoever makes it shuts it down."""
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        is_console = isinstance(exporter, ConsoleSpanExporter)
        make = SimpleSpanProcessor if is_console else BatchSpanProcessor
        provider.add_span_processor(make(exporter))
    return provider


def meter_provider(resource: Resource, exporters: Sequence[Any]) -> MeterProvider:
    """A meter provider; its metrics go to ``exporters``. Whoever makes it shuts it down."""
    readers = [
        each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each)
        for each in exporters
    ]
    return MeterProvider(readers, resource=resource, shutdown_on_exit=False)


def make_otlp(
    signal: str, protocol: str, endpoint: str | None, headers: Mapping[str, str] | None
) -> Any:
    """The exporter that sends a signal."""
    # gRPC allows names of headers in lower case only; to HTTP the case does not matter.
    extra = None if headers is None else {name.lower(): value for name, value in headers.items()}
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        if signal == "traces":
            return OTLPSpanExporter(endpoint=endpoint, headers=extra)
        return OTLPMetricExporter(endpoint=endpoint, headers=extra)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter, trace_exporter

    # The HTTP exporters add no path to an endpoint that is passed in.
    url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"
    if signal == "traces":
        return trace_exporter.OTLPSpanExporter(endpoint=url, headers=extra)
    return metric_exporter.OTLPMetricExporter(endpoint=url, headers=extra)


def make_other(signal: str, name: str) -> Any:
    """An exporter by its name in ``OTEL_TRACES_EXPORTER``; ``"lines"`` writes lines for people.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "lines":
        if signal == "traces":
            return ConsoleSpanExporter(out=sys.stderr, formatter=span_line)
        return ConsoleMetricExporter(out=sys.stderr, formatter=metric_lines)
    found = entry_points(group=f"opentelemetry_{signal}_exporter", name=name)
    for each in found:
        return each.load()()
    raise ValueError(
        f"OTEL_{signal.upper()}_EXPORTER must be otlp, console, none, or the name of an exporter "
        f"that is installed, got {checks.shown(name)}"
    )


# -- lines for people -----------------------------------------------------------------------------


def span_line(span: ReadableSpan) -> str:
    """One line about a span: when it started, what it is, how long it took, what became of it."""
    about = dict(span.attributes or {})
    started = datetime.fromtimestamp((span.start_time or 0) / 1e9)
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    parts = [f"{started:%H:%M:%S.%f}"[:-3], f"{span.name:<24}", f"{took:9.3f} s"]
    outcome = about.get(names.OUTCOME, about.get(names.PUT_OUTCOME))
    if outcome is not None:
        parts.append(str(outcome))
    elif not span.status.is_ok:
        parts.append("error")
    if about.get(names.ATTEMPT, 1) != 1:
        parts.append(f"attempt {about[names.ATTEMPT]}")
    parts += [_event_text(event) for event in span.events]
    if span.context is not None:
        parts.append(f"trace {span.context.trace_id:032x}")
    return "  ".join(parts) + "\n"


def _event_text(event: Any) -> str:
    about = dict(event.attributes or {})
    if event.name == "exception":
        return f"{about.get('exception.type')}: {about.get('exception.message')}"
    seconds = about.get(names.WAIT_TIME)
    return str(event.name) if seconds is None else f"{event.name} {seconds:.3f} s"


def metric_lines(data: MetricsData) -> str:
    """A line for each value that is not zero."""
    return "".join(f"{line}\n" for line in _lines_of(data))


def _lines_of(data: MetricsData) -> Iterator[str]:
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    about = dict(point.attributes or {})
                    labels = ", ".join(f"{key.rpartition('.')[2]}={about[key]}" for key in about)
                    value = getattr(point, "value", None)
                    if value is None:
                        count, total = getattr(point, "count", 0), getattr(point, "sum", 0.0)
                        text = f"{count} times, {total / max(1, count):.4g} s on average"
                    else:
                        text = f"{value:.6g}"
                    if value != 0:
                        yield f"{metric.name}  {labels}  {text}"
