"""Secrets reach the service that they are for, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.cli.app import run_command
from penstock.cli.run.credentials import read_credentials
from telemetry.receiver import Receiver

TOKEN = 'tok-"3n-0123456789'
KEY = "key-abcdefghij"
OPTIONS = (
    *("--bearer-env", "SERVICE_TOKEN", "--header-env", "X-Api-Key=SERVICE_KEY"),
    *("--header", "X-Plain: plainly-hidden-words"),
)
OUT = ("--out", "results.jsonl")


@pytest.fixture
def penstock(penstock: Any) -> Any:
    penstock.environment |= {"SERVICE_TOKEN": TOKEN, "SERVICE_KEY": KEY}
    return penstock


def everything_in(folder: Path) -> str:
    files = [path for path in folder.iterdir() if path.name != "requests.jsonl"]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def assert_hidden(text: str) -> None:
    for secret in (TOKEN, TOKEN.replace('"', '\\"'), KEY, "plainly-hidden-words"):
        assert secret not in text


def test_a_secret_is_sent_and_seen_nowhere(penstock: Any, server: Any) -> None:
    def echo(seen: Any) -> tuple[int, dict[str, str], bytes]:
        # As services do that tell what they got.
        got = f"{seen.headers['Authorization']} {seen.headers['X-Api-Key']}"
        return (200 if seen.path == "/1" else 418), {"Content-Type": "text/plain"}, got.encode()

    server.answer = echo
    lines = penstock.lines(
        {"path": "/1"}, {"path": "/2"}, {"path": "/3", "headers": {"authorization": "own-words"}}
    )
    with Receiver() as receiver:
        done = penstock.run(
            *("run", lines, "--url", server.url, *OUT, *OPTIONS, "--failures", "failed.jsonl"),
            *("--otlp", receiver.endpoint, "--report", "report.html"),
        )
        traced = repr([span.data for span in receiver.spans])
    assert done.returncode == 1, done.stderr
    by_path = {seen.path: seen.headers for seen in server.seen}
    for path in ("/1", "/2"):
        assert by_path[path]["Authorization"] == f"Bearer {TOKEN}"
    assert by_path["/3"]["Authorization"] == "own-words"
    for headers in by_path.values():
        assert (headers["X-Api-Key"], headers["X-Plain"]) == (KEY, "plainly-hidden-words")
    assert "process requests" in traced
    assert_hidden(done.stdout + done.stderr + traced + everything_in(penstock.folder))
    assert penstock.results()[0]["body"] == "Bearer *** ***"


def test_a_dry_run_shows_requests_without_secrets_and_sends_nothing(
    penstock: Any, server: Any
) -> None:
    lines = penstock.lines(
        {"id": "a", "path": "/1", "json": {"word": "weir"}, "headers": {"X-Line": "hidden too"}},
        {"pth": "/2"},
        {"path": "/3"},
        {"path": "/4"},
    )
    before = sorted(penstock.folder.iterdir())
    done = penstock.run("run", lines, "--url", server.url, *OUT, *OPTIONS, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:8] == [
        "line 1, id 'a'",
        f"GET {server.url}/1",
        "X-Line: ***",
        "Content-Type: application/json",
        "X-Request-Id: a",
        "X-Plain: ***",
        "X-Api-Key: ***",
        "Authorization: ***",
    ]
    assert '{"word":"weir"}' in done.stdout
    assert "line 2: unknown key 'pth'" in done.stdout
    assert f"GET {server.url}/3" in done.stdout
    assert "/4" not in done.stdout
    assert_hidden(done.stdout)
    assert "hidden too" not in done.stdout
    assert sorted(penstock.folder.iterdir()) == before
    assert not server.seen


def test_another_service_does_not_get_them(penstock: Any, server: Any) -> None:
    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        _, port = seen.headers["Host"].split(":")
        if seen.path == "/away":
            return 307, {"Location": f"http://localhost:{port}/redirected"}, b""
        if seen.path == "/near":
            return 307, {"Location": "/same"}, b""
        return 200, {}, b""

    server.answer = answer
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    lines = penstock.lines({"path": "/away"}, {"path": "/near"}, {"url": f"{elsewhere}/other"})
    done = penstock.run("run", lines, "--url", server.url, *OUT, *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    by_path = {seen.path: seen.headers for seen in server.seen}
    for path in ("/away", "/near", "/same"):
        assert by_path[path]["X-Api-Key"] == KEY
        assert by_path[path]["Authorization"] == f"Bearer {TOKEN}"
    for path in ("/redirected", "/other"):
        assert {"X-Api-Key", "Authorization", "X-Plain"}.isdisjoint(by_path[path])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--header", "no colon secret"], "--header must look like 'Name: value'"),
        (
            ["--header", "Bearer secret: x"],
            "--header: the name of a header must be a word such as X-Api-Key",
        ),
        (["--header", "A: sécret"], "--header: the value of A must be printable ASCII"),
        (["--header", "A: secret", "--header", "a: secret"], "--header: a is given twice"),
        (
            ["--header", "Content-Length: 1"],
            "--header: penstock sets Content-Length from the body: leave it out",
        ),
        (
            ["--header-env", "A"],
            "--header-env must look like X-Api-Key=NAME, NAME being a variable",
        ),
        (
            ["--bearer-env", "NOT_THERE"],
            "--bearer-env: the environment variable NOT_THERE is not set, or empty",
        ),
        (
            ["--bearer-env", "EMPTY"],
            "--bearer-env: the environment variable EMPTY is not set, or empty",
        ),
        (
            ["--bearer-env", "secret-0123"],
            "--bearer-env: the environment variable that it names is not set, or empty",
        ),
        (
            ["--bearer-env", "TWO_LINES"],
            "--bearer-env: the value of Authorization must be printable ASCII",
        ),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(
    options: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.setenv("TWO_LINES", "secret\nsecret")
    assert run_command(["run", "-", *OUT, *options]) == 2
    told = capsys.readouterr().err
    assert told == f"penstock: {problem}\n"
    assert "secret" not in told


def test_a_short_secret_is_not_looked_for_in_answers() -> None:
    credentials = read_credentials([], ["A=SHORT"], None, None, {"SHORT": "abc"})
    assert credentials.redacted("abcdef") == "abcdef"
