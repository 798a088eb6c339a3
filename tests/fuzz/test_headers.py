"""Headers of a hostile server: no wait beyond the cap, and none shorter than a valid one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.values import few
from penstock import Limiter
from penstock.limits.rate.headers import LONGEST_WAIT, parse
from penstock.testing import run

NOW = 1_700_000_000.0

NAMES = [
    *("RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Reset", "X-Rate-Limit-Reset"),
    *("X-RateLimit-Reset", "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset"),
    *("X-RateLimit-Remaining-", "retry-after-", "-ratelimit-", "x-ratelimit-remaining-\u0661"),
    *("x-should-retry", "X-RateLimit-Reset-After", "x-ratelimit-remaining-tokens-month"),
    *("X-Shopify-Shop-Api-Call-Limit", "X-HubSpot-RateLimit-Interval-Milliseconds"),
    *("anthropic-ratelimit-unified-status", "anthropic-ratelimit-unified-5h-reset"),
    *(
        "ratelimit-remaining-9999-months",
        "x-ratelimit" + "-limit" * 300,
        "-".join("rate limit" * 9),
    ),
]
VALUES = [
    *("1e9", "-1", "+1", "NaN", "inf", "0x10", "٣", "²", "1_0", "9" * 18, "9" * 400, "1" * 2_000),
    *("Tue, 14 Nov 2023 22:13:20 GMT", "Fri, 31 Dec 9999 23:59:60 GMT", "Thu, 01 Jan 1970", "Tue"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999-23:59", "2023-11-14T22:13:20+99:99"),
    *('"a";r=0;t=' + "9" * 400, '"' * 900, '"a\\', ";" * 900, "," * 900, "=" * 900, '"a";r=0;t=-1'),
    *('("a" "b");r=0;t=1', '"a";r=((((0))))', '"a";pk=:////:;r=0;t=1e3', "1d" * 200, "1ms1ms"),
    *(":", " ", "", "\0", "\x1b[2J", "a\r\nRetry-After: 5"),
    *("P" * 500, "PT" + "9" * 400 + "S", "99:99:99", "9.99:59:59", "0/0", "9/1", "9" * 90 + "/1"),
    *("rejected", "true", "false", '"a";qu="concurrent-requests";r=0', "1;w=x", "1;" * 300),
]
junk = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(NAMES),
            st.text(max_size=20).filter(lambda name: "after" not in name.lower()),
        ),
        st.one_of(st.sampled_from(VALUES), st.text(max_size=40), st.binary(max_size=40)),
    ),
    max_size=6,
)


@few
@given(before=junk, after=junk, seconds=st.integers(0, int(LONGEST_WAIT)))
def test_a_retry_after_counts_whatever_stands_around_it(
    before: list[Any], after: list[Any], seconds: int
) -> None:
    pairs = [*before, ("Retry-After", str(seconds)), *after]
    assert parse(pairs, NOW).wait == seconds


@few
@given(before=junk, after=junk, seconds=st.integers(0, int(LONGEST_WAIT)))
def test_a_limit_that_is_used_up_counts_whatever_stands_around_it(
    before: list[Any], after: list[Any], seconds: int
) -> None:
    pairs = [*before, ("RateLimit", f'"mine";r=0;t={seconds}'), *after]
    assert LONGEST_WAIT >= parse(pairs, NOW).wait >= seconds


@few
@given(
    name=st.sampled_from(["Retry-After", "retry-after-ms", "RateLimit", *NAMES]),
    value=st.one_of(st.sampled_from(VALUES), st.text(), st.binary()),
)
def test_no_header_closes_the_gate_for_longer_than_a_month(name: str, value: Any) -> None:
    async def observe() -> float:
        limiter = Limiter(())
        limiter.observe([(name, value), ("X-RateLimit-Remaining", "0")])
        return limiter.statistics().closed_for

    assert run(observe()) <= LONGEST_WAIT


def test_the_longest_wait_is_kept_and_one_second_more_is_nonsense() -> None:
    assert parse({"Retry-After": str(int(LONGEST_WAIT))}, NOW).wait == LONGEST_WAIT == 31 * 86_400
    nonsense = parse({"Retry-After": str(int(LONGEST_WAIT) + 1)}, NOW)
    assert (nonsense.wait, nonsense.ignored) == (0, 1)
