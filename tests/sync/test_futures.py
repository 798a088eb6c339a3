"""The futures of items, in threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from penstock import QueueFullError, QueueStateError
from penstock.sync import WorkQueue
from sync.helpers import BOUND, KINDS, Held, eventually, in_thread, kind_of, run_program


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("timeout", [None, BOUND])
def test_a_worker_may_wait_for_results_of_its_own_queue(
    workers: int, timeout: float | None
) -> None:
    with WorkQueue[int](100) as queue:

        def factorial(item: int) -> int:
            return item * int(queue.submit(item - 1).result(timeout)) if item else 1

        queue.process(factorial, workers)
        futures = [queue.submit(item) for item in range(8)]
        assert [future.result(BOUND) for future in futures] == [1, 1, 2, 6, 24, 120, 720, 5040]
        assert queue.worker_count == workers


def test_workers_that_wait_leave_the_number_that_works_as_it_is() -> None:
    most = working = 0
    lock = threading.Lock()

    def work(item: int) -> None:
        nonlocal most, working
        with lock:
            working += 1
            most = max(most, working)
        if item:
            future = queue.submit(item - 1)
            with lock:
                working -= 1
            future.result(BOUND)
            with lock:
                working += 1
        with lock:
            working -= 1

    with WorkQueue[int](100) as queue:
        queue.process(work, 2)
        for future in [queue.submit(5) for _ in range(4)]:
            future.result(BOUND)
    assert most <= 2 + 4, "those that have just heard of their result, and two beside"


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


NEVER_RETRIEVED = "An item of queue jobs failed, and its exception was never retrieved"


def fail(item: Any) -> None:
    raise KeyError(item)


def read_result(future: concurrent.futures.Future[Any]) -> None:
    with pytest.raises(KeyError):
        future.result(BOUND)


def read_when_done(future: concurrent.futures.Future[Any]) -> None:
    read: list[Any] = []
    future.add_done_callback(lambda done: read.append(done.exception()))
    eventually(lambda: read)


def read_of_wait(future: concurrent.futures.Future[Any]) -> None:
    done, _ = concurrent.futures.wait([future], BOUND)
    read_result(done.pop())


def read_as_completed(future: concurrent.futures.Future[Any]) -> None:
    read_result(next(concurrent.futures.as_completed([future], BOUND)))


def read_in_a_loop(future: concurrent.futures.Future[Any]) -> None:
    async def read() -> None:
        with pytest.raises(KeyError):
            await asyncio.wrap_future(future)

    in_thread(asyncio.run, read()).result(BOUND)


class TestAnExceptionThatNobodyReads:
    """It is logged when its future is collected. ``logged()`` is what was, so far."""

    @pytest.fixture
    def logged(self, caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
        def records() -> list[logging.LogRecord]:
            gc.collect()
            return [record for record in caplog.records if record.levelno >= logging.ERROR]

        return records

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_logged_with_its_traceback_once_its_future_is_gone(
        self, kind: str, logged: Any
    ) -> None:
        with WorkQueue[str](name="jobs") as queue:
            queue.process(kind_of(kind, fail))
            future = queue.submit("a")
            queue.join(BOUND)
        assert logged() == []
        del future
        eventually(logged)
        (record,) = logged()
        assert record.name == "penstock"
        assert record.getMessage().startswith(NEVER_RETRIEVED)
        assert record.exc_info[0] is KeyError
        assert record.exc_info[2] is not None

    def test_goes_to_the_logger_of_the_queue(self, logged: Any) -> None:
        with WorkQueue[str](logger=logging.getLogger("mine")) as queue:
            queue.process(fail)
            queue.submit("a")
        eventually(logged)
        assert [record.name for record in logged()] == ["mine"]

    @pytest.mark.parametrize(
        "read",
        [
            read_result,
            lambda future: future.exception(BOUND),
            read_when_done,
            read_of_wait,
            read_as_completed,
            read_in_a_loop,
        ],
    )
    def test_but_not_one_that_was_read(
        self, read: Callable[[concurrent.futures.Future[Any]], object], logged: Any
    ) -> None:
        with WorkQueue[str](name="jobs") as queue:
            queue.process(fail)
            read(queue.submit("a"))
        assert logged() == []

    def test_a_wait_that_took_too_long_has_not_read_it(self, logged: Any) -> None:
        held = Held()

        def work(item: str) -> None:
            held(item)
            fail(item)

        with WorkQueue[str](name="jobs") as queue:
            queue.process(work)
            future = queue.submit("a")
            for call in (future.result, future.exception):
                with pytest.raises(concurrent.futures.TimeoutError):
                    call(timeout=0.001)
            held.may_go_on.set()
        assert logged() == []
        del future, call
        eventually(logged)

    @pytest.mark.parametrize("ordered", [True, False])
    def test_nothing_of_a_map(self, ordered: bool, logged: Any) -> None:
        with WorkQueue[int](name="jobs") as queue:
            queue.process(print, 2)
            results = queue.map(fail, range(10), return_exceptions=True, ordered=ordered)
            assert {type(result) for result in results} == {KeyError}
            with pytest.raises(KeyError):  # the others have failed too, or are about to
                list(queue.map(fail, range(10), ordered=ordered))
        assert logged() == []

    def test_nothing_of_an_item_that_runs_when_its_map_is_left(self, logged: Any) -> None:
        held = Held()

        def work(item: int) -> int:
            if item:
                held(item)
                fail(item)
            return item

        with WorkQueue[int](name="jobs") as queue:
            queue.process(print, 2)
            results = queue.map(work, range(2))
            assert next(results) == 0
            eventually(lambda: held.began)
            results.close()
            held.may_go_on.set()
            assert queue.join(BOUND)
        assert logged() == []

    def test_nothing_of_a_cancelled_one(self, logged: Any) -> None:
        with WorkQueue[str](name="jobs") as queue:
            queue.submit("a").cancel()
            queue.process(fail)
            queue.join(BOUND)
        assert logged() == []

    def test_nothing_of_an_item_that_a_stop_hands_back(self, logged: Any) -> None:
        queue: WorkQueue[str] = WorkQueue(name="jobs")
        queue.start()
        queue.submit("a")
        assert queue.stop() is False
        assert logged() == []
        assert queue.unprocessed == ["a"]

    def test_but_the_stop_of_another_queue_that_the_item_met_is(self, logged: Any) -> None:
        other: WorkQueue[str] = WorkQueue(name="other")
        other.start()
        begun: list[Any] = []

        def work(item: str) -> None:
            future = other.submit(item)
            begun.append(item)
            future.result(BOUND)

        with WorkQueue[str](name="jobs") as queue:
            queue.process(work)
            queue.submit("a")
            eventually(lambda: begun)
            other.stop()
        eventually(logged)
        (record,) = logged()
        assert record.getMessage().startswith(NEVER_RETRIEVED)

    def test_is_logged_at_the_end_of_a_program_that_still_has_the_future(self) -> None:
        outcome = run_program("""
import penstock.sync

def fail(item):
    raise KeyError(item)

queue = penstock.sync.WorkQueue(name="jobs")
queue.process(fail)
unread, read = queue.submit("a"), queue.submit("b")
read.exception()
""")
        assert outcome.stderr.count(NEVER_RETRIEVED) == 1, outcome.stderr
        assert outcome.stderr.endswith("KeyError: 'a'\n")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_does_not_log_it_too(self) -> None:
        outcome = run_program(
            """
import os, sys, warnings
import penstock.sync

def fail(item):
    raise KeyError(item)

with penstock.sync.WorkQueue(name="jobs") as queue:
    queue.process(fail)
    future = queue.submit("a")
child = os.fork()
if not child:
    sys.exit()  # and not os._exit: the hooks of the end of a program run
os.waitpid(child, 0)
""".replace("import penstock.sync", "import penstock.sync\nwarnings.simplefilter('ignore')")
        )
        assert outcome.stderr.count(NEVER_RETRIEVED) == 1, outcome.stderr
