"""Ratios that hold on a noisy machine: short slices of all contestants, in turn, in one process.

Two whole runs of the same program differ by a third on a shared machine. Two slices of some tens
of milliseconds, one right after the other, meet the same weather. So a contest goes in rounds;
each contestant runs one slice a round, in an order drawn anew; the ratio to the baseline is taken
within the round, and what is told is the median over the rounds, with the quartiles.

Times are of the CPU, of all threads of the process.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

README = Path(__file__).with_name("README.md")


@dataclass(frozen=True)
class Contestant:
    """One way to do the job.

    ``run(items)`` does it for so many items and returns the seconds of CPU that this took, without
    what came before and after. ``items`` is the size of a slice: smaller for the slow ones.
    """

    name: str
    run: Callable[[int], float]
    items: int


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of some figures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The spread of ``figures``; with a single one there is none."""
        if len(figures) == 1:
            return cls(figures[0], figures[0], figures[0])
        return cls(*statistics.quantiles(figures, n=4, method="inclusive"))


@dataclass
class Contest:
    """Some contestants, and the one that the others are compared with."""

    title: str
    baseline: str
    contestants: Sequence[Contestant]
    #: The highest ratio that we want to see, by the names of contestants.
    goals: dict[str, float] = field(default_factory=dict)
    #: Seconds per item, by the names of contestants, a figure a round.
    times: dict[str, list[float]] = field(default_factory=dict)

    def hold(self, rounds: int, scale: float = 1.0) -> None:
        """Run so many rounds, and one before them that does not count."""
        order = list(self.contestants)
        self.times = {contestant.name: [] for contestant in order}
        # What was made before is not for the contestants' garbage collections to look through.
        gc.collect()
        gc.freeze()
        for number in range(rounds + 1):
            random.shuffle(order)
            for contestant in order:
                items = int(contestant.items * scale)
                gc.collect()
                seconds = contestant.run(items)
                if number:
                    self.times[contestant.name].append(seconds / items)

    def ratio(self, name: str) -> Spread:
        """How much more than the baseline a contestant takes."""
        pairs = zip(self.times[name], self.times[self.baseline], strict=True)
        return Spread.of([time / base for time, base in pairs])

    def table(self) -> str:
        """The outcome in Markdown."""
        rows = []
        for name, times in self.times.items():
            time, ratio = Spread.of([time * 1e6 for time in times]), self.ratio(name)
            rows.append(
                (
                    f"**{name}**" if name in self.goals else name,
                    f"{time.median:.2f}",
                    f"{time.low:.2f} to {time.high:.2f}",
                    "1" if name == self.baseline else f"{ratio.median:.2f}",
                    "" if name == self.baseline else f"{ratio.low:.2f} to {ratio.high:.2f}",
                )
            )
        return table(("", "µs per item", "quartiles", "ratio", "quartiles"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: words to the left, figures to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals(contests: Iterable[Contest]) -> list[tuple[str, str, str, str]]:
    """Rows that set the goals of all contests beside what came out."""
    rows = []
    for contest in contests:
        for name, goal in contest.goals.items():
            ratio = contest.ratio(name)
            rows.append(
                (
                    f"{contest.title}: {name} against {contest.baseline}",
                    f"≤ {goal:.2f}",
                    f"{ratio.median:.2f}",
                    verdict(ratio.median, goal, "{:.2f}"),
                )
            )
    return rows


def verdict(figure: float, goal: float, form: str) -> str:
    """Whether a goal is met, by the figures as they are shown."""
    return "met" if float(form.format(figure)) <= goal else "**missed**"


def surroundings(packages: Iterable[str]) -> str:
    """The machine and the versions, in a line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()}, {_processor()}, {os.cpu_count()} cores"
    return "; ".join([system, python, ", ".join(map(_version, packages))])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    quick: bool
    rounds: int
    #: What to multiply the sizes of slices by.
    scale: float
    write: bool


def options(description: str, rounds: int) -> Options:
    """Read the command line that all benchmarks have: quick, rounds, write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="three short rounds: rough figures")
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put the report into README.md")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.quick and given.write:
        parser.error("the figures of --quick are too rough for --write")
    if given.quick:
        return Options(quick=True, rounds=3, scale=0.2, write=False)
    return Options(quick=False, rounds=given.rounds, scale=1.0, write=given.write)


def publish(section: str, report: str, *, write: bool) -> None:
    """Print the report, or put it into the README, in the section between this one's marks."""
    if not write:
        print(report)
        return
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    text = README.read_text(encoding="utf-8")
    if begin not in text:
        text = f"{text}\n## {section.capitalize()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{report}\n{end}{after}", encoding="utf-8")
