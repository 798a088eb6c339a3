"""One request: what is tried again, how long it waits, what the result says. In virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from penstock import WorkQueue
from penstock.cli.run.requests import Request
from penstock.cli.run.results import Result
from penstock.cli.run.sender import Pending, Sender, TransientError, retry_policy

REQUEST = Request(1, "a", "POST", "http://host/x", {"X-Key": "secret"}, b"{}", "0" * 20)

Answer = Callable[[httpx.Request], Any]


async def send(*answers: Any, attempts: int = 5, timeout: float = 30.0) -> tuple[Result, list[str]]:
    """Send the request to a server that gives these answers, one after the other."""
    left = list(answers)
    retries: list[str] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return httpx.Response(200)
        assert isinstance(answer, httpx.Response)
        return answer

    transport = httpx.MockTransport(handle)
    results: list[Result] = []
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
        sender = Sender(client, attempts, timeout)

        async def work(pending: Pending) -> None:
            answer = await sender.send(pending)
            if sender.may_pass(pending, answer):
                retries.append(answer.kind)
                raise TransientError(answer)
            results.append(sender.result(pending, answer))

        async with WorkQueue[Pending](retry=retry_policy(attempts)) as queue:
            await queue.process(work)
            await queue.put(Pending(REQUEST))
    assert not left, "it was tried less often than expected"
    (result,) = results
    return result, retries


def body(result: Result) -> Any:
    return json.loads(result.body or "null")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 529])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    result, retries = await send(httpx.Response(status), httpx.Response(201, json={"n": 1}))
    assert (result.status, result.attempts, result.failure) == (201, 2, None)
    assert body(result) == {"n": 1}
    assert retries == [f"http_{status}"]


@pytest.mark.parametrize("status", [304, 400, 401, 404, 409, 422, 501, 505])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    result, retries = await send(httpx.Response(status, json=["why"]))
    assert (result.status, result.attempts, retries) == (status, 1, [])
    assert result.failure is not None
    assert result.failure.kind == f"http_{status}"
    assert result.failure.message.startswith(f"{status} ")
    assert json.loads(result.failure.body or "") == ["why"]


async def test_the_order_of_the_service_decides_over_the_status() -> None:
    again, never = ({"x-should-retry": order} for order in ("true", "false"))
    result, _ = await send(httpx.Response(409, headers=again), httpx.Response(200))
    assert (result.status, result.attempts) == (200, 2)
    result, _ = await send(httpx.Response(500, headers=never))
    assert (result.status, result.attempts) == (500, 1)


async def test_what_is_spent_is_not_tried_again() -> None:
    spent = {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}
    result, retries = await send(httpx.Response(429, json=spent))
    assert (result.status, result.attempts, retries) == (429, 1, [])
    assert json.loads(result.failure.body or "") == spent if result.failure else False


async def test_the_last_attempt_decides() -> None:
    result, retries = await send(*[httpx.Response(503)] * 3, attempts=3)
    assert (result.status, result.attempts) == (503, 3)
    assert result.failure is not None
    assert result.failure.kind == "http_503"
    assert len(retries) == 2


async def test_a_broken_connection_is_tried_again() -> None:
    broken = httpx.ReadError("gone")
    result, retries = await send(broken, httpx.Response(200))
    assert (result.attempts, result.failure, retries) == (2, None, ["connection"])
    result, _ = await send(broken, broken, attempts=2)
    assert result.status is None
    assert result.failure is not None
    assert (result.failure.kind, result.failure.message) == ("connection", "ReadError: gone")


async def test_an_answer_that_takes_too_long_is_tried_again() -> None:
    result, retries = await send(3601.0, 0.5, timeout=3600.0)
    assert (result.attempts, result.failure, retries) == (2, None, ["timeout"])
    assert result.seconds >= 3600.5
    result, _ = await send(3.0, attempts=1, timeout=2.5)
    assert result.failure is not None
    assert result.failure.kind == "timeout"
    assert result.failure.message == "no complete answer within 2.5 s"
    assert result.seconds == pytest.approx(2.5)


async def test_no_limit_of_time() -> None:
    result, _ = await send(1e6, timeout=float("inf"))
    assert result.failure is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.LocalProtocolError("Illegal header value b'secret'"), "protocol"),
        (httpx.UnsupportedProtocol("no"), "protocol"),
        (httpx.TooManyRedirects("Exceeded"), "protocol"),
        (httpx.DecodingError("bad gzip"), "protocol"),
        (ZeroDivisionError("of all things"), "unexpected"),
    ],
)
async def test_whatever_happens_is_a_result(error: Exception, kind: str) -> None:
    result, _ = await send(error)
    assert result.failure is not None
    assert (result.failure.kind, result.attempts) == (kind, 1)
    assert "secret" not in result.failure.message


async def test_redirects_are_followed() -> None:
    away = httpx.Response(307, headers={"Location": "http://host/y"})
    result, _ = await send(away, httpx.Response(200, text="there"))
    assert (result.status, body(result), result.attempts) == (200, "there", 1)


@pytest.mark.parametrize("status", [429, 503])
async def test_it_waits_as_long_as_it_is_told(status: int) -> None:
    told = httpx.Response(status, headers={"Retry-After": "800"})
    result, _ = await send(told, httpx.Response(200))
    assert 800 <= result.seconds <= 801


async def test_it_waits_until_the_date_that_it_is_told() -> None:
    when = datetime.now(timezone.utc) + timedelta(minutes=10)
    told = httpx.Response(429, headers={"Retry-After": format_datetime(when, usegmt=True)})
    result, _ = await send(told, httpx.Response(200))
    assert 590 <= result.seconds <= 601


async def test_without_being_told_it_waits_longer_each_time() -> None:
    upper = [0.5, 1.0, 2.0, 4.0]
    waits = [
        (await send(*[httpx.Response(500)] * 4, httpx.Response(200)))[0].seconds for _ in range(30)
    ]
    assert max(waits) <= sum(upper)
    assert min(waits) < max(waits), "without jitter all would come back at once"
    assert sum(waits) / len(waits) == pytest.approx(sum(upper) / 2, rel=0.3)


async def test_a_retry_after_that_says_nothing_is_ignored() -> None:
    told = httpx.Response(429, headers={"Retry-After": "soon"})
    result, _ = await send(told, httpx.Response(200))
    assert 1 <= result.seconds <= 1.5  # as after any refusal that names no time


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("application/json", b'{"a": [1.5, null, "\xc3\xa9"]}', {"a": [1.5, None, "é"]}),
        ("application/problem+json; charset=utf-8", b"[]", []),
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ("image/png", b"\x89PNG", "\ufffdPNG"),
        ("application/json", b"{broken", "{broken"),
        ("application/json", b"NaN", "NaN"),
        ("application/json", b"1e999", "1e999"),
        ("application/json", b"", None),
        ("text/html", b"[1]", "[1]"),
    ],
)
async def test_bodies(kind: str, content: bytes, expected: Any) -> None:
    response = httpx.Response(200, headers={"Content-Type": kind}, content=content)
    result, _ = await send(response)
    assert body(result) == expected
    assert json.loads(result.to_line())["body"] == expected


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 100_000])
async def test_a_body_of_any_depth_makes_a_line(depth: int) -> None:
    content = b"[" * depth + b"]" * depth
    response = httpx.Response(200, headers={"Content-Type": "application/json"}, content=content)
    result, _ = await send(response)
    line = result.to_line().decode()
    assert content.decode() in line


async def test_cancelling_is_not_a_result() -> None:
    sending = asyncio.create_task(send(100.0))
    await asyncio.sleep(1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
