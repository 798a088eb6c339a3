"""What is the same for all items of one queue or policy: names, attributes, and how to record.

Nothing in here may make a put or a worker fail: what an SDK raises is logged once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.trace import Link, Span, SpanKind

from penstock.policies.observer import CANCELLED, OK, ObservedQueue, ReadTotals
from penstock.telemetry import names
from penstock.telemetry.registry import Registration
from penstock.telemetry.settings import TelemetrySettings

OtelContext = otel_context.Context


class _Skipped:
    """Counts items that the queue takes for done, and that were cancelled before their calls."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def corrected(self, read_totals: ReadTotals) -> ReadTotals:
        """What reads the totals of the queue, with these among the cancelled ones."""

        def read() -> Mapping[str, float]:
            count, totals = self._count, dict(read_totals())
            succeeded, cancelled = f"{names.PROCESSED}.{OK}", f"{names.PROCESSED}.{CANCELLED}"
            if count and succeeded in totals:
                totals[succeeded] = max(0, totals[succeeded] - count)
                totals[cancelled] += count
            return totals

        return read


class Recording:
    """Records spans and values of one queue or policy."""

    def __init__(self, settings: TelemetrySettings, name: str) -> None:
        self.settings = settings
        #: Whether spans and metrics go anywhere.
        self.is_enabled = settings.is_enabled
        self.item_wait = settings.instruments.item_wait
        self.duration = settings.instruments.duration
        self.attributes = about = {names.QUEUE_NAME: name}
        self.put_name = f"{names.PUT} {name}"
        self.put_attributes = {**about, names.OPERATION: names.PUT}
        self.wait_name = f"{names.BACKPRESSURE} {name}"
        self.wait_attributes = {**about, names.OPERATION: names.BACKPRESSURE}
        self.process_name = f"{names.PROCESS} {name}"
        self.process_attributes = {**about, names.OPERATION: names.PROCESS, names.ATTEMPT: 1}
        self.cause_attributes = {
            cause: {**about, names.WAIT_CAUSE: cause}
            for cause in (names.FOR_WORKER, names.FOR_LIMIT, names.FOR_RETRY)
        }
        self._skipped = _Skipped()
        #: The items with which workers wait for limits.
        self.waiting: set[object] = set()
        # A policy has no queue.
        self._capacity: int | None = None
        self._queued: Sized = ()
        self._registration: Registration | None = None

    @property
    def record_exceptions(self) -> bool:
        """Whether the messages and tracebacks of exceptions may leave the program."""
        return self.settings.record_exceptions

    @property
    def verbose_errors(self) -> bool:
        """Whether each failure is logged with its traceback."""
        return self.settings.verbose_errors

    def watch_queue(self, queue: ObservedQueue, totals: ReadTotals, waiting: Sized) -> None:
        """Export the counts of the queue until it is garbage-collected."""
        self._capacity = queue.maxsize
        self._queued = waiting
        # Garbage-collected with this object, and so with the queue.
        self._registration = self.settings.instruments.register(
            queue, self._skipped.corrected(totals), self.waiting
        )

    def size_attributes(self) -> dict[str, int]:
        """The attributes that say how full the queue is, if there is a queue."""
        if self._capacity is None:
            return {}
        return {names.QUEUE_SIZE: len(self._queued), names.QUEUE_CAPACITY: self._capacity}

    def count_skipped(self) -> None:
        """Count an item that was not processed, since nobody wanted its result any more."""
        self._skipped.add()

    def on_retry(self, error: BaseException) -> None:
        """Count an attempt that failed and will be followed by another."""
        if self._records_now():
            self._count(self.settings.instruments.retries, error, None)

    def on_dead_letter(self, error: BaseException) -> None:
        """Do nothing: the queue counts them, and the span of the attempt says so."""

    def on_limit_wait(self, name: str, seconds: float) -> None:
        """Record the seconds that an item waited for the limit called ``name``."""
        if self._records_now():
            attributes = {**self.attributes, names.LIMIT_NAME: name}
            self._record(self.settings.instruments.limit_wait, seconds, attributes, None)

    def _records_now(self) -> bool:
        return self.is_enabled() and not self.settings.is_suppressed()

    # -- what the owner of a span records; ``context`` has the span, None: the current one -------

    def count_error(self, error: BaseException, context: OtelContext | None = None) -> None:
        """Count a failure of a worker function or of an error handler."""
        self._count(self.settings.instruments.worker_errors, error, context)

    def record_wait(self, cause: str, seconds: float, context: OtelContext | None) -> None:
        """Record the seconds that an item waited for an attempt, by cause."""
        try:  # in line, since that is done for each item
            self.item_wait.record(seconds, self.cause_attributes[cause], context)
        except Exception:
            self.settings.log_failure()

    def record_duration(
        self, seconds: float, error: BaseException | None, context: OtelContext | None
    ) -> None:
        """Record the seconds that a call took."""
        attributes = self.attributes
        if error is not None:
            attributes = {**attributes, names.ERROR_TYPE: names.error_type(error)}
        try:
            self.duration.record(seconds, attributes, context)
        except Exception:
            self.settings.log_failure()

    def _count(self, counter: Counter, error: BaseException, context: OtelContext | None) -> None:
        try:
            attributes = {**self.attributes, names.ERROR_TYPE: names.error_type(error)}
            counter.add(1, attributes, context)
        except Exception:
            self.settings.log_failure()

    def _record(
        self,
        histogram: Histogram,
        seconds: float,
        attributes: dict[str, str],
        context: OtelContext | None,
    ) -> None:
        try:
            histogram.record(seconds, attributes, context)
        except Exception:
            self.settings.log_failure()

    def start_span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        *,
        context: OtelContext | None = None,
        links: Sequence[Link] = (),
        start_time: int | None = None,
    ) -> Span | None:
        """A new span, or None if the SDK failed to make one."""
        try:
            return self.settings.tracer.start_span(
                name, context, kind, attributes, links, start_time
            )
        except Exception:
            self.settings.log_failure()
            return None
