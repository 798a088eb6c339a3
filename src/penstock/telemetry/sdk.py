"""The SDK of OpenTelemetry: whether the program has set one up, and :func:`setup`, which does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import opentelemetry.metrics._internal as _metrics
from opentelemetry import trace as _trace

from penstock._util import checks

if TYPE_CHECKING:  # of the extra
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

Protocol = Literal["grpc", "http/protobuf"]

_is_done = False

# The API has no cheap way to ask whether an SDK was set up: a span of its no-op tracer costs as
# much as a whole put, and ``get_tracer_provider()`` reads the environment each time. So these are
# the two variables in which the API keeps the global providers. If a later API keeps them
# elsewhere, the answer is yes, which is slower but never wrong.
if hasattr(_trace, "_TRACER_PROVIDER") and hasattr(_metrics, "_METER_PROVIDER"):

    def has_global_provider() -> bool:
        """Whether a global tracer provider or meter provider has been set."""
        return _trace._TRACER_PROVIDER is not None or _metrics._METER_PROVIDER is not None

else:

    def has_global_provider() -> bool:
        """Whether a global provider may have been set: this API does not say."""
        return True


def setup(
    service_name: str | None = None,
    endpoint: str | None = None,
    *,
    protocol: Protocol | None = None,
    headers: Mapping[str, str] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> None:
    """Send the traces and metrics of this program to an OTLP receiver.

    Args:
        service_name: the name of the program in Jaeger and Grafana. ``None``: the variable
            ``OTEL_SERVICE_NAME``.
        endpoint: the URL of a collector or of Jaeger, ``http://localhost:4317`` for example.
            ``None``: the variable ``OTEL_EXPORTER_OTLP_ENDPOINT``, or else OpenTelemetry's default.
        protocol: ``"grpc"``, usually on port 4317, or ``"http/protobuf"``, usually on 4318.
            ``None``: the variable ``OTEL_EXPORTER_OTLP_PROTOCOL``, or else what the endpoint's port
            says, or else gRPC.
        headers: sent with every export, for example with a token.
        resource_attributes: other attributes of the program, for example
            ``{"deployment.environment.name": "test"}``; added to ``OTEL_RESOURCE_ATTRIBUTES``.

    Raises:
        RuntimeError: it was called before, or something else has set global providers: then
            telemetry goes there already.
        ImportError: without the extra: ``pip install 'penstock[otel]'``.
        ValueError, TypeError: for an argument that is not allowed.

    Opt-in, and for programs: it sets the global providers, which a library should never do. Other
    standard ``OTEL_*`` variables (sampler, batch sizes, export interval) are respected. Spans and
    metrics that have not been sent yet are sent when the interpreter exits.
    """
    global _is_done  # noqa: PLW0603 - the global providers can be set only once
    if service_name is not None:
        checks.label(service_name, "service_name")
    _check_endpoint(endpoint)
    chosen = _choose_protocol(protocol, endpoint)
    if _is_done or has_global_provider():
        raise RuntimeError(
            "OpenTelemetry is set up already; call penstock.telemetry.setup() once, or not at all "
            "in a program that sets its own providers"
        )
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        span_exporter, metric_exporter = _exporters(chosen, endpoint, headers)
    except ImportError as error:
        raise ImportError(
            "penstock.telemetry.setup() needs the OpenTelemetry SDK: "
            f"pip install 'penstock[otel]' ({error})"
        ) from None
    attributes = dict(resource_attributes or {})
    if service_name is not None:
        attributes[SERVICE_NAME] = service_name
    resource = Resource.create(attributes)
    tracer_provider = TracerProvider(resource=resource)
    tracer_provider.add_span_processor(BatchSpanProcessor(span_exporter))
    meter_provider = MeterProvider(
        [PeriodicExportingMetricReader(metric_exporter)], resource=resource
    )
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(meter_provider)
    _is_done = True


def _check_endpoint(endpoint: str | None) -> None:
    if endpoint is None:
        return
    if not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be a str or None, got {checks.shown(endpoint)}")
    if not _is_url(endpoint):
        raise ValueError(
            "endpoint must be a URL like http://localhost:4317, "
            f"got {checks.shown(endpoint.rpartition('@')[2])}"
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # for example a port that is not a number
        return False


def _choose_protocol(protocol: str | None, endpoint: str | None) -> str:
    name, chosen = "protocol", protocol
    if chosen is None:  # to OpenTelemetry an empty variable is one that is not set
        name = "OTEL_EXPORTER_OTLP_PROTOCOL"
        chosen = os.environ.get(name) or None
    if chosen is None:
        url = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
        return "http/protobuf" if urlsplit(url).port == 4318 else "grpc"
    if chosen not in ("grpc", "http/protobuf"):
        raise ValueError(f'{name} must be "grpc" or "http/protobuf", got {checks.shown(chosen)}')
    return chosen


def _exporters(
    protocol: str, endpoint: str | None, headers: Mapping[str, str] | None
) -> tuple[SpanExporter, MetricExporter]:
    # gRPC allows names of headers in lower case only; to HTTP the case does not matter.
    extra = None if headers is None else {name.lower(): value for name, value in headers.items()}
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return (
            OTLPSpanExporter(endpoint=endpoint, headers=extra),
            OTLPMetricExporter(endpoint=endpoint, headers=extra),
        )
    from opentelemetry.exporter.otlp.proto.http import metric_exporter, trace_exporter

    # The HTTP exporters add no path to an endpoint that is passed in.
    base = None if endpoint is None else endpoint.rstrip("/")
    return (
        trace_exporter.OTLPSpanExporter(endpoint=base and f"{base}/v1/traces", headers=extra),
        metric_exporter.OTLPMetricExporter(endpoint=base and f"{base}/v1/metrics", headers=extra),
    )
