"""OpenAI's client within its limits: all is answered, and the server sees no more than allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from telemetry.receiver import run

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_client.py"


def test_all_are_answered_within_the_limits() -> None:
    done = run(str(EXAMPLE))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "answered         60 of 60\n" in done.stdout
    assert re.search(r"^word by word     water( water)+$", done.stdout, re.MULTILINE)
    assert re.search(r"^from a script    water( water)+$", done.stdout, re.MULTILINE)
    seen = json.loads(done.stdout.partition("the server says")[2])
    assert seen["served"] == 62, "nothing was asked twice"
    assert seen["most_requests"] <= 30
    assert seen["most_tokens"] <= 6_000
    if seen["refused"]:
        told = re.search(r"told to wait +(\d+) times", done.stdout)
        assert told is not None
        assert int(told[1]) > 0
