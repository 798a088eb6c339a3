"""The picture of a soak: what was sampled, over time."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.soak_samples import Rows

mpl.use("svg")
import matplotlib.pyplot as plt

#: By title and unit: the columns that share a panel, and what to call them.
PANELS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("memory, MB", False, {"rss_mb": "RSS"}),
    ("how many", False, {"threads": "threads", "fds": "file descriptors", "tasks": "tasks"}),
    (
        "put, ms",
        True,
        {
            "put_async_p50_ms": "async, median",
            "put_async_p99_ms": "async, 99 %",
            "put_threads_p50_ms": "threads, median",
            "put_threads_p99_ms": "threads, 99 %",
        },
    ),
    (
        "put to end, ms",
        True,
        {
            "trip_async_p50_ms": "async, median",
            "trip_async_p99_ms": "async, 99 %",
            "trip_threads_p50_ms": "threads, median",
            "trip_threads_p99_ms": "threads, 99 %",
        },
    ),
    (
        "put to end, ms",
        True,
        {
            "trip_service_p50_ms": "service, median",
            "trip_service_p99_ms": "service, 99 %",
        },
    ),
    (
        "items a second",
        False,
        {"ended_async_per_s": "async", "ended_threads_per_s": "threads"},
    ),
    ("CPU, %", False, {"cpu_percent": "of one core"}),
    ("spans", False, {"spans_waiting": "waiting in the SDK"}),
    ("spans", False, {"spans_sent": "sent so far", "spans_dropped": "dropped so far"}),
)
_SHADES = ("#ffffff", "#fff3d6", "#fde3e0", "#f5d0d6")


def draw(path: Path, rows: Rows, phases: Sequence[str], title: str) -> None:
    """Write an SVG."""
    mpl.rcParams.update({"svg.hashsalt": "penstock", "svg.fonttype": "none", "font.size": 8})
    figure, axes = plt.subplots(
        len(PANELS), sharex=True, figsize=(9, 1.6 * len(PANELS)), layout="constrained"
    )
    minutes = [row["seconds"] / 60 for row in rows]
    for axis, (label, is_log, lines) in zip(axes, PANELS, strict=True):
        for column, name in lines.items():
            axis.plot(minutes, [row[column] for row in rows], label=name, linewidth=0.8)
        axis.set_ylabel(label)
        if is_log:
            axis.set_yscale("log")
            axis.minorticks_off()
        else:
            axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        axis.grid(visible=True, linewidth=0.3)
        _shade(axis, rows, phases)
    axes[-1].set_xlabel("minutes")
    for begin, _, number in _spans(rows):
        axes[0].text(begin, 1.02, phases[number], transform=axes[0].get_xaxis_transform())
    figure.suptitle(title)
    with io.StringIO() as svg:
        figure.savefig(svg, format="svg", metadata={"Date": None})
        # A tenth of a pixel is all that anyone can see.
        path.write_text(re.sub(r"(\d\.\d)\d+", r"\1", svg.getvalue()), encoding="utf-8")
    plt.close(figure)


def _shade(axis: Any, rows: Rows, phases: Sequence[str]) -> None:
    for begin, end, number in _spans(rows):
        axis.axvspan(begin, end, color=_SHADES[number % len(_SHADES)], zorder=0, linewidth=0)
    axis.set_xlim(0, rows[-1]["seconds"] / 60)


def _spans(rows: Rows) -> list[tuple[float, float, int]]:
    """When each phase began and ended, in minutes."""
    found = []
    for number in sorted({int(row["phase"]) for row in rows}):
        times = [row["seconds"] / 60 for row in rows if row["phase"] == number]
        found.append((times[0], times[-1], number))
    return found
