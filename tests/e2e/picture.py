"""Draws the picture of the guide anew: three minutes of load, and what the dashboard shows of it.

python -m pytest -s tests/e2e/picture.py
"""

from __future__ import annotations

from e2e.conftest import Servers, run
from observability import shipped

PICTURE = shipped.FOLDER / "dashboard.png"


def test_draw_the_picture(servers: Servers) -> None:
    run(shipped.FOLDER / "load.py", "--otlp", servers.otlp)
    arguments = [servers.prometheus.url, str(PICTURE), "--minutes", "3", "--rate-interval", "10s"]
    run(shipped.FOLDER / "draw_dashboard.py", *arguments)
    assert PICTURE.stat().st_size < 200_000
