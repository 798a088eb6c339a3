"""``make demo``, for real: 500 requests to a server that pushes back, and all succeed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_demo_succeeds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        cwd=tmp_path,  # it does not matter where it is started
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded    500\n" in done.stdout
    assert "failed       0\n" in done.stdout
    assert not any(tmp_path.iterdir())

    text = (ROOT / "build" / "demo" / "results.jsonl").read_text(encoding="utf-8")
    results = [json.loads(line) for line in text.splitlines()]
    assert sorted(result["line"] for result in results) == list(range(1, 501))
    assert all("error" not in result for result in results)

    # What the client counted is what the server did.
    calls = sum(result["attempts"] for result in results)
    answers = re.findall(r"(\d+) times (\d+)", done.stdout)
    counts = {int(status): int(count) for count, status in answers}
    assert sum(counts.values()) == calls
    assert counts[200] + counts[204] == 500
    assert counts[500] > 0

    url = re.search(r"http://127\.0\.0\.1:\d+", done.stdout)
    assert url is not None
    assert not is_answered(url[0]), "the server still runs"


def is_answered(url: str) -> bool:
    import httpx

    try:
        httpx.get(url, trust_env=False)
    except httpx.ConnectError:
        return False
    return True
