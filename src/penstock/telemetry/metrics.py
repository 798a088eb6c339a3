"""The metrics of all queues on one meter.

Counts are plain integers in the queues; the SDK's reader asks for them from its own thread, by the
callbacks here. Only distributions are recorded item by item.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from penstock.telemetry import names

_logger = logging.getLogger("penstock")


#: What only grows: the counts of a queue. The keys are the outcomes of puts, and
#: ``names.PROCESSED``.
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


class _Record:
    """What is known of one queue. It keeps neither the queue alive nor anything that waits there.

    That may refer to the queue again: an item does that is a call of one of its methods.
    """

    __slots__ = ("__weakref__", "_totals", "_watch", "name", "queue")

    def __init__(self, queue: Watched, watch: Watch) -> None:
        self.name = queue.name
        self.queue = weakref.ref(queue)
        self._watch = weakref.ref(watch)
        self._totals: Counter[str] = Counter()

    def now(self) -> Any:
        """The statistics of one instant, or None when the queue is gone.

        The loop goes on in its thread while we read in ours. What reads the same twice was so.
        """
        queue = self.queue()
        if queue is None:
            return None
        now = queue.statistics()
        for _ in range(10):
            before, now = now, queue.statistics()
            if now == before:
                break
        return now

    def totals(self) -> Counter[str]:
        """The counts, never less than they were; at last those that the queue died with."""
        watch = self._watch()
        if watch is not None:
            self.note(watch.totals())
        return self._totals

    def note(self, totals: Mapping[str, int]) -> None:
        """Remember the counts; where the loop changed them under our eyes, the greater ones."""
        self._totals = self._totals | Counter(totals)


class Watch:
    """Belongs to a queue, dies with it, and then leaves its counts to the instruments."""

    __slots__ = ("__weakref__", "_dead", "record", "totals")

    def __init__(self, queue: Watched, totals: Totals, dead: deque[_Record]) -> None:
        self.totals = totals
        self.record = _Record(queue, self)
        self._dead = dead

    # Not the callback of a weak reference, which could not ask a queue that is gone. It may run in
    # the middle of anything, so it takes no lock. At the end of the interpreter nobody reads the
    # counts any more, and this module may be empty already: so ``is_ending`` is bound here.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        self.record.note(self.totals())
        self._dead.append(self.record)


_Value = Callable[[Any], int | None]

#: The values of penstock.breaker.state; a queue without a breaker has none.
_BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


def _breaker_state(now: Any) -> int | None:
    return None if now.breaker_state is None else _BREAKER_STATES[now.breaker_state]


#: What is None is not told.
_NOW: tuple[tuple[str, str, str, _Value], ...] = (
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


#: Stands for all outcomes of puts where one sum is told from another.
_PUTS = "puts"


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
        meter.create_observable_counter(
            names.GATE_CLOSURES_METRIC,
            [self._safe(self._observe_total, names.CLOSURES)],
            "{closure}",
            "Times that the service's answer closed the gate for all workers.",
        )
        self._records: set[_Record] = set()
        # What queues that are gone had counted: a sum over the living alone would go down when
        # one of them dies, and start again from nothing with the next queue of that name.
        self._gone: dict[str, Counter[str]] = {}
        self._dead: deque[_Record] = deque()
        # The names of queues that died since each sum was last told: it is told once more, or a
        # program whose queue is gone before the last export would take its last counts along.
        self._last_words: dict[str, set[str]] = {
            key: set() for key in (_PUTS, names.FULL, names.PROCESSED, names.CLOSURES)
        }
        # Re-entrant: the garbage collector may run anything, in the middle of any line below.
        self._lock = threading.RLock()
        self._failed = False

    def watch(self, queue: Watched, totals: Totals) -> Watch:
        """Export this queue until it is garbage-collected; it must hold what this returns."""
        watch = Watch(queue, totals, self._dead)
        with self._lock:
            self._bury()
            self._records.add(watch.record)
        return watch

    def _bury(self) -> None:
        while self._dead:
            record = self._dead.popleft()
            self._records.discard(record)
            self._gone.setdefault(record.name, Counter()).update(record.totals())
            for names_left in self._last_words.values():
                names_left.add(record.name)

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
            records = list(self._records)
        sums: Counter[str] = Counter()
        for record in records:
            now = record.now()
            amount = None if now is None else value(now)
            if amount is not None:
                sums[record.name] += amount
        return [Observation(total, {names.QUEUE_NAME: name}) for name, total in sums.items()]

    def _observe_total(self, key: str) -> Iterable[Observation]:
        for name, totals in self._sums(key).items():
            yield Observation(totals[key], {names.QUEUE_NAME: name})

    def _observe_puts(self) -> Iterable[Observation]:
        for name, totals in self._sums(_PUTS).items():
            rare = [outcome for outcome in names.RARE_OUTCOMES if totals[outcome]]
            for outcome in (*names.OUTCOMES, *rare):
                attributes = {names.QUEUE_NAME: name, names.PUT_OUTCOME: outcome}
                yield Observation(totals[outcome], attributes)

    def _sums(self, told_as: str) -> dict[str, Counter[str]]:
        with self._lock:
            self._bury()
            living = {record.name for record in self._records if record.queue() is not None}
            told = living | self._last_words[told_as]
            self._last_words[told_as].clear()
            sums = {name: Counter(self._gone.get(name)) for name in told}
            for record in self._records:
                if record.name in sums:
                    sums[record.name].update(record.totals())
        return sums
