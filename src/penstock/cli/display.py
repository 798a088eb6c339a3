"""What people see of a run: a bar on a terminal, plain lines elsewhere, a summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from penstock.cli.results import Totals

#: Malformed lines that are told at once. All of them are in the result file.
_MOST_NOTES = 10
#: Seconds between two plain lines: at first, and in a run of many hours.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Display(Protocol):
    """Shows the totals of a run as they grow."""

    def tick(self) -> None:
        """Time has passed: look at the totals again."""

    def note(self, text: str) -> None:
        """Tell something apart from the totals."""


@contextmanager
def display_on(stream: TextIO, totals: Totals) -> Iterator[Display]:
    """Show ``totals`` in the way that suits ``stream``."""
    console = Console(file=stream)
    if not stream.isatty() or console.is_dumb_terminal:
        yield PlainLines(stream, totals)
        return
    bar = Bar(console, totals)
    with bar.progress:
        bar.tick()
        try:
            yield bar
        finally:
            bar.tick()


class _Notes:
    """Lets the first notes pass."""

    def __init__(self) -> None:
        self._count = 0

    def admit(self, text: str) -> str | None:
        self._count += 1
        if self._count == _MOST_NOTES:
            text += "\n(more malformed lines are told in the results only)"
        return text if self._count <= _MOST_NOTES else None


class PlainLines:
    """A line now and then: every second at first, once a minute in the long run."""

    def __init__(self, stream: TextIO, totals: Totals) -> None:
        self._stream = stream
        self._totals = totals
        self._notes = _Notes()
        self._next = _SHORTEST_PAUSE

    def tick(self) -> None:
        """Write a line if it is time."""
        elapsed = self._totals.elapsed
        if elapsed < self._next:
            return
        self._next = elapsed + min(max(_SHORTEST_PAUSE, elapsed / 10), _LONGEST_PAUSE)
        done, expected = self._totals.done, self._totals.expected
        of = "" if expected is None else f" of {expected - self._totals.blank}"
        say(self._stream, f"{elapsed:.0f} s: {done}{of} done, {_state(self._totals)}")

    def note(self, text: str) -> None:
        """Write a line, unless there were many."""
        admitted = self._notes.admit(text)
        if admitted is not None:
            say(self._stream, admitted)


class Bar:
    """A bar that grows, and what is noted above it."""

    def __init__(self, console: Console, totals: Totals) -> None:
        self._totals = totals
        self._notes = _Notes()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            expand=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self.progress.add_task("sending", total=None, state="")

    def tick(self) -> None:
        """Draw the bar."""
        expected = self._totals.expected
        self.progress.update(
            self._task,
            completed=self._totals.done,
            total=None if expected is None else expected - self._totals.blank,
            state=_state(self._totals),
        )
        self.progress.refresh()

    def note(self, text: str) -> None:
        """Write a line above the bar, unless there were many."""
        admitted = self._notes.admit(text)
        if admitted is not None:
            self.progress.console.print(admitted, markup=False, highlight=False)


def say(stream: TextIO, text: str) -> None:
    """Write a line. If nobody reads it any more, the run goes on all the same."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError:
        pass


def _state(totals: Totals) -> str:
    failed, retries = totals.failed.total(), totals.retries.total()
    return f"{failed} failed, {retries} retries, {totals.queue_size} queued"


def summary(totals: Totals, capacity: int, results: str) -> str:
    """The closing words."""
    elapsed = totals.elapsed
    answered = len(totals.latencies)
    rows = [
        ("sent", f"{totals.sent} requests in {elapsed:.1f} s, {totals.calls} calls"),
        ("succeeded", str(totals.succeeded)),
        ("failed", _by_kind(totals.failed)),
        ("retries", _by_kind(totals.retries)),
        (
            "backpressure",
            f"{totals.backpressure_waits} waits; at most {totals.queue_peak} of {capacity} queued",
        ),
    ]
    if totals.held_up:
        rows.append(("held up", f"{totals.held_up} times, as the server asked"))
    if totals.tokens is not None:
        rows.append(("tokens", f"{totals.tokens:,.0f}"))
    if answered:
        rows += [
            (
                "latency",
                f"p50 {totals.percentile(50):.3f} s, p95 {totals.percentile(95):.3f} s",
            ),
            ("throughput", f"{answered / elapsed:.1f} requests/s"),
        ]
    if totals.unfinished:
        rows.append(("unfinished", f"{totals.unfinished} were under way and have no result"))
    rows.append(("results", results))
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


def _by_kind(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    return f"{counts.total()} ({kinds})" if kinds else "0"
