"""Threads that put, against their peers: ``python -m benchmarks.threads``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks import harness
from benchmarks.harness import Contest, Contestant, Goal, Spread
from benchmarks.queue_clients import do_nothing, plain
from benchmarks.thread_clients import (
    ASYNC,
    EXECUTOR,
    JANUS,
    MANY,
    PENSTOCK,
    PLAIN,
    Flow,
    Run,
    burn,
)

#: Items in a slice of those that are given something to do.
BUSY = 320


class ThreadContest(Contest):
    """Wall time and what single puts took, besides CPU time."""

    def __init__(
        self,
        title: str,
        baseline: str,
        names: dict[str, tuple[Run, int]],
        flow: Callable[[], Flow],
        most: int = MANY,
        goal: float | None = None,
    ) -> None:
        self.flows = {name: flow() for name in names}
        super().__init__(
            title,
            baseline,
            [
                Contestant(name, partial(run, self.flows[name]), min(items, most))
                for name, (run, items) in names.items()
            ],
            {} if goal is None else {PENSTOCK: goal},
        )

    def forget(self) -> None:
        super().forget()
        for flow in self.flows.values():
            flow.walls.clear()
            flow.puts.clear()

    def wall_ratio(self, name: str) -> Spread:
        """How much longer than the baseline a contestant takes."""
        pairs = zip(self.flows[name].walls, self.flows[self.baseline].walls, strict=True)
        return Spread.of([wall / base for wall, base in pairs])

    def reached(self) -> list[Goal]:
        """The goals in CPU time, and beside each what it is in wall time."""
        goals = []
        for name, bound in self.goals.items():
            what = f"{self.title}: {name} against {self.baseline}"
            goals += [
                Goal(f"{what}, CPU time", bound, self.ratio(name).median),
                Goal(f"{what}, wall time", bound, self.wall_ratio(name).median),
            ]
        return goals

    def table(self) -> str:
        rows = []
        for name, flow in self.flows.items():
            is_baseline = name == self.baseline
            cpu, wall = self.ratio(name), self.wall_ratio(name)
            rows.append(
                (
                    f"**{name}**" if name in self.goals else name,
                    f"{statistics.median(self.times[name]) * 1e6:.1f}",
                    "1" if is_baseline else f"{cpu.median:.2f}",
                    "" if is_baseline else f"{cpu.low:.2f} to {cpu.high:.2f}",
                    f"{statistics.median(flow.walls) * 1e6:.1f}",
                    "1" if is_baseline else f"{wall.median:.2f}",
                    f"{median_of(flow.puts, 0.5) * 1e6:.0f}",
                    f"{median_of(flow.puts, 0.99) * 1e6:.0f}",
                    f"{median_of(flow.puts, 1) * 1e3:.1f}",
                    f"{max(puts[-1] for puts in flow.puts) * 1e3:.1f}",
                )
            )
        head = (
            *("", "CPU µs per item", "ratio", "quartiles", "wall µs per item", "ratio"),
            *("put p50 µs", "p99 µs", "longest ms", "of all rounds ms"),
        )
        return harness.table(head, rows)


def median_of(slices: Sequence[Sequence[float]], share: float) -> float:
    """The median, over the slices, of the figure below which this share of a slice is."""
    return statistics.median(
        figures[min(int(share * len(figures)), len(figures) - 1)] for figures in slices
    )


def contests() -> list[ThreadContest]:
    found = []
    for kind, work, baseline, names in (
        ("async workers", do_nothing, JANUS, ASYNC),
        ("plain workers", plain, EXECUTOR, PLAIN),
    ):
        for producers in (1, 4, 16):
            threads = "One thread puts" if producers == 1 else f"{producers} threads put"
            found.append(
                ThreadContest(
                    f"{threads}, {kind}",
                    baseline,
                    names,
                    partial(Flow, work, producers),
                    goal=1.0 if producers == 4 or names is PLAIN else None,
                )
            )
    for title, rest in (
        ("4 threads put, async workers that keep the event loop busy", 0.0),
        ("The same at less than half the pace: there is always room", 0.002),
    ):
        found.append(ThreadContest(title, JANUS, ASYNC, partial(Flow, burn, 4, rest), BUSY))
    return found


def main() -> None:
    options = harness.options("Compare a queue for threads with its peers.", rounds=30)
    held = contests()
    harness.hold(held, options)
    about = harness.surroundings(("penstock", "anyio", "janus"))
    goals = [goal for contest in held for goal in contest.reached()]
    report = harness.report(f"{about}; {options.rounds} rounds", goals, held)
    harness.publish("threads", report, write=options.write)


if __name__ == "__main__":
    main()
