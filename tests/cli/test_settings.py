"""Options from a file, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.cli.app import run_command

CONFIG = """
file = "requests.jsonl"
out = "results.jsonl"
concurrency = 1
retry = 0
timeout = 5
header = ["X-A: 1", "X-B: 2"]
bearer-env = "SERVICE_TOKEN"
no-feedback = true
overwrite = true

[template]
path = "/{n}"
"""


def test_all_of_it_can_stand_in_a_file_and_the_command_line_wins(
    penstock: Any, server: Any
) -> None:
    penstock.environment["SERVICE_TOKEN"] = "a-token"
    penstock.lines({"n": 1}, {"n": 2})
    (penstock.folder / "run.toml").write_text(CONFIG)
    server.answer = lambda seen: (500, {}, b"")
    options = ("--config", "run.toml", "--url", server.url)
    done = penstock.run("run", *options)
    assert done.returncode == 1, done.stderr
    assert [seen.path for seen in server.seen] == ["/1", "/2"]  # one at a time, and no retries
    headers = server.seen[0].headers
    assert (headers["X-A"], headers["X-B"]) == ("1", "2")
    assert headers["Authorization"] == "Bearer a-token"
    server.seen.clear()
    done = penstock.run("run", *options, "--retry", "1", "--out", "other.jsonl")
    assert done.returncode == 1
    assert len(server.seen) == 4
    assert len(penstock.results("other.jsonl")) == 2


@pytest.mark.parametrize("name", ["capacity", "maxsize"])
def test_an_option_with_two_names_has_both_in_a_file(penstock: Any, name: str) -> None:
    penstock.lines({"n": 1})
    (penstock.folder / "run.toml").write_text(f"{name} = 0")
    done = penstock.run("run", "requests.jsonl", "--config", "run.toml", "--url", "http://a")
    assert done.stderr == "penstock: --capacity must be at least 1, got 0\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            b'rat = "1/s"',
            "unknown key 'rat'; allowed are attempts, bearer-command, bearer-env, cacert,",
        ),
        (b"retry_failed = true", "unknown key 'retry_failed'; allowed are "),
        (b'config = "x"', "unknown key 'config'; allowed are "),
        (b'overwrite = "secret"', "overwrite must be true or false"),
        (b"tokens = [1]", "tokens must be text or a number"),
        (b"timeout = true", "timeout must be text or a number"),
        (b"header = [1]", "header must be text, or a list of texts"),
        (b"rate = ", "not TOML: "),
        (b'rate = "\xff"', "not UTF-8: byte 9 is wrong"),
    ],
)
def test_what_is_wrong_with_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: bytes,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_bytes(text)
    assert run_command(["run", "-", "--out", "new", "--config", "run.toml"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"penstock: cannot read --config run.toml: {problem}")
    assert "secret" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "-", "--config", "none.toml"]) == 2
    assert capsys.readouterr().err == (
        "penstock: cannot read --config none.toml: No such file or directory\n"
    )
