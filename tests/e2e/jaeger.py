"""Jaeger's query API, and what it answers as objects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from e2e.servers import get

#: The numbers of OTLP.
KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
ERROR = 2

#: A trace id and a span id.
Key = tuple[str, str]


class Span(NamedTuple):
    """A span as Jaeger gives it back, with its own attributes and those of its resource."""

    key: Key
    parent: Key | None
    links: list[Key]
    name: str
    kind: str
    service: str
    scope: str
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    status: int
    message: str
    #: Seconds.
    start: float
    end: float

    @property
    def trace_id(self) -> str:
        return self.key[0]

    @property
    def failed(self) -> bool:
        return self.status == ERROR


class Traces:
    """The traces of a service."""

    def __init__(self, resource_spans: list[dict[str, Any]]) -> None:
        self.spans = list(_spans(resource_spans))
        self.by_key = {span.key: span for span in self.spans}
        self.by_trace: dict[str, list[Span]] = {}
        for span in self.spans:
            self.by_trace.setdefault(span.trace_id, []).append(span)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def parent(self, span: Span) -> Span:
        assert span.parent
        return self.by_key[span.parent]


class Jaeger:
    """A running Jaeger."""

    def __init__(self, url: str) -> None:
        self.url = url

    def services(self) -> list[str]:
        found: list[str] = get(f"{self.url}/api/v3/services").json()["services"]
        return found

    def traces(self, service: str) -> Traces:
        now = datetime.now(timezone.utc)
        parameters = {
            "query.service_name": service,
            "query.start_time_min": (now - timedelta(hours=1)).isoformat(),
            "query.start_time_max": now.isoformat(),
            "query.num_traces": 10_000,
        }
        answer = get(f"{self.url}/api/v3/traces", **parameters)
        # It says 404 as long as there is none.
        return Traces(answer.json()["result"]["resourceSpans"] if answer.is_success else [])

    def has(self, trace_id: str) -> bool:
        return get(f"{self.url}/api/v3/traces/{trace_id}").is_success

    def metrics(self, what: str, service: str, kind: str, **more: Any) -> list[float]:
        """What the page "Monitor" draws: ``calls``, ``errors`` or ``latencies``, of all times."""
        parameters = {
            "service": service,
            "spanKind": kind,
            "endTs": int(time.time() * 1000),
            "lookback": 600_000,
            "step": 15_000,
            "ratePer": 60_000,
        }
        answer = get(f"{self.url}/api/metrics/{what}", **parameters, **more).json()
        assert "metrics" in answer, answer
        return [
            float(point["gaugeValue"]["doubleValue"])
            for series in answer["metrics"]
            for point in series["metricPoints"]
        ]

    def as_drawn(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace in the form that Jaeger's own pages get."""
        (trace,) = get(f"{self.url}/api/traces/{trace_id}").json()["data"]
        spans: list[dict[str, Any]] = trace["spans"]
        return spans

    def all_as_drawn(self, service: str) -> list[dict[str, Any]]:
        """The traces of a service in that form."""
        parameters = {"service": service, "lookback": "1h", "limit": 10_000}
        traces: list[dict[str, Any]] = get(f"{self.url}/api/traces", **parameters).json()["data"]
        return traces


def _spans(resource_spans: list[dict[str, Any]]) -> Iterator[Span]:
    for resource in resource_spans:
        service = _values(resource["resource"]["attributes"])["service.name"]
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                trace_id, parent = span["traceId"], span.get("parentSpanId")
                yield Span(
                    key=(trace_id, span["spanId"]),
                    parent=(trace_id, parent) if parent else None,
                    links=[(link["traceId"], link["spanId"]) for link in span.get("links", ())],
                    name=span["name"],
                    kind=KINDS[span["kind"]],
                    service=service,
                    scope=scope["scope"]["name"],
                    attributes=_values(span.get("attributes", ())),
                    events=[
                        {"name": event["name"], **_values(event.get("attributes", ()))}
                        for event in span.get("events", ())
                    ],
                    status=span["status"].get("code", 0),
                    message=span["status"].get("message", ""),
                    start=int(span["startTimeUnixNano"]) / 1e9,
                    end=int(span["endTimeUnixNano"]) / 1e9,
                )


def _values(attributes: Any) -> dict[str, Any]:
    read = {"intValue": int}  # which JSON has as text
    return {
        attribute["key"]: read.get(kind, _as_it_is)(value)
        for attribute in attributes
        for kind, value in attribute["value"].items()
    }


def _as_it_is(value: Any) -> Any:
    return value
