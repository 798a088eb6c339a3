"""What a person would look for, asked of Jaeger's and Prometheus's APIs. Run by ``make e2e``."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from e2e import build
from e2e.conftest import Outcome, Servers
from e2e.jaeger import Span
from e2e.program import SERVICE
from e2e.servers import get
from observability import shipped
from processes import wait_for

pytestmark = pytest.mark.usefixtures("outcome")

# -- traces, in Jaeger ----------------------------------------------------------------------------


def test_the_service_is_listed(servers: Servers) -> None:
    assert "shop" in servers.jaeger.services()


def test_a_request_leads_to_the_processing_of_its_item(outcome: Outcome) -> None:
    """Request, put, process, and what the worker function did: one trace."""
    done = outcome.traces.named("charge card")
    assert done
    for span in done:
        process = outcome.traces.parent(span)
        put = outcome.traces.parent(process)
        request = outcome.traces.parent(put)
        assert [process.name, put.name, request.name] == ["process orders", "put orders", "request"]
        assert [process.kind, put.kind] == ["consumer", "producer"]
        assert request.parent is None
        assert request.start <= put.start <= process.start <= span.start <= span.end <= process.end


def test_attempts_are_linked_to_their_puts(outcome: Outcome) -> None:
    for span in outcome.traces.named("process orders"):
        assert span.links == [span.parent]


def test_jaeger_draws_processing_below_the_put(servers: Servers, outcome: Outcome) -> None:
    trace_id = outcome.traces.named("process orders")[0].trace_id
    spans = {span["operationName"]: span for span in servers.jaeger.as_drawn(trace_id)}
    # Its pages take the first reference for the parent, of whatever kind. The link to the parent
    # turns it from CHILD_OF into FOLLOWS_FROM.
    first = spans["process orders"]["references"][0]
    assert (first["traceID"], first["spanID"]) == (trace_id, spans["put orders"]["spanID"])


def test_jaeger_warns_of_no_clock(servers: Servers, outcome: Outcome) -> None:
    """An item is processed after its put has ended, and that is not the clock's fault."""
    spans = [span for trace in servers.jaeger.all_as_drawn(SERVICE) for span in trace["spans"]]
    assert len(spans) == len(outcome.traces.spans)
    assert [span["warnings"] for span in spans if span["warnings"]] == []


def test_with_relation_link_processing_is_a_trace_of_its_own(outcome: Outcome) -> None:
    done = outcome.traces.named("process mails")
    assert [span for span in done if span.failed]
    for span in done:
        assert span.parent is None
        ((put_trace, _),) = span.links
        assert put_trace != span.trace_id


def test_spans_say_what_a_person_wants_to_know(outcome: Outcome) -> None:
    for span in outcome.traces.named("process orders"):
        has = span.attributes
        assert span.scope == "penstock"
        assert has["penstock.queue.name"] == "orders"
        assert has["penstock.operation"] == "process"
        assert has["penstock.attempt"] == 1
        assert 0 <= has["penstock.queue.size"] <= has["penstock.queue.capacity"] == 5
        waited = span.start - outcome.traces.parent(span).end
        assert has["penstock.wait_time"] == pytest.approx(waited, abs=0.05)
        assert "worker" in has["penstock.worker.id"]


def test_no_error_is_lost_by_sampling(outcome: Outcome) -> None:
    failed = [span for span in outcome.traces.named("process orders") if span.failed]
    assert len(failed) == outcome.happened["failing"]
    for span in failed:
        assert span.message == "card declined"
        assert span.attributes["error.type"] == "ValueError"
        (event,) = [each for each in span.events if each["name"] == "exception"]
        assert event["exception.type"] == "ValueError"
        assert event["exception.message"] == "card declined"
        assert "in fulfil" in event["exception.stacktrace"]


def test_success_is_not_marked(outcome: Outcome) -> None:
    good = [span for span in outcome.traces.named("process orders") if not span.failed]
    assert good
    for span in good:
        assert span.status == 0
        assert "error.type" not in span.attributes
        assert span.attributes["penstock.outcome"] == "ok"
        assert {event["name"] for event in span.events} <= {"waited for a worker"}


def test_nothing_slow_is_lost_by_sampling(outcome: Outcome) -> None:
    slow = [span for span in outcome.traces.named("process orders") if span.end - span.start > 1]
    assert len(slow) == outcome.happened["slow"]


def test_of_the_rest_a_share_is_kept(outcome: Outcome) -> None:
    def is_ordinary(trace: list[Span]) -> bool:
        took = max(span.end for span in trace) - min(span.start for span in trace)
        return took < 1 and not any(span.failed for span in trace)

    kept = sum(map(is_ordinary, outcome.traces.by_trace.values()))
    others = (
        outcome.happened["failing"] + outcome.happened["slow"] + outcome.happened["failing mails"]
    )
    there_were = outcome.happened["traces"] - others
    # It shall be a tenth; of some 450 that is 45 ± 6.
    assert 0.03 < kept / there_were < 0.2


def test_backpressure_shows_in_the_trace_of_a_put_that_waited(outcome: Outcome) -> None:
    waits = outcome.traces.named("backpressure orders")
    assert waits
    for span in waits:
        put = outcome.traces.parent(span)
        assert (put.name, span.kind) == ("put orders", "internal")
        assert put.start <= span.start <= span.end <= put.end
        assert span.attributes["penstock.put.outcome"] == put.attributes["penstock.put.outcome"]
        took = span.end - span.start
        assert span.attributes["penstock.wait_time"] == pytest.approx(took, abs=0.01)


def test_tempo_is_sent_the_same(servers: Servers, outcome: Outcome) -> None:
    assert servers.tempo.spans >= set(outcome.traces.by_key)


def test_spans_go_out_in_batches(servers: Servers) -> None:
    assert servers.tempo.batches < len(servers.tempo.spans) / 10


# -- metrics, in Prometheus -----------------------------------------------------------------------

ORDERS = 'job="shop", instance="shop-1", penstock_queue_name="orders"'


@pytest.mark.parametrize(
    ("metric", "count"),
    [
        ('penstock_put_items_total{%s, penstock_put_outcome="accepted"}', "accepted"),
        ('penstock_put_items_total{%s, penstock_put_outcome="full"}', "refused"),
        ("penstock_backpressure_events_total{%s}", "refused"),
        (
            'penstock_backpressure_wait_time_seconds_count{%s, penstock_put_outcome="accepted"}',
            "waited",
        ),
        ('penstock_item_wait_time_seconds_count{%s, penstock_wait_cause="worker"}', "accepted"),
        ("sum(penstock_process_items_total{%s})", "processed"),
        ('penstock_process_items_total{%s, penstock_process_outcome="failed"}', "failing"),
        ("sum(penstock_process_duration_seconds_count{%s})", "processed"),
        ('penstock_process_duration_seconds_count{%s, error_type="ValueError"}', "failing"),
        ('penstock_worker_errors_total{%s, error_type="ValueError"}', "failing"),
    ],
)
def test_the_metrics_are_what_happened(
    servers: Servers, outcome: Outcome, metric: str, count: str
) -> None:
    assert servers.prometheus.value(metric % ORDERS) == outcome.happened[count]


@pytest.mark.parametrize(
    "query",
    [*shipped.dashboard_queries(), *shipped.rule_queries(alerts=False)],
    ids=lambda query: query.where,
)
def test_queries_of_the_dashboard_and_the_rules_have_had_data(
    servers: Servers, query: shipped.Query
) -> None:
    # In the last minutes: of what does not move any more there is no rate now.
    assert servers.prometheus.query(f"last_over_time(({query.expression})[5m:1s])")


def test_rules_are_healthy(servers: Servers) -> None:
    wait_for(
        "every rule to be evaluated",
        lambda: {rule["health"] for rule in servers.prometheus.rules()} == {"ok"},
    )


def test_span_metrics_count_every_span_not_just_those_kept(
    servers: Servers, outcome: Outcome
) -> None:
    def count(metric: str, *more: str) -> float:
        labels = ", ".join(('service_name="shop"', 'span_name="process orders"', *more))
        return servers.prometheus.value(f"sum(traces_span_metrics_{metric}{{{labels}}})")

    assert count("calls_total") == outcome.happened["processed"]
    assert count("calls_total", 'status_code="STATUS_CODE_ERROR"') == outcome.happened["failing"]
    assert count("calls_total", 'error_type="ValueError"') == outcome.happened["failing"]
    assert count("calls_total", 'penstock_queue_name="orders"') == outcome.happened["processed"]
    in_a_second = count("duration_milliseconds_bucket", 'le="1000.0"')
    assert count("duration_milliseconds_count") - in_a_second == outcome.happened["slow"]


def test_jaegers_monitor_page_has_calls_errors_and_latencies(
    servers: Servers, outcome: Outcome
) -> None:
    """Of what was done in the last minutes. Most orders take 20 ms."""

    def most(what: str, **more: Any) -> float:
        def ask() -> float:
            found = servers.jaeger.metrics(what, SERVICE, "consumer", **more)
            return max((value for value in found if value == value), default=0)

        return wait_for(f"Jaeger to have {what}", ask)

    assert most("calls") > 0
    assert most("errors") > 0
    # Its unit is the millisecond; 20 ms are between two buckets, where it can only guess.
    assert 10 < most("latencies", quantile=0.5) < 1000 * outcome.happened["slow"]


def test_the_service_graph_pairs_puts_with_their_processing(
    servers: Servers, outcome: Outcome
) -> None:
    def count(metric: str) -> float:
        edge = (
            'client="shop", server="shop", connection_type="messaging_system",'
            ' client_penstock_queue_name="orders", server_penstock_queue_name="orders"'
        )
        return servers.prometheus.value(f"sum(traces_service_graph_{metric}{{{edge}}})")

    assert count("request_total") == outcome.happened["processed"]
    assert count("request_failed_total") == outcome.happened["failing"]
    assert count("request_server_seconds_count") == outcome.happened["processed"]


@pytest.mark.parametrize(
    "histogram",
    [
        "penstock_process_duration_seconds_bucket",
        "penstock_item_wait_time_seconds_bucket",
        "penstock_backpressure_wait_time_seconds_bucket",
        "traces_span_metrics_duration_milliseconds_bucket",
    ],
)
def test_exemplars_lead_to_traces(servers: Servers, outcome: Outcome, histogram: str) -> None:
    found = servers.prometheus.exemplars(histogram)
    ids = {exemplar["labels"]["trace_id"] for exemplar in found}
    # Others were dropped by tail sampling. Those here are looked up as Grafana does it.
    kept = ids & set(outcome.traces.by_trace)
    assert kept, f"of {len(ids)} none"
    assert all(map(servers.jaeger.has, kept))


def test_exemplars_of_what_is_slow_always_lead_to_a_trace(
    servers: Servers, outcome: Outcome
) -> None:
    found = servers.prometheus.exemplars("penstock_process_duration_seconds_bucket")
    slow = [exemplar["labels"] for exemplar in found if float(exemplar["value"]) > 1]
    assert slow
    for labels in slow:
        span = outcome.traces.by_key[labels["trace_id"], labels["span_id"]]
        assert span.name == "process orders"


# -- what starts it all ----------------------------------------------------------------------------


def test_the_compose_file_is_read_as_docker_compose_reads_it() -> None:
    path = shipped.FOLDER / "compose.yaml"
    done = subprocess.run(
        [build.programs().compose, "-format", "json", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(shipped.read_yaml(path)["services"])


# -- the collector itself -------------------------------------------------------------------------


def test_the_collector_is_healthy(servers: Servers) -> None:
    assert get(servers.health).json()["status"] == "Server available"


def test_the_collector_has_nothing_to_complain_of(servers: Servers) -> None:
    """Of a name that is deprecated, for example, it complains when it starts."""
    lines = servers.log.read_text(encoding="utf-8").splitlines()
    assert any("Everything is ready" in line for line in lines)
    assert not [line for line in lines if "\tinfo\t" not in line]


def test_the_collector_tells_of_itself(servers: Servers, outcome: Outcome) -> None:
    value = servers.prometheus.value
    received = value("sum(otelcol_receiver_accepted_spans)")
    assert received == value("sum(traces_span_metrics_calls_total)")
    assert value("sum(otelcol_receiver_refused_spans)") == 0
    assert value("sum(otelcol_exporter_send_failed_spans)") == 0
    for exporter in ("otlp_grpc/jaeger", "otlp_grpc/tempo"):
        sent = value(f'sum(otelcol_exporter_sent_spans{{exporter="{exporter}"}})')
        assert sent == len(outcome.traces.spans)
