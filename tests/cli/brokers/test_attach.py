"""How the commands for a queue on NATS get in, and what they say if they do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brokers.memory import MemoryQueue, Store
from brokers.servers import Certificates, NatsServer
from penstock.cli.app import run_command
from penstock.cli.brokers.attach import TARGETS

pytestmark = pytest.mark.real_time

#: Nobody listens there.
NOWHERE = "nats://me:s3cret@127.0.0.1:9"
COMMANDS = {
    "worker": ["worker", "json:dumps", "--queue", "q"],
    "put": ["put", "items.jsonl", "--queue", "q"],
    "queue": ["queue", "q"],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command here; its exit code, and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.delenv("PENSTOCK_BROKER", raising=False)
    (tmp_path / "items.jsonl").write_text("1\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_the_url_must_be_given(command: str, run: Run) -> None:
    code, _, problem = run(*COMMANDS[command])
    assert code == 2
    assert problem.startswith("penstock: Missing option '--broker'")
    assert problem.endswith(f"(see penstock {command} --help)\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_not_there_is_told_without_the_password(command: str, run: Run) -> None:
    code, out, problem = run(*COMMANDS[command], "--nats", NOWHERE)
    assert (code, out) == (4, "")
    assert problem == (
        "penstock: Nothing listens at nats://127.0.0.1:9: is nats-server running there? "
        "To start one here: nats-server -js\n"
    )


def test_the_environment_can_tell_the_url(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", NOWHERE)
    code, _, problem = run(*COMMANDS["put"])
    assert code == 4
    assert "Nothing listens at nats://127.0.0.1:9" in problem


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--nats", "http://me:s3cret@h"],
            "servers must be like nats://host:4222, got 'http://h'",
        ),
        (["--nats", NOWHERE, "--creds", "none"], "cannot read --creds none: No such file"),
        (["--nats", NOWHERE, "--tls-ca", "none"], "cannot read --tls-ca none: No such file"),
        (
            ["--nats", NOWHERE, "--tls-ca", "items.jsonl"],
            "--tls-ca items.jsonl has no certificate in PEM form",
        ),
        (
            ["--nats", NOWHERE, "--tls-cert", "items.jsonl", "--tls-key", "items.jsonl"],
            "--tls-cert items.jsonl and its key do not match, or are not in PEM form",
        ),
        (
            ["--nats", NOWHERE, "--tls-key", "items.jsonl"],
            "--tls-key is the key of a certificate: give --tls-cert too",
        ),
    ],
)
def test_wrong_usage_is_told(options: list[str], problem: str, run: Run) -> None:
    for command in COMMANDS.values():
        code, out, told = run(*command, *options)
        assert (code, out) == (2, "")
        assert told.startswith(f"penstock: {problem}")
        assert told.count("\n") == 1


def test_a_broker_of_another_kind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(maxsize=3)
    made: list[Any] = []

    class InMemory:
        """A target that another kind of broker may have."""

        def __init__(self, url: str, name: str, credentials: dict[str, str | None]) -> None:
            self.name = name
            made.append((url, name, credentials["creds"]))

        async def settings(self) -> dict[str, Any] | None:
            return {"maxsize": 3}

        def defaults(self) -> dict[str, Any]:
            return {"maxsize": 100}

        def queue(self, maxsize: int, **more: Any) -> MemoryQueue:
            return MemoryQueue(maxsize, store=store, name=self.name)

    monkeypatch.setitem(TARGETS, "memory", InMemory)  # type: ignore[arg-type]
    code, _, told = run(*COMMANDS["put"], "--broker", "memory://here", "--replicas", "3")
    assert (code, told) == (2, "penstock: --replicas is for queues on another kind of broker\n")
    monkeypatch.setenv("PENSTOCK_BROKER", "memory://here")
    assert run(*COMMANDS["put"]) == (0, "accepted     1 item\nrefused      0\n", "")
    assert store.stored_items() == [1]
    assert made == [("memory://here", "q", None)] * 2


@pytest.mark.parametrize(("option", "is_paused"), [("--pause", True), ("--resume", False)])
def test_all_processes_are_paused_and_resumed(
    option: str,
    is_paused: bool,
    run: Run,
    newer_nats_program: Path,
    start_nats: Callable[..., NatsServer],
) -> None:
    url = start_nats(newer_nats_program).url
    assert run(*COMMANDS["put"], "--nats", url)[0] == 0
    assert run("queue", "q", "--nats", url, "--pause")[0] == 0
    code, out, _ = run("queue", "q", "--nats", url, option)
    assert (code, out) == (
        0,
        f"q: {'paused' if is_paused else 'resumed'}, for all processes\n",
    )
    _, line, _ = run("queue", "q", "--nats", url)
    assert line.endswith(", paused\n") == is_paused


def test_an_older_server_cannot_pause(run: Run, nats_server: NatsServer) -> None:
    assert run(*COMMANDS["put"], "--nats", nats_server.url, "--queue", "older")[0] == 0
    code, _, told = run("queue", "older", "--nats", nats_server.url, "--pause")
    assert code == 4
    assert "pause_all() needs nats-server 2.11.0 or newer" in told
    code, _, told = run("queue", "older", "--nats", nats_server.url, "--pause", "--resume")
    assert (code, told) == (2, "penstock: --pause or --resume: give one\n")


def test_what_is_no_setting_is_told(run: Run, nats_server: NatsServer) -> None:
    code, _, told = run(*COMMANDS["put"], "--nats", nats_server.url, "--maxsize", "0")
    assert (code, told) == (2, "penstock: Queue maxsize must be at least 1, got 0\n")
    code, _, told = run("put", "items.jsonl", "--queue", "a b", "--nats", nats_server.url)
    assert code == 2
    assert "'a b'" in told


def test_a_queue_is_made_with_what_was_asked_for_and_joined_with_what_it_has(
    run: Run, nats_server: NatsServer
) -> None:
    put = ["put", "items.jsonl", "--nats", nats_server.url, "--queue", "attached"]
    code, _, told = run(*put, "--maxsize", "3", "--ack-wait", "5")
    assert code == 0
    assert told == (
        "penstock: created queue attached: at most 3 items (--maxsize), 1 replica(s), "
        "ack wait 5 s\n"
    )
    assert run(*put) == (0, "accepted     1 item\nrefused      0\n", "")
    code, _, told = run(*put, "--maxsize", "4")
    assert code == 4
    assert "max_msgs is 3 there and 4 here" in told


def test_certificates_and_credentials_open_the_door(
    run: Run, start_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path / "tls")
    server = start_nats(
        tls=certificates.block(verify=True),
        authorization={"users": [{"user": "me", "password": "s3cret"}]},
    )
    ours, key = map(str, certificates.issue("localhost"))
    there = ["--nats", server.url.replace("://", "://me:s3cret@"), "--queue", "q"]
    trust = ["--tls-ca", str(certificates.authority)]
    code, out, told = run(
        "put", "items.jsonl", *there, *trust, "--tls-cert", ours, "--tls-key", key
    )
    assert (code, out) == (0, "accepted     1 item\nrefused      0\n"), told

    code, _, told = run("put", "items.jsonl", *there)
    assert code == 4
    assert "No TLS connection to" in told
    assert "s3cret" not in told


def test_a_wrong_password_is_told_and_not_repeated(
    run: Run, start_nats: Callable[..., NatsServer]
) -> None:
    server = start_nats(authorization={"users": [{"user": "me", "password": "s3cret"}]})
    url = server.url.replace("://", "://me:wr0ng@")
    code, _, told = run(*COMMANDS["put"], "--nats", url)
    assert code == 4
    assert told.count("\n") == 1
    assert "wr0ng" not in told


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['nats'] = None\n"
        "from penstock.cli.app import run_command\n"
        "sys.exit(run_command(['queue', 'q', '--nats', 'nats://h']))"
    )
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "penstock: penstock.brokers.nats needs the extra nats: pip install 'penstock[nats]'\n",
    )
