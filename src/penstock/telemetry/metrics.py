"""The metrics of all queues on one meter.

Counts are plain integers in the queues. The SDK's reader asks for them by the callbacks here, in a
thread of its own. Only histograms are recorded item by item.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from penstock._util.hooks import ForkSafeLock
from penstock.policies.observer import ObservedQueue, ReadTotals
from penstock.telemetry import names

_logger = logging.getLogger("penstock")

#: Seconds after which a snapshot is not used any more: its collection was given up. It is the time
#: that an SDK gives to a whole export.
_SNAPSHOT_LIFETIME = 30.0


class _QueueRecord:
    """What the instruments know of one queue.

    It keeps alive neither the queue nor the items that wait there. (An item may refer to the queue:
    one that is a call of a method of the queue does.)
    """

    __slots__ = ("__weakref__", "_registration", "_totals", "name", "queue")

    def __init__(self, queue: ObservedQueue, registration: Registration) -> None:
        self.name = queue.name
        self.queue = weakref.ref(queue)
        self._registration = weakref.ref(registration)
        self._totals: Counter[str] = Counter()

    def read_statistics(self) -> Any:
        """The statistics of one instant, or None when the queue is gone.

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
        return latest

    def read_totals(self) -> Counter[str]:
        """The totals, never less than they were. Of a queue that is gone: its last ones."""
        registration = self._registration()
        if registration is not None:
            self.update_totals(registration.read_totals())
        return self._totals

    def update_totals(self, totals: Mapping[str, int]) -> None:
        """Remember the totals; where the loop changed them during the reading, the greater ones."""
        self._totals = self._totals | Counter(totals)


class Registration:
    """Held by a queue. When both are garbage-collected, its last totals go to the instruments."""

    __slots__ = ("__weakref__", "_dead", "read_totals", "record")

    def __init__(
        self, queue: ObservedQueue, read_totals: ReadTotals, dead: deque[_QueueRecord]
    ) -> None:
        self.read_totals = read_totals
        self.record = _QueueRecord(queue, self)
        self._dead = dead

    # Not the callback of a weak reference: it could not read the totals of a queue that is gone.
    # It may run in the middle of any code, so it takes no lock. At the end of the interpreter
    # nobody reads the totals, and this module may be empty already: so ``is_ending`` is bound here.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        self.record.update_totals(self.read_totals())
        self._dead.append(self.record)


_ReadLevel = Callable[[Any], int | None]

#: The values of penstock.breaker.state; a queue without a breaker has none.
_BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


def _breaker_state(statistics: Any) -> int | None:
    state = statistics.breaker_state
    return None if state is None else _BREAKER_STATES[state]


#: The name, unit and description of each metric that may go up and down, and what reads it from the
#: statistics of a queue. A None is not exported.
_LEVELS: tuple[tuple[str, str, str, _ReadLevel], ...] = (
    (names.SIZE_METRIC, "{item}", "Items that wait.", lambda now: now.size),
    (names.CAPACITY_METRIC, "{item}", "The most items that may wait.", lambda now: now.maxsize),
    (names.INFLIGHT_METRIC, "{item}", "Items in hand.", lambda now: now.inflight),
    (names.WORKER_COUNT_METRIC, "{worker}", "Workers at work.", lambda now: now.worker_count),
    (
        names.RETRYING_METRIC,
        "{item}",
        "Items that wait for another attempt, or for a limit of their key.",
        lambda now: now.retrying,
    ),
    (
        names.CONCURRENCY_LIMIT_METRIC,
        "{call}",
        "Calls that may be under way, where that is found out.",
        lambda now: now.concurrency_limit,
    ),
    (
        names.BREAKER_STATE_METRIC,
        "1",
        "What the circuit breaker does: 0 closed, 1 half-open, 2 open.",
        _breaker_state,
    ),
)


class _Snapshot:
    """The counts of all queues, read once for one collection."""

    def __init__(self, statistics: list[tuple[str, Any]], totals: dict[str, Counter[str]]) -> None:
        #: The name of each living queue, and its statistics.
        self.statistics = statistics
        #: By name, the totals of all queues of that name, living or gone.
        self.totals = totals
        #: The metrics that were exported from this snapshot.
        self.exported: set[str] = set()
        self.taken_at = time.monotonic()


class Instruments:
    """Everything that penstock measures on one meter, made once for it."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, description: str) -> Histogram:
            return meter.create_histogram(
                name,
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS,
            )

        self.backpressure_wait = histogram(
            names.BACKPRESSURE_WAIT_METRIC, "How long puts waited for room."
        )
        self.item_wait = histogram(
            names.ITEM_WAIT_METRIC, "How long items waited before a worker took them."
        )
        self.duration = histogram(
            names.DURATION_METRIC, "How long a call of the worker function took."
        )
        self.worker_errors = meter.create_counter(
            names.WORKER_ERRORS_METRIC,
            unit="{error}",
            description="Failures of worker functions and error handlers.",
        )
        self.limit_wait = histogram(
            names.LIMIT_WAIT_METRIC, "How long items waited for rate limits."
        )
        self.retries = meter.create_counter(
            names.RETRIES_METRIC,
            unit="{retry}",
            description="Attempts that failed and are followed by another.",
        )
        self.dead_letters = meter.create_counter(
            names.DEAD_LETTERS_METRIC,
            unit="{item}",
            description="Items that failed for good and were kept as dead letters.",
        )
        for name, unit, description, read_level in _LEVELS:
            meter.create_observable_up_down_counter(
                name, [self._callback(name, self._observe_level, read_level)], unit, description
            )
        meter.create_observable_counter(
            names.PUT_ITEMS_METRIC,
            [self._callback(names.PUT_ITEMS_METRIC, self._observe_puts)],
            "{item}",
            "Items offered to the queue, by what became of the put.",
        )
        for name, unit, description, key in (
            (
                names.BACKPRESSURE_EVENTS_METRIC,
                "{event}",
                "Puts that were refused because the queue was full.",
                names.FULL,
            ),
            (
                names.PROCESS_ITEMS_METRIC,
                "{item}",
                "Items that are done, well or badly.",
                names.PROCESSED,
            ),
            (
                names.GATE_CLOSURES_METRIC,
                "{closure}",
                "Times that the service's answer closed the gate for all workers.",
                names.CLOSURES,
            ),
        ):
            meter.create_observable_counter(
                name, [self._callback(name, self._observe_total, key)], unit, description
            )
        self._records: set[_QueueRecord] = set()
        # The totals of queues that are gone, by name. A sum over the living queues alone would go
        # down when one of them dies, and begin at zero with the next queue of that name.
        self._dead_totals: dict[str, Counter[str]] = {}
        self._dead: deque[_QueueRecord] = deque()
        # The names of queues that died since the last snapshot. That name is exported once more:
        # otherwise a queue that is gone before the last export would take its last counts along.
        self._names_of_dead: set[str] = set()
        # The snapshot of the collection that goes on in each thread.
        self._collection = threading.local()
        # Re-entrant: the garbage collector may run any code, in the middle of any line below.
        self._lock = ForkSafeLock(threading.RLock)
        self._is_failure_logged = False

    def register(self, queue: ObservedQueue, read_totals: ReadTotals) -> Registration:
        """Export this queue until it is garbage-collected; the queue must hold the registration."""
        registration = Registration(queue, read_totals, self._dead)
        with self._lock:
            self._remove_dead()
            self._records.add(registration.record)
        return registration

    def _remove_dead(self) -> None:
        while self._dead:
            record = self._dead.popleft()
            self._records.discard(record)
            self._dead_totals.setdefault(record.name, Counter()).update(record.read_totals())
            self._names_of_dead.add(record.name)

    def _callback(
        self, metric: str, observe: Callable[..., Iterable[Observation]], *args: Any
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            try:
                return list(observe(self._snapshot_for(metric), *args))
            except Exception:
                self._log_failure()
                return []

        return callback

    def _log_failure(self) -> None:
        if not self._is_failure_logged:
            self._is_failure_logged = True
            _logger.error("Metrics of queues cannot be read", exc_info=True)

    # -- one snapshot for each collection -------------------------------------------------------

    def _snapshot_for(self, metric: str) -> _Snapshot:
        """The snapshot of the collection that ``metric`` is being read for.

        The API does not tell a callback which collection it is called for. But a collection runs
        in one thread and calls the callback of each metric once. So each thread has its own
        snapshot, and a metric that was exported from it already belongs to the next collection.
        """
        snapshot: _Snapshot | None = getattr(self._collection, "snapshot", None)
        if (
            snapshot is None
            or metric in snapshot.exported
            or time.monotonic() - snapshot.taken_at > _SNAPSHOT_LIFETIME
        ):
            snapshot = self._collection.snapshot = self._take_snapshot()
        snapshot.exported.add(metric)
        return snapshot

    def _take_snapshot(self) -> _Snapshot:
        with self._lock:
            records = list(self._records)
        statistics = []
        for record in records:
            try:
                read = record.read_statistics()
            except Exception:  # of one queue; the others are exported
                self._log_failure()
                continue
            if read is not None:
                statistics.append((record.name, read))
        with self._lock:
            self._remove_dead()
            living = {record.name for record in self._records if record.queue() is not None}
            exported = living | self._names_of_dead
            self._names_of_dead.clear()
            totals = {name: Counter(self._dead_totals.get(name)) for name in exported}
            for record in self._records:
                if record.name in totals:
                    totals[record.name].update(record.read_totals())
        return _Snapshot(statistics, totals)

    def _observe_level(self, snapshot: _Snapshot, read_level: _ReadLevel) -> Iterable[Observation]:
        sums: Counter[str] = Counter()
        for name, statistics in snapshot.statistics:
            level = read_level(statistics)
            if level is not None:
                sums[name] += level
        return [Observation(total, {names.QUEUE_NAME: name}) for name, total in sums.items()]

    def _observe_total(self, snapshot: _Snapshot, key: str) -> Iterable[Observation]:
        for name, totals in snapshot.totals.items():
            yield Observation(totals[key], {names.QUEUE_NAME: name})

    def _observe_puts(self, snapshot: _Snapshot) -> Iterable[Observation]:
        for name, totals in snapshot.totals.items():
            rare = [outcome for outcome in names.RARE_OUTCOMES if totals[outcome]]
            for outcome in (*names.OUTCOMES, *rare):
                attributes = {names.QUEUE_NAME: name, names.PUT_OUTCOME: outcome}
                yield Observation(totals[outcome], attributes)
