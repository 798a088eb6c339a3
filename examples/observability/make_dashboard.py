"""Write the Grafana dashboard "Penstock queues".

    python examples/observability/make_dashboard.py

The JSON that it writes is committed, and a test compares the two. Needs grafana-foundation-sdk.
"""

# The library needs Python 3.11, while types are checked for the oldest Python of penstock.
# mypy: disable-error-code="arg-type, no-any-return"

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

OUTPUT = Path(__file__).parent / "grafana" / "dashboards" / "penstock-queues.json"

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
#: What the variables at the top choose.
CHOSEN = '{job=~"$job", penstock_queue_name=~"$queue"}'
#: Instances of a service are added up; services that call their queues the same are not.
BY = "job, penstock_queue_name"
QUEUE = "{{job}} {{penstock_queue_name}}"


def rate(metric: str, chosen: str = CHOSEN) -> str:
    """What a counter grows by in a second."""
    return f"rate({metric}{chosen}[$__rate_interval])"


def summed(expression: str, *more: str) -> str:
    """One series for each queue, and each value of the labels in ``more``."""
    return f"sum by ({', '.join((BY, *more))}) ({expression})"


def quantile(share: float, histogram: str) -> str:
    """A percentile of the distribution in ``histogram``."""
    return f"histogram_quantile({share}, {summed(rate(f'{histogram}_bucket'), 'le')})"


def query(ref: str, expression: str, legend: str, *, exemplars: bool = False) -> Dataquery:
    """A query of a panel."""
    return (
        Dataquery()
        .ref_id(ref)
        .datasource(PROMETHEUS)
        .expr(expression)
        .legend_format(legend)
        .range()
        .exemplar(exemplars)
    )


def panel(title: str, question: str, unit: str, width: int) -> Panel:
    """An empty panel. The question is what its reader wants to know."""
    return (
        Panel()
        .title(title)
        .description(question)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(width)
        .height(9)
        .line_width(2)
        .fill_opacity(8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )


def saturation() -> Panel:
    """Size against capacity."""
    return (
        panel("Saturation", "How full are the queues? 100 % is full: puts wait or are refused."
              " Of several instances the fullest counts.", "percentunit", 12)
        .max(1)
        .with_target(
            query(
                "A",
                f"max by ({BY}) (penstock_queue_size{CHOSEN} / penstock_queue_capacity{CHOSEN})",
                QUEUE,
            )
        )
        .thresholds(
            ThresholdsConfig()
            .mode(ThresholdsMode.ABSOLUTE)
            .steps([Threshold(color="green"), Threshold(value=0.9, color="red")])
        )
        .thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    )  # fmt: skip


def puts() -> Panel:
    """Puts by their outcomes."""
    return panel(
        "Accepted and refused per second",
        "How much is offered, and are producers turned away? full: refused for want of room;"
        " cancelled: given up while waiting; stopped: the queue stopped meanwhile.",
        "ops",
        12,
    ).with_target(
        query(
            "A",
            summed(rate("penstock_put_items_total"), "penstock_put_outcome"),
            f"{QUEUE}: {{{{penstock_put_outcome}}}}",
        )
    )


def backpressure() -> Panel:
    """Producers that wait for room."""
    return (
        panel(
            "Backpressure: waiting for room",
            "How many producers wait for room, and for how long? Left axis: how many at a time, on"
            " average. Right axis: the 95th percentile of how long they waited.",
            "short",
            8,
        )
        .with_target(
            # Seconds waited in a second: as many as wait at a time.
            query(
                "A",
                summed(rate("penstock_backpressure_wait_time_seconds_sum")),
                f"{QUEUE}: waiting",
            )
        )
        .with_target(
            query(
                "B",
                quantile(0.95, "penstock_backpressure_wait_time_seconds"),
                f"{QUEUE}: p95",
                exemplars=True,
            )
        )
        .override_by_query(
            "B",
            [
                DynamicConfigValue(id_val="unit", value="s"),
                DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
                DynamicConfigValue(
                    id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]}
                ),
                DynamicConfigValue(id_val="custom.fillOpacity", value=0),
            ],
        )
    )


def percentiles(title: str, question: str, histogram: str) -> Panel:
    """The median and two higher percentiles, with exemplars: dots that lead to traces."""
    made = panel(title, question, "s", 8)
    for ref, share, legend in (("A", 0.5, "p50"), ("B", 0.95, "p95"), ("C", 0.99, "p99")):
        # All three would show the same exemplars.
        shown = share == 0.99
        made.with_target(
            query(ref, quantile(share, histogram), f"{QUEUE}: {legend}", exemplars=shown)
        )
    return made


def errors() -> Panel:
    """Failures of worker functions."""
    return panel(
        "Errors by type",
        "What do worker functions and error handlers raise, how often in a second?",
        "ops",
        12,
    ).with_target(
        query(
            "A",
            summed(rate("penstock_worker_errors_total"), "error_type"),
            f"{QUEUE}: {{{{error_type}}}}",
        )
    )


def workers() -> Panel:
    """Items in hand, and the hands there are."""
    return (
        panel(
            "In flight against workers",
            "Are the workers busy? Where the two meet, all of them are: more of them would help,"
            " unless what they call is the bottleneck. Far apart while the queue is full: something"
            " else holds them back.",
            "short",
            12,
        )
        .with_target(query("A", summed(f"penstock_item_inflight{CHOSEN}"), f"{QUEUE}: in flight"))
        .with_target(query("B", summed(f"penstock_worker_count{CHOSEN}"), f"{QUEUE}: workers"))
        .override_by_query(
            "B",
            [
                DynamicConfigValue(
                    id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]}
                ),
                DynamicConfigValue(id_val="custom.fillOpacity", value=0),
            ],
        )
    )


def retries() -> Panel:
    """Attempts that are repeated, and items that are given up."""
    return (
        panel(
            "Retries and dead letters",
            "What is tried again, and what is given up for good? A retry costs a call and a wait;"
            " a dead letter is an item for redrive().",
            "ops",
            8,
        )
        .with_target(
            query(
                "A",
                summed(rate("penstock_item_retries_total"), "error_type"),
                f"{QUEUE}: {{{{error_type}}}} tried again",
            )
        )
        .with_target(
            query(
                "B",
                summed(rate("penstock_item_dead_letters_total"), "error_type"),
                f"{QUEUE}: {{{{error_type}}}} given up",
            )
        )
    )


def adaptation() -> Panel:
    """What the service's answers made of the pace."""
    return (
        panel(
            "Concurrency, gate and breaker",
            "What do the service's answers make of the pace? The limit of adaptive concurrency; how"
            " often a minute the service closed the gate for all; the circuit breaker: 0 closed,"
            " 1 half-open, 2 open.",
            "short",
            8,
        )
        .with_target(query("A", summed(f"penstock_concurrency_limit{CHOSEN}"), f"{QUEUE}: at once"))
        .with_target(
            query(
                "B",
                f"60 * {summed(rate('penstock_limit_gate_closures_total'))}",
                f"{QUEUE}: gate closed, per minute",
            )
        )
        .with_target(
            query("C", f"max by ({BY}) (penstock_breaker_state{CHOSEN})", f"{QUEUE}: breaker")
        )
    )


def variable(name: str, label: str, values: str) -> QueryVariable:
    """A choice at the top of the dashboard: several, or all."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def panels() -> list[Panel]:
    """From left to right, from top to bottom."""
    return [
        saturation(),
        puts(),
        backpressure(),
        percentiles(
            "Wait time",
            "How long do items wait before a worker takes them? Dots are single items: each leads"
            " to its trace.",
            "penstock_item_wait_time_seconds",
        ),
        percentiles(
            "Processing time",
            "How long does a call of the worker function take? Failed calls count too. Dots are"
            " single items: each leads to its trace.",
            "penstock_process_duration_seconds",
        ),
        errors(),
        workers(),
        percentiles(
            "Waiting for limits",
            "How long do items that a worker has in hand wait for rate limits? What is held back"
            " here cannot be answered 429. Dots are single items: each leads to its trace.",
            "penstock_limit_wait_time_seconds",
        ),
        retries(),
        adaptation(),
    ]


def dashboard() -> Dashboard:
    """The whole of it."""
    made = (
        Dashboard("Penstock queues")
        .uid("penstock-queues")
        .description("Bounded work queues: how full, how fast, how well.")
        .tags(["penstock"])
        .time("now-30m", "now")
        .refresh("15s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            DashboardLink("Alerts")
            .type(DashboardLinkType.LINK)
            .url("/alerting/list?search=Penstock")
            .icon("bell")
        )
        .with_variable(variable("job", "Service", "label_values(penstock_queue_capacity, job)"))
        .with_variable(
            variable(
                "queue",
                "Queue",
                'label_values(penstock_queue_capacity{job=~"$job"}, penstock_queue_name)',
            )
        )
    )
    for number, one in enumerate(panels(), start=1):
        made.with_panel(one.id(number))
    return made


def as_json() -> str:
    """The dashboard as Grafana reads it, the same each time."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(as_json(), encoding="utf-8")
