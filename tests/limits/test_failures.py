"""What errors say."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from penstock.errors import (
    APITimeoutError,
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    OutageError,
    QueueStateError,
    RateLimitError,
)
from penstock.limits.failures import (
    Failure,
    as_predicate,
    failure_of,
    failure_of_answer,
    http_status,
    is_throttle,
    retry_after,
    service_failed,
    shows_outage,
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
        ((), ValueError, r"on must have at least one exception class, got \(\)"),
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


# -- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        failure_of(ConnectionRefusedError()),
        failure_of(ConnectionResetError()),
        failure_of(TimeoutError()),
        failure_of(APITimeoutError("too slow")),
        *[failure_of(HttpError(status)) for status in (408, 500, 502, 503, 504, 520, 529)],
        failure_of_answer(500, {"x-should-retry": "false"}),
        Failure(503, is_transient=True),  # UNAVAILABLE
    ],
    ids=repr,
)
def test_calls_fail_like_this_while_a_service_is_away(failure: Failure) -> None:
    assert shows_outage(failure) is True


@pytest.mark.parametrize(
    "failure",
    [
        failure_of(ValueError("a bug")),
        failure_of(RuntimeError("somebody's client lost its connection")),
        failure_of(FileNotFoundError()),
        failure_of(RateLimitError()),
        failure_of(HttpError(429)),
        failure_of_answer(503, {"retry-after": "5"}),
        *[failure_of(HttpError(status)) for status in (404, 409, 425, 501, 505)],
        failure_of(CircuitBreakerOpenError("open")),
        failure_of(BudgetExceededError()),
        failure_of(DeadlineExceededError("late")),
        failure_of(OutageError()),
        failure_of(QueueStateError("stopped")),
        Failure(409, is_transient=True),  # ABORTED
        Failure(500),  # UNKNOWN
    ],
    ids=repr,
)
def test_and_not_like_this(failure: Failure) -> None:
    assert not shows_outage(failure)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 425])
def test_an_answer_below_500_says_that_the_service_is_there(status: int) -> None:
    assert shows_outage(failure_of(HttpError(status))) is False


@pytest.mark.parametrize("status", [408, 429, 500, 501, 503])
def test_others_do_not(status: int) -> None:
    assert shows_outage(failure_of(HttpError(status))) is not False
    assert shows_outage(failure_of(ValueError())) is None
