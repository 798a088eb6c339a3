"""What errors of HTTP clients and SDKs say, raised by them as they are installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from clients.calls import CALLS, by_anthropic, by_google_genai, by_openai, by_stripe
from helpers.http_server import Answer, Server
from penstock import Policy, RetryPolicy
from penstock.limits.connections import is_unsent
from penstock.limits.failures import Failure, failure_of
from processes import HeldPort

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
#: What makes each of them refuse, other than by 429 and ``Retry-After``.
BODIES: dict[str, Any] = {
    "botocore": {"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException"},
    "slack_sdk": {"ok": False, "error": "ratelimited"},
    "stripe": {"error": {"type": "rate_limit_error", "message": "slow down"}},
}


def answer(status: int, body: Any = None, **headers: str) -> Callable[[object], Answer]:
    content = json.dumps({"message": "no"} if body is None else body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda seen: Answer(status, {"content-type": "application/json", **names}, content)


def error_of(call: Callable[[str], object], url: str) -> Exception:
    try:
        call(url)
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize("client", CALLS)
def test_a_refusal(client: str, server: Server) -> None:
    server.answer = answer(429, BODIES.get(client), retry_after="7")
    heard = Failure(429, is_throttle=True, is_transient=True, retry_after=7)
    if client in {"google_api_core", "google_genai"}:  # their errors have no headers
        error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [RETRY_INFO]}
        server.answer = answer(429, {"error": error})
    assert failure_of(error_of(CALLS[client], server.url)) == heard


def test_a_refusal_of_amazon_s_comes_with_400(server: Server) -> None:
    server.answer = answer(400, BODIES["botocore"], retry_after="7")
    failure = failure_of(error_of(CALLS["botocore"], server.url))
    assert failure == Failure(400, is_throttle=True, is_transient=True, retry_after=7)


@pytest.mark.parametrize("client", CALLS)
def test_a_service_that_is_down(client: str, server: Server) -> None:
    server.answer = answer(500)
    failure = failure_of(error_of(CALLS[client], server.url))
    assert failure == Failure(500, is_transient=True)


@pytest.mark.parametrize("client", CALLS)
def test_a_mistake_in_the_request(client: str, server: Server) -> None:
    server.answer = answer(403)
    failure = failure_of(error_of(CALLS[client], server.url))
    assert failure == Failure(403, is_permanent=True)


@pytest.mark.parametrize("client", CALLS)
def test_nobody_is_there(client: str, server: Server) -> None:
    with HeldPort() as port:
        error = error_of(CALLS[client], f"http://127.0.0.1:{port.number}")
    assert failure_of(error) == Failure(is_transient=True)
    assert is_unsent(error)


@pytest.mark.parametrize(
    ("call", "status", "body"),
    [
        (by_openai, 429, {"error": {"code": "insufficient_quota", "message": "You exceeded it"}}),
        (by_openai, 429, {"error": {"code": "billing_hard_limit_reached", "message": "no"}}),
        (
            by_anthropic,
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low",
                },
            },
        ),
        (by_anthropic, 402, {"type": "error", "error": {"type": "billing_error"}}),
        (
            by_google_genai,
            429,
            {
                "error": {
                    "code": 429,
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                            "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}],
                        },
                        RETRY_INFO,
                    ],
                }
            },
        ),
    ],
)
def test_what_is_spent_is_tried_once(
    call: Callable[[str], object], status: int, body: Any, server: Server
) -> None:
    server.answer = answer(status, body)
    policy = Policy(retry=RetryPolicy(5))
    error = error_of(lambda url: policy.call(call, url), server.url)
    assert failure_of(error).is_quota_spent
    assert len(server.seen) == 1


def test_the_order_of_the_service(server: Server) -> None:
    server.answer = answer(409, x_should_retry="true")
    assert failure_of(error_of(by_openai, server.url)).is_transient
    server.answer = answer(500, x_should_retry="false")
    assert failure_of(error_of(by_anthropic, server.url)).is_permanent


def test_a_refusal_because_too_many_calls_are_under_way(server: Server) -> None:
    server.answer = answer(429, BODIES["stripe"], stripe_rate_limited_reason="endpoint-concurrency")
    assert failure_of(error_of(by_stripe, server.url)).is_concurrency


def test_the_gate_closes_without_a_call_of_observe(server: Server) -> None:
    server.answer = answer(429, BODIES["stripe"], retry_after="30")
    for call in (by_openai, by_stripe):
        policy = Policy(limits=["100/s"])
        error_of(lambda url, call=call, policy=policy: policy.call(call, url), server.url)  # type: ignore[misc]
        assert policy.limits.statistics().closed_for > 20
