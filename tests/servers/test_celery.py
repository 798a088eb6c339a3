"""Queues in the worker processes of Celery: docs/how-to/stopping.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers.serving import ALL, ENVIRONMENT, LIMIT, Server, replaced, served, serving, write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="ends by SIGTERM"),
]

WORKER = [
    *["celery", "-A", "tasks", "worker", "--concurrency", "1", "--loglevel", "INFO"],
    *["--without-gossip", "--without-mingle", "--without-heartbeat"],
]

#: Files instead of a broker.
BROKER = """
import os
for name in ("broker", "control"):
    os.makedirs(name, exist_ok=True)
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": "broker", "data_folder_out": "broker", "control_folder": "control"
    },
    worker_enable_remote_control=False,
)
"""
SEND_ALL = f"import tasks\nfor address in {sorted(ALL)}: tasks.mail.delay(address)"


def tasks(*changes: tuple[str, str]) -> dict[str, str]:
    """The program of the page, changed."""
    text = served("tasks.py") + BROKER
    for old, new in changes:
        text = replaced(text, old, new)
    return {"tasks.py": text}


@contextmanager
def working(folder: Path, *options: str, files: dict[str, str]) -> Iterator[Server]:
    """A worker that has accepted all mails.

    They are sent to the broker before it starts: files are no broker for two at once.
    """
    write(folder, {"mails.py": "send = None", **files})
    command = [sys.executable, "-c", SEND_ALL]
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, timeout=LIMIT)
    with serving(folder, *WORKER, *options, files=files) as server:
        server.wait_until_said("succeeded in", len(ALL))
        server.wait_until_in_hand()
        yield server


ONE_PROCESS = (
    ("worker_process_init", "worker_init"),
    ("worker_process_shutdown", "worker_shutdown"),
)
POOLS = {"prefork": (), "solo": ONE_PROCESS, "threads": ONE_PROCESS}


@pytest.mark.parametrize("pool", POOLS)
def test_all_that_was_accepted_is_done_at_a_warm_shutdown(tmp_path: Path, pool: str) -> None:
    with working(tmp_path, "--pool", pool, files=tasks(*POOLS[pool])) as server:
        server.ask_to_end()
        server.wait_until_said("Queue mails is stopping")
        assert server.sent == set()
        server.let_go()
        assert server.wait() == 0, server.log
        assert server.sent == ALL, server.log
        assert "not sent" not in server.log


def test_what_is_left_when_the_time_is_over_is_in_the_log(tmp_path: Path) -> None:
    files = tasks(("timeout=25", "timeout=0.1"))
    with working(tmp_path, files=files) as server:
        server.ask_to_end()
        assert server.wait() == 0, server.log
        assert server.sent == set()
        assert "Queue mails stopped with 5 items unprocessed" in server.log
        assert "not sent: [" in server.log
