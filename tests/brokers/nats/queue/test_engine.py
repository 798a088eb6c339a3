"""What is in hand: kept by a sign of life, tried again, handed back."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import SLACK, AnyQueue, messages
from brokers.servers import NatsServer
from helpers.handlers import ignore
from helpers.queues import put_all
from helpers.retries import every
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import (
    CircuitBreaker,
    DeadlineExceededError,
    Limit,
    Policy,
    RateLimitError,
    RetryPolicy,
    WorkQueue,
)
from penstock.policies import outage, outages

pytestmark = pytest.mark.real_time


async def dead(queue: AnyQueue) -> list[tuple[Any, str, str, int]]:
    """The dead letters, once what is on its way there has arrived."""
    letters = await soon(queue.look_at_dead_letters())
    return [(one.item, one.error_type, one.error, one.deliveries) for one in letters]


# -- a sign of life -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_plain", [False, True])
async def test_an_item_that_takes_longer_than_ack_wait_is_not_handed_out_twice(
    make_queue: MakeQueue, is_plain: bool
) -> None:
    queue, other, began = make_queue(ack_wait=1), make_queue(ack_wait=1), []

    async def slow(item: Any) -> None:
        began.append(item)
        await asyncio.sleep(3)

    def slow_and_plain(item: Any) -> None:
        began.append(item)
        time.sleep(3)

    await queue.start_workers(slow_and_plain if is_plain else slow, 1)
    await other.start_workers(slow, 1)
    await put_all(queue, "a", "b")
    await soon(queue.join())
    assert sorted(began) == ["a", "b"]
    assert (await queue.info()).redelivered == 0


async def test_what_was_taken_by_hand_is_kept_too(make_queue: MakeQueue) -> None:
    queue, other, worker = make_queue(ack_wait=1), make_queue(ack_wait=1), Worker()
    await queue.start()
    await put_all(queue, "a")
    assert await soon(queue.get()) == "a"
    await other.start_workers(worker, 1)
    await asyncio.sleep(2)
    assert worker.began == []
    queue.task_done()
    await soon(queue.join())
    assert worker.began == []


async def test_what_waits_for_its_limit_is_kept_too(make_queue: MakeQueue) -> None:
    queue = make_queue(ack_wait=1, limits=[Limit(1, 2.5)])
    worker = Worker()
    await queue.start_workers(worker, 2)
    await put_all(queue, "a", "b")
    await soon(queue.join())
    assert worker.began == ["a", "b"]
    assert (await queue.info()).redelivered == 0


async def test_a_ready_policy_bounds_the_calls_of_all_its_queues(make_queue: MakeQueue) -> None:
    policy = Policy(concurrency=1, retry=every(0.05, attempts=3, on=Exception), attempt_timeout=30)
    with pytest.raises(ValueError, match="deadline and policy were given"):
        make_queue(policy=policy, deadline=5)
    queue, worker = make_queue(policy=policy), Worker(held=True)
    with pytest.raises(TypeError, match="attempt_timeout is for async functions"):
        await queue.start_workers(print, 1)
    worker.failures = [ConnectionError()]
    await queue.start_workers(worker, 3)
    await put_all(queue, "a", "b")
    await until(lambda: policy.statistics().waiting_for_slots == 1)
    assert len(worker.began) == policy.statistics().under_way == 1
    worker.may_go_on.set()
    await soon(queue.join())
    assert sorted(worker.done) == ["a", "b"]
    assert (policy.statistics().retries, policy.statistics().under_way) == (1, 0)


# -- tried again --------------------------------------------------------------------------------


async def test_attempts_count_on_all_machines(make_queue: MakeQueue) -> None:
    machines = [make_queue(retry=every(0.05, attempts=6, on=Exception)) for _ in range(2)]
    began: list[int] = []

    def failing(machine: int) -> Any:
        async def work(item: Any) -> None:
            began.append(machine)
            raise ValueError(f"{item} failed")

        return work

    for number, machine in enumerate(machines):
        await machine.start_workers(failing(number), 1, ignore)
    await put_all(machines[0], "a")
    await soon(machines[0].join())
    await soon(machines[1].join())
    assert len(began) == 6
    assert await dead(machines[0]) == [("a", "ValueError", "a failed", 6)]
    retries = [machine.statistics().retries for machine in machines]
    assert sum(retries) == 5


async def test_a_retry_waits_as_long_as_it_was_told(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(retry=every(0.7, on=Exception)), Worker()
    worker.failures = [ValueError("1"), ValueError("2")]
    await queue.start_workers(worker, 2)
    await put_all(queue, "a", "b", "c")
    await soon(queue.join())
    assert sorted(worker.done) == ["a", "b", "c"]
    for item in "ab":
        times = [at for at, one in zip(worker.times, worker.began, strict=True) if one == item]
        for first, second in pairwise(times):
            assert 0.7 <= second - first < 0.7 + SLACK


async def test_retry_after_is_heeded_and_holds_up_all_workers(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(retry=every(0, on=Exception)), Worker()
    worker.failures = [RateLimitError(retry_after=1.0)]
    await queue.start_workers(worker, 1)
    await put_all(queue, "a", "b")
    await soon(queue.join())
    assert sorted(worker.done) == ["a", "b"]
    assert worker.times[1] - worker.times[0] >= 0.99
    assert queue.statistics().gate_closures == 1


async def test_what_its_limit_holds_up_is_not_delivered_again_and_again(
    make_queue: MakeQueue,
) -> None:
    limits = [Limit(1, 0.5, key=lambda item: item["key"])]
    queue, worker = make_queue(limits=limits, max_deliveries=1), Worker()
    await queue.start_workers(worker, 2)
    items = [{"key": "a", "n": 1}, {"key": "a", "n": 2}, {"key": "a", "n": 3}, {"key": "b", "n": 4}]
    await put_all(queue, *items)
    await soon(queue.join())
    assert sorted(item["n"] for item in worker.done) == [1, 2, 3, 4]
    # Who has another key did not wait.
    assert [item["n"] for item in worker.done].index(4) < 2
    assert (await queue.info()).redelivered == 0
    assert await dead(queue) == []


async def test_a_breaker_that_is_open_costs_no_deliveries(make_queue: MakeQueue) -> None:
    breaker = CircuitBreaker(window=2, open_for=0.6)
    retry = every(0.01, attempts=4, on=Exception)
    queue, worker = make_queue(breaker=breaker, retry=retry), Worker()
    worker.failures = [ConnectionError("1"), ConnectionError("2")]
    await queue.start_workers(worker, 1)
    await put_all(queue, "a", "b")
    await soon(queue.join())
    assert sorted(worker.done) == ["a", "b"]
    assert len(worker.began) == 4
    assert worker.times[2] - worker.times[1] >= 0.59


async def test_a_deadline_that_passed_in_the_queue(make_queue: MakeQueue) -> None:
    queue, worker, failed = make_queue(), Worker(), []
    await queue.start()
    assert await queue.put("late", deadline=0.3) is True
    assert await queue.put("in time", deadline=60) is True
    await asyncio.sleep(0.5)
    await queue.start_workers(worker, 1, lambda error, item: failed.append((type(error), item)))
    await soon(queue.join())
    assert worker.began == ["in time"]
    assert failed == [(DeadlineExceededError, "late")]
    ((item, error_type, _, _),) = await dead(queue)
    assert (item, error_type) == ("late", "penstock.errors.DeadlineExceededError")


async def test_no_retry_after_the_deadline(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(retry=every(0.4, attempts=19, on=Exception), deadline=1.0), Worker()
    worker.failures = [ValueError(str(number)) for number in range(100)]
    await queue.start_workers(worker, 1, ignore)
    await put_all(queue, "a")
    await soon(queue.join())
    assert 2 <= len(worker.began) <= 3
    assert worker.times[-1] - worker.times[0] < 1.0


# -- handed back --------------------------------------------------------------------------------


async def test_a_stop_lets_what_is_in_hand_finish(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    queue, held = make_queue(), Worker(held=True)
    await queue.start_workers(held, 2)
    await put_all(queue, 1, 2, 3)
    await until(lambda: len(held.began) == 2)
    stop = asyncio.create_task(queue.stop())
    await until(lambda: queue.status == "stopping")
    held.may_go_on.set()
    assert await soon(stop) is False  # one is left
    assert sorted(held.done) == [1, 2]
    assert messages(nats_server, name) == 1


async def test_what_a_stop_breaks_off_another_machine_gets_at_once(make_queue: MakeQueue) -> None:
    queue, other = make_queue(), make_queue()
    held, worker = Worker(held=True), Worker()
    await queue.start_workers(held, 3)
    await put_all(queue, 1, 2, 3)
    await until(lambda: len(held.began) == 3)
    await other.start_workers(worker, 3)
    began = time.monotonic()
    await soon(queue.stop(timeout=0.2))
    await until(lambda: len(worker.done) == 3)
    assert time.monotonic() - began < 0.2 + SLACK  # ack_wait is 30 s
    assert sorted(worker.done) == [1, 2, 3]
    assert queue.unprocessed == []


async def test_what_waits_for_its_rules_is_handed_back_too(make_queue: MakeQueue) -> None:
    limits = [Limit(1, 60, key=lambda item: "one")]
    queue, other, worker = make_queue(limits=limits), make_queue(), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, 1, 2, 3)
    await until(lambda: queue.statistics().retrying == 2)
    await other.start_workers(worker, 1)
    await soon(queue.stop())
    await until(lambda: len(worker.done) == 3)


async def test_what_was_taken_by_hand_and_not_done_is_handed_back(make_queue: MakeQueue) -> None:
    queue, other, worker = make_queue(), make_queue(), Worker()
    await queue.start()
    await put_all(queue, "a", "b")
    assert await soon(queue.get()) == "a"
    assert await soon(queue.get()) == "b"
    queue.task_done()  # the oldest
    assert await soon(queue.stop()) is False
    await other.start_workers(worker, 1)
    await until(lambda: worker.done == ["b"])
    await soon(other.join())


async def test_stopping_the_workers_leaves_the_rest_to_others(make_queue: MakeQueue) -> None:
    queue, other = make_queue(), make_queue()
    held, worker = Worker(held=True), Worker()
    await queue.start_workers(held, 1)
    await put_all(queue, 1, 2)
    await until(lambda: held.began == [1])
    stop = asyncio.create_task(queue.stop_workers())
    await other.start_workers(worker, 1)
    await until(lambda: worker.done == [2])
    held.may_go_on.set()
    await soon(stop)
    assert held.done == [1]
    assert queue.status == "processing"
    await queue.start_workers(worker, 1)  # and begins again
    await other.stop()
    await put_all(queue, 3)
    await soon(queue.join())
    assert worker.done == [2, 3]


async def test_a_worker_function_that_raises_cancellederror_has_failed(
    make_queue: MakeQueue,
) -> None:
    queue, worker = make_queue(), Worker()
    worker.failures = [asyncio.CancelledError("of its own")]
    await queue.start_workers(worker, 1, ignore)
    await put_all(queue, "a", "b")
    await soon(queue.join())
    assert worker.done == ["b"]
    assert [letter[:2] for letter in await dead(queue)] == [
        ("a", "asyncio.exceptions.CancelledError")
    ]


async def test_the_friendly_layer_is_the_same(make_queue: MakeQueue) -> None:
    queue: WorkQueue[int] = WorkQueue(queue=make_queue(maxsize=5), concurrency_limit=3)
    worker = Worker()
    await soon(queue.batch_process(range(40), worker))
    assert sorted(worker.done) == list(range(40))
    assert queue.status == "stopped"
    with pytest.raises(TypeError, match="submit"):
        await queue.submit(1)
    with pytest.raises(TypeError, match="map"):
        queue.map(worker, [1])


# -- outages --------------------------------------------------------------------------------------


async def test_items_are_held_here_while_their_service_is_away(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FIRST", "_LONGEST", "_LATER", "_PROBING", "_DOUBLES_IN"):
        monkeypatch.setattr(outage, name, 0.02)
    policy = Policy(retry=RetryPolicy(2))
    queue, is_away, served = make_queue(policy=policy), False, []

    async def call(item: Any) -> None:
        await asyncio.sleep(0.001)
        if is_away:
            raise ConnectionError("nobody there")
        served.append(item)

    await queue.start_workers(call, 5)
    await put_all(queue, "first")
    await soon(queue.join())
    is_away = True
    await put_all(queue, *range(20))
    await until(lambda: policy.statistics().outage_for > 0.5)
    assert served == ["first"]
    is_away = False
    await soon(queue.join())
    assert sorted(served[1:]) == list(range(20))
    assert await dead(queue) == []


async def test_an_item_that_is_handed_out_again_is_the_same_item(
    make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Or its attempts would be those of many, and an outage."""
    queue = make_queue(retry=every(0.01, attempts=8))

    async def call(item: Any) -> None:
        if item == "poison":
            raise ConnectionError

    await queue.start_workers(call, 1, ignore)
    await put_all(queue, "first")
    await soon(queue.join())
    await put_all(queue, "poison")
    await soon(queue.join())
    assert [letter[0] for letter in await dead(queue)] == ["poison"]
    assert "outage" not in caplog.text


async def test_what_waits_for_the_verdict_or_was_refused_is_not_handed_out_again(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each handing-out counts as an attempt."""
    monkeypatch.setattr(outages, "_VERDICT", 0.2)
    queue, calls = make_queue(retry=every(0.01, attempts=2), max_deliveries=3), []
    refusals = [RateLimitError() for _ in range(4)]

    async def call(item: Any) -> None:
        calls.append(item)
        if item == "refused" and refusals:
            raise refusals.pop()
        if item == "poison":
            raise ConnectionError

    await queue.start_workers(call, 1, ignore)
    for item in ("first", "poison"):
        await put_all(queue, item)
        await soon(queue.join())
    assert calls == ["first", "poison", "poison"]
    await put_all(queue, "refused")
    await soon(queue.join())
    assert calls[3:] == ["refused"] * 5
