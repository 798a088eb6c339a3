"""``penstock worker``: real processes that work, and that stop as signals say."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers.servers import NatsServer
from cli.conftest import Command
from penstock.brokers.nats import NatsDeadLetter, NatsQueue, QueueInfo
from penstock.cli.app import run_command
from processes import wait_for
from telemetry.receiver import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

#: Writes what it was called with, one line for each call; stays where a file says so.
JOBS = """
import asyncio, os, time

number = 5

class Jobs:
    @staticmethod
    async def send(item):
        with open("called", "a") as file:
            file.write(f"{item}\\n")
        if item == "bad":
            raise ConnectionError("no answer")
        while item == "stay" and not os.path.exists("go on"):
            await asyncio.sleep(0.02)

def plain(item):
    with open("called", "a") as file:
        file.write(f"{item}\\n")
    while item == "stay" and not os.path.exists("go on"):
        time.sleep(0.02)
"""


class Place:
    """A folder with jobs in it, and a queue."""

    def __init__(self, penstock: Command, server: NatsServer, name: str) -> None:
        self.penstock, self.server, self.name = penstock, server, name
        (penstock.folder / "jobs.py").write_text(JOBS)

    @property
    def called(self) -> list[str]:
        path = self.penstock.folder / "called"
        return path.read_text().splitlines() if path.exists() else []

    def go_on(self) -> None:
        (self.penstock.folder / "go on").touch()

    def put(self, *items: Any) -> None:
        async def put(queue: NatsQueue[Any]) -> None:
            for item in items:
                assert await queue.put(item, 60)

        self._with_queue(put)

    def info(self) -> QueueInfo:
        return self._with_queue(lambda queue: queue.info())

    def dead_letters(self) -> list[NatsDeadLetter[Any]]:
        return self._with_queue(lambda queue: queue.look_at_dead_letters())

    def _with_queue(self, call: Callable[[NatsQueue[Any]], Any]) -> Any:
        async def do() -> Any:
            # So that what comes again was handed back, and not given up.
            async with NatsQueue[Any](self.server.url, self.name, ack_wait=600) as queue:
                return await call(queue)

        return asyncio.run(do())

    @contextmanager
    def worker(self, function: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        command = ["worker", function, "--nats", self.server.url, "--queue", self.name]
        pipes = {"stderr": subprocess.PIPE}
        with self.penstock.started(*command, *options, **pipes) as process:
            yield process


@pytest.fixture
def place(penstock: Command, nats_server: NatsServer, request: pytest.FixtureRequest) -> Place:
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return Place(penstock, nats_server, name)


def end(process: subprocess.Popen[bytes]) -> str:
    """Wait for it to end; what it said."""
    _, told = process.communicate(timeout=90)
    return told.decode()


def until_it_stops(process: subprocess.Popen[bytes]) -> str:
    """Read until it says that it stops; that line."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if b"stopping" in line:
            return line.decode()
    raise AssertionError("it ended")


@pytest.mark.parametrize("function", ["jobs:Jobs.send", "jobs:plain"])
def test_it_works_until_a_signal_and_finishes_what_it_has(function: str, place: Place) -> None:
    place.put("one", "two", "stay", "later")
    with place.worker(function) as process:
        wait_for("three calls", lambda: len(place.called) == 3)
        process.send_signal(signal.SIGTERM)
        assert until_it_stops(process).startswith("penstock: stopping, 1 in hand")
        place.go_on()
        told = end(process)
    assert process.returncode == 0, told
    assert told == "penstock: processed 3, 0 of them failed\n"
    assert place.called == ["one", "two", "stay"]
    assert place.info().size == 1  # for others


@pytest.mark.parametrize("function", ["jobs:Jobs.send", "jobs:plain"])
def test_the_second_signal_hands_back_at_once(function: str, place: Place) -> None:
    place.put("stay")
    with place.worker(function) as process:
        wait_for("the call", lambda: place.called)
        process.send_signal(signal.SIGTERM)
        until_it_stops(process)
        process.send_signal(signal.SIGTERM)
        told = end(process)
    assert process.returncode == 1, told
    assert "; 1 returned" in told
    place.go_on()
    with place.worker(function) as process:
        wait_for("the second call", lambda: len(place.called) == 2)
        wait_for("its end", lambda: place.info().size == 0)
        process.send_signal(signal.SIGINT)
        end(process)
        assert process.returncode == 0


def test_the_stop_timeout_ends_the_patience(place: Place) -> None:
    place.put("stay")
    with place.worker("jobs:Jobs.send", "--stop-timeout", "0.1") as process:
        wait_for("the call", lambda: place.called)
        process.send_signal(signal.SIGTERM)
        told = end(process)
    assert process.returncode == 1, told
    assert "; 1 returned" in told
    assert place.info().size == 1


def test_what_fails_is_tried_again_and_then_a_dead_letter(place: Place) -> None:
    place.put("bad", "good")
    with place.worker("jobs:Jobs.send", "--retry", "1", "--workers", "2") as process:
        wait_for("a dead letter", lambda: place.info().dead_letters)
        process.send_signal(signal.SIGTERM)
        told = end(process)
    assert process.returncode == 0
    assert "ConnectionError: no answer" in told  # in the log, with its traceback
    assert sorted(place.called) == ["bad", "bad", "good"]
    (letter,) = place.dead_letters()
    assert (letter.item, letter.deliveries) == ("bad", 2)
    assert (letter.error_type, letter.error) == ("ConnectionError", "no answer")


def test_a_rate_holds_for_the_process(place: Place) -> None:
    place.put(*range(4))
    with place.worker("jobs:plain", "--rate", "2/h", "--workers", "4") as process:
        wait_for("two calls", lambda: len(place.called) == 2)
        wait_for("the rest in hand", lambda: place.info().in_flight == 2)
        assert len(place.called) == 2
        process.send_signal(signal.SIGTERM)
        until_it_stops(process)
        process.send_signal(signal.SIGTERM)  # the first lets them wait for their turn
        end(process)
    assert place.info().size == 2


def test_a_shared_rate_holds_for_all_processes(place: Place) -> None:
    place.put(*range(6))
    options = ["jobs:plain", "--shared-rate", "2/h", "--workers", "2"]
    with place.worker(*options) as first, place.worker(*options) as second:
        wait_for("two calls", lambda: len(place.called) == 2)
        wait_for("the rest in hand", lambda: place.info().in_flight == 4)
        assert len(place.called) == 2
        for process in (first, second):
            process.send_signal(signal.SIGTERM)  # what waits for the limit is handed back
            end(process)
            assert process.returncode in (0, 1)
    assert len(place.called) == 2
    assert place.info().size == 4

    with place.worker("jobs:plain", "--shared-rate", "5/s") as other:
        told = end(other)
    assert other.returncode == 2, told
    assert "2 per 3600 s there and 5 per 1 s here" in told
    assert (place.info().size, place.info().dead_letters) == (4, 0)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["jobs"], "MODULE:FUNCTION must look like jobs:send, got 'jobs'"),
        (["gone:f"], "there is no module gone, neither in {folder} nor installed"),
        (["jobs.py:f"], "there is no module jobs.py, neither in {folder} nor installed"),
        (["jobs:f"], "module jobs has no f"),
        (["jobs:number"], "jobs:number must be a function, got int"),
        (["jobs:plain", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["jobs:plain", "--retry", "-1"], "--retry must be at least 0, got -1"),
        (
            ["jobs:plain", "--stop-timeout", "-1"],
            "--stop-timeout must be 0 seconds or more, got -1",
        ),
        (
            ["jobs:plain", "--rate", "5/s", "--shared-rate", "5/s"],
            "--rate is for this process, and --shared-rate for all: give one of them",
        ),
        (
            ["jobs:plain", "--rate", "5"],
            "--rate: a rate must look like 500/min, 20/s or 100/10s, got '5'",
        ),
    ],
)
def test_wrong_usage_is_told(
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.delitem(__import__("sys").modules, "jobs", raising=False)
    code = run_command(["worker", *arguments, "--nats", "nats://127.0.0.1:9", "--queue", "q"])
    monkeypatch.delitem(__import__("sys").modules, "jobs", raising=False)
    assert code == 2
    assert capsys.readouterr().err == f"penstock: {problem.format(folder=tmp_path)}\n"


def test_a_module_that_cannot_be_imported_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "broken_jobs.py").write_text("import no_such_module_at_all\n")
    command = ["worker", "broken_jobs:f", "--nats", "nats://h", "--queue", "q"]
    assert run_command(command) == 2
    told = capsys.readouterr().err
    assert "broken_jobs.py" in told
    assert told.endswith(
        "penstock: module broken_jobs cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module_at_all'\n"
    )


def test_the_trace_goes_from_the_one_who_puts_to_the_one_who_works(place: Place) -> None:
    place.penstock.lines("traced", name="items.jsonl")
    with Receiver() as receiver:
        where = ["--nats", place.server.url, "--queue", place.name, "--otlp", receiver.endpoint]
        done = place.penstock.run("put", "items.jsonl", *where)
        assert done.returncode == 0, done.stderr
        with place.worker("jobs:plain", "--otlp", receiver.endpoint) as process:
            wait_for("the call", lambda: place.called)
            process.send_signal(signal.SIGTERM)
            told = end(process)
        assert process.returncode == 0, told
        spans = {span.data.name.split()[0]: span for span in receiver.spans}
        assert "penstock.process.items" in receiver.metrics
    put, worked = spans["put"], spans["process"]
    assert worked.data.trace_id == put.data.trace_id
    assert worked.data.parent_span_id == put.data.span_id
    assert put.resource["service.name"] == "penstock-put"
    assert worked.resource["service.name"] == "penstock-worker"
