"""Which failures are worth another attempt."""

from __future__ import annotations

from typing import Any

import pytest

SAFE = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]
UNSAFE = ["POST", "PATCH"]


@pytest.mark.parametrize(
    ("kind", "safe", "unsafe"),
    [
        ("ConnectError", True, True),
        ("ConnectTimeout", True, True),
        ("PoolTimeout", True, True),
        ("ReadTimeout", True, False),
        ("WriteTimeout", True, False),
        ("ReadError", True, False),
        ("WriteError", True, False),
        ("RemoteProtocolError", True, False),
        ("ProxyError", True, True),
        ("LocalProtocolError", False, False),
        ("UnsupportedProtocol", False, False),
    ],
)
def test_a_request_is_sent_again_where_that_can_do_no_harm(
    library: Any, ours: Any, kind: str, safe: bool, unsafe: bool
) -> None:
    for method in SAFE + UNSAFE:
        request = library.Request(method, "http://nowhere/")
        error = getattr(library, kind)("no", request=request)
        assert ours.worth_retrying(error) is (safe if method in SAFE else unsafe)


def test_an_answer_that_is_a_failure_is_worth_it_whatever_the_method(
    library: Any, ours: Any
) -> None:
    request = library.Request("POST", "http://nowhere/")
    response = library.Response(503, request=request)
    error = library.HTTPStatusError("no", request=request, response=response)
    assert ours.worth_retrying(error)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), TimeoutError()])
def test_other_errors_are_not(ours: Any, error: Exception) -> None:
    assert not ours.worth_retrying(error)


def test_an_answer_that_only_the_user_takes_for_a_failure_is_worth_it(
    library: Any, ours: Any
) -> None:
    request = library.Request("GET", "http://nowhere/")
    response = library.Response(404, request=request)
    error = library.HTTPStatusError("no", request=request, response=response)
    assert ours.worth_retrying(error)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, {"x-should-retry": "false"}, b""),
        (429, {}, b'{"error": {"code": "insufficient_quota"}}'),
        (501, {}, b""),
        (505, {}, b""),
    ],
)
def test_an_answer_that_will_be_the_same_next_time_is_not_worth_it(
    library: Any, ours: Any, status: int, headers: dict[str, str], body: bytes
) -> None:
    request = library.Request("GET", "http://nowhere/")
    response = library.Response(status, headers=headers, content=body, request=request)
    error = library.HTTPStatusError("no", request=request, response=response)
    assert not ours.worth_retrying(error)


@pytest.mark.parametrize(
    ("status", "headers", "is_failure"),
    [
        (409, {"x-should-retry": "true"}, True),
        (409, {}, False),
        (403, {"Retry-After": "2"}, True),
        (403, {"X-RateLimit-Remaining": "0"}, True),
        (403, {"X-RateLimit-Remaining": "3"}, False),
        (202, {"Retry-After": "2", "x-should-retry": "true"}, False),
    ],
)
def test_headers_tell_a_failure_where_the_status_does_not(
    library: Any, ours: Any, status: int, headers: dict[str, str], is_failure: bool
) -> None:
    assert ours.is_failure(library.Response(status, headers=headers)) is is_failure


def test_failures_are_what_may_pass(library: Any, ours: Any) -> None:
    failures = {status for status in range(100, 600) if ours.is_failure(library.Response(status))}
    assert failures == {408, 425, 429, *range(500, 600)}
