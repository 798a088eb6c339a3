"""Tokens are found where services tell them; budgets end a run, and a larger one goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Command, Server
from penstock.cli.run.tokens import Cost

JSON = {"Content-Type": "application/json"}
OUT = ("--out", "results.jsonl")

SHAPES: list[tuple[Any, float | None]] = [
    ({"usage": {"total_tokens": 7, "prompt_tokens": 5, "completion_tokens": 2}}, 7),
    ({"usage": {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 90}}, 7),
    ({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, 7),
    ({"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 7}}, 7),
    ({"usage": {"input_tokens": 5}}, None),
    ({"usage": None}, None),
    ([1], None),
]


@pytest.mark.parametrize(("answer", "tokens"), SHAPES)
def test_where_services_tell_their_tokens(answer: Any, tokens: float | None) -> None:
    assert Cost.parse(None).of(answer) == tokens


def test_a_sum_of_places() -> None:
    cost = Cost.parse("a.0.b + c")
    assert cost.of({"a": [{"b": 3}], "c": 4}) == 7
    assert cost.of({"c": 4}) is None


def run(penstock: Command, server: Server, count: int, *options: str) -> Any:
    lines = penstock.lines(*({"id": n, "path": f"/{n}"} for n in range(count)))
    return penstock.run("run", lines, "--url", server.url, *OUT, *options)


def test_a_budget_of_requests_ends_the_run_and_a_larger_one_goes_on(
    penstock: Command, server: Server
) -> None:
    done = run(penstock, server, 30, "--max-requests", "10")
    assert done.returncode == 6
    assert done.stderr == (
        "penstock: --max-requests is used up: give a larger one to continue from here. "
        "Run the same command again to continue from here.\n"
    )
    assert len(server.seen) == len(penstock.results()) == 10
    done = run(penstock, server, 30, "--max-requests", "10")
    assert done.returncode == 6
    assert "earlier runs have used up --max-requests 10" in done.stderr
    assert len(server.seen) == 10
    assert run(penstock, server, 30, "--max-requests", "25").returncode == 6
    assert len(server.seen) == 25
    assert run(penstock, server, 30, "--max-requests", "30").returncode == 0
    assert len(server.seen) == 30


def test_a_budget_of_tokens_is_kept_to(penstock: Command, server: Server) -> None:
    usage = json.dumps({"usage": {"total_tokens": 100}}).encode()
    server.answer = lambda seen: (200, JSON, usage)
    done = run(penstock, server, 50, "--max-tokens", "1000", "--concurrency", "4")
    assert done.returncode == 6
    assert "--max-tokens is used up" in done.stderr
    assert len(server.seen) == 10
    assert "tokens       1,000" in done.stdout
    done = run(penstock, server, 50, "--max-tokens", "1500", "--concurrency", "4")
    assert done.returncode == 6
    assert len(server.seen) == 15


def test_answers_without_tokens_end_a_run_that_is_to_count_them(
    penstock: Command, server: Server
) -> None:
    server.answer = lambda seen: (200, JSON, b'{"n": 1}')
    done = run(penstock, server, 100, "--tokens", "1000000/s", "--concurrency", "5")
    assert done.returncode == 2
    assert "20 answers came, and none has a number of tokens" in done.stderr
    assert 20 <= len(server.seen) <= 25
    done = run(penstock, server, 100, "--tokens", "1000000/s", "--cost", "n")
    assert done.returncode == 0, done.stderr
    assert len(penstock.results()) == 100


def test_several_rates_hold_together(penstock: Command, server: Server) -> None:
    done = run(penstock, server, 4, "--rate", "1000/s", "--rate", "3/h", "--deadline", "2")
    assert done.returncode == 1
    assert len(server.seen) == 3


# -- the token of a command -----------------------------------------------------------------------


def test_a_command_gives_the_token_and_a_new_one_after_a_401(
    penstock: Command, server: Server
) -> None:
    (penstock.folder / "count").write_text("")
    command = "printf x >> count; printf 'token-number-%s' $(wc -c < count)"
    server.answer = lambda seen: (
        *(401 if len(server.seen) > 20 and "number-1" in seen.headers["Authorization"] else 200,),
        *({}, b""),
    )
    done = run(penstock, server, 60, "--bearer-command", command, "--concurrency", "4")
    assert done.returncode == 0, done.stderr
    assert (penstock.folder / "count").read_text() == "xx"
    assert {seen.headers["Authorization"] for seen in server.seen} == {
        "Bearer token-number-1",
        "Bearer token-number-2",
    }
    assert "token-number" not in done.stdout + (penstock.folder / "results.jsonl").read_text()


def test_a_new_token_that_is_refused_too_ends_the_run(penstock: Command, server: Server) -> None:
    server.answer = lambda seen: (401, {}, b"")
    done = run(penstock, server, 30, "--bearer-command", "echo abcdefghij", "--concurrency", "2")
    assert done.returncode == 3
    assert "answered 401 Unauthorized" in done.stderr
    assert len(server.seen) <= 6


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("exit 7", "--bearer-command ended with exit code 7"),
        ("true", "--bearer-command printed no token"),
        ("echo '{\"error\": 1}'", "--bearer-command printed no token"),
    ],
)
def test_a_command_that_gives_no_token_ends_the_run(
    penstock: Command, server: Server, command: str, problem: str
) -> None:
    done = run(penstock, server, 30, "--bearer-command", command)
    assert done.returncode == 3
    assert problem in done.stderr
    assert not server.seen


# -- what is told at the end ----------------------------------------------------------------------


def test_the_summary_quotes_the_service_once_for_each_kind(
    penstock: Command, server: Server
) -> None:
    said = json.dumps({"error": {"message": "There is no such item."}}).encode()
    server.answer = lambda seen: (404, JSON, said) if seen.path != "/0" else (200, JSON, b"{}")
    done = run(penstock, server, 5, "--concurrency", "1")
    assert done.returncode == 1
    assert "http_404: 404 Not Found: There is no such item. (id 1)" in done.stdout
    assert done.stdout.count("no such item") == 1


def test_the_summary_as_json(penstock: Command, server: Server) -> None:
    server.answer = lambda seen: (404 if seen.path == "/1" else 200, {}, b"")
    done = run(penstock, server, 3, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert (told["sent"], told["succeeded"], told["failed"]) == (3, 2, {"http_404": 1})
    assert told["failures"] == {"http_404": {"message": "404 Not Found", "id": 1}}
    assert told["exit_code"] == 1


def test_quiet_says_nothing(penstock: Command, server: Server) -> None:
    done = run(penstock, server, 3, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(penstock.results()) == 3
