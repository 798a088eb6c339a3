"""How cost grows with the number of things: ``python -m benchmarks.growth``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks import harness
from benchmarks.growth_limits import LIMITS
from benchmarks.growth_picture import draw
from benchmarks.growth_queue import MANY_ITEMS, MANY_WORKERS
from benchmarks.growth_series import Scale, Series, Stopwatch
from benchmarks.growth_threads import THREADS
from benchmarks.growth_waiters import MANY_WAITERS
from benchmarks.harness import Goal

#: What is "not worse than linear": tenfold the number costs at most twenty times as much. What
#: grows with n log n, or leaves the caches of the processor, stays below; a square is far above.
TOLERANCE = 1.3
#: Seconds of CPU that a sample of a small number is made to take, and those after which there are
#: enough samples of a great one.
LEAST, ENOUGH = 0.02, 5.0


@dataclass
class Growth:
    """A series, and what came out, by the number of things."""

    series: Series
    #: Seconds that all of it took, a figure a round.
    cpu: dict[int, list[float]] = field(default_factory=dict)
    wall: dict[int, list[float]] = field(default_factory=dict)
    #: Bytes of all of it.
    bytes: dict[int, float] = field(default_factory=dict)

    def hold(self, rounds: int, *, quick: bool) -> None:
        """Measure, the small numbers and the great ones in turn."""
        sizes = self.series.sizes[: 2 if quick else None]
        self.cpu, self.wall = {n: [] for n in sizes}, {n: [] for n in sizes}
        times = {n: 1 if quick or n == sizes[-1] else self._times(n) for n in sizes}
        for _ in range(rounds):
            for n in sizes:
                if sum(self.cpu[n]) < ENOUGH:
                    self._sample(n, times[n])
        if self.series.weigh is not None:
            self.series.weigh(1, Scale())  # which also weighs what is made once
            for n in sizes:
                if n <= self.series.most_weighed:
                    scale = Scale()
                    self.series.weigh(n, scale)
                    self.bytes[n] = scale.bytes

    def _times(self, n: int) -> int:
        """How often a number is to be run so that its time can be told, also as a warm-up."""
        watch = Stopwatch()
        self.series.act(n, watch)
        return math.ceil(LEAST / max(watch.cpu, LEAST / 100))

    def _sample(self, n: int, times: int) -> None:
        gc.collect()
        watch = Stopwatch()
        for _ in range(times):
            self.series.act(n, watch)
        self.cpu[n].append(watch.cpu / times)
        self.wall[n].append(watch.wall / times)

    def costs(self) -> dict[int, float]:
        """The CPU time of all of it: the median of the rounds."""
        return {n: statistics.median(figures) for n, figures in self.cpu.items()}

    def walls(self) -> dict[int, float]:
        """The same by the clock."""
        return {n: statistics.median(figures) for n, figures in self.wall.items()}


def exponents(costs: Mapping[int, float]) -> dict[int, float]:
    """By which power cost grew from one number to the next; 1: as the number did."""
    sizes = sorted(costs)
    return {
        n: math.log(max(costs[n], 1e-9) / max(costs[before], 1e-9)) / math.log(n / before)
        for before, n in itertools.pairwise(sizes)
    }


@dataclass
class Group:
    """Some series that stand in one table, and the worst of them."""

    title: str
    growths: list[Growth]

    def worst(self) -> tuple[float, str]:
        """The greatest power by which the CPU time of one of them grew, and where that was."""
        found = [
            (exponent, f"{growth.series.name}, at {number(n)}")
            for growth in self.growths
            for n, exponent in exponents(growth.costs()).items()
        ]
        return max(found)

    def reached(self) -> list[Goal]:
        """Whether nothing grows faster than it may."""
        worst, where = self.worst()
        return [Goal(f"Nothing worse than linear, {self.title.lower()}: {where}", TOLERANCE, worst)]

    def table(self) -> str:
        """Microseconds of each thing, and the exponents."""
        return _table({growth.series.name: growth.costs() for growth in self.growths}, 1e6)

    def wall_table(self) -> str:
        """The same by the clock, which holds whatever else the machine does."""
        walls = {growth.series.name: growth.walls() for growth in self.growths}
        return _table(walls, 1e6, marks=False)

    def bytes_table(self) -> str:
        """Bytes of each thing."""
        return _table({growth.series.name: growth.bytes for growth in self.growths}, 1)


def _table(rows: Mapping[str, Mapping[int, float]], unit: float, *, marks: bool = True) -> str:
    rows = {name: costs for name, costs in rows.items() if costs}
    sizes = sorted({n for costs in rows.values() for n in costs})
    lines = []
    for name, costs in rows.items():
        powers = exponents(costs)
        cells = (_cell(costs, powers, n, unit) for n in sizes)
        worst = max(powers.values())
        mark = "**" if marks and worst > TOLERANCE else ""
        lines.append((name, *cells, f"{mark}{worst:.2f}{mark}"))
    return harness.table(("", *map(number, sizes), "worst"), lines)


def _cell(costs: Mapping[int, float], powers: Mapping[int, float], n: int, unit: float) -> str:
    if n not in costs:
        return ""
    each = costs[n] / n * unit
    text = f"{each:.2f}" if each < 10 else f"{each:,.0f}"
    return f"{text} ({powers[n]:.2f})" if n in powers else text


def number(n: int) -> str:
    """A number as the tables have it."""
    return f"{n:,}"


def above_linear(growths: Iterable[Growth]) -> list[str]:
    """What grows faster than it may, and where."""
    return [
        f"{growth.series.name} ({exponent:.2f} up to {number(n)})"
        for growth in growths
        for n, exponent in exponents(growth.costs()).items()
        if exponent > TOLERANCE
    ]


def verdict(growths: Sequence[Growth]) -> str:
    """In a sentence, what came out."""
    faster = above_linear(growths)
    if not faster:
        return f"**Nothing is worse than linear**: no exponent is above {TOLERANCE}."
    return f"**Worse than linear**, by an exponent above {TOLERANCE}: {'; '.join(faster)}."


def main() -> None:
    options = harness.options("Measure how cost grows.", rounds=5)
    groups = [
        Group(title, [Growth(series) for series in members])
        for title, members in (
            ("Many items", MANY_ITEMS),
            ("Many workers and queues", MANY_WORKERS),
            ("Many who wait", MANY_WAITERS),
            ("Limits", LIMITS),
            ("Threads", THREADS),
        )
    ]
    growths = [growth for group in groups for growth in group.growths]
    for growth in growths:
        begin = perf_counter()
        growth.hold(options.rounds, quick=options.quick)
        print(f"{perf_counter() - begin:5.1f} s  {growth.series.name}", file=sys.stderr)

    about = f"{harness.surroundings(['penstock'])}; {options.rounds} rounds"
    goals = [goal for group in groups for goal in group.reached()]
    everything = Group("Memory", growths)
    more = (
        "### Threads, by the clock",
        groups[-1].wall_table(),
        "### Bytes",
        everything.bytes_table(),
    )
    report = harness.report(about, goals, groups, *more)
    harness.publish("growth", f"{verdict(growths)}\n\n{report}", write=options.write)
    if options.write:
        panels = {group.title: _curves(group) for group in groups}
        draw(panels)


def _curves(group: Group) -> dict[str, dict[int, float]]:
    return {growth.series.name: growth.costs() for growth in group.growths}


if __name__ == "__main__":
    main()
