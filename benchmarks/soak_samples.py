"""What the soak samples, and whether it stays level. Needs Linux: it reads ``/proc/self``."""

from __future__ import annotations

import csv
import os
import statistics
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.soak_ledger import Stopwatch

#: The share of a run that does not count, at its beginning; and of each phase.
WARM_UP, SETTLING = 0.2, 0.1

PROC = Path("/proc/self")

Row = dict[str, float]
Rows = Sequence[Row]


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


@dataclass(frozen=True)
class Column:
    """What is sampled once a second, and how several samples become one line of the CSV."""

    name: str
    condense: Callable[[Sequence[float]], float] = _median
    digits: int = 0


_LATENCIES = [
    Column(f"{what}_{face}_{share}_ms", max if share == "p99" else _median, 3)
    for face in ("async", "threads", "service")
    for what in ("put", "trip")
    for share in ("p50", "p99")
]
COLUMNS = (
    Column("seconds", _last),
    Column("phase", _last),
    Column("rss_mb", digits=2),
    Column("blocks"),
    Column("threads", digits=1),
    Column("fds", digits=1),
    Column("tasks", digits=1),
    Column("cpu_percent", digits=1),
    Column("waiting_async", digits=1),
    Column("waiting_threads", digits=1),
    Column("ended_async_per_s", digits=1),
    Column("ended_threads_per_s", digits=1),
    *_LATENCIES,
    Column("spans_waiting", max),
    Column("spans_sent", _last),
    Column("spans_failed", _last),
    Column("spans_dropped", _last),
)


class Samples:
    """All samples of a run, in so little memory that what they take cannot be taken for a leak."""

    def __init__(self) -> None:
        self._columns = {column.name: array("d") for column in COLUMNS}

    def add(self, row: Row) -> None:
        """One more."""
        for name, values in self._columns.items():
            values.append(row[name])

    def __len__(self) -> int:
        return len(self._columns["seconds"])

    @property
    def rows(self) -> list[Row]:
        """As rows, for when the run is over."""
        columns = self._columns.values()
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*columns, strict=True)]


def require_linux() -> None:
    """End the program where there is no ``/proc``.

    Raises:
        SystemExit: this is not Linux.
    """
    if not (PROC / "statm").exists():
        raise SystemExit(
            f"benchmarks.soak reads /proc/self, which Linux has; this is {sys.platform}"
        )


def process_figures() -> Row:
    """Of this process: memory, threads, file descriptors."""
    pages = int((PROC / "statm").read_text().split()[1])
    return {
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "threads": len(os.listdir(PROC / "task")),
        "fds": len(os.listdir(PROC / "fd")) - 1,  # but for the one that lists them
    }


def latencies(face: str, puts: Stopwatch, trips: Stopwatch) -> Row:
    """Median and 99th percentile of what was timed since the last time, in ms; NaN if nothing."""
    row: Row = {}
    for what, watch in (("put", puts), ("trip", trips)):
        seconds = watch.taken() or [float("nan")]
        for share in (50, 99):
            place = round((len(seconds) - 1) * share / 100)
            row[f"{what}_{face}_p{share}_ms"] = seconds[place] * 1e3
    return row


def condense(rows: Rows, at_most: int) -> list[Row]:
    """No more than so many rows, each of as many samples as the others, all of one phase."""
    size = max(1, -(-len(rows) // at_most))
    condensed, group = [], list[Row]()
    for row in rows:
        if group and (len(group) == size or group[0]["phase"] != row["phase"]):
            condensed.append(_one_of(group))
            group = []
        group.append(row)
    return [*condensed, _one_of(group)] if group else condensed


def _one_of(group: Rows) -> Row:
    return {
        column.name: column.condense(
            [row[column.name] for row in group if row[column.name] == row[column.name]]
            or [float("nan")]
        )
        for column in COLUMNS
    }


def write_csv(path: Path, rows: Iterable[Row], phases: Sequence[str]) -> None:
    """One line for each row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in COLUMNS])
        for row in rows:
            writer.writerow(
                phases[int(row["phase"])]
                if column.name == "phase"
                # Nothing where nothing was measured.
                else ""
                if row[column.name] != row[column.name]
                else f"{row[column.name]:.{column.digits}f}"
                for column in COLUMNS
            )


@dataclass(frozen=True)
class Level:
    """What may grow by how much from the beginning to the end and still be called level."""

    column: str
    name: str
    #: In its own unit, and as a share of the mean: the larger of the two.
    absolute: float
    share: float = 0.0
    #: Whether it goes up, once, when the SDK's buffer of spans fills.
    has_spans: bool = False


LEVELS = (
    Level("rss_mb", "RSS, MB", 2.0, 0.05, has_spans=True),
    Level("blocks", "memory blocks of Python", 5_000, 0.03, has_spans=True),
    Level("threads", "threads", 2.0),
    Level("fds", "file descriptors", 2.0),
    Level("tasks", "asyncio tasks", 3.0),
)


@dataclass(frozen=True)
class Trend:
    """The line of best fit through some samples."""

    mean: float
    #: From the first to the last sample, along the line; and twice the standard error of that.
    rise: float
    doubt: float
    per_hour: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it rises by no more than is allowed, for all that can be told."""
        return self.rise - self.doubt <= self.allowed

    @classmethod
    def of(cls, rows: Rows, level: Level) -> Trend:
        """The trend of one column."""
        times = [row["seconds"] for row in rows]
        values = [row[level.column] for row in rows]
        line = statistics.linear_regression(times, values)
        spread = statistics.fmean(
            (value - line.slope * time - line.intercept) ** 2
            for time, value in zip(times, values, strict=True)
        )
        length, mean = times[-1] - times[0], statistics.fmean(values)
        doubt = 2 * length * (spread / (len(rows) * statistics.pvariance(times))) ** 0.5
        allowed = max(level.absolute, level.share * mean)
        return cls(mean, line.slope * length, doubt, line.slope * 3600, allowed)


def warm(rows: Rows) -> Rows:
    """But for the beginning of the run."""
    return rows[int(len(rows) * WARM_UP) :]


def settled(rows: Rows, phase: int) -> Rows:
    """What there is of one phase, but for its beginning and that of the run."""
    mine = [row for row in rows if row["phase"] == phase]
    beginning = mine[int(len(mine) * SETTLING)]["seconds"] if mine else 0.0
    return [row for row in warm(rows) if row["phase"] == phase and row["seconds"] >= beginning]


def trends(rows: Rows, phases: Sequence[str]) -> tuple[str, list[str]]:
    """A table of all trends, and what is not flat."""
    table, rising = [], []
    each = [(name, settled(rows, number)) for number, name in enumerate(phases)]
    ill = [row for row in warm(rows) if row["phase"] > 0]
    ill = [row for row in ill if row["seconds"] >= settled(rows, 1)[0]["seconds"]]
    for level in LEVELS:
        whole = (f"all but {phases[0]}", ill) if level.has_spans else ("all", warm(rows))
        for name, part in (whole, *each):
            if len(part) < 10:
                continue
            trend = Trend.of(part, level)
            verdict = "flat" if trend.is_flat else "**rises**"
            table.append(
                (
                    f"{level.name}: {name}",
                    f"{trend.mean:,.1f}",
                    f"{trend.rise:+,.1f} ± {trend.doubt:,.1f}",
                    f"{trend.per_hour:+,.1f}",
                    f"{trend.allowed:,.1f}",
                    verdict,
                )
            )
            if not trend.is_flat:
                rising.append(f"{level.name}: {name}: {trend.rise:+,.1f} of {trend.mean:,.1f}")
    head = ("after the warm-up", "mean", "rise", "an hour", "allowed", "")
    return harness.table(head, table), rising
