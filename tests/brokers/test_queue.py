"""What queues on all brokers share, on one in memory and in virtual time."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import pytest

from brokers.memory import MemoryQueue, Store
from helpers.handlers import ignore
from helpers.queues import put_all
from helpers.retries import every
from helpers.tasks import now, soon, until
from helpers.workers import Worker
from penstock import (
    DeadlineExceededError,
    Limit,
    QueueEmptyError,
    QueueStateError,
    RateLimitError,
    RetryPolicy,
)
from penstock.errors import BrokerError, CodecError, QueueUnknownError
from telemetry.conftest import recorder
from telemetry.recorder import Recorder, parent_id, span_id

__all__ = ["recorder"]  # a fixture


async def stopped(queue: MemoryQueue) -> list[tuple[Any, ...]]:
    """What the broker was told by a queue that is stopped now."""
    await queue.stop()
    return queue.engine.told


# -- settling -----------------------------------------------------------------------------------


async def test_an_item_is_settled_when_its_call_has_returned() -> None:
    queue, worker = MemoryQueue(), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began == ["a"])
    assert queue.engine.told == []
    worker.may_go_on.set()
    await soon(queue.join())
    assert await stopped(queue) == [("ack", 1)]
    assert queue.metrics["processed"] == 1


async def test_a_call_that_never_waits_is_settled_too() -> None:
    queue, done = MemoryQueue(), []

    async def work(item: Any) -> None:
        done.append(item)

    await queue.start_workers(work, 2)
    await put_all(queue, *range(5))
    await soon(queue.join())
    assert sorted(await stopped(queue)) == [("ack", key) for key in range(1, 6)]
    assert sorted(done) == list(range(5))


async def test_what_an_async_error_handler_has_heard_of_is_a_dead_letter() -> None:
    queue = MemoryQueue()

    async def fail(item: Any) -> None:
        raise LookupError("no such thing")

    async def hear(error: Exception, item: Any) -> None:
        await asyncio.sleep(1)

    await queue.start_workers(fail, 1, hear)
    await put_all(queue, "a")
    await soon(queue.join())
    assert await stopped(queue) == [("term", 1)]
    letter = queue.store.letters[1]
    assert (letter.error_type, letter.error, letter.deliveries) == (
        "LookupError",
        "no such thing",
        1,
    )
    assert queue.statistics().dead_letters == 1


async def test_where_no_dead_letters_are_kept_an_item_is_dropped() -> None:
    queue, worker = MemoryQueue(store=Store(max_dead_letters=0)), Worker()
    worker.failures = [LookupError()]
    await queue.start_workers(worker, 1, ignore)
    await put_all(queue, "a")
    await soon(queue.join())
    assert await stopped(queue) == [("term", 1)]
    assert queue.store.letters == {}
    assert queue._counters.totals()["processed.failed"] == 1


async def test_the_broker_is_told_until_it_has_heard() -> None:
    queue, worker = MemoryQueue(), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    queue.engine.is_lost = True
    worker.may_go_on.set()
    await asyncio.sleep(5)
    assert queue.metrics["processed"] == 0
    queue.engine.is_lost = False
    await soon(queue.join())
    assert worker.began == ["a"]
    assert queue.metrics["processed"] == 1


async def test_what_cannot_be_told_in_time_is_processed_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue, worker = MemoryQueue(store=Store(ack_wait=10)), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    queue.engine.is_lost = True
    worker.may_go_on.set()
    await asyncio.sleep(15)
    queue.engine.is_lost = False
    await soon(queue.join())
    assert worker.began == ["a", "a"]
    assert "an item is done, but memory did not hear of it (there is no answer)" in caplog.text


async def test_a_stop_while_the_broker_is_told_hands_nothing_back() -> None:
    queue, worker = MemoryQueue(), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    queue.engine.is_lost = True
    worker.may_go_on.set()
    await asyncio.sleep(1)
    queue.engine.is_lost = False
    assert await queue.stop(timeout=0) is False  # nobody knows whether it heard of it
    assert [what for what, *_ in queue.engine.told if what == "nak"] == []


async def test_a_long_call_keeps_its_lease() -> None:
    store = Store(ack_wait=10)
    queue, other = MemoryQueue(store=store), MemoryQueue(store=store)
    worker, idle = Worker(held=True), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    await other.start_workers(idle, 1)
    await asyncio.sleep(100)
    worker.may_go_on.set()
    await soon(queue.join())
    assert (worker.done, idle.began) == (["a"], [])
    await other.stop()
    await queue.stop()


async def test_an_item_whose_machine_is_silent_goes_to_another() -> None:
    store = Store(ack_wait=10)
    queue, other = MemoryQueue(store=store), MemoryQueue(store=store)
    worker, second = Worker(held=True), Worker()
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    queue.engine.is_lost = True
    await other.start_workers(second, 1)
    await until(lambda: second.done == ["a"])
    queue.engine.is_lost = False
    worker.may_go_on.set()  # its end comes too late
    await soon(other.join())
    await other.stop()
    await queue.stop()
    assert store.rows == {}


# -- what one machine knows of others -----------------------------------------------------------


async def test_a_deadline_holds_where_the_queue_has_no_policy() -> None:
    store, heard = Store(), []
    producer, queue, worker = MemoryQueue(store=store), MemoryQueue(store=store), Worker()
    await producer.start()
    assert await producer.put("late", deadline=5)
    assert await producer.put("in time", deadline=50)
    await asyncio.sleep(10)
    await queue.start_workers(worker, 1, lambda error, item: heard.append((type(error), item)))
    await soon(queue.join())
    assert worker.done == ["in time"]
    assert heard == [(DeadlineExceededError, "late")]
    await producer.stop()
    await queue.stop()


async def test_attempts_of_other_machines_count() -> None:
    store = Store()
    machines = [MemoryQueue(store=store, retry=every(1, attempts=2)) for _ in range(2)]
    workers = [Worker(), Worker()]
    for machine, worker in zip(machines, workers, strict=True):
        worker.failures = [ConnectionError()] * 5
        await machine.start_workers(worker, 1, ignore)
    await put_all(machines[0], "a")
    await until(lambda: store.letters)
    assert len(workers[0].began + workers[1].began) == 2
    for machine in machines:
        await machine.stop()


async def test_a_queue_without_rules_has_a_limiter_all_the_same() -> None:
    queue, worker = MemoryQueue(), Worker()
    await queue.start_workers(worker, 1)
    queue.limiter.observe({"Retry-After": "20"}, 429)
    await put_all(queue, "a")
    await asyncio.sleep(10)
    assert worker.began == []
    await until(lambda: worker.done == ["a"])
    await queue.stop()


# -- puts ---------------------------------------------------------------------------------------


async def test_of_two_puts_with_one_id_one_is_stored() -> None:
    store = Store()
    first, second = MemoryQueue(store=store), MemoryQueue(store=store)
    await first.start()
    await second.start()
    assert await first.put("a", id="invoice-1") is True
    assert await second.put("b", id="invoice-1") is True
    assert await second.put("c", id="invoice-2") is True
    assert store.stored_items() == ["a", "c"]
    assert (first.metrics["enqueued"], second.metrics["enqueued"]) == (1, 1)
    await first.stop()
    await second.stop()


async def test_a_put_that_was_refused_leaves_no_id() -> None:
    queue = MemoryQueue(maxsize=1)
    await queue.start()
    await put_all(queue, "first")
    assert await queue.put("a", timeout=0, id="invoice-1") is False
    assert await queue.get() == "first"
    queue.task_done()
    assert await queue.put("a", timeout=math.inf, id="invoice-1") is True
    assert queue.store.stored_items() == ["a"]
    await queue.stop()


@pytest.mark.parametrize("id_", ["", 5, b"x", "two\nlines"])
async def test_no_id(id_: Any) -> None:
    queue = MemoryQueue()
    await queue.start()
    with pytest.raises((TypeError, ValueError), match="id must"):
        await queue.put("a", id=id_)
    assert queue.store.rows == {}
    await queue.stop()


async def test_puts_that_wait_have_their_turn_one_after_the_other() -> None:
    queue = MemoryQueue(maxsize=1)
    await queue.start()
    await put_all(queue, "first")
    puts = []
    for item in "abc":
        puts.append(asyncio.create_task(queue.put(item, timeout=math.inf)))
        await asyncio.sleep(0.1)
    puts[0].cancel()  # the one that asks: the next one does
    for expected in ("first", "b", "c"):
        assert await soon(queue.get()) == expected
        queue.task_done()
    assert await asyncio.gather(*puts[1:]) == [True, True]
    assert queue.statistics().waiting_putters == 0
    await queue.stop()


async def test_a_put_behind_others_ends_in_its_own_time() -> None:
    queue = MemoryQueue(maxsize=1)
    await queue.start()
    await put_all(queue, "first")
    first = asyncio.create_task(queue.put("a", timeout=100))
    await asyncio.sleep(0.1)
    began = now()
    assert await queue.put("b", timeout=2) is False
    assert now() - began == pytest.approx(2, abs=0.1)
    await queue.stop()
    with pytest.raises(QueueStateError):
        await first


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_puts_that_a_closed_loop_left_in_line_hold_up_no_others() -> None:
    queue = MemoryQueue(maxsize=1)

    async def leave() -> list[asyncio.Task[bool]]:
        await queue.start()
        await put_all(queue, "first")
        puts = [asyncio.ensure_future(queue.put(item, timeout=math.inf)) for item in "ab"]
        await until(lambda: queue.statistics().waiting_putters == 2)
        return puts

    loop = asyncio.new_event_loop()
    puts = loop.run_until_complete(leave())
    loop.close()

    async def go_on() -> None:
        await queue.start()
        for put in puts:  # as the garbage collector would end them
            put.get_coro().close()  # type: ignore[union-attr]
        assert queue.statistics().waiting_putters == 0
        assert await queue.get() == "first"
        queue.task_done()
        assert await queue.put("c", timeout=30) is True
        await queue.stop()

    asyncio.run(go_on())
    assert queue.store.stored_items() == ["c"]
    for put in puts:
        put._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_many_items_of_which_one_cannot_be_encoded() -> None:
    queue = MemoryQueue()
    await queue.start()
    assert await queue.put_many([1, 2, object(), 3]) == 2
    with pytest.raises(CodecError):
        await queue.put_many([object(), 3])
    assert queue.store.stored_items() == [1, 2]
    assert queue.metrics["enqueued"] == 2
    await queue.stop()


async def test_many_items_of_which_one_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue(maxsize=500)
    await queue.start()
    put, count = queue.engine.put, 0

    async def put_many(messages: Any) -> int:
        nonlocal count
        for number, message in enumerate(messages):
            count += 1
            if count == 300:
                raise QueueUnknownError("no answer", accepted=number)
            await put(message)
        return len(messages)

    monkeypatch.setattr(queue.engine, "put_many", put_many)
    with pytest.raises(QueueUnknownError) as caught:
        await queue.put_many(range(400))
    assert caught.value.accepted == 299
    assert queue.metrics["enqueued"] == 299
    assert len(queue.store.rows) == queue.size == 299
    await queue.stop()


async def test_each_of_many_items_has_its_span(recorder: Recorder) -> None:
    queue, worker = MemoryQueue(maxsize=3, telemetry=recorder.telemetry()), Worker()
    await queue.start()
    assert await queue.put_many(list("abcd"), timeout=0) == 3
    puts = recorder.spans("put memory")
    assert [(put.attributes or {})["penstock.put.outcome"] for put in puts] == [
        *["accepted"] * 3,
        "full",
    ]
    await queue.start_workers(worker, 1)
    await soon(queue.join())
    await queue.stop()
    processed = recorder.spans("process memory")
    assert [parent_id(span) for span in processed] == [span_id(put) for put in puts[:3]]


async def test_a_stop_ends_the_rest_of_many_items(recorder: Recorder) -> None:
    queue = MemoryQueue(maxsize=2, telemetry=recorder.telemetry())
    await queue.start()
    put = asyncio.create_task(queue.put_many([1, 2, 3], timeout=math.inf))
    await until(lambda: queue.statistics().waiting_putters == 1)
    await queue.stop()
    assert await put == 2
    assert [
        (span.attributes or {})["penstock.put.outcome"] for span in recorder.spans("put memory")
    ] == ["accepted", "accepted", "stopped"]


# -- a pause of all processes -------------------------------------------------------------------


async def test_a_pause_holds_all_machines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    queue, other = MemoryQueue(store=store), MemoryQueue(store=store)
    worker, second = Worker(held=True), Worker()
    await queue.start_workers(worker, 1)
    await other.start_workers(second, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began or second.began)
    await other.pause_all()
    await put_all(queue, "b", "c")
    worker.may_go_on.set()
    await asyncio.sleep(20)
    assert worker.done + second.done == ["a"]  # what is in hand goes on
    await queue.stop()
    assert store.stored_items() == ["b", "c"]
    await other.resume_all()
    await soon(other.join())
    assert sorted(second.done[-2:]) == ["b", "c"]
    assert "Queue memory is paused, for all processes" in caplog.text
    await other.stop()
    with pytest.raises(QueueStateError, match="Cannot pause when queue is stopped"):
        await other.pause_all()


async def test_a_pause_of_one_process_holds_no_other() -> None:
    store = Store()
    queue, other = MemoryQueue(store=store), MemoryQueue(store=store)
    worker, second = Worker(held=True), Worker()
    await queue.start_workers(worker, 2)
    await put_all(queue, "in hand")
    await until(lambda: worker.began == ["in hand"])
    queue.pause()
    queue.pause()  # twice is as once
    assert queue.is_paused
    assert queue.statistics().is_paused
    worker.may_go_on.set()
    await put_all(queue, "a", "b")
    await asyncio.sleep(20)
    assert worker.done == ["in hand"]
    with pytest.raises(QueueEmptyError):
        await queue.get(timeout=1)
    assert store.stored_items() == ["a", "b"]
    await other.start_workers(second, 1)
    await until(lambda: second.done == ["a", "b"])
    await other.stop()
    await put_all(queue, "c")
    await asyncio.sleep(5)
    queue.resume()
    queue.resume()
    assert not queue.is_paused
    await soon(queue.join())
    assert worker.done == ["in hand", "c"]
    assert [row.deliveries for row in store.rows.values()] == []
    queue.pause()
    assert await queue.stop() is True
    assert not queue.is_paused
    for call in (queue.pause, queue.resume):
        with pytest.raises(QueueStateError, match=f"Cannot {call.__name__} when queue is stopped"):
            call()
    await queue.start()
    assert not queue.is_paused
    await queue.stop()


async def test_a_pause_hands_back_what_waits_here_for_its_service() -> None:
    queue, worker = MemoryQueue(retry=RetryPolicy(2)), Worker()
    worker.failures = [RateLimitError(retry_after=50)]
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: queue.statistics().retrying == 1)
    queue.pause()
    await until(lambda: queue.statistics().retrying == 0)
    assert queue.store.rows[1].holder is None
    queue.resume()
    await until(lambda: worker.done == ["a"], timeout=100)
    await queue.stop()


async def test_a_pause_that_the_broker_refuses() -> None:
    queue = MemoryQueue()
    await queue.start()
    queue.engine.is_lost = True
    with pytest.raises(BrokerError):
        await queue.pause_all()
    queue.engine.is_lost = False
    await queue.stop()


async def test_a_limit_holds_items_in_their_workers_hands_and_a_stop_hands_them_back() -> None:
    queue, worker = MemoryQueue(limits=[Limit(1, per=100)], retry=RetryPolicy(2)), Worker()
    await queue.start_workers(worker, 2)
    await put_all(queue, "a", "b")
    await until(lambda: worker.done == ["a"])
    await asyncio.sleep(1)
    assert await soon(queue.stop()) is False
    assert queue.store.stored_items() == ["b"]
    assert ("nak", 2, 0.0) in queue.engine.told
