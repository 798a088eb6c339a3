"""What a collector gets from two programs, as it is on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from penstock.telemetry.names import CALL_BUCKETS, SCHEMA_URL, WAIT_BUCKETS
from telemetry.receiver import LIMIT, Received, Receiver, plain, start

HERE = Path(__file__).parent
PROGRAMS = {
    "wire-example": (HERE / "wire_example.py", "grpc"),
    "traced-http": (HERE.parents[1] / "examples" / "traced_http.py", "http/protobuf"),
}


@dataclass
class Sent:
    """What a program sent."""

    spans: list[Received]
    metrics: dict[str, Received]

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.data.name == name]

    @property
    def by_id(self) -> dict[bytes, Received]:
        return {span.data.span_id: span for span in self.spans}


@pytest.fixture(scope="module")
def sent() -> Iterator[dict[str, Sent]]:
    """What each program sent, by its service; they run side by side."""
    with ExitStack() as stack:
        running = {}
        for service, (path, protocol) in PROGRAMS.items():
            receiver = stack.enter_context(Receiver(protocol))
            child = start(
                str(path),
                env={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                    "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                },
            )
            stack.callback(child.kill)
            running[service] = child, receiver
        for child, _ in running.values():
            _, err = child.communicate(timeout=LIMIT)
            assert child.returncode == 0, err
        yield {
            service: Sent(receiver.spans, receiver.metrics)
            for service, (_, receiver) in running.items()
        }


@pytest.fixture
def thumbnails(sent: dict[str, Sent]) -> Sent:
    """Of four items one is refused, and one of the others fails."""
    return sent["wire-example"]


@pytest.fixture
def calls(sent: dict[str, Sent]) -> Sent:
    """Three items whose worker function calls a server over HTTP."""
    return sent["traced-http"]


# -- traces -----------------------------------------------------------------------------------


def test_every_put_and_every_attempt_arrives_with_its_kind(thumbnails: Sent) -> None:
    assert Counter((span.data.name, span.data.kind) for span in thumbnails.spans) == {
        ("put thumbnails", Span.SPAN_KIND_PRODUCER): 4,
        ("backpressure thumbnails", Span.SPAN_KIND_INTERNAL): 1,
        ("process thumbnails", Span.SPAN_KIND_CONSUMER): 3,
    }


def test_attempts_are_children_of_their_puts_and_linked_to_them(thumbnails: Sent) -> None:
    attempts = thumbnails.named("process thumbnails")
    assert len({span.data.parent_span_id for span in attempts}) == 3
    for span in attempts:
        put = thumbnails.by_id[span.data.parent_span_id]
        assert put.data.name == "put thumbnails"
        assert put.attributes["penstock.put.outcome"] == "accepted"
        assert put.data.trace_id == span.data.trace_id
        (link,) = span.data.links
        assert (link.trace_id, link.span_id) == (put.data.trace_id, put.data.span_id)


def test_backpressure_lies_within_the_put_that_was_refused(thumbnails: Sent) -> None:
    (wait,) = thumbnails.named("backpressure thumbnails")
    put = thumbnails.by_id[wait.data.parent_span_id]
    assert put.attributes["penstock.put.outcome"] == "full"
    start_time, end_time = wait.data.start_time_unix_nano, wait.data.end_time_unix_nano
    assert put.data.start_time_unix_nano <= start_time
    assert end_time <= put.data.end_time_unix_nano
    assert end_time - start_time >= 0.04e9
    assert wait.attributes["penstock.wait_time"] >= 0.04


def test_the_attempt_that_failed_and_no_other_is_an_error(thumbnails: Sent) -> None:
    (failed,) = [span for span in thumbnails.spans if span.data.status.code]
    assert failed.data.name == "process thumbnails"
    assert failed.data.status.code == Status.STATUS_CODE_ERROR
    assert failed.data.status.message == "13 is not a picture"
    assert failed.attributes["error.type"] == "ValueError"
    event = failed.data.events[-1]
    assert failed.attributes["penstock.outcome"] == "failed"
    assert event.name == "exception"
    assert plain(event.attributes)["exception.type"] == "ValueError"


def test_a_trace_goes_on_over_http(calls: Sent) -> None:
    lookups = calls.named("look up")
    assert len(lookups) == 3
    for span in lookups:
        path = [span.data]
        while path[-1].parent_span_id:
            path.append(calls.by_id[path[-1].parent_span_id].data)
        assert [each.name for each in path[:-1]] == [
            "look up",
            "GET",
            "process prices",
            "put prices",
        ]
        assert path[-1].name in {"order sluice", "order weir", "order turbine"}
        assert {each.trace_id for each in path} == {span.data.trace_id}
    assert len({span.data.trace_id for span in lookups}) == 3


@pytest.mark.parametrize("service", list(PROGRAMS))
def test_library_version_conventions_and_service_are_told(
    service: str, sent: dict[str, Sent]
) -> None:
    everything = (*sent[service].spans, *sent[service].metrics.values())
    ours = [each for each in everything if each.scope == "penstock"]
    assert len(ours) >= 8
    for each in ours:
        assert each.schema_url == SCHEMA_URL
        assert each.version == version("penstock")
        assert each.resource["service.name"] == service


# -- metrics ----------------------------------------------------------------------------------


def test_counters_arrive_as_cumulative_sums(thumbnails: Sent) -> None:
    puts = thumbnails.metrics["penstock.put.items"].data
    assert puts.unit == "{item}"
    assert puts.sum.is_monotonic
    assert puts.sum.aggregation_temporality == (
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    assert {
        plain(point.attributes)["penstock.put.outcome"]: point.as_int
        for point in puts.sum.data_points
    } == {"accepted": 3, "full": 1, "cancelled": 0, "stopped": 0}
    (errors,) = thumbnails.metrics["penstock.worker.errors"].data.sum.data_points
    assert errors.as_int == 1
    assert plain(errors.attributes) == {
        "penstock.queue.name": "thumbnails",
        "error.type": "ValueError",
    }


def test_levels_arrive_as_sums_that_may_go_down(thumbnails: Sent) -> None:
    states = {
        "queue.capacity": {None},
        "queue.size": {"ready", "delayed"},
        "worker.count": {"busy", "limited", "idle"},
    }
    for name, expected in states.items():
        metric = thumbnails.metrics[f"penstock.{name}"].data
        assert not metric.sum.is_monotonic
        attributes = [plain(point.attributes) for point in metric.sum.data_points]
        assert {each.pop("penstock.queue.name") for each in attributes} == {"thumbnails"}
        assert {next(iter(each.values()), None) for each in attributes} == expected
        assert {point.as_int for point in metric.sum.data_points} == {0}, name  # it is stopped


@pytest.mark.parametrize(
    ("service", "metric", "operation"),
    [
        ("wire-example", "penstock.process.duration", "process"),
        ("wire-example", "penstock.item.wait_time", "process"),
        ("wire-example", "penstock.backpressure.wait_time", "put"),
        ("traced-http", "penstock.process.duration", "process"),
    ],
)
def test_histograms_arrive_with_their_buckets_and_an_exemplar_of_a_trace(
    service: str, metric: str, operation: str, sent: dict[str, Sent]
) -> None:
    received = sent[service].metrics[metric].data
    assert received.unit == "s"
    buckets = CALL_BUCKETS if metric == "penstock.process.duration" else WAIT_BUCKETS
    for point in received.histogram.data_points:
        assert tuple(point.explicit_bounds) == buckets
        assert sum(point.bucket_counts) == point.count > 0
        assert point.exemplars
        for exemplar in point.exemplars:
            span = sent[service].by_id[exemplar.span_id]
            assert span.data.trace_id == exemplar.trace_id
            assert span.attributes["penstock.operation"] == operation


def test_durations_are_told_apart_by_their_errors(thumbnails: Sent) -> None:
    points = thumbnails.metrics["penstock.process.duration"].data.histogram.data_points
    by_error = {plain(point.attributes).get("error.type"): point for point in points}
    assert {error: point.count for error, point in by_error.items()} == {None: 2, "ValueError": 1}
    assert all(point.min >= 0.04 for point in points)
