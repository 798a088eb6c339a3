"""From a message to what a worker gets: the item, and the trace that it was put in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate
from pydantic import BaseModel

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import BOUND, plain_client
from brokers.servers import NatsServer
from helpers.handlers import ignore
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import RetryPolicy
from penstock.brokers.codecs import JsonCodec, MsgpackCodec
from penstock.errors import CodecError
from telemetry.recorder import Recorder, parent_id, span_id, trace_id

pytestmark = pytest.mark.real_time

user: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return dict(span.attributes or {})


class Call(BaseModel):
    url: str
    tries: int = 3


# -- codecs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [JsonCodec(Call), MsgpackCodec(Call)], ids=str)
async def test_workers_get_the_type_of_the_items(make_queue: MakeQueue, codec: Any) -> None:
    queue, worker = make_queue(codec=codec), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, Call(url="a"), Call(url="b", tries=1))
    await soon(queue.join())
    assert worker.done == [Call(url="a"), Call(url="b", tries=1)]


async def test_msgpack_has_bytes(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(codec=MsgpackCodec()), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, b"\x00\xff", {1: "one"}, None)
    await soon(queue.join())
    assert worker.done == [b"\x00\xff", {1: "one"}, None]


@pytest.mark.parametrize("item", [(1, 2), {1: 2}, float("nan"), b"x", {"a": {"b"}}])
async def test_what_cannot_be_put_is_refused_at_its_put(make_queue: MakeQueue, item: Any) -> None:
    queue = make_queue()
    await queue.start()
    with pytest.raises(CodecError, match="cannot be encoded as application/json"):
        await queue.put(item)
    assert queue.metrics["enqueued"] == 0
    assert (await queue.info()).size == 0


async def test_an_item_in_another_format_is_a_dead_letter(make_queue: MakeQueue) -> None:
    put, process, worker = make_queue(codec=MsgpackCodec()), make_queue(), Worker()
    await put.start()
    await process.start_workers(worker, 1)
    await put_all(put, "a")
    await soon(process.join())
    (letter,) = await process.look_at_dead_letters()
    assert (
        letter.error
        == "The item was put as application/msgpack, and this queue reads application/json"
    )
    assert letter.error_type == "penstock.errors.CodecError"
    assert letter.data == b"\xa1a"
    assert worker.began == []
    # Who reads that format can still process it.
    assert (await put.look_at_dead_letters())[0].item == "a"
    await process.stop()
    assert await put.redrive() == 1
    await put.start_workers(worker, 1)
    await soon(put.join())
    assert worker.done == ["a"]


async def test_what_is_no_item_is_a_dead_letter(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue, worker = make_queue(codec=JsonCodec(Call)), Worker()
    await queue.start_workers(worker, 1)
    async with plain_client(nats_server.url) as client:
        js = client.jetstream()
        for data in (b"{", b"", b'{"url": 5}', b"\xff", b'{"url": "good"}'):
            await js.publish(f"penstock.{name}", data)
    await soon(queue.join())
    assert worker.done == [Call(url="good")]
    letters = await queue.look_at_dead_letters()
    assert [letter.data for letter in letters] == [b"{", b"", b'{"url": 5}', b"\xff"]
    assert all(letter.item is None for letter in letters)
    assert "url: Input should be a valid string" in letters[2].error
    assert [letter.deliveries for letter in letters] == [1] * 4
    assert queue.statistics().dead_letters == 4


async def test_odd_headers_do_no_harm(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue, worker = make_queue(), Worker()
    await queue.start_workers(worker, 1)
    async with plain_client(nats_server.url) as client:
        js = client.jetstream()
        odd = {"traceparent": "rubbish", "baggage": "=;=,", "tracestate": "\x01", "X": "y"}
        await js.publish(f"penstock.{name}", b"1", headers=odd)
        await js.publish(f"penstock.{name}", b"2", headers={"Penstock-Deadline": "soon"})
        await js.publish(f"penstock.{name}", b"3", headers={"Penstock-Deadline": "nan"})
    await soon(queue.join())
    letters = await queue.look_at_dead_letters()
    assert sorted([*worker.done, *(letter.item for letter in letters)]) == [1, 2, 3]
    assert 1 in worker.done
    assert all(letter.error for letter in letters)


async def test_a_codec_that_breaks_costs_no_item(make_queue: MakeQueue) -> None:
    class Broken(JsonCodec[Any]):
        def decode(self, data: bytes) -> Any:
            raise RuntimeError("broken")

    good, bad = make_queue(), make_queue(codec=Broken())
    await good.start()
    await bad.start_workers(Worker(), 1)
    await put_all(good, "a")
    await soon(good.join())
    (letter,) = await good.look_at_dead_letters()
    assert (letter.item, letter.error, letter.error_type) == ("a", "broken", "RuntimeError")


async def test_an_item_that_nobody_finishes_is_a_dead_letter(make_queue: MakeQueue) -> None:
    """Each stop hands it back, which counts as a handing-out."""
    worker = Worker(held=True)
    for count in (1, 2, 3):
        queue = make_queue(max_deliveries=3)
        await queue.start_workers(worker, 1)
        if count == 1:
            await put_all(queue, "a")
        await until(lambda n=count: len(worker.began) == n)
        await queue.stop(timeout=0)
    queue = make_queue(max_deliveries=3)
    await queue.start_workers(worker, 1)
    await soon(queue.join())
    (letter,) = await queue.look_at_dead_letters()
    assert letter.error.startswith("The item was delivered 3 times and never finished")
    assert (letter.item, letter.deliveries) == ("a", 4)
    assert len(worker.began) == 3


# -- traces -------------------------------------------------------------------------------------


async def test_put_and_process_are_one_trace(make_queue: MakeQueue) -> None:
    here, there = Recorder(), Recorder()
    put, process = make_queue(telemetry=here.telemetry()), make_queue(telemetry=there.telemetry())
    await put.start()
    await process.start_workers(Worker(), 1)
    with here.tracer.start_as_current_span("request"):
        await put_all(put, "a")
    await soon(process.join())
    put_span, span = here.span(f"put {put.name}"), there.span(f"process {put.name}")
    assert trace_id(span) == trace_id(put_span) == trace_id(here.span("request"))
    assert parent_id(span) == span_id(put_span)
    assert parent_id(put_span) == span_id(here.span("request"))
    assert [link.context.span_id for link in span.links] == [span_id(put_span)]
    assert attributes(put_span)["penstock.put.outcome"] == "accepted"
    assert 0 <= attributes(span)["penstock.wait_time"] < 5
    assert here.spans(f"process {put.name}") == there.spans(f"put {put.name}") == []
    here.shutdown()
    there.shutdown()


async def test_baggage_goes_along_and_context_variables_do_not(make_queue: MakeQueue) -> None:
    seen: list[Any] = []

    async def look(item: Any) -> None:
        seen.append((dict(baggage.get_all()), user.get()))

    queue = make_queue()
    user.set("starter")
    await queue.start_workers(look, 1)
    user.set("putter")
    token = context.attach(baggage.set_baggage("tenant", "acme & söhne"))
    try:
        await put_all(queue, 1)
    finally:
        context.detach(token)
    await put_all(queue, 2)
    await soon(queue.join())
    assert seen == [({"tenant": "acme & söhne"}, "nobody"), ({}, "nobody")]


async def test_each_attempt_has_its_number_on_whichever_machine(make_queue: MakeQueue) -> None:
    retry = RetryPolicy(3, on=ValueError, backoff=lambda attempt, error: 0.05, budget=None)
    recorders = [Recorder(), Recorder()]
    worker = Worker()
    worker.failures = [ValueError("1"), ValueError("2")]
    queues = [make_queue(telemetry=one.telemetry(), retry=retry) for one in recorders]
    for queue in queues:
        await queue.start_workers(worker, 1)
    await put_all(queues[0], "a")
    await soon(queues[0].join())
    await soon(queues[1].join())
    name = queues[0].name
    spans = [span for one in recorders for span in one.spans(f"process {name}")]
    assert sorted(attributes(span)["penstock.attempt"] for span in spans) == [1, 2, 3]
    put = recorders[0].span(f"put {name}")
    assert {parent_id(span) for span in spans} == {span_id(put)}
    retries = [value for one in recorders
               for value in one.values("penstock.item.retries").values()]  # fmt: skip
    assert sum(retries) == 2
    for one in recorders:
        one.shutdown()


async def test_metrics_tell_what_became_of_puts(make_queue: MakeQueue, recorder: Recorder) -> None:
    queue = make_queue(telemetry=recorder.telemetry(), maxsize=2)
    await queue.start()
    await put_all(queue, 1, 2)
    assert await queue.put(3, timeout=0) is False
    sizes = {key[-1]: count for key, count in recorder.values("penstock.queue.size").items()}
    assert sizes == {"ready": 2, "delayed": 0}
    assert [*recorder.values("penstock.queue.capacity").values()] == [2]
    outcomes = {key[-1]: count for key, count in recorder.values("penstock.put.items").items()}
    told = {outcome: count for outcome, count in outcomes.items() if count}
    assert told == {"accepted": 2, "full": 1}
    spans = recorder.spans(f"put {queue.name}")
    ends = [attributes(span)["penstock.put.outcome"] for span in spans]
    assert ends == ["accepted", "accepted", "full"]


async def test_dead_letters_and_durations_are_measured(
    make_queue: MakeQueue, recorder: Recorder
) -> None:
    queue, worker = make_queue(telemetry=recorder.telemetry()), Worker()
    worker.failures = [ValueError("no")]
    await queue.start_workers(worker, 1, ignore)
    await put_all(queue, 1, 2, 3)
    await soon(queue.join())
    assert [*recorder.values("penstock.dead_letter.items").values()] == [1]
    items = {key[-1]: count for key, count in recorder.values("penstock.process.items").items()}
    assert {outcome: count for outcome, count in items.items() if count} == {
        "ok": 2,
        "dead_letter": 1,
    }
    assert sum(count for count, _ in recorder.values("penstock.process.duration").values()) == 3
    assert set(recorder.values("penstock.queue.size").values()) == {0}


async def test_an_item_is_processed_in_the_trace_of_whoever_put_it_without_penstock(
    make_queue: MakeQueue, nats_server: NatsServer, name: str, recorder: Recorder
) -> None:
    queue = make_queue(telemetry=recorder.telemetry())
    await queue.start_workers(Worker(), 1)
    with recorder.tracer.start_as_current_span("elsewhere") as span:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        async with plain_client(nats_server.url) as client:
            await client.jetstream().publish(f"penstock.{name}", b"1", headers=headers)
    await soon(queue.join())
    process = recorder.span(f"process {name}")
    assert trace_id(process) == span.get_span_context().trace_id
    assert parent_id(process) == span.get_span_context().span_id


def traced_program(url: str, name: str, body: str) -> dict[str, Any]:
    """Run a program with an SDK; the spans of the queue that it recorded."""
    source = textwrap.dedent(
        """
        import asyncio, json, sys
        from telemetry.recorder import Recorder, parent_id, span_id, trace_id
        from penstock.brokers.nats import NatsQueue

        recorder = Recorder()
        url, name = sys.argv[1:]

        async def main():
            async with NatsQueue(url, name, telemetry=recorder.telemetry()) as queue:
                BODY

        asyncio.run(main())
        (span,) = [span for span in recorder.spans() if span.name.endswith(name)]
        links = [link.context.span_id for link in span.links]
        print(json.dumps({"name": span.name, "trace": trace_id(span), "id": span_id(span),
                          "parent": parent_id(span), "links": links}))
        """
    ).replace("BODY", body)
    outcome = subprocess.run(
        [sys.executable, "-c", source, url, name],
        capture_output=True, text=True, timeout=2 * BOUND, check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


def test_two_processes_and_one_trace(nats_server: NatsServer, name: str) -> None:
    put = traced_program(nats_server.url, name, "assert await queue.put('a')")
    process = traced_program(
        nats_server.url, name,
        "await queue.start_workers(lambda item: None, 1); await queue.join()",
    )  # fmt: skip
    assert put["name"] == f"put {name}"
    assert process["name"] == f"process {name}"
    assert process["trace"] == put["trace"]
    assert process["parent"] == put["id"]
    assert process["links"] == [put["id"]]
