"""The Flask example under gunicorn, with two workers that are forked before they serve."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from telemetry.receiver import LIMIT, Receiver, run, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork()"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
#: How many are sent to workers that cannot serve them.
REQUESTS = 6

#: The example's configuration, but for the queue, which is started before the fork.
PRELOADED = """
import json, os
from gunicorn_conf import *

bind = "127.0.0.1:0"
preload_app = True
control_socket_disable = True
state = {}

def when_ready(server):
    queue = state["queue"] = server.app.wsgi().extensions["thumbnails"]
    state["before"] = queue.put("before.png", timeout=10)

def on_exit(server):  # the workers have ended
    queue = state["queue"]
    state["after"] = queue.submit("after.png", timeout=10).exception(10) is None
    stopped = queue.stop(timeout=10)
    with open(os.environ["REPORT"], "w") as file:
        json.dump({"stopped": stopped, "before": state["before"], **queue.metrics}, file)
"""


def test_all_that_was_accepted_is_done_after_sigterm_and_in_the_trace_of_its_request() -> None:
    with Receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        done = run(str(EXAMPLES / "flask_app.py"), env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        spans = receiver.spans

    (accepted,) = map(int, re.findall(r"^accepted: (\d+)$", done.stdout, re.MULTILINE))
    assert f"made: {accepted}, " in done.stdout
    assert f"made in the trace of their request: {accepted}\n" in done.stdout
    assert f"answers: {{202: {accepted}, 503: {60 - accepted}}}\n" in done.stdout
    processed = re.findall(r"'processed': (\d+), 'errors': 0", done.stderr)
    assert len(processed) == 2, "each worker tells what its queue did"
    assert sum(map(int, processed)) == accepted

    by_id = {span.data.span_id: span.data for span in spans}

    def way(span: Any) -> list[str]:
        """The names of a span and of all above it."""
        return [span.name, *(way(by_id[span.parent_span_id]) if span.parent_span_id else [])]

    ways = Counter(" < ".join(way(span.data)) for span in spans)
    assert ways["put thumbnails < POST /images < send"] == 60
    assert ways["process thumbnails < put thumbnails < POST /images < send"] == accepted


def test_a_queue_started_before_the_fork_works_in_the_parent_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    report = tmp_path / "report.json"
    thumbnails = tmp_path / "thumbnails"
    thumbnails.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    env = {
        "PYTHONPATH": str(EXAMPLES),
        "REPORT": str(report),
        "THUMBNAILS": str(thumbnails),
    }
    with gunicorn(tmp_path / "preloaded.py", env) as (url, end):
        for number in range(REQUESTS):
            answer = requests.post(f"{url}/images/{number}.png", timeout=LIMIT)
            assert answer.status_code == 500
            status = requests.get(f"{url}/status", timeout=LIMIT).json()
            assert status["state"] == "processing", "it can be looked at"
        errors = end()

    # Each request that put something, and each worker, which stops the queue at its end.
    said = re.findall(r"QueueStateError: .* belongs to the process that this one was", errors)
    assert len(said) == REQUESTS + 2, errors
    assert "make and start queues after the fork" in errors
    assert json.loads(report.read_text()) == {
        "stopped": True,
        "before": True,
        "enqueued": 2,
        "processed": 2,
        "errors": 0,
        "backpressure_events": 0,
    }
    assert {file.name for file in thumbnails.iterdir()} == {"before.png", "after.png"}


@contextmanager
def gunicorn(config: Path, env: dict[str, str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Run gunicorn; its address, and what ends it with SIGTERM and returns what it logged."""
    # Beside what the tests make of warnings: it is gunicorn that forks with threads about.
    server = start("-W", "default", "-m", "gunicorn", "--config", str(config), env=env)
    log: list[str] = []

    def end() -> str:
        server.terminate()
        _, errors = server.communicate(timeout=LIMIT)
        assert server.returncode == 0, errors
        return "".join(log) + errors

    assert server.stderr is not None
    try:
        for line in server.stderr:
            log.append(line)
            if "".join(log).count("Booting worker") == 2:
                break
        address = re.search(r"Listening at: (http://\S+)", "".join(log))
        assert address is not None, "".join(log)
        yield address[1], end
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()
