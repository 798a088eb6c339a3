"""The workers of a queue for threads: what they do with items and errors, and stuck ones."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

import pytest

from penstock import QueueStateError
from penstock.sync import WorkQueue
from sync.helpers import (
    BOUND,
    KINDS,
    Held,
    eventually,
    in_thread,
    kind_of,
    queue_threads,
    run_program,
)

variable: ContextVar[str] = ContextVar("variable", default="unset")


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


def test_what_a_plain_function_returns_may_raise_anything_when_it_is_awaited() -> None:
    async def fail(item: str) -> None:
        raise SystemExit(item)

    with WorkQueue[str]() as queue:
        queue.process(lambda item: fail(item), 1, lambda exc, item: fail(item))  # noqa: PLW0108
        assert type(queue.submit("a").exception(BOUND)) is SystemExit
        queue.put("b")
        assert queue.join(BOUND)
        assert queue.metrics["errors"] == 2


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
        assert "may still be running" in caplog.text or "abandoned" in caplog.text
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


def test_a_worker_that_never_waits_leaves_the_loop_to_others() -> None:
    done = 0
    turns: list[int] = []
    ended = threading.Event()

    def turn(loop: asyncio.AbstractEventLoop, before: int) -> None:
        turns.append(done - before)
        if done < 1_000:
            loop.call_soon(turn, loop, done)
        else:
            ended.set()

    async def count(item: int) -> None:
        nonlocal done
        if not done:
            loop = asyncio.get_running_loop()
            loop.call_soon(turn, loop, 0)
        done += 1

    with WorkQueue[int](1_000) as queue:
        for item in range(1_000):
            queue.put_nowait(item)
        queue.process(count)
        assert ended.wait(BOUND)
    assert sum(turns) == 1_000
    assert max(turns) <= 32


def test_a_lambda_around_an_async_function_is_awaited_in_the_loop() -> None:
    async def double(item: int) -> int:
        await asyncio.sleep(0)
        return item * 2

    with WorkQueue[int]() as queue:
        queue.process(lambda item: double(item), 2)  # noqa: PLW0108
        assert queue.submit(21).result(BOUND) == 42


def test_an_awaitable_for_which_there_is_no_loop_any_more_is_closed() -> None:
    """Or Python would complain, at an odd time, that nobody awaited it."""
    outcome = run_program("""
        import inspect, threading
        from queue import SimpleQueue
        from penstock.sync import LoopThread, WorkQueue

        began, may_go_on, failed = threading.Event(), threading.Event(), SimpleQueue()
        coroutines = []

        async def later():
            pass

        def work(item):
            began.set()
            may_go_on.wait()
            coroutines.append(later())
            return coroutines[0]

        thread = LoopThread()
        queue = WorkQueue(loop_thread=thread)
        queue.process(work, 1, lambda error, item: failed.put(f"{type(error).__name__} {item}"))
        queue.put("a")
        began.wait()
        thread.close()
        may_go_on.set()
        print(failed.get(), inspect.getcoroutinestate(coroutines[0]))
    """)
    assert outcome.stdout == "QueueStateError a CORO_CLOSED\n", outcome.stderr
    assert "never awaited" not in outcome.stderr


def test_what_a_given_up_worker_returns_is_not_awaited() -> None:
    """Its item was handed back by then, and somebody else has it."""
    began, may_go_on, awaited = threading.Event(), threading.Event(), threading.Event()

    async def rest(item: str) -> None:
        awaited.set()

    def work(item: str) -> Any:
        began.set()
        assert may_go_on.wait(BOUND)
        return rest(item)

    with WorkQueue[str](name="given-up") as queue:
        queue.process(work)
        queue.put("a")
        assert began.wait(BOUND)
        queue.queue.stop_workers(timeout=0)
        assert queue.get() == "a"
        may_go_on.set()
        workers = [one for one in threading.enumerate() if "given-up-worker" in one.name]
        for worker in workers:
            worker.join(BOUND)
        assert not awaited.is_set()
        queue.task_done()


@pytest.mark.parametrize("call", ["process", "map"])
def test_a_job_that_can_start_too_few_threads_leaves_all_as_it_was(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    start, left = threading.Thread.start, 1

    def start_one(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name.startswith("penstock-few-worker"):
            if not left:
                raise RuntimeError("can't start new thread")
            left -= 1
        start(thread)

    with WorkQueue[int](name="few") as queue:
        queue.process(done.append, 2)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start_one)
            begin = (
                partial(queue.process, print, 3)
                if call == "process"
                else partial(list, queue.map(print, [1], num_workers=5))
            )
            with pytest.raises(RuntimeError, match="can't start new thread"):
                begin()
        assert queue.worker_count == 2
        for item in range(10):
            queue.put(item)
        assert queue.join(BOUND)
        assert sorted(done) == list(range(10))
        eventually(
            lambda: sum(t.name.startswith("penstock-few") for t in threading.enumerate()) <= 3
        )
