"""Queues that gunicorn's hooks start and stop, where threads serve: docs/how-to/stopping.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from servers.serving import ALL, replaced, served, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork()"),
]

GUNICORN = ["gunicorn", "--bind", "127.0.0.1:PORT", "--no-control-socket"]
KINDS = {
    "sync": [],
    "threads": ["--threads", "4"],
    "preloaded": ["--threads", "4", "--preload"],
}


def files(config: str | None = None) -> dict[str, str]:
    """Those of the page, with another configuration."""
    return {"web.py": served("web.py"), "gunicorn.conf.py": config or served("gunicorn.conf.py")}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_all_that_was_accepted_is_done_in_worker_exit(tmp_path: Path, options: list[str]) -> None:
    with serving(tmp_path, *GUNICORN, *options, files=files()) as server:
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        server.wait_until_said("Queue mails is stopping")
        assert server.sent == set()
        server.let_go()
        assert server.wait() == 0, server.log
        assert server.sent == ALL, server.log
        assert "not sent" not in server.log
        assert "Traceback" not in server.log


def test_what_is_left_when_the_time_is_over_is_in_the_log(tmp_path: Path) -> None:
    config = replaced(served("gunicorn.conf.py"), "timeout=25", "timeout=0.1")
    with serving(tmp_path, *GUNICORN, files=files(config)) as server:
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        assert server.wait() == 0, server.log
        assert server.sent == set()
        assert "not sent: ['a', 'b', 'c', 'd', 'e']" in server.log


def test_without_worker_exit_all_is_done_at_the_end_of_the_process(tmp_path: Path) -> None:
    config = replaced(served("gunicorn.conf.py"), "def worker_exit", "def no_hook")
    with serving(tmp_path, *GUNICORN, files=files(config)) as server:
        server.wait_until_it_listens()
        server.post()
        server.ask_to_end()
        server.wait_until_said("Worker exiting")
        assert server.sent == set()
        server.let_go()
        assert server.wait() == 0, server.log
        assert server.sent == ALL, server.log


def test_a_queue_made_before_the_fork_says_so_in_the_worker(tmp_path: Path) -> None:
    config = replaced(served("gunicorn.conf.py"), "web.start_queue()", "pass")
    shared = files(f"{config}\npreload_app = True\n")
    shared["web.py"] += "\n\nstart_queue()\n"
    with serving(tmp_path, *GUNICORN, files=shared) as server:
        server.wait_until_it_listens()
        assert server.client.post("/mails/a").status_code == 500
        server.ask_to_end()
        assert server.wait() == 0, server.log
        assert "QueueStateError: Queue mails belongs to the process" in server.log
        assert "make and start queues after the fork" in server.log
        assert server.sent == set()
