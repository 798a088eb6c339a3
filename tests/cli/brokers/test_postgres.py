"""The commands for a queue in PostgreSQL: ``--broker postgresql://...``, ``penstock postgres``."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from brokers.conftest import postgres_programs, postgres_server
from brokers.postgres.server import PostgresServer
from cli.conftest import Command
from penstock.brokers.postgres import PostgresQueue
from penstock.cli.app import run_command
from processes import wait_for

__all__ = ["postgres_programs", "postgres_server"]  # fixtures

pytestmark = pytest.mark.real_time

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the test's own, which is not prepared."""
    name = f"cli_{uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        yield postgres_server.url.rpartition("/")[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def run(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command here; its exit code, and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_BROKER", url)
    (tmp_path / "items.jsonl").write_text('1\n"two"\n{"n": 3}\n')

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        return code, *capsys.readouterr()

    return run


PUT = ["put", "items.jsonl", "--queue", "calls"]


def test_the_tables_are_made_shown_and_looked_after(run: Run) -> None:
    code, out, _ = run("postgres", "status")
    assert (code, out.splitlines()[0]) == (
        1,
        "schema penstock has version 0; this penstock makes 1: run init",
    )
    for _ in range(2):
        assert run("postgres", "init") == (0, "schema penstock has version 1\n", "")
    assert run(*PUT, "--maxsize", "5")[0] == 0
    code, out, _ = run("postgres", "status")
    assert code == 0
    assert "queue calls: 3 of 5\n" in out
    assert "table slots: " in out
    code, out, _ = run("postgres", "status", "--json")
    assert json.loads(out)["queues"] == {"calls": [3, 5]}
    assert run("postgres", "vacuum") == (0, "vacuumed the tables in penstock\n", "")


def test_without_the_tables_it_says_what_makes_them(run: Run) -> None:
    code, out, told = run(*PUT)
    assert (code, out) == (4, "")
    assert "penstock postgres init" in told


def test_lines_become_items_and_the_queue_is_shown(run: Run) -> None:
    assert run("postgres", "init")[0] == 0
    code, out, told = run(*PUT, "--maxsize", "5", "--ack-wait", "20")
    assert (code, out) == (0, "accepted     3 items\nrefused      0\n")
    assert told == (
        "penstock: created queue calls: at most 5 items (--maxsize), ack wait 20 s, "
        "in the schema penstock\n"
    )
    code, out, told = run(*PUT, "--timeout", "0")  # with the settings that it has
    assert code == 1
    code, out, _ = run("queue", "calls")
    assert out.startswith("calls: 5 of 5 (5 waiting, 0 in flight), 0 refused")
    assert run("queue", "calls", "--pause")[0] == 0
    assert json.loads(run("queue", "calls", "--json")[1])["is_paused"] is True


def test_a_schema_is_named_in_the_url(run: Run, url: str) -> None:
    other = f"{url}?schema=other"
    assert run("postgres", "init", other) == (0, "schema other has version 1\n", "")
    assert run("postgres", "init", url, "--schema", "third")[0] == 0
    assert run(*PUT, "--broker", other)[0] == 0
    assert "queue calls: 3 of 100" in run("postgres", "status", other)[1]
    assert "penstock postgres init" in run("queue", "calls")[2]


def test_dead_letters_are_shown_and_put_back(run: Run, url: str) -> None:
    async def bury_all() -> None:
        async def fail(item: Any) -> None:
            raise LookupError(f"no {item}")

        async with PostgresQueue[Any](url, "calls") as queue:
            await queue.start_workers(fail, 1, lambda error, item: None)
            await asyncio.wait_for(queue.join(), 30)

    assert run("postgres", "init")[0] == 0
    assert run(*PUT)[0] == 0
    asyncio.run(bury_all())
    code, out, _ = run("queue", "calls", "--dead-letters", "1", "--json")
    assert (code, json.loads(out)["error"][:3]) == (0, "no ")
    code, out, _ = run("queue", "calls", "--redrive")
    assert (code, out) == (0, "put back 3, 0 dead letters are left\n")


def test_a_mistyped_name_makes_nothing(run: Run) -> None:
    assert run("postgres", "init")[0] == 0
    code, _, told = run("queue", "mistyped")
    assert (code, told) == (4, "penstock: there is no queue mistyped in the database\n")
    assert "queue " not in run("postgres", "status")[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--broker", "postgresql://[me"], "the URL of a database must be like postgresql://"),
        (["--creds", "x"], "--creds is for queues on NATS"),
        (["--replicas", "3"], "--replicas is for queues on another kind"),
        (["--broker", "postgresql://h/d?schema=No"], "schema must be up to 40 small letters"),
    ],
)
def test_wrong_usage_is_told(options: list[str], problem: str, run: Run) -> None:
    assert run("postgres", "init")[0] == 0
    code, out, told = run("put", "items.jsonl", "--queue", "calls", *options)
    assert (code, out) == (2, "")
    assert told.startswith(f"penstock: {problem}")


@pytest.mark.slow
def test_a_worker_calls_the_function_until_a_signal(penstock: Command, run: Run, url: str) -> None:
    assert run("postgres", "init")[0] == 0
    (penstock.folder / "jobs.py").write_text(
        "def call(item):\n    with open('called', 'a') as file:\n        file.write(f'{item}\\n')\n"
    )
    (penstock.folder / "items.jsonl").write_text("1\n2\n3\n")
    called = penstock.folder / "called"
    where = ["--queue", "calls", "--broker", url]
    with penstock.started("worker", "jobs:call", *where) as worker:
        with penstock.started("put", "items.jsonl", *where) as put:
            assert put.wait(60) == 0
        wait_for("all calls", lambda: called.exists() and called.read_text() == "1\n2\n3\n")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
