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
import logging
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

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

    def hold(self, rounds: int, scale: float = 1.0, *, warm_up: bool = True) -> None:
        """Run so many rounds, and one before them that does not count."""
        order = list(self.contestants)
        self.forget()
        # What was made before is not for the contestants' garbage collections to look through.
        gc.collect()
        gc.freeze()
        for number in range(rounds + warm_up):
            if number == warm_up:
                self.forget()
            random.shuffle(order)
            for contestant in order:
                items = int(contestant.items * scale)
                gc.collect()
                self.times[contestant.name].append(contestant.run(items) / items)

    def forget(self) -> None:
        """Nothing has been measured."""
        self.times = {contestant.name: [] for contestant in self.contestants}

    def ratio(self, name: str) -> Spread:
        """How much more than the baseline a contestant takes."""
        pairs = zip(self.times[name], self.times[self.baseline], strict=True)
        return Spread.of([time / base for time, base in pairs])

    def reached(self) -> list[Goal]:
        """The goals, with what came out."""
        return [
            Goal(f"{self.title}: {name} against {self.baseline}", bound, self.ratio(name).median)
            for name, bound in self.goals.items()
        ]

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


@dataclass(frozen=True)
class Goal:
    """A figure that we want to see, and the one that there is."""

    what: str
    bound: float
    figure: float
    form: str = "{:.2f}"
    #: The figure is to be at least the bound, and not at most.
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is met, by the figures as they are shown."""
        shown = float(self.form.format(self.figure))
        return shown >= self.bound if self.at_least else shown <= self.bound

    def row(self) -> tuple[str, str, str, str]:
        """Its line in a table of goals."""
        bound = f"{'≥' if self.at_least else '≤'} {self.form.format(self.bound)}"
        verdict = "met" if self.is_met else "**missed**"
        return self.what, bound, self.form.format(self.figure), verdict


#: The head of every table of goals, by which ``goals_in`` knows it.
_GOALS_HEAD = ("goal", "", "figure", "")


def table_of_goals(goals: Iterable[Goal]) -> str:
    """What was wanted, and what came out."""
    return table(_GOALS_HEAD, [goal.row() for goal in goals])


def goals_in(report: str) -> list[str]:
    """The lines of the tables of goals in a report."""
    tables = report.split(table_of_goals([]) + "\n")[1:]
    return [line for text in tables for line in text.partition("\n\n")[0].splitlines()]


def surroundings(packages: Iterable[str]) -> str:
    """The machine, how busy it is, the versions and the day, in a line."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()}, {_processor()}, {os.cpu_count()} cores"
    if hasattr(os, "getloadavg"):
        system += f", load {os.getloadavg()[1]:.0f}"  # of the last five minutes
    day = datetime.now().strftime("%Y-%m-%d")
    return "; ".join([day, system, python, ", ".join(map(_version, packages))])


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
    # A handler that does nothing: what the contests refuse and drop is not for the screen.
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    add_modes(parser)
    given = parser.parse_args()
    check_modes(parser, given)
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.quick:
        return Options(quick=True, rounds=1, scale=0.1, write=False)
    return Options(quick=False, rounds=given.rounds, scale=1.0, write=given.write)


def add_modes(parser: argparse.ArgumentParser) -> None:
    """Let one ask for quick, or for write."""
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--write", action="store_true", help="put the report into README.md, too")


def check_modes(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse both at once."""
    if given.quick and given.write:
        parser.error("the figures of --quick are too rough for --write")


def hold(contests: Iterable[Contest], options: Options) -> None:
    """Hold one contest after the other, and say which."""
    for contest in contests:
        print(contest.title, file=sys.stderr)
        contest.hold(options.rounds, options.scale, warm_up=not options.quick)


class Told(Protocol):
    """What has a title and a table."""

    title: str

    def table(self) -> str: ...


def report(about: str, goals: Iterable[Goal], contests: Iterable[Told], *more: str) -> str:
    """What came out, in Markdown."""
    parts = [f"{about}.", table_of_goals(goals)]
    for contest in contests:
        parts += [f"### {contest.title}", contest.table()]
    return "\n\n".join([*parts, *more])


def publish(section: str, report: str, *, write: bool) -> None:
    """Print the report, and put it into the README, between the marks of its section."""
    print(report)
    if write:
        put_into_readme(section, report)


def put_into_readme(section: str, report: str) -> None:
    """Replace what is between the marks of the section, which is made if there is none."""
    begin, end = _marks(section)
    text = README.read_text(encoding="utf-8")
    if begin not in text:
        text = f"{text}\n## {section.capitalize()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{report}\n{end}{after}", encoding="utf-8")


def in_readme(section: str) -> str:
    """What is between the marks of the section."""
    begin, end = _marks(section)
    return README.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def _marks(section: str) -> tuple[str, str]:
    return f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
