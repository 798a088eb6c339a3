"""Tests of the blocking face: real threads, real time."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

import penstock.sync
from penstock.queue import bounded, lifecycle
from sync.helpers import eventually, queue_threads


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, the threads of its queues are gone after it."""
    before = set(threading.enumerate())
    # Collections look at new objects alone: with those of all tests before, each takes a tenth of a
    # second, and on a busy machine the threads that are to end would get no turn between two.
    gc.freeze()
    yield
    gc.collect()
    eventually(lambda: not queue_threads() - before)
    gc.unfreeze()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads meet in more places when they hold the interpreter for a moment only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def no_warning_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about warnings that come once in a second of a real clock."""
    monkeypatch.setattr(lifecycle, "IDLE_GRACE", 3600.0)
    monkeypatch.setattr(bounded, "WARNING_INTERVAL", 3600.0)
    monkeypatch.setattr(penstock.sync.queue, "WARNING_INTERVAL", 3600.0)
