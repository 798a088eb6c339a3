"""What people see while it runs: plain lines, or a bar on a terminal."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from typing import Any

import pytest

from penstock.cli.display import PlainLines, display_on
from penstock.cli.results import Failure, Result, Totals


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("penstock.cli.results.time.monotonic", lambda: self.now)


def test_plain_lines_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stream = io.StringIO()
    totals = Totals(expected=50_000, began=clock.now)
    display = PlainLines(stream, totals)
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


def test_what_a_plain_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    totals = Totals(expected=51, began=clock.now, blank=1, queue_size=7)
    totals.add(Result(1, 1, 200, attempts=1))
    totals.add(Result(2, 2, failure=Failure("malformed", "no")))
    totals.retries["http_429"] += 3
    stream = io.StringIO()
    with display_on(stream, totals) as display:
        clock.now += 2
        display.tick()
    assert stream.getvalue() == "2 s: 2 of 50 done, 1 failed, 3 retries, 7 queued\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar(penstock: Any, server: Any) -> None:
    import pty

    release = threading.Event()
    server.answer = lambda seen: (release.wait(30), (200, {}, b""))[1]
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
            release.set()
            seen = read_until(ours, "results      results.jsonl")
            assert "3/3" in seen
            assert "1 failed, 0 retries" in seen
            assert process.wait(30) == 1
    finally:
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Read until ``text`` has come."""
    seen = b""
    deadline = time.monotonic() + 30
    while text.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {text!r} in {seen!r}"
        seen += os.read(terminal, 65536)
    return seen.decode()


def test_no_bar_where_it_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    with display_on(Terminal(), Totals()) as display:
        assert isinstance(display, PlainLines)
