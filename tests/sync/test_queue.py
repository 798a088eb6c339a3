"""The blocking queue: what its promises are worth among many threads."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from functools import partial
from typing import Any

import pytest

from penstock import QueueEmptyError, QueueFullError, QueueStateError
from penstock.sync import LoopThread, WorkQueue
from sync.helpers import BOUND, KINDS, Held, eventually, in_thread, kind_of, run_program


@pytest.mark.parametrize("kind", KINDS)
def test_64_threads_with_random_timeouts_and_a_stop_in_the_middle(kind: str) -> None:
    queue: WorkQueue[int] = WorkQueue(10, 0.01)
    ran: list[int] = []
    accepted: list[int] = []
    refused: list[int] = []
    deepest: list[int] = []

    def work(item: int) -> None:
        deepest.append(queue.size)
        ran.append(item)

    def produce(seed: int) -> None:
        rng = random.Random(seed)
        for number in range(40):
            item = seed * 1000 + number
            timeout = rng.choice([0, 0.001, 0.01, 0.05, None, math.inf])
            began = time.monotonic()
            try:
                if queue.put(item, timeout=timeout):
                    accepted.append(item)
                else:
                    refused.append(item)
                    waited = 0.01 if timeout is None else timeout
                    assert time.monotonic() - began >= waited, "it gave up too soon"
            except QueueStateError:
                refused.append(item)

    queue.process(kind_of(kind, work), 4)
    producers = [in_thread(produce, seed) for seed in range(64)]
    eventually(lambda: len(accepted) > 300)
    stopped = queue.stop(timeout=0 if kind == "plain" else 5)
    for producer in producers:
        producer.result(BOUND)
    left = queue.unprocessed
    assert stopped is not bool(left)
    assert sorted(accepted) == sorted([*ran, *left])
    assert not set(refused) & set(ran)
    assert max(deepest) <= 10
    assert queue.statistics().peak_size <= 10
    assert queue.metrics["enqueued"] == len(accepted)
    assert queue.metrics["processed"] == len(ran)


def test_threads_that_wait_in_put_are_told_of_a_stop() -> None:
    queue: WorkQueue[str] = WorkQueue(1)
    queue.start()
    assert queue.put("a")
    puts = [in_thread(queue.put, "b", timeout=math.inf) for _ in range(20)]
    eventually(lambda: queue.statistics().waiting_putters == 20)
    assert queue.stop() is False
    for put in puts:
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stop"):
            put.result(BOUND)
    assert queue.unprocessed == ["a"]


class TestInsideARunningLoop:
    @pytest.mark.real_time
    async def test_what_blocks_is_refused(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        held = Held()
        await asyncio.to_thread(queue.process, held, 1)
        future = await asyncio.to_thread(queue.submit, "held")
        for call in (
            lambda: queue.put("a"),
            lambda: queue.put("a", timeout=0),
            lambda: queue.submit("a"),
            queue.get,
            queue.join,
            queue.start,
            queue.stop,
            lambda: queue.process(print),
            future.result,
            future.exception,
        ):
            with pytest.raises(QueueStateError, match="running event loop"):
                call()
        queue.put_nowait("b")
        held.may_go_on.set()
        assert await asyncio.wrap_future(future) == "held"
        assert future.result() == "held"  # which waits for nothing now
        await asyncio.to_thread(queue.stop)
        assert held.done == ["held", "b"]


def test_an_async_worker_cannot_put_into_its_own_queue_but_for_put_nowait() -> None:
    with WorkQueue[str]() as queue:

        async def work(item: str) -> None:
            if item == "a":
                queue.put_nowait("b")
                queue.put("c")

        queue.process(work)
        with pytest.raises(QueueStateError, match="running event loop"):
            queue.submit("a").result(BOUND)
        assert queue.join(BOUND)
        assert queue.metrics["processed"] == 2


def test_a_plain_worker_can_put_into_its_own_queue_where_there_is_room() -> None:
    with WorkQueue[int](1) as queue:
        answers: list[Any] = []

        def work(item: int) -> None:
            if item == 1:
                answers.append(queue.put(2, timeout=math.inf))
                answers.append(queue.put(3, timeout=0.01))
                with pytest.raises(QueueStateError, match="inside its own worker"):
                    queue.put(4, timeout=math.inf)

        queue.process(work)
        queue.submit(1).result(BOUND)
        assert answers == [True, False]


@pytest.mark.parametrize("call", ["stop", "join"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_cannot_wait_for_itself(kind: str, call: str) -> None:
    with WorkQueue[str]() as queue:
        queue.process(kind_of(kind, lambda item: getattr(queue, call)()))
        with pytest.raises(QueueStateError, match=r"inside a worker|running event loop"):
            queue.submit("a").result(BOUND)


@pytest.mark.parametrize("call", ["stop", "join"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_workers_do_for_a_map_cannot_wait_for_itself_either(kind: str, call: str) -> None:
    with WorkQueue[str]() as queue:
        queue.process(kind_of(kind, str))
        wait = partial(getattr(queue, call), timeout=BOUND)
        for error in queue.map(lambda _: wait(), "ab", return_exceptions=True):
            assert isinstance(error, QueueStateError)
            assert "inside a worker" in str(error)


def test_several_threads_stop_at_once_many_times_over() -> None:
    queue: WorkQueue[int] = WorkQueue(100)
    done: list[int] = []
    for cycle in range(30):
        queue.process(kind_of(KINDS[cycle % 2], done.append), 2)
        for number in range(5):
            assert queue.put(cycle * 5 + number)
        together = threading.Barrier(6)

        def stop(together: threading.Barrier = together) -> bool:
            together.wait(BOUND)
            return queue.stop()

        stops = [in_thread(stop) for _ in range(6)]
        assert [stop.result(BOUND) for stop in stops] == [True] * 6
        assert queue.status == "stopped"
    assert sorted(done) == list(range(150))


def test_the_states() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for state in ("idle", "stopped"):
        assert queue.status == state
        for call in (queue.put, queue.put_nowait, queue.submit):
            with pytest.raises(QueueStateError, match=f"Cannot put items when queue is {state}"):
                call("a")
        for call in (queue.get, queue.get_nowait):
            with pytest.raises(QueueStateError, match=f"Cannot get items when queue is {state}"):
                call()
        queue.stop()
    queue.start()
    queue.start()
    assert queue.put("a")
    assert queue.stop() is False
    assert queue.stop() is False
    queue.start()
    assert queue.unprocessed == ["a"]
    assert queue.get() == "a"
    queue.task_done()
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()
    assert queue.stop() is True
    assert queue.metrics["processed"] == 1


def test_a_start_waits_for_a_stop_under_way() -> None:
    queue: WorkQueue[str] = WorkQueue()
    held = Held()
    queue.process(held)
    queue.put("a")
    eventually(lambda: held.began)
    stop = in_thread(queue.stop)
    eventually(lambda: queue.status == "stopping")
    start = in_thread(queue.start)
    held.may_go_on.set()
    assert stop.result(BOUND) is True
    start.result(BOUND)
    assert queue.status == "processing"
    assert queue.put("b")
    assert queue.stop() is False


class TestCrashOfTheLoop:
    def test_everybody_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        queue: WorkQueue[str] = WorkQueue(1)
        loop: list[asyncio.AbstractEventLoop] = []

        async def work(item: str) -> None:
            loop.append(asyncio.get_running_loop())
            await asyncio.Event().wait()

        queue.process(work)
        futures = [queue.submit("in hand")]
        eventually(lambda: loop)
        futures.append(queue.submit("waiting"))
        blocked = [
            in_thread(queue.put, "no room", timeout=math.inf),
            in_thread(queue.join),
            in_thread(queue.stop),
        ]
        eventually(lambda: queue.status == "stopping")
        loop[0].call_soon_threadsafe(loop[0].stop)
        for call in (*blocked, *futures):
            with pytest.raises(QueueStateError):
                call.result(BOUND)
        for later in (
            lambda: queue.put("a"),
            lambda: queue.put_nowait("a"),
            lambda: queue.submit("a"),
            queue.get,
            queue.join,
            queue.start,
            queue.stop,
            lambda: queue.process(print),
        ):
            with pytest.raises(QueueStateError, match="lost its event loop"):
                later()
        assert sorted(queue.unprocessed) == ["in hand", "waiting"]
        assert "was stopped by other code" in caplog.text

    def test_threads_that_wait_for_room_or_an_item_are_told(self) -> None:
        queue: WorkQueue[str] = WorkQueue(1)
        thread = LoopThread()
        queue = WorkQueue(1, loop_thread=thread)
        queue.start()
        get = in_thread(queue.get)
        eventually(lambda: thread.loop is not None)
        queue.put("a")
        assert get.result(BOUND) == "a"
        queue.put("b")
        put = in_thread(queue.put, "c", timeout=math.inf)
        eventually(lambda: queue.statistics().waiting_putters)

        async def die() -> None:
            raise SystemExit("by force")

        assert thread.loop is not None
        asyncio.run_coroutine_threadsafe(die(), thread.loop)
        with pytest.raises(QueueStateError, match=r"lost its event loop.*by force"):
            put.result(BOUND)

    def test_plain_workers_end_with_it(self) -> None:
        thread = LoopThread()
        queue: WorkQueue[str] = WorkQueue(loop_thread=thread)
        held = Held()
        queue.process(held, 2)
        future = queue.submit("a")
        eventually(lambda: held.began)
        assert thread.loop is not None
        thread.loop.call_soon_threadsafe(thread.loop.stop)
        with pytest.raises(QueueStateError, match="lost its event loop"):
            future.result(BOUND)
        assert queue.unprocessed == ["a"]
        held.may_go_on.set()

    def test_what_a_worker_gave_back_in_its_last_turn_is_there_once(self) -> None:
        began = threading.Event()

        async def work(item: str) -> None:
            began.set()
            try:
                await asyncio.sleep(math.inf)
            finally:
                asyncio.get_running_loop().stop()

        queue: WorkQueue[str] = WorkQueue()
        queue.process(work)
        queue.put("a")
        assert began.wait(BOUND)
        with pytest.raises(QueueStateError, match="was stopped by other code"):
            queue.stop(timeout=0)
        eventually(lambda: queue.status == "stopped")
        assert queue.unprocessed == ["a"]


class TestTimeouts:
    @pytest.mark.parametrize("timeout", [-1, -math.inf, math.nan, "1", True])
    def test_what_is_none(self, timeout: Any) -> None:
        with WorkQueue[str]() as queue:
            for call in (
                lambda: queue.put("a", timeout=timeout),
                lambda: queue.submit("a", timeout=timeout),
                lambda: queue.get(timeout=timeout),
                lambda: queue.stop(timeout=timeout),
                lambda: queue.join(timeout=timeout),
            ):
                with pytest.raises(ValueError, match="timeout"):
                    call()
            assert queue.is_empty

    @pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400, 1e10, threading.TIMEOUT_MAX])
    def test_long_ones_wait(self, timeout: float) -> None:
        with WorkQueue[str](1) as queue:
            queue.put("a", timeout=timeout)
            put = in_thread(queue.put, "b", timeout=timeout)
            get = in_thread(queue.get, timeout=timeout)
            assert put.result(BOUND) is True
            assert get.result(BOUND) == "a"
            assert queue.get(timeout=timeout) == "b"
            queue.task_done()
            queue.task_done()
            assert queue.join(timeout=timeout) is True

    def test_zero_does_not_wait(self) -> None:
        def use(queue: WorkQueue[str]) -> None:
            queue.put("a")
            assert queue.put("b", timeout=0) is False
            assert queue.join(timeout=0) is False
            assert queue.get(timeout=0) == "a"
            with pytest.raises(QueueEmptyError):
                queue.get(timeout=0)
            with pytest.raises(QueueEmptyError):
                queue.get_nowait()
            queue.task_done()

        with WorkQueue[str](1, timeout=math.inf) as queue:
            in_thread(use, queue).result(BOUND)


def test_a_handler_that_stalls_the_loop_does_not_hold_up_a_put_that_has_room() -> None:
    with WorkQueue[str](10) as queue:
        held = Held()

        async def stall(item: str) -> None:
            held(item)

        queue.process(stall)
        queue.put("stalls")
        eventually(lambda: held.began)
        assert all(queue.put("room", timeout=0.01) for _ in range(9))
        assert not held.done
        held.may_go_on.set()


def test_waiting_putters_are_served_first_come_first_served() -> None:
    with WorkQueue[int](1) as queue:
        queue.put(0)
        puts = []
        for number in range(1, 9):
            puts.append(in_thread(queue.put, number, timeout=math.inf))
            eventually(lambda number=number: queue.statistics().waiting_putters == number)
        order = []
        for _ in range(9):
            order.append(queue.get(BOUND))
            if queue.statistics().waiting_putters or queue.is_full:
                with pytest.raises(QueueFullError):  # the room is theirs
                    queue.put_nowait(99)
            queue.task_done()
        assert order == list(range(9))
        assert all(put.result(BOUND) for put in puts)


def test_refusals_are_logged_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "penstock.sync.queue.WARNING_INTERVAL", 10 * BOUND
    )  # a second may pass here
    with WorkQueue[str](1) as queue, caplog.at_level(logging.WARNING):
        queue.put("a")
        for _ in range(50):
            assert queue.put("b", timeout=0) is False
        assert len([r for r in caplog.records if "is full" in r.message]) == 1
        assert queue.metrics["backpressure_events"] == 50
        queue.get()
        queue.task_done()


def test_it_cannot_be_sent_to_another_process() -> None:
    import copy
    import multiprocessing
    import pickle

    queue: WorkQueue[str] = WorkQueue()
    for value in (queue, queue.queue, LoopThread()):
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            pickle.dumps(value)
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            copy.copy(value)
    process = multiprocessing.get_context("spawn").Process(target=print, args=(queue,))
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        process.start()


def at_once(count: int, func: Any) -> list[Any]:
    """What ``func`` returns in so many threads that call it in the same moment."""
    ready = threading.Barrier(count)

    def call() -> Any:
        ready.wait(BOUND)
        return func()

    return [called.result(BOUND) for called in [in_thread(call) for _ in range(count)]]


class TestManyThreadsAtOnce:
    @pytest.mark.usefixtures("quick_switches")
    def test_all_get_the_same_limiter(self) -> None:
        for _ in range(100):
            queue: WorkQueue[str] = WorkQueue()
            assert len({*at_once(4, lambda queue=queue: queue.limits)}) == 1

    def test_one_of_them_warns_of_a_full_queue(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("penstock.sync.queue.WARNING_INTERVAL", 10 * BOUND)
        together = threading.Barrier(4)

        class Meeting(float):
            """Lets threads go on together that compare something with it."""

            def __le__(self, other: float) -> bool:
                together.wait(BOUND)
                return super().__le__(other)

        with caplog.at_level("WARNING"), WorkQueue[str](1) as queue:
            queue.queue._warn_after = Meeting(0)  # type: ignore[attr-defined]
            assert queue.put("a")
            assert at_once(4, lambda: queue.put("b", timeout=0)) == [False] * 4
            assert len([one for one in caplog.messages if "is full" in one]) == 1
            assert queue.metrics["backpressure_events"] == 4
            assert queue.get() == "a"
            queue.task_done()


def test_a_queue_collected_within_the_lock_of_its_loop_thread_does_not_wait_for_it() -> None:
    outcome = run_program("""
        import gc, warnings, penstock.sync

        warnings.simplefilter("ignore", ResourceWarning)
        with penstock.sync.LoopThread() as thread, penstock.sync.WorkQueue(
            loop_thread=thread
        ) as other:
            for count in range(1, 100):
                gc.disable()
                gc.collect()
                queue = penstock.sync.WorkQueue(loop_thread=thread)
                queue.start()
                ring = [queue]
                ring.append(ring)
                del queue, ring
                gc.set_threshold(gc.get_count()[0] + count)
                gc.enable()
                for _ in range(5):
                    other.start()
                gc.set_threshold(700)
        print("done")
    """)
    assert outcome.stdout == "done\n", outcome.stderr


def test_items_that_nobody_takes_are_told_of_once_however_many_threads_put(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("penstock.queue.lifecycle.IDLE_GRACE", 0.2)
    start = threading.Barrier(4)

    def put(number: int) -> bool:
        start.wait(BOUND)
        return queue.put(number)

    queue = WorkQueue[int](name="q")
    queue.start()
    puts = [in_thread(lambda n=n: put(n)) for n in range(4)]
    assert [put.result(BOUND) for put in puts] == [True] * 4
    eventually(lambda: "no worker takes them" in caplog.text)
    queue.stop()
    assert caplog.text.count("no worker takes them") == 1


def test_the_first_put_after_somebody_closed_the_loop_is_accepted_all_the_same() -> None:
    thread = LoopThread()
    queue = WorkQueue[int](loop_thread=thread)
    queue.start()
    assert thread.close(BOUND)
    assert queue.put(1) is True
    assert queue.unprocessed == [1]
    with pytest.warns(ResourceWarning, match="was not stopped"):
        del queue
