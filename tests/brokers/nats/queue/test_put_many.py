"""Many items in one round trip: from the front and in order, whoever puts at the same time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.servers import NatsServer
from contract.nats import stored_items
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import NoReplyError
from penstock.errors import CodecError, QueueUnknownError

pytestmark = pytest.mark.real_time

Start = Callable[..., NatsServer]


@pytest.fixture
def server(each_nats_program: Path, start_nats: Start) -> NatsServer:
    return start_nats(each_nats_program)


async def test_four_producers_at_once_and_an_exact_bound(
    make_queue: MakeQueue, server: NatsServer, name: str
) -> None:
    queues = [make_queue(server.url, maxsize=1000) for _ in range(4)]
    await asyncio.gather(*(queue.start() for queue in queues))
    counts = await asyncio.gather(
        *(
            queue.put_many([[number, item] for item in range(400)], timeout=0)
            for number, queue in enumerate(queues)
        )
    )
    assert sum(counts) == 1000
    stored = stored_items(server.url, name)
    for number, count in enumerate(counts):  # of each the first, in their order
        assert [item for of, item in stored if of == number] == list(range(count))
    assert [queue.metrics["enqueued"] for queue in queues] == counts


async def test_more_than_there_is_room_for_while_workers_make_room(
    make_queue: MakeQueue, server: NatsServer
) -> None:
    queue, worker = make_queue(server.url, maxsize=7), Worker()
    await queue.start_workers(worker, 1)
    assert await soon(queue.put_many(range(100), timeout=math.inf)) == 100
    await soon(queue.join())
    assert worker.done == list(range(100))


async def test_what_is_too_large_ends_it(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue = make_queue()
    await queue.start()
    large = "x" * 2_000_000
    assert await queue.put_many([1, 2, large, 3]) == 2
    with pytest.raises(CodecError, match="accepts 1048576"):
        await queue.put_many([large, 3])
    assert stored_items(nats_server.url, name) == [1, 2]


async def test_answers_that_do_not_come_store_nothing_twice(
    make_queue: MakeQueue, server: NatsServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, request, lost = make_queue(server.url), Connection.request, {3, 7}
    await queue.start()
    count = 0

    async def lossy(self: Connection, subject: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        answer = await request(self, subject, *args, **kwargs)
        if subject == f"penstock.{name}":
            count += 1
            if count in lost:
                raise NoReplyError("it was lost")
        return answer

    monkeypatch.setattr(Connection, "request", lossy)
    assert await soon(queue.put_many(range(20))) == 20
    assert stored_items(server.url, name) == list(range(20))
    assert queue.metrics["enqueued"] == 20


async def test_an_answer_that_never_comes(
    make_queue: MakeQueue, nats_server: NatsServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher.DOUBT", 0.3)
    queue, request, sent = make_queue(), Connection.request, []
    await queue.start()

    async def lossy(self: Connection, subject: str, *args: Any, **kwargs: Any) -> Any:
        answer = await request(self, subject, *args, **kwargs)
        if subject == f"penstock.{name}":
            sent.append(args)
            if len(sent) >= 5:
                raise NoReplyError("it was lost")
        return answer

    monkeypatch.setattr(Connection, "request", lossy)
    with pytest.raises(QueueUnknownError) as caught:
        await soon(queue.put_many(range(10)))
    assert caught.value.accepted == 4
    monkeypatch.undo()
    assert queue.metrics["enqueued"] == 4


async def test_each_item_has_its_trace(make_queue: MakeQueue) -> None:
    from opentelemetry import baggage, context

    queue, seen = make_queue(), []

    async def work(item: Any) -> None:
        seen.append((item, baggage.get_baggage("tenant")))

    token = context.attach(baggage.set_baggage("tenant", "x"))
    try:
        await queue.start()
        assert await queue.put_many(["ab", "c"]) == 2
    finally:
        context.detach(token)
    await queue.start_workers(work, 1)
    await until(lambda: len(seen) == 2)
    assert seen == [("ab", "x"), ("c", "x")]
