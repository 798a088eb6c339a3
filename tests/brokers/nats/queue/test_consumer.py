"""Asking for items: as many as workers are free, on each machine, and no more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from nats.errors import OutboundBufferLimitError

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import SLACK
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import AdaptiveConcurrency, QueueEmptyError, QueueStateError
from penstock.brokers.nats.connection.connection import Connection

pytestmark = pytest.mark.real_time


async def test_a_busy_machine_holds_nothing_that_others_could_do(make_queue: MakeQueue) -> None:
    first, second = make_queue(max_deliveries=1), make_queue(max_deliveries=1)
    held, worker = Worker(held=True), Worker()
    await first.start_workers(held, 2)
    await put_all(first, *range(10))
    await until(lambda: len(held.began) == 2)
    assert (await first.info()).in_flight == 2
    began = time.monotonic()
    await second.start_workers(worker, 2)
    await until(lambda: len(worker.done) == 8)
    assert time.monotonic() - began < SLACK
    held.may_go_on.set()
    await soon(first.join())
    assert sorted(held.done + worker.done) == list(range(10))
    assert (await first.info()).redelivered == 0  # nobody had more than it could do


async def test_machines_that_wait_share_what_comes(make_queue: MakeQueue) -> None:
    machines = [make_queue() for _ in range(3)]
    workers = [Worker(held=True) for _ in machines]
    for machine, worker in zip(machines, workers, strict=True):
        await machine.start_workers(worker, 2)
    await put_all(machines[0], *range(6))
    await until(lambda: sum(len(worker.began) for worker in workers) == 6)
    assert [len(worker.began) for worker in workers] == [2, 2, 2]
    for worker in workers:
        worker.may_go_on.set()
    await soon(machines[0].join())
    assert (await machines[0].info()).redelivered == 0


async def test_workers_that_come_later_are_not_forgotten(make_queue: MakeQueue) -> None:
    queue, other = make_queue(), make_queue()
    first, later = Worker(held=True), Worker(held=True)

    async def work(item: int) -> None:
        await (first if item < 4 else later)(item)

    await queue.start_workers(work, 10)
    await other.start()
    await put_all(other, *range(4))
    await until(lambda: len(first.began) == 4)
    first.may_go_on.set()
    await until(lambda: queue.metrics["processed"] == 4)  # they wait again, beside six others
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await put_all(other, *range(10, 20))
    await until(lambda: len(later.began) == 10)
    assert time.monotonic() - began < SLACK
    later.may_go_on.set()
    await soon(other.join())


async def test_requests_that_were_filled_are_forgotten(make_queue: MakeQueue) -> None:
    """Else they would count again when they expire, and more be asked for than can be done."""
    queue, other, worker = make_queue(maxsize=1000), make_queue(maxsize=1000), Worker()
    await other.start()
    await queue.start()
    for item in range(3):  # requests that expire after a second, and that were filled
        get = asyncio.create_task(queue.get(timeout=1))
        await asyncio.sleep(0.05)
        await put_all(other, item)
        assert await soon(get) == item
        queue.task_done()
    await queue.start_workers(worker, 2)
    await put_all(other, *range(100))
    await soon(queue.join())
    await asyncio.sleep(3.5)  # until they would have
    held = Worker(held=True)
    await other.start_workers(held, 8)
    await put_all(other, *range(10))
    await until(lambda: len(held.began) + len(worker.began) == 110)
    held.may_go_on.set()
    await soon(other.join())
    assert (await queue.info()).redelivered == 0


async def test_many_workers_and_many_items(make_queue: MakeQueue) -> None:
    machines = [make_queue(maxsize=3000) for _ in range(2)]
    workers = [Worker() for _ in machines]
    for machine, worker in zip(machines, workers, strict=True):
        await machine.start_workers(worker, 20)
    puts = [machines[n % 2].put(n) for n in range(2000)]
    assert all(await soon(asyncio.gather(*puts)))
    await soon(machines[0].join())
    await soon(machines[1].join())
    assert sorted(workers[0].done + workers[1].done) == list(range(2000))
    assert (await machines[0].info()).redelivered == 0


async def test_workers_whose_number_changes(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(maxsize=500), Worker()
    await queue.start_workers(worker, AdaptiveConcurrency(1, 8))
    puts = [queue.put(n) for n in range(300)]
    assert all(await soon(asyncio.gather(*puts)))
    await soon(queue.join())
    assert sorted(worker.done) == list(range(300))


async def test_an_item_that_comes_wakes_a_worker_at_once(make_queue: MakeQueue) -> None:
    queue, other, worker = make_queue(), make_queue(), Worker()
    await queue.start_workers(worker, 1)
    await other.start()
    await asyncio.sleep(0.3)
    for item in range(5):
        began = time.monotonic()
        await put_all(other, item)
        await until(lambda n=item: len(worker.done) == n + 1)
        assert time.monotonic() - began < SLACK
        await asyncio.sleep(0.05)


# -- by hand ------------------------------------------------------------------------------------


async def test_get_waits_for_an_item(make_queue: MakeQueue) -> None:
    queue, other = make_queue(), make_queue()
    await queue.start()
    await other.start()
    get = asyncio.create_task(queue.get())
    await asyncio.sleep(0.3)
    assert not get.done()
    await put_all(other, "a")
    assert await soon(get) == "a"


@pytest.mark.parametrize("timeout", [0, 0.5])
async def test_get_finds_nothing(make_queue: MakeQueue, timeout: float) -> None:
    queue = make_queue()
    await queue.start()
    began = time.monotonic()
    with pytest.raises(QueueEmptyError):
        await queue.get(timeout=timeout)
    assert timeout <= time.monotonic() - began < timeout + SLACK


async def test_get_that_does_not_wait_finds_what_is_there(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start()
    await put_all(queue, *range(20))
    assert [await queue.get(timeout=0) for _ in range(20)] == list(range(20))
    for _ in range(20):
        queue.task_done()
    await soon(queue.join())
    with pytest.raises(ValueError, match="more often"):
        queue.task_done()


async def test_get_that_is_cancelled_takes_nothing(make_queue: MakeQueue) -> None:
    queue, other, worker = make_queue(), make_queue(), Worker()
    await queue.start()
    get = asyncio.create_task(queue.get())
    await asyncio.sleep(0.1)
    get.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(get)
    await other.start_workers(worker, 1)
    await put_all(queue, "a", "b")
    await until(lambda: sorted(worker.done) == ["a", "b"])


async def test_gets_that_wait_are_told_of_a_stop(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start()
    gets = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0.1)
    await soon(queue.stop())
    for get in gets:
        with pytest.raises(QueueStateError, match="Cannot get items"):
            await soon(get)


async def test_a_subscription_that_fails_is_made_again(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, worker, subscribe = make_queue(), Worker(), Connection.subscribe
    await queue.start()
    tries = 0

    async def fail_first(self: Connection, subject: str, call: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OutboundBufferLimitError
        return await subscribe(self, subject, call)

    monkeypatch.setattr(Connection, "subscribe", fail_first)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.done == ["a"], timeout=SLACK)
