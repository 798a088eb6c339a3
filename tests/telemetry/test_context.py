"""What goes with an item from its put to its worker: the trace, baggage, context variables."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, get_current_span

import penstock
from telemetry.recorder import Recorder, parent_id, span_id, trace_id

user: ContextVar[str] = ContextVar("user", default="nobody")


def queue_of(recorder: Recorder, **options: Any) -> penstock.BoundedQueue[Any]:
    return penstock.BoundedQueue(name="q", telemetry=recorder.telemetry(**options))


async def work(item: Any) -> None:
    pass


def by_attempt(recorder: Recorder, name: str) -> dict[int, ReadableSpan]:
    """The spans of that name, by the span that is their parent."""
    return {parent_id(span) or 0: span for span in recorder.spans(name)}


# -- traces that must not mix -----------------------------------------------------------------


async def test_workers_started_in_a_request_do_not_draw_later_items_into_its_trace(
    recorder: Recorder,
) -> None:
    async with queue_of(recorder) as queue:
        with recorder.tracer.start_as_current_span("first request"):
            await queue.start_workers(work, 2)
            await queue.put(1)
        with recorder.tracer.start_as_current_span("second request"):
            await queue.put(2)
        await queue.put(3)
    first, second, third = recorder.spans("process q")
    assert trace_id(first) == trace_id(recorder.span("first request"))
    assert trace_id(second) == trace_id(recorder.span("second request"))
    assert len({trace_id(span) for span in (first, second, third)}) == 3


async def test_workers_started_in_a_request_run_untraced_items_in_no_trace(
    recorder: Recorder,
) -> None:
    seen = []

    async def look(item: int) -> None:
        seen.append(get_current_span().get_span_context().is_valid)

    async with queue_of(recorder, spans="parent") as queue:
        with recorder.tracer.start_as_current_span("request"):
            await queue.start_workers(look, 1)
        await queue.put(1)
    assert seen == [False]
    assert recorder.names() == ["request"]


async def test_workers_started_in_a_request_do_not_log_in_its_trace(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(item: int) -> None:
        raise ValueError

    def note_trace(record: logging.LogRecord) -> bool:
        logged.append(get_current_span().get_span_context().trace_id)
        return True

    logged: list[int] = []
    async with queue_of(recorder) as queue:
        queue.logger.addFilter(note_trace)
        with recorder.tracer.start_as_current_span("request"):
            await queue.start_workers(fail, 1)
        logged.clear()
        await queue.put(1)
        await queue.join()
        queue.logger.removeFilter(note_trace)
    assert len(logged) == 1
    assert logged[0] != trace_id(recorder.span("request"))


async def test_a_span_that_a_worker_function_leaves_behind_ends_with_its_item(
    recorder: Recorder,
) -> None:
    async def careless(item: int) -> None:
        span = recorder.tracer.start_span(f"work {item}")
        context.attach(trace.set_span_in_context(span))
        span.end()

    async with queue_of(recorder) as queue:
        await queue.start_workers(careless, 1)
        await queue.put(1)
        await queue.put(2)
    for number, process in enumerate(recorder.spans("process q"), 1):
        assert parent_id(recorder.span(f"work {number}")) == span_id(process)
    assert len({trace_id(span) for span in recorder.spans("process q")}) == 2


async def test_items_of_many_workers_keep_to_their_own_traces(recorder: Recorder) -> None:
    async def look(item: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0.01 * (item % 3))
            recorder.tracer.start_span(f"step {item}").end()

    async with queue_of(recorder) as queue:
        await queue.start_workers(look, 4)
        for item in range(20):
            with recorder.tracer.start_as_current_span(f"request {item}"):
                await queue.put(item)
    for item in range(20):
        steps = recorder.spans(f"step {item}")
        assert {trace_id(step) for step in steps} == {trace_id(recorder.span(f"request {item}"))}
        assert len({parent_id(step) for step in steps}) == 1


async def test_a_put_leaves_the_current_span_as_it_was(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        with recorder.tracer.start_as_current_span("request") as request:
            await queue.put(1)
            queue.put_nowait(2)
            (await queue.submit(3)).cancel()
            assert get_current_span() is request
        assert not get_current_span().get_span_context().is_valid


# -- one trace from end to end ----------------------------------------------------------------


async def test_what_the_worker_function_does_is_part_of_its_attempt(recorder: Recorder) -> None:
    async def deep(item: int) -> None:
        recorder.tracer.start_span("at once").end()
        await asyncio.sleep(1)
        recorder.tracer.start_span("after a while").end()
        await asyncio.create_task(in_a_task())
        await asyncio.to_thread(lambda: recorder.tracer.start_span("in a thread").end())

    async def in_a_task() -> None:
        recorder.tracer.start_span("in a task").end()

    async with queue_of(recorder) as queue:
        await queue.start_workers(deep, 1)
        await queue.put(1)
    attempt = span_id(recorder.span("process q"))
    for name in ("at once", "after a while", "in a task", "in a thread"):
        assert parent_id(recorder.span(name)) == attempt, name


async def test_a_plain_worker_function_is_part_of_its_attempt_as_well(recorder: Recorder) -> None:
    def plain(item: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        recorder.tracer.start_span(item).end()

    async with queue_of(recorder) as queue:
        await queue.start_workers(plain, 2)
        for item in ("one", "two"):
            with recorder.tracer.start_as_current_span(f"request {item}"):
                await queue.put(item)
    attempts = {span_id(span): span for span in recorder.spans("process q")}
    for item in ("one", "two"):
        attempt = attempts[parent_id(recorder.span(item)) or 0]
        assert trace_id(attempt) == trace_id(recorder.span(f"request {item}"))


async def test_what_a_worker_function_puts_belongs_to_its_attempt(recorder: Recorder) -> None:
    queue = queue_of(recorder)

    async def crawl(depth: int) -> None:
        if depth:
            await queue.put(depth - 1)

    async with queue:
        await queue.start_workers(crawl, 2)
        await queue.put(2)
        await queue.join()
    puts, attempts = recorder.spans("put q"), recorder.spans("process q")
    assert [parent_id(put) for put in puts] == [None, span_id(attempts[0]), span_id(attempts[1])]
    assert len({trace_id(span) for span in recorder.spans()}) == 1


async def test_putters_that_wait_keep_their_own_traces(recorder: Recorder) -> None:
    queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(
        1, 60, name="q", telemetry=recorder.telemetry()
    )

    async def request(item: int) -> None:
        with recorder.tracer.start_as_current_span(f"request {item}"):
            await queue.put(item)

    async with queue:
        requests = [asyncio.create_task(request(item)) for item in range(4)]
        await asyncio.sleep(1)
        await queue.start_workers(lambda item: recorder.tracer.start_span(f"{item}").end(), 1)
        await asyncio.gather(*requests)
    for item in range(4):
        assert trace_id(recorder.span(f"{item}")) == trace_id(recorder.span(f"request {item}"))


# -- what else goes along ---------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("relation", ["parent", "link"])
@pytest.mark.parametrize("mode", ["all", "process", "none"])
async def test_context_variables_and_baggage_of_the_producer_are_there(
    recorder: Recorder, mode: str, relation: str, plain: bool
) -> None:
    seen = []

    def look(item: int) -> None:
        seen.append((user.get(), baggage.get_baggage("tenant")))

    async def async_look(item: int) -> None:
        await asyncio.sleep(0)
        look(item)

    async with queue_of(recorder, spans=mode, relation=relation) as queue:
        await queue.start_workers(look if plain else async_look, 1)
        variable, token = user.set("alice"), context.attach(baggage.set_baggage("tenant", "acme"))
        await queue.put(1)
        context.detach(token)
        user.reset(variable)
        await queue.put(2)
    assert seen == [("alice", "acme"), ("nobody", None)]


async def test_an_error_handler_sees_the_context_of_the_item(recorder: Recorder) -> None:
    seen = []

    async def fail(item: int) -> None:
        raise ValueError

    async def handler(error: Exception, item: int) -> None:
        seen.append((user.get(), get_current_span().get_span_context().trace_id))

    async with queue_of(recorder) as queue:
        await queue.start_workers(fail, 1, handler)
        variable = user.set("alice")
        await queue.put(1)
        user.reset(variable)
    assert seen == [("alice", trace_id(recorder.span("put q")))]


# -- instrumentation that is suppressed -------------------------------------------------------


async def test_what_is_put_where_instrumentation_is_suppressed_is_not_traced(
    recorder: Recorder,
) -> None:
    """As by an exporter that sends through a queue: its spans would beget spans for ever."""
    async with queue_of(recorder) as queue:
        await queue.start_workers(work, 1)
        with suppress_instrumentation():
            await queue.put(1)
            queue.put_nowait(2)
            await (await queue.submit(3))
        await queue.join()
        await queue.stop_workers()
        with suppress_instrumentation():
            await queue.put(4)
        async with queue.processing():
            pass
    assert recorder.spans() == []


async def test_what_is_put_after_that_is_traced_again(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        with suppress_instrumentation():
            await queue.start_workers(work, 1)
            await queue.put(1)
        await queue.put(2)
    assert recorder.names() == ["process q", "put q"]


# -- over HTTP --------------------------------------------------------------------------------


class Server:
    """Answers every GET, and remembers which span each request says it comes from."""

    def __init__(self) -> None:
        self.callers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                caller = get_current_span(propagate.extract(dict(self.headers.items())))
                outer.callers.append(caller.get_span_context().span_id)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield
        self._server.shutdown()
        self._server.server_close()
        thread.join(60)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with server.serving():
        yield server


@pytest.mark.real_time
@pytest.mark.parametrize("plain", [False, True])
async def test_a_trace_goes_from_the_producer_over_the_queue_to_the_server(
    recorder: Recorder, server: Server, plain: bool
) -> None:
    instrument = HTTPXClientInstrumentor.instrument_client

    def get(path: str) -> None:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            instrument(client, tracer_provider=recorder.tracer_provider)
            client.get(path).raise_for_status()

    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        instrument(client, tracer_provider=recorder.tracer_provider)

        async def async_get(path: str) -> None:
            (await client.get(path)).raise_for_status()

        async with queue_of(recorder) as queue:
            await queue.start_workers(get if plain else async_get, 3)

            async def produce(number: int) -> None:
                with recorder.tracer.start_as_current_span(f"order {number}"):
                    await queue.put(f"/{number}")

            await asyncio.gather(*map(produce, range(6)))

    calls = by_attempt(recorder, "GET")
    attempts, puts = by_attempt(recorder, "process q"), by_attempt(recorder, "put q")
    assert len(calls) == 6
    for number in range(6):
        order = recorder.span(f"order {number}")
        put = puts[span_id(order)]
        attempt = attempts[span_id(put)]
        call = calls[span_id(attempt)]
        assert call.kind is SpanKind.CLIENT
        assert {trace_id(span) for span in (put, attempt, call)} == {trace_id(order)}
        assert span_id(call) in server.callers
