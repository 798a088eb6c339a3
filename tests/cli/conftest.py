"""The command as a process, and the servers that it talks to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The servers of those tests, for the commands that need one.
from brokers.conftest import (  # noqa: F401
    nats_program,
    nats_server,
    newer_nats_program,
    start_nats,
)

#: Seconds that any process may take.
LIMIT = 90.0

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
    "COLUMNS": "120",
    "PYTHONWARNINGS": "error",
    "TERM": "xterm",
}


class Command:
    """Runs ``penstock`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(ENVIRONMENT)

    def lines(self, *lines: Any, name: str = "requests.jsonl") -> str:
        """Write a request file: objects, or bytes as they are."""
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (self.folder / name).write_bytes(b"".join(line + b"\n" for line in raw))
        return name

    def results(self, name: str = "results.jsonl") -> list[dict[str, Any]]:
        """Read a result file, in the order of the request lines."""
        text = (self.folder / name).read_text(encoding="utf-8")
        assert text == "" or text.endswith("\n")
        return sorted(map(json.loads, text.splitlines()), key=lambda result: result["line"])

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        options.setdefault("capture_output", True)
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            check=False,
            timeout=LIMIT,
            encoding="utf-8",
            **options,
        )
        assert "Traceback" not in (done.stderr or ""), done.stderr
        return done

    @contextmanager
    def started(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; it is gone at the end."""
        command = [sys.executable, "-m", "penstock.cli", *arguments]
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, **options) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """The threads that the command starts in this process end with it."""
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


@pytest.fixture
def penstock(tmp_path: Path) -> Command:
    return Command(tmp_path)


class Server(ThreadingHTTPServer):
    """Answers as the test says, and tells what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.seen: list[SimpleNamespace] = []
        self.news = threading.Condition()
        self.answer: Callable[[SimpleNamespace], tuple[int, dict[str, str], bytes]] = lambda _: (
            *(200, {"Content-Type": "application/json"}),
            b'{"fine": true}',
        )

    def wait_for(self, count: int) -> None:
        """Return when so many requests have come in."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.seen) >= count, LIMIT)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        seen = SimpleNamespace(
            method=self.command, path=path, query=query, headers=self.headers, body=body
        )
        with self.server.news:
            self.server.seen.append(seen)
            self.server.news.notify_all()
        status, headers, content = self.server.answer(seen)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(LIMIT)


@pytest.fixture
def api() -> Iterator[Callable[..., str]]:
    """Start the server of the examples, with options; returns its address."""
    script = Path(__file__).parents[2] / "examples" / "api_server.py"
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        process = subprocess.Popen(
            [sys.executable, script, *options],
            env=ENVIRONMENT | {"PYTHONWARNINGS": "default"},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    try:
        yield start
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=LIMIT)
