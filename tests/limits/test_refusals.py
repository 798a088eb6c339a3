"""What an answer means: by its status, its headers and its body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.limits.failures import Failure, failure_of
from penstock.limits.refusals import failure_of_answer, may_pass

TYPES = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    "status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529, 599]
)
def test_what_may_pass(status: int) -> None:
    failure = failure_of_answer(status)
    assert (failure.is_transient, failure.is_permanent) == (True, False)
    assert failure.is_throttle is (status == 429)
    assert may_pass(status)


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 403, 404, 409, 422, 501, 505])
def test_what_will_not_pass(status: int) -> None:
    assert failure_of_answer(status) == Failure(status, is_permanent=True)
    assert not may_pass(status)


@pytest.mark.parametrize(
    ("status", "order", "is_transient"),
    [
        (409, "true", True),
        (404, "true", True),
        (500, "false", False),
        (503, "false", False),
        (429, "false", False),
    ],
)
def test_the_order_of_the_service_decides_over_the_status(
    status: int, order: str, is_transient: bool
) -> None:
    failure = failure_of_answer(status, {"x-should-retry": order})
    assert (failure.is_transient, failure.is_permanent) == (is_transient, not is_transient)
    assert failure.is_throttle is (status == 429), "whoever calls next is to wait all the same"


@pytest.mark.parametrize(
    ("status", "headers", "is_throttle"),
    [
        (403, {"Retry-After": "30"}, True),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}, True),  # GitHub
        (403, {"X-RateLimit-Remaining": "12", "X-RateLimit-Reset": "30"}, False),
        (503, {"Retry-After": "30"}, True),
        (503, {}, False),
        (400, {"Retry-After": "30"}, False),
    ],
)
def test_a_throttle_under_another_status(
    status: int, headers: dict[str, str], is_throttle: bool
) -> None:
    failure = failure_of_answer(status, headers)
    assert failure.is_throttle is is_throttle
    assert failure.is_transient is (is_throttle or status == 503)
    if is_throttle:
        assert failure.retry_after == 30


def google(*details: dict[str, Any], **error: Any) -> dict[str, Any]:
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details, **error}}


def shopify(requested: float, available: float) -> dict[str, Any]:
    status = {"maximumAvailable": 2000.0, "currentlyAvailable": available, "restoreRate": 100.0}
    cost = {"requestedQueryCost": requested, "actualQueryCost": None, "throttleStatus": status}
    return {
        "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
        "extensions": {"cost": cost},
    }


@pytest.mark.parametrize(
    ("status", "body", "wait"),
    [
        (400, {"__type": "com.amazonaws.dynamodb#ThrottlingException", "message": "slow"}, 0),
        (403, {"error": {"errors": [{"reason": "userRateLimitExceeded"}], "code": 403}}, 0),
        (200, shopify(752, 52), 7),
        (200, shopify(10, 500), 0),
        (429, google({"@type": f"{TYPES}RetryInfo", "retryDelay": "45.8s"}), 45.8),
        (
            429,
            google(
                {
                    "@type": f"{TYPES}QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
                },
                {"@type": f"{TYPES}RetryInfo", "retryDelay": "12s"},
            ),
            12,
        ),
        (
            400,
            {
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Request cannot be satisfied as assigned quota has been exceeded",
                "violated-policies": ["daily", "bandwidth"],
            },
            0,
        ),
        (
            503,
            {"type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"},
            0,
        ),
        (429, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, 0),
        (None, {"errors": [{"extensions": {"code": "THROTTLED"}}]}, 0),
    ],
)
def test_a_throttle_by_the_body(status: int | None, body: Any, wait: float) -> None:
    heard = Failure(status, is_throttle=True, is_transient=True, retry_after=wait)
    for form in (body, json.dumps(body), json.dumps(body).encode()):
        assert failure_of_answer(status, None, form) == heard  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}),
        (429, {"error": {"code": "billing_hard_limit_reached", "type": "insufficient_quota"}}),
        (429, {"error": {"type": "enforced_spend_limit_reached"}}),
        (
            429,
            google(
                {
                    "@type": f"{TYPES}QuotaFailure",
                    "violations": [
                        {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"},
                        {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"},
                    ],
                },
                {"@type": f"{TYPES}RetryInfo", "retryDelay": "45s"},
            ),
        ),
        (403, {"error": {"errors": [{"reason": "dailyLimitExceeded"}]}}),
        (402, None),
        (402, "Payment Required"),
        (
            400,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "Your credit balance is too low to access the API.",
                },
            },
        ),
    ],
)
@pytest.mark.parametrize("order", [None, "true"])
def test_what_is_permanent_whatever_the_status_says(
    status: int, body: Any, order: str | None
) -> None:
    failure = failure_of_answer(status, {"x-should-retry": order} if order else None, body)
    assert failure.is_permanent
    assert failure.is_quota_spent
    assert not failure.is_throttle
    assert not failure.is_transient


def test_the_reason_is_in_the_words_of_the_service() -> None:
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    assert failure_of_answer(429, None, body).reason == "You exceeded your current quota"
    assert failure_of_answer(429, None, {"error": "slow_down"}).reason == "slow_down"
    assert failure_of_answer(429, {"RateLimit-Reason": "jira-burst-based"}).reason == (
        "jira-burst-based"
    )
    assert len(failure_of_answer(429, None, {"message": "no " * 10_000}).reason) <= 300


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Stripe-Rate-Limited-Reason": "global-concurrency"}, None),
        ({}, {"error": {"code": "too_many_concurrent_requests"}}),
        (
            {
                "RateLimit-Policy": '"slots";q=5;qu="concurrent-requests", "calls";q=100;w=60',
                "RateLimit": '"slots";r=0, "calls";r=0;t=9',
            },
            {"violated-policies": ["slots"]},
        ),
    ],
)
def test_a_refusal_because_too_many_calls_are_under_way(headers: dict[str, str], body: Any) -> None:
    failure = failure_of_answer(429, headers, body)
    assert failure.is_throttle
    assert failure.is_concurrency
    assert not failure_of_answer(429, {"Stripe-Rate-Limited-Reason": "global-rate"}).is_concurrency


def test_a_query_of_graphql_that_was_throttled() -> None:
    class TransportQueryError(Exception):
        errors = shopify(752, 52)["errors"]
        extensions = shopify(752, 52)["extensions"]

    assert failure_of(TransportQueryError()) == Failure(
        is_throttle=True, is_transient=True, retry_after=7
    )


@pytest.mark.parametrize(
    "body",
    [
        "insufficient_quota",
        b"\xff\xfe{}",
        "[" * 100_000,
        '{"error": ' * 5_000,
        "[1, 2" + " " * 70_000 + "]",
        {"error": {"code": 5, "type": ["insufficient_quota"]}},
        {"data": {"note": {"code": "insufficient_quota"}}},
        {"extensions": {"cost": {"throttleStatus": {"restoreRate": 0, "currentlyAvailable": 1}}}},
        {"extensions": {"cost": {"throttleStatus": {"restoreRate": float("nan")}}}},
        {"error": {"details": [{"@type": f"{TYPES}RetryInfo", "retryDelay": "-5s"}]}},
        {"error": {"details": [{"@type": f"{TYPES}RetryInfo", "retryDelay": "99999999s"}]}},
        {"error": {"details": [{"@type": f"{TYPES}QuotaFailure", "violations": {"a": 1}}]}},
    ],
)
def test_a_body_that_says_nothing(body: Any) -> None:
    assert failure_of_answer(500, None, body) == Failure(500, is_transient=True)


def test_a_body_that_contains_itself_ends() -> None:
    body: dict[str, Any] = {"message": "no"}
    body["error"] = body["details"] = [body, body]
    assert failure_of_answer(500, None, body).is_transient


def test_a_body_that_is_too_long_for_a_failure_is_not_read() -> None:
    spent = {"error": {"code": "insufficient_quota"}, "log": "x" * 70_000}
    assert not failure_of_answer(429, None, json.dumps(spent)).is_quota_spent


bodies = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["error", "errors", "details", "code", "@type", "cost", "message", "extensions"]
            ),
            inner,
            max_size=4,
        ),
    ),
)


@given(status=st.integers(100, 599), body=st.one_of(bodies, st.binary(), bodies.map(json.dumps)))
def test_no_body_raises(status: int, body: Any) -> None:
    failure = failure_of_answer(status, None, body)
    assert 0 <= failure.retry_after < float("inf")
