"""What a call did start with, and what becomes of it when that was wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.rate.permit import Permit


def begin(limiter: Limiter, item: Any, how: str) -> Permit:
    if how == "a thread":
        return limiter.acquire_blocking(item)
    if how == "a task":
        return asyncio.run(limiter.acquire(item))
    permit = limiter.try_acquire(item)
    assert permit is not None
    return permit


def test_what_is_given_back_can_be_had_by_the_next_of_every_limit() -> None:
    limiter = Limiter([Limit(2, 10, name="calls"), Limit(10, 60, cost=lambda item: item)])
    kept, given_back = limiter.try_acquire(4), limiter.try_acquire(6)
    assert kept is not None
    assert given_back is not None
    assert limiter.try_acquire(1) is None
    given_back.give_back()
    assert limiter.try_acquire(7) is None, "the other one still counts"
    assert limiter.try_acquire(6) is not None
    assert limiter.try_acquire(0) is None, "and there were two calls"


def test_to_give_back_twice_is_to_give_back_once() -> None:
    limiter = Limiter([Limit(2, 10)])
    kept, given_back = limiter.try_acquire(), limiter.try_acquire()
    assert kept is not None
    assert given_back is not None
    given_back.give_back()
    given_back.give_back()
    assert limiter.try_acquire() is not None
    assert limiter.try_acquire() is None


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["a try", "a thread", "a task"])
def test_what_turns_out_to_cost_something_is_charged_to_its_own_key(how: str) -> None:
    limit = Limit(10, 600, cost=lambda item: item[1], key=lambda item: item[0])
    limiter = Limiter([limit])
    assert limiter.try_acquire(("b", 1)) is not None
    permit = begin(limiter, ("a", 0), how)
    permit.settle(limit, 10)
    assert limiter.try_acquire(("a", 1)) is None
    assert limiter.try_acquire(("b", 9)) is not None
    permit.settle(limit, 4)
    assert limiter.try_acquire(("a", 7)) is None
    assert limiter.try_acquire(("a", 6)) is not None


def test_what_was_free_everywhere_is_charged_where_it_was_not_once() -> None:
    limits = [Limit(10, 600, cost=lambda item: item, name=name) for name in "ab"]
    limiter = Limiter(limits)
    permit = limiter.try_acquire(0)
    assert permit is not None
    permit.settle("a", 4)
    assert limiter.try_acquire(6) is not None
    assert limiter.try_acquire(1) is None
    permit.settle("b", 4)
    permit.settle("a", 0)
    assert limiter.try_acquire(1) is None, "the other one is full now"


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["a try", "a thread", "a task"])
def test_one_limit_is_settled_and_the_other_stays_as_it_was(how: str) -> None:
    calls, tokens = Limit(3, 600, name="calls"), Limit(10, 600, cost=lambda item: item, name="t")
    limiter = Limiter([calls, tokens])
    permit = begin(limiter, 10, how)
    permit.settle("t", 1)
    assert limiter.try_acquire(9) is not None
    assert limiter.try_acquire(0) is not None
    assert limiter.try_acquire(0) is None, "three calls"


async def test_what_was_waited_for_can_be_settled_too() -> None:
    limit = Limit(10, 60, cost=lambda item: item)
    limiter = Limiter([limit])
    await limiter.acquire(10)
    permit = await limiter.acquire(10)
    permit.settle(limit, 3)
    assert limiter.try_acquire(8) is None
    assert limiter.try_acquire(7) is not None


def test_whichever_of_two_ends_first_the_other_is_still_current() -> None:
    outer, inner = Limit(10, 600), Limit(10, 600)
    one, other = Limiter([outer]), Limiter([inner])
    first, second = one.permit(), other.permit()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    inner.settle(0)
    with pytest.raises(RuntimeError, match="outside of a call"):
        outer.settle(0)
    second.__exit__(None, None, None)


@pytest.mark.real_time
def test_and_so_can_what_a_thread_waited_for() -> None:
    limit = Limit(10, 600, cost=lambda item: item)
    limiter = Limiter([limit])
    limiter.close_for(0.01)
    permit = limiter.acquire_blocking(10)
    permit.settle(limit, 3)
    limiter.close_for(0)
    assert limiter.wait_time(8) > 500
    assert limiter.wait_time(7) < 1
