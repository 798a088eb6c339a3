"""The metrics of all queues on one meter.

Counts are plain integers in the queues. The SDK's reader asks for them by the callbacks here, in a
thread of its own. Only histograms are recorded item by item.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from penstock._util.busiest import busiest
from penstock.policies import observer as core
from penstock.policies.observer import ObservedQueue, ReadTotals
from penstock.telemetry import names
from penstock.telemetry.registry import QueueSnapshot, Registration, Registry

#: Seconds after which a snapshot is not used any more: its collection was given up. It is the time
#: that an SDK gives to a whole export.
_SNAPSHOT_LIFETIME = 30.0

#: Levels of one queue: the values of attributes beside its name, and each level.
_Levels = Iterator[tuple[tuple[str, ...], float]]


def _size(queue: QueueSnapshot) -> _Levels:
    now, ready = queue.statistics, queue.readings.ready
    yield (names.READY,), now.size if ready is None else ready
    yield (names.DELAYED,), now.retrying


def _capacity(queue: QueueSnapshot) -> _Levels:
    yield (), queue.statistics.maxsize


def _workers(queue: QueueSnapshot) -> _Levels:
    now, readings = queue.statistics, queue.readings
    in_hand = max(0, now.inflight - readings.checked_out)
    limited = min(now.worker_count, queue.waiting + readings.held_workers)
    busy = max(0, in_hand - queue.waiting)
    yield (names.BUSY,), busy
    yield (names.LIMITED,), limited
    yield (names.IDLE,), max(0, now.worker_count - busy - limited)


def _breaker(queue: QueueSnapshot) -> _Levels:
    if queue.statistics.breaker_state is not None:
        for state in names.BREAKER_STATES:
            yield (state,), int(state == queue.statistics.breaker_state)


def _concurrency(queue: QueueSnapshot) -> _Levels:
    if queue.statistics.concurrency_limit is not None:
        yield (), queue.statistics.concurrency_limit


def _dead_letters(queue: QueueSnapshot) -> _Levels:
    yield (), queue.statistics.dead_letters


def _oldest_age(queue: QueueSnapshot) -> _Levels:
    oldest = queue.readings.oldest
    if not (queue.readings.ready or queue.statistics.size):
        yield (), 0.0
    elif oldest is not None:
        yield (), oldest.age()


def _utilization(queue: QueueSnapshot) -> _Levels:
    for limit, share in queue.readings.utilization.items():
        yield (limit,), share


#: Of each metric that may go up and down: its name, unit, description, attribute beside the name of
#: the queue, what reads it, and whether stopped queues count. Those of one name add up.
_LEVELS: tuple[tuple[str, str, str, str | None, Callable[[QueueSnapshot], _Levels], bool], ...] = (
    (
        names.SIZE_METRIC,
        "{item}",
        "Items that take up room: ready, or delayed until another attempt or by a limit's key.",
        names.ITEM_STATE,
        _size,
        False,
    ),
    (names.CAPACITY_METRIC, "{item}", "The most items that may wait.", None, _capacity, False),
    (
        names.WORKER_COUNT_METRIC,
        "{worker}",
        "Workers: busy with an item, waiting for a limit, or idle.",
        names.WORKER_STATE,
        _workers,
        False,
    ),
    (
        names.DEAD_LETTERS_METRIC,
        "{item}",
        "Items that failed for good and are kept as dead letters.",
        None,
        _dead_letters,
        True,
    ),
    (
        names.BREAKER_STATE_METRIC,
        "{breaker}",
        "Circuit breakers, 1 in the state that each is in and 0 in the others.",
        names.BREAKER_STATE,
        _breaker,
        False,
    ),
    (
        names.CONCURRENCY_LIMIT_METRIC,
        "{call}",
        "Calls that may be under way, where this number adapts.",
        None,
        _concurrency,
        False,
    ),
)

#: The same of gauges, where the largest of one name counts.
_GAUGES: tuple[tuple[str, str, str, str | None, Callable[[QueueSnapshot], _Levels]], ...] = (
    (
        names.OLDEST_AGE_METRIC,
        "s",
        "How long the oldest item waits of those that may start.",
        None,
        _oldest_age,
    ),
    (
        names.LIMIT_UTILIZATION_METRIC,
        "1",
        "The share of each limit that is used.",
        names.LIMIT_NAME,
        _utilization,
    ),
)


class _Snapshot:
    """The counts of all queues, read once for one collection."""

    def __init__(self, registry: Registry) -> None:
        self.queues, self.totals = registry.read()
        #: The metrics that were exported from this snapshot.
        self.exported: set[str] = set()
        self.taken_at = time.monotonic()


class Instruments:
    """Everything that penstock measures on one meter, made once for it."""

    def __init__(self, meter: Meter) -> None:
        self._registry = Registry()
        # The snapshot of the collection that goes on in each thread.
        self._collection = threading.local()
        self._make_recorded(meter)
        self._make_observed(meter)

    def _make_recorded(self, meter: Meter) -> None:
        def histogram(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                name,
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=buckets,
            )

        self.backpressure_wait = histogram(
            names.BACKPRESSURE_WAIT_METRIC, "How long puts waited for room.", names.WAIT_BUCKETS
        )
        self.item_wait = histogram(
            names.ITEM_WAIT_METRIC,
            "How long items waited before an attempt, by what they waited for.",
            names.WAIT_BUCKETS,
        )
        self.duration = histogram(
            names.DURATION_METRIC,
            "How long a call of the worker function took.",
            names.CALL_BUCKETS,
        )
        self.limit_wait = histogram(
            names.LIMIT_WAIT_METRIC,
            "How long items waited for limits, by the limit with the least left.",
            names.WAIT_BUCKETS,
        )
        self.worker_errors = meter.create_counter(
            names.WORKER_ERRORS_METRIC,
            unit="{error}",
            description="Failures of worker functions and error handlers.",
        )
        self.retries = meter.create_counter(
            names.RETRIES_METRIC,
            unit="{retry}",
            description="Attempts that failed and will be retried.",
        )

    def _make_observed(self, meter: Meter) -> None:
        for name, unit, description, attribute, read, counts_stopped in _LEVELS:
            observe = self._callback(name, _sums, attribute, read, counts_stopped)
            meter.create_observable_up_down_counter(name, [observe], unit, description)
        meter.create_observable_up_down_counter(
            names.ORDER_ITEMS_METRIC,
            [self._callback(names.ORDER_ITEMS_METRIC, _by_key, self._collection)],
            "{item}",
            "Items that no worker holds, of the keys or priorities that have most.",
        )
        for name, unit, description, attribute, read in _GAUGES:
            observe = self._callback(name, _largest, attribute, read)
            meter.create_observable_gauge(name, [observe], unit, description)
        for name, unit, description, attribute, keys in (
            (
                names.PUT_ITEMS_METRIC,
                "{item}",
                "Items offered to the queue, by the result of the put.",
                names.PUT_OUTCOME,
                {outcome: outcome for outcome in (*names.OUTCOMES, *names.RARE_OUTCOMES)},
            ),
            (
                names.PROCESS_ITEMS_METRIC,
                "{item}",
                "Items that are done, by their result.",
                names.PROCESS_OUTCOME,
                {f"{names.PROCESSED}.{end}": end for end in (core.OK, *core.FAILURES)},
            ),
            (
                names.BACKPRESSURE_EVENTS_METRIC,
                "{event}",
                "Puts that were refused because the queue was full.",
                None,
                {names.FULL: ""},
            ),
            (
                names.GATE_CLOSED_METRIC,
                "s",
                "How long the gate was closed because a service asked for a pause.",
                None,
                {names.GATE_CLOSED: ""},
            ),
        ):
            observe = self._callback(name, _totals, attribute, keys)
            meter.create_observable_counter(name, [observe], unit, description)

    def register(
        self, queue: ObservedQueue, read_totals: ReadTotals, waiting: Collection[object] = ()
    ) -> Registration:
        """Export this queue until it is garbage-collected; the queue must hold the registration.

        ``waiting``: the items with which workers wait for limits.
        """
        return self._registry.add(queue, read_totals, waiting)

    def _callback(
        self, metric: str, observe: Callable[..., Iterable[Observation]], *args: Any
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            try:
                return list(observe(self._snapshot_for(metric), *args))
            except Exception:
                self._registry.log_failure()
                return []

        return callback

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
            snapshot = self._collection.snapshot = _Snapshot(self._registry)
        snapshot.exported.add(metric)
        return snapshot


def _sums(
    snapshot: _Snapshot,
    attribute: str | None,
    read: Callable[[QueueSnapshot], _Levels],
    counts_stopped: bool,
) -> Iterable[Observation]:
    levels: dict[tuple[str, ...], float] = {}
    for queue in snapshot.queues:
        counts = counts_stopped or not queue.is_stopped
        for values, level in read(queue):
            key = (queue.name, *values)
            levels[key] = levels.get(key, 0) + (level if counts else 0)
    return _observations(levels, attribute)


def _by_key(snapshot: _Snapshot, collection: threading.local) -> Iterable[Observation]:
    """Of each name the busiest keys; and zero, once, for those that are among them no more."""
    counts: dict[str, dict[str, int]] = {}
    for queue in snapshot.queues:
        for key, count in (queue.statistics.waiting_by_key or {}).items():
            of_name = counts.setdefault(queue.name, {})
            of_name[key] = of_name.get(key, 0) + (0 if queue.is_stopped else count)
    levels: dict[tuple[str, ...], float] = {
        (name, key): count
        for name, of_name in counts.items()
        for key, count in busiest(of_name).items()
    }
    told: set[tuple[str, ...]] = getattr(collection, "keys", set())
    collection.keys = set(levels)
    return _observations(dict.fromkeys(told, 0.0) | levels, names.ORDER_KEY)


def _largest(
    snapshot: _Snapshot, attribute: str | None, read: Callable[[QueueSnapshot], _Levels]
) -> Iterable[Observation]:
    levels: dict[tuple[str, ...], float] = {}
    for queue in snapshot.queues:
        for values, level in read(queue):
            key = (queue.name, *values)
            levels[key] = max(levels.get(key, 0.0), 0.0 if queue.is_stopped else level)
    return _observations(levels, attribute)


def _totals(
    snapshot: _Snapshot, attribute: str | None, keys: dict[str, str]
) -> Iterable[Observation]:
    totals = {
        (name, *([value] if attribute else [])): counted[key]
        for name, counted in snapshot.totals.items()
        for key, value in keys.items()
        if key in counted
    }
    return _observations(totals, attribute)


def _observations(
    values: dict[tuple[str, ...], float], attribute: str | None
) -> Iterable[Observation]:
    for (name, *rest), value in values.items():
        attributes = {names.QUEUE_NAME: name}
        if attribute is not None:
            attributes[attribute] = rest[0]
        yield Observation(value, attributes)
