"""Draws the picture of the guide anew: what the dashboard shows of the programs of the alerts.

python -m pytest -s tests/e2e/picture.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from e2e.checks_alerts import PROGRAMS
from e2e.servers import prometheus
from observability import shipped

PICTURE = shipped.FOLDER / "dashboard.png"


def test_draw_the_picture(prometheus_command: str, tmp_path: Path) -> None:
    """A minute in which all are well but those that never are, and two more."""
    with subprocess.Popen(
        [sys.executable, PROGRAMS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        with prometheus(tmp_path, {"otel-collector:8889": address}) as server:
            time.sleep(60)
            process.stdin.write("now\n")
            process.stdin.flush()
            time.sleep(120)
            script = [sys.executable, str(shipped.FOLDER / "draw_dashboard.py"), server.url]
            subprocess.run(
                [*script, str(PICTURE), "--minutes", "3", "--rate-interval", "10s"], check=True
            )
        process.kill()
    assert PICTURE.stat().st_size < 400_000
