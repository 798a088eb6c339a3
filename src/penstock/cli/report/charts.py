"""The pictures of a report: matplotlib draws them as SVG that stands in the page.

Colours are those of the page, light or dark, and what the pointer is on tells its figures: without
any script.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from penstock.cli.run.history import Segment
from penstock.cli.run.meter import duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What stands for the colours of the page while matplotlib draws.
COLOURS = {
    "good": "#010101",
    "bad": "#010102",
    "warn": "#010103",
    "other": "#010104",
    "ink": "#010105",
    "soft": "#010106",
    "grid": "#010107",
}
#: Points; on a phone one is about a pixel.
_WIDTH, _HEIGHT, _TEXT = 330, 146, 9
#: Points left of a picture, right of it, above and below: the same, so that they are in line.
_LEFT, _RIGHT, _TOP, _BOTTOM = 31, 3, 5, 17
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "font.size": _TEXT,
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "text.color": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "path.simplify": False,
}
#: A wide line can be seen below another one.
_LINES: dict[str, Any] = {
    "line": {"linewidth": 1.5},
    "wide": {"linewidth": 3.5, "alpha": 0.55},
    "dashes": {"linewidth": 1.1, "linestyle": (0, (4, 2))},
}
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

#: Times, one for each piece, or nothing where nothing is known.
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One row of figures in a chart. ``kind``: area, bars, line, wide (a line) or dashes."""

    name: str
    colour: str
    values: Values
    kind: str = "line"


@dataclass(frozen=True)
class TimeChart:
    """Figures over the time of a run; areas and bars lie on top of each other."""

    key: str
    title: str
    unit: str
    series: Sequence[Series]
    #: From ten to a hundred as far as from one to ten, where the figures lie far apart.
    may_be_logarithmic: bool = False


@dataclass(frozen=True)
class Count:
    """How often something happened."""

    name: str
    count: int
    colour: str


def draw_times(chart: TimeChart, pieces: Sequence[Segment]) -> str:
    """The chart as SVG."""
    with _figure(_HEIGHT, is_in_line=True) as (figure, axes):
        _draw_held_up(axes, pieces)
        floor: list[float] = [0.0] * len(pieces)
        for series in chart.series:
            _draw_series(axes, series, pieces, floor)
        known = [value for series in chart.series for value in series.values if value]
        if chart.may_be_logarithmic and known and max(known) > 20 * min(known):
            axes.set_yscale("log")
            axes.set_ylim(min(known) / 1.5, max(known) * 1.5)
        else:
            axes.set_ylim(0, max([*known, *floor, 1e-9]) * 1.08)
        axes.yaxis.set_major_formatter(lambda value, _: _short(float(value)))
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        _time_axis(axes, pieces[-1].end)
        svg = _svg(figure, chart.key)
        return svg.removesuffix("</svg>") + _panes(axes, chart, pieces) + "</svg>"


def draw_counts(key: str, counts: Sequence[Count]) -> str:
    """Bars as long as the counts, the first on top, as SVG."""
    with _figure(24 + 20 * len(counts)) as (figure, axes):
        most = max(one.count for one in counts)
        for place, one in enumerate(counts):
            axes.barh(place, one.count, 0.62, color=COLOURS[one.colour])
            axes.text(one.count + most / 100, place, f"{one.count:,}", va="center", ha="left")
        names = [one.name for one in counts]
        axes.set_yticks(range(len(counts)), names, color=COLOURS["ink"])
        axes.set_xlim(0, most * 1.12)
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, key)


@contextmanager
def _figure(height: float, *, is_in_line: bool = False) -> Iterator[tuple[Figure, Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.style import context

    with context(["default", _SETTINGS]):  # whatever the user has set up
        size = (_WIDTH / 72, height / 72)
        figure = Figure(figsize=size, layout=None if is_in_line else "constrained")
        axes = figure.add_subplot()
        if is_in_line:
            width, tall = _WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
            box = (_LEFT / _WIDTH, _BOTTOM / height, width / _WIDTH, tall / height)
            axes.set_position(box)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(visible=True, axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        yield figure, axes


def _draw_series(axes: Axes, series: Series, pieces: Sequence[Segment], floor: list[float]) -> None:
    colour = COLOURS[series.colour]
    edges = [piece.begin for piece in pieces] + [pieces[-1].end]
    if series.kind in ("area", "bars"):
        top = [low + (value or 0.0) for low, value in zip(floor, series.values, strict=True)]
        if any(series.values):
            alpha = 0.75 if series.kind == "area" else 1.0
            axes.stairs(top, edges, baseline=list(floor), fill=True, color=colour, alpha=alpha)
        floor[:] = top
        return
    known = [
        ((piece.begin + piece.end) / 2, value)
        for piece, value in zip(pieces, series.values, strict=True)
        if value is not None
    ]
    if known:  # to both ends, so that one alone can be seen too
        known = [(pieces[0].begin, known[0][1]), *known, (pieces[-1].end, known[-1][1])]
        times, values = zip(*known, strict=True)
        look = _LINES[series.kind]
        axes.plot(times, values, color=colour, **look)


def _draw_held_up(axes: Axes, pieces: Sequence[Segment]) -> None:
    """A strip along the top, as dark as the share of the time."""
    for piece in pieces:
        share = piece.of.held_up.mean
        if share:
            axes.axvspan(
                *(piece.begin, piece.end, 0.965, 1),
                color=COLOURS["warn"],
                alpha=min(1.0, share),
                linewidth=0,
            )


def _panes(axes: Axes, chart: TimeChart, pieces: Sequence[Segment]) -> str:
    """A pane over each piece, which nobody sees until it is pointed at; then it tells figures."""
    box = axes.get_position()
    left, width = box.x0 * _WIDTH, box.width * _WIDTH
    top, height = (1 - box.y1) * _HEIGHT, box.height * _HEIGHT
    panes = []
    for index, piece in enumerate(pieces):
        told = [f"{duration(piece.begin)} to {duration(piece.end)}"]
        for series in chart.series:
            value = series.values[index]
            if value is not None:
                told.append(f"{series.name}: {number(value)} {chart.unit}".rstrip())
        begin, wide = (width * s / pieces[-1].end for s in (piece.begin, piece.seconds))
        panes.append(
            f'<rect class="pane" x="{left + begin:.2f}" y="{top:.2f}" width="{wide:.2f}" '
            f'height="{height:.2f}"><title>{escape(chr(10).join(told))}</title></rect>'
        )
    return "\n".join(panes)


def _short(value: float) -> str:
    """A number that fits beside a picture."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return number(value)


def _time_axis(axes: Axes, end: float) -> None:
    from matplotlib.ticker import MultipleLocator

    step = next((step for step in _STEPS if end / step <= 6.5), math.ceil(end / 6 / 86400) * 86400)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(_clock(step))
    axes.set_xlim(0, end)


def _clock(step: float) -> Callable[[float, float], str]:
    def told(at: float, _: float) -> str:
        seconds = round(at)
        if step < 60:
            return f"{seconds} s" if seconds < 60 else f"{seconds // 60}:{seconds % 60:02}"
        if step < 3600:
            return f"{seconds // 60} min"
        return f"{seconds // 3600} h"

    return told


def _svg(figure: Figure, key: str) -> str:
    """The figure as SVG that can stand in a page beside others."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": key}):  # what is referred to has a name of its own
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, stand_in in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # that of the page
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    size = r' (?:width|height)="[0-9.]+pt"'
    head, rest = svg.split(">", 1)
    return re.sub(size, "", head) + ' aria-hidden="true">' + re.sub(r"\n\s*", "\n", rest).strip()
