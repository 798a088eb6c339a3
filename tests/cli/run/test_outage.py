"""A service that goes away in the middle: nothing is lost, and no storm comes when it is back."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from cli.conftest import Command, Server

pytestmark = pytest.mark.slow

OUT = ("--out", "results.jsonl")


class Away:
    """A service that is away from its 40th request on, for so many seconds."""

    def __init__(self, server: Server, seconds: float) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds
        self._answered = 0
        self.since = 0.0
        #: When requests came in, while it was away and in the second after that.
        self.while_away: list[float] = []
        self.after: list[float] = []
        server.answer = self.answer

    def answer(self, seen: SimpleNamespace) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            now = time.monotonic()
            self._answered += 1
            if not self.since and self._answered > 40:
                self.since = now
            if self.since and now < self.since + self._seconds:
                self.while_away.append(now)
                return 503, {}, b""
            if self.since and now < self.since + self._seconds + 1:
                self.after.append(now)
        return 200, {}, b""


def test_an_outage_in_the_middle_loses_nothing(penstock: Command, server: Server) -> None:
    away = Away(server, 12.0)
    lines = penstock.lines(*({"id": n, "path": f"/{n}"} for n in range(200)))
    done = penstock.run("run", lines, "--url", server.url, *OUT, "--concurrency", "10")
    assert done.returncode == 0, done.stdout
    assert len(penstock.results()) == 200
    assert away.since
    # The ten that were under way, a few before the verdict, and single ones after it.
    assert len(away.while_away) <= 40
    assert "failed       0" in done.stdout
    assert "the service is down: no request fails because of it" in done.stdout
    assert "the service is back after 1" in done.stdout
    assert done.stderr == ""


def test_a_service_that_stays_away_ends_the_run_and_it_goes_on(
    penstock: Command, server: Server
) -> None:
    Away(server, 3600.0)
    lines = penstock.lines(*({"id": n, "path": f"/{n}"} for n in range(200)))
    options = ("run", lines, "--url", server.url, *OUT)
    done = penstock.run(*options, "--give-up-after", "3")
    assert done.returncode == 4
    assert done.stderr == (
        "penstock: the service has been down for 3 s (--give-up-after): 503 Service Unavailable. "
        "Run the same command again to continue from here.\n"
    )
    assert len(penstock.results()) == 40
    server.answer = lambda seen: (200, {}, b"")
    assert penstock.run(*options).returncode == 0
    assert len(penstock.results()) == 200


def test_a_service_that_asks_for_more_than_anybody_waits_ends_the_run(
    penstock: Command, server: Server
) -> None:
    server.answer = lambda seen: (429, {"Retry-After": "7200"}, b"")
    lines = penstock.lines(*({"id": n, "path": f"/{n}"} for n in range(100)))
    done = penstock.run("run", lines, "--url", server.url, *OUT, "--concurrency", "4")
    assert done.returncode == 4
    assert f"{server.url} says to wait for 2 h 00 min: 429 Too Many Requests" in done.stderr
    assert len(server.seen) <= 4
    assert penstock.results() == []


def test_a_service_that_says_wait_holds_up_no_other(penstock: Command, server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    came: dict[str, float] = {}

    def answer(seen: SimpleNamespace) -> tuple[int, dict[str, str], bytes]:
        is_first = seen.path not in came
        came.setdefault(seen.path, time.monotonic())
        if seen.path == "/busy" and is_first:
            return 429, {"Retry-After": "3"}, b""
        return 200, {}, b""

    server.answer = answer
    urls = [f"{server.url}/busy", *(f"{other}/{n}" for n in range(20))]
    lines = penstock.lines(*({"url": url} for url in urls))
    done = penstock.run("run", lines, *OUT, "--concurrency", "1")
    assert done.returncode == 0, done.stdout
    paths = [seen.path for seen in server.seen]
    assert paths[0] == paths[-1] == "/busy"
