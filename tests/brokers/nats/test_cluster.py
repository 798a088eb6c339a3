"""Three nodes, each item on all of them, and one that leads is lost under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import Program, ask, plain_client, programs, show
from brokers.servers import Cluster, Node
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.brokers.nats import NatsQueue
from penstock.errors import BrokerError
from processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

StartCluster = Callable[..., Cluster]

COUNT = 3000


def size(cluster: Cluster, stream: str) -> int | None:
    told = cluster.leader(stream).monitor("/jsz?streams=true") or {}
    for account in told.get("account_details") or ():
        for detail in account.get("stream_detail") or ():
            if detail["name"] == stream:
                count: int = detail["state"]["messages"]
                return count
    return None


def longest_gap(program: Program, what: str) -> float:
    times = [note["at"] for note in program.notes(what)]
    return max(later - earlier for earlier, later in pairwise(times))


def check_under_load(
    cluster: Cluster,
    name: str,
    folder: Path,
    fault: Callable[[Node], Any],
    mend: Callable[[Node], Any],
    **settings: Any,
) -> None:
    """None of the confirmed is lost, none is stored twice, whatever happens to the leader."""
    settings = {
        "servers": cluster.urls,
        "name": name,
        "replicas": 3,
        "maxsize": 500,
        "ack_wait": 5.0,
        **settings,
    }
    with programs(folder) as start:
        # Nobody takes anything yet: what is stored twice is there twice.
        stored = start(
            "produce",
            **{**settings, "maxsize": 2 * COUNT, "name": f"{name}-stored"},
            items=list(range(COUNT)),
            at_once=8,
            timeout=None,
            pause=0.01,
        )
        worker = start("work", workers=8, takes=0.002, **settings)
        producer = start(
            "produce", items=list(range(COUNT)), at_once=8, timeout=None, pause=0.01, **settings
        )
        for program in (stored, producer):
            program.until(lambda it: len(it.items("accepted")) >= 300)
        leader = cluster.leader(name)
        fault(leader)
        began = time.monotonic()
        mend(leader)
        assert producer.wait(150) == 0
        assert stored.wait(150) == 0
        wait_for("the queue to be empty", lambda: size(cluster, name) == 0, 60)
        worker.let_end()
        assert worker.wait() == 0
        done = Counter(worker.items("done"))
        figures = {
            "unknown": len(producer.items("unknown")) + len(stored.items("unknown")),
            "failed": len(producer.items("failed")) + len(stored.items("failed")),
            "processed twice": sum(count > 1 for count in done.values()),
            "longest without a put": round(longest_gap(producer, "accepted"), 1),
            "longest without an item done": round(longest_gap(worker, "done"), 1),
            "all took": round(time.monotonic() - began, 1),
        }
        show("figures:", figures)
        unknown = set(producer.items("unknown"))
        accepted = producer.items("accepted")
        assert set(accepted) <= set(done) <= set(accepted) | unknown
        assert size(cluster, f"{name}-dead") == 0
        bodies = Counter(asyncio.run(stored_items(cluster, f"{name}-stored")))
        assert set(stored.items("accepted")) <= set(bodies)
        assert set(bodies) <= set(stored.items("accepted")) | set(stored.items("unknown"))
        assert max(bodies.values()) == 1
        assert longest_gap(worker, "done") < 25


async def stored_items(cluster: Cluster, name: str) -> list[Any]:
    """All items in a queue, by way of a worker that fails to finish."""
    taken: list[Any] = []
    queue: NatsQueue[Any] = NatsQueue(
        cluster.urls, name, maxsize=2 * COUNT, replicas=3, ack_wait=5.0
    )

    async def take(item: Any) -> None:
        taken.append(item)

    async with queue:
        await queue.start_workers(take, 100)
        await soon(queue.join(), 60)
    return taken


def test_a_leader_that_is_killed(start_cluster: StartCluster, name: str, tmp_path: Path) -> None:
    cluster = start_cluster()

    def mend(leader: Node) -> None:
        cluster.leader(name)
        leader.start()

    check_under_load(cluster, name, tmp_path / "programs", lambda node: node.kill(), mend)


@pytest.mark.long
def test_a_leader_that_is_frozen(start_cluster: StartCluster, name: str, tmp_path: Path) -> None:
    def mend(leader: Node) -> None:
        time.sleep(12)
        leader.thaw()

    check_under_load(start_cluster(), name, tmp_path / "programs", lambda node: node.freeze(), mend)


@pytest.mark.long
def test_a_leader_that_is_cut_off_from_the_others(
    start_cluster: StartCluster, name: str, tmp_path: Path
) -> None:
    cluster = start_cluster(proxied=True)

    def mend(leader: Node) -> None:
        cluster.leader(name)
        time.sleep(5)
        cluster.rejoin(leader)

    check_under_load(cluster, name, tmp_path / "programs", cluster.isolate, mend)


@pytest.mark.long
def test_a_leader_that_is_cut_off_from_its_clients(
    start_cluster: StartCluster, name: str, tmp_path: Path
) -> None:
    cluster = start_cluster(proxied=True)

    def fault(leader: Node) -> None:
        assert leader.proxy is not None
        leader.proxy.stall()

    def mend(leader: Node) -> None:
        time.sleep(12)
        assert leader.proxy is not None
        leader.proxy.resume()

    check_under_load(cluster, name, tmp_path / "programs", fault, mend)


async def test_workers_that_wait_when_a_leader_dies_get_what_is_put_after(
    start_cluster: StartCluster, make_queue: MakeQueue, name: str
) -> None:
    cluster: Cluster = await asyncio.to_thread(start_cluster)
    first = make_queue(cluster.urls, replicas=3)
    await first.start()
    async with plain_client(cluster.urls[0]) as client:
        told = await ask(client, f"CONSUMER.INFO.{name}.workers")
    leader = next(node for node in cluster.nodes if node.name == told["cluster"]["leader"])
    others = [node.url for node in cluster.nodes if node is not leader]
    queue, worker = make_queue(others, replicas=3), Worker()
    await queue.start_workers(worker, 2)
    give_up_at = time.monotonic() + 10
    while (await queue.info()).idle_workers == 0:
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.01)
    leader.kill()
    began = time.monotonic()
    assert await soon(queue.put("after")) is True
    put_after = time.monotonic() - began
    await until(lambda: worker.done == ["after"], 60)
    took = time.monotonic() - began
    show(f"figures: put after {put_after:.1f} s, done after {took:.1f} s")
    assert took < 20


@pytest.mark.long
async def test_without_a_majority_nothing_is_promised(
    start_cluster: StartCluster, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster: Cluster = await asyncio.to_thread(start_cluster)
    queue = make_queue(cluster.urls[0], replicas=3)
    await queue.start()
    for node in cluster.nodes[1:]:
        node.kill()
    with monkeypatch.context() as patch:  # not for the put after that, which waits for a leader
        patch.setattr("penstock.brokers.nats.queue.publisher.DOUBT", 3.0)
        patch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 3.0)
        with pytest.raises(BrokerError):
            await soon(queue.put("a"))
    for node in cluster.nodes[1:]:
        await asyncio.to_thread(node.start)
    await asyncio.to_thread(cluster.wait_for_meta_leader, 3)
    assert await soon(queue.put("b")) is True


async def test_more_replicas_than_there_are_nodes(
    start_cluster: StartCluster, make_queue: MakeQueue
) -> None:
    cluster: Cluster = await asyncio.to_thread(start_cluster)
    with pytest.raises(BrokerError, match="too few servers for these replicas"):
        await soon(make_queue(cluster.urls, replicas=5).start())
