"""Calls under a policy that are made without a queue: ``Policy.call``, ``@policy``."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from helpers.logs import SILENT
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import BOUND, for_ever, now, settle
from helpers.versions import FROM_3_11
from penstock import (
    AdaptiveConcurrency,
    APITimeoutError,
    Budget,
    BudgetExceededError,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Failure,
    Limit,
    Limiter,
    Policy,
    QueueStateError,
    RateLimitError,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import attempts_made
from penstock.testing import VirtualTimeLoop
from telemetry.recorder import Recorder


async def twice(item: int) -> int:
    return item * 2


def plain_twice(item: int) -> int:
    return item * 2


def in_thread(call: Callable[[], Any]) -> Any:
    """Call it in a thread without an event loop; wait as long as a test may."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(BOUND)


# -- what is called ---------------------------------------------------------------------------


async def test_an_async_function_is_awaited_and_keeps_to_the_limits() -> None:
    service = Service()
    policy = Policy(limits=[Limit(2, 10)])
    results = await asyncio.gather(*[policy.call(service, item) for item in range(5)])
    assert results == [0, 1, 2, 3, 4]
    assert [at for _, at in service.calls] == [0, 0, 10, 10, 20]


async def test_all_arguments_are_passed_on_and_the_first_is_the_item() -> None:
    asked: list[Any] = []
    limit = Limit(100, 1, cost=lambda item: asked.append(item) or 1)
    policy = Policy(limits=[limit])

    async def add(one: int, two: int, *, three: int) -> int:
        return one + two + three

    assert await policy.call(add, 1, 2, three=3) == 6
    assert set(asked) == {1}
    assert await policy.call(partial(add, two=2), one=1, three=3) == 6
    assert None in asked, "there is no positional argument"


def test_a_plain_function_blocks_the_calling_thread() -> None:
    policy = Policy(limits=[Limit(1, 0.05)])
    calls: list[float] = []

    def call(item: int) -> int:
        calls.append(item)
        return item + 1

    assert [in_thread(partial(policy.call, call, item)) for item in range(3)] == [1, 2, 3]
    assert calls == [0, 1, 2]


def test_a_thread_waits_for_the_limit_and_for_the_next_attempt() -> None:
    service = Service({"a": 1})
    policy = Policy(limits=[Limit(1, 0.05)], retry=every(0.08))
    assert in_thread(lambda: policy.call(service.in_thread, "a")) == "a"
    assert in_thread(lambda: policy.call(service.in_thread, "b")) == "b"
    first, second = service.times("a")
    assert second - first >= 0.08
    assert service.times("b")[0] - second >= 0.05 - 1e-3


async def test_plain_functions_that_need_not_wait_run_in_a_loop_too() -> None:
    policy = Policy(limits=[Limit(3, 10)], breaker=CircuitBreaker(), deadline=60, concurrency=2)
    assert [policy.call(plain_twice, item) for item in range(3)] == [0, 2, 4]
    assert policy.statistics().under_way == 0


@pytest.mark.parametrize("what", ["a limit", "the breaker", "a slot", "another attempt"])
async def test_plain_functions_that_would_hold_up_the_loop_are_refused(what: str) -> None:
    policy = {
        "a limit": Policy(limits=[Limit(1, 10)]),
        "the breaker": Policy(breaker=CircuitBreaker(window=1), retry=RetryPolicy(1)),
        "a slot": Policy(concurrency=1),
        "another attempt": Policy(retry=every(1)),
    }[what]
    calls: list[int] = []

    def call(item: int) -> None:
        calls.append(item)
        if what == "another attempt":
            raise ConnectionError

    if what == "a limit":
        policy.call(plain_twice, 0)
    elif what == "the breaker":
        with pytest.raises(ConnectionError):
            policy.call(Service({0: 1}).in_thread, 0)
    elif what == "a slot":
        holder = asyncio.create_task(policy.call(for_ever))
        await settle()
    with pytest.raises(QueueStateError, match=r"would wait here.*asyncio\.to_thread"):
        policy.call(call, 1)
    assert len(calls) == (what == "another attempt")
    if what == "a slot":
        holder.cancel()
        await asyncio.wait([holder])
    # And nothing is left waiting.
    statistics = policy.statistics()
    assert (statistics.waiting, statistics.waiting_for_slots, statistics.under_way) == (0, 0, 0)


async def test_a_result_that_is_awaitable_is_awaited_under_the_policy() -> None:
    service = Service({"a": 1}, takes=1)
    policy = Policy(limits=[Limit(10, 10)], retry=every(5), concurrency=1)
    assert await policy.call(lambda item: service(item + "a"), "") == "a"
    assert service.times("a") == [0, 6]
    statistics = policy.statistics()
    assert (statistics.failures, statistics.retries, statistics.under_way) == (1, 1, 0)


async def test_what_is_never_awaited_takes_nothing() -> None:
    policy = Policy(limits=[Limit(1, 10)], concurrency=1)
    coroutine = [policy.call(lambda: twice(1))]
    with pytest.warns(RuntimeWarning, match="'twice' was never awaited"):
        coroutine.pop().close()
    gc.collect()
    assert policy.statistics().under_way == 0
    assert await policy.call(twice, 2) == 4
    assert now() == 0


def test_an_awaitable_without_an_event_loop_is_a_mistake() -> None:
    policy = Policy()
    with pytest.raises(TypeError, match="returned an awaitable, and no event loop runs"):
        in_thread(lambda: policy.call(lambda: twice(1)))


def a_generator(item: int) -> Iterator[int]:
    yield item


async def an_async_generator(item: int) -> AsyncIterator[int]:
    yield item


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (a_generator, "got the generator"),
        (an_async_generator, "got the generator"),
        (lambda item: a_generator(item + 1), "must not be a generator"),
        (5, "func must be a function, got 5"),
    ],
)
async def test_what_cannot_be_called_under_a_policy(func: Any, message: str) -> None:
    policy = Policy(retry=every(0))
    with pytest.raises(TypeError, match=message):
        policy.call(func, 1)


def test_a_stop_iteration_of_a_plain_function_is_what_its_caller_gets() -> None:
    policy = Policy(retry=every(0, on=lambda error: False))
    numbers = iter([1])
    assert policy.call(next, numbers) == 1
    with pytest.raises(StopIteration):
        policy.call(next, numbers)


# -- retries, breaker, deadlines --------------------------------------------------------------


async def test_a_failed_call_is_tried_again_and_its_last_error_is_raised() -> None:
    service = Service({"a": 9})
    policy = Policy(retry=every(10))
    with pytest.raises(ConnectionError) as raised:
        await policy.call(service, "a")
    assert service.times("a") == [0, 10, 20]
    assert raised.value is service.raised[-1]
    assert attempts_made(raised.value) == 3
    statistics = policy.statistics()
    assert (statistics.starts, statistics.failures, statistics.retries) == (3, 3, 2)


async def test_calls_pay_from_one_budget() -> None:
    budget = RetryBudget(tokens=20, cost=10)
    policy = Policy(retry=RetryPolicy(3, backoff=lambda *_: 1.0, budget=budget))
    service = Service({"a": 1, "b": 9})
    await policy.call(service, "a")
    assert budget.tokens == 20, "a retry that succeeds gives back what it cost"
    with pytest.raises(ConnectionError):
        await policy.call(service, "b")
    assert budget.tokens == 0


@pytest.mark.parametrize("broken", ["on", "backoff", "classify"])
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_function_of_the_users_that_raises(broken: str, kind: str) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("broken")

    options: dict[str, Any] = {broken: fail}
    service = Service({"a": 1})
    if broken == "classify":
        policy = Policy(classify=fail, retry=RetryPolicy(2, on=ConnectionError))
    else:
        policy = Policy(retry=RetryPolicy(2, **options))
    if kind == "async":
        call = policy.call(service, "a")
    else:
        call = asyncio.to_thread(policy.call, service.in_thread, "a")
    with pytest.raises(ZeroDivisionError) as raised:
        await call
    assert raised.value.__cause__ is service.raised[0]
    assert len(service.calls) == 1


async def test_a_call_that_the_breaker_refuses_fails_or_waits() -> None:
    breaker = CircuitBreaker(window=1, open_for=30)
    policy = Policy(breaker=breaker)
    with pytest.raises(ConnectionError):
        await policy.call(Service({"a": 1}), "a")
    assert policy.statistics().breaker_state == "open"
    with pytest.raises(CircuitBreakerOpenError):
        await policy.call(twice, 1)
    patient = Policy(breaker=breaker, retry=every(1))
    assert await patient.call(twice, 2) == 4
    assert now() == 30


async def test_a_deadline_is_for_all_attempts_together() -> None:
    service = Service({"a": 9}, takes=1)
    policy = Policy(deadline=10, retry=every(3, attempts=9))
    with pytest.raises(ConnectionError):
        await policy.call(service, "a")
    assert service.times("a") == [0, 4, 8]
    slow = Policy(deadline=5, limits=[Limit(1, 10)])
    await slow.call(twice, 1)
    with pytest.raises(DeadlineExceededError):
        await slow.call(twice, 2)


async def test_a_call_that_gets_no_slot_before_its_deadline_fails_then() -> None:
    policy = Policy(deadline=5, concurrency=1)
    holder = asyncio.create_task(policy.call(for_ever))
    await settle()
    with pytest.raises(DeadlineExceededError):
        await policy.call(twice, 1)
    assert 5 <= now() < 6
    with pytest.raises(DeadlineExceededError):
        await asyncio.to_thread(Policy(deadline=0, concurrency=1).call, plain_twice, 1)
    holder.cancel()
    await asyncio.wait([holder])
    assert await policy.call(twice, 2) == 4
    assert policy.statistics().under_way == 0


def test_nor_does_a_thread_wait_for_longer() -> None:
    policy = Policy(deadline=0.1, concurrency=1)
    begun, end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        holder = threads.submit(policy.call, lambda: begun.set() or end.wait(BOUND))
        assert begun.wait(BOUND)
        with pytest.raises(DeadlineExceededError):
            policy.call(plain_twice, 1)
        assert policy.statistics().waiting_for_slots == 0
        end.set()
        holder.result(BOUND)
    assert policy.statistics().under_way == 0


async def test_a_spent_budget_and_a_cost_that_is_too_large() -> None:
    policy = Policy(limits=[Budget(2), Limit(5, 1, cost=lambda item: item, name="cost")])
    with pytest.raises(ValueError, match="can never pass"):
        await policy.call(twice, 6)
    for item in (1, 2):
        await policy.call(twice, item)
    with pytest.raises(BudgetExceededError):
        await policy.call(twice, 1)


async def test_items_of_one_key_wait_in_turn() -> None:
    service = Service()
    policy = Policy(limits=[Limit(1, 10, key=lambda item: item[0])])
    await asyncio.gather(*[policy.call(service, item) for item in ("a1", "a2", "a3", "b1")])
    assert service.calls == [("a1", 0), ("b1", 0), ("a2", 10), ("a3", 20)]


async def test_a_refusal_closes_the_gate_for_all() -> None:
    policy = Policy()
    with pytest.raises(RateLimitError):
        await policy.call(Service({"a": 1}, error=lambda: RateLimitError(retry_after=30)), "a")
    service = Service()
    await asyncio.gather(*[policy.call(service, item) for item in range(3)])
    assert all(at >= 30 for _, at in service.calls)
    assert policy.statistics().gate_closures == 1


async def test_settle_finds_the_permit_of_the_call() -> None:
    tokens = Limit(10, 10, cost=lambda item: 5, name="tokens")
    policy = Policy(limits=[tokens])

    async def call(item: int) -> float:
        tokens.settle(10)
        return now()

    assert [await policy.call(call, item) for item in range(3)] == [0, 10, 20]
    with pytest.raises(RuntimeError, match="outside of a call"):
        tokens.settle(1)


async def test_a_call_inside_another_settles_its_own_limit_and_that_of_the_other() -> None:
    outer, inner = Limit(1, 60, name="outer"), Limit(1, 60, name="inner")
    other, policy = Policy(limits=[inner]), Policy(limits=[outer])

    async def give_back(item: str) -> None:
        outer.settle(0)
        inner.settle(0)

    async def call(item: str) -> None:
        await other.call(give_back, item)
        with pytest.raises(RuntimeError, match="'inner' was called outside of a call"):
            inner.settle(1)

    for item in "ab":
        await policy.call(call, item)
    assert now() == 0


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_in_a_forked_child_a_call_of_the_parent_gives_nothing_back() -> None:
    limit = Limit(3, 600, name="it")
    policy = Policy(limits=[limit])
    child = policy.call(os.fork)
    if not child:
        os._exit(0 if policy.limits.remaining() == {"it": 3} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def fork() -> int:
        child = os.fork()
        if not child:
            try:
                limit.settle(0)
            finally:
                os._exit(0 if policy.limits.remaining() == {"it": 3} else 1)
        return child

    child = policy.call(fork)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert policy.limits.remaining() == {"it": 1}


# -- classify ---------------------------------------------------------------------------------


class VendorError(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


def of_vendor(error: Exception) -> Failure | None:
    if not isinstance(error, VendorError):
        return None
    return Failure(
        is_throttle=error.kind == "slow down",
        is_permanent=error.kind == "wrong",
        retry_after=20.0 if error.kind == "slow down" else 0.0,
    )


async def test_the_users_classify_is_asked_first_and_once_an_attempt() -> None:
    asked: list[Exception] = []

    def classify(error: Exception) -> Failure | None:
        asked.append(error)
        return of_vendor(error)

    policy = Policy(classify=classify, retry=RetryPolicy(3), breaker=CircuitBreaker())
    with pytest.raises(VendorError):
        await policy.call(Service({"a": 9}, error=lambda: VendorError("wrong")), "a")
    assert len(asked) == 1
    service = Service({"a": 1}, error=lambda: VendorError("slow down"))
    await policy.call(service, "a")
    assert len(asked) == 2
    assert service.times("a")[1] >= 20
    assert policy.statistics().gate_closures == 1


async def test_what_classify_does_not_know_penstock_looks_at() -> None:
    policy = Policy(classify=of_vendor, retry=RetryPolicy(3))
    with pytest.raises(KeyError):
        await policy.call(Service({"a": 9}, error=KeyError), "a")
    assert policy.statistics().retries == 0


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ("wrong", TypeError, "classify must return a Failure or None, got 'wrong'"),
        (Failure(retry_after=-1), ValueError, "retry_after must be zero or more"),
    ],
)
async def test_what_classify_must_not_return(
    answer: Any, error: type[Exception], message: str
) -> None:
    policy = Policy(classify=lambda error: answer)
    with pytest.raises(error, match=message) as raised:
        await policy.call(Service({"a": 1}), "a")
    assert isinstance(raised.value.__cause__, ConnectionError)


async def test_a_queue_asks_classify_as_well() -> None:
    service = Service({"a": 1}, error=lambda: VendorError("slow down"))
    async with WorkQueue[Any](
        logger=SILENT, policy=Policy(classify=of_vendor, retry=RetryPolicy(3))
    ) as queue:
        await queue.process(service)
        await queue.put("a")
        await queue.join()
    assert service.times("a")[1] >= 20


# -- a timeout for each attempt ---------------------------------------------------------------


async def test_an_attempt_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    begun: list[float] = []

    async def hang_once(item: str) -> str:
        begun.append(now())
        if len(begun) == 1:
            await for_ever()
        return item

    policy = Policy(attempt_timeout=5, retry=every(1))
    assert await policy.call(hang_once, "a") == "a"
    assert begun == [0, 6]
    impatient = Policy(attempt_timeout=5)
    with pytest.raises(APITimeoutError, match="took longer than 5 seconds"):
        await impatient.call(for_ever)


async def test_a_timeout_of_the_functions_own_is_its_own() -> None:
    async def call() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await Policy(attempt_timeout=5).call(call)


async def test_a_worker_goes_on_after_an_attempt_that_took_too_long() -> None:
    begun: list[Any] = []

    async def hang_once(item: str) -> None:
        begun.append(item)
        if begun == ["a"]:
            await for_ever()

    async with WorkQueue[str](logger=SILENT, attempt_timeout=5, retry=every(1)) as queue:
        await queue.process(hang_once)
        await queue.put("a")
        await queue.put("b")
        await queue.join()
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == 0
    assert begun == ["a", "b", "a"]


async def test_a_plain_function_cannot_be_cut_off_and_is_refused() -> None:
    policy = Policy(attempt_timeout=5)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        policy.call(plain_twice, 1)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        policy(plain_twice)
    queue = WorkQueue[int](policy=policy)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        await queue.process(plain_twice)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        await queue.batch_process([1], plain_twice)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        assert [one async for one in queue.map(plain_twice, [1])] == []


# -- as a decorator ---------------------------------------------------------------------------


async def test_a_decorated_function_is_what_it_was() -> None:
    policy = Policy(limits=[Limit(1, 10)])

    @policy
    async def fetch(item: int, *, more: int = 0) -> float:
        """Fetches."""
        return now() + item + more

    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetches.")
    assert inspect.iscoroutinefunction(fetch)
    assert list(inspect.signature(fetch).parameters) == ["item", "more"]
    assert [await fetch(1), await fetch(1, more=1)] == [1, 12]


def test_a_decorated_plain_function() -> None:
    service = Service({"a": 1})
    policy = Policy(retry=every(0))
    call = policy(service.in_thread)
    assert call("a") == "a"
    assert len(service.calls) == 2


async def test_the_item_of_a_method_is_what_comes_after_self() -> None:
    asked: list[Any] = []
    limit = Limit(100, 1, key=lambda item: asked.append(item) or 0)
    policy = Policy(limits=[limit])

    class Client:
        @policy
        async def send(self, item: str) -> str:
            return item

        @policy
        def plain(self, item: str) -> str:
            return item

        @classmethod
        @policy
        async def of_class(cls, item: str) -> str:
            return item

        @staticmethod
        @policy
        async def static(item: str) -> str:
            return item

    @policy
    async def function(self: str) -> str:
        return self

    client = Client()
    assert await client.send("a") == "a"
    assert await client.send(item="b") == "b"
    assert client.plain("c") == "c"
    assert await client.of_class("d") == "d"
    assert await Client.static("e") == "e"
    assert await function("f") == "f"
    assert list(dict.fromkeys(asked)) == ["a", "b", "c", "d", "e", "f"]


def test_the_policy_stands_below_staticmethod_and_classmethod() -> None:
    with pytest.raises(TypeError, match="must stand below @staticmethod"):
        Policy()(staticmethod(plain_twice))  # type: ignore[arg-type]


@pytest.mark.parametrize("func", [a_generator, an_async_generator, 5])
def test_what_cannot_be_decorated(func: Any) -> None:
    with pytest.raises(TypeError):
        Policy()(func)


# -- at once ----------------------------------------------------------------------------------


async def test_concurrency_bounds_the_calls_under_way() -> None:
    service = Service(takes=1)
    policy = Policy(concurrency=3)
    await asyncio.gather(*[policy.call(service, item) for item in range(7)])
    assert service.peak == 3
    assert [at for _, at in service.calls] == [0, 0, 0, 1, 1, 1, 2]


async def test_a_call_inside_a_call_takes_no_second_slot() -> None:
    policy = Policy(limits=[Limit(1, 10)], concurrency=1)
    seen: list[float] = []

    @policy
    async def inner(item: str) -> None:
        seen.append(now())

    @policy
    async def outer(item: str) -> None:
        seen.append(now())
        await inner(item)
        await asyncio.create_task(inner(item))
        assert policy.statistics().under_way == 1

    await outer("a")
    assert seen == [0, 10, 20], "but each is a start"
    assert policy.statistics().under_way == 0


async def test_a_task_that_outlives_its_call_takes_a_slot_again() -> None:
    policy = Policy(concurrency=1)
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await policy.call(asyncio.sleep, 5)

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(later())

    task = await policy.call(begin)
    go_on.set()
    await settle()
    assert policy.statistics().under_way == 1
    await policy.call(twice, 1)
    assert now() >= 5
    await task


@pytest.mark.parametrize("how", ["submit", "map", "batch_process"])
async def test_an_item_that_an_item_waits_for_takes_no_second_slot(how: str) -> None:
    queue = WorkQueue[int](logger=SILENT, policy=Policy(concurrency=1))

    async def work(item: int) -> int:
        if not item:
            return 0
        if how == "submit":
            return 1 + int(await (await queue.submit(item - 1)))
        if how == "map":
            [result] = [result async for result in queue.map(work, [item - 1])]
            return 1 + result
        assert (await queue.batch_process([item - 1], work)).failed == 0
        return item

    await queue.process(work)
    assert await asyncio.wait_for(await queue.submit(3), BOUND) == 3
    await queue.stop()


async def test_another_policy_inside_a_call_has_slots_of_its_own() -> None:
    inner, outer = Policy(concurrency=1), Policy(concurrency=2)
    service = Service(takes=1)
    call = inner(service)
    await asyncio.gather(*[outer.call(call, item) for item in range(2)])
    assert service.peak == 1


async def test_a_cancelled_call_gives_back_what_it_took() -> None:
    policy = Policy(limits=[Limit(1, 10)], concurrency=1)
    holder = asyncio.create_task(policy.call(for_ever))
    await settle()
    waits_for_slot = asyncio.create_task(policy.call(twice, 1))
    await settle()
    assert policy.statistics().waiting_for_slots == 1
    waits_for_slot.cancel()
    await asyncio.wait([waits_for_slot])
    holder.cancel()
    await asyncio.wait([holder])
    waits_for_limit = asyncio.create_task(policy.call(twice, 1))
    await asyncio.sleep(1)
    assert policy.statistics().waiting == 1
    waits_for_limit.cancel()
    await asyncio.wait([waits_for_limit])
    assert await policy.call(twice, 2) == 4
    assert now() == 10
    statistics = policy.statistics()
    assert (statistics.failures, statistics.under_way, statistics.waiting_for_slots) == (0, 0, 0)


async def test_a_call_whose_task_is_destroyed_gives_back_its_slot() -> None:
    policy = Policy(concurrency=1)
    call = policy.call(for_ever)
    call.send(None)  # it is under way
    assert policy.statistics().under_way == 1
    call.close()
    del call
    gc.collect()
    assert policy.statistics().under_way == 0


async def test_adaptive_concurrency_is_found_out_for_all_users_together() -> None:
    adaptive = AdaptiveConcurrency(1, 50, start=4)
    policy = Policy(concurrency=adaptive)
    service = Service(takes=0.1)
    async with WorkQueue[Any](1000, concurrency_limit=30, logger=SILENT, policy=policy) as queue:
        await queue.process(service)
        for item in range(300):
            await queue.put(item)
        await asyncio.gather(*[policy.call(service, item) for item in range(300, 600)])
        await queue.join()
    assert sorted(service.items) == list(range(600))
    assert adaptive.limit > 4
    assert service.peak <= policy.statistics().concurrency_limit  # type: ignore[operator]


# -- many users -------------------------------------------------------------------------------


async def test_queues_and_calls_share_one_policy() -> None:
    policy = Policy(limits=[Limit(5, 10)], concurrency=2)
    service = Service(takes=0.5)
    queues = [WorkQueue[Any](logger=SILENT, policy=policy) for _ in range(2)]
    await asyncio.gather(
        *[queue.batch_process(range(4), service, 3) for queue in queues],
        *[policy.call(service, item) for item in range(4)],
    )
    assert service.peak == 2
    times = sorted(at for _, at in service.calls)
    assert all(later - first >= 10 for first, later in zip(times, times[5:], strict=False))
    assert policy.statistics().starts == 12
    assert queues[0].limits is queues[1].limits is policy.limits


@pytest.mark.real_time
async def test_loops_and_threads_share_one_policy() -> None:
    policy = Policy(limits=[Limit(30, 0.2)], retry=every(0.01, attempts=9), concurrency=3)
    service = Service(dict.fromkeys(range(0, 60, 7), 1), takes=0.001)

    def by_thread(items: range) -> None:
        for item in items:
            assert policy.call(service.in_thread, item) == item

    def by_loop(items: range) -> None:
        async def main() -> None:
            results = await asyncio.gather(*[policy.call(service, item) for item in items])
            assert results == list(items)

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(by_thread, range(15)),
            threads.submit(by_thread, range(15, 30)),
            threads.submit(by_loop, range(30, 45)),
            threads.submit(by_loop, range(45, 60)),
        ]
        for job in jobs:
            await asyncio.wait_for(asyncio.wrap_future(job), BOUND)
    assert service.peak <= 3
    assert set(service.items) == set(range(60))
    statistics = policy.statistics()
    assert (statistics.under_way, statistics.waiting_for_slots) == (0, 0)
    assert statistics.failures == statistics.retries == len(range(0, 60, 7))


def test_a_policy_in_one_virtual_loop_after_the_other() -> None:
    policy = Policy(limits=[Limit(1, 10)], concurrency=1)

    async def main() -> float:
        await policy.call(twice, 1)
        await policy.call(twice, 2)
        return now()

    def in_loop() -> float:
        loop = VirtualTimeLoop()
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    assert [in_thread(in_loop) for _ in range(2)] == [10, 10]


def test_a_thread_that_is_interrupted_while_it_waits_for_a_slot_has_taken_none() -> None:
    policy = Policy(concurrency=1)
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert end.wait(BOUND)

    with ThreadPoolExecutor(1) as threads:
        holder = threads.submit(policy.call, hold)
        assert begun.wait(BOUND)

        def interrupted(*_: Any) -> bool:
            raise KeyboardInterrupt

        waiter = threading.Event.wait
        try:
            threading.Event.wait = interrupted  # type: ignore[method-assign,assignment]
            with pytest.raises(KeyboardInterrupt):
                policy.call(plain_twice, 1)
        finally:
            threading.Event.wait = waiter  # type: ignore[method-assign]
        assert policy.statistics().waiting_for_slots == 0
        end.set()
        holder.result(BOUND)
    assert policy.call(plain_twice, 2) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("where", ["beside a call", "inside a call"])
def test_in_a_forked_child_all_slots_are_free_and_no_lock_is_held(where: str) -> None:
    policy = Policy(concurrency=1, retry=every(0), breaker=CircuitBreaker(), name="forked")
    slots = policy._slots
    assert slots is not None

    def in_child() -> bool:
        service = Service({"a": 1})
        done: list[str] = []

        def call() -> None:
            done.append(policy.call(service.in_thread, "a"))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(20)
        return done == ["a"] and policy.statistics().under_way == 0

    def fork() -> int:
        child = os.fork()
        if not child and where == "beside a call":
            os._exit(0 if in_child() else 1)
        return child

    begun, end = threading.Event(), threading.Event()
    if where == "beside a call":
        with ThreadPoolExecutor(1) as threads:
            holder = threads.submit(policy.call, lambda: begun.set() or end.wait(BOUND))
            assert begun.wait(BOUND)
            with policy._lock, slots._lock:
                child = fork()
            end.set()
            holder.result(BOUND)
    else:
        child = policy.call(fork)
        if not child:  # the call that its parent began has ended here, too
            os._exit(0 if in_child() and slots.try_acquire() and not slots.try_acquire() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert policy.statistics().under_way == 0


# -- telemetry --------------------------------------------------------------------------------


async def test_each_attempt_of_a_call_has_a_span() -> None:
    recorder = Recorder()
    policy = Policy(retry=every(1), name="vendor", telemetry=recorder.telemetry())
    await policy.call(Service({"a": 1}), "a")
    spans = [span for span in recorder.spans() if span.name == "process vendor"]
    assert [span.attributes["penstock.attempt"] for span in spans] == [1, 2]  # type: ignore[index]


# -- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limits": Limit(1, 1)}, TypeError, "write limits="),
        ({"limits": "5/s"}, TypeError, "write limits="),
        ({"retry": 3}, TypeError, "retry must be a RetryPolicy or None, got 3"),
        ({"breaker": True}, TypeError, "breaker must be a CircuitBreaker or None"),
        ({"deadline": -1}, ValueError, "deadline must be zero or more"),
        ({"attempt_timeout": 0}, ValueError, "attempt_timeout must be above 0"),
        ({"attempt_timeout": math.inf}, ValueError, "attempt_timeout must be finite"),
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1, got 0"),
        ({"concurrency": 1.5}, TypeError, "concurrency must be an int"),
        ({"classify": 5}, TypeError, "classify must be a function"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"telemetry": 5}, TypeError, "telemetry must be"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Policy(**options)


def test_what_it_looks_like() -> None:
    limiter = Limiter([Limit(5, 1)])
    shown = repr(Policy(limits=limiter, concurrency=3, name="vendor"))
    assert "'vendor'" in shown
    assert "5 per 1 s" in shown
    assert "concurrency=3" in shown


@FROM_3_11
async def test_the_error_says_how_many_attempts() -> None:
    with pytest.raises(ConnectionError) as raised:
        await Policy(retry=every(1)).call(Service({"a": 9}), "a")
    assert raised.value.__notes__ == [
        "penstock: given up after 3 attempts: the retry policy allows no more attempts"
    ]


def test_limits_may_come_first_and_a_decorator_needs_parentheses() -> None:
    assert [limit.name for limit in Policy(["5/s"]).limits.limits] == ["5 per 1 s"]
    with pytest.raises(TypeError, match=r"got <function .*: @Policy\(limits="):

        @Policy  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        def fetch(item: int) -> None: ...
