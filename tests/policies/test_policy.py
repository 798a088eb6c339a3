"""Rules at work in a queue: limits, retries, dead letters, a breaker, deadlines, concurrency."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random
import sys
from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import pytest
import tenacity

from helpers.handlers import Handler
from helpers.limits import BAD
from helpers.logs import SILENT
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import for_ever, now, settle
from helpers.versions import FROM_3_11
from penstock import (
    AdaptiveConcurrency,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Limit,
    Limiter,
    QueueStateError,
    QueueStatus,
    RateLimitError,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import attempts_made
from penstock.policies.engine import responded
from penstock.policies.item_state import ItemState, PolicyScope
from penstock.policies.observer import NoObserver
from penstock.policies.policy import Policy
from penstock.testing import VirtualTimeLoop, run
from telemetry.recorder import Recorder


def queue_of(maxsize: int = 1000, **rules: Any) -> WorkQueue[Any]:
    return WorkQueue(maxsize, logger=SILENT, **rules)


async def put_all(queue: WorkQueue[Any], items: Iterable[Any]) -> None:
    for item in items:
        assert await queue.put(item, timeout=math.inf)


def assert_limited(starts: Iterable[float], maximum: int, period: float) -> None:
    """No window of ``period`` seconds holds more than ``maximum`` starts."""
    times = sorted(starts)
    for first, last in zip(times, times[maximum:], strict=False):
        assert last - first >= period - 1e-9, (first, last, times)


# -- retries ----------------------------------------------------------------------------------


async def test_stop_workers_leaves_it_to_the_next_ones() -> None:
    service = Service({"a": 1})
    async with queue_of(retry=every(10)) as queue:
        await queue.process(service)
        await queue.put("a")
        await asyncio.sleep(1)
        await queue.queue.stop_workers()
        await put_all(queue, "bc")
        assert queue.unprocessed == ["a", "b", "c"]
        await asyncio.sleep(20)
        assert queue.unprocessed == ["a", "b", "c"]
        await queue.process(service)
        await queue.join()
    assert service.items == ["a", "a", "b", "c"]


async def test_replaced_workers_leave_it_to_the_new_ones() -> None:
    first, second = Service({"a": 1}), Service()
    async with queue_of(retry=every(10)) as queue:
        await queue.process(first)
        await queue.put("a")
        await asyncio.sleep(1)
        await queue.process(second)
        await queue.join()
    assert second.calls == [("a", 10)]


async def test_what_is_unprocessed_is_in_the_order_of_puts_and_not_of_attempts() -> None:
    waits = {"a": 30.0, "b": 10.0, "c": 20.0}

    class FailedError(Exception):
        pass

    async def fail(item: str) -> None:
        raise FailedError(item)

    policy = RetryPolicy(backoff=lambda attempt, error: waits[str(error)], budget=None)
    queue = queue_of(retry=policy)
    await queue.process(fail)
    await put_all(queue, "abc")
    await asyncio.sleep(1)
    await queue.queue.stop_workers()
    await queue.put("d")
    assert queue.unprocessed == ["a", "b", "c", "d"]
    await asyncio.sleep(15)  # one of them is due, two are not
    assert queue.unprocessed == ["a", "b", "c", "d"]
    await queue.stop()
    assert queue.unprocessed == ["a", "b", "c", "d"]


async def test_it_comes_before_new_work_when_it_is_due() -> None:
    service = Service({"a": 1}, takes=4)
    async with queue_of(retry=every(5)) as queue:
        await queue.process(service, 1)
        await put_all(queue, "abcde")
        await queue.join()
    assert service.items == ["a", "b", "c", "a", "d", "e"]


async def test_the_error_handler_gets_the_last_error_once_and_how_many_attempts() -> None:
    service, handler = Service({"a": 9}), Handler()
    async with queue_of(retry=every(10, attempts=3)) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.join()
        counts = queue.statistics()
        assert queue.metrics["errors"] == counts.errors == 1
        assert (counts.retries, counts.retrying, counts.processed) == (2, 0, 1)
    assert service.times("a") == [0, 10, 20]
    assert handler.got == [("a", service.raised[2])]
    assert attempts_made(service.raised[2]) == 3


@FROM_3_11
async def test_its_traceback_says_how_many_attempts() -> None:
    service, handler = Service({"a": 9}), Handler()
    async with queue_of(retry=every(10, attempts=3)) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.join()
    [(_, error)] = handler.got
    assert error.__notes__ == [
        "penstock: given up after 3 attempts: the retry policy allows no more attempts"
    ]


async def test_what_a_policy_does_not_want_again_is_not_tried_again() -> None:
    service, handler = Service({"a": 1}, error=KeyError), Handler()
    async with queue_of(retry=every(10)) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.join()
    assert handler.kinds == [("a", KeyError)]
    assert (service.items, queue.statistics().retries) == (["a"], 0)


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_yields_the_final_outcomes(ordered: bool) -> None:
    service = Service({1: 2, 3: 9})
    queue = queue_of(retry=every(10))
    results = [
        result
        async for result in queue.map(
            service, range(5), num_workers=2, ordered=ordered, return_exceptions=True
        )
    ]
    if ordered:
        assert [results[i] for i in (0, 1, 2, 4)] == [0, 1, 2, 4]
    assert {result for result in results if isinstance(result, int)} == {0, 1, 2, 4}
    assert [type(r) for r in results if not isinstance(r, int)] == [ConnectionError]


async def test_a_future_cancelled_while_its_item_waits_for_a_retry() -> None:
    service = Service({"a": 1})
    async with queue_of(retry=every(10)) as queue:
        await queue.process(service)
        future = await queue.submit("a")
        await queue.put("b")
        await asyncio.sleep(1)
        assert future.cancel()
        assert queue.unprocessed == []
        await queue.join()
        assert queue.metrics["processed"] == 2
    assert service.items == ["a", "b"]


async def test_no_retry_comes_before_the_service_wants_it() -> None:
    service = Service({"a": 1}, error=lambda: RateLimitError(retry_after=30))
    async with queue_of(retry=every(1)) as queue:
        await queue.process(service, 2)
        await queue.put("a")
        await queue.join()
    first, second = service.times("a")
    assert first == 0
    assert 30 <= second <= 40


async def test_a_total_outage_costs_no_more_retries_than_the_budget_has() -> None:
    service, handler = Service(dict.fromkeys(range(2000), 9)), Handler()
    async with queue_of(100, retry=RetryPolicy()) as queue:
        await queue.process(service, 20, handler)
        await put_all(queue, range(2000))
        await queue.join()
        assert queue.statistics().retries == 35
    assert len(service.calls) == 2000 + 35
    assert sorted(handler.items) == list(range(2000))


async def test_a_policy_may_stop_after_so_many_seconds() -> None:
    service, handler = Service({"a": 99}), Handler()
    policy = RetryPolicy(
        tenacity.stop_after_delay(12), backoff=lambda attempt, error: 5.0, budget=None
    )
    async with queue_of(retry=policy) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.join()
    assert service.times("a") == [0, 5, 10, 15]
    assert handler.items == ["a"]


async def test_a_retry_that_succeeds_gives_the_budget_back_what_it_cost() -> None:
    price = 10
    budget = RetryBudget(tokens=100, cost=10, throttle_cost=4, refund=1)
    policy = RetryPolicy(3, backoff=lambda attempt, error: 5.0, budget=budget)
    service = Service({"a": 1, "b": 9})
    async with queue_of(retry=policy) as queue:
        await queue.process(service, 1, Handler())
        await put_all(queue, "a")
        await asyncio.sleep(1)
        assert budget.tokens == 100 - price
        await queue.join()
        assert budget.tokens == 100
        await put_all(queue, "b")
        await queue.join()
        assert budget.tokens == 100 - 2 * price, "those that fail give nothing back"
        await put_all(queue, "c")
        await queue.join()
        assert budget.tokens == 100 - 2 * price + 1


async def test_every_item_succeeds_when_one_call_in_a_hundred_fails() -> None:
    rng = random.Random(7)
    done: Counter[int] = Counter()

    async def shaky(item: int) -> None:
        await asyncio.sleep(0.1)
        if rng.random() < 0.01:
            raise ConnectionError
        done[item] += 1

    handler = Handler()
    queue = queue_of(50, retry=RetryPolicy())
    await queue.batch_process(range(2000), shaky, 16, handler)
    assert done == Counter(range(2000))
    assert (handler.got, queue.metrics["errors"]) == ([], 0)
    assert queue.statistics().retries > 5


@pytest.mark.parametrize("broken", ["on", "backoff"])
async def test_a_policy_that_raises_fails_the_item_with_that(broken: str) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    service, handler = Service({"a": 1}), Handler()
    options: dict[str, Any] = {broken: fail}
    async with queue_of(retry=RetryPolicy(**options)) as queue:
        await queue.process(service, 1, handler)
        await put_all(queue, "ab")
        await queue.join()
    assert handler.kinds == [("a", ZeroDivisionError)]
    assert handler.got[0][1].__cause__ is service.raised[0]
    assert service.items == ["a", "b"]


async def test_a_cancelled_error_out_of_an_item_is_not_tried_again() -> None:
    service, handler = Service({"a": 1}, error=asyncio.CancelledError), Handler()
    async with queue_of(retry=every(10)) as queue:
        await queue.process(service, 1, handler)
        await put_all(queue, "ab")
        await queue.join()
        assert queue.worker_count == 1
    assert service.items == ["a", "b"]
    assert handler.kinds == [("a", asyncio.CancelledError)]


async def test_and_it_was_an_attempt() -> None:
    handler = Handler()
    async with queue_of(retry=every(10)) as queue:
        await queue.process(Service({"a": 1}, error=asyncio.CancelledError), 1, handler)
        await queue.put("a")
        await queue.join()
        assert [letter.attempts for letter in queue.dead_letters] == [1]
    assert attempts_made(handler.got[0][1]) == 1


async def test_an_attempt_that_is_broken_off_is_not_used_up() -> None:
    service, handler = Service({"a": 9}, takes=5), Handler()
    queue = queue_of(retry=every(10, attempts=2))
    await queue.process(service, 1, handler)
    await queue.put("a")
    await asyncio.sleep(1)
    assert await queue.stop(timeout=0) is False
    await queue.process(service, 1, handler)
    await asyncio.sleep(6)  # the first attempt has failed
    await asyncio.sleep(10)  # the second is under way
    assert await queue.stop(timeout=0) is False
    await queue.process(service, 1, handler)
    assert await queue.stop()
    assert len(service.calls) == 4
    assert [attempts_made(error) for _, error in handler.got] == [2]


async def test_each_attempt_runs_in_the_context_of_the_put() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[tuple[str, str]] = []

    async def look(item: str) -> None:
        seen.append((item, request.get()))
        if len(seen) < 4:
            raise ConnectionError

    async with queue_of(retry=every(10, attempts=9)) as queue:
        await queue.process(look)
        request.set("of a")
        await queue.put("a")
        request.set("of b")
        await queue.put("b")
        request.set("later")
        await queue.join()
    assert set(seen) == {("a", "of a"), ("b", "of b")}
    assert len(seen) == 5


async def test_an_item_put_while_its_loop_died_is_tried_again_in_the_next() -> None:
    def in_two_loops() -> list[tuple[str, float]]:
        service = Service({"a": 1})
        queue = queue_of(retry=every(10))

        async def first() -> None:
            await queue.process(service)
            await put_all(queue, "ab")
            await asyncio.sleep(1)

        async def second() -> None:
            await queue.process(service)
            assert await queue.stop()

        run(first())
        assert queue.unprocessed == ["a"]
        run(second())
        return service.calls

    assert await asyncio.to_thread(in_two_loops) == [("a", 0), ("b", 0), ("a", 0)]


async def test_plain_functions_are_tried_again_too() -> None:
    calls: list[int] = []

    def shaky(item: int) -> int:
        calls.append(item)
        if calls.count(item) < 3:
            raise ConnectionError
        return item

    queue = queue_of(retry=every(10))
    assert [result async for result in queue.map(shaky, range(3), num_workers=2)] == [0, 1, 2]
    assert Counter(calls) == {0: 3, 1: 3, 2: 3}


# -- dead letters -----------------------------------------------------------------------------


async def fail_all(queue: WorkQueue[Any], items: Iterable[Any], service: Service) -> None:
    await queue.process(service, 1, Handler())
    await put_all(queue, items)
    await queue.join()


async def test_dead_letters_are_kept_up_to_the_bound_and_the_oldest_go() -> None:
    service = Service(dict.fromkeys(range(5), 9))
    async with queue_of(retry=every(1, attempts=2), max_dead_letters=3) as queue:
        await fail_all(queue, range(5), service)
        letters = queue.dead_letters
        assert [(letter.item, letter.attempts) for letter in letters] == [(2, 2), (3, 2), (4, 2)]
        assert [letter.error for letter in letters] == service.raised[-3:]
        assert queue.statistics().dead_letters == 3


async def test_what_fails_again_has_all_its_attempts_and_is_a_dead_letter_again() -> None:
    service = Service({"a": 99})
    async with queue_of(retry=every(1, attempts=2)) as queue:
        await fail_all(queue, "a", service)
        assert await queue.redrive() == 1
        await queue.join()
        assert [(letter.item, letter.attempts) for letter in queue.dead_letters] == [("a", 2)]
    assert len(service.calls) == 4


async def test_a_cancelled_redrive_loses_none() -> None:
    service = Service(dict.fromkeys(range(5), 2))
    async with queue_of(2, retry=every(1, attempts=2)) as queue:
        await fail_all(queue, range(5), service)
        await queue.queue.stop_workers()
        redriving = asyncio.create_task(queue.redrive(timeout=math.inf))
        await asyncio.sleep(1)
        redriving.cancel()
        await asyncio.wait([redriving])
        assert redriving.cancelled()
        assert queue.unprocessed == [0, 1]
        assert [letter.item for letter in queue.dead_letters] == [2, 3, 4]


async def test_redrive_goes_on_past_what_no_limit_can_ever_let_pass() -> None:
    tokens = Limit(100, 1, cost=lambda item: item)
    service = Service(dict.fromkeys((9, 3, 4), 2))
    async with queue_of(limits=[tokens], retry=every(1, attempts=2)) as queue:
        await fail_all(queue, (9, 3, 4), service)
        assert [letter.item for letter in queue.dead_letters] == [9, 3, 4]
        tokens.change(max=5)
        assert await queue.redrive() == 2
        assert [letter.item for letter in queue.dead_letters] == [9]
        await queue.join()
        tokens.change(max=10)
        assert await queue.redrive() == 1
        await queue.join()
        assert queue.dead_letters == []
    assert Counter(service.items) == {9: 3, 3: 3, 4: 3}


async def test_what_somebody_waits_for_is_no_dead_letter() -> None:
    service = Service({"a": 9, "b": 9})
    async with queue_of(retry=every(1)) as queue:
        await queue.process(service, 1, Handler())
        future = await queue.submit("a")
        await queue.put("b")
        await queue.join()
        assert isinstance(future.exception(), ConnectionError)
        assert [letter.item for letter in queue.dead_letters] == ["b"]


async def test_whoever_heard_of_a_stop_waits_no_more_so_what_fails_later_is_a_dead_letter() -> None:
    service = Service({"a": 9})
    queue = queue_of(retry=every(1, attempts=2))
    await queue.start()
    future = await queue.submit("a")
    assert await queue.stop(drain=False) is False
    assert isinstance(future.exception(), QueueStateError)
    await queue.process(service, 1, Handler())
    assert await queue.stop()
    assert [letter.item for letter in queue.dead_letters] == ["a"]


@pytest.mark.parametrize("rules", [{}, {"retry": every(1), "max_dead_letters": 0}])
async def test_no_dead_letters_unless_they_are_wanted(rules: dict[str, Any]) -> None:
    async with queue_of(**rules) as queue:
        await fail_all(queue, "ab", Service({"a": 9}))
        assert queue.dead_letters == []
        assert await queue.redrive() == 0


async def test_an_item_given_back_by_its_error_handler_is_no_dead_letter_yet() -> None:
    async def slow_handler(error: Exception, item: Any) -> None:
        await asyncio.sleep(10)

    service = Service({"a": 99})
    queue = queue_of(retry=every(1, attempts=2))
    await queue.process(service, 1, slow_handler)
    await queue.put("a")
    await asyncio.sleep(5)  # both attempts have failed, and the handler is at work
    assert await queue.stop(timeout=0) is False
    assert [*queue.unprocessed, *[letter.item for letter in queue.dead_letters]] == ["a"]
    await queue.process(service, 1, slow_handler)
    assert await queue.stop()
    assert [letter.item for letter in queue.dead_letters] == ["a"]


# -- limits -----------------------------------------------------------------------------------


async def test_a_queue_starts_as_many_as_it_may_and_not_one_more() -> None:
    service = Service(takes=3)
    queue = queue_of(5, limits=[Limit(4, 10)])
    await queue.batch_process(range(18), service, 8)
    times = [at for _, at in service.calls]
    assert_limited(times, 4, 10)
    assert times == [at for at in (0, 10, 20, 30) for _ in range(4)] + [40, 40]
    assert service.items == list(range(18))


@pytest.mark.parametrize("seed", range(5))
async def test_no_window_holds_too_many_whatever_is_stopped_and_cancelled(seed: int) -> None:
    rng = random.Random(seed)
    service = Service(takes=1.7)
    queue = queue_of(100, limits=[Limit(5, 10), Limit(9, 25, name="slow")])
    await queue.process(service, 4)
    for item in range(60):
        future = await queue.submit(item)
        choice = rng.random()
        if choice < 0.3:
            await asyncio.sleep(rng.random() * 5)
            future.cancel()
        elif choice < 0.4:
            await queue.stop(timeout=rng.random() * 3)
            await queue.process(service, rng.randint(1, 6))
        elif choice < 0.5:
            await queue.process(service, rng.randint(1, 6))
    assert await queue.stop()
    times = [at for _, at in service.calls]
    assert_limited(times, 5, 10)
    assert_limited(times, 9, 25)
    # And nothing leaked: the next windows are fully used.
    await asyncio.sleep(50)
    began, so_far = now(), len(times)
    await queue.batch_process(range(9), service, 9)
    assert [at - began for _, at in service.calls[so_far:]] == pytest.approx([0] * 5 + [10] * 4)


async def test_queues_and_others_share_one_limiter() -> None:
    limiter = Limiter([Limit(5, 10)])
    service = Service()
    queues = [queue_of(limits=limiter) for _ in range(2)]

    async def other() -> None:
        for number in range(10):
            async with limiter:
                await service(f"other {number}")

    await asyncio.gather(other(), *[queue.batch_process(range(10), service, 3) for queue in queues])
    times = [at for _, at in service.calls]
    assert times == [at for at in range(0, 60, 10) for _ in range(5)]
    assert queues[0].limits is queues[1].limits is limiter


async def test_settle_charges_what_the_estimate_missed() -> None:
    tokens = Limit(10, 10, cost=lambda item: 5, name="tokens")
    service = Service()

    async def call(item: int) -> None:
        await service(item)
        tokens.settle(10)

    queue = queue_of(limits=[tokens])
    await queue.batch_process(range(3), call)
    assert [at for _, at in service.calls] == [0, 10, 20]


def test_a_queue_that_goes_on_in_another_loop_counts_by_the_clock_of_that() -> None:
    queue = queue_of(limits=[Limit(1, 10)])

    async def starts(sleep: float) -> list[float]:
        await asyncio.sleep(sleep)
        service = Service()
        async with queue:
            await queue.process(service, 1)
            await put_all(queue, "ab")
        return [at for _, at in service.calls]

    assert run(starts(100)) == [100, 110]
    assert run(starts(0)) == [0, 10]


async def test_a_task_that_an_item_starts_settles_it_until_its_attempt_ends() -> None:
    limit = Limit(1, 60)
    heard: list[str] = []

    async def settle_at(when: float) -> None:
        await asyncio.sleep(when - now())
        try:
            limit.settle(0)
        except RuntimeError as error:
            heard.append(str(error))
        else:
            heard.append(f"settled at {now():g}")

    tasks: list[asyncio.Task[None]] = []

    async def call(item: str) -> None:
        if not tasks:
            tasks.extend(asyncio.create_task(settle_at(when)) for when in (1, 6))
            await asyncio.sleep(2)
            raise ConnectionError
        await asyncio.sleep(8)

    async with queue_of(limits=[limit], retry=every(3, attempts=2)) as queue:
        await queue.process(call, 1)
        await queue.put("a")
        await queue.join()
        assert now() == 13, "the second attempt did not have to wait for the limit"
    await asyncio.gather(*tasks)
    assert heard[0] == "settled at 1"
    assert "outside of a call" in heard[1], "it was another attempt by then"


@pytest.mark.parametrize("limited", [True, False])
async def test_headers_close_the_gate_for_all_workers(limited: bool) -> None:
    service = Service(takes=1)
    queue = queue_of(limits=[Limit(1000, 1)] if limited else [], retry=every(1))

    async def call(item: int) -> None:
        await service(item)
        if item == 0:
            queue.limits.observe({"Retry-After": "30"})

    await queue.batch_process(range(10), call, 3)
    times = [at for _, at in service.calls]
    assert times[:3] == [0, 0, 0]
    assert all(31 <= at <= 38 for at in times[3:])
    assert queue.statistics().gate_closures == 1


async def test_keys_under_a_limit_for_all_of_them() -> None:
    service = Service(takes=0.5)
    limits = [Limit(2, 10, key=lambda item: item % 3), Limit(4, 10, name="all")]
    queue = queue_of(5, limits=limits)
    await queue.batch_process(range(24), service, 2)
    assert sorted(service.items) == list(range(24))
    assert_limited([at for _, at in service.calls], 4, 10)
    for key in range(3):
        assert_limited([at for item, at in service.calls if item % 3 == key], 2, 10)


async def test_an_item_with_a_key_has_its_place_among_others_who_wait() -> None:
    limiter = Limiter([Limit(1, 10, key=lambda item: 0)])
    service = Service()
    async with queue_of(limits=limiter) as queue:
        await queue.process(service, 1)
        await put_all(queue, "ab")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # b waits for the limit until 10

        async def other() -> None:
            async with limiter:
                await service("other")

        job = asyncio.create_task(other())  # and waits behind b
        await asyncio.sleep(50)
        assert service.calls == [("a", 0), ("b", 10), ("other", 20)]
        await job


@pytest.mark.parametrize("how", ["change", "settle"])
async def test_a_key_that_has_room_sooner_than_it_seemed(how: str) -> None:
    limit = Limit(10, 1000, cost=lambda item: 10, key=lambda item: 0)
    service = Service(takes=1)

    async def call(item: str) -> None:
        await service(item)
        if how == "settle":
            limit.settle(0)
        else:
            limit.change(max=100)

    queue = queue_of(limits=[limit])
    await queue.batch_process("ab", call, 2)
    assert service.calls == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("how", ["batch_process", "map"])
@pytest.mark.parametrize("what", BAD)
async def test_a_job_with_an_item_that_no_limit_can_let_pass_raises(what: str, how: str) -> None:
    settings, error, message = BAD[what]
    service = Service()
    queue = queue_of(limits=[Limit(100, 1), Limit(5, 10, name="bad", **settings)])

    async def do(items: list[str]) -> None:
        if how == "batch_process":
            await queue.batch_process(items, service)
        else:
            assert [result async for result in queue.map(service, items)] == []

    with pytest.raises(error, match=message):
        await do(["good", "bad", "good"])
    assert queue.metrics["enqueued"] == 1
    await queue.batch_process(["good"], service)
    assert set(service.items) == {"good"}


async def test_an_item_cancelled_while_it_waits_for_a_limit_uses_nothing_up() -> None:
    service = Service()
    queue = queue_of(limits=[Limit(1, 10)])
    await queue.process(service, 2)
    await put_all(queue, "abc")
    await asyncio.sleep(1)
    assert await queue.stop(timeout=1) is False
    assert queue.unprocessed == ["b", "c"]
    await queue.process(service, 1)
    assert await queue.stop()
    assert service.calls == [("a", 0), ("b", 10), ("c", 20)]


# -- adaptive concurrency ---------------------------------------------------------------------


class Elastic:
    """A service that takes some 0.2 seconds up to its capacity, and then queues or rejects."""

    def __init__(self, capacity: int, *, rejects: bool) -> None:
        self.capacity = capacity
        self.rejects = rejects
        self.under_way = self.served = 0
        self._random = random.Random(1)
        self._free_at: list[float] = []

    async def __call__(self, item: Any) -> None:
        self.under_way += 1
        try:
            if self.rejects and self.under_way > self.capacity:
                await asyncio.sleep(0.01)
                raise RateLimitError
            await asyncio.sleep(self._begin() - now())
            self.served += 1
        finally:
            self.under_way -= 1

    def _begin(self) -> float:
        """Take the next place that falls free; return when the call ends."""
        self._free_at = sorted(at for at in self._free_at if at > now())
        ahead = len(self._free_at) - self.capacity
        start = now() if ahead < 0 else self._free_at[ahead]
        end = start + 0.2 * self._random.lognormvariate(-0.045, 0.3)
        self._free_at.append(end)
        return end


async def feed(queue: WorkQueue[Any], seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        await queue.put(0, timeout=until - now())


@pytest.mark.parametrize("rejects", [True, pytest.param(False)])
async def test_the_workers_follow_the_capacity_of_the_service(rejects: bool) -> None:
    service = Elastic(20, rejects=rejects)
    adaptive = AdaptiveConcurrency(1, 200)
    queue = queue_of(20, concurrency_limit=adaptive, retry=every(0.5, attempts=50))
    await queue.process(service)
    assert queue.worker_count == 1
    for capacity in (20, 5, 20):
        service.capacity = capacity
        await feed(queue, 60)
        seen = []
        for _ in range(20):
            await feed(queue, 1)
            seen.append(queue.worker_count)
        assert 0.6 * capacity <= sum(seen) / len(seen) <= 2 * capacity, (capacity, seen)
    await queue.join()
    await asyncio.sleep(1)
    assert queue.worker_count == queue.statistics().concurrency_limit == adaptive.limit
    assert queue.metrics["processed"] == queue.metrics["enqueued"] == service.served
    await queue.stop()


async def test_after_a_cut_no_call_begins_while_too_many_are_under_way() -> None:
    began: list[tuple[int, int]] = []
    adaptive = AdaptiveConcurrency(1, 64, start=32)
    service = Elastic(8, rejects=True)

    async def call(item: int) -> None:
        began.append((service.under_way + 1, adaptive.limit))
        await service(item)

    queue = queue_of(50, concurrency_limit=adaptive, retry=every(0.5, attempts=50))
    await queue.batch_process(range(1000), call)
    assert [(calls, limit) for calls, limit in began if calls > limit] == []


async def test_calls_that_fail_slowly_show_that_there_are_too_many() -> None:
    """A service that times out sheds no load by saying so: nothing but its latency tells."""
    adaptive = AdaptiveConcurrency(1, 64, start=4)
    times_out = False

    async def call(item: int) -> None:
        await asyncio.sleep(5 if times_out else 0.1)
        if times_out:
            raise TimeoutError

    handler = Handler()
    async with queue_of(concurrency_limit=adaptive) as queue:
        await queue.process(call, error_handler=handler)
        await put_all(queue, range(1000))
        await queue.join()
        (before, cuts), times_out = (adaptive.limit, adaptive.cuts), True
        await put_all(queue, range(500))
        await queue.join()
    assert (before, cuts) == (64, 0)
    assert adaptive.cuts > 0
    assert queue.metrics["errors"] == 500
    assert sorted(handler.items) == list(range(500))


async def test_a_number_takes_the_place_of_what_is_found_out() -> None:
    service = Service(takes=1)
    async with queue_of(concurrency_limit=AdaptiveConcurrency(4, 50)) as queue:
        await queue.process(service)
        await put_all(queue, range(100))
        await asyncio.sleep(5.5)
        assert queue.worker_count == queue.statistics().concurrency_limit > 4
        await queue.process(service, 3)
        assert (queue.worker_count, queue.statistics().concurrency_limit) == (3, None)
        await asyncio.sleep(2)
        assert service.under_way == 3
        await queue.join()
        assert queue.worker_count == 3


@pytest.mark.parametrize("plain", [True, False])
async def test_adaptive_concurrency_in_a_batch_and_in_a_map(plain: bool) -> None:
    def twice(item: int) -> int:
        return item * 2

    async def twice_async(item: int) -> int:
        await asyncio.sleep(1)
        return item * 2

    func: Any = twice if plain else twice_async
    queue = queue_of(20, concurrency_limit=AdaptiveConcurrency(2, 30))
    await queue.batch_process(range(100), func)
    assert queue.metrics["processed"] == 100
    assert queue.status is QueueStatus.STOPPED
    results = [result async for result in queue.map(func, range(100))]
    assert results == [item * 2 for item in range(100)]
    assert (queue.status, queue.worker_count) == (QueueStatus.STOPPED, 0)
    if not plain:
        assert now() < 60  # it did find out that more than two can be under way


# -- deadlines --------------------------------------------------------------------------------


async def test_what_cannot_be_in_time_is_not_attempted() -> None:
    service, handler = Service(takes=0.4), Handler()
    async with queue_of(deadline=1) as queue:
        await queue.process(service, 1, handler)
        await put_all(queue, range(5))
        await queue.join()
        counts = queue.metrics
        assert (counts["processed"], counts["errors"]) == (5, 3)
        assert now() == 0.8
    assert service.calls == [(0, 0), (1, 0.4)]  # the third would begin at 0.8, and end at 1.2
    assert handler.kinds == [(item, DeadlineExceededError) for item in (2, 3, 4)]
    assert {attempts_made(error) for _, error in handler.got} == {0}


async def test_nor_where_a_call_takes_long() -> None:
    service = Service(takes=40)
    queue = queue_of(deadline=100)
    await queue.batch_process(range(5), service, 1, Handler())
    assert service.calls == [(0, 0), (1, 40)]


@pytest.mark.parametrize("observed", [True, False])
async def test_a_deadline_of_one_put_that_does_not_wait(observed: bool) -> None:
    telemetry = Recorder().telemetry() if observed else None
    service, handler = Service(takes=4), Handler()
    async with queue_of(telemetry=telemetry) as queue:
        await queue.process(service, 1, handler)
        queue.put_nowait("a")
        queue.put_nowait("too late", deadline=3)
        queue.put_nowait("in time", deadline=20)
        with pytest.raises(ValueError, match="deadline must be zero or more"):
            queue.put_nowait("never", deadline=-1)
        await queue.join()
    assert service.items == ["a", "in time"]
    assert handler.kinds == [("too late", DeadlineExceededError)]


@pytest.mark.parametrize("observed", [True, False])
async def test_what_does_not_wait_for_room_keeps_to_the_limits_all_the_same(observed: bool) -> None:
    service = Service()
    telemetry = Recorder().telemetry() if observed else None
    async with queue_of(limits=[Limit(2, 10)], telemetry=telemetry) as queue:
        await queue.process(service, 5)
        for item in range(5):
            queue.put_nowait(item)
        await queue.join()
    assert [at for _, at in service.calls] == [0, 0, 10, 10, 20]


async def test_a_put_has_the_last_word_on_the_deadline() -> None:
    service = Service(takes=0.4)
    async with queue_of(deadline=0.5) as queue:
        await queue.process(service, 1, Handler())
        await put_all(queue, "ab")
        await queue.put("c", deadline=60)
        await queue.join()
    assert service.items == ["a", "c"]


async def test_it_fails_at_once_when_the_wait_would_be_for_the_limit_of_a_key() -> None:
    service, handler = Service(), Handler()
    queue = queue_of(limits=[Limit(1, 10, key=lambda item: item[0])], deadline=15)
    await queue.batch_process(["a1", "a2", "a3", "b1"], service, 1, handler)
    assert service.calls == [("a1", 0), ("b1", 0), ("a2", 10)]
    assert handler.kinds == [("a3", DeadlineExceededError)]


async def test_it_has_time_enough_while_another_one_is_let_through() -> None:
    service, handler = Service({"a": 1}), Handler()
    async with queue_of(limits=[Limit(1, 10)], deadline=1000, retry=every(10)) as queue:
        await queue.process(service, 2, handler)
        await queue.put("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # a is to be tried again at 10
        other = asyncio.create_task(queue.limits.acquire())  # waits for the limit until then
        await queue.join()
        await other
    assert handler.got == []
    assert service.calls == [("a", 0), ("a", 20)]


async def test_it_is_not_tried_again_when_the_wait_would_be_too_long() -> None:
    service, handler = Service({"a": 9}, takes=1), Handler()
    async with queue_of(deadline=15, retry=every(5, attempts=9)) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.join()
        assert now() < 15
    assert service.times("a") == [0, 6, 12]
    assert handler.items == ["a"]
    assert attempts_made(handler.got[0][1]) == 3


async def test_what_is_not_tried_again_costs_nothing_of_the_budget() -> None:
    policy = RetryPolicy(backoff=lambda attempt, error: 10.0)
    assert policy.budget is not None
    queue = queue_of(deadline=5, retry=policy)
    await queue.batch_process("a", Service({"a": 1}), 1, Handler())
    assert policy.budget.tokens == 500


async def test_it_fails_at_once_when_the_wait_would_be_for_the_breaker() -> None:
    service, handler = Service({"a": 1}), Handler()
    breaker = CircuitBreaker(window=1, open_for=30)
    async with queue_of(deadline=10, breaker=breaker, retry=every(1)) as queue:
        await queue.process(service, 1, handler)
        await queue.put("a")
        await queue.put("b")
        await queue.put("c", deadline=60)
        await queue.join()
    assert service.calls == [("a", 0), ("c", 30)]
    assert handler.kinds == [("b", DeadlineExceededError), ("a", DeadlineExceededError)]


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_starts_past_its_deadline(seed: int) -> None:
    rng = random.Random(seed)
    put_at: dict[int, float] = {}
    ended: list[int] = []
    late = []

    async def work(item: int) -> None:
        if now() >= put_at[item] + 10:
            late.append(item)
        await asyncio.sleep(rng.random() * 3)
        if rng.random() < 0.3:
            raise ConnectionError
        ended.append(item)

    def failed(error: Exception, item: int) -> None:
        ended.append(item)

    rules: dict[str, Any] = {
        "limits": [Limit(10, 5)],
        "retry": every(2),
        "breaker": CircuitBreaker(0.6, open_for=3),
    }
    async with queue_of(deadline=10, **rules) as queue:
        await queue.process(work, 4, failed)
        for item in range(200):
            put_at[item] = now()
            await queue.put(item)
            await asyncio.sleep(rng.random() / 2)
        await queue.join()
    assert late == []
    assert sorted(ended) == list(range(200))


# -- circuit breaker --------------------------------------------------------------------------


def open_after(calls: int, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(0.5, window=calls, minimum=calls, open_for=30, **options)


async def test_a_breaker_opens_is_half_open_after_its_time_and_closes() -> None:
    service, handler = Service(dict.fromkeys(range(4), 1)), Handler()
    async with queue_of(breaker=open_after(4)) as queue:
        await queue.process(service, 1, handler)
        assert queue.statistics().breaker_state == "closed"
        await put_all(queue, range(6))
        await queue.join()
        assert queue.statistics().breaker_state == "open"
        await asyncio.sleep(10)
        await queue.put(6)
        await queue.join()
        await asyncio.sleep(20)
        assert queue.statistics().breaker_state == "half_open"
        await queue.put(7)
        await queue.join()
        assert queue.statistics().breaker_state == "closed"
    assert service.items == [0, 1, 2, 3, 7]
    assert [item for item, kind in handler.kinds if kind is CircuitBreakerOpenError] == [4, 5, 6]
    waits = [error.retry_after for _, error in handler.got[4:]]  # type: ignore[attr-defined]
    assert waits == pytest.approx([30, 30, 20])
    assert {attempts_made(error) for _, error in handler.got[4:]} == {0}


async def test_with_retries_items_wait_for_it_and_use_no_attempt() -> None:
    service, handler = Service({"a": 9, "b": 1}), Handler()
    async with queue_of(breaker=open_after(1), retry=every(1, attempts=2)) as queue:
        await queue.process(service, 3, handler)
        await put_all(queue, "ab")
        await asyncio.sleep(5)
        assert service.items == ["a"]
        assert queue.statistics().retrying == 2
        assert queue.unprocessed == ["a", "b"]
        await queue.join()
    assert service.times("a") == [0, 30]
    assert service.times("b") == [60, 90]
    assert [(item, attempts_made(error)) for item, error in handler.got] == [("a", 2)]


async def test_waiting_for_the_breaker_costs_nothing_of_the_budget() -> None:
    policy = RetryPolicy(2, backoff=lambda attempt, error: 1.0)
    assert policy.budget is not None
    service = Service({0: 1})
    async with queue_of(breaker=open_after(1), retry=policy) as queue:
        await queue.process(service, 3)
        await put_all(queue, range(100))
        await asyncio.sleep(5)
        assert policy.budget.tokens == 500 - 14
        await queue.join()
    assert Counter(service.items) == Counter([*range(100), 0])


async def test_only_probes_go_through_a_breaker_that_is_half_open() -> None:
    service = Service({0: 1}, takes=5)
    async with queue_of(breaker=open_after(1, probes=2), retry=every(1)) as queue:
        await queue.process(service, 1)
        await queue.put(0)
        await asyncio.sleep(6)
        await queue.process(service, 10)
        await put_all(queue, range(1, 11))
        await asyncio.sleep(31)
        assert queue.statistics().breaker_state == "half_open"
        assert service.under_way == 2
        await queue.join()
    assert service.peak > 2
    assert Counter(service.items) == Counter([*range(11), 0])


async def test_a_refused_item_takes_nothing_from_the_limits() -> None:
    service = Service({"a": 1})
    limits = [Limit(2, 100)]
    async with queue_of(breaker=open_after(1), limits=limits) as queue:
        await queue.process(service, 1, Handler())
        await put_all(queue, "abcdefg")
        await queue.join()
        await asyncio.sleep(31)
        await queue.put("x")
        await queue.join()
    assert service.calls == [("a", 0), ("x", 31)]


async def test_a_stop_that_drains_waits_until_the_breaker_lets_items_through() -> None:
    service = Service({"a": 1})
    queue = queue_of(breaker=open_after(1), retry=every(1))
    await queue.process(service, 2)
    await put_all(queue, "abc")
    assert await queue.stop() is True
    assert now() >= 30
    assert Counter(service.items) == {"a": 2, "b": 1, "c": 1}


async def test_a_probe_that_is_cancelled_lets_the_next_one_through() -> None:
    service = Service({"a": 1}, takes=5)
    queue = queue_of(breaker=open_after(1), retry=every(1))
    await queue.process(service)
    await queue.put("a")
    await asyncio.sleep(37)  # the probe is under way
    assert service.under_way == 1
    await queue.stop(timeout=0)
    await queue.process(service)
    assert await queue.stop()
    assert now() < 45
    assert len(service.times("a")) == 3


async def test_a_probe_that_somebody_else_has_by_now_lets_the_next_one_through() -> None:
    breaker = CircuitBreaker(window=1, open_for=1)
    breaker.open()
    await asyncio.sleep(1)
    policy = Policy(breaker=breaker, limits=[Limit(1, 10)])
    scope = PolicyScope(policy, NoObserver("q"), max_dead_letters=0, postpones=True)
    state = ItemState(scope)
    state.is_revoked = True  # by the pool, while a thread waited for its turn
    with pytest.raises(asyncio.CancelledError):
        await policy.wait(state, "a")
    assert await policy.call(Service(), "b") == "b"
    assert now() == 1, "it took nothing from the limit either"


# -- calls that go on after their answer ------------------------------------------------------


async def test_what_comes_after_the_answer_is_not_latency() -> None:
    adaptive = AdaptiveConcurrency(1, 64, start=4)

    async def work(item: int) -> None:
        await asyncio.sleep(0.1)
        responded()
        await asyncio.sleep(item % 7)

    async with queue_of(concurrency_limit=adaptive) as queue:
        await queue.process(work)
        await put_all(queue, range(100))
    assert adaptive.round_trip == pytest.approx(0.1)
    assert adaptive.limit == 64, "they were under way until their end, so that it was used"
    assert adaptive.cuts == 0


async def test_what_comes_after_the_answer_is_not_the_failure_of_the_service() -> None:
    async def work(item: int) -> None:
        responded()
        raise ConnectionError

    async with queue_of(breaker=open_after(1)) as queue:
        await queue.process(work)
        await put_all(queue, range(3))
    assert queue.statistics().breaker_state == "closed"
    assert queue.metrics["errors"] == 3


# -- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"limits": Limit(1, 1)}, TypeError, "write limits="),
        ({"limits": [1]}, TypeError, "got 1 in it"),
        ({"limits": [Limit(1, 1), Limit(1, 1)]}, ValueError, "give them different names"),
        ({"limits": [(5, 60)]}, TypeError, r"got \(5, 60\) in it: write Limit\(5, 60\)$"),
        ({"retry": 3}, TypeError, r"got 3: write retry=RetryPolicy\(attempts=3\)$"),
        ({"retry": RetryPolicy}, TypeError, r"write retry=RetryPolicy\(\)$"),
        ({"breaker": True}, TypeError, r"got True: write breaker=CircuitBreaker\(\)$"),
        ({"breaker": 3}, TypeError, "breaker must be a CircuitBreaker or None, got 3$"),
        ({"max_dead_letters": -1}, ValueError, "max_dead_letters must be zero or more"),
        ({"max_dead_letters": -(10**5000)}, ValueError, "got <an int of 16610 bits, below zero>"),
        ({"max_dead_letters": 1.5}, TypeError, "max_dead_letters must be an int"),
        ({"concurrency_limit": 0}, ValueError, "Concurrency limit must be at least 1"),
    ],
)
def test_bad_rules(rules: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        queue_of(**rules)


def test_a_call_under_way_when_its_loop_was_closed_is_thrown_away_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    # "Task was destroyed but it is pending" is true.
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
    begun = []

    async def work(item: str) -> None:
        begun.append(item)
        await for_ever()

    async def main() -> None:
        queue = queue_of(limits=[Limit(1, 1)])
        await queue.process(work)
        await queue.put("in hand")
        await settle()

    loop = VirtualTimeLoop()
    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    assert begun == ["in hand"]
    [complaint] = complaints
    assert "was not stopped: 1 accepted items are not done" in str(complaint.exc_value)
