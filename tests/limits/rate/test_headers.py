"""What headers say, in every form that services use, and in none."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.rate.headers import LONGEST_WAIT, Dimension, Feedback, parse

NOW = 1_700_000_000.0
NOW_DATE = datetime.fromtimestamp(NOW, timezone.utc)


def http_date(seconds: float) -> str:
    return format_datetime(NOW_DATE + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("Retry-After", "120", 120),
        ("retry-after", " 0 ", 0),
        ("RETRY-AFTER", "1.5", 1.5),
        ("Retry-After", http_date(90), 90),
        ("Retry-After", http_date(-5), 0),
        ("Retry-After", "Tue, 14-Nov-23 22:14:20 GMT", 60),
        ("Retry-After", "2023-11-14T22:14:20Z", 60),
        ("Retry-After", "2023-11-14t22:14:20z", 60),
        ("retry-after-ms", "250", 0.25),
        ("retry-after-ms", "1500.5", 1.5005),
    ],
)
def test_retry_after(name: str, value: str, seconds: float) -> None:
    feedback = parse({name: value}, NOW)
    assert feedback == Feedback(retry_after=pytest.approx(seconds))
    assert feedback.wait == pytest.approx(seconds)


@pytest.mark.parametrize("order", [1, -1])
def test_of_what_is_said_twice_that_counts_which_leaves_less(order: int) -> None:
    pairs = [("x-ratelimit-remaining", "5"), ("x-ratelimit-remaining", "0")][::order]
    pairs += [("x-ratelimit-reset", "7"), ("x-ratelimit-reset", "30")][::order]
    feedback = parse(pairs, NOW)
    assert feedback.dimensions == (Dimension("", None, 0, 30),)
    assert feedback.wait == 30


def test_the_headers_of_httpx_tell_what_was_said_twice() -> None:
    headers = httpx.Headers(
        [("x-ratelimit-remaining", "5"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "7")]
    )
    assert parse(headers, NOW) == Feedback(dimensions=(Dimension("", None, 0, 7),))


D = Dimension


@pytest.mark.parametrize(
    ("headers", "dimensions"),
    [
        # draft-ietf-httpapi-ratelimit-headers, versions 08 and later
        ({"RateLimit": '"default";r=0;t=5'}, [D("default", None, 0, 5)]),
        (
            {
                "RateLimit-Policy": '"burst";q=100;w=60,"daily";q=1000;w=86400;qu="requests"',
                "RateLimit": '"burst";r=50;t=30, "daily";r=0;t=3600;pk=:dHJpYWw=:',
            },
            [
                D("burst", 100, 50, 30, 60),
                D("daily", 1000, 0, 3600, 86400, "dHJpYWw=", "requests"),
            ],
        ),
        ({"RateLimit": '"a, b; c";r=1'}, [D("a, b; c", None, 1)]),
        # version 07
        ({"RateLimit": "limit=10, remaining=0, reset=5"}, [D("", 10, 0, 5)]),
        (
            {"RateLimit": "limit=10,remaining=1,reset=5", "RateLimit-Policy": "10;w=60"},
            [D("", 10, 1, 5, 60)],
        ),
        # up to version 06
        (
            {
                "RateLimit-Limit": "10, 10;w=1, 1000;w=3600",
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": "7",
            },
            [D("", 10, 0, 7)],
        ),
        # X-RateLimit: seconds, seconds since 1970, milliseconds since 1970, dates
        (
            {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"},
            [D("", 60, 0, 30)],
        ),
        ({"X-RateLimit-Reset": str(int(NOW + 45))}, [D("", None, None, 45)]),
        ({"X-RateLimit-Reset": str(int(NOW * 1000 + 45_500))}, [D("", None, None, 45.5)]),
        ({"X-RateLimit-Reset": str(int(NOW - 2))}, [D("", None, None, 0)]),
        ({"X-Rate-Limit-Reset": http_date(10)}, [D("", None, None, 10)]),
        # OpenAI
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            [D("requests", 60, 59, 1), D("tokens", 150_000, 0, 360)],
        ),
        ({"x-ratelimit-reset-tokens": "20ms"}, [D("tokens", None, None, 0.02)]),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, [D("tokens", None, None, 3723.5)]),
        ({"x-ratelimit-reset-tokens": "2m"}, [D("tokens", None, None, 120)]),
        ({"x-ratelimit-reset-tokens": "1s500ms"}, [D("tokens", None, None, 1.5)]),
        ({"x-ratelimit-reset-tokens": "1d1h"}, [D("tokens", None, None, 90_000)]),
        # Anthropic
        (
            {
                "anthropic-ratelimit-requests-limit": "1000",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:50Z",
                "anthropic-ratelimit-input-tokens-remaining": "39000",
                "anthropic-ratelimit-input-tokens-reset": "2023-11-14T23:13:20.5+01:00",
            },
            [D("requests", 1000, 0, 30), D("input-tokens", None, 39_000, 0.5)],
        ),
        ({"Content-Type": "text/html", "X-Request-Id": "1", "Age": "-5"}, []),
    ],
)
def test_dimensions(headers: dict[str, str], dimensions: list[Dimension]) -> None:
    feedback = parse(headers, NOW)
    assert feedback.ignored == 0
    assert feedback.dimensions == tuple(dimensions)
    exhausted = [
        each.reset for each in dimensions if each.remaining == 0 and each.partition is None
    ]
    assert feedback.wait == max((each for each in exhausted if each is not None), default=0)


@pytest.mark.parametrize(
    ("headers", "dimensions"),
    [
        # the dimension before the figure: Linear (milliseconds since 1970), RapidAPI (seconds)
        (
            {
                "X-RateLimit-Requests-Limit": "1500",
                "X-RateLimit-Requests-Remaining": "0",
                "X-RateLimit-Requests-Reset": str(int(NOW * 1000 + 12_000)),
            },
            [D("requests", 1500, 0, 12)],
        ),
        (
            {
                "X-RateLimit-rapid-free-plans-hard-limit-Remaining": "0",
                "X-RateLimit-rapid-free-plans-hard-limit-Reset": "900",
            },
            [D("rapid-free-plans-hard-limit", None, 0, 900)],
        ),
        # HubSpot: an interval, and a day without any other word
        (
            {
                "X-HubSpot-RateLimit-Max": "100",
                "X-HubSpot-RateLimit-Remaining": "0",
                "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            },
            [D("", 100, 0, None, 10)],
        ),
        (
            {"X-HubSpot-RateLimit-Daily": "250000", "X-HubSpot-RateLimit-Daily-Remaining": "0"},
            [D("daily", 250_000, 0, None, 86_400)],
        ),
        # Azure's resource manager, Groq, Cerebras
        (
            {"x-ms-ratelimit-remaining-subscription-reads": "0"},
            [D("subscription-reads", None, 0)],
        ),
        (
            {
                "x-ratelimit-limit-project-tokens": "0",
                "x-ratelimit-reset-project-tokens": "2m59.56s",
            },
            [D("project-tokens", 0, None, 179.56)],
        ),
        (
            {
                "x-ratelimit-remaining-requests-day": "0",
                "x-ratelimit-reset-requests-day": "33011.38",
            },
            [D("requests-day", None, 0, 33_011.38, 86_400)],
        ),
        # Mistral and Kong: the window is in the name, and there may be no reset
        ({"x-ratelimit-remaining-req-minute": "0"}, [D("req-minute", None, 0, None, 60)]),
        (
            {"x-ratelimit-remaining-tokens-month": "0"},
            [D("tokens-month", None, 0, None, 31 * 86_400)],
        ),
        ({"X-RateLimit-Remaining-Second": "0"}, [D("second", None, 0, None, 1)]),
        ({"x-ratelimit-remaining-10-seconds": "0"}, [D("10-seconds", None, 0, None, 10)]),
        (
            {"ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "34"},
            [D("bysize", None, 0, 34)],
        ),
        # Docker's registry: the window is a parameter
        (
            {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"},
            [D("", 100, 0, None, 21_600)],
        ),
        (
            {
                "RateLimit-Policy": '"hour";q=65000;w=3600;pk=:a2V5:, "burst";q=10;w=1',
                "RateLimit": '"hour";r=0',
            },
            [D("hour", 65_000, 0, None, 3600), D("burst", 10, None, None, 1)],
        ),
        (
            {"RateLimit-Limit": "10", "RateLimit-Policy": "100;w=60, 10;w=1"},
            [D("", 10, None, None, 1)],
        ),
        # Discord, GitLab, Atlassian, and durations
        (
            {
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(NOW + 1.25),
                "X-RateLimit-Reset-After": "1.25",
            },
            [D("", None, 0, pytest.approx(1.25))],
        ),
        (
            {"RateLimit-Remaining": "0", "RateLimit-Reset": str(int(NOW + 60))},
            [D("", None, 0, 60)],
        ),
        (
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2023-11-14T22:14Z"},
            [D("", None, 0, 40)],
        ),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "PT1M30S"}, [D("", None, 0, 90)]),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "00:00:05"}, [D("", None, 0, 5)]),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-Ms": "1500"}, [D("", None, 0, 1.5)]),
        (
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-Ms": "1200000000"},
            [D("", None, 0, 1_200_000)],
        ),
        # words for figures that are part of a name
        ({"x-ratelimit-remaining-upload-limit": "3"}, [D("upload-limit", None, 3)]),
        (
            {"X-RateLimit-Hard-Limit-Remaining": "0", "X-RateLimit-Hard-Limit-Reset-After": "5"},
            [D("hard-limit", None, 0, 5)],
        ),
        # a vendor whom nobody knows
        (
            {
                "Acme-RateLimit-Widgets-Remaining": "0",
                "Acme-RateLimit-Widgets-Reset": "7",
                "X-Acme-Rate-Limit-Remaining-Gadgets": "3",
            },
            [D("widgets", None, 0, 7), D("gadgets", None, 3)],
        ),
    ],
)
def test_each_order_of_words_and_each_prefix(
    headers: dict[str, str], dimensions: list[Dimension]
) -> None:
    feedback = parse(headers, NOW)
    assert (feedback.dimensions, feedback.ignored) == (tuple(dimensions), 0)
    waits = [
        (each.window or 0) if each.reset is None else each.reset
        for each in dimensions
        if each.remaining == 0
    ]
    assert feedback.wait == max(waits, default=0)


@pytest.mark.parametrize(
    ("pairs", "wait"),
    [
        ([("Retry-After", "2.0"), ("retry-after-ms", "1500")], 1.5),
        ([("retry-after-ms", "soon"), ("Retry-After", "2")], 2),
        ([("x-ms-retry-after-ms", "33")], 0.033),
        ([("x-amz-retry-after", "1500")], 1.5),
        ([("X-Acme-Retry-After-Ms", "250")], 0.25),
        ([("X-Acme-Retry-After", "3")], 3),
        ([("grpc-retry-pushback-ms", "700")], 0.7),
    ],
)
def test_a_wait_in_milliseconds_counts_before_one_in_seconds(
    pairs: list[tuple[str, str]], wait: float
) -> None:
    assert parse(pairs, NOW, 429).wait == pytest.approx(wait)


@pytest.mark.parametrize("status", [200, 202, 204, 301, 304])
def test_without_a_failure_a_wait_is_about_something_else(status: int) -> None:
    headers = {"Retry-After": "30", "retry-after-ms": "30000"}
    assert parse(headers, NOW, status) == Feedback()


@pytest.mark.parametrize("status", [None, 403, 404, 429, 500, 503])
def test_with_a_failure_a_wait_counts(status: int | None) -> None:
    assert parse({"Retry-After": "30"}, NOW, status).wait == 30


@pytest.mark.parametrize("status", [None, 200, 429])
def test_nothing_remaining_counts_with_any_answer(status: int | None) -> None:
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}
    assert parse(headers, NOW, status).wait == 30


def test_a_reset_alone_is_a_wait_after_a_refusal() -> None:
    assert parse({"X-RateLimit-Reset": "30"}, NOW, 429).wait == 30
    assert parse({"X-RateLimit-Reset-After": "1.25"}, NOW).wait == 1.25
    assert parse({"X-RateLimit-Reset-After": "1.25"}, NOW, 200).wait == 0
    plenty = {"X-RateLimit-Reset-After": "1.25", "X-RateLimit-Remaining": "4"}
    assert parse(plenty, NOW).wait == parse(plenty, NOW, 429).wait == 0
    assert parse({"X-RateLimit-Reset": "30"}, NOW, 500).wait == 0


@pytest.mark.parametrize(
    ("name", "value", "order", "ignored"),
    [
        ("x-should-retry", "true", True, 0),
        ("X-Should-Retry", "FALSE", False, 0),
        ("Stripe-Should-Retry", "false", False, 0),
        ("x-should-retry", "perhaps", None, 1),
        ("grpc-retry-pushback-ms", "-1", False, 0),
        ("grpc-retry-pushback-ms", "never", False, 1),
        ("grpc-retry-pushback-ms", "5", None, 0),
    ],
)
def test_an_order_to_try_again_or_not(
    name: str, value: str, order: bool | None, ignored: int
) -> None:
    feedback = parse({name: value}, NOW, 503)
    assert (feedback.should_retry, feedback.ignored) == (order, ignored)


@pytest.mark.parametrize(
    ("value", "wait"), [("39/40", 0), ("40/40", 0.5), ("41/40", 1), ("400/400", 0.05)]
)
def test_a_full_bucket_waits_until_there_is_room_for_one_call(value: str, wait: float) -> None:
    feedback = parse({"X-Shopify-Shop-Api-Call-Limit": value}, NOW)
    assert feedback.wait == pytest.approx(wait)
    assert [each.name for each in feedback.dimensions] == ["shopify-shop-api-call"]
    assert parse({"X-Shopify-Shop-Api-Call-Limit": value, "Retry-After": "2.0"}, NOW, 429).wait == 2
    assert parse({"X-Rate-Limit": value}, NOW).wait == feedback.wait
    assert parse({"X-Acme-Limit": "0/0", "X-Upload-Limit": "5 MB"}, NOW) == Feedback(ignored=1)


def test_the_quota_of_one_caller_is_not_that_of_all() -> None:
    headers = {
        "RateLimit": '"mine";r=0;t=30;pk=:cHdsRa894==:, "mine";r=7;t=40;pk=:b3RoZXI=:',
        "RateLimit-Policy": '"mine";q=10;w=60',
    }
    feedback = parse(headers, NOW, 429)
    assert feedback.wait == 0
    assert feedback.partitions == {"cHdsRa894==": 30, "b3RoZXI=": 0}
    assert feedback.dimensions == (
        D("mine", 10, 0, 30, 60, "cHdsRa894=="),
        D("mine", 10, 7, 40, 60, "b3RoZXI="),
    )


@pytest.mark.parametrize(
    "headers",
    [
        {
            "RateLimit-Policy": '"slots";q=5;w=60;qu="concurrent-requests"',
            "RateLimit": '"slots";r=0;t=30',
        },
        {"X-RateLimit-Concurrent-Remaining": "0", "X-RateLimit-Concurrent-Reset": "30"},
    ],
)
def test_a_quota_of_calls_under_way_holds_up_nobody(headers: dict[str, str]) -> None:
    feedback = parse(headers, NOW)
    assert feedback.wait == 0
    assert feedback.is_exhausted
    assert feedback.dimensions[0].is_concurrency
    refused = parse(headers | {"Retry-After": "9"}, NOW, 429)
    assert refused.is_concurrency
    assert (refused.wait, refused.retry_after) == (0, 9)
    other = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5"}
    assert parse(headers | other, NOW, 429).wait == 5


@pytest.mark.parametrize(
    ("name", "value", "is_concurrency"),
    [
        ("Stripe-Rate-Limited-Reason", "global-rate", False),
        ("Stripe-Rate-Limited-Reason", "endpoint-concurrency", True),
        ("RateLimit-Reason", "jira-burst-based", False),
    ],
)
def test_why_a_call_was_refused(name: str, value: str, is_concurrency: bool) -> None:
    feedback = parse({name: value, "Retry-After": "2"}, NOW, 429)
    assert (feedback.reason, feedback.is_concurrency) == (value, is_concurrency)
    assert feedback.wait == (0 if is_concurrency else 2)
    assert feedback.retry_after == 2


def unified(**said: str) -> dict[str, str]:
    return {
        f"anthropic-ratelimit-unified-{name.strip('_').replace('_', '-')}": value
        for name, value in said.items()
    }


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (unified(_5h_status="rejected", _5h_reset=str(int(NOW + 90)), _7d_status="allowed"), 90),
        (unified(_5h_status="rejected"), 5 * 3600),
        (unified(_5h_status="allowed_warning", _5h_reset=str(int(NOW + 90))), 0),
        (unified(status="rejected", reset=str(int(NOW + 60))), 60),
        # credit beyond the plan is not there, and not used
        (
            unified(
                status="allowed",
                overage_status="rejected",
                overage_reset=str(int(NOW + 86_400)),
                overage_disabled_reason="out_of_credits",
            ),
            0,
        ),
        (
            unified(
                status="rejected",
                reset=str(int(NOW + 60)),
                overage_status="rejected",
                overage_reset=str(int(NOW + 86_400)),
            ),
            60,
        ),
        (unified(status="rejected", _5h_status="rejected", _5h_reset=str(int(NOW + 70))), 70),
    ],
)
def test_a_plan_that_is_used_up(headers: dict[str, str], wait: float) -> None:
    headers |= unified(_5h_utilization="1.02", representative_claim="five_hour")
    for status in (None, 200, 429):
        feedback = parse(headers, NOW, status)
        assert (feedback.wait, feedback.reason, feedback.ignored) == (wait, "", 0)


def test_retry_after_takes_precedence() -> None:
    headers = {"Retry-After": "3", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}
    assert parse(headers, NOW).wait == 3


def test_of_two_that_say_the_same_thing_the_longer_wait_counts() -> None:
    pairs = [("Retry-After", "3"), ("retry-after-ms", "4000"), ("Retry-After", "2")]
    assert parse(pairs, NOW).wait == 4
    pairs = [
        ("X-RateLimit-Remaining", "5"),
        ("X-RateLimit-Remaining", "0"),
        ("X-RateLimit-Reset", "9"),
    ]
    assert parse(pairs, NOW).wait == 9


def message_with(name: str, value: str) -> Message:
    """Headers as urllib has them: no mapping."""
    message = Message()
    message[name] = value
    return message


@pytest.mark.parametrize(
    "headers",
    [
        {b"Retry-After": b"5"},
        {"retry-after": ["5"]},
        [("Retry-After", "5")],
        [(b"retry-after", b"5")],
        (("Retry-After", 5),),
        httpx.Headers({"Retry-After": "5"}),
        httpx.Headers([("retry-after", "5"), ("set-cookie", "a"), ("set-cookie", "b")]),
        iter([("Retry-After", "5")]),
        message_with("Retry-After", "5"),
    ],
)
def test_headers_of_every_kind(headers: Any) -> None:
    assert parse(headers, NOW).wait == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("Retry-After", value)
            for value in (
                *("", "soon", "-1", "nan", "inf", "1e3", "0x10", "99999999", "٣", "1_000", "+5"),
                *("Wed, 99 Foo 2023", "Tue, 14 Nov 2034 22:14:20 GMT", "2023-13-45T00:00:00Z"),
                *("Tue, 14 Nov 1994 22:14:20 GMT", "9" * 400, "1" * 5000, "1700000060"),
            )
        ),
        ("retry-after-ms", "-1"),
        ("X-RateLimit-Remaining", "-1"),
        ("X-RateLimit-Remaining", "many"),
        ("X-RateLimit-Limit", "burst:100;rate:10"),
        ("X-RateLimit-Reset", str(int(NOW + 10 * LONGEST_WAIT))),
        ("x-ratelimit-reset-tokens", "1x"),
        ("x-ratelimit-reset-tokens", "s"),
        ("x-ratelimit-reset-tokens", "5s3m"),
        ("x-ratelimit-reset-tokens", "9999h"),
        ("RateLimit", '"default";r=-1'),
        ("RateLimit", '"default"'),
        ("RateLimit", '"default";r'),
        ("RateLimit", '"default";t=many'),
        ("RateLimit", "remaining=all"),
        ("RateLimit-Reset", "2023-11-14"),
        ("anthropic-ratelimit-requests-reset", "tomorrow"),
        ("x-ratelimit-limit-tokens", "-1"),
        ("x-ratelimit-remaining-tokens", "NaN"),
        ("x-ms-ratelimit-remaining-resource", "Microsoft.Compute/HighCostGet3Min;107"),
        ("X-RateLimit-Reset", "P"),
        ("X-RateLimit-Reset", "PT"),
        ("X-RateLimit-Reset", "00:61:00"),
        ("X-RateLimit-Reset", "P40D"),
    ],
)
def test_what_makes_no_sense_is_ignored_and_counted(name: str, value: str) -> None:
    feedback = parse({name: value, "X-Other": value}, NOW)
    assert feedback.ignored == 1
    assert feedback.wait == 0


@pytest.mark.parametrize("headers", [None, {}, [], ()])
def test_no_headers_say_nothing(headers: Any) -> None:
    assert parse(headers, NOW) == Feedback()


@pytest.mark.parametrize("headers", [5, object(), "Retry-After: 5", [1], [("a", "b", "c")]])
def test_what_is_no_headers_is_counted(headers: Any) -> None:
    assert parse(headers, NOW) == Feedback(ignored=1)


field_names = st.sampled_from(
    [
        *("Retry-After", "retry-after-ms", "RateLimit", "RateLimit-Policy", "RateLimit-Limit"),
        *("RateLimit-Reset", "X-RateLimit-Reset", "X-RateLimit-Remaining", "X-RateLimit-Limit"),
        *("x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests"),
        *("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-requests-remaining"),
        *("x-should-retry", "x-ms-retry-after-ms", "grpc-retry-pushback-ms", "RateLimit-Reason"),
        *("X-HubSpot-RateLimit-Interval-Milliseconds", "X-RateLimit-Reset-After"),
        *("x-ratelimit-remaining-tokens-month", "X-Shopify-Shop-Api-Call-Limit"),
        *("anthropic-ratelimit-unified-5h-status", "anthropic-ratelimit-unified-status"),
    ]
)
values = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    st.from_regex(r'[-+]?[0-9:;,.="a-zT ]{0,25}', fullmatch=True),
    st.from_regex(r'"[a-z]*"(;[rtqw]=[0-9.-]{1,6}){0,3}(, "x";r=[0-9]+)?', fullmatch=True),
    st.from_regex(r"([0-9]{1,12}(d|h|m|s|ms|us)){1,4}", fullmatch=True),
    st.from_regex(r"P([0-9]{1,4}D)?(T([0-9]{1,4}[HMS]){0,3})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,4}[:/][0-9]{1,3}(:[0-9]{2})?", fullmatch=True),
    st.sampled_from(["rejected", "allowed", "true", "false", "0", "0/0", "1/1"]),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,12}(Z|[+-][0-9:]{4,5})?", fullmatch=True),
    st.integers().map(str),
    st.floats().map(str),
    st.none(),
    st.lists(st.text(max_size=5), max_size=3),
)


@settings(deadline=None)
@given(
    headers=st.lists(st.tuples(field_names, values), max_size=6),
    now=st.floats(0, 4e9),
    status=st.one_of(st.none(), st.integers(), st.sampled_from([200, 403, 429, 503])),
)
def test_garbage_never_raises_and_never_waits_for_ever(
    headers: list[tuple[str, Any]], now: float, status: int | None
) -> None:
    for form in (headers, dict(headers)):
        feedback = parse(form, now, status)
        assert all(0 <= wait <= LONGEST_WAIT for wait in feedback.partitions.values())
        assert 0 <= feedback.wait <= LONGEST_WAIT
        for dimension in feedback.dimensions:
            for figure in (dimension.limit, dimension.remaining, dimension.reset, dimension.window):
                assert figure is None or 0 <= figure < math.inf


@settings(deadline=None)
@given(
    headers=st.one_of(
        st.binary(), st.text(), st.integers(), st.lists(st.tuples(st.text(), st.text()))
    )
)
def test_what_is_no_headers_never_raises(headers: Any) -> None:
    parse(headers, NOW)
