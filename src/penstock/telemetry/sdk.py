"""The SDK of OpenTelemetry: whether the program has set one up, and :func:`setup`, which does."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import opentelemetry.metrics._internal as _metrics
from opentelemetry import metrics, trace
from opentelemetry import trace as _trace

from penstock._util import checks
from penstock.telemetry.handle import TelemetryHandle

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["traces", "metrics"]

_logger = logging.getLogger("penstock")

# What the first call of setup() returned.
_handles: list[TelemetryHandle] = []

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
    console: bool = False,
    protocol: Protocol | None = None,
    headers: Mapping[str, str] | None = None,
    resource_attributes: Mapping[str, Any] | None = None,
) -> TelemetryHandle:
    """Send the traces and metrics of this program to an OTLP receiver, or show them.

    Args:
        service_name: the name of the program in Jaeger and Grafana. ``None``: the variable
            ``OTEL_SERVICE_NAME``.
        endpoint: the URL of a collector or of Jaeger, ``http://localhost:4317`` for example.
            ``None``: the variable ``OTEL_EXPORTER_OTLP_ENDPOINT``, or else OpenTelemetry's default.
        console: write a line for each span to ``stderr``, and the metrics at the end: this needs no
            server. They are also sent if ``endpoint`` or a variable says where to.
        protocol: ``"grpc"``, usually on port 4317, or ``"http/protobuf"``, usually on 4318.
            ``None``: the variable ``OTEL_EXPORTER_OTLP_PROTOCOL``, or that of the signal, or else
            the protocol of the endpoint's port, or else gRPC.
        headers: sent with every export, for example with a token.
        resource_attributes: other attributes of the program, for example
            ``{"deployment.environment.name": "test"}``; added to ``OTEL_RESOURCE_ATTRIBUTES``.

    Returns:
        A handle: ``flush()`` sends all collected data, for example before a process is frozen, and
        ``shutdown()`` ends telemetry.

    Raises:
        ImportError: without the extra: ``pip install 'penstock[otel]'``.
        ValueError, TypeError: for an argument, or a variable, that is not allowed.

    Call it in programs only: it sets the global providers, which a library should never do. If
    OpenTelemetry is set up already, it uses that, and logs a line. It may have been set up by an
    earlier call (in a notebook cell that is run twice), by ``opentelemetry-instrument``, or by
    another library. Each process has its own ``service.instance.id``.

    The standard ``OTEL_*`` variables work: ``OTEL_SDK_DISABLED``, ``OTEL_TRACES_EXPORTER`` and
    ``OTEL_METRICS_EXPORTER`` (``otlp``, ``console``, ``none``, or one that is installed), endpoints
    and protocols of a signal, sampler, batch sizes, export interval.

    Data that was not sent yet is sent when the interpreter exits. If the receiver does not answer,
    this takes at most two seconds, and one line in the log names the URL.
    """
    if service_name is not None:
        checks.label(service_name, "service_name")
    _check_endpoint(endpoint)
    if not isinstance(console, bool):
        raise TypeError(f"console must be a bool, got {checks.shown(console)}")
    if protocol is not None:
        _check_protocol(protocol, "protocol")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return TelemetryHandle()
    if _handles:
        _logger.info("OpenTelemetry is set up already: this call of setup() changes nothing")
        return _handles[0]
    missing: list[Signal] = []
    if _trace._TRACER_PROVIDER is None:
        missing.append("traces")
    if _metrics._METER_PROVIDER is None:
        missing.append("metrics")
    if len(missing) < 2:
        _logger.info(
            "OpenTelemetry is set up already%s: penstock uses it",
            f", except for {missing[0]}" if missing else "",
        )
    handle = TelemetryHandle()
    if missing:
        attributes = dict(resource_attributes or {})
        if service_name is not None:
            attributes["service.name"] = service_name
        exporters: dict[Signal, list[str]] = {
            each: _exporter_names(each, endpoint, console) for each in missing
        }
        try:
            _set_providers(handle, exporters, attributes, endpoint, protocol, headers)
        except ImportError as error:
            raise ImportError(
                "penstock.telemetry.setup() needs the OpenTelemetry SDK: "
                f"pip install 'penstock[otel]' ({error})"
            ) from None
    handle.add_providers(trace.get_tracer_provider(), metrics.get_meter_provider())
    _handles.append(handle)
    return handle


def _set_providers(
    handle: TelemetryHandle,
    exporters: Mapping[Signal, list[str]],
    attributes: dict[str, Any],
    endpoint: str | None,
    protocol: str | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Set the providers of these signals."""
    from opentelemetry.sdk.resources import Resource

    from penstock.telemetry import exporting

    def make(signal: Signal, name: str) -> Callable[[], Any]:
        if name != "otlp":
            return lambda: exporting.make_other(signal, name)
        kind = _choose_protocol(protocol, endpoint, signal)
        handle.unsent.add_url(_url_of(signal, endpoint, kind))
        return lambda: exporting.make_otlp(signal, kind, endpoint, headers)

    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    given_names = {each.partition("=")[0].strip() for each in given}
    host = socket.gethostname()
    # By the host, Jaeger tells spans of one machine from those of several, whose clocks may differ.
    # Its pages, up to 2.13 at least, know the host by what Jaeger's own clients called "ip".
    for name, value in (
        ("service.instance.id", str(uuid.uuid4())),
        ("host.name", host),
        ("ip", host),
    ):
        if name not in attributes and name not in given_names:
            attributes[name] = value
    made = {signal: [make(signal, name)() for name in names] for signal, names in exporters.items()}
    resource = Resource.create(attributes)
    if made.get("traces"):
        trace.set_tracer_provider(exporting.tracer_provider(resource, made["traces"]))
    meter_provider = None
    if made.get("metrics"):
        meter_provider = exporting.meter_provider(resource, made["metrics"])
        metrics.set_meter_provider(meter_provider)
    every = [exporter for each in made.values() for exporter in each]
    handle.own(resource, every, meter_provider)


def _exporter_names(signal: Signal, endpoint: str | None, console: bool) -> list[str]:
    """What the signal goes to: names as in ``OTEL_TRACES_EXPORTER``, and ``"lines"``."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    told = [each.strip() for each in os.environ.get(variable, "").split(",") if each.strip()]
    if "none" in told:
        return ["lines"] if console else []
    if console:
        prefix = "OTEL_EXPORTER_OTLP_"
        urls = (
            endpoint,
            *map(os.environ.get, (f"{prefix}ENDPOINT", _variable(signal, "ENDPOINT"))),
        )
        told = told or (["otlp"] if any(urls) else [])
        return ["lines", *(each for each in told if each != "console")]
    return told or ["otlp"]


def _variable(signal: str, name: str) -> str:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"


def _url_of(signal: Signal, endpoint: str | None, protocol: str) -> str:
    """Where the signal is sent to, for people."""
    default = "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
    url = (
        endpoint
        or os.environ.get(_variable(signal, "ENDPOINT"))
        or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or default
    )
    return url.rpartition("@")[2] if "@" in url else url  # never a password


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


def _choose_protocol(protocol: str | None, endpoint: str | None, signal: Signal = "traces") -> str:
    if protocol is not None:
        return _check_protocol(protocol, "protocol")
    # To OpenTelemetry an empty variable is one that is not set.
    for name in (_variable(signal, "PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL"):
        told = os.environ.get(name, "").strip()
        if told:
            return _check_protocol(told, name)
    url = endpoint or os.environ.get(_variable(signal, "ENDPOINT"))
    url = url or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    return "http/protobuf" if urlsplit(url).port == 4318 else "grpc"


def _check_protocol(protocol: str, name: str) -> str:
    if protocol not in ("grpc", "http/protobuf"):
        raise ValueError(f'{name} must be "grpc" or "http/protobuf", got {checks.shown(protocol)}')
    return protocol
