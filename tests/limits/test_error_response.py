"""Where errors of clients keep what the service answered. (Real ones: tests/clients.)"""

from __future__ import annotations

import email.message
import enum
import http
import json
import sys
import urllib.error
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import APIClientError, DeadlineExceededError, RateLimitError
from penstock.limits.failures import Failure, failure_of, worth_retrying

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

HEADERS = {"Retry-After": "7"}


class ClientError(Exception):
    """An error with attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("refused")
        self.__dict__.update(attributes)


class Code(enum.Enum):
    """As ``grpc.StatusCode``: the values are pairs."""

    RESOURCE_EXHAUSTED = (8, "resource exhausted")
    UNAVAILABLE = (14, "unavailable")
    NOT_FOUND = (5, "not found")
    INTERNAL = (13, "internal")
    ABORTED = (10, "aborted")


class RpcError(Exception):
    """As of grpc."""

    def __init__(self, code: Any, metadata: Any = (), details: str = "") -> None:
        super().__init__(details)
        self._said = code, metadata, details

    def code(self) -> Any:
        return self._said[0]

    def trailing_metadata(self) -> Any:
        return self._said[1]

    def details(self) -> str:
        return self._said[2]


def urllib_error() -> Exception:
    headers = email.message.Message()
    headers["Retry-After"] = "7"
    return urllib.error.HTTPError("http://host/", 429, "Too Many Requests", headers, None)


class Resp(dict[str, str]):
    """As of httplib2: the headers, and the status as text and as a number."""

    def __init__(self, status: Any, **headers: str) -> None:
        super().__init__(headers)
        self.status = status


@pytest.mark.parametrize(
    "error",
    [
        # httpx, requests, slack_sdk
        ClientError(response=SimpleNamespace(status_code=429, headers=HEADERS)),
        # openai, anthropic
        ClientError(
            status_code=429, response=SimpleNamespace(status_code=429, headers=HEADERS), body=None
        ),
        # aiohttp, PyGithub, kubernetes, twilio, notion, hubspot
        ClientError(status=429, headers=HEADERS),
        ClientError(
            status=429, headers=HEADERS, body='{"message": "slow down"}', reason="Too many"
        ),
        urllib_error(),
        ClientError(
            response={
                "Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"},
                "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "7"}},
            }
        ),
        # googleapiclient
        ClientError(resp=Resp("429", **{"retry-after": "7"}), content=b"{}"),
        ClientError(status_code=429, resp=Resp(429, **{"retry-after": "7"})),
        # google.api_core, google.genai
        ClientError(
            code=http.HTTPStatus.TOO_MANY_REQUESTS,
            details=[
                SimpleNamespace(
                    DESCRIPTOR=SimpleNamespace(full_name="google.rpc.RetryInfo"),
                    retry_delay=SimpleNamespace(seconds=7, nanos=0),
                )
            ],
        ),
        ClientError(
            code=429,
            status="RESOURCE_EXHAUSTED",
            details={
                "error": {
                    "details": [
                        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
                    ]
                }
            },
        ),
        ClientError(http_status=429, headers=HEADERS, json_body={}),  # stripe
        RpcError(Code.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "7000"),)),
        # made of one by google.api_core
        ClientError(
            code=429, response=RpcError(Code.RESOURCE_EXHAUSTED, [("retry-after-ms", "7000")])
        ),
        ClientError(status=429, retry_after=timedelta(seconds=7)),
    ],
)
def test_a_refusal_is_heard_wherever_it_is(error: Exception) -> None:
    heard = Failure(429, is_throttle=True, is_transient=True, retry_after=7)
    assert failure_of(error) == heard
    wrapper = RuntimeError("the SDK failed")
    wrapper.__cause__ = error
    assert failure_of(wrapper) == heard
    assert failure_of(ExceptionGroup("one", [ExceptionGroup("of one", [error])])) == heard


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (Code.UNAVAILABLE, Failure(503, is_transient=True)),
        (Code.ABORTED, Failure(409, is_transient=True)),
        (Code.NOT_FOUND, Failure(404, is_permanent=True)),
        (Code.INTERNAL, Failure(500)),
    ],
)
def test_what_codes_of_grpc_say(code: Code, failure: Failure) -> None:
    assert failure_of(RpcError(code)) == failure
    assert failure_of(RpcError(code, None)) == failure


def test_grpc_asks_not_to_be_tried_again() -> None:
    error = RpcError(Code.UNAVAILABLE, (("grpc-retry-pushback-ms", "-1"),))
    assert failure_of(error).is_permanent


def test_a_message_that_is_too_large_for_grpc_is_no_throttle() -> None:
    error = RpcError(
        Code.RESOURCE_EXHAUSTED, (), "Received message larger than max (5000000 vs. 4194304)"
    )
    assert failure_of(error) == Failure(429, is_permanent=True)


class LastAttempt:
    """The future of tenacity's ``RetryError``."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    def done(self) -> bool:
        return self._error is not None

    def exception(self) -> BaseException | None:
        assert self._error is not None, "it would wait for ever"
        return self._error


def test_the_last_error_of_a_retry_error_counts() -> None:
    refused = ClientError(status=503, headers=HEADERS)
    assert failure_of(ClientError(last_attempt=LastAttempt(refused))).retry_after == 7
    assert failure_of(ClientError(last_attempt=LastAttempt(KeyError("answer")))).is_permanent
    assert failure_of(ClientError(last_attempt=LastAttempt(None))) == Failure()


def test_of_several_errors_in_a_group_none_speaks_for_all() -> None:
    group = ExceptionGroup("two", [ClientError(status=429), ClientError(status=404)])
    assert failure_of(group) == Failure()


def test_what_was_raised_while_another_was_handled_is_not_its_cause() -> None:
    error = ValueError("bad row")
    error.__context__ = ClientError(status=429)
    assert failure_of(error) == Failure()


def test_the_time_that_a_client_named_counts_for_an_error_of_ours() -> None:
    error = RateLimitError()
    error.__cause__ = ClientError(status=429, headers=HEADERS)
    assert failure_of(error).retry_after == 7
    assert failure_of(RateLimitError(retry_after=3)).retry_after == 3


def test_an_error_of_ours_that_stands_for_another_says_what_that_says() -> None:
    for kind in (APIClientError, DeadlineExceededError):
        error = kind("the service failed")
        error.__cause__ = ClientError(status=503)
        is_local = kind is DeadlineExceededError
        heard = Failure(is_permanent=True) if is_local else Failure(503, is_transient=True)
        assert failure_of(error) == heard


def test_an_error_of_ours_may_bring_its_failure() -> None:
    class ToldError(RateLimitError):
        failure = Failure(402, is_permanent=True)

    assert failure_of(ToldError()) is ToldError.failure


class HostileError(Exception):
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileMapping(dict[str, Any]):
    """Raises whatever is asked of it."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError("get")

    items = get


class NoAttributesError(Exception):
    """Raises for those of all exceptions, too."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__traceback__", "__notes__"}:
            return super().__getattribute__(name)
        raise RuntimeError(name)


class AnyError(Exception):
    """Has every attribute."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self


@pytest.mark.parametrize("kind", [HostileError, NoAttributesError, AnyError])
def test_an_error_of_whatever_shape_says_nothing(kind: type[Exception]) -> None:
    assert failure_of(kind()) == Failure()


@pytest.mark.parametrize("name", ["response", "body", "details", "headers", "resp"])
def test_an_error_with_a_mapping_of_whatever_shape_says_nothing(name: str) -> None:
    assert failure_of(ClientError(**{name: HostileMapping()})) == Failure()


def test_errors_in_a_circle_say_nothing() -> None:
    one, two = ClientError(), RateLimitError()
    one.__cause__, two.__cause__ = two, one
    assert failure_of(one) == Failure()
    assert failure_of(two) == Failure(is_throttle=True, is_transient=True)
    endless = ClientError()
    endless.__dict__["last_attempt"] = LastAttempt(endless)
    assert failure_of(endless) == Failure()


@pytest.mark.parametrize("value", ["429", True, 42, 4290, 429.0, None, "RESOURCE_EXHAUSTED"])
def test_a_status_of_the_wrong_type_is_none(value: Any) -> None:
    for name in ("status_code", "status", "http_status", "code"):
        assert failure_of(ClientError(**{name: value})).status is None
    response = {"ResponseMetadata": {"HTTPStatusCode": value}}
    assert failure_of(ClientError(response=response)) == Failure()


def test_a_code_below_400_is_no_status() -> None:
    assert failure_of(ClientError(code=112)) == Failure()  # of MongoDB


class Unread:
    """A response whose body is still with the service."""

    status_code = 400

    @property
    def content(self) -> bytes:
        raise AssertionError("nobody may read it now")

    data = text = body = content


def test_a_body_that_was_not_read_stays_unread() -> None:
    assert failure_of(ClientError(response=Unread())) == Failure(400, is_permanent=True)


def test_a_body_that_was_read_is_looked_at() -> None:
    response = Unread()
    response.__dict__["_content"] = json.dumps({"error": {"code": "Throttling"}}).encode()
    assert failure_of(ClientError(response=response)).is_throttle


junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=20),
        st.sampled_from(["429", 429, 503, "ThrottlingException", "insufficient_quota", b'{"a":']),
        st.builds(lambda status: SimpleNamespace(status_code=status), st.integers(0, 700)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=6),
                st.integers(),
                st.sampled_from(["error", "errors", "details", "code", "@type", "cost", "Error"]),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)
ATTRIBUTES = [
    *("status", "status_code", "code", "response", "headers", "body", "details", "resp", "errors"),
    *("extensions", "exceptions", "last_attempt", "retry_after", "message", "grpc_status_code"),
    *("trailing_metadata", "json_body", "data", "content", "type", "reason"),
]


@given(attributes=st.dictionaries(st.sampled_from(ATTRIBUTES), junk, max_size=6))
def test_an_error_with_garbage_in_it_raises_nothing(attributes: dict[str, Any]) -> None:
    failure = failure_of(ClientError(**attributes))
    assert 0 <= failure.retry_after < float("inf")
    assert not (failure.is_transient and failure.is_permanent)
    assert worth_retrying(ClientError(**attributes)) is not failure.is_permanent
