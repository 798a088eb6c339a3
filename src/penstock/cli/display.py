"""What people see of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from penstock._util.compat import Self
from penstock.cli.problems import harmless
from penstock.cli.run.history import History
from penstock.cli.run.meter import duration
from penstock.cli.run.results import Totals

#: Lines of the input that something is told about. (The malformed ones are in the results.)
_MOST_NOTES = 10
#: Seconds between two plain lines: at first, and in a run of many hours.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: What stands between two parts of a line on the terminal.
_BETWEEN = " · "


class Display(Protocol):
    """Shows a run as it goes on."""

    def tick(self) -> None:
        """Time has passed: look at it again."""

    def note(self, text: str) -> None:
        """Tell something about a line of the input, unless there was a lot of that."""

    def tell(self, text: str) -> None:
        """Tell something that people wait for."""


@contextmanager
def display_on(
    stream: TextIO, totals: Totals, history: History, *, is_quiet: bool = False
) -> Iterator[Display]:
    """Show a run in the way that suits ``stream``, or not at all."""
    if is_quiet:
        yield Silent()
        return
    console = Console(file=stream)
    if not stream.isatty() or console.is_dumb_terminal or console.legacy_windows:
        yield PlainLines(stream, totals, history)
        return
    with Bar(console, totals, history) as bar:
        yield bar


class _Notes:
    """Lets the first notes pass."""

    def __init__(self) -> None:
        self._count = 0

    def admit(self, text: str) -> str | None:
        self._count += 1
        if self._count == _MOST_NOTES:
            text += "\n(more such lines are not shown)"
        return text if self._count <= _MOST_NOTES else None


class Silent:
    """Shows nothing."""

    def tick(self) -> None:
        """Time has passed."""

    def note(self, text: str) -> None:
        """Something about a line of the input."""

    def tell(self, text: str) -> None:
        """Something that people wait for."""


class PlainLines:
    """A line now and then: every second at first, once a minute in the long run."""

    def __init__(self, stream: TextIO, totals: Totals, history: History) -> None:
        self._stream = stream
        self._totals = totals
        self._history = history
        self._notes = _Notes()
        self._next = _SHORTEST_PAUSE

    def tick(self) -> None:
        """Write a line if it is time."""
        elapsed = self._totals.elapsed
        if elapsed < self._next:
            return
        self._next = elapsed + min(max(_SHORTEST_PAUSE, elapsed / 10), _LONGEST_PAUSE)
        total = _total(self._totals)
        of = "" if total is None else f" of {total}"
        done = f"{elapsed:.0f} s: {self._totals.done}{of} done"
        told = ", ".join([done, *_state(self._totals, self._history, elapsed)])
        say(self._stream, told)

    def note(self, text: str) -> None:
        """Write a line, unless there were many."""
        admitted = self._notes.admit(text)
        if admitted is not None:
            self.tell(admitted)

    def tell(self, text: str) -> None:
        """Write a line."""
        say(self._stream, text)


class Bar:
    """A bar that grows, how things stand below it, and what is noted above it."""

    def __init__(self, console: Console, totals: Totals, history: History) -> None:
        self._console = console
        self._totals = totals
        self._history = history
        self._notes = _Notes()
        #: The cells of each line that is on the screen.
        self._drawn: list[int] = []

    def __enter__(self) -> Self:
        self._console.show_cursor(False)
        return self

    def __exit__(self, *error: object) -> None:
        self.tick()
        self._put("\n")
        self._console.show_cursor(True)

    def tick(self) -> None:
        """Draw it anew."""
        console = self._console
        with console.capture() as captured:
            console.print(self, end="")
        cells = [Segment.get_line_length(line) for line in console.render_lines(self, pad=False)]
        self._put(self._erased() + captured.get().rstrip("\n"))
        self._drawn = cells

    def _erased(self) -> str:
        """What erases the drawing, and leaves the cursor where it began.

        A terminal that has become narrower since then has broken its lines.
        """
        width = max(1, self._console.width)
        rows = sum(max(1, math.ceil(cells / width)) for cells in self._drawn)
        self._drawn = []
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return f"\r{up}\x1b[J" if rows else ""

    def _put(self, text: str) -> None:
        try:
            self._console.file.write(text)
            self._console.file.flush()
        except OSError:  # nobody sees it any more; the run goes on
            pass

    def note(self, text: str) -> None:
        """Write a line above the bar, unless there were many."""
        admitted = self._notes.admit(text)
        if admitted is not None:
            self.tell(admitted)

    def tell(self, text: str) -> None:
        """Write a line above the bar."""
        self._put(f"{self._erased()}{harmless(text)}\n")
        self.tick()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bar in a line of its own, the rest in as many as it needs at this width."""
        totals, elapsed = self._totals, self._totals.elapsed
        total, done = _total(totals), totals.done
        row = Table.grid(padding=(0, 1, 0, 0), expand=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        count = str(done) if total is None else f"{done}/{total}"
        if total:
            count += f" {100 * min(1.0, done / total):.0f} %"
        bar = ProgressBar(
            total,
            done,
            style="bar.back",
            complete_style="yellow" if totals.failed else "green",
            finished_style="yellow" if totals.failed else "green",
            animation_time=elapsed,
        )
        row.add_row(bar, Text(f"{count} {duration(math.floor(elapsed))}"))
        yield row
        yield from _fold(_state(totals, self._history, elapsed), options.max_width)


def _fold(parts: list[str], width: int) -> Iterator[Text]:
    """The parts in lines of this width, none broken in two unless it alone is too long."""
    line = ""
    for part in parts:
        longer = f"{line}{_BETWEEN}{part}" if line else part
        if line and len(longer) > width:
            yield _painted(line)
            line = part
        else:
            line = longer
    yield _painted(line)


def _painted(line: str) -> Text:
    text = Text(line, no_wrap=True, overflow="ellipsis")
    text.highlight_regex(r"\b[1-9]\d* failed", "bold red")
    text.highlight_regex(r"[1-9]\d* refused|held up for [^·]*|waits for --[^·]*", "yellow")
    text.highlight_regex(r"about [^·]* left", "bold")
    return text


def say(stream: TextIO, text: str) -> None:
    """Write a line. If nobody reads it any more, the run goes on all the same."""
    try:
        stream.write(harmless(text) + "\n")
        stream.flush()
    except OSError:
        pass


def _total(totals: Totals) -> int | None:
    return None if totals.expected is None else max(0, totals.expected - totals.blank)


def _state(totals: Totals, history: History, elapsed: float) -> list[str]:
    """How things stand, the most important first."""
    now = history.now
    parts = [f"{totals.failed.total()} failed", f"{totals.retries.total()} retries"]
    if totals.refused:
        parts.append(f"{totals.refused} refused")
    parts.append(history.rate.told(elapsed))
    if history.tokens is not None:
        parts.append(f"{history.tokens.told(elapsed)} tokens")
    parts.append(f"{history.in_use} of {now.concurrency} at once")
    parts.append(f"{now.queued} of {now.capacity} queued")
    if now.closed_for > 0:
        parts.append(f"held up for {duration(math.ceil(now.closed_for))}")
    elif now.waits_for:
        parts.append(f"waits for {now.waits_for}")
    left = seconds_left(totals, history, elapsed)
    if left is not None:
        parts.append(f"about {duration(math.ceil(left))} left")
    return parts


def seconds_left(totals: Totals, history: History, elapsed: float) -> float | None:
    """Seconds to the end at the pace of late; None where nobody knows."""
    total, pace = _total(totals), history.pace(elapsed)
    if total is None or total <= totals.done or not pace:
        return None
    return (total - totals.done) / pace
