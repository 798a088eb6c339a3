"""The web examples under ``opentelemetry-instrument``, which sets up all of OpenTelemetry.

It puts itself into the path of every Python that is started below it, so both sides are traced: the
server, and those who send.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from telemetry.receiver import Receiver, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="ends by SIGTERM"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")


@pytest.mark.parametrize(
    ("example", "request_span", "caller"),
    [
        ("fastapi_app.py", "POST /images/{image}", "POST"),
        ("django_app.py", "POST images/<image>", "POST"),
        ("flask_app.py", "POST /images", "send"),  # spans of its own
    ],
)
def test_it_boots_and_an_item_is_in_the_trace_of_its_request(
    example: str, request_span: str, caller: str
) -> None:
    with Receiver() as receiver:
        done = run(
            *(str(INSTRUMENT), sys.executable, str(EXAMPLES / example)),
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_SERVICE_NAME": "thumbnails",
                "PYTHONPATH": str(EXAMPLES),
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        spans = receiver.spans
        assert "penstock.process.items" in receiver.metrics
    assert {span.resource["service.name"] for span in spans} == {"thumbnails"}
    by_id = {span.data.span_id: span.data for span in spans}

    def way(span: Any) -> list[str]:
        """The names of a span and of all above it."""
        return [span.name, *(way(by_id[span.parent_span_id]) if span.parent_span_id else [])]

    (accepted,) = map(int, re.findall(r"^accepted: (\d+)$", done.stdout, re.MULTILINE))
    ways = Counter(" < ".join(way(span.data)) for span in spans)
    put = f"put thumbnails < {request_span} < {caller}"
    assert ways[put] == 60, ways
    assert ways[f"process thumbnails < {put}"] == accepted, ways
