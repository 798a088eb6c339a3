"""Tests of the blocking face: real threads, real time."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from sync.helpers import eventually, queue_threads


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, the threads of its queues are gone after it."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    eventually(lambda: not queue_threads() - before)


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads meet in more places when they hold the interpreter for a moment only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
