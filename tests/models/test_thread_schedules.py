"""Schedules of real threads, ten thousand operations each, in a process of their own.

More of them: ``python tests/models/simulate_threads.py --seeds 1000``. A mistake that somebody
could make is planted to see that they would find it: each in ``thread_defects.py`` is a race.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("simulate_threads.py")
#: Seconds for a few schedules, on a machine that does other things as well.
LIMIT = 540


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_few_schedules() -> None:
    first = os.environ.get("PENSTOCK_SEED", "0")
    done = simulate("--first", first, "--seeds", os.environ.get("PENSTOCK_SEEDS", "3"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no defect" in done.stdout


@pytest.mark.parametrize("name", ["offer", "notify_if_done", "close-later"])
def test_planted_defects_are_found(name: str) -> None:
    done = simulate("--plant", name, "--seeds", "30", "--operations", "2000", "--patience", "20")
    assert done.returncode == 1, f"not found: {done.stdout}"
    assert "Error: " in done.stderr
    assert "Again: python tests/models/simulate_threads.py --first " in done.stderr
