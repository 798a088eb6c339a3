"""The traces of a run: a span for each attempt, under the one of its request's place in the queue.

Attributes follow OpenTelemetry's conventions for HTTP clients, but for the query of the URL, which
may hold a secret and is left out, as headers and bodies are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from penstock._version import __version__
from penstock.cli.run.client import Response
from penstock.cli.run.requests import Request
from penstock.telemetry import names

_tracer = trace.get_tracer("penstock.cli", __version__, schema_url=names.SCHEMA_URL)


class AttemptSpan:
    """One attempt: what to send along with it, and how it went."""

    def __init__(self, span: trace.Span, headers: dict[str, str]) -> None:
        self._span = span
        #: The request's headers, and those that let the server go on with the trace.
        self.headers = headers

    def end(self, response: Response | None, kind: str) -> None:
        """``kind`` is empty for a success, else a word for the failure."""
        if response is not None:
            self._span.set_attribute("http.response.status_code", response.status)
        mark_failed(self._span, kind)


@contextmanager
def attempt_span(request: Request, attempt: int) -> Iterator[AttemptSpan]:
    """A span around one attempt, the first of which is number 1."""
    parts = urlsplit(request.url)
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "server.address": parts.hostname or "",
        "url.path": parts.path,
        "url.scheme": parts.scheme,
    }
    if parts.port is not None:
        attributes["server.port"] = parts.port
    if attempt > 1:
        attributes["http.request.resend_count"] = attempt - 1
    with _tracer.start_as_current_span(request.method, None, SpanKind.CLIENT, attributes) as span:
        headers = dict(request.headers)
        propagate.inject(headers)
        yield AttemptSpan(span, headers)


def mark_failed(span: trace.Span, kind: str) -> None:
    """Mark ``span`` as failed, unless ``kind`` is empty."""
    if kind:
        span.set_attribute(names.ERROR_TYPE, kind)
        span.set_status(Status(StatusCode.ERROR, kind))


def mark_request_failed(kind: str) -> None:
    """Mark the span of the request that is being processed, unless ``kind`` is empty."""
    mark_failed(trace.get_current_span(), kind)
