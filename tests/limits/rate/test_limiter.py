"""The limiter in event loops: who waits, who is let through, and what becomes of the others."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tasks import now, settle
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.policies.policy import Policy
from penstock.testing import VirtualTimeLoop, run


def most_in_any_window(times: list[float], per: float) -> int:
    times = sorted(times)
    # Half open: exactly ``per`` later is another window; as the clock of the loop rounds.
    return max((sum(a <= b < a + per - 1e-9 for b in times) for a in times), default=0)


class Caller:
    """Notes who was let through, and when."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.through: list[tuple[Any, float]] = []

    async def __call__(self, name: Any) -> None:
        await self.limiter.acquire(name)
        self.through.append((name, now()))

    def task(self, name: Any) -> asyncio.Task[None]:
        return asyncio.ensure_future(self(name))

    @property
    def names(self) -> list[Any]:
        return [name for name, _ in self.through]


async def a_moment() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_as_allowed_go_through_at_once_and_the_others_wait() -> None:
    caller = Caller(Limiter([Limit(2, 10)]))
    await asyncio.gather(*(caller(name) for name in range(5)))
    assert caller.through == [(0, 0), (1, 0), (2, 10), (3, 10), (4, 20)]


async def test_how_much_of_each_limit_is_left_and_used() -> None:
    calls = Limit(10, per=10, name="calls")
    tokens = Limit(100, per=20, cost=lambda item: 30, name="tokens")
    limiter = Limiter([calls, tokens])
    assert limiter.remaining() == {"calls": 10, "tokens": 100}
    assert limiter.utilization() == {"calls": 0, "tokens": 0}
    permit = await limiter.acquire()
    await asyncio.sleep(5)
    await limiter.acquire()
    assert limiter.remaining() == {"calls": 8, "tokens": 40}
    permit.settle(tokens, 110)
    assert limiter.remaining() == {"calls": 8, "tokens": 0}
    assert limiter.utilization() == {"calls": 0.2, "tokens": 1.4}
    await asyncio.sleep(5)
    assert limiter.remaining() == {"calls": 9, "tokens": 0}
    await asyncio.sleep(10)
    assert limiter.utilization() == {"calls": 0, "tokens": 0.3}


async def test_how_much_is_left_for_a_key_or_for_that_which_used_most() -> None:
    limiter = Limiter([Limit(10, per=10, key=lambda item: item[0], name="each")])
    assert limiter.remaining() == {"each": 10}
    for item in ("a1", "a2", "b1"):
        await limiter.acquire(item)
    assert [limiter.remaining(item)["each"] for item in ("a3", "b2", "c1")] == [8, 9, 10]
    assert limiter.remaining() == {"each": 8}
    assert limiter.utilization("b2") == {"each": 0.1}
    assert limiter.utilization() == {"each": 0.2}
    with pytest.raises(ValueError, match="the key function of the limit 'each' raised for a int"):
        limiter.remaining(5)


async def test_what_refusals_taught_makes_less_remain() -> None:
    limit = Limit(20, per=1, name="rate")
    limiter = Limiter([limit])
    for _ in range(2):
        for _ in range(10):
            await limiter.acquire()
        await asyncio.sleep(0.9)
        limiter.refused(0.1, permit=await limiter.acquire())
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.5)
    assert limiter.statistics().learned_rates
    assert limiter.remaining() == {"rate": 10}
    limit.change(20)
    assert limiter.remaining() == {"rate": 20}


async def test_a_limit_may_be_written_as_text() -> None:
    caller = Caller(Limiter(["2/10s", Limit(3, 60)]))
    await asyncio.gather(*(caller(name) for name in range(4)))
    assert caller.through == [(0, 0), (1, 0), (2, 10), (3, 60)]


async def test_callers_are_served_first_come_first_served() -> None:
    caller = Caller(Limiter([Limit(1, 0.3)]))
    tasks = []
    for name in range(20):
        tasks.append(caller.task(name))
        await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)
    assert caller.names == list(range(20))


async def test_a_caller_cancelled_while_it_waits_uses_nothing_up() -> None:
    caller = Caller(Limiter([Limit(1, 10)]))
    await caller("first")
    first_in_line = caller.task("first in line")
    cancelled = caller.task("cancelled")
    last = caller.task("last")
    await asyncio.sleep(5)
    first_in_line.cancel()
    cancelled.cancel()
    await last
    assert caller.through == [("first", 0), ("last", 10)]


async def test_a_caller_cancelled_in_the_tick_of_its_turn_uses_nothing_up() -> None:
    caller = Caller(Limiter([Limit(1, 10)]))
    await caller("first")
    unlucky, last = caller.task("unlucky"), caller.task("last")
    asyncio.get_running_loop().call_at(10, unlucky.cancel)
    await last
    assert unlucky.cancelled()
    assert caller.names == ["first", "last"]
    assert caller.through[-1][1] == pytest.approx(10)


async def test_a_caller_cancelled_after_it_was_let_through_gives_it_back() -> None:
    limiter = Limiter([Limit(1, 10)])
    caller = Caller(limiter)
    await caller("first")
    unlucky, last = caller.task("unlucky"), caller.task("last")
    await a_moment()
    limiter.limits[0].change(max=2)  # lets the unlucky one through, which has not run yet
    unlucky.cancel()
    await last
    assert caller.through == [("first", 0), ("last", 0)]


async def test_a_big_cost_is_not_starved_by_a_stream_of_small_ones() -> None:
    caller = Caller(Limiter([Limit(10, 1, cost=lambda item: item)]))

    async def stream() -> None:
        while 10 not in caller.names:
            await caller(1)

    streams = [asyncio.ensure_future(stream()) for _ in range(5)]
    await asyncio.sleep(3.05)
    began = now()
    await caller(10)
    assert now() - began <= 2, "five waited before it, and had the next second"
    await asyncio.gather(*streams)


async def test_limits_are_taken_together_or_not_at_all() -> None:
    requests = Limit(3, 1, name="requests")
    tokens = Limit(10, 10, cost=lambda item: item, name="tokens")
    limiter = Limiter([requests, tokens])
    await limiter.acquire(10)
    waiting = asyncio.ensure_future(limiter.acquire(10))
    await asyncio.sleep(5)
    assert limiter.try_acquire(0) is not None, "two requests are left: the waiter took none"
    assert limiter.try_acquire(0) is not None
    assert limiter.try_acquire(0) is not None
    assert limiter.try_acquire(0) is None
    await waiting
    assert now() == pytest.approx(10)


async def test_a_busy_key_does_not_hold_up_another() -> None:
    caller = Caller(Limiter([Limit(1, 10, key=lambda item: item[0]), Limit(100, 1)]))
    await asyncio.gather(*(caller(name) for name in ("a1", "a2", "a3", "b1", "b2", "c1")))
    times: dict[float, list[str]] = {}
    for name, at in caller.through:
        times.setdefault(round(at, 6), []).append(name)
    assert times == {0: ["a1", "b1", "c1"], 10: ["a2", "b2"], 20: ["a3"]}


async def test_a_loop_that_stalls_lets_nobody_through_in_the_wrong_window() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    caller = Caller(Limiter([Limit(3, 1)]))
    tasks = [caller.task(name) for name in range(12)]
    await a_moment()
    # In the same tick in which they are let through, and before they go on, the loop stalls.
    loop.call_at(1 + 1e-10, lambda: loop._advance(2.5))
    await asyncio.gather(*tasks)
    assert most_in_any_window([at for _, at in caller.through], 1) <= 3


async def test_a_higher_limit_wakes_who_waits() -> None:
    limit = Limit(1, 100)
    caller = Caller(Limiter([limit]))
    tasks = [caller.task(name) for name in range(5)]
    await asyncio.sleep(10)
    limit.change(max=3)
    await a_moment()
    assert caller.through == [(0, 0), (1, 10), (2, 10)]
    limit.change(per=20)
    await asyncio.gather(*tasks)
    assert caller.through[3:] == [(3, 20), (4, 30)]


async def test_who_waits_with_a_cost_above_a_limit_that_was_lowered_is_told() -> None:
    limit = Limit(10, 100, cost=lambda item: item, name="tokens")
    caller = Caller(Limiter([limit]))
    await caller(10)
    large, small = caller.task(8), caller.task(5)
    await a_moment()
    limit.change(max=5)
    with pytest.raises(ValueError, match=r"a cost of 8 can never pass the limit 'tokens'.* 5$"):
        await large
    await small
    assert caller.through == [(10, 0), (5, 100)]


async def test_the_call_under_way_settles_its_true_cost() -> None:
    tokens = Limit(100, 60, cost=lambda item: item, name="tokens")
    limiter = Limiter([tokens, Limit(10, 1)])
    async with limiter.permit(90):
        waiting = asyncio.ensure_future(limiter.acquire(60))
        await asyncio.sleep(5)
        assert not waiting.done()
        tokens.settle(40)
        await waiting
        assert now() == 5
    with pytest.raises(RuntimeError, match="settle of the limit 'tokens' was called outside"):
        tokens.settle(1)


async def test_each_task_settles_its_own_call() -> None:
    limit = Limit(100, 60, cost=lambda item: item)
    limiter = Limiter([limit])

    async def call(cost: int) -> None:
        async with limiter.permit(cost):
            await asyncio.sleep(cost)
            limit.settle(cost / 2)

    await asyncio.gather(*(call(cost) for cost in (10, 20, 30, 40)))
    assert limiter.wait_time(50) == 0
    assert limiter.wait_time(51) > 0


async def test_permits_of_several_limiters_nest() -> None:
    outer, inner = Limit(10, 60), Limit(10, 60)
    one, other = Limiter([outer]), Limiter([inner])
    async with one as permit, other:
        assert permit.limiter is one
        outer.settle(10)
        inner.settle(0)
        with pytest.raises(RuntimeError):
            Limit(1, 1, name="third").settle(0)
    assert one.try_acquire() is None
    assert all(other.try_acquire() for _ in range(10))


async def test_a_permit_settles_by_limit_or_by_name_and_can_be_made_the_current_one() -> None:
    limit = Limit(10, 60, cost=lambda item: item, name="tokens")
    limiter = Limiter([limit])
    permit = await limiter.acquire(10)
    permit.settle("tokens", 5)
    permit.settle(limit, 4)
    with permit.applied():
        limit.settle(3)
    assert limiter.wait_time(7) == 0
    assert limiter.wait_time(8) > 0
    with pytest.raises(KeyError, match=r"no limit 'words'; its limits are 'tokens'"):
        permit.settle("words", 1)
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="the actual cost under the limit 'tokens' must be"):
            permit.settle("tokens", wrong)
    with pytest.raises(TypeError):
        permit.settle("tokens", "3")  # type: ignore[arg-type]
    assert limiter.wait_time(7) == 0


async def test_a_call_that_was_free_may_turn_out_to_cost_something() -> None:
    limit = Limit(10, 60, cost=lambda item: item)
    limiter = Limiter([limit])
    permit = await limiter.acquire(0)
    permit.settle(limit, 10)
    assert limiter.try_acquire(1) is None
    assert limiter.try_acquire(0) is not None
    permit.settle(limit, 0)
    assert limiter.try_acquire(10) is not None


async def test_it_is_called_what_it_was_named() -> None:
    assert Limiter([]).name == "default"
    assert Limiter([], name="the service").name == "the service"
    with pytest.raises(ValueError, match="name must not be empty"):
        Limiter([], name="")
    with pytest.raises(KeyError, match=r"no limit 'words'; its limits are none"):
        Limiter([]).limit("words")


async def test_trying_tells_how_long_to_wait_and_takes_nothing() -> None:
    limiter = Limiter([Limit(2, 10)])
    assert limiter.wait_time() == 0
    assert limiter.try_acquire()
    await asyncio.sleep(3)
    assert limiter.try_acquire()
    assert limiter.try_acquire() is None
    assert limiter.wait_time() == 7
    await asyncio.sleep(7)
    assert limiter.wait_time() == 0
    assert limiter.statistics().grants == 2


async def test_while_the_gate_is_closed_trying_tells_when_it_opens() -> None:
    limiter = Limiter([Limit(2, 10)])
    limiter.close_for(3)
    assert limiter.try_acquire() is None
    assert 3 <= limiter.wait_time() <= 3.3
    await asyncio.sleep(limiter.wait_time())
    assert limiter.try_acquire() is not None


async def test_what_costs_nothing_waits_for_the_gate_alone() -> None:
    limiter = Limiter([Limit(1, 1000, cost=lambda item: item)])
    await limiter.acquire(1)
    assert limiter.wait_time(0) == 0
    limiter.close_for(3)
    assert 3 <= limiter.wait_time(0) <= 3.3
    await limiter.acquire(0)
    assert 3 <= now() <= 3.3


async def test_trying_does_not_overtake() -> None:
    limit = Limit(10, 10, cost=lambda item: item)
    limiter = Limiter([limit])
    await limiter.acquire(5)
    waiting = asyncio.ensure_future(limiter.acquire(10))
    await a_moment()
    assert limiter.try_acquire(1) is None
    assert limiter.wait_time(1) == 10
    waiting.cancel()
    await a_moment()
    assert limiter.try_acquire(1) is not None


async def test_a_closed_gate_lets_nobody_through_and_opens_with_a_spread() -> None:
    limiter = Limiter([Limit(1000, 1)], rng=random.Random(3))
    caller = Caller(limiter)
    limiter.close_for(5)
    limiter.close_for(2)
    tasks = [caller.task(name) for name in range(50)]
    await a_moment()
    assert limiter.statistics().closed_for == 5
    assert 5 <= limiter.wait_time() <= 5.5
    assert limiter.try_acquire() is None
    await asyncio.gather(*tasks)
    times = [at for _, at in caller.through]
    assert caller.names == list(range(50))
    assert min(times) >= 5
    assert max(times) <= 5.5 + 1e-9
    assert len({round(at, 6) for at in times}) > 25, "not in step"
    assert limiter.statistics().closures == 1


async def test_the_first_of_those_who_wait_does_not_wait_for_the_spread_of_all() -> None:
    caller = Caller(Limiter([Limit(1, 100)]))
    await caller("before")
    tasks = [caller.task(name) for name in range(50)]
    await a_moment()
    limit = caller.limiter.limits[0]
    caller.limiter.close_for(5)
    limit.change(max=1000)
    await asyncio.gather(*tasks)
    assert 5 <= caller.through[1][1] <= 5 + 2 * 0.5 / 51 + 1e-9, "a gap is twice the mean at most"
    assert caller.through[-1][1] <= 5.5 + 1e-9


async def test_the_gaps_are_those_of_the_generator_that_it_is_given() -> None:
    async def gaps(seed: int) -> list[float]:
        caller = Caller(Limiter([], rng=random.Random(seed)))
        caller.limiter.close_for(5)
        began = now()
        await asyncio.gather(*(caller(name) for name in range(10)))
        return [round(at - began, 6) for _, at in caller.through]

    assert await gaps(1) == await gaps(1)
    assert await gaps(1) != await gaps(2)


async def test_a_pause_of_less_than_a_second_is_kept_to() -> None:
    limiter = Limiter([Limit(1000, 1)])
    limiter.observe({"retry-after-ms": "250"})
    assert limiter.try_acquire() is None
    assert 0.25 <= limiter.wait_time() <= 0.275
    await limiter.acquire()
    assert 0.25 <= now() <= 0.275 + 1e-9


async def test_headers_close_the_gate() -> None:
    limiter = Limiter([Limit(1000, 1)])
    assert limiter.observe({"X-Served-By": "a"}).wait == 0
    limiter.observe({"Retry-After": "soon"})
    assert limiter.try_acquire() is not None
    limiter.observe([(b"Retry-After", b"7")])
    await limiter.acquire()
    assert 7 <= now() <= 7.7
    limiter.observe({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m0s"})
    await limiter.acquire()
    assert 67 <= now() <= 68.7
    assert limiter.statistics().ignored_headers == 1
    assert limiter.statistics().closures == 2


async def test_the_status_says_what_a_wait_is_about() -> None:
    limiter = Limiter([Limit(1000, 1)])
    for status in (202, 301):
        assert limiter.observe({"Retry-After": "7"}, status).wait == 0
    assert limiter.try_acquire() is not None
    assert limiter.observe({"Retry-After": "7"}, 503).wait == 7
    assert limiter.try_acquire() is None


async def test_a_gate_that_is_closed_before_a_call_goes_on_holds_it_back() -> None:
    limit = Limit(1, 100)
    limiter = Limiter([limit])
    await limiter.acquire()
    waiting = asyncio.ensure_future(limiter.acquire())
    await settle()
    limit.change(max=2)  # from here on it may start
    limiter.close_for(5)
    await waiting
    assert now() >= 5
    assert limiter.try_acquire() is None


MONTH = {"x-ratelimit-remaining-tokens-month": "0"}


async def test_a_quota_of_a_month_closes_no_gate_after_a_success_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = Limiter([Limit(100, 1)])
    for status in (200, None, 204):
        assert limiter.observe(MONTH, status).wait > 900
    assert limiter.statistics().closed_for == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "nothing is allowed for 2" in caplog.text
    await asyncio.sleep(60)
    limiter.observe(MONTH, 200)
    assert len(caplog.records) == 2
    limiter.observe({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "15m"}, 200)
    assert limiter.statistics().closed_for == 900
    assert (
        "No call of the limiter 'default' starts for 900.0 s: a service asked for it" in caplog.text
    )


async def test_headers_close_the_gate_for_no_longer_than_is_allowed() -> None:
    limiter = Limiter([Limit(100, 1)])
    limiter.observe(MONTH, 429)
    assert limiter.statistics().closed_for == 900
    limiter.max_retry_after = 2000
    limiter.observe(MONTH, 429)
    assert limiter.statistics().closed_for == 2000
    policy = Policy(max_retry_after=30)

    async def call(status: int) -> None:
        policy.limits.observe(MONTH, status)

    await policy.call(call, 200)
    assert policy.statistics().gate_closed_for == 0
    await policy.call(call, 429)
    assert policy.statistics().gate_closed_for == 30


@pytest.mark.parametrize("wrong", [object(), 5, "text", [1, 2], None, [("a",)], {1: 2}])
async def test_what_is_no_headers_is_ignored(wrong: Any) -> None:
    limiter = Limiter([])
    limiter.observe(wrong)
    await limiter.acquire()


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "1", None])
def test_a_gate_closes_for_a_number_of_seconds(wrong: Any) -> None:
    with pytest.raises(ValueError, match="seconds must be"):
        Limiter([]).close_for(wrong)


async def test_with_room_nothing_suspends_and_no_timer_is_set() -> None:
    limiter = Limiter([Limit(1, 1), Limit(5, 1, cost=lambda _: 5, key=lambda item: item)])
    with pytest.raises(StopIteration):
        limiter.acquire("a").send(None)
    assert not limiter._wakeups.timers


async def test_when_nobody_waits_any_more_no_timer_is_left() -> None:
    limiter = Limiter([Limit(1, 1000)])
    tasks = [asyncio.ensure_future(limiter.acquire()) for _ in range(10)]
    await a_moment()
    assert len(limiter._wakeups.timers) == 1, "one for all"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not limiter._wakeups.timers
    assert limiter.statistics().waiting == 0


async def test_a_timer_that_another_thread_asked_for_leaves_the_next_timer_alone() -> None:
    limit = Limit(1, 1000)
    limiter = Limiter([limit])
    await limiter.acquire()
    first = asyncio.ensure_future(limiter.acquire())
    await a_moment()
    first.cancel()  # its timer is dropped, and the second one gets another
    second = asyncio.ensure_future(limiter.acquire())
    thread = threading.Thread(target=limit.change, kwargs={"per": 500})
    thread.start()
    thread.join(60)  # it asked for the first timer, which answers after all that
    await a_moment()
    limit.change(per=10)
    await second
    assert now() == 10


@pytest.fixture
def limit() -> Iterator[Limit]:
    limit = Limit(1, 1)
    limiter = Limiter([limit])
    yield limit
    assert limiter.limits == (limit,)


def test_a_limit_is_part_of_one_limiter_at_a_time(limit: Limit) -> None:
    with pytest.raises(ValueError, match="'1 per 1 s' is part of another Limiter"):
        Limiter([limit])


async def test_a_limit_may_move_on_when_its_limiter_is_gone_and_remembers() -> None:
    limit = Limit(1, 10)
    await Limiter([limit]).acquire()
    gc.collect()
    limit.change(max=2)
    limiter = Limiter([limit])
    assert limiter.try_acquire() is not None
    assert limiter.try_acquire() is None


@pytest.mark.parametrize(
    ("limits", "error", "text"),
    [
        (Limit(1, 1), TypeError, "or a Limiter: write limits=.<Limit"),
        ("500/min", TypeError, "or a Limiter: write limits=.'500/min'."),
        (5, TypeError, "limits must be a list of Limit, got 5"),
        ([5], TypeError, "got 5 in it"),
        (["500"], ValueError, "limits: a rate must look like 500/min, 20/s or 100/10s, got '500'"),
        (["1/s", Limit(1, 1)], ValueError, "two limits have the name '1 per 1 s'"),
        ([Limit(1, 1), Limit(1, 1)], ValueError, "two limits have the name '1 per 1 s'"),
        ([Limit(1, 1, name="a"), Limit(2, 1, name="a")], ValueError, "have the name 'a'"),
    ],
)
def test_limits_that_are_none_are_refused(limits: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        Limiter(limits)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_no_window_holds_more_than_allowed_whatever_happens(data: Any, seed: int) -> None:
    rng = random.Random(seed)
    maximum, per = data.draw(st.integers(1, 6)), data.draw(st.sampled_from([0.3, 1.0, 7.7]))
    stalls = data.draw(st.booleans())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        limit = Limit(maximum, per, cost=lambda item: item)
        limiter = Limiter([limit, Limit(maximum, per, name="starts")])
        through: list[tuple[float, int]] = []
        going = True

        async def call() -> None:
            cost = rng.randint(0, maximum)
            await limiter.acquire(cost)
            through.append((now(), cost))
            if rng.random() < 0.1:
                limiter.close_for(rng.random() * per)

        async def customer() -> None:
            for _ in range(6):
                task = asyncio.ensure_future(call())
                await asyncio.sleep(rng.choice([0, rng.random() * per, per]))
                if rng.random() < 0.4:
                    task.cancel()
                await asyncio.wait([task])

        async def stall() -> None:
            while going:
                await asyncio.sleep(rng.choice([0, per, rng.random() * per]))
                loop._advance(rng.choice([0, rng.random() * per / 2, per, 3 * per]))
                await asyncio.sleep(per / 10)

        stalling = asyncio.ensure_future(stall() if stalls else asyncio.sleep(0))
        await asyncio.gather(*(customer() for _ in range(8)))
        going = False
        await stalling
        for begin, _ in through:
            window = [cost for at, cost in through if begin <= at < begin + per - 1e-9]
            assert sum(window) <= maximum
            assert len(window) <= maximum
        await asyncio.sleep(per * 2.5)  # the gate is open again, the window empty
        full = [limiter.try_acquire(1) for _ in range(maximum)]
        assert None not in full, "some of the limit leaked away"
        assert limiter.try_acquire(1) is None
        assert limiter.statistics().waiting == 0
        assert not limiter._wakeups.timers

    run(main())


async def test_who_never_pauses_gets_the_whole_rate() -> None:
    caller = Caller(Limiter([Limit(7, 1)]))
    await asyncio.gather(*(caller(name) for name in range(70)))
    assert now() == pytest.approx(9)
    assert caller.names == list(range(70))
    assert all(a[1] <= b[1] for a, b in pairwise(caller.through))


async def test_its_repr_tells_its_state() -> None:
    limiter = Limiter([Limit(1, 10)], name="mail")
    assert repr(limiter) == (
        "<Limiter 'mail': limits=[<Limit '1 per 10 s'>], gate open, calls that wait: 0>"
    )
    limiter.close_for(2.5)
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    assert repr(limiter).endswith("gate closed for 2.5 s, calls that wait: 1>")
    await waiting
