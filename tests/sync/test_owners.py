"""Queues whose worker is a method of the object that owns the queue, and that nobody stops."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from penstock import Limit
from penstock.sync import WorkQueue
from sync.helpers import BOUND, eventually, queue_threads


class Owner:
    """Has a queue that calls its own methods. What they do is told to ``done``."""

    def __init__(self, done: list[Any], **options: Any) -> None:
        self.done = done
        self.queue: WorkQueue[Any] = WorkQueue(**options)
        self.queue.start()

    def has_one_waiting(self) -> bool:
        return bool(self.done and self.queue.statistics().retrying)

    def work(self, item: Any) -> None:
        self.done.append(item)

    async def work_in_loop(self, item: Any) -> None:
        self.done.append(item)

    def fail(self, item: Any) -> None:
        raise KeyError(item)

    def on_error(self, error: Exception, item: Any) -> None:
        self.done.append((type(error), item))


def starts(owner: Owner, kind: str) -> None:
    if kind == "method":
        owner.queue.process(owner.work, 3)
    elif kind == "async method":
        owner.queue.process(owner.work_in_loop, 3)
    elif kind == "lambda":
        owner.queue.process(lambda item: owner.work(item), 3)  # noqa: PLW0108
    elif kind == "method submitted to":
        owner.queue.process(owner.work, 3)
        owner.queue.submit("first").result(BOUND)
    else:
        owner.queue.process(owner.fail, 3, owner.on_error)


@pytest.mark.parametrize(
    "kind", ["method", "async method", "lambda", "method submitted to", "error handler"]
)
def test_an_owner_that_is_dropped_is_collected_with_its_queue(kind: str) -> None:
    before = queue_threads()
    done: list[Any] = []
    owner: Owner | None = Owner(done)
    starts(owner, kind)
    owner.queue.put("a")
    assert owner.queue.join(BOUND)
    collected = weakref.ref(owner)

    def is_collected() -> bool:
        gc.collect()  # until the workers have gone idle
        return collected() is None

    with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
        owner = None
        eventually(is_collected)
    eventually(lambda: not queue_threads() - before)
    assert done[-1] == ((KeyError, "a") if kind == "error handler" else "a")


@pytest.mark.parametrize("kind", ["method", "async method"])
def test_twenty_of_them_leave_no_thread(kind: str) -> None:
    before = queue_threads()
    done: list[Any] = []
    with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
        for number in range(20):
            owner = Owner(done)
            starts(owner, kind)
            owner.queue.put(number)
        del owner
        eventually(lambda: gc.collect() is not None and not queue_threads() - before)
    assert sorted(done) == list(range(20))


def test_what_waits_for_a_limit_when_its_owner_is_dropped_is_done_all_the_same() -> None:
    done: list[Any] = []
    owner: Owner | None = Owner(done, limits=[Limit(1, per=0.2, key=lambda item: "all")])
    owner.queue.process(owner.work)
    owner.queue.put("a")
    owner.queue.put("b")
    eventually(owner.has_one_waiting)
    with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
        owner = None
        gc.collect()
        eventually(lambda: gc.collect() is not None and len(done) == 2)
    assert done == ["a", "b"]


def test_what_is_in_hand_and_what_waits_when_its_owner_is_dropped_is_done() -> None:
    may_go_on = threading.Event()
    done: list[Any] = []

    class Slow(Owner):
        def work(self, item: Any) -> None:
            assert may_go_on.wait(BOUND)
            super().work(item)

    owner: Owner | None = Slow(done)
    owner.queue.process(owner.work)
    for number in range(3):
        owner.queue.put(number)
    collected = weakref.ref(owner)
    with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
        owner = None
        gc.collect()
        may_go_on.set()
        eventually(lambda: gc.collect() is not None and collected() is None)
    eventually(lambda: done == [0, 1, 2])
