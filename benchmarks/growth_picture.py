"""The picture of ``growth.py``: what each thing costs when there are more of them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).with_name("growth.svg")

#: By the name of a series, the CPU seconds of all of it for so many things.
Curves = Mapping[str, Mapping[int, float]]

_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "penstock", "font.family": "sans-serif"}


def draw(panels: Mapping[str, Curves]) -> None:
    """Draw a panel for each group of series, both axes logarithmic, and write it down.

    What is linear is flat, since each thing costs the same. What is not climbs, and where the cost
    is that of the square it climbs as the dotted lines do.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(10, 2.5 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            _panel(axis, curves)
            axis.set_title(title, fontsize=11, loc="left")
        axes[-1].set_xlabel("how many")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)
    PICTURE.write_text(text, encoding="utf-8")


def _panel(axis: Any, curves: Curves) -> None:
    import matplotlib as mpl

    axis.set(xscale="log", yscale="log", xlim=(0.7, 2e7))
    for number, (name, costs) in enumerate(curves.items()):
        each = [seconds / n * 1e6 for n, seconds in costs.items()]
        colour = mpl.colormaps["tab10"](number % 10)
        axis.plot(list(costs), each, "o-", markersize=3.5, linewidth=1.4, color=colour, label=name)
    low, high = axis.get_ylim()
    axis.set_ylim(low / 2, high * 2)
    for start in (1e-8, 1e-6, 1e-4, 1e-2, 1.0):
        ends = (0.7, 2e7)
        axis.plot(ends, [start * 1e2 * n for n in ends], ":", color="0.75", linewidth=0.8)
    axis.set_ylabel("CPU µs each", fontsize=9)
    axis.minorticks_off()
    axis.tick_params(labelsize=8, labelbottom=True)
    axis.grid(color="0.92", linewidth=0.6)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
