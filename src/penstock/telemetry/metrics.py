"""The metrics of all queues on one meter.

Counts are plain integers in the queues; the SDK's reader asks for them from its own thread, by the
callbacks here. Only distributions are recorded item by item.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from penstock.telemetry import names

_logger = logging.getLogger("penstock")


#: What only grows: the counts of a queue, read from an object that may outlive it. The keys are
#: the outcomes of puts, and ``names.PROCESSED``.
Totals = Callable[[], Mapping[str, int]]


class Watched(Protocol):
    """A queue, as far as metrics look at it. Its properties are read from another thread."""

    @property
    def name(self) -> str:
        """What the queue is called."""
        ...

    def statistics(self) -> Any:
        """A ``QueueStatistics``."""
        ...


class _Watch(NamedTuple):
    name: str
    totals: Totals


_Value = Callable[[Any], int]

_NOW: tuple[tuple[str, str, str, _Value], ...] = (
    (names.SIZE_METRIC, "{item}", "Items that wait.", lambda now: now.size),
    (names.CAPACITY_METRIC, "{item}", "The most items that may wait.", lambda now: now.maxsize),
    (names.INFLIGHT_METRIC, "{item}", "Items in hand.", lambda now: now.inflight),
    (names.WORKER_COUNT_METRIC, "{worker}", "Workers at work.", lambda now: now.worker_count),
)


class Instruments:
    """Everything that penstock measures on one meter, made once for it."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, description: str) -> Any:
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
        for name, unit, description, value in _NOW:
            meter.create_observable_up_down_counter(
                name, [self._safe(self._observe_now, value)], unit, description
            )
        meter.create_observable_counter(
            names.PUT_ITEMS_METRIC,
            [self._safe(self._observe_puts)],
            "{item}",
            "Items offered to the queue, by what became of the put.",
        )
        meter.create_observable_counter(
            names.BACKPRESSURE_EVENTS_METRIC,
            [self._safe(self._observe_total, names.FULL)],
            "{event}",
            "Puts that were refused because the queue was full.",
        )
        meter.create_observable_counter(
            names.PROCESS_ITEMS_METRIC,
            [self._safe(self._observe_total, names.PROCESSED)],
            "{item}",
            "Items that are done, well or badly.",
        )
        self._watches: dict[weakref.ref[Watched], _Watch] = {}
        # What queues that are gone had counted, while another of their name lives: a sum over
        # the living alone would go down when one of them dies.
        self._gone: dict[str, Counter[str]] = {}
        # Re-entrant: the garbage collector may run _forget in the middle of any line below.
        self._lock = threading.RLock()
        self._failed = False

    def watch(self, queue: Watched, totals: Totals) -> None:
        """Export this queue until it is garbage-collected. ``totals`` must not refer to it."""
        reference = weakref.ref(queue, self._forget)
        with self._lock:
            self._watches[reference] = _Watch(queue.name, totals)

    def _forget(self, reference: weakref.ref[Watched]) -> None:
        with self._lock:
            gone = self._watches.pop(reference)
            if any(watch.name == gone.name for watch in self._watches.values()):
                self._gone.setdefault(gone.name, Counter()).update(gone.totals())
            else:
                self._gone.pop(gone.name, None)

    def _safe(
        self, observe: Callable[..., Iterable[Observation]], *args: Any
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            try:
                return list(observe(*args))
            except Exception:
                if not self._failed:
                    self._failed = True
                    _logger.exception("Metrics of queues cannot be read")
                return []

        return callback

    def _observe_now(self, value: _Value) -> Iterable[Observation]:
        with self._lock:
            living = list(self._watches)
        sums: Counter[str] = Counter()
        for reference in living:
            queue = reference()
            if queue is not None:
                sums[queue.name] += value(queue.statistics())
        return [Observation(total, {names.QUEUE_NAME: name}) for name, total in sums.items()]

    def _observe_total(self, key: str) -> Iterable[Observation]:
        for name, totals in self._sums().items():
            yield Observation(totals[key], {names.QUEUE_NAME: name})

    def _observe_puts(self) -> Iterable[Observation]:
        for name, totals in self._sums().items():
            for outcome in names.OUTCOMES:
                attributes = {names.QUEUE_NAME: name, names.PUT_OUTCOME: outcome}
                yield Observation(totals[outcome], attributes)

    def _sums(self) -> dict[str, Counter[str]]:
        with self._lock:
            sums = {name: Counter(totals) for name, totals in self._gone.items()}
            for watch in self._watches.values():
                sums.setdefault(watch.name, Counter()).update(watch.totals())
        return sums
