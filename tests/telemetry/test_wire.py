"""What a collector gets from the examples, as it is on the wire."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from penstock.telemetry.names import SCHEMA_URL, SECONDS_BUCKETS
from telemetry.receiver import LIMIT, Received, Receiver, plain, start

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Sent:
    """What an example printed and sent."""

    out: str
    spans: list[Received]
    metrics: dict[str, Received]

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.data.name == name]

    @property
    def by_id(self) -> dict[bytes, Received]:
        return {span.data.span_id: span for span in self.spans}


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, Sent]]:
    """Two examples, each with an exporter of its own, run side by side."""
    with ExitStack() as stack:
        running = []
        for name, protocol in (("async_import", "grpc"), ("traced_http", "http/protobuf")):
            receiver = stack.enter_context(Receiver(protocol))
            child = start(
                str(EXAMPLES / f"{name}.py"),
                env={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                    "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                },
            )
            stack.callback(child.kill)
            running.append((name, receiver, child))
        sent = {}
        for name, receiver, child in running:
            out, err = child.communicate(timeout=LIMIT)
            assert child.returncode == 0, err
            sent[name] = Sent(out, receiver.spans, receiver.metrics)
        yield sent


@pytest.fixture
def service(examples: dict[str, Sent]) -> Sent:
    """Sixty requests to a service whose queue is too small for them."""
    return examples["async_import"]


@pytest.fixture
def calls(examples: dict[str, Sent]) -> Sent:
    """Three items whose worker function calls a server over HTTP."""
    return examples["traced_http"]


def counted(sent: Sent) -> dict[str, int]:
    """What the service says about its queue."""
    found = re.search(r"^queue: (\{.*\})$", sent.out, re.MULTILINE)
    assert found, sent.out
    counts: dict[str, int] = ast.literal_eval(found[1])
    assert counts["errors"] == 1
    assert counts["backpressure_events"] > 10
    return counts


# -- traces -----------------------------------------------------------------------------------


def test_every_put_and_every_attempt_arrives_with_its_kind(service: Sent) -> None:
    kinds = Counter((span.data.name, span.data.kind) for span in service.spans)
    counts = counted(service)
    backpressure = kinds.pop(("backpressure thumbnails", Span.SPAN_KIND_INTERNAL))
    assert counts["backpressure_events"] <= backpressure <= 60
    assert kinds == {
        ("put thumbnails", Span.SPAN_KIND_PRODUCER): 60,
        ("process thumbnails", Span.SPAN_KIND_CONSUMER): counts["enqueued"],
    }


def test_attempts_are_children_of_their_puts_and_linked_to_them(service: Sent) -> None:
    for span in service.named("process thumbnails"):
        put = service.by_id[span.data.parent_span_id]
        assert put.data.name == "put thumbnails"
        assert put.attributes["penstock.put.outcome"] == "accepted"
        assert put.data.trace_id == span.data.trace_id
        (link,) = span.data.links
        assert (link.trace_id, link.span_id) == (put.data.trace_id, put.data.span_id)


def test_backpressure_lies_within_its_put(service: Sent) -> None:
    for span in service.named("backpressure thumbnails"):
        put = service.by_id[span.data.parent_span_id].data
        assert put.start_time_unix_nano <= span.data.start_time_unix_nano
        assert span.data.end_time_unix_nano <= put.end_time_unix_nano
        if span.attributes["penstock.put.outcome"] == "full":
            took = span.data.end_time_unix_nano - span.data.start_time_unix_nano
            assert took >= 0.04e9
            assert span.attributes["penstock.wait_time"] >= 0.04


def test_the_outcomes_of_the_puts_are_those_of_the_queue(service: Sent) -> None:
    outcomes = Counter(
        span.attributes["penstock.put.outcome"] for span in service.named("put thumbnails")
    )
    counts = counted(service)
    assert outcomes == {"accepted": counts["enqueued"], "full": counts["backpressure_events"]}


def test_the_attempt_that_failed_and_no_other_is_an_error(service: Sent) -> None:
    (failed,) = [span for span in service.spans if span.data.status.code]
    assert failed.data.name == "process thumbnails"
    assert failed.data.status.code == Status.STATUS_CODE_ERROR
    assert failed.data.status.message == "13 is not a picture"
    assert failed.attributes["error.type"] == "ValueError"
    (event,) = failed.data.events
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


@pytest.mark.parametrize("example", ["async_import", "traced_http"])
def test_library_version_conventions_and_service_are_told(
    example: str, examples: dict[str, Sent]
) -> None:
    sent = examples[example]
    ours = [each for each in (*sent.spans, *sent.metrics.values()) if each.scope == "penstock"]
    assert len(ours) >= 6
    for each in ours:
        assert each.schema_url == SCHEMA_URL
        assert each.version == version("penstock")
        assert each.resource["service.name"] == example.replace("_", "-")


# -- metrics ----------------------------------------------------------------------------------


def test_counters_arrive_as_cumulative_sums(service: Sent) -> None:
    counts = counted(service)
    puts = service.metrics["penstock.put.items"].data
    assert puts.unit == "{item}"
    assert puts.sum.is_monotonic
    assert puts.sum.aggregation_temporality == (
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    assert {
        plain(point.attributes)["penstock.put.outcome"]: point.as_int
        for point in puts.sum.data_points
    } == {
        "accepted": counts["enqueued"],
        "full": counts["backpressure_events"],
        "cancelled": 0,
        "stopped": 0,
    }
    (errors,) = service.metrics["penstock.worker.errors"].data.sum.data_points
    assert errors.as_int == 1
    assert plain(errors.attributes) == {
        "penstock.queue.name": "thumbnails",
        "error.type": "ValueError",
    }


def test_levels_arrive_as_sums_that_may_go_down(service: Sent) -> None:
    for name, value in {"queue.capacity": 10, "queue.size": 0, "item.inflight": 0}.items():
        metric = service.metrics[f"penstock.{name}"].data
        assert not metric.sum.is_monotonic
        (point,) = metric.sum.data_points
        assert point.as_int == value, name
        assert plain(point.attributes) == {"penstock.queue.name": "thumbnails"}


@pytest.mark.parametrize(
    ("example", "metric"),
    [
        ("async_import", "penstock.process.duration"),
        ("async_import", "penstock.item.wait_time"),
        ("async_import", "penstock.backpressure.wait_time"),
        ("traced_http", "penstock.process.duration"),
    ],
)
def test_histograms_arrive_with_their_buckets_and_an_exemplar_of_a_trace(
    example: str, metric: str, examples: dict[str, Sent]
) -> None:
    sent = examples[example]
    received = sent.metrics[metric].data
    assert received.unit == "s"
    exemplars = []
    for point in received.histogram.data_points:
        assert tuple(point.explicit_bounds) == SECONDS_BUCKETS
        assert sum(point.bucket_counts) == point.count > 0
        assert point.exemplars
        exemplars.extend(point.exemplars)
    operation = "put" if "backpressure" in metric else "process"
    for exemplar in exemplars:
        span = sent.by_id[exemplar.span_id]
        assert span.data.trace_id == exemplar.trace_id
        assert span.attributes["penstock.operation"] == operation


def test_durations_are_told_apart_by_their_errors(service: Sent) -> None:
    points = service.metrics["penstock.process.duration"].data.histogram.data_points
    by_error = {plain(point.attributes).get("error.type"): point for point in points}
    assert by_error.keys() == {None, "ValueError"}
    assert by_error["ValueError"].count == 1
    assert by_error[None].sum >= 0.05 * by_error[None].count
