"""Prometheus scrapes a running queue; the dashboard, the rules and the alerts have data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.servers import Prometheus, get, prometheus
from observability import shipped
from penstock.telemetry import names
from processes import wait_for

PROGRAM = Path(__file__).parent / "scraped_program.py"
QUEUE = "penstock_queue_name"


@pytest.fixture(scope="module")
def program() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running queue that is overloaded, and the address at which it can be scraped."""
    pytest.importorskip("opentelemetry.exporter.prometheus")
    with subprocess.Popen(
        [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            # The end of its input is what it waits for.
            try:
                process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def server(
    prometheus_command: str,
    program: tuple[subprocess.Popen[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    process, address = program
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, {"otel-collector:8889": address}, every="500ms") as started:
        wait_for(
            "the workers of both queues to be seen",
            lambda: len(started.query(f"sum by ({QUEUE}) (penstock_worker_count) > 0")) == 6,
        )
        assert process.stdin is not None
        process.stdin.write("the workers of one may go\n")
        process.stdin.flush()
        yield started


@pytest.mark.parametrize("query", shipped.dashboard_queries(), ids=lambda query: query.where)
def test_every_query_of_the_dashboard_returns_data(
    server: Prometheus, query: shipped.Query
) -> None:
    assert wait_for(query.where, lambda: server.query(query.expression))


@pytest.mark.parametrize("query", shipped.rule_queries(alerts=False), ids=lambda query: query.where)
def test_every_query_of_the_rules_returns_data(server: Prometheus, query: shipped.Query) -> None:
    assert wait_for(query.where, lambda: server.query(query.expression))


def test_rules_are_healthy(server: Prometheus) -> None:
    """Which alerts are raised, checks_alerts.py tells."""
    assert len(server.rules()) == len(shipped.rules())
    assert {rule["health"] for rule in server.rules()} == {"ok"}


def test_the_choices_at_the_top_of_the_dashboard_have_values(server: Prometheus) -> None:
    queues = server.api(
        "label/penstock_queue_name/values", **{"match[]": "penstock_queue_capacity"}
    )
    assert queues == ["abandoned", "breaker", "dead letters", "gate", "limited", "overloaded"]
    assert server.api("label/job/values", **{"match[]": "penstock_queue_capacity"}) == ["penstock"]


def test_the_numbers_are_those_of_the_queue(server: Prometheus) -> None:
    def of(metric: str, *more: str) -> float:
        labels = ",".join(('penstock_queue_name="overloaded"', *more))
        # The last scrape may have failed: on a busy machine half a second can be too short.
        return server.value(f"last_over_time({metric}{{{labels}}}[1m])")

    assert of("penstock_queue_capacity") == 10
    busy = of("penstock_worker_count", 'penstock_worker_state="busy"')
    assert 0 <= busy <= 2
    assert 0 <= of("penstock_queue_size", 'penstock_item_state="ready"') <= 10
    assert of("penstock_put_items_total", 'penstock_put_outcome="accepted"') > 0
    assert of("penstock_put_items_total", 'penstock_put_outcome="full"') > 0
    assert of("penstock_worker_errors_total", 'error_type="ValueError"') > 0
    # The ends of the buckets are the advice of the library, not the default of the SDK.
    buckets = server.query(
        'penstock_item_wait_time_seconds_bucket{penstock_queue_name="overloaded"}'
    )
    ends = sorted({float(bucket.labels["le"]) for bucket in buckets})
    assert ends == [*names.WAIT_BUCKETS, float("inf")]


def test_every_metric_of_the_library_is_scraped(
    server: Prometheus, program: tuple[subprocess.Popen[str], str]
) -> None:
    text = get(f"http://{program[1]}/metrics").text
    typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE penstock_")}
    metrics = [value for name, value in vars(names).items() if name.endswith("_METRIC")]
    for metric in metrics:
        stem = metric.replace(".", "_")
        ends = ("", "_total", "_seconds", "_seconds_total", "_ratio")
        assert typed & {f"{stem}{end}" for end in ends}, metric
