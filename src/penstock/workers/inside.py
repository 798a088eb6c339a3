"""Inside which item code runs: in its worker, or in a task or thread that its function started.

Code that waits for a queue from inside one of the queue's own items may wait for itself. A worker
is known by its task or thread. Whatever else the worker function starts inherits the context of the
item, and there the call of the item is kept.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

from penstock.workers.job import Job

#: What stands for the call of the innermost item, or None.
CURRENT_CALL: Final[ContextVar[object]] = ContextVar("penstock_current_call", default=None)

#: The threads, by their identifiers, that are workers of any queue.
WORKER_THREADS: Final[set[int]] = set()


class Caller(Protocol):
    """A worker."""

    @property
    def call(self) -> object:
        """Stands for the call of its item, if that may wait for something."""
        ...

    @property
    def job_of_call(self) -> Job[Any] | None:
        """The job of that item."""
        ...


def worker_around(workers: Mapping[Any, Caller]) -> Caller | None:
    """The one of ``workers`` inside of whose item the caller's code runs, or None.

    Inside is the worker function, and whatever task or thread it has started in its context, until
    the call ends. For any thread.

    Args:
        workers: by their tasks.
    """
    if _get_running_loop() is not None:
        task = asyncio.current_task()
        worker = workers.get(task)
        if worker is not None:
            return worker
    else:
        task = None
    call = CURRENT_CALL.get()
    if call is None or hasattr(task, "worker"):  # a worker of another queue
        return None
    return next((worker for worker in list(workers.values()) if worker.call is call), None)


class WaitingCalls:
    """The calls of items that wait for something that only a worker can bring about."""

    def __init__(self, workers: Mapping[Any, Caller]) -> None:
        self._workers = workers
        self._waits: Counter[object] = Counter()

    def add(self, call: object) -> int:
        """One more wait, inside of ``call``. Return how many workers are inside of such calls."""
        self._waits[call] += 1
        return sum(worker.call in self._waits for worker in list(self._workers.values()))

    def remove(self, call: object) -> None:
        """A wait has ended."""
        self._waits[call] -= 1
        if not self._waits[call]:
            del self._waits[call]
