"""What limits, retries, adaptation and the breaker tell: attributes of spans, and metrics."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import Histogram, Sum
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import StatusCode

from helpers.handlers import ignore
from helpers.retries import every
from penstock import (
    AdaptiveConcurrency,
    Budget,
    CircuitBreaker,
    Limit,
    RateLimitError,
    WorkQueue,
)
from telemetry.recorder import Recorder, parent_id, span_id

pytestmark = pytest.mark.usefixtures("exact_times")

CONNECTION_ERROR, RATE_LIMIT = "ConnectionError", "penstock.errors.RateLimitError"


def queue_of(recorder: Recorder, name: str = "q", **options: Any) -> WorkQueue[Any]:
    return WorkQueue(name=name, telemetry=recorder.telemetry(), **options)


def failing(times: int, error: type[Exception] = ConnectionError) -> Any:
    """A worker function that fails so often on each item."""
    calls: dict[Any, int] = {}

    async def work(item: Any) -> None:
        calls[item] = calls.get(item, 0) + 1
        if calls[item] <= times:
            raise error("no")

    return work


async def fine(item: Any) -> None:
    await asyncio.sleep(1)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# -- spans ------------------------------------------------------------------------------------


async def test_each_attempt_has_a_span_with_its_number(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(10)) as queue:
        await queue.process(failing(2))
        await queue.put("item")
        await queue.join()
    put, spans = recorder.span("put q"), recorder.spans("process q")
    assert [attributes(span)["penstock.attempt"] for span in spans] == [1, 2, 3]
    assert [parent_id(span) for span in spans] == [span_id(put)] * 3
    assert [[link.context.span_id for link in span.links] for span in spans] == [[span_id(put)]] * 3
    error, unset = StatusCode.ERROR, StatusCode.UNSET
    assert [span.status.status_code for span in spans] == [error, error, unset]
    assert [attributes(span).get("error.type") for span in spans] == [CONNECTION_ERROR] * 2 + [None]
    assert [attributes(span)["penstock.wait_time"] for span in spans] == [0, 10, 10]


async def test_samplers_see_the_number_of_the_attempt() -> None:
    class RetriesOnly(Sampler):
        def should_sample(self, parent_context: Any, *args: Any, **options: Any) -> SamplingResult:
            given = options.get("attributes") or args[3] or {}
            wanted = given.get("penstock.attempt", 0) > 1
            return SamplingResult(Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP, given)

        def get_description(self) -> str:
            return "retries only"

    sampler = RetriesOnly()
    recorder = Recorder(sampler=ParentBased(sampler, local_parent_not_sampled=sampler))
    async with queue_of(recorder, retry=every(10)) as queue:
        await queue.process(failing(1))
        await queue.put("item")
        await queue.join()
    assert recorder.names() == ["process q"]
    assert attributes(recorder.span("process q"))["penstock.attempt"] == 2
    recorder.shutdown()


async def test_an_item_that_is_put_back_begins_with_its_first_attempt(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(1, attempts=2)) as queue:
        await queue.process(failing(2), 1, ignore)
        await queue.put("item")
        await queue.join()
        assert await queue.redrive() == 1
        await queue.join()
    numbers = [attributes(span)["penstock.attempt"] for span in recorder.spans("process q")]
    assert numbers == [1, 2, 1]
    assert len(recorder.spans("put q")) == 2


async def test_a_span_tells_how_long_its_item_waited_for_limits(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 10)]) as queue:
        await queue.process(fine)
        for item in range(3):
            await queue.put(item)
        await queue.join()
    spans = recorder.spans("process q")
    assert [attributes(span)["penstock.limit.wait_time"] for span in spans] == [0, 9, 19]


async def test_without_limits_it_tells_nothing_of_them(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(1)) as queue:
        await queue.process(fine)
        await queue.put("item")
        await queue.join()
    assert "penstock.limit.wait_time" not in attributes(recorder.span("process q"))
    assert "penstock.limit.wait_time" not in recorder.metrics()


# -- metrics ----------------------------------------------------------------------------------


async def test_the_wait_for_limits_is_a_distribution(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 10, name="requests")]) as queue:
        await queue.process(fine)
        for item in range(3):
            await queue.put(item)
        await queue.join()
    metric = recorder.metrics()["penstock.limit.wait_time"]
    assert isinstance(metric.data, Histogram)
    assert metric.unit == "s"
    (point,) = metric.data.data_points
    assert point.attributes == {"penstock.queue.name": "q", "penstock.limit.name": "requests"}
    assert (point.count, point.sum) == (3, 18)
    assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.001, 3600)


async def test_the_limit_that_has_least_left_is_the_one_that_is_named(recorder: Recorder) -> None:
    limits = [Limit(9, 10, name="many"), Limit(2, 10, name="few")]
    async with queue_of(recorder, limits=limits) as queue:
        await queue.process(fine)
        for item in range(4):
            await queue.put(item)
        await queue.join()
    waits = recorder.values("penstock.limit.wait_time")
    assert waits["q", "few"] == (1, 8)
    assert waits["q", "many"] == (3, 0)  # under the first, where there was nothing to wait for


async def test_the_share_of_each_limit_that_is_used(recorder: Recorder) -> None:
    limits = [Limit(8, 10, name="many"), Limit(2, 10, name="few")]
    async with queue_of(recorder, limits=limits) as queue, queue_of(recorder, limits=["2/s"]):
        assert recorder.values("penstock.limit.utilization")["q", "few"] == 0
        await queue.process(fine)
        await queue.put(1)
        await queue.join()
        assert recorder.values("penstock.limit.utilization") == {
            ("q", "many"): 0.125,
            ("q", "few"): 0.5,
            ("q", "2 per 1 s"): 0,
        }


async def test_each_wait_is_told_by_its_cause(recorder: Recorder) -> None:
    limits = [Limit(1, 10, name="requests")]
    async with queue_of(recorder, limits=limits, retry=every(3)) as queue:
        await queue.put("a")
        await asyncio.sleep(2)
        await queue.process(failing(1))
        await queue.join()
    # 2 s until there was a worker; then 3 s until it was due again, and 7 more by the limit.
    assert recorder.values("penstock.item.wait_time") == {
        ("q", "worker"): (2, 2),
        ("q", "limit"): (2, 7),
        ("q", "retry"): (1, 3),
    }


async def test_the_workers_that_wait_for_a_limit_are_told_apart(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 10)]) as queue:
        await queue.process(fine, 3)
        for item in range(3):
            await queue.put(item)
        await asyncio.sleep(5)
        assert recorder.values("penstock.worker.count") == {
            ("q", "busy"): 0,
            ("q", "limited"): 2,  # as many as there are items for
            ("q", "idle"): 1,
        }
        await queue.join()
        assert recorder.values("penstock.worker.count")["q", "idle"] == 3


async def test_a_worker_that_waits_with_its_item_is_told_apart_too(recorder: Recorder) -> None:
    limits: list[Any] = [Limit(1, 10), Budget(99, cost=lambda item: 1, name="tokens")]
    async with queue_of(recorder, limits=limits) as queue:
        await queue.process(fine, 2)
        for item in range(3):
            await queue.put(item)
        await asyncio.sleep(5)
        workers = recorder.values("penstock.worker.count")
        assert (workers["q", "busy"], workers["q", "limited"]) == (0, 2)
        await queue.join()


async def test_a_call_that_was_not_made_has_no_duration(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 10)], retry=every(1)) as queue:
        await queue.process(fine, 1, ignore)
        await queue.put("a")
        await queue.put("late", deadline=5)
        await queue.join()
    assert recorder.values("penstock.process.duration") == {("q",): (1, 1)}
    items = recorder.values("penstock.process.items")
    assert (items["q", "ok"], items["q", "deadline"]) == (1, 1)


async def test_the_wait_for_the_limit_of_a_key_is_told_too(recorder: Recorder) -> None:
    limits = [Limit(1, 10, key=lambda item: 0, name="requests")]
    async with queue_of(recorder, limits=limits) as queue:
        await queue.process(fine)
        for item in range(3):
            await queue.put(item)
        await queue.join()
    spans = recorder.spans("process q")
    assert [attributes(span)["penstock.limit.wait_time"] for span in spans] == [0, 9, 19]


async def test_retries_and_dead_letters_are_counted_by_their_error(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(1)) as queue:
        await queue.process(failing(9), 1, ignore)
        await queue.put("a")
        await queue.put("b")
        await queue.join()
        await queue.process(failing(1, RateLimitError), 1, ignore)
        await queue.put("c")
        await queue.join()
        assert recorder.values("penstock.item.retries") == {
            ("q", CONNECTION_ERROR): 4,
            ("q", RATE_LIMIT): 1,
        }
        assert recorder.values("penstock.dead_letter.items") == {("q",): 2}
        assert recorder.values("penstock.worker.errors") == {
            ("q", CONNECTION_ERROR): 6,  # each attempt is one call that failed
            ("q", RATE_LIMIT): 1,
        }
        items = recorder.values("penstock.process.items")
        assert (items["q", "ok"], items["q", "dead_letter"], items["q", "failed"]) == (1, 2, 0)
    metric = recorder.metrics()["penstock.item.retries"]
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic
    assert metric.unit == "{retry}"
    # They are kept, though the queue is stopped.
    assert recorder.values("penstock.dead_letter.items") == {("q",): 2}


async def test_the_failure_of_a_submitted_item_is_no_dead_letter(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(1)) as queue:
        await queue.process(failing(9))
        future = await queue.submit("a")
        await asyncio.wait([future])
        assert isinstance(future.exception(), ConnectionError)
    assert recorder.values("penstock.dead_letter.items") == {("q",): 0}
    assert recorder.values("penstock.process.items")["q", "failed"] == 1
    assert recorder.values("penstock.item.retries") == {("q", CONNECTION_ERROR): 2}


async def test_items_that_wait_for_another_attempt_take_up_room(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(10)) as queue:
        await queue.process(failing(1))
        await queue.put("a")
        await queue.put("b")
        await asyncio.sleep(5)
        await queue.stop_workers()
        await queue.put("c")
        assert recorder.values("penstock.queue.size") == {("q", "ready"): 1, ("q", "delayed"): 2}
        await queue.process(fine)
        await queue.join()
        assert recorder.values("penstock.queue.size") == {("q", "ready"): 0, ("q", "delayed"): 0}


async def test_the_concurrency_that_was_found_out(recorder: Recorder) -> None:
    async with queue_of(recorder, concurrency_limit=AdaptiveConcurrency(4, 50)) as queue:
        await queue.process(fine)
        assert recorder.values("penstock.concurrency.limit") == {("q",): 4}
        for item in range(60):
            await queue.put(item)
        await queue.join()
        limit = queue.statistics().concurrency_limit
        assert limit is not None
        assert limit > 4
        assert recorder.values("penstock.concurrency.limit") == {("q",): limit}
        assert recorder.metrics()["penstock.concurrency.limit"].unit == "{call}"
        await queue.process(fine, 2)
        assert recorder.values("penstock.concurrency.limit") == {}


async def test_how_long_the_gate_was_closed(recorder: Recorder) -> None:
    queue = queue_of(recorder, limits=[Limit(1000, 1)])
    await queue.start()
    assert recorder.values("penstock.gate.closed_time") == {("q",): 0}
    queue.limits.close_for(5)
    await asyncio.sleep(2)
    assert recorder.values("penstock.gate.closed_time") == {("q",): 2}
    queue.limits.close_for(4)  # a second more
    await asyncio.sleep(10)
    assert recorder.values("penstock.gate.closed_time") == {("q",): 6}
    queue.limits.close_for(5)
    await asyncio.sleep(10)
    metric = recorder.metrics()["penstock.gate.closed_time"]
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic
    assert metric.unit == "s"
    # It is the time of the queue: another one that shares the limiter begins with nothing.
    other = queue_of(recorder, "other", limits=queue.limits)
    await queue.stop()
    del queue
    gc.collect()
    assert recorder.values("penstock.gate.closed_time") == {("q",): 11, ("other",): 0}
    assert other.is_empty


async def test_the_state_of_each_breaker(recorder: Recorder) -> None:
    def states() -> dict[str, int]:
        found = recorder.values("penstock.breaker.state")
        return {state: count for (_, state), count in found.items()}

    breaker = CircuitBreaker(window=1, open_for=30)
    async with queue_of(recorder, breaker=breaker) as queue:
        assert states() == {"closed": 1, "half_open": 0, "open": 0}
        await queue.process(failing(1), 1, ignore)
        await queue.put("a")
        await queue.join()
        assert states() == {"closed": 0, "half_open": 0, "open": 1}
        async with queue_of(recorder, breaker=CircuitBreaker()):
            assert states() == {"closed": 1, "half_open": 0, "open": 1}
        await asyncio.sleep(31)
        assert states() == {"closed": 0, "half_open": 1, "open": 0}
        await queue.put("a")
        await queue.join()
        assert states() == {"closed": 1, "half_open": 0, "open": 0}
        assert recorder.metrics()["penstock.breaker.state"].unit == "{breaker}"


async def test_what_a_queue_does_not_have_it_does_not_tell(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.process(fine)
        await queue.put("a")
        await queue.join()
        exported = recorder.metrics().keys()
    for name in ("concurrency.limit", "breaker.state", "limit.wait_time", "item.retries"):
        assert f"penstock.{name}" not in exported


async def test_nothing_is_told_while_telemetry_is_suppressed(recorder: Recorder) -> None:
    async with queue_of(recorder, retry=every(1), limits=[Limit(9, 1)]) as queue:
        await queue.process(failing(9), 1, ignore)
        with suppress_instrumentation():
            await queue.put("a")
        await queue.join()
    assert recorder.spans() == []
    exported = recorder.metrics().keys()
    for name in ("process.duration", "worker.errors", "item.retries", "limit.wait_time"):
        assert f"penstock.{name}" not in exported
