"""One request: what is tried again, how long it waits, what the result says. In virtual time."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from penstock import Policy, WorkQueue
from penstock.cli.run.answers import AnswerJudge, AttemptError, FailIf
from penstock.cli.run.client import RedirectsError, Response
from penstock.cli.run.connections import Connections
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestResult
from penstock.cli.run.run import retry_policy
from penstock.cli.run.sender import Pending, Sender

REQUEST = Request(1, "a", "POST", "http://host/x", {"X-Key": "secret"}, b"{}", "0" * 20)
GET = Request(1, "a", "GET", "http://host/x", {}, None, "0" * 20)


def answer(
    status: int = 200, content: Any = b"", kind: str = "application/json", **headers: str
) -> Response:
    """An answer of the service; what is no bytes is sent as JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return Response(status, reason, CIMultiDict({"Content-Type": kind} | named), raw)


class Service:
    """A client whose service gives these answers, one after the other."""

    def __init__(self, *answers: Any, timeout: float) -> None:
        self.left = list(answers)
        self.connections = Connections()
        self._timeout = timeout

    async def request(self, request: Request, headers: dict[str, str]) -> Response:
        given = self.left.pop(0)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, float):
            await asyncio.wait_for(asyncio.sleep(given), self._timeout)
            return answer()
        assert isinstance(given, Response)
        return given


async def send(
    *answers: Any,
    attempts: int = 5,
    timeout: float = 30.0,
    request: Request = REQUEST,
    judge: AnswerJudge | None = None,
) -> tuple[RequestResult, list[str]]:
    """Send the request to a server that gives these answers, one after the other."""
    service = Service(*answers, timeout=timeout)
    retries: list[str] = []
    results: list[RequestResult] = []
    sender = Sender(service, timeout, judge=judge)

    async def work(pending: Pending) -> None:
        if pending.answer is not None:
            retries.append(pending.answer.kind)
        answer = await sender.send(pending)
        if answer.failure is not None:
            raise AttemptError(answer)
        results.append(sender.result(pending, answer))

    async def give_up(error: Exception, pending: Pending) -> None:
        assert isinstance(error, AttemptError)
        results.append(sender.result(pending, error.answer))

    policy = Policy(retry=retry_policy(attempts), max_retry_after=math.inf)
    async with WorkQueue[Pending](policy=policy) as queue:
        await queue.process(work, error_handler=give_up)
        await queue.put(Pending(request))
    assert not service.left, "it was tried less often than expected"
    (result,) = results
    return result, retries


def body(result: RequestResult) -> Any:
    return json.loads(result.body or "null")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 529])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    result, retries = await send(answer(status), answer(201, {"n": 1}))
    assert (result.status, result.attempts, result.failure) == (201, 2, None)
    assert body(result) == {"n": 1}
    assert retries == [f"http_{status}"]


@pytest.mark.parametrize("status", [304, 400, 401, 404, 409, 422, 501, 505])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    result, retries = await send(answer(status, ["why"]))
    assert (result.status, result.attempts, retries) == (status, 1, [])
    assert result.failure is not None
    assert result.failure.kind == f"http_{status}"
    assert result.failure.message.startswith(f"{status} ")
    assert body(result) == ["why"]


async def test_the_order_of_the_service_decides_over_the_status() -> None:
    result, _ = await send(answer(409, x_should_retry="true"), answer())
    assert (result.status, result.attempts) == (200, 2)
    result, _ = await send(answer(500, x_should_retry="false"))
    assert (result.status, result.attempts) == (500, 1)


async def test_what_is_spent_is_not_tried_again() -> None:
    spent = {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}
    result, retries = await send(answer(429, spent))
    assert (result.status, result.attempts, retries) == (429, 1, [])
    assert body(result) == spent


async def test_the_last_attempt_decides() -> None:
    result, retries = await send(*[answer(503)] * 3, attempts=3)
    assert (result.status, result.attempts) == (503, 3)
    assert result.failure is not None
    assert result.failure.kind == "http_503"
    assert len(retries) == 2


async def test_a_broken_connection_is_tried_again() -> None:
    broken = aiohttp.ClientOSError(104, "gone")
    result, retries = await send(broken, answer())
    assert (result.attempts, result.failure, retries) == (2, None, ["connection"])
    result, _ = await send(broken, broken, attempts=2)
    assert result.status is None
    assert result.failure is not None
    assert (result.failure.kind, result.failure.message) == (
        "connection",
        "Connection reset by peer",
    )


async def test_an_answer_that_takes_too_long_is_tried_again() -> None:
    result, retries = await send(3601.0, 0.5, timeout=3600.0)
    assert (result.attempts, result.failure, retries) == (2, None, ["timeout"])
    assert result.seconds >= 3600.5
    result, _ = await send(3.0, attempts=1, timeout=2.5)
    assert result.failure is not None
    assert result.failure.kind == "timeout"
    assert result.failure.message == "no complete answer within 2.5 s (--timeout)"
    assert result.seconds == pytest.approx(2.5)


async def test_no_limit_of_time() -> None:
    result, _ = await send(1e6, timeout=float("inf"))
    assert result.failure is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.InvalidURL("http://host/secret"), "protocol"),
        (ValueError("Illegal header value b'secret'"), "protocol"),
        (RedirectsError("redirected more than 10 times"), "protocol"),
        (ZeroDivisionError("of all things"), "unexpected"),
    ],
)
async def test_whatever_happens_is_a_result(error: Exception, kind: str) -> None:
    result, _ = await send(error)
    assert result.failure is not None
    assert (result.failure.kind, result.attempts) == (kind, 1)
    assert "secret" not in result.failure.message


@pytest.mark.parametrize("status", [429, 503])
async def test_it_waits_as_long_as_it_is_told(status: int) -> None:
    told = answer(status, retry_after="1000")
    result, _ = await send(told, answer())
    assert 1000 <= result.seconds <= 1001


async def test_it_waits_until_the_date_that_it_is_told() -> None:
    when = datetime.now(timezone.utc) + timedelta(hours=1)
    told = answer(429, retry_after=format_datetime(when, usegmt=True))
    result, _ = await send(told, answer())
    assert 3590 <= result.seconds <= 3601


async def test_without_being_told_it_waits_longer_each_time() -> None:
    upper = [0.5, 1.0, 2.0, 4.0]
    waits = [(await send(*[answer(500)] * 4, answer()))[0].seconds for _ in range(30)]
    assert max(waits) <= sum(upper)
    assert min(waits) < max(waits), "without jitter all would come back at once"
    assert sum(waits) / len(waits) == pytest.approx(sum(upper) / 2, rel=0.3)


async def test_a_retry_after_that_says_nothing_is_ignored() -> None:
    told = answer(429, retry_after="soon")
    result, _ = await send(told, answer())
    assert result.seconds <= 2.0


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("application/json", b'{"a": [1.5, null, "\xc3\xa9"]}', {"a": [1.5, None, "é"]}),
        ("application/problem+json; charset=utf-8", b"[]", []),
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ("text/plain", b"\xe9", "é"),
        ("application/json", b"1e999", "1e999"),
        ("application/json", b"", None),
        ("text/csv", b"a,b\r\n", "a,b\r\n"),
        ("", "möglich".encode(), "möglich"),
    ],
)
async def test_bodies(kind: str, content: bytes, expected: Any) -> None:
    result, _ = await send(answer(200, content, kind))
    assert body(result) == expected
    assert json.loads(result.to_line())["body"] == expected


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", ""])
@pytest.mark.parametrize("status", [200, 404])
async def test_what_is_no_text_is_kept_byte_by_byte(kind: str, status: int) -> None:
    content = bytes(range(256))
    result, _ = await send(answer(status, content, kind))
    line = json.loads(result.to_line())
    kept = (line if status == 200 else line["error"])["body_base64"]
    assert base64.b64decode(kept) == content


# -- what is a success ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b'{"a": [1, 2', b"{broken", b"NaN", b'\xff"'])
async def test_json_that_cannot_be_read_is_no_success(content: bytes) -> None:
    result, retries = await send(answer(200, content))
    assert result.failure is not None
    assert (result.failure.kind, result.status, retries) == ("bad_json", 200, [])
    assert result.failure.message.startswith("200 with JSON that cannot be read: ")


@pytest.mark.parametrize(
    "request_", [GET, replace(REQUEST, headers={"Idempotency-Key": "1"})], ids=["GET", "key"]
)
async def test_json_that_was_cut_off_is_asked_for_again_where_that_does_no_harm(
    request_: Request,
) -> None:
    result, retries = await send(answer(200, b'{"a'), answer(200, [1]), request=request_)
    assert (body(result), retries, result.failure) == ([1], ["bad_json"], None)


async def test_a_page_where_json_was_asked_for_is_no_success() -> None:
    page = answer(200, b"<html>Please log in</html>", "text/html; charset=utf-8")
    result, _ = await send(page, request=GET)
    assert result.failure is not None
    assert (result.failure.kind, result.attempts) == ("not_json", 1)
    assert body(result) == "<html>Please log in</html>"
    asks = replace(GET, headers={"accept": "text/html"})
    assert (await send(page, request=asks))[0].failure is None
    assert (await send(page, request=GET, judge=AnswerJudge(wants_json=False)))[0].failure is None


@pytest.mark.parametrize(
    ("condition", "content", "is_failure"),
    [
        ("error", {"error": "no"}, True),
        ("error", {"error": None}, False),
        ("error", {"error": []}, False),
        ("error", {"error": 0}, False),
        ("error", {}, False),
        ("error", [], False),
        ("ok=false", {"ok": False}, True),
        ("ok=false", {"ok": True}, False),
        ("ok=false", {}, False),
        ("status=failed", {"status": "failed"}, True),
        ("items.0.code=7", {"items": [{"code": 7}]}, True),
        ("items.1.code=7", {"items": [{"code": 7}]}, False),
    ],
)
async def test_what_the_user_calls_a_failure(
    condition: str, content: Any, is_failure: bool
) -> None:
    judge = AnswerJudge((FailIf.parse(condition),))
    result, _ = await send(answer(200, content), judge=judge)
    assert (result.failure is not None) == is_failure
    if result.failure is not None:
        assert result.failure.kind == "fail_if"
        assert result.failure.message.startswith(f"200 with {condition}: ")
        assert body(result) == content


async def test_a_throttle_with_status_200_is_tried_again() -> None:
    throttled = {"errors": [{"message": "slow", "extensions": {"code": "THROTTLED"}}]}
    judge = AnswerJudge((FailIf.parse("errors"),))
    result, retries = await send(answer(200, throttled), answer(200, {}), judge=judge)
    assert (result.failure, retries) == (None, ["fail_if"])


async def test_other_statuses_that_may_pass() -> None:
    judge = AnswerJudge(retry_on=frozenset({404}))
    result, retries = await send(answer(404), answer(), judge=judge)
    assert (result.failure, retries) == (None, ["http_404"])


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_what_may_have_been_done_is_not_sent_again_if_that_is_asked_for(status: int) -> None:
    judge = AnswerJudge(safe_methods_only=True)
    result, _ = await send(answer(status), judge=judge)
    assert (result.status, result.attempts) == (status, 1)
    for request in (GET, replace(REQUEST, headers={"idempotency-key": "k"})):
        result, _ = await send(answer(status), answer(), judge=judge, request=request)
        assert (result.status, result.attempts) == (200, 2)
    broken = aiohttp.ServerDisconnectedError()
    result, _ = await send(broken, judge=judge)
    assert result.attempts == 1


@pytest.mark.parametrize("status", [408, 425, 429, 503])
async def test_what_was_not_done_is_sent_again(status: int) -> None:
    judge = AnswerJudge(safe_methods_only=True)
    result, _ = await send(answer(status), answer(), judge=judge)
    assert (result.status, result.attempts) == (200, 2)


async def test_a_redirect_that_would_change_the_method_names_the_place() -> None:
    result, _ = await send(answer(302, location="https://user:secret@other/new?key=secret"))
    assert result.failure is not None
    assert result.failure.kind == "redirected"
    assert result.failure.message == "302 to https://other/new"


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 100_000])
async def test_a_body_of_any_depth_makes_a_line(depth: int) -> None:
    content = b"[" * depth + b"]" * depth
    response = answer(200, content)
    result, _ = await send(response)
    line = result.to_line().decode()
    assert content.decode() in line


async def test_cancelling_is_not_a_result() -> None:
    sending = asyncio.create_task(send(100.0))
    await asyncio.sleep(1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
