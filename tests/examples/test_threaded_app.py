"""The example with plain threads: all is sent, and each item in the trace of its put."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from telemetry.receiver import Receiver, run

pytestmark = pytest.mark.slow

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "threaded_app.py")


def test_all_is_sent_and_each_item_in_one_trace() -> None:
    done = run(EXAMPLE)
    check(done)
    assert "'enqueued': 32, 'processed': 32," in done.stdout
    assert re.findall(r"result: (.*)", done.stdout) == ["item 100", "item 101"]
    assert "traces: 32 of 32 items" in done.stdout


def test_its_traces_go_to_the_receiver_that_the_environment_names() -> None:
    with Receiver() as receiver:
        done = run(EXAMPLE, env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
        check(done)
        spans = receiver.spans
    assert {span.resource["service.name"] for span in spans} == {"threaded-app"}
    # Each put that was refused has a span as well.
    puts = {span.data.span_id for span in spans if span.data.name == "put items"}
    parents = [span.data.parent_span_id for span in spans if span.data.name == "process items"]
    assert len(parents) == len(set(parents)) == 32
    assert puts.issuperset(parents)


def check(done: subprocess.CompletedProcess[str]) -> None:
    """It succeeded, and warned of nothing but the slowness of the server today."""
    said = [line for line in done.stderr.splitlines() if " is full: " not in line]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr
