"""The dashboard that is committed."""

from __future__ import annotations

import re
import runpy

import pytest

from observability import shipped
from penstock.telemetry import names


# The classic format of dashboards, which Grafana has always read from files.
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
def test_the_committed_json_is_what_the_script_writes() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    made = runpy.run_path(str(shipped.FOLDER / "make_dashboard.py"))["as_json"]()
    assert made == shipped.DASHBOARD.read_text(encoding="utf-8"), (
        "run: python examples/observability/make_dashboard.py"
    )


def test_its_panels_are_those_that_the_guide_explains() -> None:
    guide = (shipped.FOLDER / "README.md").read_text(encoding="utf-8")
    for panel in shipped.dashboard()["panels"]:
        assert f"| {panel['title']} |" in guide
        assert "?" in panel["description"], "which question does it answer?"


def test_each_panel_has_a_number_and_a_place_of_its_own() -> None:
    panels = shipped.dashboard()["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert {x for x, _ in taken} == set(range(24)), "the whole width is used"


def test_queries_heed_the_choices_at_the_top() -> None:
    for panel in shipped.dashboard()["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"penstock_\w+(?=\{|\(_ratio)", target["expr"])
            assert metrics
            assert target["expr"].count('job=~"$job", penstock_queue_name=~"$queue"') == len(
                metrics
            )


def test_no_query_draws_more_lines_than_can_be_read() -> None:
    for panel in shipped.dashboard()["panels"]:
        for target in panel["targets"]:
            drawn, _, chosen = target["expr"].partition(" and topk(12, max_over_time(")
            assert chosen == f"{drawn}[$__range:] @ end()))", panel["title"]


def test_percentiles_show_exemplars_once() -> None:
    for panel in shipped.dashboard()["panels"]:
        with_exemplars = [target["expr"] for target in panel["targets"] if target["exemplar"]]
        has_histogram = any("histogram_quantile" in target["expr"] for target in panel["targets"])
        assert len(with_exemplars) == has_histogram, panel["title"]
        assert all("_bucket" in expression for expression in with_exemplars)


def test_metrics_are_named_as_prometheus_names_those_of_the_library() -> None:
    """The suffixes that the exporters add, and the ones of histograms; nothing else."""
    stems = {
        value.replace(".", "_") for name, value in vars(names).items() if name.endswith("_METRIC")
    }
    text = shipped.DASHBOARD.read_text(encoding="utf-8") + shipped.RULES.read_text(encoding="utf-8")
    labels = {
        name.replace(".", "_")
        for name in (
            names.QUEUE_NAME,
            names.PUT_OUTCOME,
            names.PROCESS_OUTCOME,
            names.WAIT_CAUSE,
            names.WORKER_STATE,
            names.LIMIT_NAME,
        )
    }
    used = set(re.findall(r"\bpenstock_(?!queue:)\w+", text)) - labels
    assert len(used) > 8
    for metric in used:
        end = r"(_ratio|(_seconds)?_total|_seconds(_bucket|_sum|_count)?)$"
        assert re.sub(end, "", metric) in stems, metric
