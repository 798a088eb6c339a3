"""``penstock run`` as a process, against servers on the loopback interface."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.app import run_command

OUT = ("--out", "results.jsonl")


def test_each_request_arrives_as_its_line_says(penstock: Any, server: Any) -> None:
    server.answer = lambda seen: (
        *(201, {"Content-Type": "application/json"}),
        json.dumps({"path": seen.path}).encode(),
    )
    lines = penstock.lines(
        {"path": "/plain"},
        {
            "id": "a1",
            "method": "POST",
            "path": "/things?a=1",
            "params": {"b": ["2", "ü"]},
            "json": {"name": "wéir"},
            "headers": {"X-Key": "top secret"},
        },
        b"",
        {"id": 44, "method": "delete", "url": f"{server.url}/elsewhere"},
    )
    done = penstock.run("run", lines, "--url", f"{server.url}/v1/", *OUT, "--concurrency", "1")
    assert done.returncode == 0, done.stderr

    plain, post, delete = server.seen
    assert (plain.method, plain.path, plain.query, plain.body) == ("GET", "/v1/plain", "", b"")
    derived = plain.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{20}", derived)
    assert plain.headers["User-Agent"].startswith("penstock/")
    assert (post.method, post.path, post.query) == ("POST", "/v1/things", "a=1&b=2&b=%C3%BC")
    assert json.loads(post.body) == {"name": "wéir"}
    assert post.headers["Content-Type"] == "application/json"
    assert post.headers["X-Key"] == "top secret"
    assert post.headers["X-Request-Id"] == "a1"
    assert (delete.method, delete.path) == ("DELETE", "/elsewhere")

    assert [
        (result["id"], result["line"], result["status"], result["body"], result["attempts"])
        for result in penstock.results()
    ] == [
        (derived, 1, 201, {"path": "/v1/plain"}, 1),
        ("a1", 2, 201, {"path": "/v1/things"}, 1),
        (44, 4, 201, {"path": "/elsewhere"}, 1),
    ]
    for result in penstock.results():
        assert set(result) == {"id", "line", "status", "body", "attempts", "seconds", "asked"}
        assert 0 < result["seconds"] < 30
    everything = done.stdout + done.stderr + (penstock.folder / "results.jsonl").read_text()
    assert "secret" not in everything


def test_redirects_are_followed_and_cookies_are_not_kept(penstock: Any, server: Any) -> None:
    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        if seen.path == "/old":
            return 307, {"Location": "/new", "Set-Cookie": "session=1; Path=/"}, b""
        return 200, {"Set-Cookie": "session=2; Path=/"}, b""

    server.answer = answer
    lines = penstock.lines({"path": "/old"}, {"path": "/new"})
    done = penstock.run("run", lines, "--url", server.url, *OUT, "--concurrency", "1")
    assert done.returncode == 0, done.stdout
    assert [seen.path for seen in server.seen] == ["/old", "/new", "/new"]
    # Requests are independent of each other: none carries what another one was given.
    assert not any("Cookie" in seen.headers for seen in server.seen)


def test_what_a_busy_server_refuses_is_tried_again_and_counted(
    penstock: Any, api: Callable[..., str]
) -> None:
    url = api("--rate", "20", "--errors", "0.2", "--latency", "0.01")
    lines = penstock.lines(*({"id": f"r{n}", "path": f"/items/{n}"} for n in range(45)))
    done = penstock.run("run", lines, "--url", url, *OUT, "--concurrency", "30", "--capacity", "5")
    assert done.returncode == 0, done.stdout + done.stderr

    results = penstock.results()
    assert [result["id"] for result in results] == [f"r{n}" for n in range(45)]
    assert all(result["status"] == 200 for result in results)
    calls = sum(result["attempts"] for result in results)
    kinds = re.search(r"retries +(\d+) \((.+)\)\n", done.stdout)
    assert kinds is not None, done.stdout
    counts = dict(part.split() for part in kinds[2].split(", "))
    assert set(counts) == {"http_429", "http_500"}
    assert int(kinds[1]) == sum(map(int, counts.values())) == calls - 45
    assert "sent         45 requests in " in done.stdout
    assert f", {calls} calls" in done.stdout
    assert "succeeded    45" in done.stdout
    assert "failed       0" in done.stdout
    assert re.search(r"throughput   \d+\.\d requests/s", done.stdout)
    seconds = sorted(result["seconds"] for result in results)
    latency = re.search(r"latency      p50 (.+) s, p95 (.+) s\n", done.stdout)
    assert latency is not None, done.stdout
    assert [float(latency[1]), float(latency[2])] == pytest.approx(
        [seconds[22], seconds[42]], abs=0.001
    )
    waited = [result["seconds"] for result in results if result["attempts"] > 1]
    assert max(waited) >= 1.0, "nobody waited the second that the server asked for"


def test_failures_are_told_by_kind_and_the_run_goes_on(penstock: Any, server: Any) -> None:
    release = threading.Event()

    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        if seen.path == "/hangs":
            release.wait(90)
        statuses = {"/gone": 410, "/busy": 503}
        return statuses.get(seen.path, 200), {"Content-Type": "text/plain"}, b"words"

    server.answer = answer
    lines = penstock.lines(
        {"path": "/hangs", "id": "h"},
        {"path": "/gone"},
        {"path": "/busy"},
        {"url": "http://127.0.0.1:1/"},
        {"pth": "/typo", "id": "t"},
        b'{"path": "/\xff"}',
        {"path": "/good"},
    )
    options = ("--retry", "1", "--timeout", "2")
    done = penstock.run("run", lines, "--url", server.url, *OUT, *options)
    release.set()
    assert done.returncode == 1

    failures = {result["line"]: result.get("error") for result in penstock.results()}
    kinds = {line: error and error["kind"] for line, error in failures.items()}
    assert kinds == {
        1: "timeout",
        2: "http_410",
        3: "http_503",
        4: "connection",
        5: "malformed",
        6: "malformed",
        7: None,
    }
    attempts = {result["line"]: result["attempts"] for result in penstock.results()}
    assert attempts == {1: 2, 2: 1, 3: 2, 4: 2, 5: 0, 6: 0, 7: 1}
    ids = [result["id"] for result in penstock.results()]
    assert (ids[0], ids[4]) == ("h", "t")
    assert all(re.fullmatch("[0-9a-f]{20}", ids[n]) for n in (1, 2, 3, 5, 6))
    assert failures[2] == {"kind": "http_410", "message": "410 Gone", "body": "words"}
    assert "line 5: unknown key 'pth'; allowed are id, method, path" in done.stdout
    assert "line 6: not UTF-8: byte 12 is wrong" in done.stdout
    summary = re.search(r"failed +6 \((.+)\)", done.stdout)
    assert summary is not None, done.stdout
    assert sorted(summary[1].split(", ")) == [
        *("connection 1", "http_410 1", "http_503 1", "malformed 2", "timeout 1"),
    ]
    assert "sent         5 requests" in done.stdout


@pytest.mark.usefixtures("no_thread_is_left")
def test_an_empty_file_is_done_at_once(
    penstock: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(penstock.folder)
    assert run_command(["run", penstock.lines(b"", b" "), *OUT]) == 0
    assert penstock.results() == []
    assert "sent         0 requests" in capsys.readouterr().out


@pytest.mark.usefixtures("no_thread_is_left")
def test_of_many_malformed_lines_only_the_first_are_told(
    penstock: Any, server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(penstock.folder)
    lines = penstock.lines({"url": server.url}, *({"id": number} for number in range(500)))
    assert run_command(["run", lines, *OUT, "--failures", "failures.jsonl"]) == 1
    assert len(penstock.results()) == len(penstock.results("failures.jsonl")) + 1 == 501
    told = capsys.readouterr().out
    assert told.count("has neither path nor url") == 10
    assert "failed       500 (malformed 500)" in told


def test_requests_from_standard_input_and_results_to_standard_output(
    penstock: Any, server: Any
) -> None:
    lines = "\ufeff" + "".join(json.dumps({"path": f"/{n}"}) + "\r\n" for n in range(20))
    done = penstock.run("run", "-", "--url", server.url, "--out", "-", input=lines)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(result["line"] for result in results) == list(range(1, 21))
    assert "succeeded    20" in done.stderr


def test_what_is_no_journal_is_replaced_only_when_asked(penstock: Any, server: Any) -> None:
    lines = penstock.lines({"path": "/"})
    old = penstock.folder / "results.jsonl"
    old.write_text("letters of a lifetime\n" * 100)
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 2
    assert "results.jsonl: it exists already, and has no results" in done.stderr
    assert not server.seen
    assert old.read_text() == "letters of a lifetime\n" * 100
    done = penstock.run("run", lines, "--url", server.url, *OUT, "--overwrite")
    assert done.returncode == 0
    assert len(penstock.results()) == 1


def read_lines(path: Path, count: int) -> list[Any]:
    """Wait until ``path`` has so many lines, and return them."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return [json.loads(line) for line in path.read_text().splitlines()]
        time.sleep(0.01)
    raise AssertionError(f"{path} never had {count} lines")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
@pytest.mark.parametrize("insisting", [False, True], ids=["once", "twice"])
def test_an_interrupted_run_finishes_what_is_under_way_or_stops_at_once(
    penstock: Any, server: Any, number: signal.Signals, code: int, insisting: bool
) -> None:
    release = threading.Event()

    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        if seen.path != "/quick":
            release.wait(90)
        return 200, {}, b""

    server.answer = answer
    lines = penstock.lines({"path": "/quick"}, *({"path": f"/{n}"} for n in range(100)))
    options = ("--concurrency", "3", "--capacity", "5")
    with penstock.started(
        *("run", lines, "--url", server.url, *OUT, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        server.wait_for(4)  # one that was answered, three that hang
        written = read_lines(penstock.folder / "results.jsonl", 1)
        process.send_signal(number)
        told = read_until(process.stdout, b"waiting for the answers in progress (3)")
        if insisting:
            process.send_signal(number)
        else:
            release.set()
        told += process.stdout.read()
        assert process.wait(90) == code
        assert process.stderr.read() == (
            b"penstock: interrupted. Run the same command again to continue from here.\n"
        )
    release.set()
    assert len(server.seen) == 4
    if insisting:
        assert b"unfinished   3 were in progress and have no result" in told
        assert penstock.results() == written
    else:
        assert b"unfinished" not in told
        assert len(penstock.results()) == 4
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert len(penstock.results()) == 101
    assert len(server.seen) == 101 + 3 * insisting


def read_until(stream: Any, text: bytes) -> bytes:
    """Read lines until one has ``text`` in it."""
    seen = b""
    while text not in seen:
        line = stream.readline()
        assert line, f"no {text!r} in {seen!r}"
        seen += line
    return seen


def test_an_interrupt_while_waiting_for_standard_input(penstock: Any, server: Any) -> None:
    with penstock.started(
        *("run", "-", "--url", server.url, *OUT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdin.write(b'{"path": "/"}\n')
        process.stdin.flush()
        # It is sent and its result is there, though more may come on standard input.
        assert len(read_lines(penstock.folder / "results.jsonl", 1)) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 130
        assert process.stderr.read().startswith(b"penstock: interrupted. Run the same command ")


@pytest.mark.skipif(os.name == "nt", reason="needs pipes of a known size")
def test_it_reads_no_further_than_there_is_room(penstock: Any, server: Any) -> None:
    release = threading.Event()
    server.answer = lambda seen: (release.wait(90), (200, {}, b""))[1]
    total, concurrency, capacity = 100, 2, 3
    lines = [{"path": f"/{number:02}", "json": "x" * 100_000} for number in range(total)]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    size = len(data) / total
    with penstock.started(
        *("run", "-", "--url", server.url, *OUT),
        *("--concurrency", str(concurrency), "--capacity", str(capacity)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        descriptor = process.stdin.fileno()
        os.set_blocking(descriptor, False)
        rest = memoryview(data)

        def taken() -> float:
            """How many lines it has taken, with those in the buffers in between."""
            nonlocal rest
            with suppress(BlockingIOError):
                rest = rest[os.write(descriptor, rest) :]
            return total - len(rest) / size

        deadline = time.monotonic() + 90
        while taken() < capacity + concurrency + 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            # What waits, what runs, one in hand, and less than two in the buffers.
            assert taken() <= capacity + concurrency + 1 + 2
            time.sleep(0.01)
        server.wait_for(concurrency)
        assert len(server.seen) == concurrency
        release.set()
        os.set_blocking(descriptor, True)
        process.stdin.write(rest)
        process.stdin.close()
        told = process.stdout.read().decode()
        assert process.wait(90) == 0
    assert len(penstock.results()) == total
    backpressure = re.search(r"backpressure (\d+) waits; at most 3 of 3 queued", told)
    assert backpressure is not None, told
    assert 1 <= int(backpressure[1]) <= total - concurrency - capacity


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_ends_the_run_with_a_word(penstock: Any, server: Any) -> None:
    lines = penstock.lines(*({"path": f"/{n}"} for n in range(300)))
    options = ("--concurrency", "2", "--capacity", "2")
    done = penstock.run("run", lines, "--url", server.url, "--out", "/dev/full", *options)
    assert done.returncode == 5
    assert "penstock: cannot write the results: No space left on device." in done.stderr
    assert len(server.seen) < 300


def test_if_nobody_reads_the_results_the_run_ends(penstock: Any, server: Any) -> None:
    lines = penstock.lines(*({"path": f"/{n}"} for n in range(300)))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = penstock.run(
            *("run", lines, "--url", server.url, "--out", "-"),
            capture_output=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert done.returncode == 5
    assert "penstock: cannot write the results: Broken pipe." in done.stderr
    assert len(server.seen) < 300


@pytest.mark.slow
def test_if_nobody_reads_the_progress_the_run_goes_on(penstock: Any, server: Any) -> None:
    lines = penstock.lines({}, *({"path": f"/{n}"} for n in range(20)))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = penstock.run(
            *("run", lines, "--url", server.url, *OUT),
            capture_output=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(penstock.results()) == 21
