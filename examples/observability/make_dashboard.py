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
#: The collector adds the unit to this name, and the exporter of the SDK does not.
UTILIZATION = CHOSEN.replace("{", '{__name__=~"penstock_limit_utilization(_ratio)?", ')


def rate(metric: str, chosen: str = CHOSEN) -> str:
    """What a counter grows by in a second."""
    return f"rate({metric}{chosen}[$__rate_interval])"


def grown(metric: str) -> str:
    """What a counter grew by in five minutes; all of it, if its series is younger.

    That of an error is born with the first error, and its first sample may say 300 already.
    """
    counter = f"{metric}{CHOSEN}"
    return f"(increase({counter}[5m]) and {counter} offset 5m) or {counter}"


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
            .calcs(["lastNotNull"])
            .sort_by("Last *")
            .sort_desc(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )


def top(expression: str, count: int = 12) -> str:
    """The largest series only: with a dozen queues more than that cannot be read.

    By the most that each was in all of the time that is shown: "topk" by itself chooses anew at
    each moment, and in the end there would be lines of all.
    """
    return f"({expression}) and topk({count}, max_over_time(({expression})[$__range:] @ end()))"


def drawn_dashed() -> list[DynamicConfigValue]:
    """Settings of the second of two kinds of lines."""
    return [
        DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]}),
        DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    ]


def oldest() -> Panel:
    """Since when something is stuck."""
    return panel(
        "Oldest item that waits",
        "What is stuck, and since when? A line that goes up with the clock is a queue from which"
        " nothing is taken.",
        "s",
        8,
    ).with_target(
        query("A", top(f"max by ({BY}) (penstock_queue_oldest_item_age_seconds{CHOSEN})"), QUEUE)
    )


def saturation() -> Panel:
    """Size against capacity."""
    return (
        panel("Saturation", "How full are the queues? 100 % is full: puts wait or are refused."
              " Of several instances the fullest counts.", "percentunit", 8)
        .max(1)
        .with_target(
            query(
                "A",
                top(
                    f"max by ({BY}) (sum by (instance, {BY}) (penstock_queue_size{CHOSEN})"
                    f" / (sum by (instance, {BY}) (penstock_queue_capacity{CHOSEN}) > 0))"
                ),
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


def until_done() -> Panel:
    """How long the backlog takes."""
    return panel(
        "Time until done",
        "How long until all is done that waits now, at the pace of this moment? No line: nothing"
        " is done at all.",
        "s",
        8,
    ).with_target(
        query(
            "A",
            top(
                f"{summed(f'penstock_queue_size{CHOSEN}')}"
                f" / ({summed(rate('penstock_process_items_total'))} > 0)"
            ),
            QUEUE,
        )
    )


def causes() -> Panel:
    """What items wait for."""
    return panel(
        "Why items wait",
        "What do items wait for before they start? How many wait at a time, on average, for a"
        " worker (more of them would help), for a limit or a gate (they would not), or for another"
        " attempt (the service fails).",
        "short",
        8,
    ).with_target(
        # Seconds waited in a second: as many as wait at a time.
        query(
            "A",
            top(
                f"{summed(rate('penstock_item_wait_time_seconds_sum'), 'penstock_wait_cause')} > 0"
            ),
            f"{QUEUE}: {{{{penstock_wait_cause}}}}",
        )
    )


def workers() -> Panel:
    """What the workers of each queue do."""
    return (
        panel(
            "What workers do",
            "Which share of the workers is busy, and which share waits for a limit (dashed)? All"
            " busy: they are the bottleneck, or they hang. Neither: there is nothing to do, or the"
            " queue is paused.",
            "percentunit",
            8,
        )
        .max(1)
        .with_target(query("A", top(share_of_workers("busy")), f"{QUEUE}: busy"))
        .with_target(query("B", top(f"{share_of_workers('limited')} > 0"), f"{QUEUE}: limited"))
        .override_by_query("B", drawn_dashed())
    )


def share_of_workers(state: str) -> str:
    """The share of the workers that is in this state."""
    chosen = CHOSEN.replace("}", f', penstock_worker_state="{state}"}}')
    # A worker is busy now and idle a moment later: the average of some moments says more.
    workers = summed(f"avg_over_time(penstock_worker_count{chosen}[$__rate_interval])")
    of = summed(f"avg_over_time(penstock_worker_count{CHOSEN}[$__rate_interval])")
    return f"{workers} / ({of} > 0)"


def limits() -> Panel:
    """The limits that bind, the gate and the breaker."""
    return (
        panel(
            "Limits, gate and breaker",
            "What holds everything back? The share of each limit that is used, by its name; the"
            " share of the time that the gate was closed because a service asked for a pause; and"
            " circuit breakers that are open (dashed).",
            "percentunit",
            8,
        )
        .with_target(
            query(
                "A",
                top(f"max by ({BY}, penstock_limit_name) ({UTILIZATION})"),
                f"{QUEUE}: {{{{penstock_limit_name}}}}",
            )
        )
        .with_target(
            query(
                "B",
                top(f"{summed(rate('penstock_gate_closed_time_seconds_total'))} > 0"),
                f"{QUEUE}: gate closed",
            )
        )
        .with_target(query("C", top(f"{breakers_open()} > 0"), f"{QUEUE}: breaker open"))
        .override_by_query("C", drawn_dashed())
    )


def breakers_open() -> str:
    """How many breakers are open."""
    chosen = CHOSEN.replace("}", ', penstock_breaker_state="open"}')
    return summed(f"penstock_breaker_state{chosen}")


def failures() -> Panel:
    """Items that did not succeed."""
    chosen = CHOSEN.replace("}", ', penstock_process_outcome!="ok"}')
    return panel(
        "Items that fail",
        "Which items fail for good, how many in a second? By item, and not by attempt: failed;"
        " dead_letter: kept for redrive(); deadline: too late; cancelled.",
        "ops",
        8,
    ).with_target(
        query(
            "A",
            top(
                summed(rate("penstock_process_items_total", chosen), "penstock_process_outcome")
                + " > 0"
            ),
            f"{QUEUE}: {{{{penstock_process_outcome}}}}",
        )
    )


def errors() -> Panel:
    """Failures of worker functions."""
    return panel(
        "Errors by type",
        "What do worker functions and error handlers raise, how often in five minutes? By attempt.",
        "short",
        8,
    ).with_target(
        query(
            "A",
            top(f"{summed(grown('penstock_worker_errors_total'), 'error_type')} > 0"),
            f"{QUEUE}: {{{{error_type}}}}",
        )
    )


def retries() -> Panel:
    """Attempts that are repeated, and items that are given up."""
    return (
        panel(
            "Retries and dead letters",
            "What is tried again, how often in five minutes, and how many items are given up and"
            " kept (right axis)? A retry costs a call and a wait; a dead letter is an item for"
            " redrive().",
            "short",
            8,
        )
        .with_target(
            query(
                "A",
                top(f"{summed(grown('penstock_item_retries_total'), 'error_type')} > 0"),
                f"{QUEUE}: {{{{error_type}}}} tried again",
            )
        )
        .with_target(
            query(
                "B",
                top(f"{summed(f'penstock_dead_letter_items{CHOSEN}')} > 0"),
                f"{QUEUE}: dead letters",
            )
        )
        .override_by_query(
            "B",
            [
                DynamicConfigValue(id_val="unit", value="short"),
                DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
                *drawn_dashed(),
            ],
        )
    )


def puts() -> Panel:
    """Puts by their outcomes."""
    return panel(
        "Puts per second",
        "How much is offered, and are producers turned away? full: refused for want of room;"
        " cancelled: given up while waiting; stopped: the queue stopped meanwhile.",
        "ops",
        8,
    ).with_target(
        query(
            "A",
            top(f"{summed(rate('penstock_put_items_total'), 'penstock_put_outcome')} > 0"),
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
            query(
                "A",
                top(f"{summed(rate('penstock_backpressure_wait_time_seconds_sum'))} > 0"),
                f"{QUEUE}: waiting",
            )
        )
        .with_target(
            query(
                "B",
                top(quantile(0.95, "penstock_backpressure_wait_time_seconds")),
                f"{QUEUE}: p95",
                exemplars=True,
            )
        )
        .override_by_query(
            "B",
            [
                DynamicConfigValue(id_val="unit", value="s"),
                DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
                *drawn_dashed(),
            ],
        )
    )


def percentiles(title: str, question: str, histogram: str) -> Panel:
    """The median and a high percentile, with exemplars: dots that lead to traces."""
    return (
        panel(title, question, "s", 8)
        # Both would show the same exemplars.
        .with_target(query("A", top(quantile(0.95, histogram)), f"{QUEUE}: p95", exemplars=True))
        .with_target(query("B", top(quantile(0.5, histogram)), f"{QUEUE}: p50"))
        .override_by_query("B", drawn_dashed())
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
    """From left to right, from top to bottom: what is stuck, why, what fails, how fast it is."""
    return [
        oldest(),
        saturation(),
        until_done(),
        causes(),
        workers(),
        limits(),
        failures(),
        errors(),
        retries(),
        puts(),
        backpressure(),
        percentiles(
            "Processing time",
            "How long does a call of the worker function take? Failed calls count too. Dots are"
            " single items: each leads to its trace.",
            "penstock_process_duration_seconds",
        ),
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
    made = json.loads(json.dumps(dashboard().build(), cls=JSONEncoder))
    for each in made["templating"]["list"]:
        for name in ("auto", "auto_count", "auto_min"):  # of choices of an interval only
            each.pop(name, None)
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(as_json(), encoding="utf-8")
