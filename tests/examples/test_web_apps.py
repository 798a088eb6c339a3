"""The examples for Django and FastAPI: more comes than they take; what they accepted is done."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from telemetry.receiver import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="ends by SIGTERM"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"


def accepted_by(example: str) -> tuple[int, str]:
    """Run it, and see that all that was accepted is done and the rest is told to come back."""
    done = run(str(EXAMPLES / example))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    accepted, refused = (
        int(re.findall(pattern, done.stdout, re.MULTILINE)[0])
        for pattern in (r"^(\d+) times 202$", r"^(\d+) times 503, Retry-After: 1$")
    )
    assert accepted + refused == 60
    assert f"accepted: {accepted}\nmade: {accepted}, " in done.stdout
    assert f"'enqueued': {accepted}, " in done.stdout
    assert f"'backpressure_events': {refused}" in done.stdout
    return accepted, done.stdout


def test_django_does_all_that_was_accepted_before_it_ends() -> None:
    _, said = accepted_by("django_app.py")
    assert "the server ended with 0\n" in said


def test_fastapi_does_all_that_was_accepted_before_it_ends() -> None:
    accepted, said = accepted_by("fastapi_app.py")
    (processed,) = re.findall(r"queue thumbnails: .*'processed': (\d+), 'errors': 0", said)
    assert int(processed) == accepted, "the lifespan waited for all of it"
