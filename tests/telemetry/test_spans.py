"""The spans of a queue: names, kinds, attributes, parents, links and status."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    use_span,
)

import penstock
from helpers.handlers import ignore
from helpers.tasks import settle
from penstock.telemetry import Telemetry
from penstock.telemetry.names import SCHEMA_URL
from telemetry.recorder import Recorder, parent_id, span_id, trace_id

pytestmark = pytest.mark.usefixtures("exact_times")

UNSET, ERROR = StatusCode.UNSET, StatusCode.ERROR


async def work(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item


HELD_UP_BY = "penstock.put.held_up_by"


def queue_of(
    recorder: Recorder, maxsize: int = 100, timeout: float = 0.1, **options: Any
) -> penstock.BoundedQueue[Any]:
    return penstock.BoundedQueue(
        maxsize, timeout, name="q", telemetry=recorder.telemetry(**options)
    )


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def outcome(span: ReadableSpan) -> Any:
    return attributes(span)["penstock.put.outcome"]


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


# -- put and process --------------------------------------------------------------------------


async def test_an_item_has_a_span_for_its_put_and_one_for_its_attempt(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=7)
    async with queue:
        await queue.put("item")
        await asyncio.sleep(0.5)
        await queue.start_workers(work, 1)
    put, process = recorder.spans()
    assert (put.name, put.kind) == ("put q", SpanKind.PRODUCER)
    assert attributes(put) == {
        "penstock.queue.name": "q",
        "penstock.operation": "put",
        "penstock.put.outcome": "accepted",
        "penstock.queue.size": 1,
        "penstock.queue.capacity": 7,
    }
    assert (process.name, process.kind) == ("process q", SpanKind.CONSUMER)
    assert attributes(process) == {
        "penstock.queue.name": "q",
        "penstock.operation": "process",
        "penstock.attempt": 1,
        "penstock.queue.size": 0,
        "penstock.queue.capacity": 7,
        "penstock.wait_time": pytest.approx(0.5),
        "penstock.worker.id": "penstock-q-worker-1",
        "penstock.outcome": "ok",
    }
    assert parent_id(put) is None
    assert parent_id(process) == span_id(put)
    assert trace_id(process) == trace_id(put)
    assert links(process) == [span_id(put)]
    assert links(put) == []
    assert put.events == ()
    (waited,) = process.events
    assert waited.name == "waited for a worker"
    assert dict(waited.attributes or {}) == {
        "penstock.wait.cause": "worker",
        "penstock.wait_time": pytest.approx(0.5),
    }
    for span in (put, process):
        assert span.status.status_code is UNSET


async def test_spans_tell_which_library_and_which_conventions_they_are_of(
    recorder: Recorder,
) -> None:
    async with queue_of(recorder) as queue:
        await queue.put(1)
    scope = recorder.span("put q").instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version) == ("penstock", version("penstock"))
    assert scope.schema_url == SCHEMA_URL


async def test_a_put_is_part_of_the_trace_it_is_made_in(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1)
        with recorder.tracer.start_as_current_span("request") as request:
            await queue.put(1)
            assert get_current_span() is request
    assert parent_id(recorder.span("put q")) == span_id(recorder.span("request"))
    assert trace_id(recorder.span("process q")) == trace_id(recorder.span("request"))


@pytest.mark.parametrize("way", ["put", "put_nowait", "submit"])
async def test_every_way_to_put_is_traced(recorder: Recorder, way: str) -> None:
    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1)
        putting = getattr(queue, way)(1)
        if putting is not None:
            await putting
        await queue.join()
    assert recorder.names() == ["process q", "put q"]
    assert parent_id(recorder.span("process q")) == span_id(recorder.span("put q"))
    assert outcome(recorder.span("put q")) == "accepted"


async def test_with_links_an_attempt_begins_a_trace_of_its_own(recorder: Recorder) -> None:
    async with queue_of(recorder, relation="link") as queue:
        await queue.start_workers(work, 1)
        with recorder.tracer.start_as_current_span("request"):
            await queue.put(1)
    put, process = recorder.span("put q"), recorder.span("process q")
    assert parent_id(process) is None
    assert trace_id(process) != trace_id(put)
    (link,) = process.links
    assert (link.context.trace_id, link.context.span_id) == (trace_id(put), span_id(put))
    assert trace_id(put) == trace_id(recorder.span("request"))


async def test_the_attempt_takes_as_long_as_the_worker_function(recorder: Recorder) -> None:
    async def slow(item: int) -> None:
        time.sleep(0.02)  # noqa: ASYNC251 - spans have the time of the clock on the wall

    async with queue_of(recorder) as queue:
        await queue.start_workers(slow, 1)
        await queue.put(1)
    span = recorder.span("process q")
    assert (span.end_time or 0) - (span.start_time or 0) >= 0.02e9


async def test_each_worker_has_an_id_of_its_own(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.start_workers(asyncio.sleep, 2)
        for _ in range(3):
            await queue.put(1.0)
    ids = [attributes(span)["penstock.worker.id"] for span in recorder.spans("process q")]
    assert sorted(set(ids)) == ["penstock-q-worker-1", "penstock-q-worker-2"]


async def test_no_name_of_a_span_tells_one_item_from_another(recorder: Recorder) -> None:
    async with queue_of(recorder, maxsize=1, timeout=0.01) as queue:
        await queue.start_workers(asyncio.sleep, 2)
        for seconds in (1.0, 2.0, 3.0, 4.0, 5.0):
            await queue.put(seconds)
    assert set(recorder.names()) == {"backpressure q", "process q", "put q"}


# -- backpressure -----------------------------------------------------------------------------


async def test_a_put_with_room_has_no_backpressure(recorder: Recorder) -> None:
    async with queue_of(recorder, maxsize=3) as queue:
        for item in range(3):
            assert await queue.put(item)
    assert recorder.names() == ["put q"] * 3


async def test_a_put_that_waits_shows_how_long(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=1, timeout=math.inf)
    await queue.start()
    await queue.put(1)
    waiting = asyncio.create_task(queue.put(2))
    await asyncio.sleep(0.25)
    queue.get_nowait()
    assert await waiting
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    assert wait.kind is SpanKind.INTERNAL
    assert parent_id(wait) == span_id(put)
    assert attributes(wait) == {
        "penstock.queue.name": "q",
        "penstock.operation": "backpressure",
        "penstock.put.outcome": "accepted",
        "penstock.queue.size": 1,
        "penstock.queue.capacity": 1,
        "penstock.wait_time": pytest.approx(0.25),
    }
    assert wait.status.status_code is UNSET
    assert outcome(put) == "accepted"
    assert links(wait) == []
    await queue.stop(timeout=0, drain=False)


async def test_backpressure_begins_when_the_put_begins_to_wait(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=1, timeout=math.inf)
    await queue.start()
    await queue.put(1)
    waiting = asyncio.create_task(queue.put(2))
    await settle()
    time.sleep(0.03)  # noqa: ASYNC251 - spans have the time of the clock on the wall
    queue.get_nowait()
    await waiting
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    start, end = wait.start_time or 0, wait.end_time or 0
    assert end - start >= 0.03e9
    assert (put.start_time or 0) <= start
    assert end <= (put.end_time or 0)
    await queue.stop(timeout=0, drain=False)


@pytest.mark.parametrize("timeout", [0, 0.1])
async def test_a_put_that_is_refused_is_full_and_no_error(
    recorder: Recorder, timeout: float
) -> None:
    async with queue_of(recorder, maxsize=1) as queue:
        await queue.put(1)
        assert not await queue.put(2, timeout=timeout)
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    assert outcome(put) == outcome(wait) == "full"
    assert attributes(wait)["penstock.wait_time"] == pytest.approx(timeout)
    assert parent_id(wait) == span_id(put)
    assert [event.name for event in put.events] == ["refused: the queue is full"]
    assert HELD_UP_BY not in attributes(put)
    assert wait.events == ()
    for span in (put, wait):
        assert span.status.status_code is UNSET
        assert "error.type" not in attributes(span)


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_a_put_that_its_key_holds_up_says_so(recorder: Recorder, is_accepted: bool) -> None:
    order = penstock.FairShares(str, max_per_key=1)
    async with penstock.BoundedQueue[int](
        name="q", telemetry=recorder.telemetry(), order=order
    ) as queue:
        await queue.put(1)
        waiting = asyncio.create_task(queue.put(1, timeout=1))
        await settle()
        await queue.put(2)
        if is_accepted:
            assert queue.clear() == [1, 2]
        assert await waiting is is_accepted
        queue.clear()
    held_up = [one for one in recorder.spans("put q") if HELD_UP_BY in attributes(one)]
    assert [attributes(put)[HELD_UP_BY] for put in held_up] == ["max_per_key"]
    assert outcome(held_up[0]) == ("accepted" if is_accepted else "full")
    events = [event.name for event in held_up[0].events]
    assert events == ([] if is_accepted else ["refused: max_per_key"])


@pytest.mark.parametrize("way", ["put_nowait", "submit"])
async def test_a_put_that_raises_because_it_is_full_shows_the_same(
    recorder: Recorder, way: str
) -> None:
    async with queue_of(recorder, maxsize=1) as queue:
        await queue.put(1)
        with pytest.raises(penstock.QueueFullError):
            await getattr(queue, way)(2)
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    assert outcome(put) == outcome(wait) == "full"
    assert put.status.status_code is UNSET


async def test_a_put_that_is_cancelled_is_no_error(recorder: Recorder) -> None:
    async with queue_of(recorder, maxsize=1) as queue:
        await queue.put(1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.put(2, timeout=math.inf), 0.2)
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    assert outcome(put) == outcome(wait) == "cancelled"
    assert attributes(wait)["penstock.wait_time"] == pytest.approx(0.2)
    for span in (put, wait):
        assert span.status.status_code is UNSET
        assert span.events == ()
        assert "error.type" not in attributes(span)


async def test_a_put_that_the_stop_meets_is_an_error(recorder: Recorder) -> None:
    queue = queue_of(recorder, maxsize=1)
    await queue.start()
    await queue.put(1)
    waiting = asyncio.create_task(queue.put(2, timeout=math.inf))
    await asyncio.sleep(0.2)
    await queue.stop()
    with pytest.raises(penstock.QueueStateError) as caught:
        await waiting
    put, wait = recorder.spans("put q")[1], recorder.span("backpressure q")
    assert outcome(put) == outcome(wait) == "stopped"
    assert put.status.status_code is ERROR
    assert put.status.description == str(caught.value)
    assert attributes(put)["error.type"] == "penstock.errors.QueueStateError"
    assert [event.name for event in put.events] == ["exception"]


# -- failures ---------------------------------------------------------------------------------


class CustomError(Exception):
    pass


class Abrupt(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (ValueError("no such thing"), "ValueError"),
        (CustomError("no such thing"), f"{__name__}.CustomError"),
        (Abrupt("no such thing"), f"{__name__}.Abrupt"),
    ],
)
async def test_an_attempt_that_raises_is_marked_with_the_exception_once(
    recorder: Recorder, error: BaseException, error_type: str
) -> None:
    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1, ignore)
        await queue.put(error)
    put, process = recorder.spans()
    assert process.status.status_code is ERROR
    assert process.status.description == "no such thing"
    assert attributes(process)["error.type"] == error_type
    (event,) = process.events
    assert event.name == "exception"
    assert (event.attributes or {})["exception.message"] == "no such thing"
    assert put.status.status_code is UNSET
    assert "error.type" not in attributes(put)


async def test_an_error_handler_that_fails_adds_nothing_to_the_span(recorder: Recorder) -> None:
    def fail_too(error: Exception, item: Any) -> None:
        raise RuntimeError("the handler")

    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1, fail_too)
        await queue.put(ValueError("x"))
    span = recorder.span("process q")
    assert attributes(span)["error.type"] == "ValueError"
    assert len(span.events) == 1
    assert recorder.names() == ["process q", "put q"]


@pytest.mark.parametrize("how", ["stop", "stop_workers"])
async def test_an_attempt_that_is_cancelled_is_no_error(recorder: Recorder, how: str) -> None:
    queue = queue_of(recorder)
    await queue.start_workers(asyncio.sleep, 1)
    await queue.put(60)
    await settle()
    await getattr(queue, how)(timeout=1)
    span = recorder.span("process q")
    assert span.status.status_code is UNSET
    assert attributes(span)["penstock.outcome"] == "cancelled"
    assert [event.name for event in span.events] == ["cancelled"]
    assert "error.type" not in attributes(span)
    assert queue.unprocessed == [60]
    await queue.stop(timeout=0, drain=False)


async def test_an_item_that_is_attempted_again_gets_another_span(recorder: Recorder) -> None:
    queue = queue_of(recorder)
    await queue.start_workers(asyncio.sleep, 1)
    await queue.put(60)
    await settle()
    await queue.stop_workers(timeout=1)
    await queue.start_workers(work, 1)
    await queue.stop()
    put, *attempts = recorder.spans()
    assert [span.name for span in attempts] == ["process q"] * 2
    assert [parent_id(span) for span in attempts] == [span_id(put)] * 2
    assert [links(span) for span in attempts] == [[span_id(put)]] * 2


async def test_an_item_that_nobody_wants_any_more_is_not_attempted(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        future = await queue.submit(1)
        future.cancel()
        await queue.start_workers(work, 1)
        await queue.join()
    assert recorder.names() == ["put q"]


# -- taken by hand ----------------------------------------------------------------------------


async def test_what_is_taken_with_get_has_no_attempt(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.put(1)
        assert await queue.get() == 1
        queue.task_done()
    assert recorder.names() == ["put q"]


async def test_a_processing_block_is_an_attempt(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        with recorder.tracer.start_as_current_span("producer"):
            await queue.put(1)
        await asyncio.sleep(0.5)
        with recorder.tracer.start_as_current_span("consumer") as consumer:
            async with queue.processing():
                with recorder.tracer.start_as_current_span("inside"):
                    pass
            assert get_current_span() is consumer
    process = recorder.span("process q")
    assert process.kind is SpanKind.CONSUMER
    assert parent_id(process) == span_id(recorder.span("put q"))
    assert links(process) == [span_id(recorder.span("put q"))]
    assert trace_id(process) == trace_id(recorder.span("producer"))
    assert parent_id(recorder.span("inside")) == span_id(process)
    assert attributes(process)["penstock.wait_time"] == pytest.approx(0.5)
    assert process.status.status_code is UNSET


async def test_a_processing_block_that_raises_is_an_error(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.put(1)
        with pytest.raises(ValueError, match="no such thing"):
            async with queue.processing():
                raise ValueError("no such thing")
    span = recorder.span("process q")
    assert (span.status.status_code, span.status.description) == (ERROR, "no such thing")
    assert len(span.events) == 1


async def test_a_processing_block_that_is_cancelled_is_none(recorder: Recorder) -> None:
    queue = queue_of(recorder)

    async def consume() -> None:
        async with queue.processing() as seconds:
            await asyncio.sleep(seconds)

    await queue.start()
    await queue.put(60)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(consume(), 1)
    await queue.stop()
    span = recorder.span("process q")
    assert span.status.status_code is UNSET
    assert [event.name for event in span.events] == ["cancelled"]
    assert queue.unprocessed == [60]


async def test_an_item_of_an_iteration_is_an_attempt_but_its_span_is_not_the_current_one(
    recorder: Recorder,
) -> None:
    """A loop can be left in ways in which nobody would put the current span away again."""
    async with queue_of(recorder) as queue:
        for item in (1, 2, 3):
            await queue.put(item)
        queue.close()
        with recorder.tracer.start_as_current_span("consumer") as consumer:
            with pytest.raises(ValueError, match="no such thing"):  # noqa: PT012
                async with aclosing(queue.items()) as items:
                    async for item in items:
                        assert get_current_span() is consumer
                        if item == 2:
                            raise ValueError("no such thing")
            async for _ in queue:
                break
            await asyncio.sleep(0)
            assert get_current_span() is consumer
    spans = [span for span in recorder.spans() if span.name == "process q"]
    assert [span.status.status_code for span in spans] == [UNSET, ERROR, UNSET]
    puts = [span for span in recorder.spans() if span.name == "put q"]
    assert [parent_id(span) for span in spans] == [span_id(put) for put in puts]
    assert queue.metrics["errors"] == 1


# -- submit and map ---------------------------------------------------------------------------


async def test_what_is_submitted_and_fails_is_an_error_of_its_attempt(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1)
        with pytest.raises(ValueError, match="no such thing"):
            await (await queue.submit(ValueError("no such thing")))
    put, process = recorder.spans()
    assert (process.status.status_code, process.status.description) == (ERROR, "no such thing")
    assert put.status.status_code is UNSET


@pytest.mark.parametrize("started", [False, True])
async def test_map_is_traced_item_by_item(recorder: Recorder, started: bool) -> None:
    queue: penstock.WorkQueue[int] = penstock.WorkQueue(2, name="q", telemetry=recorder.telemetry())
    if started:
        await queue.process(work, 1)
    with recorder.tracer.start_as_current_span("request"):
        assert [item async for item in queue.map(work, range(5))] == [0, 1, 2, 3, 4]
    await queue.stop()
    puts, attempts = recorder.spans("put q"), recorder.spans("process q")
    assert len(puts) == len(attempts) == 5
    assert {trace_id(span) for span in recorder.spans()} == {trace_id(recorder.span("request"))}
    assert sorted(span_id(put) for put in puts) == sorted(parent_id(each) or 0 for each in attempts)


async def test_map_leaves_the_current_span_of_its_reader_alone(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    queue: penstock.WorkQueue[int] = penstock.WorkQueue(name="q", telemetry=recorder.telemetry())
    results = queue.map(work, range(5))

    async def read() -> None:
        with recorder.tracer.start_as_current_span("reader") as reader:
            await anext(results)
            assert get_current_span() is reader

    await asyncio.create_task(read())
    await asyncio.create_task(read())
    await asyncio.create_task(results.aclose())
    assert not get_current_span().get_span_context().is_valid
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_a_generator_may_yield_inside_a_processing_block(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    queue = queue_of(recorder)

    async def items() -> AsyncGenerator[Any, None]:
        while True:
            async with queue.processing(timeout=0) as item:
                yield item

    async with queue:
        await queue.put(1)
        await queue.put(2)
        taken: AsyncIterator[Any] = items()
        assert [await anext(taken), await anext(taken)] == [1, 2]
        with pytest.raises(penstock.QueueEmptyError):
            await anext(taken)
    assert not get_current_span().get_span_context().is_valid
    first, second = recorder.spans("process q")
    assert trace_id(first) != trace_id(second)
    assert [span.status.status_code for span in (first, second)] == [UNSET, UNSET]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


# -- which spans there are --------------------------------------------------------------------

ALL = ["backpressure q", "process q", "put q", "put q"]


@pytest.mark.parametrize("relation", ["parent", "link"])
@pytest.mark.parametrize(
    ("mode", "under_a_span", "expected"),
    [
        ("all", True, ALL),
        ("all", False, ALL),
        ("process", True, ["process q"]),
        ("process", False, ["process q"]),
        ("parent", True, ALL),
        ("parent", False, []),
        ("none", True, []),
        ("none", False, []),
    ],
)
async def test_the_mode_says_which_spans_there_are(
    recorder: Recorder, mode: str, under_a_span: bool, expected: list[str], relation: str
) -> None:
    queue = queue_of(recorder, maxsize=1, spans=mode, relation=relation)

    async def put_two() -> None:
        assert await queue.put(1)
        assert not await queue.put(2)

    async with queue:
        if under_a_span:
            with recorder.tracer.start_as_current_span("request"):
                await put_two()
        else:
            await put_two()
        await queue.start_workers(work, 1)
    names = [name for name in recorder.names() if name != "request"]
    assert names == expected
    assert recorder.values("penstock.process.duration")[("q",)][0] == 1
    assert recorder.values("penstock.backpressure.wait_time")["q", "full"][0] == 1


async def test_without_put_spans_an_attempt_is_a_child_of_the_caller(recorder: Recorder) -> None:
    async with queue_of(recorder, spans="process") as queue:
        await queue.start_workers(work, 1)
        with recorder.tracer.start_as_current_span("request"):
            await queue.put(1)
        await queue.put(2)
    child, root = recorder.spans("process q")
    request = recorder.span("request")
    assert parent_id(child) == span_id(request)
    assert links(child) == [span_id(request)]
    assert parent_id(root) is None
    assert links(root) == []


@pytest.mark.parametrize("mode", ["all", "process", "parent"])
async def test_under_a_span_that_is_not_sampled_nothing_is(mode: str) -> None:
    recorder = Recorder(sampler=ParentBased(ALWAYS_OFF))
    async with queue_of(recorder, spans=mode) as queue:
        await queue.start_workers(work, 1)
        with recorder.tracer.start_as_current_span("request"):
            await queue.put(1)
    assert recorder.spans() == []
    assert recorder.values("penstock.item.wait_time") != {}
    recorder.shutdown()


@pytest.mark.parametrize(("flags", "expected"), [(0, []), (1, ["process q", "put q"])])
async def test_a_caller_in_another_process_says_whether_it_is_a_recording_parent(
    flags: int, expected: list[str]
) -> None:
    recorder = Recorder(sampler=ALWAYS_ON)
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(flags))
    async with queue_of(recorder, spans="parent") as queue:
        await queue.start_workers(work, 1)
        with use_span(NonRecordingSpan(caller)):
            await queue.put(1)
    assert recorder.names() == expected
    assert {trace_id(span) for span in recorder.spans()} <= {0xABC}
    recorder.shutdown()


async def test_an_item_of_a_parent_is_traced_though_the_parent_has_ended(
    recorder: Recorder,
) -> None:
    async with queue_of(recorder, spans="parent") as queue:
        with recorder.tracer.start_as_current_span("request"):
            await queue.put(1)
        await asyncio.sleep(60)
        await queue.start_workers(work, 1)
    assert trace_id(recorder.span("process q")) == trace_id(recorder.span("request"))


async def test_queues_with_and_without_spans_can_be_chained(recorder: Recorder) -> None:
    """From one queue into the next, which is untraced, and on into a third: one trace."""
    hidden = penstock.BoundedQueue[int](name="hidden", telemetry=recorder.telemetry(spans="none"))
    last = penstock.BoundedQueue[int](name="last", telemetry=recorder.telemetry())
    async with last, hidden, queue_of(recorder) as first:
        await last.start_workers(work, 1)
        await hidden.start_workers(last.put, 1)
        await first.start_workers(hidden.put, 1)
        await first.put(1)
        await first.join()
        await hidden.join()
    assert recorder.names() == ["process last", "process q", "put last", "put q"]
    assert parent_id(recorder.span("put last")) == span_id(recorder.span("process q"))
    assert re.fullmatch(
        r"penstock-last-worker-\d+", attributes(recorder.span("process last"))["penstock.worker.id"]
    )


async def test_telemetry_for_spans_only_needs_no_meter_provider(recorder: Recorder) -> None:
    telemetry = Telemetry(recorder.tracer_provider)
    async with penstock.BoundedQueue[int](name="q", telemetry=telemetry) as queue:
        await queue.start_workers(work, 1)
        await queue.put(1)
    assert recorder.names() == ["process q", "put q"]


async def test_a_call_for_several_items_has_one_span_with_links_to_their_puts(
    recorder: Recorder,
) -> None:
    async def many(items: list[int]) -> list[int]:
        return items

    queue = penstock.WorkQueue[int](name="q", telemetry=recorder.telemetry())
    async with queue:
        for number in range(3):
            await queue.put(number)
        await queue.process_batches(many, max_size=2, max_wait=0)
        await queue.join()
    puts = [span_id(span) for span in recorder.spans("put q")]
    calls = recorder.spans("process q")
    assert [links(span) for span in calls] == [puts[:2], puts[2:]]
    assert [attributes(span)["penstock.batch.size"] for span in calls] == [2, 1]
    assert [parent_id(span) for span in calls] == [None, None]
    assert [span.kind for span in calls] == [SpanKind.CONSUMER] * 2


async def test_a_call_for_several_items_that_fails(recorder: Recorder) -> None:
    async def many(items: list[int]) -> None:
        raise ValueError("no")

    queue = penstock.WorkQueue[int](name="q", telemetry=recorder.telemetry())
    async with queue:
        for number in range(2):
            await queue.put(number)
        await queue.process_batches(many, max_size=2, max_wait=0, error_handler=ignore)
        await queue.join()
    (call,) = recorder.spans("process q")
    assert call.status.status_code is ERROR
    assert attributes(call)["error.type"] == "ValueError"
