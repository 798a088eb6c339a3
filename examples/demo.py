"""Start ``api_server.py``, send it 500 requests with ``penstock run``, stop it.

Exits with the exit code of ``penstock run``: 0 if every request succeeded. Options are passed on to
it: ``--otlp http://localhost:4317`` sends the traces and metrics of the run there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "build/demo/results.jsonl"
#: Requests that the server serves in a second.
RATE = 50
#: Seconds that the server may take to start, and that the whole may take.
START, WHOLE = 30.0, 120.0


@contextmanager
def server() -> Iterator[str]:
    """Run the server and yield its address."""
    command = [sys.executable, "examples/api_server.py", "--rate", str(RATE), "--seed", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            wait_until_it_answers(url)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_it_answers(url: str) -> None:
    """Return when the server is ready."""
    # The port is open already, so the first call waits for the answer.
    ask(f"{url}/health")


def ask(url: str) -> bytes:
    """What the server answers. It is on this machine: not through a proxy."""
    with build_opener(ProxyHandler({})).open(url, timeout=START) as answer:
        body: bytes = answer.read()
    return body


def main() -> int:
    """Run the demo and return its exit code."""
    (ROOT / RESULTS).parent.mkdir(parents=True, exist_ok=True)
    with server() as url:
        print(f"examples/api_server.py at {url} serves {RATE} requests a second, and no more")
        options = [
            *("--url", url, "--out", RESULTS, "--overwrite"),
            *("--concurrency", "32", "--capacity", "64"),
            *sys.argv[1:],
        ]
        arguments = ["run", "examples/requests.jsonl", *options]
        print("$ penstock", *arguments, flush=True)
        environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-m", "penstock.cli", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=WHOLE)
        answers = json.loads(ask(f"{url}/stats"))
    said = ", ".join(f"{count} times {status}" for status, count in answers.items())
    print(f"the server answered {said}")
    if "--otlp" not in sys.argv:
        print("its traces: start examples/observability, then make demo OTLP=http://localhost:4317")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
