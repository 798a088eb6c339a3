"""The Django example: more comes than it can take, and what it accepted is done when it ends."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from telemetry.receiver import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends by SIGTERM")

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_app.py"


def test_all_that_was_accepted_is_done_and_the_rest_is_told_to_come_back() -> None:
    done = run(str(EXAMPLE))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    accepted, refused = (
        int(re.findall(pattern, done.stdout, re.MULTILINE)[0])
        for pattern in (r"^(\d+) times 202$", r"^(\d+) times 503, Retry-After: 1$")
    )
    assert accepted + refused == 60
    assert f"accepted: {accepted}\nmade: {accepted}, " in done.stdout
    assert f"'enqueued': {accepted}, " in done.stdout
    assert f"'backpressure_events': {refused}" in done.stdout
    assert "the server ended with 0\n" in done.stdout
