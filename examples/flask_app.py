"""A Flask app: requests put work into a queue, and get 503 when it is full.

Under gunicorn, see ``gunicorn_conf.py``. Run by itself, it serves itself that way on a free port
of this machine, sends more than it can take, ends the server with SIGTERM, and looks whether all
that was accepted was done. With ``OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317`` its traces
and metrics go there. Needs penstock[otel], flask, gunicorn and requests.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
from flask import Flask, Response, jsonify, request
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

import penstock.sync
import penstock.telemetry

tracer = trace.get_tracer("flask_app")


def make_thumbnail(image: str) -> None:
    """Stand in for work that takes a while: writes a file that says in which trace it was made."""
    time.sleep(0.1)
    trace_id = trace.get_current_span().get_span_context().trace_id
    with Path(os.environ["THUMBNAILS"], image).open("x") as file:
        file.write(f"{trace_id:032x}")


def set_up_tracing(service: str) -> None:
    """To the OTLP receiver, if there is one; else spans are made, and sent nowhere."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        penstock.telemetry.setup(service)
    else:
        trace.set_tracer_provider(TracerProvider())


def create_app() -> Flask:
    """Make the app and start its queue. To be called in the process that serves it."""
    set_up_tracing("flask-app")
    app = Flask(__name__)
    queue = penstock.sync.WorkQueue[str](
        maxsize=5, timeout=0.05, concurrency_limit=2, name="thumbnails"
    )
    queue.process(make_thumbnail)
    app.extensions["thumbnails"] = queue

    @app.post("/images/<image>")
    def post_image(image: str) -> tuple[Response, int, dict[str, str]]:
        """Accept the image, or tell the caller to come back later."""
        context = propagate.extract(request.headers)
        with tracer.start_as_current_span("POST /images", context, trace.SpanKind.SERVER):
            if queue.put(image):
                return jsonify(status="accepted"), 202, {}
            return jsonify(status="busy"), 503, {"Retry-After": "1"}

    @app.get("/status")
    def status() -> Response:
        """How the queue of this process does."""
        return jsonify(pid=os.getpid(), state=queue.status, waiting=queue.size, **queue.metrics)

    return app


# -- the demonstration ----------------------------------------------------------------------------


@contextmanager
def gunicorn(thumbnails: str) -> Iterator[str]:
    """Run this app under gunicorn, yield its address, and end it with SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # It inherits the socket: nobody else can take the port meanwhile.
        command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn_conf.py"]
        options = ["--bind", f"fd://{listener.fileno()}", "--no-control-socket"]
        process = subprocess.Popen(
            [*command, *options],
            cwd=Path(__file__).parent,
            env=os.environ | {"THUMBNAILS": thumbnails},
            pass_fds=[listener.fileno()],
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def post(url: str, number: int) -> tuple[int, str, str]:
    """Send one image; the answer, the image, and the trace of the request."""
    with tracer.start_as_current_span("send") as span:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        answer = requests.post(f"{url}/images/{number}.png", headers=headers, timeout=10)
        return answer.status_code, f"{number}.png", f"{span.get_span_context().trace_id:032x}"


def main() -> int:
    """Serve, send 60 images by 16 threads, stop, and say what came of them."""
    set_up_tracing("flask-app-caller")
    os.environ["no_proxy"] = "127.0.0.1"  # the server is on this machine
    with tempfile.TemporaryDirectory() as folder:
        with gunicorn(folder) as url:
            print("status:", requests.get(f"{url}/status", timeout=30).json())
            with ThreadPoolExecutor(16) as threads:
                answers = list(threads.map(lambda number: post(url, number), range(60)))
            early = len(os.listdir(folder))
        accepted = {image: trace_id for status, image, trace_id in answers if status == 202}
        made = {file.name: file.read_text() for file in Path(folder).iterdir()}
    counts = Counter(status for status, _, _ in answers)
    print(f"answers: {dict(sorted(counts.items()))}")
    print(f"accepted: {len(accepted)}")
    print(f"made: {len(made)}, {len(made) - early} of them after SIGTERM")
    print(f"made in the trace of their request: {len(accepted.items() & made.items())}")
    return 0 if accepted == made else 1


if __name__ == "__main__":
    raise SystemExit(main())
