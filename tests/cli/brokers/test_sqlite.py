"""The commands for a queue in a file: ``--broker sqlite:///calls.db``."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Command
from penstock.brokers.sqlite import SqliteQueue
from penstock.cli.app import run_command
from processes import wait_for

pytestmark = pytest.mark.real_time

URL = "sqlite:///calls.db"
PUT = ["put", "items.jsonl", "--queue", "calls", "--broker", URL]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command here; its exit code, and what it wrote."""
    monkeypatch.chdir(tmp_path)
    for name in ("NATS_URL", "PENSTOCK_BROKER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "items.jsonl").write_text('1\n"two"\n{"n": 3}\n')

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        return code, *capsys.readouterr()

    return run


async def fail_all(path: Path) -> None:
    """Have all items of the queue fail."""

    async def fail(item: Any) -> None:
        raise LookupError(f"no {item}")

    async with SqliteQueue[Any](path, "calls") as queue:
        await queue.start_workers(fail, 1, lambda error, item: None)
        await asyncio.wait_for(queue.join(), 30)


def test_lines_become_items_and_the_queue_is_shown(run: Run) -> None:
    code, out, told = run(*PUT, "--maxsize", "5", "--ack-wait", "20")
    assert (code, out) == (0, "accepted     3 items\nrefused      0\n")
    assert told == (
        "penstock: created queue calls: at most 5 items (--maxsize), ack wait 20 s, in calls.db\n"
    )
    code, out, told = run(*PUT, "--timeout", "0")  # with the settings that it has
    assert code == 1
    assert "line 3: no room in 0 s" in told
    code, out, _ = run("queue", "calls", "--broker", URL)
    assert (code, out) == (
        0,
        (
            "calls: 5 of 5 (5 waiting, 0 in flight), 0 refused, 0 redelivered, 0 dead letters, "
            "0 workers (0 idle), 0 processes\n"
        ),
    )


def test_dead_letters_are_shown_and_put_back(run: Run, tmp_path: Path) -> None:
    assert run(*PUT)[0] == 0
    asyncio.run(fail_all(tmp_path / "calls.db"))
    code, out, _ = run("queue", "calls", "--broker", URL, "--dead-letters", "1", "--json")
    assert (code, json.loads(out)["error"]) == (0, "no 1")
    code, out, _ = run("queue", "calls", "--broker", URL, "--redrive")
    assert (code, out) == (0, "put back 3, 0 dead letters are left\n")


def test_all_processes_are_paused_and_resumed(run: Run) -> None:
    assert run(*PUT)[0] == 0
    for option, is_paused in (("--pause", True), ("--resume", False)):
        assert run("queue", "calls", "--broker", URL, option)[0] == 0
        _, out, _ = run("queue", "calls", "--broker", URL, "--json")
        assert json.loads(out)["is_paused"] is is_paused


def test_a_mistyped_name_or_path_makes_nothing(run: Run, tmp_path: Path) -> None:
    code, _, told = run("queue", "mistyped", "--broker", URL)
    assert (code, told) == (4, "penstock: there is no queue mistyped in calls.db\n")
    assert not (tmp_path / "calls.db").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--broker", "sqlite://calls.db"], "the URL of a file must be like sqlite:///calls.db"),
        (["--broker", "sqlite:///"], "the URL of a file must be like sqlite:///calls.db"),
        (["--broker", URL, "--creds", "x"], "--creds is for queues on a server"),
        (["--broker", URL, "--replicas", "3"], "--replicas is for queues on another kind"),
    ],
)
def test_wrong_usage_is_told(options: list[str], problem: str, run: Run) -> None:
    code, out, told = run("put", "items.jsonl", "--queue", "calls", *options)
    assert (code, out) == (2, "")
    assert told.startswith(f"penstock: {problem}")


def test_a_shared_rate_needs_a_server(run: Run) -> None:
    code, _, told = run(
        *("worker", "json:dumps", "--queue", "calls", "--broker", URL, "--shared-rate", "1/s")
    )
    assert code == 2
    assert told.startswith("penstock: --shared-rate is for queues on NATS")


def test_an_absolute_path(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "calls.db"
    path.parent.mkdir()
    put = ["put", "items.jsonl", "--queue", "calls", "--broker", f"sqlite:///{path}"]
    assert run(*put)[0] == 0
    assert path.exists()


@pytest.mark.slow
def test_a_worker_calls_the_function_until_a_signal(penstock: Command) -> None:
    (penstock.folder / "jobs.py").write_text(
        "def call(item):\n    with open('called', 'a') as file:\n        file.write(f'{item}\\n')\n"
    )
    (penstock.folder / "items.jsonl").write_text("1\n2\n3\n")
    called = penstock.folder / "called"
    with penstock.started("worker", "jobs:call", "--queue", "calls", "--broker", URL) as worker:
        with penstock.started(*PUT) as put:
            assert put.wait(60) == 0
        wait_for("all calls", lambda: called.exists() and called.read_text() == "1\n2\n3\n")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
