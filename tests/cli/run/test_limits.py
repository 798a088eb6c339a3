"""The run keeps to rates, token budgets and what the service says."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cli.conftest import Command, Server

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


def timed(
    server: Server, answer: Callable[[SimpleNamespace], Answer] = lambda seen: (200, JSON, b"{}")
) -> list[float]:
    """When each request came in."""
    times: list[float] = []

    def note(seen: SimpleNamespace) -> Answer:
        times.append(time.monotonic())
        return answer(seen)

    server.answer = note
    return times


def sending(penstock: Command, server: Server, count: int, *options: str) -> list[str]:
    """The command that sends so many requests."""
    lines = penstock.lines(*({"path": f"/{number}"} for number in range(count)))
    return ["run", lines, "--url", server.url, "--out", "results.jsonl", *options]


def send(penstock: Command, server: Server, count: int, *options: str) -> Any:
    return penstock.run(*sending(penstock, server, count, *options))


def test_the_rate_is_kept(penstock: Command, server: Server) -> None:
    with penstock.started(*sending(penstock, server, 25, "--rate", "10/h")):
        server.wait_for(10)
        time.sleep(0.3)  # another ten would come at once
    assert len(server.seen) == 10


def test_a_rate_is_used_up_in_each_window(penstock: Command, server: Server) -> None:
    began, times = time.monotonic(), timed(server)
    done = send(penstock, server, 25, "--rate", "10/s")
    assert done.returncode == 0, done.stderr
    assert len(times) == 25
    # Ten at once, ten after a second, five after another.
    assert max(times) - began >= 2


def test_tokens_are_settled_with_what_the_answers_say(penstock: Command, server: Server) -> None:
    spent = json.dumps({"usage": {"total_tokens": 100}}).encode()
    began, times = time.monotonic(), timed(server, lambda seen: (200, JSON, spent))
    done = send(penstock, server, 25, "--tokens", "1000/s", "--concurrency", "4")
    assert done.returncode == 0, done.stderr
    assert "tokens       2,500" in done.stdout
    assert max(times) - began > 1.6


def test_another_place_for_the_cost(penstock: Command, server: Server) -> None:
    timed(server, lambda seen: (200, JSON, b'{"a": [{"b": 7}]}'))
    done = send(penstock, server, 3, "--tokens", "1000/s", "--cost", "a.0.b")
    assert "tokens       21" in done.stdout
    timed(server, lambda seen: (200, {}, b"no JSON"))
    done = send(penstock, server, 3, "--tokens", "1000/s", "--cost", "a.0.b", "--overwrite")
    assert done.returncode == 0
    assert "tokens       0" in done.stdout


def test_one_429_holds_up_all_requests(penstock: Command, server: Server) -> None:
    first = threading.Event()

    def answer(seen: SimpleNamespace) -> Answer:
        if seen.path == "/0" and not first.is_set():
            first.set()
            return 429, {"Retry-After": "1"}, b""
        return 200, JSON, b"{}"

    times = timed(server, answer)
    done = send(penstock, server, 30, "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    assert "held up      1 times, as the server asked" in done.stdout
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) >= 0.95


def test_a_retry_holds_no_worker(penstock: Command, server: Server) -> None:
    answered: list[str] = []
    failures: Counter[str] = Counter()

    def answer(seen: SimpleNamespace) -> Answer:
        failures[seen.path] += 1
        if seen.path == "/0" and failures["/0"] < 4:
            return 503, {}, b""
        answered.append(seen.path)
        return 200, JSON, b"{}"

    server.answer = answer
    done = send(penstock, server, 20, "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    assert sorted(answered) == sorted(f"/{number}" for number in range(20))
    assert answered[0] != "/0"
    results = penstock.results()
    assert results[0]["attempts"] == 4
    assert all(result["attempts"] == 1 for result in results[1:])


@pytest.mark.parametrize(
    ("options", "calls"), [(["--retry", "2"], 3), (["--retry", "0"], 1), ([], 5)]
)
def test_so_many_retries(penstock: Command, server: Server, options: list[str], calls: int) -> None:
    times = timed(server, lambda seen: (500, {}, b""))
    assert send(penstock, server, 1, *options).returncode == 1
    assert len(times) == calls


def test_automatic_concurrency_stays_within_what_the_service_takes(
    penstock: Command, server: Server
) -> None:
    inside = 0
    most = 0
    lock = threading.Lock()

    def answer(seen: SimpleNamespace) -> Answer:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            too_many = inside > 4
        time.sleep(0 if too_many else 0.03)
        with lock:
            inside -= 1
        return (429, {}, b"") if too_many else (200, JSON, b"{}")

    server.answer = answer
    done = send(penstock, server, 200, "--concurrency", "auto:50", "--retry", "9")
    assert done.returncode == 0, done.stderr
    assert most < 20


def test_what_cannot_be_done_by_its_deadline_fails(penstock: Command, server: Server) -> None:
    def answer(seen: SimpleNamespace) -> Answer:
        if seen.path == "/0":
            time.sleep(6)  # the others wait for longer than they may
            return 200, JSON, b"{}"
        return 503, {"Retry-After": "60"}, b""

    server.answer = answer
    # So long that the first one begins in time on any machine.
    done = send(penstock, server, 3, "--concurrency", "1", "--deadline", "5")
    assert done.returncode == 1, done.stderr
    assert "failed       2 (deadline 2)" in done.stdout
    first, *others = penstock.results()
    assert first["status"] == 200  # what is under way is not broken off
    for result in others:
        assert (result["status"], result["attempts"]) == (None, 0)
        assert result["error"] == {"kind": "deadline", "message": "not done within 5 s"}


def test_a_retry_that_would_be_too_late_is_not_waited_for(
    penstock: Command, server: Server
) -> None:
    times = timed(server, lambda seen: (503, {"Retry-After": "60"}, b"busy"))
    done = send(penstock, server, 1, "--deadline", "20")
    assert done.returncode == 1, done.stderr
    assert len(times) == 1
    (result,) = penstock.results()
    assert (result["status"], result["attempts"]) == (503, 1)
    assert result["error"] == {
        "kind": "deadline",
        "message": "not done within 20 s; the last attempt: 503 Service Unavailable",
        "body": "busy",
    }
    assert "retries      0\n" in done.stdout


@pytest.mark.parametrize("options", [[], ["--no-feedback"]])
def test_headers_are_heeded_unless_told_not_to(
    penstock: Command, server: Server, options: list[str]
) -> None:
    # Not heeded, it is longer than the run may take.
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600" if options else "3"}
    times = timed(server, lambda seen: (200, headers if seen.path == "/0" else {}, b""))
    done = send(penstock, server, 3, "--concurrency", "1", *options)
    assert done.returncode == 0, done.stderr
    assert options or max(times) - min(times) > 2.5
    assert ("held up " in done.stdout) == (not options)


def test_the_bill_is_that_of_all_runs(penstock: Command, server: Server) -> None:
    timed(server, lambda seen: (200, JSON, b'{"usage": {"total_tokens": 1500}}'))
    done = send(penstock, server, 3, "--cost", "usage.total_tokens")
    assert "tokens       4,500\n" in done.stdout
    done = send(penstock, server, 5, "--cost", "usage.total_tokens")
    assert "tokens       3,000, and 4,500 earlier\n" in done.stdout
