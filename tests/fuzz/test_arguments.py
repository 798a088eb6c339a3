"""Arguments of every type: an object that works, or an error at the call that says what is wrong.

And where it is an error, nothing is left over: no thread, no task.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock.sync
from fuzz.values import Broken, anything, few
from penstock import (
    AdaptiveConcurrency,
    AsyncExecutor,
    Backoff,
    BoundedQueue,
    CircuitBreaker,
    DeadlineExceededError,
    Event,
    Executor,
    Limit,
    Limiter,
    Policy,
    QueueConfig,
    RateLimitedExecutor,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.brokers.nats import NatsLimiter, NatsQueue
from penstock.telemetry import Telemetry
from penstock.testing import run

#: What a refusal may be. (A ValidationError of pydantic is a ValueError.)
REFUSAL = (ValueError, TypeError)

Use = Callable[[Any], Any]


class Call(NamedTuple):
    """What is called, with which arguments besides, which of them may be anything, what then."""

    func: Callable[..., Any]
    given: dict[str, Any]
    names: list[str]
    use: Use = repr


async def double(item: int) -> int:
    return 2 * item


class Doubling(Event):
    async def invoke(self) -> int:
        return 2


def there_and_back(queue: Any) -> None:
    async def put_and_get() -> None:
        await queue.start()
        assert await queue.put(1, 0)
        assert await queue.get(0) == 1
        queue.task_done()
        assert await queue.stop()

    run(put_and_get())
    assert repr(queue)


def through_a_thread(queue: penstock.sync.WorkQueue[int]) -> None:
    assert repr(queue)
    with queue:
        assert queue.put(1, 0)
        assert queue.get(1) == 1
        queue.task_done()


def executed(executor: Any) -> None:
    async def execute() -> None:
        async with executor:
            with suppress(DeadlineExceededError):  # a deadline of zero is allowed
                assert await executor.execute(double, 2) == 4

    run(execute())


def called(policy: Any) -> None:
    async def call() -> None:
        if policy.deadline != 0:
            assert await policy.call(double, 2) == 4
        policy.statistics()

    run(call())


def forwarded(executor: Any) -> None:
    async def forward() -> None:
        async with executor:
            executor.append(Doubling())
            await executor.forward()
            await executor.wait()
            assert len(executor.completed) == 1

    run(forward())


def passed(limit: Limit) -> None:
    async def acquire() -> None:
        assert Limiter([limit]).try_acquire(1) is not None

    assert repr(limit)
    if limit.cost is limit.key is None and limit.max >= 1:
        run(acquire())


def configured(config: QueueConfig) -> None:
    queue: WorkQueue[int] = WorkQueue.from_config(config)
    if not config.limits and config.deadline is None:
        there_and_back(queue)


def adapted(adaptive: AdaptiveConcurrency) -> None:
    adaptive.succeeded(1.0, 0.5, 1)
    adaptive.rejected(2.0, 1)
    assert adaptive.limit >= 1


def broken(breaker: CircuitBreaker) -> None:
    breaker.failed(1.0, breaker.allow(0.0), OSError())
    assert breaker.retry_after(2.0) >= 0


def retried(policy: RetryPolicy) -> None:
    assert repr(policy)


QUEUE = ["maxsize", "timeout", "logger", "name", "telemetry"]
WORK = [*QUEUE, "concurrency_limit", "queue", "limits", "retry", "breaker", "max_dead_letters"]
POLICY = ["limits", "retry", "breaker", "deadline", "attempt_timeout", "concurrency", "classify"]

CALLS = [
    Call(BoundedQueue, {}, QUEUE, there_and_back),
    Call(WorkQueue, {}, [*WORK, "deadline", "attempt_timeout", "policy"], repr),
    Call(Policy, {}, [*POLICY, "name", "telemetry"], called),
    Call(WorkQueue, {}, WORK, there_and_back),
    Call(WorkQueue.from_config, {"config": QueueConfig()}, ["config", "name", "limits"]),
    Call(penstock.sync.WorkQueue, {}, [*WORK, "loop_thread"], through_a_thread),
    Call(Limit, {"max": 1, "per": 1}, ["max", "per", "cost", "key", "name"], passed),
    Call(Limiter, {"limits": ()}, ["limits", "name", "rng"]),
    Call(RetryPolicy, {}, ["attempts", "on", "backoff", "budget"], retried),
    Call(Backoff, {}, ["base", "factor", "max", "jitter", "throttle_base"]),
    Call(RetryBudget, {}, ["tokens", "cost", "throttle_cost", "refund"]),
    Call(AdaptiveConcurrency, {}, ["min", "max", "start"], adapted),
    Call(
        CircuitBreaker,
        {},
        ["failure_share", "window", "minimum", "open_for", "probes", "on"],
        broken,
    ),
    Call(QueueConfig, {}, list(QueueConfig.model_fields), configured),
    Call(AsyncExecutor, {}, ["max_concurrency"], executed),
    Call(
        RateLimitedExecutor,
        {"limits": ()},
        ["limits", "max_concurrency", "retry", "breaker", "deadline", "policy"],
        executed,
    ),
    Call(
        Executor,
        {"event_type": Doubling},
        ["event_type", "queue_config", "logger", "name", "telemetry"],
        forwarded,
    ),
    Call(
        Telemetry,
        {},
        ["tracer_provider", "meter_provider", "spans", "relation", "record_exceptions"],
    ),
    Call(
        NatsQueue,
        {"servers": "nats://127.0.0.1", "name": "q"},
        [
            *("servers", "name", "maxsize", "timeout", "codec", "replicas", "ack_wait", "options"),
            *("max_deliveries", "max_item_size", "max_dead_letters", "deadline", "limits"),
        ],
    ),
    Call(
        NatsLimiter,
        {"servers": "nats://127.0.0.1", "limits": [Limit(1, 1)], "name": "q"},
        ["servers", "limits", "name", "bucket", "replicas", "storage", "options", "rng"],
    ),
]


def is_told(value: Any, problem: str) -> bool:
    """Whether a message says what it was that cannot be: the value, its type, or its size."""
    if "got " in problem or "a value" in problem:
        return True
    return type(value).__name__ in problem or "input_value" in problem or "options has" in problem


@pytest.mark.parametrize(
    "call", CALLS, ids=[f"{n}-{getattr(c.func, '__qualname__', '')}" for n, c in enumerate(CALLS)]
)
@few
@given(data=st.data())
def test_arguments_of_every_kind(call: Call, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(call.names), min_size=1, max_size=2, unique=True))
    values = {name: data.draw(anything, name) for name in names}
    before = {*threading.enumerate()}
    try:
        made = call.func(**{**call.given, **values})
    except REFUSAL as error:
        problem = str(error)
        assert any(is_told(value, problem) for value in values.values()), problem
        assert "Exceeds the limit" not in problem  # which Python says of ints, and of nothing here
        assert len(problem) < 5_000
        assert {*threading.enumerate()} <= before  # those of other tests may end
    else:
        call.use(made)


METHODS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("put", lambda queue, bad: queue.put(1, bad)),
    ("deadline", lambda queue, bad: queue.put(1, 0, deadline=bad)),
    ("get", lambda queue, bad: queue.get(bad)),
    ("start_workers", lambda queue, bad: queue.start_workers(bad, 1)),
    ("num_workers", lambda queue, bad: queue.start_workers(double, bad)),
    ("error_handler", lambda queue, bad: queue.start_workers(double, 1, bad)),
    ("stop_workers", lambda queue, bad: queue.stop_workers(bad)),
    ("redrive", lambda queue, bad: queue.redrive(bad)),
    ("submit", lambda queue, bad: queue.submit(1, timeout=bad)),
    ("stop", lambda queue, bad: queue.stop(bad)),
]


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[name for name, _ in METHODS])
@few
@given(value=anything)
def test_methods_with_arguments_of_every_kind(
    name: str, method: Callable[[Any, Any], Any], value: Any
) -> None:
    is_infinite = type(value) in (int, float) and value > 1e6

    async def call() -> None:
        async with BoundedQueue[int](2) as queue:
            await queue.put(1)
            tasks = asyncio.all_tasks()
            if name == "num_workers" and type(value) is int and value > 1_000:
                return  # so many workers are made as one asks for
            if name == "submit" and not is_infinite:
                await queue.start_workers(double, 1)
                tasks = asyncio.all_tasks()
            try:
                await method(queue, value)
            except REFUSAL as error:
                assert is_told(value, str(error)), error
                assert "Exceeds the limit" not in str(error)
                assert asyncio.all_tasks() == tasks
            except (asyncio.QueueEmpty, asyncio.QueueFull, RuntimeError):
                pass  # the state of the queue, and not the argument
            await queue.stop(0)

    run(call())


@given(
    variables=st.dictionaries(
        st.sampled_from([f"P_{name.upper()}" for name in QueueConfig.model_fields]),
        st.one_of(
            st.text(max_size=12),
            st.integers().map(str),
            st.floats().map(str),
            st.sampled_from(
                [
                    *("5/min", "1/s, 2/h", "1-9", "9-1", "{}", "[]", "[1", '{"max": 1e999}', "٣"),
                    *("9" * 5_000, "[" * 5_000, "1e400/s", "1/1e400s", "0/0", "-0", "nan", "\0"),
                    *("." * 40 + "/s", "_/s", "1_0/s", "\ud800"),
                ]
            ),
        ),
    )
)
def test_the_environment(variables: dict[str, str]) -> None:
    try:
        config = QueueConfig.from_env("P_", variables)
    except REFUSAL as error:
        assert any(name in str(error) for name in QueueConfig.model_fields), error
    else:
        configured(config)


def test_a_value_that_raises_whatever_it_is_asked_is_told_by_its_type() -> None:
    with pytest.raises(TypeError, match=r"maxsize must be an int, got .*Broken"):
        BoundedQueue(Broken())  # type: ignore[arg-type]


LONG, HUGE = "ä" * 5_000, 10**5_000


@pytest.mark.parametrize(
    "call",
    [
        lambda: QueueConfig(limits=[LONG]),  # type: ignore[list-item]
        lambda: NatsLimiter("nats://a", [], name="q", storage=HUGE),  # type: ignore[arg-type]
        lambda: NatsLimiter("nats://a", [], name=LONG),
        lambda: NatsQueue("nats://a", LONG),
        lambda: NatsQueue(f"http://{LONG}", "q"),
        lambda: NatsQueue("nats://a", "q", options={LONG: 1}),
        lambda: Limiter([Limit(1, 1, name=LONG), Limit(2, 1, name=LONG)]),
        lambda: Limiter([Limit(1, 1, name=LONG, cost=lambda item: -1)]).try_acquire(1),
        lambda: Limiter([Limit(1, 1, name=LONG, cost=lambda item: 2)]).try_acquire(1),
        lambda: RetryPolicy(on=ValueError(LONG)),  # type: ignore[arg-type]
        lambda: WorkQueue(limits=Limit(1, 1, name=LONG)),  # type: ignore[arg-type]
    ],
)
def test_what_is_long_is_cut_short_in_a_message(call: Callable[[], Any]) -> None:
    with pytest.raises(REFUSAL) as caught:
        call()
    assert "..." in str(caught.value) or "bits" in str(caught.value)
    assert len(str(caught.value)) < 2_000
