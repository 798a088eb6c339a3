"""NatsQueue beside the contract of every queue: its life, its loops, and its blocking face."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

import penstock.sync
from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import BOUND, messages
from brokers.servers import NatsServer
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import Limit, QueueEmptyError, QueueStateError, QueueStatus, WorkQueue
from penstock.brokers.nats import NatsQueue
from penstock.errors import BrokerError
from penstock.protocols import Queue
from processes import HeldPort
from sync.helpers import eventually, in_thread, queue_threads, run_program

pytestmark = pytest.mark.real_time


# -- its life -----------------------------------------------------------------------------------


async def test_it_is_a_queue(make_queue: MakeQueue) -> None:
    assert isinstance(make_queue(), Queue)


async def test_what_is_not_there_says_what_is(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start()
    with pytest.raises(TypeError, match=r"use await put\(item, timeout=0\)"):
        queue.put_nowait("a")
    with pytest.raises(TypeError, match=r"use await get\(timeout=0\)"):
        queue.get_nowait()


def connections(server: NatsServer) -> set[int]:
    """The ids of those that are open; those of tests before this one may still end."""
    return {each["cid"] for each in server.monitor("/connz")["connections"]}


async def test_two_starts_at_once_are_one(make_queue: MakeQueue, nats_server: NatsServer) -> None:
    queue = make_queue()
    before = connections(nats_server)
    await soon(asyncio.gather(*(queue.start() for _ in range(5))))
    assert len(connections(nats_server) - before) == 1
    await put_all(queue, "a")


async def test_stop_leaves_nothing_behind(make_queue: MakeQueue, nats_server: NatsServer) -> None:
    before = connections(nats_server)
    tasks = asyncio.all_tasks()
    queue = make_queue()
    await queue.start_workers(Worker(), 3)
    await put_all(queue, 1, 2, 3)
    await soon(queue.join())
    assert await soon(queue.stop()) is True
    await until(lambda: asyncio.all_tasks() == tasks)
    await until(lambda: connections(nats_server) <= before)


async def test_it_starts_again_after_a_stop(make_queue: MakeQueue) -> None:
    queue, worker = make_queue(), Worker()
    for item in range(3):
        await queue.start_workers(worker, 2)
        await put_all(queue, item)
        await soon(queue.join())
        assert await soon(queue.stop()) is True
        assert await soon(queue.stop()) is True
    assert worker.done == [0, 1, 2]


async def test_a_stop_while_it_starts(make_queue: MakeQueue) -> None:
    queue = make_queue()
    start = asyncio.create_task(queue.start())
    await asyncio.sleep(0)
    await soon(queue.stop())
    await soon(asyncio.gather(start, return_exceptions=True))
    await soon(queue.stop())
    assert queue.status == QueueStatus.STOPPED
    await soon(queue.start())
    await put_all(queue, "a")


async def test_what_it_tells_is_the_sum_of_all_machines(make_queue: MakeQueue) -> None:
    first, second = make_queue(maxsize=3), make_queue(maxsize=3)
    await first.start()
    await put_all(first, 1, 2)
    await second.start()
    assert (first.size, second.size) == (2, 2)
    await put_all(second, 3)
    assert second.is_full
    await until(lambda: first.is_full, 3)  # it looks every second
    figures = second.statistics()
    assert (figures.size, figures.unfinished, figures.enqueued) == (3, 3, 1)
    held = Worker(held=True)
    await second.start_workers(held, 2)
    await until(lambda: len(held.began) == 2)
    assert second.statistics().inflight == 2
    held.may_go_on.set()
    await soon(first.join())
    assert second.metrics["processed"] == 3
    assert first.metrics["processed"] == 0


async def test_join_waits_for_what_others_have_in_hand(make_queue: MakeQueue) -> None:
    first, second, held = make_queue(), make_queue(), Worker(held=True)
    await first.start()
    await second.start_workers(held, 1)
    await put_all(first, "a")
    await until(lambda: held.began)
    join = asyncio.create_task(first.join())
    await asyncio.sleep(0.3)
    assert not join.done()
    held.may_go_on.set()
    await soon(join)


async def test_join_of_a_queue_that_stops_with_items_in_it(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start()
    await put_all(queue, "a")
    join = asyncio.create_task(queue.join())
    await asyncio.sleep(0.1)
    await soon(queue.stop())
    with pytest.raises(
        QueueStateError, match="Cannot join: the queue stopped on this machine with 1 items"
    ):
        await soon(join)


async def test_inside_a_worker_it_refuses_to_wait_for_itself(make_queue: MakeQueue) -> None:
    queue, refused = make_queue(), []

    async def work(item: Any) -> None:
        for call in (queue.stop, queue.join, queue.stop_workers):
            with pytest.raises(QueueStateError, match="inside a worker") as caught:
                await call()
            refused.append(str(caught.value))

    await queue.start_workers(work, 1)
    await put_all(queue, "a")
    await soon(queue.join())
    assert len(refused) == 3


async def test_a_worker_puts_into_its_own_queue(make_queue: MakeQueue) -> None:
    queue, done = make_queue(), []

    async def work(item: int) -> None:
        if item:
            assert await queue.put(item - 1)
        done.append(item)

    await queue.start_workers(work, 1)
    await put_all(queue, 5)
    await soon(queue.join())
    assert done == [5, 4, 3, 2, 1, 0]


async def test_a_stop_hands_back_what_waits_for_its_limit(make_queue: MakeQueue) -> None:
    slow, other = make_queue(limits=[Limit(1, per=3600)]), make_queue()
    first, second = Worker(), Worker()
    await slow.start_workers(first, 2)
    await put_all(slow, 0, 1)
    await until(lambda: len(first.done) == 1 and slow.statistics().inflight == 1)
    await other.start()
    await soon(slow.stop())  # and not in an hour
    await other.start_workers(second, 1)
    await until(lambda: len(second.done) == 1)
    assert sorted([*first.done, *second.done]) == [0, 1]


async def test_an_exception_in_the_block_hands_back_at_once(make_queue: MakeQueue) -> None:
    held, worker, other = Worker(held=True), Worker(), make_queue()

    async def fail_in_the_block() -> None:
        async with make_queue() as queue:
            await queue.start_workers(held, 1)
            await put_all(queue, "a")
            await until(lambda: held.began)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await soon(fail_in_the_block())
    await other.start_workers(worker, 1)
    await until(lambda: worker.done == ["a"], 5)


# -- loops --------------------------------------------------------------------------------------


def test_two_queues_of_one_program_in_different_loops(nats_server: NatsServer, name: str) -> None:
    done: list[Any] = []
    all_done = threading.Event()

    def note(item: Any) -> None:
        done.append(item)
        if len(done) == 20:
            all_done.set()

    async def process() -> None:
        async with NatsQueue[Any](nats_server.url, name) as queue:
            await queue.start_workers(note, 2)
            assert await asyncio.to_thread(all_done.wait, BOUND)

    async def put() -> None:
        async with NatsQueue[Any](nats_server.url, name) as queue:
            await put_all(queue, *range(20))

    processing = in_thread(lambda: asyncio.run(process()))
    asyncio.run(put())
    processing.result(BOUND)
    assert sorted(done) == list(range(20))


def test_it_belongs_to_the_loop_in_which_it_runs(nats_server: NatsServer, name: str) -> None:
    queue: NatsQueue[Any] = NatsQueue(nats_server.url, name)

    async def elsewhere(call: Any) -> str:
        with pytest.raises(QueueStateError) as caught:
            await call()
        return str(caught.value)

    async def main() -> None:
        async with queue:
            for call in (lambda: queue.put(1), queue.get, queue.stop, queue.start, queue.join):
                text = await asyncio.to_thread(asyncio.run, elsewhere(call))
                assert "belongs to another event loop or thread" in text
            await put_all(queue, 1)

    asyncio.run(main())


def test_a_run_that_ends_without_a_stop_and_another_one(nats_server: NatsServer, name: str) -> None:
    outcome = run_program(
        f"""
        import asyncio, warnings
        from penstock import QueueStateError
        from penstock.brokers.nats import NatsQueue

        warnings.simplefilter("ignore", ResourceWarning)  # its socket was left open
        queue = NatsQueue("{nats_server.url}", "{name}", ack_wait=1)
        done = []
        began = asyncio.Event()

        async def stuck(item):
            began.set()
            await asyncio.sleep(3600)

        async def first():
            await queue.start_workers(stuck, 1)
            assert await queue.put("a") and await queue.put("b")
            await asyncio.wait_for(began.wait(), 10)

        async def work(item):
            done.append(item)

        async def second():
            assert queue.status == "processing"  # nobody has told it otherwise
            await queue.start_workers(work, 1)
            assert await queue.put("c")
            await asyncio.wait_for(queue.join(), 20)
            assert await queue.stop()

        asyncio.run(first())
        asyncio.run(second())
        print(sorted(done), queue.status.value)
        """
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "['a', 'b', 'c'] stopped\n", outcome.stderr
    assert "never retrieved" not in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_put_of_a_loop_that_was_closed_does_not_hold_up_a_later_stop(
    nats_server: NatsServer, name: str
) -> None:
    program = f"""
        import asyncio, time, warnings
        from penstock.brokers.nats import NatsQueue

        warnings.simplefilter("ignore", ResourceWarning)  # the connection is left behind

        async def begin():
            await queue.start()
            assert await queue.put("a")
            put = asyncio.create_task(queue.put("b", timeout=60))
            while not queue.statistics().waiting_putters:
                await asyncio.sleep(0.01)
            return put

        async def again():
            await queue.start()
            put.get_coro().close()  # as the garbage collector does, at some time
            began = time.monotonic()
            await queue.stop()
            print(time.monotonic() - began)

        queue = NatsQueue({nats_server.url!r}, name={name!r}, maxsize=1)
        loop = asyncio.new_event_loop()
        put = loop.run_until_complete(begin())
        loop.close()
        asyncio.run(again())
    """
    outcome = run_program(program)
    assert outcome.returncode == 0, outcome.stderr
    assert float(outcome.stdout) < 5


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_queue_that_is_garbage_takes_nothing_with_it(nats_server: NatsServer, name: str) -> None:
    async def forget() -> None:
        queue: NatsQueue[Any] = NatsQueue(nats_server.url, name)
        await queue.start()
        await put_all(queue, "a")

    asyncio.run(forget())
    gc.collect()
    assert messages(nats_server, name) == 1


# -- the blocking face --------------------------------------------------------------------------


def test_threads_put_and_process(make_blocking: Any, nats_server: NatsServer, name: str) -> None:
    others = queue_threads()
    queue, done = make_blocking(maxsize=5), []
    with queue:
        queue.process(done.append, 3)
        puts = [
            in_thread(lambda k=k: [queue.put(k * 10 + n, timeout=BOUND) for n in range(10)])
            for k in range(4)
        ]
        assert [put.result(BOUND) for put in puts] == [[True] * 10] * 4
        queue.join()
        assert sorted(done) == list(range(40))
        assert queue.metrics["processed"] == 40
    assert queue.status == QueueStatus.STOPPED
    assert messages(nats_server, name) == 0
    eventually(lambda: queue_threads() <= others)


def test_threads_take_by_hand(make_blocking: Any) -> None:
    with make_blocking() as queue:
        get = in_thread(lambda: queue.get(timeout=BOUND))
        assert queue.put("a") is True
        assert get.result(BOUND) == "a"
        queue.task_done()
        queue.join()


def test_a_batch_from_threads(make_blocking: Any) -> None:
    others = queue_threads()
    done: list[Any] = []
    queue = make_blocking(maxsize=5)
    queue.batch_process(range(30), done.append, 4)
    assert sorted(done) == list(range(30))
    eventually(lambda: queue_threads() <= others)


def test_threads_put_many_and_under_ids(
    make_blocking: Any, nats_server: NatsServer, name: str
) -> None:
    with make_blocking(maxsize=4) as queue:
        assert queue.put("a", id="invoice-1") is True
        assert queue.put("a", timeout=1, deadline=60, id="invoice-1") is True
        assert queue.put_many([1, 2, 3, 4], timeout=0) == 3
        queue.pause()
        assert queue.is_paused
        with pytest.raises(QueueEmptyError):
            queue.get(timeout=0)
        queue.resume()
        assert not queue.is_paused
        with pytest.raises(BrokerError, match="pause_all"):  # the server is too old
            queue.pause_all()
    assert messages(nats_server, name) == 4


def test_full_is_false_for_threads_too(make_blocking: Any) -> None:
    with make_blocking(maxsize=2) as queue:
        assert [queue.put(n, timeout=0) for n in range(3)] == [True, True, False]
        waiting = in_thread(lambda: queue.put(3, timeout=BOUND))
        eventually(lambda: queue.statistics().waiting_putters == 1)
        assert queue.stop() is False
        with pytest.raises(QueueStateError):
            waiting.result(BOUND)


def test_a_stop_from_another_thread_hands_back(
    make_blocking: Any, nats_server: NatsServer, name: str
) -> None:
    began = threading.Event()

    async def stuck(item: Any) -> None:
        began.set()
        await asyncio.sleep(3600)

    queue = make_blocking()
    queue.start()
    queue.process(stuck, 1)
    assert queue.put("a")
    assert began.wait(BOUND)
    assert in_thread(lambda: queue.stop(timeout=0.1)).result(BOUND) is False
    done: list[Any] = []
    with make_blocking() as other:
        other.process(done.append)
        other.join()
    assert done == ["a"]


def test_what_threads_cannot_have(make_blocking: Any) -> None:
    with make_blocking() as queue:
        with pytest.raises(TypeError, match="submit"):
            queue.submit("a")
        with pytest.raises(TypeError, match="map"):
            queue.map(print, [1])
        with pytest.raises(TypeError, match="cannot ask a server"):
            queue.put_nowait("a", deadline=5)


def test_a_server_that_is_not_there_for_threads() -> None:
    others = queue_threads()
    with HeldPort() as port:
        url = f"nats://127.0.0.1:{port.number}"
        queue = penstock.sync.WorkQueue[Any](queue=NatsQueue(url, "q"))
        with pytest.raises(BrokerError, match="Nothing listens at"):
            queue.start()
    eventually(lambda: queue_threads() <= others)


@pytest.fixture
def make_blocking(nats_server: NatsServer, name: str) -> Any:
    """Makes queues for threads."""

    def make(**settings: Any) -> penstock.sync.WorkQueue[Any]:
        return penstock.sync.WorkQueue(queue=NatsQueue(nats_server.url, name, **settings))

    return make


async def test_the_dead_letters_through_the_face(make_queue: MakeQueue) -> None:
    queue: WorkQueue[Any] = WorkQueue(queue=make_queue())
    worker = Worker()
    worker.failures = [ValueError("no")]
    await queue.process(worker, 1, lambda error, item: None)
    assert await queue.put("a")
    await soon(queue.join())
    assert await soon(queue.redrive()) == 1
    await soon(queue.join())
    assert worker.done == ["a"]
    await queue.stop()
