"""Several jobs of threads on one queue, and jobs inside items: what meets in the same instant."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from helpers.logs import SILENT
from penstock import RetryPolicy
from penstock.sync import LoopThread, WorkQueue
from penstock.sync.pool import ThreadWorkerPool, _SlotWorker
from penstock.sync.slots import WorkerSlot
from sync.helpers import BOUND, eventually, in_thread, queue_threads


class WatchedLock:
    """A lock that says when a thread has to wait for it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.is_waited_for = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.is_waited_for.set()
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Steps:
    """A worker function that ends each item when it is told to."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.under_way = self.most = 0
        self._changed = threading.Condition()
        self._may_end: set[str] = set()

    def __call__(self, item: str) -> str:
        with self._changed:
            self.began.append(item)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: item in self._may_end, BOUND)
            self.under_way -= 1
        return item

    def end(self, *items: str) -> None:
        with self._changed:
            self._may_end.update(items)
            self._changed.notify_all()

    def wait_for(self, item: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: item in self.began, BOUND)


class TestAWorkerThatGoesOnAsAMapIsLeft:
    """The loop's thread looks what a worker has, which is done with it in that very instant."""

    @pytest.fixture
    def at_look(self, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
        """What is to come after a look that finds a worker with an item of the map."""
        calls: list[Callable[[], None]] = []
        look: Any = _SlotWorker.job_in_hand.fget

        def look_slowly(worker: Any) -> Any:
            job = look(worker)
            if job is not None and job.is_over and calls:
                calls.pop()()
            return job

        monkeypatch.setattr(_SlotWorker, "job_in_hand", property(look_slowly))
        return calls

    def test_process_has_no_more_calls_under_way_than_workers(
        self, at_look: list[Callable[[], None]]
    ) -> None:
        mapped, plain = Steps(), Steps()
        with WorkQueue[str](10, name="look", logger=SILENT) as queue:
            lock = queue.queue._buffer.lock = WatchedLock(queue.queue._buffer.lock)  # type: ignore[attr-defined]
            queue.process(plain, 1)
            with closing(queue.map(mapped, ["a", "b"], num_workers=1)) as results:
                mapped.end("a")
                assert next(results) == "a"
                mapped.wait_for("b")
                queue.put("c")
                queue.put("d")
                at_look.append(lambda: go_on(mapped, "b", plain, "c", lock))
            wait_for_workers("look", plain)
            plain.end("c", "d")
        assert plain.began == ["c", "d"]
        assert plain.most == 1

    def test_an_item_of_process_runs_once(
        self, at_look: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mapped, plain = Steps(), Steps()
        with WorkQueue[str](10, name="look", logger=SILENT) as queue:
            buffer: Any = queue.queue._buffer  # type: ignore[attr-defined]
            lock = buffer.lock = WatchedLock(buffer.lock)
            close_lane = buffer.close_lane

            def close_late(job: Any) -> int:
                """The worker has taken an item of the map that is being left."""
                plain.end("b")
                mapped.wait_for("c")
                at_look.append(lambda: go_on(mapped, "c", plain, "d", lock))
                return int(close_lane(job))

            monkeypatch.setattr(buffer, "close_lane", close_late)
            queue.process(plain, 1)
            queue.put("b")
            plain.wait_for("b")
            with pytest.raises(ZeroDivisionError):
                queue.batch_process(source(queue), mapped, 1)
            wait_for_workers("look", plain)
            plain.end("d")
        assert plain.began == ["b", "d"]


def source(queue: WorkQueue[str]) -> Iterator[str]:
    yield "c"
    queue.put("d")
    raise ZeroDivisionError


def go_on(before: Steps, ends: str, after: Steps, begins: str, lock: WatchedLock) -> None:
    """Let an item end, and its worker take the next, or wait until it may."""
    lock.is_waited_for.clear()
    before.end(ends)
    eventually(lambda: lock.is_waited_for.is_set() or begins in after.began)


def wait_for_workers(name: str, steps: Steps) -> None:
    """Wait until all workers that there are have begun what they could take."""
    prefix = f"penstock-{name}-worker"
    eventually(
        lambda: sum(t.name.startswith(prefix) for t in queue_threads()) == steps.under_way > 0
    )


def test_a_worker_that_leaves_as_a_job_begins_is_not_counted_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second: list[Any] = []
    is_open = threading.Event()
    wanted, open_job = ThreadWorkerPool._wanted, ThreadWorkerPool.open

    with WorkQueue[int](logger=SILENT) as queue:
        pool: Any = queue.queue._pool  # type: ignore[attr-defined]
        lock = pool._lock = WatchedLock(pool._lock)

        def count_slowly(self: Any, is_for_threads: bool) -> int:
            count = wanted(self, is_for_threads)
            if is_for_threads and self.is_inside and not second:
                second.append(in_thread(list, results))
                eventually(lambda: is_open.is_set() or lock.is_waited_for.is_set())
            return count

        def open_and_tell(self: Any, job: Any) -> None:
            open_job(self, job)
            if second:
                is_open.set()

        monkeypatch.setattr(ThreadWorkerPool, "open", open_and_tell)
        first, results = queue.map(str, [1]), queue.map(str, [2])
        assert next(first) == "1"
        eventually(lambda: not queue.statistics().inflight)
        monkeypatch.setattr(ThreadWorkerPool, "_wanted", count_slowly)
        assert list(first) == []
        eventually(lambda: second)
        assert second[0].result(BOUND) == ["2"]


def test_what_is_to_be_tried_again_as_its_map_is_left_is_not_given_to_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker has found that an attempt failed, and says so when the map has ended."""
    is_closing, is_delayed = threading.Event(), threading.Event()
    delay, close = WorkerSlot.delay, ThreadWorkerPool.close
    has_failed = threading.Event()
    got: list[str] = []

    def delay_late(self: Any, entry: Any, seconds: float) -> None:
        has_failed.set()
        assert is_closing.wait(BOUND)
        delay(self, entry, seconds)
        is_delayed.set()

    async def close_late(self: Any, job: Any) -> None:
        is_closing.set()
        assert is_delayed.wait(BOUND)
        await close(self, job)

    def work(item: str) -> str:
        if item == "bad":
            raise ValueError
        return item

    monkeypatch.setattr(WorkerSlot, "delay", delay_late)
    monkeypatch.setattr(ThreadWorkerPool, "close", close_late)
    retry = RetryPolicy(3, backoff=lambda attempt, error: 0.0)
    with WorkQueue[str](10, retry=retry, logger=SILENT) as queue:
        queue.process(got.append, 1)
        with closing(queue.map(work, ["good", "bad"], num_workers=2)) as results:
            assert next(results) == "good"
            assert has_failed.wait(BOUND)
        assert queue.join(BOUND) is True
    assert got == []
    assert queue.metrics["processed"] == queue.metrics["enqueued"] == 2


class TestAJobInsideAnItem:
    def test_jobs_of_both_kinds_inside_each_other_end(self) -> None:
        async def add_one(number: int) -> int:
            return number + 1

        def add(number: int) -> int:
            return sum(queue.map(add_one, range(number), num_workers=1))

        def add_up(number: int) -> int:
            return sum(queue.map(add, range(number), num_workers=1))

        with WorkQueue[int](1, logger=SILENT) as queue:
            queue.process(add_up, 1)
            assert queue.submit(4).result(BOUND) == 1 + (1 + 2) + (1 + 2 + 3)

    def test_when_it_goes_on_the_other_worker_takes_no_further_item(self) -> None:
        """Though the loop, which starts and ends workers, has other things to do."""
        steps = Steps()
        is_held, may_turn, has_gone_on = (threading.Event() for _ in range(3))

        def hold_loop() -> None:
            is_held.set()
            may_turn.wait(BOUND)

        def work(item: str) -> str:
            if item == "waits":
                future = queue.submit("is waited for")
                future.add_done_callback(lambda _: has_gone_on.wait(BOUND))
                queue.put_nowait("next")
                future.result(BOUND)
                has_gone_on.set()
            elif item == "is waited for":
                assert thread.loop is not None
                thread.loop.call_soon_threadsafe(hold_loop)
                assert is_held.wait(BOUND)
                return item
            return steps(item)

        with LoopThread() as thread, WorkQueue[str](name="goes on", loop_thread=thread) as queue:
            queue.process(work, 1)
            queue.put("waits")
            wait_for_workers("goes on", steps)
            may_turn.set()
            steps.end("waits", "next")
        assert steps.began == ["waits", "next"]
        assert steps.most == 1
