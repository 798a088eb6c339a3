"""What a limit takes, what it refuses, and what it remembers."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from helpers.tasks import now
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter


@pytest.mark.parametrize("max_", [1, 0.5, 500, Fraction(1, 3), 1e9])
@pytest.mark.parametrize("per", [0.001, 1, 60, Fraction(1, 3)])
def test_numbers_above_zero_are_limits(max_: Any, per: Any) -> None:
    limit = Limit(max_, per)
    assert limit.max == max_
    assert limit.per == pytest.approx(float(per))


@pytest.mark.parametrize("wrong", [0, -1, -0.1, math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("which", ["max", "per"])
def test_what_is_no_limit_is_refused(which: str, wrong: float) -> None:
    arguments = {"max": 1, "per": 1, which: wrong}
    text = f"^{which} must be more than zero and finite, got {wrong!r}$"
    with pytest.raises(ValueError, match=text):
        Limit(**arguments)  # type: ignore[arg-type]
    limit = Limit(3, 4)
    with pytest.raises(ValueError, match=text):
        limit.change(**{"max": 7, which: wrong})
    assert (limit.max, limit.per) == (3, 4)


@pytest.mark.parametrize("wrong", ["1", None, True, [], Decimal(1), 1j])
def test_what_is_no_number_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="max must be a number, got"):
        Limit(wrong, 1)
    with pytest.raises(TypeError, match="per must be a number, got"):
        Limit(1, wrong)


@pytest.mark.parametrize("wrong", [5, "text", lambda: 1, lambda a, b: 1])
@pytest.mark.parametrize("which", ["cost", "key"])
def test_what_is_no_function_of_an_item_is_refused(which: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^{which} must "):
        Limit(1, 1, **{which: wrong})


def test_a_limit_as_people_write_it() -> None:
    limit = Limit.parse("500/min")
    assert (limit.max, limit.per, limit.name) == (500, 60, "500 per 60 s")
    assert Limit.parse("90_000 per minute", cost=len, name="tokens").name == "tokens"
    with pytest.raises(ValueError, match=r"a rate must look like 500/min, .*, got '500'"):
        Limit.parse("500")
    with pytest.raises(TypeError, match=r"^cost must "):
        Limit.parse("500/min", cost=5)  # type: ignore[arg-type]


def test_a_name_is_text() -> None:
    assert Limit(500, 60).name == "500 per 60 s"
    assert Limit(500, 60, name="requests").name == "requests"
    with pytest.raises(ValueError, match="name must not be empty"):
        Limit(1, 1, name="")
    with pytest.raises(TypeError, match="name must be a str"):
        Limit(1, 1, name=5)  # type: ignore[arg-type]
    assert repr(Limit(500, 60, name="requests")) == "<Limit 'requests': 500 per 60 s>"
    assert repr(Limit(500, 60)) == "<Limit '500 per 60 s'>"


COSTS = [
    (lambda _: -1, ValueError, "must be finite and zero or more, got -1"),
    (lambda _: math.nan, ValueError, "must be finite and zero or more, got nan"),
    (lambda _: math.inf, ValueError, "must be finite and zero or more, got inf"),
    (lambda _: 10**400, ValueError, "must be finite and zero or more, got 1000"),
    (lambda _: "3", TypeError, "must be a number, got '3'"),
    (lambda _: None, TypeError, "must be a number, got None"),
    (lambda _: True, TypeError, "must be a number, got True"),
    (lambda _: 11, ValueError, "a cost of 11 can never pass the limit 'tokens', whose max is 10"),
    (lambda _: 10.5, ValueError, "a cost of 10.5 can never pass the limit 'tokens'"),
    (lambda item: item.tokens, ValueError, "cost function of the limit 'tokens' raised for a str"),
]


@pytest.mark.parametrize(("cost", "error", "text"), COSTS)
async def test_a_cost_that_is_none_is_told_at_once_and_takes_nothing(
    cost: Any, error: type[Exception], text: str
) -> None:
    costs: list[Any] = [cost]

    def cost_of(item: Any) -> Any:
        return costs[0](item)

    requests = Limit(1, 10, name="requests")
    limiter = Limiter([requests, Limit(10, 10, cost=cost_of, name="tokens")])
    for attempt in (limiter.acquire, limiter.try_acquire, limiter.wait_time):
        with pytest.raises(error, match=text) as caught:
            await attempt("item")  # type: ignore[misc]
        assert (caught.value.__cause__ is not None) == ("raised" in text)
    costs[0] = lambda _: 10
    assert limiter.try_acquire("item") is not None


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (lambda item: item.account, ValueError, "key function of the limit 'k' raised for a str"),
        (lambda item: [item], TypeError, r"the key of a str .* must be hashable, got a list"),
    ],
)
async def test_a_key_that_is_none_is_told_at_once_and_takes_nothing(
    key: Any, error: type[Exception], text: str
) -> None:
    limiter = Limiter([Limit(1, 10, name="requests"), Limit(10, 10, key=key, name="k")])
    with pytest.raises(error, match=text) as caught:
        await limiter.acquire("item")
    assert caught.value.__cause__ is not None
    assert limiter.wait_time is not None
    assert limiter.statistics().grants == 0


async def test_a_max_below_one_lets_no_whole_item_through() -> None:
    limit = Limit(0.5, 1, name="half")
    limiter = Limiter([limit])
    with pytest.raises(ValueError, match="a cost of 1 can never pass the limit 'half'"):
        await limiter.acquire()
    limit.change(max=1)
    await limiter.acquire()
    limit.change(max=0.5)
    with pytest.raises(ValueError, match="never pass"):
        await limiter.acquire()


async def test_what_costs_nothing_passes_freely_and_nobody_waits_for_it() -> None:
    limiter = Limiter([Limit(5, 10, cost=lambda item: item)])
    await limiter.acquire(5)
    waiting = asyncio.ensure_future(limiter.acquire(1))
    await asyncio.sleep(1)
    for _ in range(100):
        await limiter.acquire(0)
    assert now() == 1
    await waiting


async def test_costs_of_every_kind_of_number() -> None:
    limiter = Limiter([Limit(1, 10, cost=lambda item: item)])
    for cost in (0.25, Fraction(1, 4), 0.5):
        assert limiter.try_acquire(cost) is not None
    assert limiter.try_acquire(1e-300) is None
    assert limiter.wait_time(1e-300) == 10
