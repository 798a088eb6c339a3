"""Closing a queue for threads, and iterating over its items."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from concurrent.futures import wait
from contextlib import closing
from typing import Any

import pytest

from penstock import (
    BoundedQueue,
    QueueClosedError,
    QueueEmptyError,
    QueueStateError,
    QueueStatus,
    RetryPolicy,
)
from penstock.brokers.nats import NatsQueue
from penstock.sync import LoopThread, WorkQueue
from sync.helpers import BOUND, KINDS, Held, eventually, in_thread, kind_of, run_program


def filled(*items: str, maxsize: int = 100) -> WorkQueue[str]:
    queue: WorkQueue[str] = WorkQueue(maxsize)
    queue.start()
    for item in items:
        assert queue.put(item)
    return queue


def thread_of(queue: WorkQueue[Any]) -> threading.Thread:
    provider = queue.queue._provider
    thread: threading.Thread = provider._thread.thread
    return thread


class TestTheThreadOfTheLoop:
    def test_it_ends_with_the_last_item_of_a_consumer(self) -> None:
        queue = filled("a", "b")
        thread = thread_of(queue)
        queue.close()
        assert list(queue) == ["a", "b"]
        thread.join(BOUND)
        assert not thread.is_alive()
        assert queue.status == QueueStatus.STOPPED

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_ends_with_the_last_item_of_workers(self, kind: str) -> None:
        queue: WorkQueue[str] = WorkQueue()
        done: list[str] = []
        queue.process(kind_of(kind, done.append), 2)
        thread = thread_of(queue)
        queue.put("a")
        queue.put("b")
        queue.close()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert sorted(done) == ["a", "b"]
        assert queue.stop() is True
        assert queue.join(BOUND) is True

    def test_it_ends_with_a_call_that_uses_it(self) -> None:
        queue = filled("a")
        thread = thread_of(queue)
        join = in_thread(queue.join, BOUND)
        eventually(lambda: queue.queue._provider._users == 1)
        queue.close()
        assert list(queue) == ["a"]
        assert join.result(BOUND) is True
        thread.join(BOUND)
        assert not thread.is_alive()

    def test_the_queue_can_be_used_again(self) -> None:
        queue = filled("a")
        for _ in range(3):
            queue.close()
            assert list(queue)
            assert queue.join(BOUND)
            queue.start()
            queue.put("b")
        assert queue.stop() is False
        assert queue.unprocessed == ["b"]

    def test_one_that_somebody_else_has_made_goes_on(self) -> None:
        from penstock.sync import LoopThread

        with LoopThread() as thread:
            queue: WorkQueue[str] = WorkQueue(loop_thread=thread)
            with queue:
                queue.put("a")
                queue.close()
                assert list(queue) == ["a"]
                assert queue.join(BOUND)
            assert thread.is_running


def blocked_loop(queue: WorkQueue[Any]) -> threading.Event:
    """Block the queue's event loop until the event is set."""
    is_blocked, may_go_on = threading.Event(), threading.Event()

    def block() -> None:
        is_blocked.set()
        assert may_go_on.wait(BOUND)

    loop = queue.queue._loop
    assert loop is not None
    loop.call_soon_threadsafe(block)
    assert is_blocked.wait(BOUND)
    return may_go_on


class TestWhatTheLoopHasNotHeardOf:
    def test_a_start_after_the_end_does_not_undo_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        queue = filled()
        buffer = queue.queue._buffer
        get = in_thread(queue.get)
        eventually(lambda: buffer._waiters)
        has_started = threading.Event()
        take = buffer.take

        def take_late() -> Any:
            assert has_started.wait(BOUND)
            return take()

        monkeypatch.setattr(buffer, "take", take_late)
        may_go_on = blocked_loop(queue)
        queue.close()
        start = in_thread(queue.start)
        eventually(lambda: queue.queue._provider._users)
        may_go_on.set()
        start.result(BOUND)
        has_started.set()
        assert isinstance(get.exception(BOUND), QueueClosedError)
        assert (queue.status, queue.is_closed) == (QueueStatus.PROCESSING, False)
        assert queue.stop() is True

    def test_a_join_waits_until_the_queue_has_stopped(self) -> None:
        queue = filled("a")
        may_go_on = blocked_loop(queue)
        queue.close()
        assert list(queue) == ["a"]

        def status_after_join() -> QueueStatus:
            assert queue.join(BOUND)
            return queue.status

        status = in_thread(status_after_join)
        eventually(lambda: status.done() or queue.queue._provider._users)
        may_go_on.set()
        assert status.result(BOUND) == QueueStatus.STOPPED


class TestManyThreads:
    def test_getters_share_out_what_is_left_and_all_end(self) -> None:
        queue = filled(maxsize=10)
        number = 8

        def get_all() -> int:
            count = 0
            while True:
                try:
                    queue.get()
                except QueueClosedError:
                    return count
                count += 1
                queue.task_done()

        getters = [in_thread(get_all) for _ in range(number)]
        putters = [
            in_thread(lambda: [queue.put("item", timeout=BOUND) for _ in range(100)])
            for _ in range(number)
        ]
        accepted = sum(sum(putter.result(BOUND)) for putter in putters)
        queue.close()
        assert sum(getter.result(BOUND) for getter in getters) == accepted == 100 * number
        assert queue.join(BOUND)
        assert queue.status == QueueStatus.STOPPED

    def test_putters_and_getters_are_closed_in_the_middle(self) -> None:
        queue = filled(maxsize=3)
        barrier = threading.Barrier(9)

        def put_all() -> int:
            barrier.wait(BOUND)
            count = 0
            try:
                while queue.put("item", timeout=BOUND):
                    count += 1
            except QueueClosedError:
                return count
            raise AssertionError("there was room")

        def get_all() -> int:
            barrier.wait(BOUND)
            return sum(1 for _ in queue)

        putters = [in_thread(put_all) for _ in range(4)]
        getters = [in_thread(get_all) for _ in range(4)]
        barrier.wait(BOUND)
        eventually(lambda: queue.metrics["processed"] > 100)
        queue.close()
        put = sum(putter.result(BOUND) for putter in putters)
        assert sum(getter.result(BOUND) for getter in getters) == put
        assert queue.join(BOUND)
        assert queue.metrics["enqueued"] == queue.metrics["processed"] == put

    def test_it_is_closed_by_two_at_once(self) -> None:
        for _ in range(20):
            queue = filled("a")
            barrier = threading.Barrier(2)

            def close(queue: WorkQueue[str] = queue, barrier: Any = barrier) -> None:
                barrier.wait(BOUND)
                queue.close()

            closers = [in_thread(close) for _ in range(2)]
            assert list(queue) == ["a"]
            for closer in closers:
                closer.result(BOUND)
            assert queue.join(BOUND)
            assert queue.status == QueueStatus.STOPPED

    def test_close_beside_stop_or_start(self) -> None:
        for other in ("stop", "start"):
            for _ in range(20):
                queue = filled("a")
                barrier = threading.Barrier(2)

                def call(queue: Any = queue, barrier: Any = barrier, other: str = other) -> None:
                    barrier.wait(BOUND)
                    getattr(queue, other)()

                calling = in_thread(call)
                barrier.wait(BOUND)
                queue.close()
                calling.result(BOUND)
                queue.stop()
                assert queue.unprocessed == ["a"]

    def test_getters_with_and_without_timeouts_are_told(self) -> None:
        queue = filled()
        getters = [in_thread(queue.get, timeout) for timeout in (None, BOUND, float("inf")) * 5]
        eventually(lambda: len(queue.queue._buffer._waiters) == 15)
        queue.close()
        wait(getters, BOUND)
        assert {type(getter.exception(BOUND)) for getter in getters} == {QueueClosedError}

    def test_a_getter_whose_time_is_over_first_is_told_that(self) -> None:
        queue = filled()
        with pytest.raises(QueueEmptyError):
            queue.get(timeout=0.01)
        queue.close()
        with pytest.raises(QueueClosedError):
            queue.get(timeout=0.01)

    def test_getters_wait_for_what_is_to_be_tried_again(self) -> None:
        retry = RetryPolicy(5, backoff=lambda attempt, error: 0.2, budget=None)
        queue: WorkQueue[str] = WorkQueue(retry=retry)
        queue.process(lambda item: 1 / 0, 1)
        queue.put("a")
        eventually(lambda: queue.statistics().retrying)
        queue.queue.stop_workers()
        getters = [in_thread(list, queue) for _ in range(4)]
        queue.close()
        assert sorted(len(getter.result(BOUND)) for getter in getters) == [0, 0, 0, 1]
        assert queue.join(BOUND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_function_closes_its_queue(kind: str) -> None:
    queue: WorkQueue[str] = WorkQueue()
    done = []

    def work(item: str) -> None:
        queue.close()
        with pytest.raises(QueueClosedError):
            queue.put_nowait("more")
        done.append(item)

    queue.process(kind_of(kind, work), 1)
    queue.put("a")
    eventually(lambda: queue.status == QueueStatus.STOPPED)
    assert done == ["a"]


def test_close_is_allowed_in_a_running_event_loop() -> None:
    queue = filled("a")

    async def main() -> None:
        queue.close()

    asyncio.run(main())
    assert list(queue) == ["a"]


def test_close_does_not_wait_for_a_worker_function_that_blocks_the_loop() -> None:
    held = Held()

    async def block(item: str) -> None:
        held(item)

    queue: WorkQueue[str] = WorkQueue()
    queue.process(block, 1)
    queue.put("a")
    eventually(lambda: held.began)
    queue.close()
    with pytest.raises(QueueClosedError):
        queue.put("b")
    held.may_go_on.set()
    assert queue.join(BOUND)
    assert queue.status == QueueStatus.STOPPED


class TestAnIterator:
    def test_that_is_closed_by_an_exception_its_item_has_failed(self) -> None:
        queue = filled("a", "b")
        with pytest.raises(KeyError, match="mine"), closing(queue.items()) as items:  # noqa: PT012
            for item in items:
                assert item == "a"
                raise KeyError("mine")
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 1)
        assert queue.unprocessed == ["b"]
        queue.stop()

    def test_that_is_closed_after_a_break_its_item_is_done(self) -> None:
        queue = filled("a", "b")
        with closing(queue.items()) as items:
            for _ in items:
                break
        with pytest.raises(StopIteration):
            next(items)
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (1, 0)
        assert queue.unprocessed == ["b"]
        queue.stop()

    def test_that_is_not_closed_its_item_is_done_when_it_is_collected(self) -> None:
        queue = filled("a", "b")
        for _ in queue:
            break
        gc.collect()
        eventually(lambda: queue.metrics["processed"] == 1)
        assert queue.unprocessed == ["b"]
        queue.stop()

    def test_that_is_left_after_a_stop_its_item_is_done(self) -> None:
        queue = filled("a")
        for _ in queue:
            assert queue.stop() is True
            break
        gc.collect()
        eventually(lambda: queue.metrics["processed"] == 1)
        with queue:
            assert queue.join(BOUND)

    def test_that_is_collected_in_the_middle_of_a_call_waits_for_no_lock(self) -> None:
        queue = filled("a", "b")
        items = queue.items()
        assert next(items) == "a"
        with queue.queue._buffer.lock:
            del items
            gc.collect()
        eventually(lambda: queue.metrics["processed"] == 1)
        queue.stop()

    def test_that_two_threads_ask_at_once(self) -> None:
        queue = filled()
        items = queue.items()
        first = in_thread(next, items)
        eventually(lambda: queue.queue._buffer._waiters)
        with pytest.raises(RuntimeError, match="give each consumer an iterator of its own"):
            next(items)
        queue.put("a")
        assert first.result(BOUND) == "a"
        queue.close()
        assert list(items) == []


class TestProcessing:
    def test_it_is_a_get_and_its_task_done(self) -> None:
        queue = filled("a", "b")
        with queue.processing() as item:
            assert item == "a"
            assert queue.statistics().inflight == 1
        assert queue.metrics["processed"] == 1
        with pytest.raises(KeyError), queue.processing(timeout=1):
            raise KeyError("mine")
        assert queue.metrics == {
            "enqueued": 2,
            "processed": 2,
            "errors": 1,
            "backpressure_events": 0,
        }
        with pytest.raises(QueueEmptyError), queue.processing(timeout=0):
            pass
        queue.close()
        with pytest.raises(QueueClosedError), queue.processing():
            pass


class TestOtherKindsOfQueue:
    def test_one_on_a_broker_cannot_be_closed(self) -> None:
        queue: WorkQueue[Any] = WorkQueue(queue=NatsQueue("nats://localhost", "numbers"))
        with pytest.raises(TypeError, match=r"close\(\) needs a queue that has it"):
            queue.close()
        assert not queue.is_closed
        for call in (queue.items, queue.processing, lambda: iter(queue)):
            with pytest.raises(TypeError, match="need a queue in this process"):
                call()

    def test_an_asynchronous_one_in_this_process_can(self) -> None:
        queue: WorkQueue[str] = WorkQueue(queue=BoundedQueue())
        done: list[str] = []
        queue.process(done.append)
        queue.put("a")
        queue.close()
        queue.join()
        assert done == ["a"]
        assert queue.is_closed
        with pytest.raises(QueueClosedError):
            queue.get()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_closes_nothing() -> None:
    outcome = run_program(
        """
        import os, warnings
        from penstock import QueueStateError
        from penstock.sync import WorkQueue

        warnings.simplefilter("ignore", DeprecationWarning)
        queue = WorkQueue()
        queue.start()
        queue.put("a")
        queue.put("b")
        items = iter(queue)
        assert next(items) == "a"
        child = os.fork()
        if not child:
            try:
                queue.close()
            except QueueStateError as error:
                assert "forked" in str(error)
                queue.queue._loop.call_soon_threadsafe = None  # it is the parent's
                del items
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert not queue.is_closed
        assert queue.put("c")
        queue.close()
        assert list(items) == ["b", "c"]
        assert queue.join()
        """
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_the_handlers_of_signals_come_back_at_the_end() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    queue = filled("a")
    queue.stop_on_signals(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) != before
    queue.close()
    assert list(queue) == ["a"]
    assert queue.join(BOUND)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_queue_whose_loop_has_died_says_so() -> None:
    queue = filled("a")
    loop = queue.queue._loop
    assert loop is not None
    loop.call_soon_threadsafe(loop.stop)
    eventually(lambda: queue.status == QueueStatus.STOPPED)
    with pytest.raises(QueueStateError, match="lost its event loop"):
        queue.close()


def test_a_batch_that_is_closed_by_others_waits_for_what_was_accepted() -> None:
    held = Held()
    queue: WorkQueue[int] = WorkQueue(2)
    batch = in_thread(queue.batch_process, range(100), held, 1)
    eventually(lambda: queue.metrics["enqueued"] == 3 and queue.statistics().waiting_putters)
    queue.close()
    held.may_go_on.set()
    assert isinstance(batch.exception(BOUND), QueueClosedError)
    assert held.done == [0, 1, 2]
    assert queue.unprocessed == []


def test_a_program_that_ends_has_everything_processed() -> None:
    outcome = run_program(
        """
        import time
        from penstock.sync import WorkQueue

        queue = WorkQueue()
        queue.process(lambda item: (time.sleep(0.1), print(item)), 1)
        queue.put("a")
        queue.put("b")
        queue.close()
        """
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "a\nb\n"


def test_an_item_that_is_left_in_the_last_moment_of_the_loop_is_done() -> None:
    """The loop takes the call then, and makes none any more."""

    class Loop(asyncio.SelectorEventLoop):
        def close(self) -> None:
            left.clear()
            super().close()

    thread = LoopThread(loop_factory=Loop)
    thread.start()
    queue: WorkQueue[str] = WorkQueue(loop_thread=thread)
    queue.start()
    queue.put("a")
    left = [queue.items()]
    assert next(left[0]) == "a"
    queue.stop(timeout=0, drain=False)
    assert queue.statistics().inflight == 1
    assert thread.close(BOUND)
    assert queue.statistics().inflight == 0
    assert queue.metrics["processed"] == 1
