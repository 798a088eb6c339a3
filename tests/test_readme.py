"""The Python in the README runs as it is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.receiver import Receiver

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COLLECTOR = "http://localhost:4317"


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("code", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_block_runs_without_a_warning(code: str) -> None:
    with Receiver() as receiver:  # stands where the README has a collector, on a free port
        done = run(code.replace(COLLECTOR, receiver.endpoint))
    assert (done.returncode, done.stderr) == (0, "")


def test_first_block_prints_what_the_readme_says() -> None:
    assert run(BLOCKS[0]).stdout.splitlines()[-1] in README


def test_the_block_about_traces_sends_some() -> None:
    (code,) = [block for block in BLOCKS if COLLECTOR in block]
    with Receiver() as receiver:
        run(code.replace(COLLECTOR, receiver.endpoint))
        names = [span.data.name for span in receiver.spans]
    assert sorted(set(names)) == ["process numbers", "put numbers"]
    assert len(names) == 10
