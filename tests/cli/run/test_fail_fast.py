"""A run that makes no sense is stopped with one message, and can be gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from processes import HeldPort

pytestmark = pytest.mark.slow

OUT = ("--out", "results.jsonl")


def lines_for(penstock: Any, count: int) -> str:
    return str(penstock.lines(*({"id": n, "path": f"/{n}"} for n in range(count))))


def test_a_token_that_expires_stops_the_run_and_a_new_one_goes_on(
    penstock: Any, server: Any
) -> None:
    penstock.environment["SERVICE_TOKEN"] = "first-token"
    server.answer = lambda seen: (
        (200 if len(server.seen) <= 20 or "second" in seen.headers["Authorization"] else 401),
        {},
        b"",
    )
    lines = lines_for(penstock, 300)
    options = ("run", lines, "--url", server.url, *OUT, "--bearer-env", "SERVICE_TOKEN")
    done = penstock.run(*options, "--concurrency", "4")
    assert done.returncode == 3
    assert done.stderr == (
        f"penstock: {server.url} answered 401 Unauthorized: it wants a valid token "
        "(--bearer-env, --header-env). Run the same command again to continue from here.\n"
    )
    assert 21 <= len(server.seen) <= 28
    assert len(penstock.results()) == 20
    assert all(result["status"] == 200 for result in penstock.results())

    penstock.environment["SERVICE_TOKEN"] = "second-token"
    done = penstock.run(*options)
    assert done.returncode == 0, done.stderr
    assert sorted(result["id"] for result in penstock.results()) == list(range(300))


def test_a_401_that_is_the_fault_of_one_line_is_a_failure(penstock: Any, server: Any) -> None:
    server.answer = lambda seen: (401 if "Authorization" in seen.headers else 200, {}, b"")
    lines = penstock.lines({"path": "/1", "headers": {"Authorization": "mine"}}, {"path": "/2"})
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 1
    assert [result["status"] for result in penstock.results()] == [401, 200]


def test_spent_credit_stops_the_run_and_quotes_the_service(penstock: Any, server: Any) -> None:
    spent = b'{"error": {"code": "insufficient_quota", "message": "You exceeded your quota."}}'
    kind = {"Content-Type": "application/json"}
    server.answer = lambda seen: (200, {}, b"") if len(server.seen) <= 20 else (429, kind, spent)
    lines = lines_for(penstock, 300)
    options = ("run", lines, "--url", server.url, *OUT)
    done = penstock.run(*options, "--concurrency", "4")
    assert done.returncode == 3
    assert done.stderr == (
        f"penstock: {server.url} answered 429 Too Many Requests: You exceeded your quota. "
        "Run the same command again to continue from here.\n"
    )
    assert 21 <= len(server.seen) <= 20 + 4  # those that were at once
    assert len(penstock.results()) == 20

    server.answer = lambda seen: (200, {}, b"")
    assert penstock.run(*options).returncode == 0
    assert sorted(result["id"] for result in penstock.results()) == list(range(300))


def test_it_keeps_going_if_it_is_told_to(penstock: Any, server: Any) -> None:
    server.answer = lambda seen: (401, {}, b"")
    done = penstock.run(
        *("run", lines_for(penstock, 30), "--url", server.url, *OUT, "--keep-going")
    )
    assert done.returncode == 1
    assert len(server.seen) == len(penstock.results()) == 30


@pytest.mark.parametrize("count", [2, 500])
def test_nobody_there_is_told_once(penstock: Any, server: Any, count: int) -> None:
    lines = lines_for(penstock, count)
    with HeldPort() as port:
        url = f"http://127.0.0.1:{port.number}"
        done = penstock.run("run", lines, "--url", url, *OUT, "--retry", "1")
    assert done.returncode == 4
    attempts = 2 * min(count, 10)
    assert done.stderr == (
        f"penstock: no answer from {url} to {attempts} attempts: Connection refused. "
        "Run the same command again to continue from here.\n"
    )
    assert penstock.results() == []
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert len(penstock.results()) == count


def test_once_there_was_an_answer_the_rest_are_failures(penstock: Any, server: Any) -> None:
    with HeldPort() as port:
        refused = [{"url": f"http://127.0.0.1:{port.number}/{n}"} for n in range(15)]
        lines = penstock.lines(*refused[:5], {"url": f"{server.url}/fine"}, *refused[5:])
        done = penstock.run("run", lines, *OUT, "--retry", "0", "--concurrency", "1")
    assert done.returncode == 1, done.stderr
    assert "failed       15 (connection 15)" in done.stdout
    assert len(penstock.results()) == 16
