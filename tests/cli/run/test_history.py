"""What a run remembers: all that counts, and in little memory. The time is given, never read."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.cli.run.history import History, Snapshot, public_url
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestFailure, RequestResult

MOMENT = Snapshot(concurrency=10, queued=50, capacity=100)


def request(number: int = 1, url: str = "http://localhost/things") -> Request:
    return Request(number, number, "GET", url, {}, None)


def serve(history: History, at: float, seconds: float, number: int = 1, **fields: Any) -> None:
    """A request that is served at once."""
    history.started(at, 0.5, 1)
    history.ended(at + seconds, seconds, "200")
    result = RequestResult(number, number, 200, attempts=1, seconds=seconds, **fields)
    history.finished(at + seconds, result, request(number))


def test_what_happened_is_where_it_happened() -> None:
    history = History()
    for second in range(10):
        for _ in range(second):
            history.started(second + 0.1, 2.0, 1)
            history.ended(second + 0.2, 0.1, "429" if second == 9 else "200")
            history.sample(second + 0.2, MOMENT)
    pieces = history.segments(10, 10)
    assert [(piece.begin, piece.end) for piece in pieces] == [(n, n + 1) for n in range(10)]
    assert [piece.of.started for piece in pieces] == list(range(10))
    assert [piece.of.answers["429"] for piece in pieces] == [0] * 9 + [9]
    assert pieces[0].of.first_wait.mean is None
    assert pieces[1].of.first_wait.mean == 2.0
    assert pieces[5].of.latency.percentile(50) == pytest.approx(0.1, rel=0.025)
    assert (pieces[5].of.queued.mean, pieces[5].of.concurrency.mean) == (50, 10)


def test_a_night_takes_no_more_memory_than_an_hour() -> None:
    dice = random.Random(3)
    history = History((100, 1.0), (90_000, 60.0))
    sizes = []
    for step in range(40_000):  # eleven hours, and several things in each second of them
        at = step * 1.0
        history.sample(at, MOMENT)
        history.spent(at, 100)
        history.started(at, dice.random(), 1)
        outcome = f"http_{dice.randint(400, 599)}"
        history.ended(at, dice.lognormvariate(-1, 1), outcome)
        failure = RequestFailure(outcome, "no " * 1000)
        result = RequestResult(
            "x" * 10_000, step, None, None, failure, 1, dice.lognormvariate(-1, 1)
        )
        history.finished(at, result, request(step, "http://localhost/" + "y" * 10_000))
        if step % 10_000 == 9999:
            sizes.append(footprint(history))
    assert len(history._intervals) <= 600
    assert max(sizes) < 5_000_000, sizes
    total = history.total()
    assert (total.started, total.finished, total.failed) == (40_000, 40_000, 40_000)
    assert (total.latency.count, total.answers.total()) == (40_000, 40_000)
    assert sum(history.failures.values()) == 40_000
    assert total.tokens == 4_000_000


def footprint(value: Any) -> int:
    """Bytes of a thing and all that it holds."""
    seen: set[int] = set()

    def parts(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from value
            yield from value.values()
        elif isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
            yield from value
        yield from vars(value).values() if hasattr(value, "__dict__") else ()
        yield from (getattr(value, name) for name in getattr(value, "__slots__", ()))

    waiting, total = [value], 0
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen.add(id(one))
            total += sys.getsizeof(one)
            waiting.extend(parts(one))
    return total


def test_a_clock_that_leaps_ahead_or_back_breaks_nothing() -> None:
    history = History()
    serve(history, 1, 0.1)
    serve(history, 10 * 86_400, 0.1)  # the machine slept
    serve(history, 2, 0.1)
    serve(history, -1, 0.1)
    assert history.total().finished == 4
    pieces = history.segments(10 * 86_400 + 0.1, 50)
    assert len(pieces) <= 50
    assert sum(piece.of.finished for piece in pieces) == 4


@pytest.mark.parametrize("until", [0.01, 0.3, 1, 7.03, 59.9, 149.99, 150.1, 3601, 30_000])
@pytest.mark.parametrize("at_most", [1, 7, 48])
def test_pieces_cover_the_run_without_gaps(until: float, at_most: int) -> None:
    history = History()
    for step in range(101):
        serve(history, until * step / 101, 0.0, step)
    pieces = history.segments(until, at_most)
    assert 1 <= len(pieces) <= at_most
    assert pieces[0].begin == 0
    assert pieces[-1].end == until
    assert [piece.end for piece in pieces[:-1]] == [piece.begin for piece in pieces[1:]]
    assert all(piece.seconds > 0 for piece in pieces)
    assert sum(piece.of.finished for piece in pieces) == 101
    if len(pieces) > 1:  # a very short one would tell a wild rate
        assert pieces[-1].seconds >= pieces[0].seconds / 2


def test_without_anything_there_are_no_pieces() -> None:
    assert History().segments(0.0, 10) == []
    assert History().segments(5.0, 10) == []
    assert History().slowest == []
    assert History().pace(5.0) == 0


def test_the_slowest_are_kept_and_no_others() -> None:
    dice = random.Random(11)
    history = History()
    seconds = [dice.random() for _ in range(1000)]
    for number, took in enumerate(seconds):
        serve(history, number, took, number)
    assert [slow.seconds for slow in history.slowest] == sorted(seconds, reverse=True)[:10]
    assert [seconds[slow.line] for slow in history.slowest] == sorted(seconds, reverse=True)[:10]


def test_the_older_comes_first_where_two_took_as_long() -> None:
    history = History()
    for number in range(20):
        serve(history, number, 1.0, number)
    assert [slow.line for slow in history.slowest] == list(range(10))


def test_attempts_under_way_and_retries_are_counted() -> None:
    history = History()
    history.started(1, 0, 1)
    history.started(1, 0, 1)
    assert history.in_use == 2
    history.ended(2, 1, "503")
    assert history.in_use == 1
    history.started(4, 2.0, 2)
    assert history.in_use == 2
    history.sample(4, MOMENT)
    total = history.total()
    assert (total.retry_wait.count, total.retry_wait.mean) == (1, 2.0)
    assert total.first_wait.count == 2
    assert total.in_use.mean == 2


def test_failures_are_counted_by_kind_with_the_first_message() -> None:
    history = History()
    for number, (kind, message) in enumerate(
        [("http_404", "404 Not Found"), ("timeout", "no answer"), ("timeout", "another")]
    ):
        result = RequestResult(
            number, number, failure=RequestFailure(kind, message), attempts=1, seconds=1
        )
        history.finished(number, result, request(number))
    malformed = RequestResult(4, 4, failure=RequestFailure("malformed", "not JSON"))
    history.finished(4, malformed)
    assert history.failures == {"http_404": 1, "timeout": 2, "malformed": 1}
    assert history.messages["timeout"] == "no answer"
    assert [slow.outcome for slow in history.slowest] == ["http_404", "timeout", "timeout"]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("http://user:pass@host:8/a/b?key=secret#part", "http://host:8/a/b"),
        ("https://secret@host", "https://host"),
        ("https://host?secret", "https://host"),
        ("http://[::1]:80/a%20b", "http://[::1]:80/a%20b"),
        (
            "ConnectError: cannot reach http://u:p@h/x?k=1 by HTTPS://p:q@proxy:1/",
            "ConnectError: cannot reach http://h/x by HTTPS://proxy:1/",
        ),
        ("plain words @ 5 o'clock?", "plain words @ 5 o'clock?"),
    ],
)
def test_urls_lose_what_may_be_secret(told: str, shown: str) -> None:
    assert public_url(told) == shown


def test_a_long_message_does_not_hold_up_the_run() -> None:
    assert public_url("a-" * 500_000).startswith("a-a-")  # quadratic, that would take hours


def test_it_keeps_no_secret_of_a_url() -> None:
    history = History()
    failure = RequestFailure("connection", "no way to https://user:hidden@host/?token=hidden")
    result = RequestResult(1, 1, failure=failure, attempts=1, seconds=1.0)
    history.finished(1, result, request(1, "https://user:hidden@host/path?token=hidden"))
    assert history.slowest[0].url == "https://host/path"
    assert "hidden" not in repr((history.slowest, history.messages))


def test_the_pace_is_that_of_late() -> None:
    history = History()
    for step in range(1000):
        serve(history, step / 10, 0.0, step)  # ten a second for 100 seconds
    assert history.pace(100) == pytest.approx(10, rel=0.02)
    for step in range(100):
        serve(history, 100 + step, 0.0, step)  # then one
    assert history.pace(200) == pytest.approx(1, rel=0.1)
    assert history.pace(5000) == 0


def test_the_rate_that_is_drawn_never_exceeds_the_limit() -> None:
    history = History((8, 1.0))
    for second in range(30):
        for _ in range(8):  # all at once, each second
            history.started(float(second), 0, 1)
        for tick in range(10):
            history.sample(second + tick / 10, MOMENT)
    for piece in history.segments(30, 24):  # of 1.25 s, two bursts in some
        assert 7.5 < (piece.of.rate.mean or 0) <= 8
        assert piece.of.rate.most <= 8
