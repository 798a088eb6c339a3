"""The program that gives the dashboard something to show."""

from __future__ import annotations

import subprocess
import sys

import pytest

from observability import shipped

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


def test_it_runs_and_says_what_happened() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", shipped.FOLDER / "load.py", "--seconds", "4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(said) == ["enqueued", "processed", "errors", "backpressure_events"]
    assert int(said["enqueued"]) == int(said["processed"]) > 0
    assert int(said["errors"]) > 0
