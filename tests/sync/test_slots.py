"""What a worker holds is taken from it in the very moment in which it finishes."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from penstock.sync import WorkQueue
from penstock.sync.buffer import JanusBuffer
from penstock.sync.slots import SharedCounters, ThreadSlot, WorkerSlot
from penstock.workers.item import JobTicket
from penstock.workers.job import Job
from sync.helpers import BOUND, in_thread

IS_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


def standing_job(buffer: JanusBuffer[str]) -> Job[str]:
    buffer.standing = Job(str, 1)
    return buffer.standing


class Interrupted:
    """A lock before which something else happens, once."""

    def __init__(self, meanwhile: Any) -> None:
        self._lock = threading.RLock()
        self._meanwhile = [meanwhile]

    def __enter__(self) -> None:
        while self._meanwhile:
            self._meanwhile.pop()()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def test_an_item_that_was_counted_as_processed_stays_so_and_is_not_given_back() -> None:
    buffer: JanusBuffer[str] = JanusBuffer(1)
    counters = SharedCounters(buffer)
    slot = WorkerSlot(buffer, counters, standing_job(buffer))
    assert buffer.offer("a", None, copy_context())
    assert slot.take() is not None
    seen: list[int] = []

    def finish() -> None:
        slot.processed += 1
        seen.append(counters.all_processed)

    counters._lock = Interrupted(finish)  # type: ignore[assignment]
    assert not slot.reclaim()
    assert [*seen, counters.all_processed] == [1, 1]
    assert buffer.snapshot() == []


def test_a_worker_that_was_cancelled_gives_back_nothing_that_was_taken_from_it() -> None:
    buffer: JanusBuffer[str] = JanusBuffer(1)
    slot = WorkerSlot(buffer, SharedCounters(buffer), standing_job(buffer))
    assert buffer.offer("a", None, copy_context())
    entry = slot.take()
    assert entry is not None
    assert slot.reclaim()  # by another thread, in the moment before the next line
    slot.requeue(entry)
    assert [one[1] for one in buffer.snapshot()] == ["a"]


@pytest.mark.skipif(not IS_FREE_THREADED, reason="threads take turns here")
def test_what_is_taken_from_a_worker_shares_no_context_with_it() -> None:
    variable: ContextVar[object] = ContextVar("variable")
    buffer: JanusBuffer[str] = JanusBuffer(1)
    counters = SharedCounters(buffer)
    for _ in range(300):
        slot = WorkerSlot(buffer, counters, standing_job(buffer))
        assert buffer.offer("a", None, copy_context())
        entry = slot.take()
        assert entry is not None
        began = threading.Event()

        def work(began: threading.Event = began) -> None:
            began.set()
            for _ in range(1000):
                variable.set(object())

        worker = in_thread(entry[2].run, work)
        assert began.wait(BOUND)
        assert slot.reclaim()
        (returned,) = buffer.snapshot()
        assert returned[2] is not entry[2]
        assert variable not in returned[2]  # and not what the worker has set in it since
        worker.result(BOUND)
        assert buffer.discard([returned]) == 1


def test_a_failure_that_counts_is_told() -> None:
    buffer: JanusBuffer[str] = JanusBuffer(1)
    counters = SharedCounters(buffer)
    slot = WorkerSlot(buffer, counters, standing_job(buffer))
    assert buffer.offer("a", None, copy_context())
    assert slot.take() is not None
    told: list[bool] = []

    def fail() -> None:
        told.append(not slot.is_revoked)  # which is what a worker asks before it tells
        slot.processed += 1

    counters._lock = Interrupted(fail)  # type: ignore[assignment]
    assert not slot.reclaim()
    assert told == [True]


def test_a_worker_without_a_function_takes_nothing_of_nobody() -> None:
    buffer: JanusBuffer[str] = JanusBuffer(2)
    job: Job[str] = Job(print, 1, is_for_threads=True)
    slot = ThreadSlot(buffer, SharedCounters(buffer), None)
    buffer.open_lane(job)
    assert buffer.offer("of the job", JobTicket(job))
    assert slot.take() is not None
    buffer.close_lane(job)
    slot.processed += 1
    assert buffer.offer("of nobody")
    assert slot.take() is None  # its pool has not told it to leave yet
    assert buffer.ready == 1


def test_an_item_that_nobody_wants_is_counted_though_its_batch_is_given_up() -> None:
    began, may_end = threading.Event(), threading.Event()

    def work(items: list[str]) -> None:
        began.set()
        may_end.wait(BOUND)

    queue = WorkQueue[str]()
    queue.start()
    queue.pause()
    queue.submit("nobody wants it").cancel()
    queue.put_many(["a", "b"])
    queue.process_batches(work, max_size=3, max_wait=0)
    queue.resume()
    assert began.wait(BOUND)
    assert queue.stop(timeout=0) is False  # the thread goes on, without its items
    try:
        assert queue.unprocessed == ["a", "b"]
        assert queue.statistics().unfinished == 2
    finally:
        may_end.set()


def test_the_half_of_a_batch_that_is_done_stays_so_though_the_other_is_given_up() -> None:
    began, may_end = threading.Event(), threading.Event()

    def work(items: list[str]) -> None:
        if len(items) == 2:
            raise TypeError("one of them")
        if items == ["b"]:
            began.set()
            may_end.wait(BOUND)

    queue = WorkQueue[str]()
    queue.start()
    queue.put_many(["a", "b"])
    queue.process_batches(work, max_size=2, max_wait=0)
    assert began.wait(BOUND)
    assert queue.stop(timeout=0) is False
    try:
        assert queue.unprocessed == ["b"]
        assert queue.statistics().unfinished == 1
    finally:
        may_end.set()
