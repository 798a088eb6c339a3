"""The spans and histograms of one item: of its put, and of each attempt to process it.

Nothing in here may make a put or a worker fail: what a sampler, processor or exporter raises is
logged once, and otherwise ignored.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence, Sized
from contextvars import Context, Token, copy_context
from types import TracebackType
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind

from penstock._util.compat import Self
from penstock.errors import QueueError, QueueStateError, QueueUnknownError
from penstock.policies.observer import ObservedQueue, ReadTotals
from penstock.telemetry import names
from penstock.telemetry.metrics import Registration
from penstock.telemetry.settings import TelemetrySettings

# In seconds, for durations and waits; a module variable so that a test can replace it.
_clock = time.perf_counter


class TelemetryObserver:
    """Makes spans and metrics of what becomes of the items of one queue or policy.

    It is an ``Observer``; the core calls it if ``is_enabled()``.
    """

    def __init__(self, settings: TelemetrySettings, name: str) -> None:
        self.settings = settings
        #: Whether spans and metrics go anywhere.
        self.is_enabled = settings.is_enabled
        self.attributes = about = {names.QUEUE_NAME: name}
        self.put_name = f"{names.PUT} {name}"
        self.put_attributes = {**about, names.OPERATION: names.PUT}
        self.wait_name = f"{names.BACKPRESSURE} {name}"
        self.wait_attributes = {**about, names.OPERATION: names.BACKPRESSURE}
        self.process_name = f"{names.PROCESS} {name}"
        self.process_attributes = {**about, names.OPERATION: names.PROCESS, names.ATTEMPT: 1}
        # A policy has no queue.
        self._capacity: int | None = None
        self._waiting: Sized = ()
        self._registration: Registration | None = None

    def watch_queue(self, queue: ObservedQueue, totals: ReadTotals, waiting: Sized) -> None:
        """Export the counts of the queue until it is garbage-collected."""
        self._capacity = queue.maxsize
        self._waiting = waiting
        # Garbage-collected with this object, and so with the queue.
        self._registration = self.settings.instruments.register(queue, totals)

    def on_put(self) -> TracedPut:
        """A put begins: the span of it, if there is to be one, and the block of it."""
        return TracedPut(self)

    def on_item(self, age: float = 0.0) -> TracedItem:
        """An item that was put ``age`` seconds ago, somewhere else."""
        return TracedItem(self, age)

    def size_attributes(self) -> dict[str, int]:
        """The attributes that say how full the queue is, if there is a queue."""
        if self._capacity is None:
            return {}
        return {names.QUEUE_SIZE: len(self._waiting), names.QUEUE_CAPACITY: self._capacity}

    def on_retry(self, error: BaseException) -> None:
        """Count an attempt that failed and will be followed by another."""
        self._count_unless_suppressed(self.settings.instruments.retries, error)

    def on_dead_letter(self, error: BaseException) -> None:
        """Count an item that became a dead letter."""
        self._count_unless_suppressed(self.settings.instruments.dead_letters, error)

    def _count_unless_suppressed(self, counter: Counter, error: BaseException) -> None:
        if self.is_enabled() and not self.settings.is_suppressed():
            self._count(counter, error)

    def count_error(
        self, error: BaseException, context: otel_context.Context | None = None
    ) -> None:
        """Count a failure of a worker function or of an error handler.

        ``context`` has the span of the attempt; ``None``: the current context.
        """
        self._count(self.settings.instruments.worker_errors, error, context)

    def _count(
        self, counter: Counter, error: BaseException, context: otel_context.Context | None = None
    ) -> None:
        try:
            attributes = {**self.attributes, names.ERROR_TYPE: names.error_type(error)}
            counter.add(1, attributes, context)
        except Exception:
            self.settings.log_failure()

    def on_limit_wait(self, name: str, seconds: float) -> None:
        """Record the seconds that an item waited for the limit called ``name``."""
        if self.is_enabled() and not self.settings.is_suppressed():
            attributes = {**self.attributes, names.LIMIT_NAME: name}
            self._record(self.settings.instruments.limit_wait, seconds, attributes)

    def record_wait(self, seconds: float) -> None:
        """Record the seconds that an item waited until it was taken."""
        self._record(self.settings.instruments.item_wait, seconds, self.attributes)

    def _record(self, histogram: Histogram, seconds: float, attributes: dict[str, str]) -> None:
        try:
            histogram.record(seconds, attributes)
        except Exception:
            self.settings.log_failure()

    def start_span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        *,
        context: otel_context.Context | None = None,
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


class TracedItem:
    """One item: each attempt to process it gets a span.

    ``age``: seconds since the item was accepted.
    """

    __slots__ = ("_accepted_at", "_observer")

    def __init__(self, observer: TelemetryObserver, age: float = 0.0) -> None:
        self._observer = observer
        self._accepted_at = _clock() - age

    def attempt(
        self,
        number: int = 1,
        *,
        limit_wait: float | None = None,
        context: Context | None = None,
    ) -> TracedAttempt:
        """The block of one attempt."""
        return TracedAttempt(self._observer, self._accepted_at, number, limit_wait, context)

    def batch_attempt(
        self, items: Sequence[tuple[Any, Context]], number: int, count: int
    ) -> TracedBatchAttempt:
        """The block of one call for several items."""
        return TracedBatchAttempt(self._observer, items, number, count)

    def on_get(self) -> None:
        """Record how long the item waited: the caller of ``get`` reports nothing more."""
        self._observer.record_wait(_clock() - self._accepted_at)

    def on_handler_error(self, error: BaseException) -> None:
        """Count the error among the failures of worker functions."""
        self._observer.count_error(error)


class TracedPut(TracedItem):
    """An item that is put here: a context manager around its put, from its call to its outcome.

    The span of the put is the current one in ``context``, in which the item is to run.
    """

    __slots__ = ("_span", "_waits_since", "accepted", "context")

    def __init__(self, observer: TelemetryObserver) -> None:
        # Not by super(): one is made for every put that is observed.
        self._observer = observer
        self._accepted_at = _clock()
        self._span: Span | None = None
        self._waits_since: tuple[int, float] | None = None
        self.accepted = False
        parent = otel_context.get_current()
        if observer.settings.wants_put_span(parent):
            self._span = observer.start_span(
                observer.put_name, SpanKind.PRODUCER, observer.put_attributes, context=parent
            )
        self.context: Context = copy_context()
        if self._span is not None:
            self.context.run(otel_context.attach, trace.set_span_in_context(self._span, parent))

    def on_full(self) -> None:
        """There is no room: from now on the put waits, which is backpressure."""
        self._waits_since = (time.time_ns(), _clock())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._waits_since is not None and self.accepted:
            self._accepted_at = _clock()  # until now its put waited, from now on the item waits
        try:
            self._end(_outcome(self.accepted, exc), exc)
        except Exception:
            self._observer.settings.log_failure()

    def _end(self, outcome: str, error: BaseException | None) -> None:
        observer, span = self._observer, self._span
        try:
            if span is not None and span.is_recording():
                span.set_attributes({**observer.size_attributes(), names.PUT_OUTCOME: outcome})
            if self._waits_since is not None:
                self._report_backpressure(*self._waits_since, outcome)
        finally:
            if span is not None:
                observer.settings.end_span(span, None if outcome == names.CANCELLED else error)

    def _report_backpressure(self, start_time: int, since: float, outcome: str) -> None:
        observer, span = self._observer, self._span
        waited = _clock() - since
        context = None if span is None else trace.set_span_in_context(span)
        if span is not None and span.is_recording():
            wait = observer.start_span(
                observer.wait_name,
                SpanKind.INTERNAL,
                observer.wait_attributes,
                context=context,
                start_time=start_time,
            )
            if wait is not None:
                size = observer.size_attributes()
                wait.set_attributes({**size, names.WAIT_TIME: waited, names.PUT_OUTCOME: outcome})
                wait.end()
        if not observer.settings.is_suppressed():
            observer.settings.instruments.backpressure_wait.record(
                waited, {**observer.attributes, names.PUT_OUTCOME: outcome}, context
            )


class TracedAttempt:
    """One attempt to process an item: a context manager, in which its span is the current one.

    ``context`` is that of the item's put, or None when it is the current one.
    """

    __slots__ = ("_context", "_observer", "_since", "_span", "_token")

    def __init__(
        self,
        observer: TelemetryObserver,
        accepted_at: float,
        number: int,
        limit_wait: float | None,
        context: Context | None,
    ) -> None:
        self._observer = observer
        self._token: Token[otel_context.Context] | None = None
        self._span: Span | None = None
        self._context: otel_context.Context | None = None
        self._since = _clock()
        settings = observer.settings
        try:
            parent = (
                otel_context.get_current()
                if context is None
                else context.run(otel_context.get_current)
            )
            if settings.is_suppressed(parent):
                return
            self._context = parent
            if settings.wants_process_span(parent):
                self._start_span(parent, self._since - accepted_at, number, limit_wait)
            settings.instruments.item_wait.record(
                self._since - accepted_at, observer.attributes, self._context
            )
        except Exception:
            settings.log_failure()

    def _start_span(
        self,
        parent: otel_context.Context,
        waited: float,
        number: int,
        limit_wait: float | None,
    ) -> None:
        observer = self._observer
        put_context = trace.get_current_span(parent).get_span_context()
        if observer.settings.relation == "link":  # a new trace, but the same baggage
            parent = trace.set_span_in_context(INVALID_SPAN, parent)
        attributes: dict[str, Any] = observer.process_attributes
        if number != 1:
            attributes = {**attributes, names.ATTEMPT: number}
        span = observer.start_span(
            observer.process_name,
            SpanKind.CONSUMER,
            attributes,
            context=parent,
            links=(Link(put_context),) if put_context.is_valid else (),
        )
        if span is None:
            return
        self._span = span
        self._context = trace.set_span_in_context(span, parent)
        if span.is_recording():
            size = observer.size_attributes()
            span.set_attributes({**size, names.WAIT_TIME: waited, names.WORKER_ID: _worker_id()})
            if limit_wait is not None:
                span.set_attribute(names.LIMIT_WAIT_TIME, limit_wait)

    def __enter__(self) -> Self:
        if self._span is not None and self._context is not None:
            self._token = otel_context.attach(self._context)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
        try:
            self._end(exc)
        except Exception:
            self._observer.settings.log_failure()

    def _end(self, error: BaseException | None) -> None:
        observer, span = self._observer, self._span
        settings = observer.settings
        # A cancelled attempt neither succeeded nor failed.
        was_cancelled = error is not None and isinstance(
            error, (asyncio.CancelledError, GeneratorExit)
        )
        took = _clock() - self._since
        try:
            if span is not None:
                settings.end_span(span, None if was_cancelled else error)
        finally:
            if self._context is not None and not was_cancelled:
                attributes = observer.attributes
                if error is not None:
                    attributes = {**attributes, names.ERROR_TYPE: names.error_type(error)}
                    observer.count_error(error, self._context)
                settings.instruments.duration.record(took, attributes, self._context)


class TracedBatchAttempt(TracedAttempt):
    """One call for several items: one span, with a link to the put of each."""

    __slots__ = ()

    def __init__(
        self,
        observer: TelemetryObserver,
        items: Sequence[tuple[TracedItem, Context]],
        number: int,
        count: int,
    ) -> None:
        # In no context of theirs. It records the wait of the first item.
        super().__init__(observer, items[0][0]._accepted_at, number, None, Context())
        try:
            if self._context is not None:
                for item, _ in items[1:]:
                    observer.record_wait(self._since - item._accepted_at)
            span = self._span
            if span is not None and span.is_recording():
                span.set_attribute(names.BATCH_SIZE, count)
                for _, context in items:
                    put = context.run(trace.get_current_span).get_span_context()
                    if put.is_valid:
                        span.add_link(put)
        except Exception:
            observer.settings.log_failure()


def _outcome(accepted: bool, error: BaseException | None) -> str:
    if error is None:
        return names.ACCEPTED if accepted else names.FULL
    if isinstance(error, QueueStateError):
        return names.STOPPED
    if isinstance(error, QueueError):
        return names.UNKNOWN if isinstance(error, QueueUnknownError) else names.FAILED
    return names.CANCELLED


def _worker_id() -> str:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop: the worker is a thread
        return threading.current_thread().name
    return "" if task is None else task.get_name()
