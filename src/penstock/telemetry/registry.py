"""The queues whose counts are exported: those that live, and the totals of those that are gone."""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from penstock._util.hooks import ForkSafeLock, tell_forked_child
from penstock.policies.observer import ObservedQueue, QueueReadings, ReadTotals

_logger = logging.getLogger("penstock")

#: Seconds for which the totals of a name are exported whose last queue is gone: longer than the
#: interval of any reader, so that each of them hears the last counts.
_AFTERLIFE = 600.0


@dataclass(frozen=True)
class QueueSnapshot:
    """One living queue, at one instant."""

    name: str
    #: A ``QueueStatistics``.
    statistics: Any
    readings: QueueReadings
    #: Workers that wait for a limit with an item in hand.
    waiting: int

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped: then only what it keeps counts."""
        return bool(self.statistics.status == "stopped")


class _QueueRecord:
    """What the registry knows of one queue.

    It keeps alive neither the queue nor the items that wait there. (An item may refer to the queue:
    one that is a call of a method of the queue does.)
    """

    __slots__ = ("__weakref__", "_registration", "_totals", "_waiting", "name", "queue")

    def __init__(
        self, queue: ObservedQueue, registration: Registration, waiting: Collection[object]
    ) -> None:
        self.name = queue.name
        self.queue = weakref.ref(queue)
        self._registration = weakref.ref(registration)
        self._waiting = waiting
        self._totals: dict[str, float] = {}

    def read(self) -> QueueSnapshot | None:
        """The counts of one instant, or None when the queue is gone.

        The loop goes on in its thread while this thread reads. So the statistics are read until
        they are the same twice: what was the same twice was true at one instant.
        """
        queue = self.queue()
        if queue is None:
            return None
        latest = queue.statistics()
        for _ in range(10):
            before, latest = latest, queue.statistics()
            if latest == before:
                break
        return QueueSnapshot(self.name, latest, queue.readings(), len(self._waiting))

    def read_totals(self) -> dict[str, float]:
        """The totals, never less than they were. Of a queue that is gone: its last ones."""
        registration = self._registration()
        if registration is not None:
            self.update_totals(registration.read_totals())
        return self._totals

    def update_totals(self, totals: Mapping[str, float]) -> None:
        """Remember the totals; where the loop changed them during the reading, the greater ones."""
        before = self._totals
        self._totals = {key: max(value, before.get(key, 0)) for key, value in totals.items()}


class Registration:
    """Held by a queue and its items. When it is collected, the last totals go to the registry."""

    __slots__ = ("__weakref__", "_dead", "read_totals", "record")

    def __init__(
        self,
        queue: ObservedQueue,
        read_totals: ReadTotals,
        waiting: Collection[object],
        dead: deque[_QueueRecord],
    ) -> None:
        self.read_totals = read_totals
        self.record = _QueueRecord(queue, self, waiting)
        self._dead = dead

    # Not the callback of a weak reference: it could not read the totals of a queue that is gone.
    # It may run in the middle of any code, so it takes no lock. At the end of the interpreter
    # nobody reads the totals, and this module may be empty already: so ``is_ending`` is bound here.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        self.record.update_totals(self.read_totals())
        self._dead.append(self.record)


class Registry:
    """The queues on one meter. In a forked child it is empty: its parent exports its own queues."""

    def __init__(self) -> None:
        self._forget()
        # Re-entrant: the garbage collector may run any code, in the middle of any line below.
        self._lock = ForkSafeLock(threading.RLock)
        self._is_failure_logged = False
        tell_forked_child(self)

    def _forget(self) -> None:
        self._records: set[_QueueRecord] = set()
        # The totals of queues that are gone, by name. A sum over the living queues alone would go
        # down when one of them dies, and begin at zero with the next queue of that name.
        self._dead_totals: dict[str, dict[str, float]] = {}
        self._dead: deque[_QueueRecord] = deque()
        # Until when each of those names is exported though no queue has it.
        self._exported_until: dict[str, float] = {}

    def _after_fork_in_child(self) -> None:
        self._forget()

    def add(
        self, queue: ObservedQueue, read_totals: ReadTotals, waiting: Collection[object]
    ) -> Registration:
        """Export this queue until it is garbage-collected; the queue must hold the registration."""
        registration = Registration(queue, read_totals, waiting, self._dead)
        with self._lock:
            self._remove_dead()
            self._records.add(registration.record)
        return registration

    def read(self) -> tuple[list[QueueSnapshot], dict[str, dict[str, float]]]:
        """The living queues; and by name the totals of all queues of that name, living or gone."""
        with self._lock:
            records = list(self._records)
        queues = []
        for record in records:
            try:
                queue = record.read()
            except Exception:  # of one queue; the others are exported
                self.log_failure()
                continue
            if queue is not None:
                queues.append(queue)
        now = time.monotonic()
        with self._lock:
            self._remove_dead()
            # A queue may be gone while somebody keeps its registration: an exception of a worker
            # function has it in its traceback.
            names = {record.name for record in self._records}
            names |= {name for name, until in self._exported_until.items() if now < until}
            totals = {name: dict(self._dead_totals.get(name, {})) for name in names}
            for record in self._records:
                if record.name in totals:
                    _add(totals[record.name], record.read_totals())
        return queues, totals

    def _remove_dead(self) -> None:
        while self._dead:
            record = self._dead.popleft()
            if record in self._records:  # else it is of the parent of a forked child
                self._records.discard(record)
                _add(self._dead_totals.setdefault(record.name, {}), record.read_totals())
                self._exported_until[record.name] = time.monotonic() + _AFTERLIFE

    def log_failure(self) -> None:
        """Log the exception that is being handled, the first time."""
        if not self._is_failure_logged:
            self._is_failure_logged = True
            _logger.error("Metrics of queues cannot be read", exc_info=True)


def _add(totals: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        totals[key] = totals.get(key, 0) + value
