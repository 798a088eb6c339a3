"""Processes that have a queue open say what they did when they are asked."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from brokers.servers import NatsServer
from penstock import QueueStateError
from penstock.brokers.nats import NatsProcess, NatsQueue

pytestmark = pytest.mark.real_time


async def heard(queue: NatsQueue[Any], count: int) -> list[NatsProcess]:
    """What others say, once so many do."""
    for _ in range(20):
        processes = await queue.processes()
        if len(processes) == count:
            return processes
    raise AssertionError(f"{len(processes)} answered, not {count}: {processes}")


async def test_each_tells_what_it_did_and_the_one_who_asks_is_not_among_them(
    nats_server: NatsServer,
) -> None:
    def one() -> NatsQueue[int]:
        return NatsQueue(nats_server.url, "roll", 2)

    async with one() as producer, one() as worker, one() as watcher:
        accepted = [await producer.put(number, timeout=0) for number in range(5)]
        assert accepted == [True, True, False, False, False]
        is_held, go_on = asyncio.Event(), asyncio.Event()

        async def work(number: int) -> None:
            is_held.set()
            await go_on.wait()

        await worker.start_workers(work, 1)
        await asyncio.wait_for(is_held.wait(), 10)
        told = await heard(watcher, 2)
        go_on.set()

    common = {"host": socket.gethostname(), "pid": os.getpid(), "errors": 0, "processed": 0}
    working = NatsProcess(**common, accepted=0, refused=0, in_flight=1, workers=1)
    putting = NatsProcess(**common, accepted=2, refused=3, in_flight=0, workers=0)
    assert sorted(told, key=lambda process: process.workers) == [putting, working]


async def test_those_that_have_left_are_not_there(nats_server: NatsServer) -> None:
    async with NatsQueue[int](nats_server.url, "left") as watcher:
        async with NatsQueue[int](nats_server.url, "left"):
            await heard(watcher, 1)
        assert await watcher.processes(0.1) == []


async def test_what_is_no_answer_is_passed_over(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)

    async def answer(message: Msg) -> None:
        for nonsense in (b"", b"[]", b"\xff", b'{"host": "h"}'):
            await message.respond(nonsense)

    await client.subscribe("penstock.odd.roll", cb=answer)
    await client.flush()
    async with NatsQueue[int](nats_server.url, "odd") as watcher:
        assert await watcher.processes(0.2) == []
    await client.close()


async def test_a_stranger_cannot_disturb_by_asking(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    async with NatsQueue[int](nats_server.url, "asked") as queue:
        await queue.info()  # the server has heard by now that the queue listens
        await client.publish("penstock.asked.roll", b"\xff\x00")
        answer = await client.request("penstock.asked.roll", b"", timeout=5)
        assert b'"accepted": 0' in answer.data
        assert await queue.put(1)
    await client.close()


async def test_without_the_permission_all_else_works(
    start_nats: Callable[..., NatsServer], caplog: pytest.LogCaptureFixture
) -> None:
    permissions = {"subscribe": {"allow": ["_INBOX.>"]}}
    server = start_nats(
        authorization={"users": [{"user": "u", "password": "p", "permissions": permissions}]}
    )
    url = server.url.replace("://", "://u:p@")
    async with NatsQueue[int](url, "shy") as queue, NatsQueue[int](url, "shy") as watcher:
        assert await queue.put(1)
        assert await watcher.processes(0.1) == []
        assert (await watcher.info()).size == 1
    assert 'subscription to "penstock.shy.roll"' in caplog.text


async def test_only_an_open_queue_can_ask(nats_server: NatsServer) -> None:
    queue = NatsQueue[int](nats_server.url, "closed")
    with pytest.raises(QueueStateError, match="when queue is idle"):
        await queue.processes()
    async with queue:
        with pytest.raises(ValueError, match="wait"):
            await queue.processes(-1)
