"""What a worker holds is taken from it in the very moment in which it finishes."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from penstock.sync.bridge import Bridge
from penstock.sync.counters import SharedCounters
from penstock.sync.desks import Desk
from sync.helpers import BOUND, in_thread

IS_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


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
    bridge: Bridge[str] = Bridge(1)
    counters = SharedCounters(bridge)
    desk = Desk(bridge, counters)
    assert bridge.offer("a", None, copy_context())
    assert desk.take() is not None
    seen: list[int] = []

    def finish() -> None:
        desk.processed += 1
        seen.append(counters.all_processed)

    counters._lock = Interrupted(finish)  # type: ignore[assignment]
    assert not desk.surrender()
    assert [*seen, counters.all_processed] == [1, 1]
    assert bridge.snapshot() == []


def test_a_worker_that_was_cancelled_gives_back_nothing_that_was_taken_from_it() -> None:
    bridge: Bridge[str] = Bridge(1)
    desk = Desk(bridge, SharedCounters(bridge))
    assert bridge.offer("a", None, copy_context())
    entry = desk.take()
    assert entry is not None
    assert desk.surrender()  # by another thread, in the moment before the next line
    desk.requeue(entry)
    assert [one[1] for one in bridge.snapshot()] == ["a"]


@pytest.mark.skipif(not IS_FREE_THREADED, reason="threads take turns here")
def test_what_is_taken_from_a_worker_shares_no_context_with_it() -> None:
    variable: ContextVar[object] = ContextVar("variable")
    bridge: Bridge[str] = Bridge(1)
    counters = SharedCounters(bridge)
    for _ in range(300):
        desk = Desk(bridge, counters)
        assert bridge.offer("a", None, copy_context())
        entry = desk.take()
        assert entry is not None
        began = threading.Event()

        def work(began: threading.Event = began) -> None:
            began.set()
            for _ in range(1000):
                variable.set(object())

        worker = in_thread(entry[2].run, work)
        assert began.wait(BOUND)
        assert desk.surrender()
        (returned,) = bridge.snapshot()
        assert returned[2] is not entry[2]
        assert variable not in returned[2]  # and not what the worker has set in it since
        worker.result(BOUND)
        assert bridge.discard([returned]) == 1


def test_a_failure_that_counts_is_told() -> None:
    bridge: Bridge[str] = Bridge(1)
    counters = SharedCounters(bridge)
    desk = Desk(bridge, counters)
    assert bridge.offer("a", None, copy_context())
    assert desk.take() is not None
    told: list[bool] = []

    def fail() -> None:
        told.append(not desk.is_lost)  # which is what a worker asks before it tells
        desk.processed += 1

    counters._lock = Interrupted(fail)  # type: ignore[assignment]
    assert not desk.surrender()
    assert told == [True]
