"""What headers say, in every form that services use, and in none."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.headers import LONGEST_WAIT, Dimension, Feedback, parse

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
            [D("burst", 100, 50, 30, 60), D("daily", 1000, 0, 3600, 86400)],
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
    exhausted = [each.reset for each in dimensions if each.remaining == 0]
    assert feedback.wait == max((each for each in exhausted if each is not None), default=0)


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
    ]
)
values = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    st.from_regex(r'[-+]?[0-9:;,.="a-zT ]{0,25}', fullmatch=True),
    st.from_regex(r'"[a-z]*"(;[rtqw]=[0-9.-]{1,6}){0,3}(, "x";r=[0-9]+)?', fullmatch=True),
    st.from_regex(r"([0-9]{1,12}(d|h|m|s|ms|us)){1,4}", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,12}(Z|[+-][0-9:]{4,5})?", fullmatch=True),
    st.integers().map(str),
    st.floats().map(str),
    st.none(),
    st.lists(st.text(max_size=5), max_size=3),
)


@settings(deadline=None)
@given(headers=st.lists(st.tuples(field_names, values), max_size=6), now=st.floats(0, 4e9))
def test_garbage_never_raises_and_never_waits_for_ever(
    headers: list[tuple[str, Any]], now: float
) -> None:
    for form in (headers, dict(headers)):
        feedback = parse(form, now)
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
