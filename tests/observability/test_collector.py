"""The shape of ``otel-collector.yaml``. Whether a collector accepts it, ``make e2e`` tells."""

from __future__ import annotations

import re
from typing import Any

from observability import shipped

CONFIG: dict[str, Any] = shipped.read_yaml(shipped.COLLECTOR)
PIPELINES: dict[str, dict[str, list[str]]] = CONFIG["service"]["pipelines"]


def test_memory_limiter_comes_first_wherever_something_is_received() -> None:
    for pipeline in PIPELINES.values():
        if "otlp" in pipeline["receivers"]:
            assert pipeline["processors"][0] == "memory_limiter"


def test_spans_are_counted_before_any_are_dropped() -> None:
    assert {"span_metrics", "service_graph", "forward"} == set(PIPELINES["traces"]["exporters"])
    assert "tail_sampling" not in PIPELINES["traces"]["processors"]
    assert PIPELINES["traces/sampled"]["receivers"] == ["forward"]
    assert PIPELINES["traces/sampled"]["processors"] == ["tail_sampling", "resource/jaeger"]


def test_batches_are_made_in_the_queues_of_the_exporters() -> None:
    assert "batch" not in CONFIG["processors"]
    for name, exporter in CONFIG["exporters"].items():
        if name.startswith("otlp_grpc/"):
            assert exporter["sending_queue"]["batch"]["min_size"] > 0


def test_no_name_is_a_deprecated_one() -> None:
    kinds = ("receivers", "processors", "exporters", "connectors", "extensions")
    used = {name.partition("/")[0] for kind in kinds for name in CONFIG[kind]}
    assert used.isdisjoint({"otlphttp", "logging", "spanmetrics", "servicegraph", "batch"})
    assert "otlp" not in {name.partition("/")[0] for name in CONFIG["exporters"]}


def test_it_listens_where_the_environment_says() -> None:
    text = shipped.COLLECTOR.read_text(encoding="utf-8")
    endpoints = re.findall(r"(?:endpoint|host): (.*)", text)
    assert len(endpoints) == 7
    assert all(endpoint.startswith("${env:") for endpoint in endpoints)
    assert "0.0.0.0" not in re.sub(r"#.*", "", text)
