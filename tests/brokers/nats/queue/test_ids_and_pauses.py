"""Puts with an id, and pauses of all processes: what the server does for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.servers import Cluster, NatsServer
from contract.nats import stored_items
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.brokers.nats import NatsQueue, existing_settings
from penstock.errors import BrokerError

pytestmark = pytest.mark.real_time

Start = Callable[..., NatsServer]


@pytest.fixture
def newer(newer_nats_program: Path, start_nats: Start) -> NatsServer:
    return start_nats(newer_nats_program)


# -- ids ----------------------------------------------------------------------------------------


async def test_of_two_puts_with_one_id_one_is_stored(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    first, second = make_queue(), make_queue()
    await first.start()
    await second.start()
    assert await first.put("a", id="invoice-1") is True
    assert await second.put("b", id="invoice-1") is True
    assert await second.put("b", id="invoice-2") is True
    assert stored_items(nats_server.url, name) == ["a", "b"]
    assert (first.metrics["enqueued"], second.metrics["enqueued"]) == (1, 1)


async def test_it_is_known_when_the_item_is_done(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(), Worker()
    await queue.start_workers(worker, 1)
    for _ in range(2):
        assert await queue.put("a", id="invoice-1") is True
        await soon(queue.join())
    assert worker.done == ["a"]


async def refused_and_offered_again(first: NatsQueue[str], url: str) -> None:
    await first.start()
    assert await first.put("first") is True
    assert await first.put("a", timeout=0, id="invoice-1") is False
    put = asyncio.create_task(first.put("a", timeout=math.inf, id="invoice-1"))
    await until(lambda: first.statistics().waiting_putters == 1)
    assert await soon(first.get()) == "first"
    first.task_done()
    assert await soon(put) is True
    assert stored_items(url, first.name) == ["a"]


async def test_a_put_that_was_refused_leaves_no_id(
    make_queue: MakeQueue, each_nats_program: Path, start_nats: Start
) -> None:
    server = start_nats(each_nats_program)
    await refused_and_offered_again(make_queue(server.url, maxsize=1), server.url)


@pytest.mark.slow
async def test_nor_does_it_on_a_cluster(
    make_queue: MakeQueue, start_cluster: Callable[..., Cluster]
) -> None:
    cluster = start_cluster()
    queue = make_queue(cluster.urls, maxsize=1, replicas=3)
    await refused_and_offered_again(queue, cluster.urls[0])


async def test_a_cluster_of_older_servers_keeps_no_ids(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    await queue.start()
    monkeypatch.setattr(queue._engine.streams, "_replicas", 3)
    with pytest.raises(
        BrokerError, match=r"put\(id=...\) on a cluster needs nats-server 2.15.1 or newer; the one"
    ):
        await queue.put("a", id="invoice-1")
    assert await queue.put("a") is True


async def test_how_long_ids_are_known_is_a_setting_of_the_queue(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    await make_queue(dedupe=600).start()
    with pytest.raises(BrokerError, match="duplicate_window is 600 s there and 120 s here"):
        await make_queue().start()
    settings = await existing_settings(nats_server.url, name)
    assert settings is not None
    assert settings.dedupe == 600
    await make_queue(**settings.as_arguments()).start()


@pytest.mark.parametrize("dedupe", [0, 119, -1, math.inf, math.nan, "600"])
def test_ids_are_known_for_two_minutes_at_least(dedupe: float) -> None:
    with pytest.raises(ValueError, match="dedupe must be"):
        NatsQueue("nats://localhost", "q", dedupe=dedupe)


# -- pauses -------------------------------------------------------------------------------------


async def test_a_pause_holds_all_processes_and_those_that_come(
    make_queue: MakeQueue, newer: NatsServer
) -> None:
    queue, other = make_queue(newer.url), make_queue(newer.url)
    worker, later = Worker(held=True), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, "a", "b")
    await until(lambda: worker.began == ["a"])
    await other.start()
    await other.pause_all()
    assert (await queue.info()).is_paused
    worker.may_go_on.set()
    await until(lambda: worker.done == ["a"])
    await queue.stop()
    await other.start_workers(later, 2)
    await put_all(other, "c")
    await asyncio.sleep(0.3)
    assert (worker.began, later.began) == (["a"], [])
    await other.resume_all()
    await soon(other.join())
    assert sorted(later.done) == ["b", "c"]
    assert not (await other.info()).is_paused
    await other.resume_all()  # once more makes no difference


async def test_a_pause_outlasts_the_server(make_queue: MakeQueue, newer: NatsServer) -> None:
    queue, worker = make_queue(newer.url), Worker()
    await queue.start()
    await queue.pause_all()
    await put_all(queue, "a")
    await queue.stop()
    newer.kill()
    newer.start()
    await queue.start_workers(worker, 1)
    assert (await queue.info()).is_paused
    assert worker.began == []
    await queue.resume_all()
    await until(lambda: worker.done == ["a"])


async def test_a_pause_of_one_process_uses_up_no_deliveries(make_queue: MakeQueue) -> None:
    queue, other = make_queue(max_deliveries=1), make_queue(max_deliveries=1)
    worker, second = Worker(), Worker()
    await queue.start_workers(worker, 5)
    queue.pause()
    await until(lambda: not queue._engine._consumer._pulls)  # nothing is asked for any more
    await other.start()
    await put_all(other, *range(5))
    await other.start_workers(second, 1)
    await soon(other.join())
    assert sorted(second.done) == list(range(5))
    assert worker.began == []
    assert (await other.info()).dead_letters == 0
    queue.resume()
    await put_all(queue, "a")
    await until(lambda: "a" in worker.done + second.done)


async def test_an_older_server_cannot_pause(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start()
    version = queue._engine.connection.client.connected_server_version
    if (version.major, version.minor) >= (2, 11):
        pytest.skip("the server is a newer one")
    with pytest.raises(BrokerError, match=r"pause_all\(\) needs nats-server 2.11.0 or newer; the"):
        await queue.pause_all()
