"""Draw the panels of the dashboard with matplotlib, from the data of a Prometheus.

    python examples/observability/draw_dashboard.py http://localhost:9090 dashboard.png

For where there is no Grafana to take a picture of: the same queries, the same places, the same
titles, and under each title the question that the panel answers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "penstock-queues.json"
#: How the units of Grafana are written on an axis.
UNITS = {"percentunit": PercentFormatter(1), "s": EngFormatter("s")}
#: Inches; that of a row is a unit of Grafana's grid.
WIDTH, ROW = 18, 0.52
COLOURS = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]


class Prometheus:
    """The queries of Grafana, over one range of time."""

    def __init__(self, url: str, minutes: float, rate_interval: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1/", trust_env=False, timeout=30)
        self.minutes = minutes
        self._range = {"end": time.time(), "start": time.time() - minutes * 60}
        self._step = max(1, round(minutes * 60 / 300))
        self._rate_interval = rate_interval

    def lines(self, expression: str) -> Iterator[tuple[dict[str, str], list[float], list[float]]]:
        """Labels, minutes and values of each series."""
        for series in self._ask("query_range", expression, step=self._step)["result"]:
            times, values = zip(*series["values"], strict=True)
            yield series["metric"], self._minutes(times), [float(value) for value in values]

    def exemplars(self, expression: str) -> tuple[list[float], list[float]]:
        """Minutes and values of single items."""
        found = [
            (exemplar["timestamp"], float(exemplar["value"]))
            for series in self._ask("query_exemplars", expression)
            for exemplar in series["exemplars"]
        ]
        return self._minutes(moment for moment, _ in found), [value for _, value in found]

    def _minutes(self, moments: Iterable[float]) -> list[float]:
        return [(moment - self._range["start"]) / 60 for moment in moments]

    def _ask(self, what: str, expression: str, **more: Any) -> Any:
        for name, value in (
            ("$__rate_interval", self._rate_interval),
            ("$__range", f"{self.minutes * 60:.0f}s"),
            ("$job", ".*"),
            ("$queue", ".*"),
        ):
            expression = expression.replace(name, value)
        parameters = {"query": expression, **self._range, **more}
        return self._client.get(what, params=parameters).raise_for_status().json()["data"]


def draw(dashboard: dict[str, Any], data: Prometheus) -> Figure:
    """All panels in their places."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    rows = max(place["y"] + place["h"] for place in places)
    figure = Figure(figsize=(WIDTH, rows * ROW))
    for panel, place in zip(dashboard["panels"], places, strict=True):
        # A part of the figure, with room for the title, the numbers at the axes, and the legend.
        x, y = place["x"] / 24, 1 - (place["y"] + place["h"]) / rows
        width, height = place["w"] / 24, place["h"] / rows
        box = (x + 0.037, y + 0.35 * height, width - 0.08, 0.45 * height)
        axes = figure.add_axes(box)
        axes.set_xlim(0, data.minutes)
        question = panel["description"].partition("?")[0] + "?"
        lines = textwrap.wrap(question, round(place["w"] * 8))
        pad = 12 + 14 * len(lines)
        axes.set_title(panel["title"], loc="left", fontsize=13, fontweight="bold", pad=pad)
        axes.annotate(
            "\n".join(lines), (0, 1), (0, 5), "axes fraction", "offset points", color="0.35"
        )
        draw_panel(axes, panel, data)
    figure.text(0.995, 0.003, "minutes", ha="right", color="0.35")
    return figure


def draw_panel(axes: Axes, panel: dict[str, Any], data: Prometheus) -> None:
    """Every query of one panel."""
    settings = panel["fieldConfig"]
    axes.grid(alpha=0.3)
    _unit(axes, settings["defaults"]["unit"])
    used = [axes]
    colours = itertools.cycle(COLOURS)
    for target in panel["targets"]:
        special = _special(settings["overrides"], target["refId"])
        if special.get("custom.axisPlacement") == "right":
            used.append(axes.twinx())
            _unit(used[-1], special["unit"])
        style = "--" if "custom.lineStyle" in special else "-"
        for labels, minutes, values in data.lines(target["expr"]):
            legend = target["legendFormat"]
            for name, value in labels.items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            legend = legend.removeprefix(f"{labels.get('job')} ")
            used[-1].plot(minutes, values, style, color=next(colours), label=legend, linewidth=1.8)
        if target["exemplar"]:
            minutes, values = data.exemplars(target["expr"])
            used[-1].plot(minutes, values, ".", color="0.6", ms=3, label="exemplars")
    for step in settings["defaults"].get("thresholds", {}).get("steps", ()):
        if step["value"] is not None:
            axes.axhline(step["value"], color=step["color"], linestyle=":")
    for each in used:
        each.set_ylim(bottom=0)
    lines = [line for each in used for line in each.get_lines()]
    named = [line for line in lines if not str(line.get_label()).startswith("_")]
    # As in Grafana: below the lines, and the largest first.
    named.sort(key=_last, reverse=True)
    longest = max((len(str(line.get_label())) for line in named), default=0)
    axes.legend(
        handles=named,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(-0.08, -0.1),
        frameon=False,
        ncols=max(1, min(4, 84 // (longest + 8))),
        columnspacing=1,
        handlelength=1.4,
    )


def _last(line: Line2D) -> float:
    values = [value for value in np.asarray(line.get_ydata(), float) if not math.isnan(value)]
    return values[-1] if values else -math.inf


def _special(overrides: list[dict[str, Any]], ref: str) -> dict[str, Any]:
    return {
        each["id"]: each["value"]
        for override in overrides
        if override["matcher"]["options"] == ref
        for each in override["properties"]
    }


def _unit(axes: Axes, unit: str) -> None:
    formatter = UNITS.get(unit)
    if formatter is not None:
        axes.yaxis.set_major_formatter(formatter)


def main() -> None:
    """Draw it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("prometheus", help="its URL")
    parser.add_argument("output", help="the PNG to write", type=Path)
    parser.add_argument("--minutes", type=float, default=30, help="up to now (30)")
    parser.add_argument("--rate-interval", default="1m", help="what rates are taken over (1m)")
    arguments = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    data = Prometheus(arguments.prometheus, arguments.minutes, arguments.rate_interval)
    draw(dashboard, data).savefig(arguments.output, dpi=62)


if __name__ == "__main__":
    main()
