"""A budget: what starts, what waits, and what fails, alone and among limits."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import pickle
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tasks import now
from penstock import Budget, BudgetExceededError, Limit, Limiter, WorkQueue
from penstock.testing import run


def cost(item: Any) -> Any:
    return item


def spent(limiter: Limiter) -> float:
    budget = limiter.limits[0]
    assert isinstance(budget, Budget)
    return budget.used


def elsewhere(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin a call that is not part of the one under way here."""
    return Context().run(asyncio.ensure_future, call)


async def a_moment() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_when_it_is_spent_calls_fail_for_good() -> None:
    limiter = Limiter([Budget(3, name="calls")])
    for _ in range(3):
        await limiter.acquire()
    await asyncio.sleep(1e6)
    with pytest.raises(BudgetExceededError, match="'calls' is spent: 3 of 3 are used") as it:
        await limiter.acquire()
    with pytest.raises(BudgetExceededError):
        limiter.try_acquire()
    with pytest.raises(BudgetExceededError):
        limiter.wait_time()
    assert (it.value.budget, it.value.max, it.value.used, it.value.cost) == ("calls", 3, 3, 1)
    again = pickle.loads(pickle.dumps(it.value))
    assert vars(again) == vars(it.value)
    assert limiter.statistics().waiting == 0


def test_so_do_those_of_threads() -> None:
    limiter = Limiter([Budget(1)])
    limiter.acquire_blocking()
    with pytest.raises(BudgetExceededError, match="'budget of 1' is spent"):
        limiter.acquire_blocking()


async def test_what_costs_less_than_is_left_starts() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    await limiter.acquire(7)
    with pytest.raises(BudgetExceededError):
        await limiter.acquire(4)
    await limiter.acquire(3)
    await limiter.acquire(0)
    assert budget.used == 10
    assert repr(budget) == "<Budget 'budget of 10': 10 of 10 used>"


async def test_what_costs_more_than_all_of_it_fails_when_it_is_to_start() -> None:
    limiter = Limiter([Budget(10, cost=cost)])
    limiter.check(11)
    for call in (limiter.try_acquire, limiter.wait_time):
        with pytest.raises(BudgetExceededError, match="this costs 11"):
            call(11)
    with pytest.raises(BudgetExceededError):
        await limiter.acquire(11)
    assert spent(limiter) == 0


async def test_what_would_fit_if_a_call_under_way_were_cheaper_waits() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    async with limiter.permit(8):
        waiting = elsewhere(limiter.acquire(5))
        await a_moment()
        assert not waiting.done()
        budget.settle(5)
        await waiting
    assert budget.used == 10


async def test_and_fails_when_that_call_is_over_and_was_not() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    async with limiter.permit(8):
        waiting = [elsewhere(limiter.acquire(size)) for size in (5, 2, 3)]
        await a_moment()
        assert not any(one.done() for one in waiting)
        budget.settle(7)
        await a_moment()
        assert not any(one.done() for one in waiting)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(one, BudgetExceededError) for one in outcomes] == [True, False, True]
    assert budget.used == 9


async def test_what_can_never_fit_does_not_wait_for_calls_under_way() -> None:
    limiter = Limiter([Budget(10, cost=cost)])
    await limiter.acquire(6)
    async with limiter.permit(2):
        with pytest.raises(BudgetExceededError):
            await limiter.acquire(5)


async def test_a_call_does_not_wait_for_one_that_it_is_part_of() -> None:
    limiter = Limiter([Budget(10, cost=cost)])
    async with limiter.permit(6):
        with pytest.raises(BudgetExceededError):
            await limiter.acquire(5)
        async with limiter.permit(3):
            with pytest.raises(BudgetExceededError):
                limiter.try_acquire(2)
            await limiter.acquire(1)


async def test_also_when_the_others_are_over_that_it_waited_for() -> None:
    limiter = Limiter([Budget(10, cost=cost)])
    inner: list[asyncio.Future[Any]] = []

    async def call() -> None:
        async with limiter.permit(4):
            inner.append(asyncio.ensure_future(limiter.acquire(4)))
            await asyncio.wait(inner)

    async with limiter.permit(4):
        outer = elsewhere(call())
        await a_moment()
        assert not inner[0].done()
    await outer
    assert isinstance(inner[0].exception(), BudgetExceededError)


async def test_so_does_an_item_whose_result_another_item_awaits() -> None:
    limits = [Budget(10, cost=lambda item: 6)]
    async with WorkQueue[str](limits=limits, concurrency_limit=2) as queue:

        async def call(item: str) -> str:
            return item if item == "inner" else await (await queue.submit("inner"))

        await queue.process(call)
        with pytest.raises(BudgetExceededError):
            await (await queue.submit("outer"))


async def test_nobody_waits_for_the_permit_of_a_bare_acquire() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    permit = await limiter.acquire(8)
    with pytest.raises(BudgetExceededError):
        await limiter.acquire(5)
    permit.settle(budget, 5)
    await limiter.acquire(5)
    assert budget.used == 10


@pytest.mark.parametrize("ends", ["finish", "give_back"])
async def test_a_permit_tells_when_its_call_is_over(ends: str) -> None:
    limiter = Limiter([Budget(10, cost=cost)])
    permit = await limiter.acquire(8, finishes=True)
    waiting = elsewhere(limiter.acquire(5))
    await a_moment()
    assert not waiting.done()
    with permit.applied():  # as for a part of the call
        pass
    await a_moment()
    assert not waiting.done()
    getattr(permit, ends)()
    if ends == "give_back":
        await waiting
        assert spent(limiter) == 5
    else:
        with pytest.raises(BudgetExceededError):
            await waiting
        permit.finish()
        assert spent(limiter) == 8


async def test_what_is_spent_beyond_an_estimate_is_spent() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    async with limiter.permit(5):
        budget.settle(12)
    assert budget.used == 12
    assert limiter.remaining() == {"budget of 10": 0}
    assert limiter.utilization() == {"budget of 10": 1.2}
    with pytest.raises(BudgetExceededError, match="12 of 10 are used"):
        await limiter.acquire(1)


async def test_a_call_that_was_free_may_turn_out_to_cost_something() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    async with limiter.permit(0):
        budget.settle(4)
    assert budget.used == 4


async def test_a_larger_one_lets_those_start_who_wait_and_a_smaller_one_fails_them() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    async with limiter.permit(8):
        waiting = [elsewhere(limiter.acquire(size)) for size in (5, 4, 3)]
        await a_moment()
        budget.change(max=13)
        await waiting[0]
        budget.change(max=3)
        with pytest.raises(BudgetExceededError):
            await waiting[1]
        with pytest.raises(BudgetExceededError):
            await waiting[2]
    assert (budget.max, budget.used) == (3, 13)


async def test_those_behind_a_limit_learn_of_it_before_the_limit_lets_them_go_on() -> None:
    budget, rate = Budget(10, cost=cost, name="money"), Limit(1, per=60)
    limiter = Limiter([rate, budget])
    async with limiter.permit(6):
        waiting = [elsewhere(limiter.acquire(5)) for _ in range(3)]
        await a_moment()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in outcomes] == [BudgetExceededError] * 3
    assert now() == 0
    await limiter.acquire(4)
    assert now() == 60


async def test_a_call_cancelled_while_it_waits_for_a_limit_has_spent_nothing() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([Limit(1, per=60), budget])
    await limiter.acquire(1)
    waiting = elsewhere(limiter.acquire(5))
    await asyncio.sleep(59)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert budget.used == 1


async def test_a_refusal_does_not_make_it_smaller() -> None:
    budget = Budget(10)
    limiter = Limiter([budget])
    async with limiter.permit():
        limiter.refused(retry_after=5)
    assert limiter.statistics().learned_rates == {}
    assert limiter.remaining() == {"budget of 10": 9}


def test_another_clock_gives_nothing_back() -> None:
    limiter = Limiter([Budget(3)])

    async def acquire() -> None:
        await limiter.acquire()

    run(acquire())
    asyncio.run(acquire())
    limiter.acquire_blocking()
    with pytest.raises(BudgetExceededError):
        limiter.acquire_blocking()


def test_threads_wait_for_calls_under_way_in_others() -> None:
    budget = Budget(10, cost=cost)
    limiter = Limiter([budget])
    outcomes: list[Any] = []

    def call(size: float) -> None:
        try:
            outcomes.append(limiter.acquire_blocking(size))
        except BudgetExceededError as error:
            outcomes.append(error)

    with limiter.permit(9):
        threads = [threading.Thread(target=call, args=[size]) for size in (5, 6)]
        for number, thread in enumerate(threads):
            thread.start()
            while limiter.statistics().waiting <= number:
                pass
        budget.settle(5)
        threads[0].join(30)
    threads[1].join(30)
    assert [type(one).__name__ for one in outcomes] == ["Permit", "BudgetExceededError"]


async def test_a_call_that_is_collected_while_its_thread_holds_the_lock_is_over() -> None:
    limiter = Limiter([Budget(10, cost=cost)])

    async def call() -> None:
        async with limiter.permit(8):
            await asyncio.sleep(1e6)

    collected = call()
    collected.send(None)
    waiting = elsewhere(limiter.acquire(5))
    await a_moment()
    assert not waiting.done()
    with limiter._lock:
        collected.close()
    with pytest.raises(BudgetExceededError):
        await waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_in_a_forked_child_it_begins_anew() -> None:
    budget = Budget(2)
    limiter = Limiter([budget])
    limiter.acquire_blocking()
    with limiter.permit():
        child = os.fork()
        if not child:
            fresh = budget.used == 0
            permits = [limiter.try_acquire() for _ in range(2)]
            try:
                limiter.try_acquire()
            except BudgetExceededError:
                os._exit(0 if fresh and all(permits) else 1)
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert budget.used == 2


def test_it_moves_on_with_what_is_spent() -> None:
    budget = Budget(2)
    Limiter([budget]).acquire_blocking()
    gc.collect()
    budget.change(max=3)
    limiter = Limiter([budget])
    limiter.acquire_blocking()
    limiter.acquire_blocking()
    with pytest.raises(BudgetExceededError):
        limiter.acquire_blocking()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Budget(0), ValueError, "max must be more than zero and finite, got 0"),
        (lambda: Budget(math.inf), ValueError, "max must be more than zero and finite, got inf"),
        (lambda: Budget("5"), TypeError, "max must be a number, got '5'"),  # type: ignore[arg-type]
        (lambda: Budget(5, cost=5), TypeError, "cost must "),  # type: ignore[arg-type]
        (lambda: Budget(5, name=""), ValueError, "name must not be empty"),
        (lambda: Budget(5).change(0), ValueError, "max must be more than zero"),
    ],
)
def test_what_is_no_budget(make: Callable[[], Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@settings(deadline=None)
@given(
    estimates=st.lists(st.integers(0, 8), min_size=1, max_size=25),
    shares=st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=25, max_size=25),
    seconds=st.lists(st.integers(0, 3), min_size=25, max_size=25),
)
def test_whatever_calls_cost_all_that_would_fit_start_and_nothing_beyond_does(
    estimates: list[int], shares: list[float], seconds: list[int]
) -> None:
    """Calls that never cost more than estimated: those that failed had no room in the end."""
    budget = Budget(20, cost=lambda call: estimates[call])
    limiter = Limiter([budget, Limit(3, per=1)])
    failed: list[int] = []
    most = 0.0

    async def one(call: int) -> None:
        nonlocal most
        try:
            async with limiter.permit(call) as permit:
                most = max(most, budget.used)
                await asyncio.sleep(seconds[call])
                permit.settle(budget, estimates[call] * shares[call])
        except BudgetExceededError:
            failed.append(call)

    async def main() -> None:
        await asyncio.gather(*map(one, range(len(estimates))))

    run(main())
    assert most <= 20
    settled = [
        estimate * shares[call] for call, estimate in enumerate(estimates) if call not in failed
    ]
    assert budget.used == sum(settled)
    assert all(budget.used + estimates[call] > 20 for call in failed)
