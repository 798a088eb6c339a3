"""What the transports tell: spans under the caller's, and no secret in any of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation import httpx as instrumentation

from helpers.http_server import Answer, Server
from penstock import Limit, RetryPolicy
from penstock.limits import Backoff
from telemetry.recorder import Recorder, parent_id, span_id

pytestmark = pytest.mark.real_time

SECRET = "s3cr3t"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.shutdown()


@pytest.fixture
def instruments(library: Any) -> Any:
    """What OpenTelemetry has for the package: for a client, and for either transport."""
    names = {
        "httpx": (
            "HTTPXClientInstrumentor",
            "AsyncOpenTelemetryTransport",
            "SyncOpenTelemetryTransport",
        ),
        "httpx2": (
            "HTTPX2ClientInstrumentor",
            "AsyncOpenTelemetryTransportHttpx2",
            "SyncOpenTelemetryTransportHttpx2",
        ),
    }
    return [getattr(instrumentation, name) for name in names[library.__name__]]


def options(recorder: Recorder) -> dict[str, Any]:
    policy = RetryPolicy(2, backoff=Backoff(0.001, throttle_base=0.001))
    return {"telemetry": recorder.telemetry(), "name": "prices", "retry": policy}


def way(recorder: Recorder, span: Any) -> str:
    """The names of a span and of all above it."""
    by_id = {span_id(each): each for each in recorder.spans()}
    names = [span.name]
    while (parent := by_id.get(parent_id(span) or 0)) is not None:
        span = parent
        names.append(span.name)
    return " < ".join(names)


async def test_each_attempt_is_in_the_trace_of_its_caller(
    library: Any, ours: Any, instruments: Any, server: Server, recorder: Recorder
) -> None:
    server.answer = lambda seen: Answer(503 if seen.number == 1 else 200)
    inner = instruments[1](library.AsyncHTTPTransport(), tracer_provider=recorder.tracer_provider)
    transport = ours.PolicyTransport(transport=inner, **options(recorder))
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        with recorder.tracer.start_as_current_span("order"):
            await http.get("/")
    check(recorder, server)


def test_each_attempt_of_a_thread_is_in_the_trace_of_its_caller(
    library: Any, ours: Any, instruments: Any, server: Server, recorder: Recorder
) -> None:
    server.answer = lambda seen: Answer(503 if seen.number == 1 else 200)
    inner = instruments[2](library.HTTPTransport(), tracer_provider=recorder.tracer_provider)
    transport = ours.SyncPolicyTransport(transport=inner, **options(recorder))
    with (
        library.Client(transport=transport, base_url=server.url) as http,
        recorder.tracer.start_as_current_span("order"),
    ):
        http.get("/")
    check(recorder, server)


def check(recorder: Recorder, server: Server) -> None:
    assert [way(recorder, span) for span in recorder.spans("GET")] == [
        "GET < process prices < order"
    ] * 2
    failed, succeeded = recorder.spans("process prices")
    assert failed.status.description == "503 Service Unavailable"
    assert (failed.attributes or {})["error.type"].__str__().endswith(".HTTPStatusError")
    assert succeeded.status.is_unset
    assert "http.request.resend_count" not in (failed.attributes or {})
    assert (succeeded.attributes or {})["http.request.resend_count"] == 1
    # What the server gets is of the attempt, not of the caller.
    sent = [seen.headers["traceparent"].split("-")[2] for seen in server.seen]
    assert sent == [f"{span_id(span):016x}" for span in recorder.spans("GET")]


async def test_the_instrumentation_of_the_whole_package_works_too(
    library: Any, ours: Any, instruments: Any, server: Server, recorder: Recorder
) -> None:
    instrumentor = instruments[0]()
    instrumentor.instrument(tracer_provider=recorder.tracer_provider)
    try:
        transport = ours.PolicyTransport(**options(recorder))
        async with library.AsyncClient(transport=transport, base_url=server.url) as http:
            await http.get("/")
    finally:
        instrumentor.uninstrument()
    assert [way(recorder, span) for span in recorder.spans("GET")] == ["GET < process prices"]


async def test_no_url_header_or_body_is_told(
    library: Any, ours: Any, server: Server, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "penstock")
    server.answer = lambda seen: Answer(500, {"x-said": SECRET}, SECRET.encode())

    def cost(request: Any) -> float:
        if request.url.path == "/broken":
            raise KeyError(request.url.path)
        return float(request.headers.get("x-cost", "1"))

    headers = {"authorization": SECRET}
    transport = ours.PolicyTransport([Limit(50, per=1, cost=cost)], **options(recorder))
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        await http.put(f"/?key={SECRET}", content=SECRET, headers=headers)
        with pytest.raises(library.LocalProtocolError, match=SECRET):
            await http.get("/", headers={"x-bad": f"{SECRET}\n"})
        for path, more in (("/broken", {}), ("/", {"x-cost": "51"})):
            with pytest.raises(ValueError, match="limit"):
                await http.get(f"{path}?key={SECRET}", headers={**headers, **more})
    assert len(server.seen) == 2
    told = [span.to_json() for span in recorder.spans()]
    told += [str(recorder.metrics()), caplog.text]
    assert not [text for text in told if SECRET in text]


async def test_an_attempt_is_seen_until_its_headers_are_there(
    library: Any, ours: Any, server: Server, recorder: Recorder
) -> None:
    transport = ours.PolicyTransport(**options(recorder))
    async with (
        library.AsyncClient(transport=transport, base_url=server.url) as http,
        http.stream("GET", "/"),
    ):
        assert recorder.names() == ["process prices"]
    assert recorder.names() == ["process prices"]
