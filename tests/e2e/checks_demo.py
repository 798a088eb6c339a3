"""``make demo OTLP=…``, as Jaeger and Prometheus show it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from e2e.conftest import Servers, run, wait_until_through
from e2e.jaeger import Span, Traces
from observability import shipped

SERVICE = "penstock-demo"
REQUESTS = 500


@pytest.fixture(scope="module")
def answered(servers: Servers) -> Counter[int]:
    """Runs the demo: how often the server gave each status, as the demo prints it."""
    said = run(
        shipped.ROOT / "examples" / "demo.py",
        *("--otlp", servers.otlp, "--service-name", SERVICE),
        # What OpenTelemetry has by default, and longer than the demo takes: all comes at its end.
        OTEL_METRIC_EXPORT_INTERVAL="60000",
    )
    last = said.splitlines()[-1]
    found = re.findall(r"(\d+) times (\d+)", last)
    assert found, last
    return Counter({int(status): int(count) for count, status in found})


@pytest.fixture(scope="module")
def traces(servers: Servers, answered: Counter[int]) -> Traces:
    attempts = sum(answered.values())
    return wait_until_through(servers, SERVICE, "process requests", attempts)


def attempts(traces: Traces) -> list[Span]:
    return [span for span in traces.spans if span.kind == "client"]


def test_attempts_are_below_the_processing_of_their_request(traces: Traces) -> None:
    assert attempts(traces)
    for span in attempts(traces):
        process = traces.parent(span)
        assert process.name == "process requests"
        assert traces.parent(process).name == "put requests"
        assert span.attributes["http.request.method"] == span.name


def test_every_answer_that_was_an_error_is_there(traces: Traces, answered: Counter[int]) -> None:
    failed = Counter(
        span.attributes["http.response.status_code"] for span in attempts(traces) if span.failed
    )
    assert failed == {status: count for status, count in answered.items() if status >= 400}
    assert failed[429] > 0


def test_a_retry_follows_in_the_same_trace(traces: Traces) -> None:
    by_trace: dict[str, list[Span]] = {}
    for span in attempts(traces):
        by_trace.setdefault(span.trace_id, []).append(span)
    assert any(len(tries) > 1 for tries in by_trace.values())
    for tries in by_trace.values():
        tries.sort(key=lambda span: span.start)
        numbers = [span.attributes.get("http.request.resend_count", 0) for span in tries]
        assert numbers == list(range(len(tries)))
        for span in tries:
            process = traces.parent(span)
            assert process.attributes["penstock.attempt"] == numbers[tries.index(span)] + 1
            assert process.failed is span.failed is (span is not tries[-1])


def test_prometheus_has_what_was_done(
    servers: Servers, traces: Traces, answered: Counter[int]
) -> None:
    def count(metric: str, labels: str) -> float:
        return servers.prometheus.value(f'sum({metric}{{job="{SERVICE}", {labels}}})')

    queue = 'penstock_queue_name="requests"'
    accepted = f'{queue}, penstock_put_outcome="accepted"'
    assert count("penstock_put_items_total", accepted) == REQUESTS
    succeeded = f'{queue}, penstock_process_outcome="ok"'
    assert count("penstock_process_items_total", succeeded) == REQUESTS
    calls, failures = sum(answered.values()), sum(answered.values()) - REQUESTS
    assert count("penstock_process_duration_seconds_count", queue) == calls
    assert count("penstock_process_duration_seconds_count", f'{queue}, error_type!=""') == failures
    assert count("penstock_item_retries_total", queue) == failures
    spans, clients = "traces_span_metrics_calls_total", 'span_kind="SPAN_KIND_CLIENT"'
    assert count(spans, clients) == calls
    assert count(spans, f'{clients}, error_type="http_429"') == answered[429]
