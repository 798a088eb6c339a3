"""Putting: stored or refused, first come first served, and nothing in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import SLACK, AnyQueue, ask, messages, plain_client
from brokers.servers import NatsServer
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.errors import BrokerError, QueueStateError

pytestmark = pytest.mark.real_time

Start = Callable[..., NatsServer]


async def full(make_queue: MakeQueue, maxsize: int = 1, **settings: Any) -> AnyQueue:
    queue = make_queue(maxsize=maxsize, **settings)
    await queue.start()
    await put_all(queue, *(f"first {number}" for number in range(maxsize)))
    return queue


async def waiting_put(queue: AnyQueue, item: Any, timeout: float = math.inf) -> asyncio.Task[bool]:
    """A put that stands in line."""
    before = queue.statistics().waiting_putters
    put = asyncio.create_task(queue.put(item, timeout=timeout))
    await until(lambda: queue.statistics().waiting_putters == before + 1)
    return put


async def test_true_says_that_the_server_has_it(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue = make_queue()
    await queue.start()
    assert await queue.put("a", timeout=0) is True
    assert messages(nats_server, name) == 1
    await queue.stop()
    assert messages(nats_server, name) == 1


async def test_false_says_that_it_has_not(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue = await full(make_queue, 2)
    assert await queue.put("b", timeout=0) is False
    assert messages(nats_server, name) == 2
    assert queue.is_full
    assert queue.metrics["backpressure_events"] == 1


async def test_what_is_in_flight_takes_up_room(make_queue: MakeQueue) -> None:
    queue, held = make_queue(maxsize=2), Worker(held=True)
    await queue.start_workers(held, 2)
    await put_all(queue, 1, 2)
    await until(lambda: len(held.began) == 2)
    assert await queue.put(3, timeout=0) is False
    held.may_go_on.set()
    await soon(queue.join())
    assert await queue.put(3, timeout=0) is True


async def test_a_wait_for_retry_takes_up_room(make_queue: MakeQueue) -> None:
    from penstock import RateLimitError, RetryPolicy

    queue, worker = make_queue(maxsize=1, retry=RetryPolicy(3, budget=None)), Worker()
    worker.failures = [RateLimitError(retry_after=1.0)]
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began and not worker.failures)
    assert await queue.put("b", timeout=0) is False
    await soon(queue.join())
    assert await queue.put("b", timeout=0) is True


async def test_refused_after_the_timeout(make_queue: MakeQueue) -> None:
    queue = await full(make_queue)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await queue.put("b", timeout=0.4) is False
    assert 0.4 <= loop.time() - began < 0.4 + SLACK


@pytest.mark.parametrize("taker", ["this machine", "another machine"])
async def test_room_is_noticed_soon(make_queue: MakeQueue, taker: str) -> None:
    queue, worker = await full(make_queue), Worker()
    put = await waiting_put(queue, "b")
    other = queue if taker == "this machine" else make_queue(maxsize=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await other.start_workers(worker, 1)
    assert await soon(put) is True
    assert loop.time() - began < SLACK
    await soon(queue.join())
    assert worker.done == ["first 0", "b"]


async def test_first_come_first_served(make_queue: MakeQueue) -> None:
    queue, worker = await full(make_queue), Worker()
    puts = [await waiting_put(queue, item) for item in range(8)]
    newcomer = asyncio.create_task(queue.put("newcomer", timeout=math.inf))
    await queue.start_workers(worker, 1)
    assert await soon(asyncio.gather(*puts, newcomer)) == [True] * 9
    await soon(queue.join())
    assert worker.done == ["first 0", *range(8), "newcomer"]


async def test_a_newcomer_that_does_not_wait_does_not_overtake(make_queue: MakeQueue) -> None:
    queue, worker = await full(make_queue), Worker()
    puts = [await waiting_put(queue, item) for item in range(2)]
    assert await queue.put("newcomer", timeout=0) is False
    await queue.start_workers(worker, 1)
    assert await soon(asyncio.gather(*puts)) == [True, True]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_put_that_is_cancelled_in_the_line_leaves_nothing(
    make_queue: MakeQueue, nats_server: NatsServer, name: str, place: int
) -> None:
    queue, worker = await full(make_queue), Worker()
    puts = [await waiting_put(queue, item) for item in range(3)]
    puts[place].cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(puts[place])
    await queue.start_workers(worker, 1)
    del puts[place]
    assert await soon(asyncio.gather(*puts)) == [True, True]
    await soon(queue.join())
    assert worker.done == ["first 0", *(item for item in range(3) if item != place)]
    assert queue.metrics["enqueued"] == 3
    assert messages(nats_server, name) == 0


@pytest.mark.parametrize("place", [0, 1])
async def test_one_whose_time_is_up_leaves_the_line(make_queue: MakeQueue, place: int) -> None:
    queue, worker = await full(make_queue), Worker()
    timeouts = [math.inf, math.inf]
    timeouts[place] = 0.3
    puts = [await waiting_put(queue, item, timeouts[item]) for item in range(2)]
    assert await soon(puts[place]) is False
    await queue.start_workers(worker, 1)
    assert await soon(puts[1 - place]) is True
    await soon(queue.join())
    assert worker.done == ["first 0", 1 - place]


async def test_puts_that_wait_are_told_of_a_stop(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue = await full(make_queue)
    puts = [await waiting_put(queue, item) for item in range(3)]
    await soon(queue.stop())
    for put in puts:
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stop"):
            await soon(put)
    assert messages(nats_server, name) == 1
    assert queue.metrics["enqueued"] == 1


async def test_many_at_once_fill_it_exactly(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queues = [make_queue(maxsize=50) for _ in range(3)]
    await asyncio.gather(*(queue.start() for queue in queues))
    puts = [queue.put(item, timeout=0) for item in range(60) for queue in queues]
    answers = await soon(asyncio.gather(*puts))
    assert answers.count(True) == 50
    assert messages(nats_server, name) == 50


async def test_a_server_whose_disk_is_used_up(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(jetstream={"max_file_store": 200_000})
    queue, worker = make_queue(server.url, maxsize=1000), Worker()
    await queue.start()
    item, count = "x" * 20_000, 0

    async def put_until_it_fails() -> None:
        nonlocal count
        for _ in range(1000):
            assert await queue.put(item) is True
            count += 1

    with pytest.raises(BrokerError) as caught:
        await soon(put_until_it_fails())
    text = str(caught.value)
    assert "cannot store the item" in text
    assert "process items, or raise max_file_store" in text
    assert "xxx" not in text
    assert 0 < count <= 10
    await queue.start_workers(worker, 1)
    await soon(queue.join())
    assert len(worker.done) == count  # what was confirmed is there
    assert await soon(queue.put(item)) is True  # and there is room again


async def test_whoever_else_puts_is_bound_too(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    """Programs in other languages can put: JSON, and no header is needed."""
    queue, worker = make_queue(maxsize=1), Worker()
    await queue.start()
    async with plain_client(nats_server.url) as client:
        await client.jetstream().publish(f"penstock.{name}", b'{"from": "elsewhere"}')
        assert await queue.put("a", timeout=0) is False
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == [{"from": "elsewhere"}]
        assert (await ask(client, f"STREAM.INFO.{name}"))["state"]["messages"] == 0
