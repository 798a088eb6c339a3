"""What errors say."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from penstock.errors import (
    APITimeoutError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    QueueStateError,
    RateLimitError,
)
from penstock.limits.failures import (
    as_predicate,
    http_status,
    is_throttle,
    retry_after,
    service_failed,
    worth_retrying,
)


class HttpError(Exception):
    """Like those of openai and aiohttp."""

    def __init__(self, status: int, name: str = "status_code") -> None:
        super().__init__(f"answered {status}")
        setattr(self, name, status)


class Response:
    def __init__(self, status_code: Any) -> None:
        self.status_code = status_code


class ResponseError(Exception):
    """Like those of httpx and requests."""

    def __init__(self, status: Any) -> None:
        super().__init__(f"answered {status}")
        self.response = Response(status)


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError(),
        APITimeoutError("too slow"),
        CircuitBreakerOpenError("open"),
        ConnectionResetError(),
        TimeoutError(),
        asyncio.TimeoutError(),
        OSError("network is unreachable"),
        RuntimeError("somebody's client lost its connection"),
        ValueError("half a JSON document"),
        HttpError(429),
        HttpError(503, "status"),
        ResponseError(500),
        ResponseError(408),
    ],
)
def test_what_may_pass_is_worth_another_attempt(error: Exception) -> None:
    assert worth_retrying(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError(),
        KeyError("choices"),
        AttributeError(),
        AssertionError(),
        NameError(),
        NotImplementedError(),
        ModuleNotFoundError(),
        FileNotFoundError(),
        PermissionError(),
        DeadlineExceededError("too late"),
        QueueStateError("stopped"),
        HttpError(400),
        HttpError(404, "status"),
        ResponseError(401),
    ],
)
def test_what_will_be_the_same_next_time_is_not(error: Exception) -> None:
    assert not worth_retrying(error)


@pytest.mark.parametrize("value", [None, "503", 99, 600, object()])
def test_what_is_no_status_is_not_taken_for_one(value: Any) -> None:
    assert http_status(ResponseError(value)) is None


def test_throttling_is_an_error_of_ours_or_a_status() -> None:
    assert is_throttle(RateLimitError())
    assert is_throttle(HttpError(429))
    assert not is_throttle(HttpError(503))
    assert not is_throttle(OSError())


@pytest.mark.parametrize(
    ("error", "shows"),
    [
        (OSError(), True),
        (HttpError(500), True),
        (HttpError(404), False),
        (RateLimitError(), None),
        (HttpError(429), None),
        (DeadlineExceededError("too late"), None),
        (CircuitBreakerOpenError("open"), None),
    ],
)
def test_what_an_error_shows_about_the_service(error: Exception, shows: bool | None) -> None:
    assert service_failed(error) is shows


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(2, 2), (0.5, 0.5), (None, 0), (-1, 0), (math.nan, 0), (math.inf, 0), ("5", 0), (True, 0)],
)
def test_garbage_in_retry_after_is_ignored(value: Any, seconds: float) -> None:
    assert retry_after(RateLimitError(retry_after=value)) == seconds


def test_a_number_too_large_for_a_float_is_garbage_too() -> None:
    assert retry_after(RateLimitError(retry_after=10**400)) == 0


def test_other_errors_have_no_retry_after() -> None:
    assert retry_after(OSError()) == 0
    assert retry_after(CircuitBreakerOpenError("open", retry_after=3)) == 3


def test_a_predicate_is_made_of_a_class_of_several_or_of_a_function() -> None:
    assert as_predicate(OSError, "on")(ConnectionError())
    assert not as_predicate(OSError, "on")(ValueError())
    assert as_predicate((KeyError, ValueError), "on")(ValueError())
    assert as_predicate(lambda error: "again" in str(error), "on")(ValueError("try again"))


async def _async_predicate(error: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ((), ValueError, r"on must name at least one exception class, got \(\)"),
        (KeyboardInterrupt, ValueError, "subclasses of Exception, got KeyboardInterrupt"),
        ((OSError, asyncio.CancelledError), ValueError, "got CancelledError"),
        (BaseException, ValueError, "got BaseException"),
        (int, TypeError, "on must be exception classes or a function, got <class 'int'>"),
        ((OSError, "ValueError"), TypeError, "got 'ValueError'"),
        (OSError("one"), TypeError, "must be an exception class, got the exception"),
        ("OSError", TypeError, "on must be a function, got 'OSError'"),
        (None, TypeError, "on must be a function, got None"),
        (lambda: True, TypeError, "on must accept error"),
        (_async_predicate, TypeError, "must be a plain function, got the async function"),
    ],
)
def test_what_tells_no_errors_apart(which: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_predicate(which, "on")
