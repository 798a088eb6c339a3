"""The blocking queue: what its promises are worth among many threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import math
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

import pytest

from penstock import QueueEmptyError, QueueFullError, QueueStateError
from penstock.sync import LoopThread, WorkQueue
from sync.helpers import BOUND, Held, eventually, in_thread, queue_threads, run_program

KINDS = ["async", "plain"]


def kind_of(kind: str, func: Any) -> Any:
    """The plain ``func`` as it is, or an async function that does the same."""
    if kind == "plain":
        return func

    async def work(item: Any) -> Any:
        return func(item)

    return work


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads meet in more places when they hold the interpreter for a moment only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
def test_whatever_a_worker_function_raises_is_on_the_future_and_the_next_item_works(
    kind: str, error: type[BaseException]
) -> None:
    def work(item: str) -> str:
        if item == "bad":
            raise error("why")
        return item

    with WorkQueue[str](concurrency_limit=1) as queue:
        queue.process(kind_of(kind, work))
        bad, good = queue.submit("bad"), queue.submit("good")
        assert type(bad.exception(BOUND)) is error
        with pytest.raises(error):
            bad.result(BOUND)
        assert good.result(BOUND) == "good"
        assert queue.join(BOUND) is True
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_without_a_future_it_goes_to_the_error_handler(
    kind: str, error: type[BaseException]
) -> None:
    handled = []

    def work(item: str) -> None:
        raise error(item)

    async def handle(exc: BaseException, item: str) -> None:
        handled.append((type(exc), item))

    for handler in (handle, lambda exc, item: handled.append((type(exc), item))):
        with WorkQueue[str]() as queue:
            queue.process(kind_of(kind, work), 1, handler)
            queue.put("a")
    assert handled == [(error, "a")] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_without_a_handler_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(item: str) -> None:
        raise KeyError("why")

    with WorkQueue[str]() as queue:
        queue.process(kind_of(kind, work))
        queue.put("a")
        assert queue.join(BOUND)
    assert "KeyError: 'why'" in caplog.text


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


def test_a_worker_waits_for_results_of_its_own_queue_with_a_timeout_only() -> None:
    with WorkQueue[int](10) as queue:

        def work(item: int) -> int:
            if item == 0:
                return 0
            future = queue.submit(item - 1)
            if item == 3:
                return int(future.result())
            return 1 + int(future.result(BOUND))

        queue.process(work, 4)
        assert queue.submit(2).result(BOUND) == 2
        with pytest.raises(QueueStateError, match="nobody would be left"):
            queue.submit(3).result(BOUND)


def test_what_a_plain_function_returns_may_raise_anything_when_it_is_awaited() -> None:
    async def fail(item: str) -> None:
        raise SystemExit(item)

    with WorkQueue[str]() as queue:
        queue.process(lambda item: fail(item), 1, lambda exc, item: fail(item))  # noqa: PLW0108
        assert type(queue.submit("a").exception(BOUND)) is SystemExit
        queue.put("b")
        assert queue.join(BOUND)
        assert queue.metrics["errors"] == 2


@pytest.mark.parametrize("call", ["stop", "join", "start"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_cannot_wait_for_itself(kind: str, call: str) -> None:
    with WorkQueue[str]() as queue:
        queue.process(kind_of(kind, lambda item: getattr(queue, call)()))
        with pytest.raises(QueueStateError, match=r"inside a worker|running event loop"):
            queue.submit("a").result(BOUND)


@pytest.mark.parametrize("call", ["stop", "join", "start"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_workers_do_for_a_map_cannot_wait_for_itself_either(kind: str, call: str) -> None:
    with WorkQueue[str]() as queue:
        queue.process(kind_of(kind, str))
        options = {} if call == "start" else {"timeout": BOUND}
        wait = partial(getattr(queue, call), **options)
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


class TestAStuckWorker:
    @pytest.mark.parametrize("kind", ["plain", "ignores", "blocks"])
    def test_a_stop_with_a_timeout_goes_on_without_it(
        self, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue: WorkQueue[str] = WorkQueue()
        held = Held()

        async def ignores(item: str) -> None:
            held.began.append(item)
            while not held.may_go_on.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            held.done.append(item)

        async def blocks(item: str) -> None:
            held(item)

        queue.process({"plain": held, "ignores": ignores, "blocks": blocks}[kind], 1)
        stuck, waiting = queue.submit("stuck"), queue.submit("waiting")
        eventually(lambda: held.began == ["stuck"])
        assert queue.stop(timeout=0.2) is False
        assert held.done == []
        assert queue.status == "stopped"
        assert queue.unprocessed == ["stuck", "waiting"]
        for future in (stuck, waiting):
            with pytest.raises(QueueStateError, match="stopped before the item was processed"):
                future.result(0)
        assert "may still be running" in caplog.text or "given up" in caplog.text
        held.may_go_on.set()
        eventually(lambda: held.done == ["stuck"])  # its end comes too late to count
        assert queue.metrics["processed"] == 0
        assert queue.metrics["errors"] == 0
        again: list[str] = []
        queue.process(again.append)
        assert queue.stop() is True
        assert again == ["stuck", "waiting"]
        assert queue.metrics["processed"] == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_late_failure_is_nobodys_business(self, kind: str) -> None:
        before = queue_threads()
        queue: WorkQueue[str] = WorkQueue()
        held = Held()
        handled: list[Any] = []

        def work(item: str) -> None:
            held(item)
            raise KeyError("late")

        queue.process(kind_of(kind, work), 1, lambda exc, item: handled.append(exc))
        queue.put("stuck")
        eventually(lambda: held.began)
        assert queue.stop(timeout=0) is False
        held.may_go_on.set()
        eventually(lambda: held.done)
        eventually(lambda: not queue_threads() - before)
        assert handled == []
        assert queue.metrics["errors"] == 0

    def test_stop_workers_goes_on_without_it_too(self) -> None:
        with WorkQueue[str]() as queue:
            held = Held()
            queue.process(held)
            queue.put("a")
            eventually(lambda: held.began)
            queue.queue.stop_workers(timeout=0)
            assert queue.unprocessed == ["a"]
            assert queue.worker_count == 0
            held.may_go_on.set()
            done: list[str] = []
            queue.process(done.append)
            assert queue.join(BOUND)
            assert done == ["a"]
            assert queue.metrics["processed"] == 1


class TestCollection:
    def test_an_unstopped_queue_warns_processes_what_it_has_and_ends_its_thread(self) -> None:
        before = queue_threads()
        held = Held()
        queue: WorkQueue[int] | None = WorkQueue()
        queue.process(held)
        for number in range(3):
            queue.put(number)
        collected = weakref.ref(queue)
        with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
            queue = None
            gc.collect()
        assert collected() is None
        held.may_go_on.set()
        eventually(lambda: held.done == [0, 1, 2])
        eventually(lambda: not queue_threads() - before)

    def test_a_stopped_one_says_nothing(self) -> None:
        queue: WorkQueue[int] | None = WorkQueue()
        queue.process(print)
        queue.stop()
        del queue
        gc.collect()

    @pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux to count files")
    @pytest.mark.parametrize(
        "work", ["async def work(item): done.append(item)", "work = done.append"]
    )
    def test_fifty_cycles_leave_no_thread_and_no_file(self, work: str) -> None:
        outcome = run_program(f"""
import os, threading, time, penstock.sync

def open_files():
    return len(os.listdir("/proc/self/fd"))

def wait_until(condition):
    while not condition():
        time.sleep(0.001)

done = []
{work}
queue = penstock.sync.WorkQueue()
for cycle in range(50):
    queue.process(work, 2)
    queue.put(cycle)
    assert queue.stop() is True
    if cycle == 0:
        wait_until(lambda: threading.active_count() == 1)
        before = open_files()
wait_until(lambda: threading.active_count() == 1)
assert open_files() <= before
assert sorted(done) == list(range(50))
""")
        assert outcome.returncode == 0, outcome.stderr


class TestDeathOfTheLoop:
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
        assert "was stopped by somebody" in caplog.text

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
        with pytest.raises(QueueStateError, match="was stopped by somebody"):
            queue.stop(timeout=0)
        eventually(lambda: queue.status == "stopped")
        assert queue.unprocessed == ["a"]


variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", KINDS)
def test_each_item_sees_its_callers_context_and_leaks_nothing(kind: str) -> None:
    seen: list[tuple[str, str]] = []

    def work(item: str) -> None:
        seen.append((item, variable.get()))
        variable.set("leaked")

    def put(name: str) -> None:
        variable.set(name)
        assert queue.put(name)
        assert variable.get() == name

    with WorkQueue[str]() as queue:
        variable.set("of the one who starts it")
        queue.process(kind_of(kind, work), 1)
        for name in ("a", "b"):
            in_thread(put, name).result(BOUND)
        # A thread may inherit the context of whoever starts it.
        in_thread(Context().run, queue.put, "c").result(BOUND)
    assert seen == [("a", "a"), ("b", "b"), ("c", "unset")]


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


@pytest.mark.parametrize("kind", [*KINDS, "in turn"])
def test_no_item_is_stuck_beside_an_idle_worker_while_workers_come_and_go(kind: str) -> None:
    done: list[int] = []
    rng = random.Random(kind)
    with WorkQueue[int](5) as queue:
        queue.process(done.append, 1)
        halt = threading.Event()

        def produce() -> int:
            count = 0
            while not halt.is_set():
                assert queue.put(count, timeout=math.inf)
                count += 1
            return count

        producer = in_thread(produce)
        for turn in range(400):
            which = KINDS[turn % 2] if kind == "in turn" else kind
            queue.process(kind_of(which, done.append), rng.randint(1, 4))
        halt.set()
        count = producer.result(BOUND)
        assert queue.join(BOUND) is True
        assert sorted(done) == list(range(count))
        # The very last pool takes what comes when all is still.
        for number in range(count, count + 20):
            queue.put(number)
            assert queue.join(BOUND) is True


class TestFutures:
    def test_one_cancelled_while_its_item_waits_skips_it(self) -> None:
        with WorkQueue[str]() as queue:
            held = Held()
            queue.process(held)
            first, second, third = (queue.submit(item) for item in "abc")
            eventually(lambda: held.began == ["a"])
            assert second.cancel() is True
            assert first.cancel() is False  # it runs already
            with pytest.raises(concurrent.futures.TimeoutError):
                third.result(timeout=0.01)
            held.may_go_on.set()
            assert third.result(BOUND) == "c"
            assert queue.join(BOUND)
            assert held.done == ["a", "c"]
            assert queue.metrics["processed"] == 3

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_exception_has_its_traceback(self, kind: str) -> None:
        def fails_here(item: str) -> None:
            raise KeyError(item)

        with WorkQueue[str]() as queue:
            queue.process(kind_of(kind, fails_here))
            error = queue.submit("a").exception(BOUND)
        names = []
        assert error is not None
        traceback = error.__traceback__
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert "fails_here" in names

    def test_what_is_cancelled_in_an_unstarted_pool_is_no_longer_unprocessed(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.start()
        unwanted, wanted = queue.submit("a"), queue.submit("b")
        unwanted.cancel()
        assert queue.unprocessed == ["b"]
        assert queue.stop() is False
        with pytest.raises(QueueStateError):
            wanted.result(BOUND)
        assert queue.unprocessed == ["b"]

    def test_a_full_queue_raises(self) -> None:
        with WorkQueue[str](1) as queue:
            queue.submit("a")
            with pytest.raises(QueueFullError):
                queue.submit("b", timeout=0)
            assert queue.get() == "a"
            queue.task_done()


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


def test_a_busy_loop_still_hears_of_a_stop() -> None:
    queue: WorkQueue[int] = WorkQueue(100)

    async def nothing(item: int) -> None:
        pass

    queue.process(nothing)
    halt = threading.Event()

    def produce() -> None:
        with suppress(QueueStateError):
            while not halt.is_set():
                queue.put(0, timeout=math.inf)

    producers = [in_thread(produce) for _ in range(4)]
    eventually(lambda: queue.metrics["processed"] > 1000)
    assert in_thread(queue.stop).result(BOUND) is True
    halt.set()
    for producer in producers:
        producer.result(BOUND)


def test_a_lambda_around_an_async_function_is_awaited_in_the_loop() -> None:
    async def double(item: int) -> int:
        await asyncio.sleep(0)
        return item * 2

    with WorkQueue[int]() as queue:
        queue.process(lambda item: double(item), 2)  # noqa: PLW0108
        assert queue.submit(21).result(BOUND) == 42


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

    def test_one_of_them_complains_of_a_full_queue(
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
