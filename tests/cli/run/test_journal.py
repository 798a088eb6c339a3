"""Going on where a run stopped: nothing finished is sent again, nothing is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import ENVIRONMENT, LIMIT, Command, Server
from penstock.cli.run.ids import key
from penstock.cli.run.journal import NotAJournalError, scan
from penstock.cli.run.results import RequestFailure, RequestResult, to_json

OUT = ("--out", "results.jsonl")
API_SERVER = Path(__file__).parents[3] / "examples" / "api_server.py"


def line(number: int, status: int = 200) -> bytes:
    failure = None if status == 200 else RequestFailure(f"http_{status}", str(status))
    return RequestResult(
        f"r{number}", number, status, to_json({"n": number}), failure, 1, 0.1
    ).to_line()


def items(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{number}", "path": f"/items/{number}"} for number in range(1, count + 1)]


def paths(server: Server) -> list[str]:
    return sorted(seen.path for seen in server.seen)


# -- what a journal says ----------------------------------------------------------------------


def test_the_newest_line_of_an_id_counts() -> None:
    earlier = scan(io.BytesIO(line(1, 500) + line(2) + line(1) + line(2, 503)))
    assert earlier.succeeded == {key("r1")}
    assert set(earlier.failed) == {key("r2")}


@pytest.mark.parametrize("cut", range(1, len(line(3))))
def test_a_torn_last_line_is_known_wherever_it_is_torn(cut: int) -> None:
    whole = line(1) + line(2)
    earlier = scan(io.BytesIO(whole + line(3)[:cut]))
    assert earlier.torn_at == len(whole)
    assert earlier.succeeded == {key("r1"), key("r2")}
    assert scan(io.BytesIO(line(3)[:cut])).torn_at == 0


@pytest.mark.parametrize("broken", [b"\n", b"\0\0\0\n", b"{}\n", b"[1]\n", b'{"id": 1}\n'])
def test_a_broken_line_in_the_middle_is_an_error_that_names_it(broken: bytes) -> None:
    with pytest.raises(NotAJournalError, match="line 2 is not a result"):
        scan(io.BytesIO(line(1) + broken + line(3)))
    assert scan(io.BytesIO(line(1) + broken)).torn_at == len(line(1))


def test_an_answer_of_any_depth_is_read_again() -> None:
    deep = RequestResult('a"b', 1, 200, to_json(None), None, 1, 0.1).to_line()
    deep = deep.replace(b"null", b"[" * 100_000 + b"]" * 100_000)
    assert scan(io.BytesIO(deep + line(2))).succeeded == {key('a"b'), key("r2")}


# -- the same command again -------------------------------------------------------------------


def test_what_is_finished_is_not_sent_again(penstock: Command, server: Server) -> None:
    lines = penstock.lines(*items(3))
    assert penstock.run("run", lines, "--url", server.url, *OUT).returncode == 0
    first = (penstock.folder / "results.jsonl").read_bytes()
    penstock.lines({"path": "/new"}, *items(5))  # what is inserted shifts nothing
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert "sent         3 requests" in done.stdout
    assert "earlier      3 succeeded, 0 failed; not sent again" in done.stdout
    assert paths(server) == [*(f"/items/{number}" for number in range(1, 6)), "/new"]
    assert (penstock.folder / "results.jsonl").read_bytes().startswith(first)
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert (done.returncode, len(server.seen)) == (0, 6)


def test_without_ids_a_request_is_known_by_what_it_asks_for(
    penstock: Command, server: Server
) -> None:
    first = {"method": "POST", "path": "/a", "json": {"x": 1, "y": [2]}}
    lines = penstock.lines(first, {"path": "/b"})
    assert penstock.run("run", lines, "--url", server.url, *OUT).returncode == 0
    # In another order, and written in another way.
    again = {"json": {"y": [2], "x": 1}, "path": "/a", "method": "post"}
    other = {"method": "POST", "path": "/a", "json": {"x": 1, "y": [3]}}
    penstock.lines({"path": "b"}, other, again)
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert paths(server) == ["/a", "/a", "/b"]
    ids = [result["id"] for result in penstock.results()]
    assert len(set(ids)) == 3
    assert sorted(ids) == sorted(seen.headers["X-Request-Id"] for seen in server.seen)


def test_duplicates_are_told_and_sent_once(penstock: Command, server: Server) -> None:
    lines = penstock.lines(
        {"path": "/a"},
        {"path": "/a"},
        {"id": 1, "path": "/b"},
        {"id": 1, "path": "/b"},
        {"id": 1, "path": "/c"},
        {"id": "1", "path": "/d"},
    )
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 1
    assert paths(server) == ["/a", "/b", "/d"]
    assert "line 2: is the same request as line 1, and is sent once" in done.stdout
    assert "line 5: line 3 has the same id '1', for another request" in done.stdout
    assert "duplicates   2 lines, sent once" in done.stdout
    assert "failed       1 (malformed 1)" in done.stdout
    # The one that was sent keeps its id for itself.
    results = penstock.results()
    assert [result["line"] for result in results if result["id"] == 1] == [3]
    again = penstock.run("run", lines, "--url", server.url, *OUT)
    assert again.returncode == 1
    assert "sent         0 requests" in again.stdout


def test_only_failures_are_sent_again_when_asked(penstock: Command, server: Server) -> None:
    fine = {"/items/2", "/items/4"}
    server.answer = lambda seen: (200 if seen.path in fine else 404, {}, b"")
    lines = penstock.lines(*items(5))
    options = ("run", lines, "--url", server.url, *OUT, "--failures", "failed.jsonl")
    done = penstock.run(*options)
    assert done.returncode == 1
    assert "--retry-failed to send the failed ones again" in done.stdout
    assert [result["id"] for result in penstock.results("failed.jsonl")] == ["r1", "r3", "r5"]

    server.seen.clear()
    done = penstock.run(*options)
    assert (done.returncode, paths(server)) == (1, [])
    assert "earlier      2 succeeded, 3 failed; not sent again" in done.stdout
    assert [result["id"] for result in penstock.results("failed.jsonl")] == ["r1", "r3", "r5"]

    fine |= {"/items/1", "/items/5"}
    done = penstock.run(*options, "--retry-failed")
    assert done.returncode == 1
    assert paths(server) == ["/items/1", "/items/3", "/items/5"]
    assert [result["id"] for result in penstock.results("failed.jsonl")] == ["r3"]
    assert len(penstock.results()) == 8

    server.seen.clear()
    fine.add("/items/3")
    done = penstock.run(*options, "--retry-failed")
    assert (done.returncode, paths(server)) == (0, ["/items/3"])
    assert penstock.results("failed.jsonl") == []


def test_a_malformed_line_is_told_once_and_sent_when_it_is_repaired(
    penstock: Command, server: Server
) -> None:
    options = ("run", "requests.jsonl", "--url", server.url, *OUT)
    penstock.lines({"id": "a", "pth": "/a"}, b"{broken", {"path": "/b"})
    done = penstock.run(*options)
    assert done.returncode == 1
    assert done.stdout.count("line ") == 2
    done = penstock.run(*options)
    assert done.returncode == 1
    assert "line " not in done.stdout
    assert "earlier      1 succeeded, 2 failed; not sent again" in done.stdout
    assert len(penstock.results()) == 3
    penstock.lines({"id": "a", "path": "/a"}, {"path": "/b"})
    done = penstock.run(*options)
    assert done.returncode == 0, done.stdout
    assert paths(server) == ["/a", "/b"]


def test_a_torn_line_is_redone(penstock: Command, server: Server) -> None:
    lines = penstock.lines(*items(3))
    journal = penstock.folder / "results.jsonl"
    journal.write_bytes(line(1) + line(2) + line(3)[:30])
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert "the last line of results.jsonl is incomplete and was removed" in done.stdout
    assert paths(server) == ["/items/3"]
    assert [result["id"] for result in penstock.results()] == ["r1", "r2", "r3"]


def test_a_broken_journal_is_left_alone(penstock: Command, server: Server) -> None:
    lines = penstock.lines(*items(3))
    broken = line(1) + b"what is this\n" + line(3)
    (penstock.folder / "results.jsonl").write_bytes(broken)
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 2
    assert "cannot write --out results.jsonl: line 2 is not a result of penstock run" in done.stderr
    assert (penstock.folder / "results.jsonl").read_bytes() == broken
    assert not server.seen


def test_two_runs_on_one_journal_are_refused(penstock: Command, server: Server) -> None:
    release = threading.Event()
    server.answer = lambda seen: (release.wait(LIMIT), (200, {}, b""))[1]
    lines = penstock.lines(*items(2))
    (penstock.folder / "link.jsonl").symlink_to("results.jsonl")
    patient = ("--timeout", "600")  # the others take long to start on a busy machine
    with penstock.started("run", lines, "--url", server.url, *patient, *OUT) as first:
        server.wait_for(2)
        for options in (OUT, ("--out", "link.jsonl"), (*OUT, "--overwrite")):
            second = penstock.run("run", lines, "--url", server.url, *options)
            assert second.returncode == 2
            assert second.stderr == (
                f"penstock: cannot write --out {options[1]}: another penstock run is writing to "
                "it: wait for its end, or give another name\n"
            )
        release.set()
        assert first.wait(LIMIT) == 0
    assert len(server.seen) == 2
    assert len(penstock.results()) == 2


def test_a_full_disk_leaves_a_journal_to_go_on_with(penstock: Command, server: Server) -> None:
    server.answer = lambda seen: (200, {}, b"x" * 500)
    lines = penstock.lines(*items(60))
    limit = 9_000
    # As `ulimit -f` does: no file gets larger than that.
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from penstock.cli.app import run_command
sys.exit(run_command(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "run", lines, "--url", server.url, *OUT],
        cwd=penstock.folder,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr == (
        "penstock: cannot write the results: File too large. "
        "Run the same command again to continue from here.\n"
    )
    written = [result["id"] for result in penstock.results()]  # in whole lines
    assert 5 < len(written) < 20
    server.seen.clear()
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    ids = [result["id"] for result in penstock.results()]
    assert sorted(ids) == sorted(f"r{number}" for number in range(1, 61))
    assert not {f"/items/{name[1:]}" for name in written} & set(paths(server))


# -- kill -9 ----------------------------------------------------------------------------------


class Doorkeeper:
    """Lets so many requests in, and holds back those that come after them."""

    def __init__(self) -> None:
        self.arrived: Counter[str] = Counter()
        self._round = self._left = 0

    def let_in(self, count: int) -> None:
        """So many from now on; who was held back before is not let in any more."""
        self._round, self._left = self._round + 1, count

    async def __call__(self, request_id: str) -> None:
        self.arrived[request_id] += 1
        mine = self._round
        while mine != self._round or not self._left:  # noqa: ASYNC110 - it is of another thread
            await asyncio.sleep(0.002)
        self._left -= 1


@contextmanager
def counting_api() -> Iterator[tuple[str, Doorkeeper]]:
    """The server of the examples, and who lets requests in and counts each X-Request-Id."""
    import uvicorn

    spec = importlib.util.spec_from_file_location("api_server", API_SERVER)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    doorkeeper = Doorkeeper()
    inner = module.make_app(module.Fate(seed=1, rate=10**6, errors=0.0, latency=0.01))

    async def app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "http":
            await doorkeeper(dict(scope["headers"])[b"x-request-id"].decode())
        await inner(scope, receive, send)

    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + LIMIT
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", doorkeeper
    finally:
        server.should_exit = True
        thread.join(LIMIT)


@pytest.mark.slow
def test_twenty_kills_at_random_points(penstock: Command) -> None:
    seed = int(os.environ.get("PENSTOCK_SEED", time.time_ns() % 10**6))
    print(f"PENSTOCK_SEED={seed}")  # noqa: T201 - pytest shows it if the test fails
    chance = random.Random(seed)
    count, concurrency, kills = 1_200, 8, 20
    lines = penstock.lines(*items(count))
    journal = penstock.folder / "results.jsonl"
    options = ("--concurrency", str(concurrency), "--capacity", "20")
    with counting_api() as (url, doorkeeper):
        arrived = doorkeeper.arrived
        for _ in range(kills):
            size = journal.stat().st_size if journal.exists() else 0
            enough = size + chance.randrange(1, 4_000)  # bytes: the end of a line is not special
            doorkeeper.let_in(50)  # or one kill that comes late leaves nothing for the others
            with penstock.started(
                *("run", lines, "--url", url, *OUT, *options), stdout=subprocess.DEVNULL
            ) as process:
                deadline = time.monotonic() + LIMIT
                while not journal.exists() or journal.stat().st_size < enough:
                    assert process.poll() is None, "it ended by itself"
                    assert time.monotonic() < deadline
                    time.sleep(0.0005)
                process.kill()
                process.wait()
            written = journal.read_bytes()
            whole = written[: written.rfind(b"\n") + 1].splitlines()
            finished = [json.loads(entry)["id"] for entry in whole]
            assert len(set(finished)) == len(finished), "a finished request was sent again"
            # Of all that ever arrived without a result, each kill left no more than were in flight.
            assert arrived.total() - len(finished) <= concurrency * kills
            before = {name: arrived[name] for name in finished}
        doorkeeper.let_in(2 * count)
        done = penstock.run("run", lines, "--url", url, *OUT, *options)
        assert done.returncode == 0, done.stderr
        assert {name: arrived[name] for name in before} == before, "finished, and sent again"
    ids = [result["id"] for result in penstock.results()]
    assert sorted(ids) == sorted(f"r{number}" for number in range(1, count + 1))
    assert count <= arrived.total() <= count + concurrency * kills


# -- a large journal --------------------------------------------------------------------------

MEASURED = """
import sys
from penstock.cli.app import run_command
code = run_command(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""


def peak_memory(penstock: Command, *arguments: str) -> int:
    """Run it, and return the most bytes that it ever had."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=penstock.folder,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stderr) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to measure")
def test_a_hundred_thousand_finished_requests_take_little_memory(penstock: Command) -> None:
    def run(count: int) -> int:
        penstock.lines(*items(count))
        with open(penstock.folder / "results.jsonl", "wb") as journal:
            journal.writelines(line(number) for number in range(1, count + 1))
        return peak_memory(penstock, "run", "requests.jsonl", "--url", "http://127.0.0.1:9", *OUT)

    few, many = run(100), run(100_000)
    assert many - few < 50_000_000
    assert many < 110_000_000


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to measure")
def test_ten_times_the_requests_take_hardly_more_memory(
    penstock: Command, api: Callable[..., str]
) -> None:
    url = api("--rate", "1000000", "--errors", "0.01", "--latency", "0.001")
    peaks = []
    for count in (150, 1_500):
        penstock.lines(*({"path": f"/items/{number}"} for number in range(count)))
        peaks.append(peak_memory(penstock, "run", "requests.jsonl", "--url", url, *OUT))
    few, many = peaks
    assert many - few < 5_000_000
