"""What people see while it runs: plain lines, or a bar on a terminal."""

from __future__ import annotations

import io
import os
import re
import select
import struct
import threading
import time
from typing import Any

import pytest
from rich.console import Console

from penstock.cli.display import Bar, PlainLines, display_on, seconds_left
from penstock.cli.run.history import History, Snapshot
from penstock.cli.run.results import RequestFailure, RequestResult, Totals


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("penstock.cli.run.results.time.monotonic", lambda: self.now)


def test_plain_lines_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stream = io.StringIO()
    totals = Totals(expected=50_000, began=clock.now)
    display = PlainLines(stream, totals, History())
    at = []
    for tick in range(36_000):
        clock.now = 1000.0 + tick
        before = stream.tell()
        display.tick()
        if stream.tell() > before:
            at.append(tick)
    assert at[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert at[-1] - at[-2] == 60
    assert len(at) < 700


def busy_run(clock: Clock) -> tuple[Totals, History]:
    """Twenty seconds of a run that is held up."""
    totals = Totals(expected=501, began=clock.now, blank=1)
    history = History((8, 1.0), (90_000, 60.0))
    for number in range(160):
        history.started(number / 8, 0.1, 1)
        history.spent(number / 8, 100)
        if number < 153:
            result = RequestResult(number, number, 200, attempts=1)
            if number < 3:
                result = RequestResult(
                    number, number, failure=RequestFailure("http_404", "no"), attempts=1
                )
            totals.add(result)
            history.ended(number / 8, 0.1, "200")
            history.finished(number / 8, result)
    totals.retries["http_429"] += 38
    totals.refused = 38
    totals.retries["http_503"] += 4
    history.sample(20, Snapshot(concurrency=10, queued=90, capacity=100, closed_for=11.2))
    clock.now += 20
    return totals, history


BUSY = [
    "3 failed",
    "42 retries",
    "38 refused",
    "7.8/s of 8/s",
    "16,000/min of 90,000/min tokens",
    "7 of 10 at once",
    "90 of 100 queued",
    "held up for 12 s",
    "about 47 s left",
]


def test_what_a_plain_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with display_on(stream, *busy_run(Clock(monkeypatch))) as display:
        display.tick()
    assert stream.getvalue() == ", ".join(["20 s: 153 of 500 done", *BUSY]) + "\n"


def test_a_plain_line_where_nobody_knows_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    totals, history = busy_run(Clock(monkeypatch))
    totals.expected = None
    stream = io.StringIO()
    with display_on(stream, totals, history) as display:
        display.tick()
    assert stream.getvalue() == ", ".join(["20 s: 153 done", *BUSY[:-1]]) + "\n"


def test_no_end_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    totals, history = Totals(expected=5, began=clock.now), History()
    clock.now += 2
    assert seconds_left(totals, history, 2.0) is None
    stream = io.StringIO()
    with display_on(stream, totals, history) as display:
        display.tick()
    assert stream.getvalue() == (
        "2 s: 0 of 5 done, 0 failed, 0 retries, 0/s, 0 of 0 at once, 0 of 0 queued\n"
    )


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("width", [15, 25, 40, 80, 120, 300])
def test_the_bar_fits_at_any_width(
    monkeypatch: pytest.MonkeyPatch, width: int, is_known: bool
) -> None:
    totals, history = busy_run(Clock(monkeypatch))
    if not is_known:
        totals.expected = None
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    console.print(Bar(console, totals, history))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines), lines
    if width < 40:
        return
    assert "━" in lines[0]
    assert ("153/500 31 % 20 s" if is_known else "153 20 s") in lines[0]
    told = BUSY if is_known else BUSY[:-1]
    assert [part for line in lines[1:] for part in line.rstrip().split(" · ")] == told
    assert len(lines) <= (7 if width == 40 else 4)


@pytest.mark.parametrize("done", [0, 1])
def test_the_bar_of_an_empty_file(monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    clock = Clock(monkeypatch)
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    totals = Totals(expected=0, began=clock.now, succeeded=done)
    console.print(Bar(console, totals, History()))
    assert f"{done}/0 0 s" in stream.getvalue()


def test_what_a_narrower_terminal_has_broken_is_erased_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    totals, history = busy_run(Clock(monkeypatch))
    stream = io.StringIO()
    console = Console(file=stream, width=100, height=24, force_terminal=True)
    with Bar(console, totals, history) as bar:
        bar.tick()
        rows = len(stream.getvalue().split("\n"))
        assert rows > 1
        console.width = 50  # each line of 100 cells is two now
        before = len(stream.getvalue())
        bar.tick()
        found = re.match(r"\r\x1b\[([0-9]+)A\x1b\[J", stream.getvalue()[before:])
        assert found is not None
        assert int(found[1]) >= rows  # at least one more than the lines that were drawn


@pytest.mark.parametrize("cause", ["--rate", "input", "answers (10 at once)"])
def test_what_holds_a_run_up_is_named(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    totals, history = busy_run(Clock(monkeypatch))
    history.sample(20, Snapshot(concurrency=10, queued=90, capacity=100, waits_for=cause))
    stream = io.StringIO()
    PlainLines(stream, totals, history).tick()
    assert f", waits for {cause}, about " in stream.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar(penstock: Any, server: Any) -> None:
    import pty

    release = threading.Event()
    server.answer = lambda seen: (release.wait(90), (200, {}, b""))[1]
    lines = penstock.lines({}, b"", {"path": "/1"}, {"path": "/2"})
    ours, theirs = pty.openpty()
    try:
        with penstock.started(
            *("run", lines, "--url", server.url, "--out", "results.jsonl"), stdout=theirs
        ) as process:
            os.close(theirs)
            seen = read_until(ours, "1/3")  # while the two others hang
            assert "line 1: has neither path nor url" in seen
            assert "━" in seen
            assert seen.index("line 1: has neither") < seen.index("1/3"), "not above the bar"
            seen = read_until(ours, "2 of 10 at once · 0 of 100 queued")
            release.set()
            seen = read_until(ours, "results      results.jsonl")
            assert "3/3" in seen
            assert "1 failed" in seen
            assert process.wait(90) == 1
    finally:
        os.close(ours)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_the_bar_follows_the_width_of_the_terminal(
    penstock: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl
    import pty
    import termios

    def resize(columns: int) -> None:
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    release = threading.Event()
    server.answer = lambda seen: (release.wait(90), (200, {}, b""))[1]
    lines = penstock.lines({"path": "/1"}, {"path": "/2"})
    monkeypatch.delitem(penstock.environment, "COLUMNS")
    ours, theirs = pty.openpty()
    try:
        resize(100)
        with penstock.started(
            *("run", lines, "--url", server.url, "--out", "results.jsonl", "--rate", "9/s"),
            stdout=theirs,
        ) as process:
            os.close(theirs)
            read_until(ours, "2 of 10 at once · 0 of 100 queued")  # in one line
            resize(40)
            seen = read_until(ours, "9/s\r\n2 of 10 at once · 0 of 100 queued")  # now in two
            rows = [
                re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", row) for row in re.split(r"[\r\n]+", seen)
            ]
            last = rows[-3:]
            assert all(len(row) <= 40 for row in last), last
            release.set()
            read_until(ours, "results      results.jsonl")
            assert process.wait(90) == 0
    finally:
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Read until ``text`` has come."""
    seen = b""
    deadline = time.monotonic() + 90
    while text.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {text!r} in {seen[-2000:]!r}"
        seen += os.read(terminal, 65536)
    return seen.decode()


def test_no_bar_where_it_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    with display_on(Terminal(), Totals(), History()) as display:
        assert isinstance(display, PlainLines)
