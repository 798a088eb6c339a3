"""Two threads that do two things in the same instant, again and again until they do.

What the random programs of ``test_threads.py`` meet once in hundreds of seeds, said in few lines.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from helpers.logs import SILENT
from models.threads import switching_every
from penstock import QueueEmptyError, QueueStateError, QueueStatus
from penstock._util.loop_thread import LoopFuture
from penstock.sync import WorkQueue

#: Seconds after which a call is taken to hang.
HANGS = 60


@pytest.fixture(autouse=True)
def switching_all_the_time() -> Iterator[None]:
    with switching_every(1e-6):
        yield


@pytest.fixture
def queue() -> Iterator[WorkQueue[int]]:
    queue: WorkQueue[int] = WorkQueue(1000, logger=SILENT)
    queue.start()
    yield queue
    queue.stop(timeout=0, drain=False)


def begin(func: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=func, args=args, daemon=True)
    thread.start()
    return thread


def end(thread: threading.Thread) -> None:
    thread.join(HANGS)
    assert not thread.is_alive()


def cancel_all(futures: list[Any], go: threading.Event | None = None) -> None:
    if go is not None:
        go.wait(HANGS)
    for future in futures:
        future.cancel()


def set_after(event: threading.Event, seconds: float) -> None:
    time.sleep(seconds)
    event.set()


def test_a_future_cancelled_as_a_stop_hands_its_item_back(queue: WorkQueue[int]) -> None:
    for _ in range(150):
        queue.start()
        with suppress(QueueEmptyError):  # where threads run at once, a stop can be first each time
            while True:
                queue.get_nowait()
                queue.task_done()
        futures = [queue.submit(number) for number in range(50)]
        go = threading.Event()
        canceller = begin(cancel_all, futures, go)
        go.set()
        queue.stop(drain=False)
        end(canceller)
        assert queue.status is QueueStatus.STOPPED
        assert all(future.done() for future in futures)


def test_a_future_cancelled_as_its_item_is_taken(queue: WorkQueue[int]) -> None:
    for _ in range(100):
        futures = [queue.submit(number) for number in range(20)]
        canceller = begin(cancel_all, futures)
        with suppress(QueueEmptyError):
            while True:
                queue.get_nowait()
                queue.task_done()
        end(canceller)
        assert queue.join(timeout=HANGS) is True
        assert queue.metrics["processed"] == queue.metrics["enqueued"]


def test_a_function_that_ends_as_a_stop_gives_its_thread_up(queue: WorkQueue[int]) -> None:
    rng = random.Random(0)
    for _ in range(120):
        begun = threading.Semaphore(0)
        may_end = threading.Event()

        def work(
            number: int,
            begun: threading.Semaphore = begun,
            may_end: threading.Event = may_end,
        ) -> int:
            begun.release()
            may_end.wait(HANGS)
            for _ in range(rng.randrange(200)):
                pass
            return number

        queue.process(work, 8)
        before = queue.metrics["processed"]
        futures = [queue.submit(number) for number in range(8)]
        for _ in futures:
            assert begun.acquire(timeout=HANGS)
        releaser = begin(set_after, may_end, rng.choice((0, 0.0002, 0.0005)))
        queue.stop(timeout=rng.choice((0, 0.0003)))
        end(releaser)
        left = queue.unprocessed
        assert queue.metrics["processed"] - before + len(left) == 8
        for number, future in enumerate(futures):
            error = future.exception(timeout=HANGS)
            assert isinstance(error, QueueStateError) or future.result() == number
        queue.start()
        for _ in left:
            queue.get_nowait()
            queue.task_done()


def test_cancelled_items_dropped_as_others_take_them(queue: WorkQueue[int]) -> None:
    def take_all(may_go_on: threading.Event) -> None:
        may_go_on.set()
        with suppress(QueueEmptyError):
            while True:
                queue.get(timeout=0.005)
                queue.task_done()

    for _ in range(30):
        may_go_on = threading.Event()
        queue.process(lambda _, event=may_go_on: event.wait(HANGS), 1)  # type: ignore[misc]
        queue.put(0)
        cancel_all([queue.submit(number) for number in range(200)])
        taker = begin(take_all, may_go_on)
        queue.queue.stop_workers()
        end(taker)
        assert queue.join(timeout=HANGS) is True
        assert queue.metrics["processed"] == queue.metrics["enqueued"]


def test_workers_that_are_stopped_as_they_find_nothing_to_do(queue: WorkQueue[int]) -> None:
    for turn in range(400):
        queue.process(lambda _: None, 4)
        for number in range(turn % 3):
            queue.put(number)
        end(begin(queue.queue.stop_workers))


@pytest.mark.parametrize("call", ["join", "stop"])
def test_a_call_that_ends_as_its_time_does(
    monkeypatch: pytest.MonkeyPatch, queue: WorkQueue[int], call: str
) -> None:
    def late(future: Any, timeout: float | None = None) -> Any:
        result = get_result(future, HANGS)
        if timeout is not None:
            raise TimeoutError
        return result

    get_result = LoopFuture.result
    queue.process(lambda _: time.sleep(0.05))
    queue.put(0)
    monkeypatch.setattr(LoopFuture, "result", late)
    assert getattr(queue, call)(timeout=1) is True
