"""Queues that the lifespan stops, under ASGI servers: docs/how-to/stopping.md."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from processes import wait_for
from servers.serving import ALL, ASYNC, LIMIT, replaced, served, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="ends by SIGTERM"),
]

UVICORN = ["uvicorn", "app:app", "--port", "PORT"]
HYPERCORN = ["hypercorn", "app:app", "--bind", "127.0.0.1:PORT"]
GUNICORN = ["gunicorn", "app:app", "--bind", "127.0.0.1:PORT", "--no-control-socket"]
#: The command, how many processes it starts, and how it ends after SIGTERM.
SERVERS = {
    "uvicorn": (UVICORN, 1, -signal.SIGTERM),
    "uvicorn with two workers": ([*UVICORN, "--workers", "2"], 2, 0),
    "hypercorn": (HYPERCORN, 1, 0),
    "gunicorn": ([*GUNICORN, "-k", "asgi"], 1, 0),
    "gunicorn with two workers": ([*GUNICORN, "-k", "asgi", "-w", "2"], 2, 0),
    "gunicorn with uvicorn's worker": ([*GUNICORN, "-k", "uvicorn_worker.UvicornWorker"], 1, 0),
}

#: Threads serve it: the functions are no coroutines.
BLOCKING = """
import asyncio
from contextlib import asynccontextmanager
import penstock.sync
from fastapi import FastAPI, Response
from mails import send

queue = penstock.sync.WorkQueue[str](concurrency_limit=2, name="mails")

@asynccontextmanager
async def lifespan(app):
    await asyncio.to_thread(queue.process, send)
    yield
    await asyncio.to_thread(queue.stop, timeout=25)

app = FastAPI(lifespan=lifespan)

@app.post("/mails/{address}")
def post_mail(address: str):
    return Response(status_code=202 if queue.put(address) else 503)
"""


@pytest.mark.parametrize(("command", "processes", "code"), SERVERS.values(), ids=SERVERS)
def test_all_that_was_accepted_is_done_before_the_server_ends(
    tmp_path: Path, command: list[str], processes: int, code: int
) -> None:
    with serving(tmp_path, *command, files={"app.py": served("app.py")}) as server:
        server.wait_until_said("Queue mails is processing", processes)
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        server.wait_until_said("Queue mails is stopping", processes)
        assert server.sent == set()
        server.let_go()
        assert server.wait() == code, server.log
        assert server.sent == ALL, server.log
        assert "unprocessed" not in server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_what_is_left_when_the_time_is_over_is_in_the_log(tmp_path: Path, name: str) -> None:
    command, _, code = SERVERS[name]
    app = replaced(served("app.py"), "timeout=25", "timeout=0.1")
    with serving(tmp_path, *command, files={"app.py": app}, work=ASYNC) as server:
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        assert server.wait() == code, server.log
        assert server.sent == set()
        assert "Queue mails stopped with 5 items unprocessed" in server.log


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn with two workers"])
def test_a_queue_for_threads_is_stopped_in_the_lifespan_too(tmp_path: Path, name: str) -> None:
    command, processes, code = SERVERS[name]
    with serving(tmp_path, *command, files={"app.py": BLOCKING}) as server:
        server.wait_until_said("Queue mails is processing", processes)
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        server.wait_until_said("Queue mails is stopping", processes)
        server.let_go()
        assert server.wait() == code, server.log
        assert server.sent == ALL, server.log


# -- stop_on_signals under a server ---------------------------------------------------------------


def test_stop_on_signals_takes_the_first_signal_away_from_uvicorn(tmp_path: Path) -> None:
    started = "await queue.process(send)\n"
    app = replaced(served("app.py"), started, f"{started}        queue.stop_on_signals()\n")
    with serving(tmp_path, *UVICORN, files={"app.py": app}) as server:
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        server.wait_until_said("Queue mails is stopping")
        server.let_go()
        server.wait_until_said("Queue mails is stopped")
        assert server.sent == ALL
        assert server.client.post("/mails/f").status_code == 500, "it goes on, without a queue"

        def ends() -> bool:
            server.ask_to_end()  # the first of these may still be the queue's
            return server.process.poll() is not None

        wait_for("the end", ends, timeout=LIMIT, every=0.5)
        assert server.process.returncode == -signal.SIGTERM, server.log
