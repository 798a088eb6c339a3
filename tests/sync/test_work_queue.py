"""The blocking WorkQueue: the same names as the asynchronous one, and what they do in threads."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import penstock
from penstock import BoundedQueue, QueueConfig, QueueStateError
from penstock.sync import WorkQueue
from penstock.sync.futures import Result
from sync.helpers import BOUND, KINDS, Held, eventually, in_thread, run_program


async def double_async(item: int) -> int:
    await asyncio.sleep(0)
    return item * 2


def double_plain(item: int) -> int:
    return item * 2


DOUBLE: dict[str, Any] = {"async": double_async, "plain": double_plain}


#: What has more arguments here, and what has another name.
MORE = {"join": {"timeout"}, "__init__": {"loop_thread"}}
TWINS = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}


def public(kind: type) -> set[str]:
    special = {"__init__", *TWINS}
    return {name for name in dir(kind) if not name.startswith("_") or name in special}


class TestParity:
    @pytest.mark.parametrize("name", sorted(public(penstock.WorkQueue)))
    def test_every_public_name_has_the_same_signature(self, name: str) -> None:
        theirs = getattr(penstock.WorkQueue, name)
        ours = getattr(WorkQueue, TWINS.get(name, name))
        if not callable(theirs):
            assert type(ours) is type(theirs)
            return
        parameters = list(inspect.signature(ours).parameters.values())
        more = {p.name for p in parameters} - set(inspect.signature(theirs).parameters)
        assert more == MORE.get(name, set())
        assert [(p.name, p.kind, p.default) for p in parameters if p.name not in more] == [
            (p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()
        ]
        assert not inspect.iscoroutinefunction(ours)
        assert ours.__doc__ or name.startswith("_")

    def test_and_there_are_no_others(self) -> None:
        assert public(WorkQueue) == public(penstock.WorkQueue) - set(TWINS)


def test_it_has_the_arguments_of_the_other() -> None:
    logger = logging.getLogger("mine")
    queue: WorkQueue[int] = WorkQueue(5, 0.5, 3, logger, name="uploads")
    assert (queue.maxsize, queue.queue.timeout, queue.concurrency_limit) == (5, 0.5, 3)
    assert (queue.name, queue.queue.logger) == ("uploads", logger)
    assert repr(queue) == "<WorkQueue over <BlockingQueue 'uploads' idle 0/5>>"
    configured = WorkQueue[int].from_config(QueueConfig(queue_capacity=7, concurrency_limit=2))
    assert (configured.maxsize, configured.concurrency_limit) == (7, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"maxsize": 0}, ValueError, "Queue maxsize must be at least 1"),
        ({"maxsize": "5"}, TypeError, "maxsize must be an int, got '5'"),
        ({"timeout": -1}, ValueError, "timeout must be zero or more"),
        ({"concurrency_limit": 0}, ValueError, "Concurrency limit must be at least 1"),
        ({"logger": "root"}, TypeError, "logger must be"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"telemetry": 1}, TypeError, "telemetry must be"),
        ({"loop_thread": asyncio.new_event_loop}, TypeError, "loop_thread must be"),
        ({"queue": object()}, TypeError, "queue must have the methods"),
        ({"queue": BoundedQueue(), "maxsize": 5}, ValueError, "has its own"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WorkQueue(**arguments)


def test_bad_calls() -> None:
    with WorkQueue[int]() as queue:
        with pytest.raises(ValueError, match="Number of workers must be at least 1"):
            queue.process(print, 0)
        with pytest.raises(TypeError, match="worker_func must be a function"):
            queue.process(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="worker_func must accept item"):
            queue.process(lambda: None)  # type: ignore[misc, arg-type]
        with pytest.raises(TypeError, match="An item is one argument: put a tuple"):
            queue.process(lambda user, text: None)  # type: ignore[misc, arg-type]
        with pytest.raises(TypeError, match="error_handler must accept exc and item"):
            queue.process(print, 1, lambda: None)  # type: ignore[misc, arg-type]
        for call in (queue.batch_process, lambda items, func: queue.map(func, items)):
            with pytest.raises(TypeError, match="items must be an iterable, got 5"):
                call(5, print)
        assert queue.worker_count == 0


def test_with_starts_and_drains_and_an_exception_does_not() -> None:
    held = Held()
    queue: WorkQueue[str] = WorkQueue()
    with queue as same:
        assert same is queue
        queue.process(held.work, 1)
        queue.put("a")
        held.may_go_on.set()
    assert held.done == ["a"]
    held = Held()
    with pytest.raises(KeyError, match="mine"), queue:  # noqa: PT012
        queue.process(held.work, 1)
        queue.put("b")
        queue.put("c")
        eventually(lambda: held.began)
        raise KeyError("mine")
    assert held.done == []
    assert queue.unprocessed == ["b", "c"]


class TestBatchProcess:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_processes_all_and_stops(self, kind: str) -> None:
        done: list[int] = []

        def work(item: int) -> None:
            done.append(item)

        async def work_async(item: int) -> None:
            done.append(item)

        queue: WorkQueue[int] = WorkQueue(5)
        queue.batch_process(range(200), work if kind == "plain" else work_async, 4)
        assert sorted(done) == list(range(200))
        assert queue.status == "stopped"
        assert queue.metrics["backpressure_events"] == 0

    def test_items_are_read_as_there_is_room(self) -> None:
        read: list[int] = []
        most: list[int] = []

        def source() -> Iterator[int]:
            for number in range(50):
                read.append(number)
                yield number

        def work(item: int) -> None:
            most.append(len(read) - item)

        WorkQueue[int](3).batch_process(source(), work, 1)
        assert len(read) == 50
        assert max(most) <= 3 + 1 + 1  # the bound, the one in hand, and the one that waits

    def test_on_a_queue_that_runs_it_leaves_it_running(self) -> None:
        with WorkQueue[int]() as queue:
            done: list[int] = []
            assert queue.put(3)
            queue.batch_process([1, 2], done.append)
            assert queue.status == "processing"
            assert queue.unprocessed == [3]
            assert queue.get_nowait() == 3
            queue.task_done()
        assert done == [1, 2]

    def test_items_that_raise_stop_it(self) -> None:
        def source() -> Iterator[int]:
            yield 1
            raise KeyError("source")

        queue: WorkQueue[int] = WorkQueue()
        with pytest.raises(KeyError, match="source"):
            queue.batch_process(source(), print)
        assert queue.status == "stopped"

    def test_failures_go_to_the_handler(self) -> None:
        failed: list[Any] = []
        WorkQueue[int]().batch_process(
            [0, 1, 2], lambda item: 1 / item, 2, lambda exc, item: failed.append((type(exc), item))
        )
        assert failed == [(ZeroDivisionError, 0)]

    def test_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        WorkQueue[int]().batch_process(range(10), double_async, 2, progress=True)
        assert "10/10" in capsys.readouterr().err

    def test_async_items_are_for_the_other_face(self) -> None:
        async def source() -> Any:
            yield 1

        with pytest.raises(TypeError, match="items must be an iterable"):
            WorkQueue[int]().batch_process(source(), print)  # type: ignore[arg-type]


class TestMap:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("runs", [None, *KINDS])
    def test_results(self, kind: str, ordered: bool, runs: str | None) -> None:
        queue: WorkQueue[int] = WorkQueue(5)
        if runs is not None:
            queue.process(DOUBLE[runs], 3)
        size = {} if runs is not None else {"num_workers": 3}
        results = list(queue.map(DOUBLE[kind], range(50), ordered=ordered, **size))
        assert (results if ordered else sorted(results)) == [2 * n for n in range(50)]
        assert queue.status == ("processing" if runs is not None else "stopped")
        queue.stop()

    @pytest.mark.parametrize("ordered", [True, False])
    def test_bounded_at_both_ends(self, ordered: bool) -> None:
        read = itertools.count()
        results = WorkQueue[int](3).map(double_plain, read, num_workers=2, ordered=ordered)
        for number in range(30):
            next(results)
            assert next(read) <= number + 3 + 2 + 1 + number + 1  # our own looks count too
        results.close()

    def test_results_that_come_in_reverse_are_not_looked_for_among_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        comparisons = 0

        def compare(result: object, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return result is other

        monkeypatch.setattr(Result, "__eq__", compare)
        monkeypatch.setattr(Result, "__hash__", object.__hash__)
        turns = [threading.Event() for _ in range(33)]
        turns[32].set()

        def wait_for_the_next(number: int) -> int:
            assert turns[number + 1].wait(BOUND)
            return number

        told = []
        queue: WorkQueue[int] = WorkQueue(40)
        for number in queue.map(wait_for_the_next, range(32), num_workers=32, ordered=False):
            told.append(number)
            turns[number].set()
        assert told == list(reversed(range(32)))
        assert comparisons < 2 * 32

    def test_a_result_is_told_before_the_next_item_is_read(self) -> None:
        asked = 0

        def source() -> Iterator[int]:
            nonlocal asked
            for number in range(5):
                asked += 1
                yield number

        with WorkQueue[int](100) as queue:
            results = queue.map(double_plain, source(), num_workers=1)
            assert next(results) == 0
            eventually(lambda: not queue.statistics().unfinished)
            before = asked
            assert next(results) == 2 or asked == before

    def test_exceptions(self) -> None:
        def work(item: int) -> float:
            return 1 / item

        queue: WorkQueue[int] = WorkQueue()
        results = list(queue.map(work, [1, 0, 2], return_exceptions=True))
        assert [type(result) for result in results] == [float, ZeroDivisionError, float]
        with pytest.raises(ZeroDivisionError):
            list(queue.map(work, [1, 0, 2]))
        assert queue.status == "stopped"

    def test_a_break_stops_what_it_started(self) -> None:
        queue: WorkQueue[int] = WorkQueue(5)
        for result in queue.map(double_async, itertools.count(), num_workers=2):
            if result > 20:
                break
        eventually(lambda: queue.status == "stopped")
        assert queue.worker_count == 0

    def test_order_is_kept_where_the_first_is_slow(self) -> None:
        may_go_on = threading.Event()

        def work(item: int) -> int:
            if item == 0:
                may_go_on.wait(BOUND)
            if item == 5:
                may_go_on.set()
            return item

        queue: WorkQueue[int] = WorkQueue()
        assert list(queue.map(work, range(9), num_workers=2)) == list(range(9))


class TestSignals:
    PROGRAM = """
import asyncio, os, signal, sys, threading, time
import penstock.sync

done = []
async def work(item):
    await asyncio.sleep({pause})
    done.append(item)

queue = penstock.sync.WorkQueue(100)
before = signal.getsignal(signal.SIGTERM)
queue.process(work, 5)
queue.stop_on_signals()
for number in range(20):
    queue.put(number)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
{second}
while True:
    try:
        queue.put(99, timeout=0)
        time.sleep(0.01)
    except penstock.QueueStateError:
        break
try:
    queue.join()
except penstock.QueueStateError:
    pass
left = queue.stop()
assert queue.status == "stopped"
assert signal.getsignal(signal.SIGTERM) == before
print(len(done) == queue.metrics["processed"], len(queue.unprocessed))
"""

    def test_the_first_drains(self) -> None:
        outcome = run_program(self.PROGRAM.format(pause=0.02, second=""))
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stdout.split() == ["True", "0"]

    def test_the_second_cancels(self) -> None:
        second = "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()"
        outcome = run_program(self.PROGRAM.format(pause=1000, second=second))
        assert outcome.returncode == 0, outcome.stderr
        is_right, left = outcome.stdout.split()
        assert is_right == "True"
        assert int(left) >= 20

    def test_bad_arguments(self) -> None:
        queue: WorkQueue[int] = WorkQueue()
        with pytest.raises(ValueError, match="signals must be"):
            queue.stop_on_signals(-5)
        with pytest.raises(ValueError, match="timeout"):
            queue.stop_on_signals(timeout=-1)
        with pytest.raises(ValueError, match="main thread"):
            in_thread(queue.stop_on_signals).result(BOUND)


@pytest.mark.parametrize("timeout", [math.inf, None, BOUND])
def test_stop_and_join_say_whether_they_finished_in_time(timeout: float | None) -> None:
    held = Held()
    queue: WorkQueue[str] = WorkQueue()
    queue.process(held)
    queue.put("a")
    assert queue.join(timeout=0.01) is False
    held.may_go_on.set()
    assert queue.join(timeout=timeout) is True
    assert queue.stop(timeout=timeout) is True
    assert queue.join(timeout=timeout) is True


@pytest.mark.parametrize("running", [False, True])
def test_a_batch_does_not_shorten_the_stop_of_somebody_else(running: bool) -> None:
    work = Held()
    queue = WorkQueue[int](maxsize=5)
    if running:
        queue.start()
    batch = in_thread(lambda: queue.batch_process(range(100), work, 1))
    eventually(lambda: (s := queue.statistics()).waiting_putters == s.inflight == 1)
    stopping = in_thread(lambda: queue.stop(timeout=BOUND))
    eventually(lambda: queue.status == "stopping")
    with pytest.raises(QueueStateError):
        queue.put(1)
    work.may_go_on.set()
    assert stopping.result(BOUND) is True
    with pytest.raises(QueueStateError):
        batch.result(BOUND)
    assert work.done == list(range(6))
    assert queue.unprocessed == []
