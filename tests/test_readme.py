"""The Python in the README runs as it is written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sync.helpers import run_program
from telemetry.receiver import Receiver

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COLLECTOR = "http://localhost:4317"


@pytest.mark.parametrize("code", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_block_runs_without_a_warning(code: str) -> None:
    with Receiver() as receiver:  # stands where the README has a collector, on a free port
        done = run_program(code.replace(COLLECTOR, receiver.endpoint))
    assert (done.returncode, done.stderr) == (0, "")


def test_first_block_prints_what_the_readme_says() -> None:
    assert run_program(BLOCKS[0]).stdout.splitlines()[-1] in README


def test_the_block_about_traces_sends_some() -> None:
    (code,) = [block for block in BLOCKS if COLLECTOR in block]
    with Receiver() as receiver:
        run_program(code.replace(COLLECTOR, receiver.endpoint))
        names = [span.data.name for span in receiver.spans]
    assert sorted(set(names)) == ["process numbers", "put numbers"]
    assert len(names) == 10
