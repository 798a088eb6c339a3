"""The spans and histograms of one item: of its put, and of each attempt to process it.

Nothing in here may make a put or a worker fail: what a sampler, processor or exporter raises is
logged once, and otherwise ignored.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, Token, copy_context
from types import TracebackType
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind

from penstock._util.compat import Self
from penstock.errors import QueueError, QueueStateError, QueueUnknownError
from penstock.policies.observer import CANCELLED, OK, RETRY, Origin, outcome_of
from penstock.telemetry import names
from penstock.telemetry.recording import Recording

# In seconds, for durations and waits; a module variable so that a test can replace it.
_clock = time.perf_counter

#: Seconds from which on a wait is an event of its span.
_SHOWN_WAIT = 0.1


class TelemetryObserver(Recording):
    """Makes spans and metrics of what becomes of the items of one queue or policy.

    It is an ``Observer``; the core calls it if ``is_enabled()``.
    """

    def on_put(self, origin: Origin | None = None) -> TracedPut:
        """A put begins: the span of it, if there is to be one, and the block of it."""
        return TracedPut(self, origin)

    def on_item(self, age: float = 0.0) -> TracedItem:
        """An item that was put ``age`` seconds ago, somewhere else."""
        return TracedItem(self, age)


class TracedItem:
    """One item: each attempt to process it gets a span.

    ``age``: seconds since the item was accepted.
    """

    __slots__ = ("_accepted_at", "_delay", "_observer", "_waits_since", "last_span", "put_span")

    def __init__(self, observer: Recording, age: float = 0.0) -> None:
        self._observer = observer
        self._accepted_at = self._waits_since = _clock() - age
        # Seconds from then on until its next attempt is due. None: nobody knows.
        self._delay: float | None = None
        #: The span of the last attempt; and that of its put, where it was put here.
        self.last_span: Span | None = None
        self.put_span: Span | None = None

    def attempt(
        self,
        number: int = 1,
        *,
        limit_wait: float | None = None,
        context: Context | None = None,
        is_call: bool = True,
    ) -> TracedAttempt:
        """The block of one attempt."""
        return TracedAttempt(self, self._observer, number, limit_wait, context, is_call)

    def age(self) -> float:
        """Seconds since the item was accepted."""
        return max(0.0, _clock() - self._accepted_at)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """The block in which a worker waits with the item until it may start."""
        waiting = self._observer.waiting
        waiting.add(self)
        try:
            yield
        finally:
            waiting.discard(self)

    def waits_until(self, now: float, number: int, limit_wait: float | None) -> dict[str, float]:
        """The seconds that it waited for the attempt which begins now, by cause."""
        rest = total = now - self._waits_since
        if total < 0.0:  # of an item whose age another machine told
            rest = total = 0.0
        if limit_wait is None and number == 1:  # of most items
            return {names.FOR_WORKER: rest}
        waits: dict[str, float] = {}
        if limit_wait is not None:
            waits[names.FOR_LIMIT] = limited = min(limit_wait, total)
            rest -= limited
        if number > 1:
            waits[names.FOR_RETRY] = delay = rest if self._delay is None else min(self._delay, rest)
            rest -= delay
        waits[names.FOR_WORKER] = rest
        return waits

    def retry_in(self, delay: float) -> None:
        """An attempt failed, and another one will be made."""
        self._waits_since, self._delay = _clock(), delay

    def origin(self) -> Origin | None:
        """Where to find what became of it so far."""
        about = None if self.last_span is None else self.last_span.get_span_context()
        if about is None or not about.is_valid:
            return None
        return Origin(trace.format_trace_id(about.trace_id), about)

    def batch_attempt(
        self, items: Sequence[tuple[Any, Context]], number: int, count: int
    ) -> TracedBatchAttempt:
        """The block of one call for several items."""
        return TracedBatchAttempt(self._observer, items, number, count)

    def on_get(self) -> None:
        """Record how long the item waited: the caller of ``get`` reports nothing more."""
        self._observer.record_wait(names.FOR_WORKER, _clock() - self._waits_since, None)

    def on_skipped(self) -> None:
        """Count the item among those that were cancelled."""
        self._observer.count_skipped()

    def on_handler_error(self, error: BaseException) -> None:
        """Count the error among the failures of worker functions."""
        self._observer.count_error(error)


class TracedPut(TracedItem):
    """An item that is put here: a context manager around its put, from its call to its outcome.

    The span of the put is the current one in ``context``, in which the item is to run.
    ``origin``: where the item comes from, if it was a dead letter.
    """

    __slots__ = ("_full_by", "_full_since", "accepted", "context")

    def __init__(self, observer: Recording, origin: Origin | None = None) -> None:
        # Not by super(): one is made for every put that is observed.
        self._observer = observer
        self._accepted_at = self._waits_since = _clock()
        self._delay = self.last_span = None
        self._full_since: tuple[int, float] | None = None
        self.accepted = False
        parent = otel_context.get_current()
        span: Span | None = None
        settings = observer.settings
        wants_span = settings.spans_puts or settings.is_followed(parent)
        if wants_span and not parent.get(_SUPPRESS_INSTRUMENTATION_KEY):
            try:
                span = settings.tracer.start_span(
                    observer.put_name,
                    parent,
                    SpanKind.PRODUCER,
                    observer.put_attributes,
                    () if origin is None else _links(origin.link),
                )
            except Exception:
                settings.log_failure()
        self.put_span = span
        self.context: Context = copy_context()
        if span is not None:
            self.context.run(otel_context.attach, trace.set_span_in_context(span, parent))

    def on_full(self, by: str | None = None) -> None:
        """There is no room: from now on the put waits, which is backpressure.

        ``by``: what holds it up, if it is not the queue's size.
        """
        self._full_since, self._full_by = (time.time_ns(), _clock()), by

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._full_since is not None or exc is not None or not self.accepted:
                self._end(_put_outcome(self.accepted, exc), exc)
            elif self.put_span is not None:  # as ``_end``, and quicker: of most puts
                span = self.put_span
                try:
                    if span.is_recording():
                        about: dict[str, Any] = self._observer.size_attributes()
                        about[names.PUT_OUTCOME] = names.ACCEPTED
                        span.set_attributes(about)
                finally:
                    span.end()
        except Exception:
            self._observer.settings.log_failure()

    def _end(self, outcome: str, error: BaseException | None) -> None:
        observer, span = self._observer, self.put_span
        if self._full_since is not None and self.accepted:
            # Until now its put waited, from now on the item waits.
            self._accepted_at = self._waits_since = _clock()
        try:
            if span is not None and span.is_recording():
                span.set_attributes({**observer.size_attributes(), names.PUT_OUTCOME: outcome})
                by = None if self._full_since is None else self._full_by
                if by is not None:
                    span.set_attribute(names.PUT_HELD_UP_BY, by)
                if outcome == names.FULL:  # no error, but it is to be seen at a glance
                    span.add_event(f"refused: {'the queue is full' if by is None else by}")
            if self._full_since is not None:
                self._report_backpressure(*self._full_since, outcome)
        finally:
            if span is not None:
                observer.settings.end_span(span, None if outcome == names.CANCELLED else error)

    def _report_backpressure(self, start_time: int, since: float, outcome: str) -> None:
        observer, span = self._observer, self.put_span
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

    __slots__ = (
        "_context",
        "_ended_at",
        "_is_call",
        "_item",
        "_late_attributes",
        "_observer",
        "_since",
        "_span",
        "_token",
        "_took",
    )

    def __init__(
        self,
        item: TracedItem,
        observer: Recording,
        number: int,
        limit_wait: float | None,
        context: Context | None,
        is_call: bool,
    ) -> None:
        self._item = item
        self._observer = observer
        self._is_call = is_call
        self._token: Token[otel_context.Context] | None = None
        self._span: Span | None = None
        self._context: otel_context.Context | None = None
        self._since = _clock()
        # When the call raised an error, in nanoseconds; and how long it took.
        self._ended_at: int | None = None
        self._took: float | None = None
        self._late_attributes: dict[str, Any] | None = None
        settings = observer.settings
        try:
            parent = (
                otel_context.get_current()
                if context is None
                else context.run(otel_context.get_current)
            )
            if parent.get(_SUPPRESS_INSTRUMENTATION_KEY):
                return
            self._context = parent
            waits = item.waits_until(self._since, number, limit_wait)
            if settings.spans_attempts or settings.is_followed(parent):
                put_span = item.put_span if context is None else None
                if put_span is None:
                    put_span = trace.get_current_span(parent)
                self._start_span(parent, put_span.get_span_context(), number, waits)
            record, attributes = observer.item_wait.record, observer.cause_attributes
            for cause, seconds in waits.items():
                record(seconds, attributes[cause], self._context)
        except Exception:
            settings.log_failure()

    def _start_span(
        self,
        parent: otel_context.Context,
        put_context: SpanContext,
        number: int,
        waits: dict[str, float],
    ) -> None:
        observer = self._observer
        if observer.settings.relation == "link":  # a new trace, but the same baggage
            parent = trace.set_span_in_context(INVALID_SPAN, parent)
        attributes: dict[str, Any] = observer.process_attributes
        if number != 1:
            attributes = {**attributes, names.ATTEMPT: number}
            if not put_context.is_valid and self._item.last_span is not None:
                # There is no span of a put, so each attempt is a trace of its own.
                put_context = self._item.last_span.get_span_context()
        try:
            span = observer.settings.tracer.start_span(
                observer.process_name,
                parent,
                SpanKind.CONSUMER,
                attributes,
                (Link(put_context),) if put_context.is_valid else (),
            )
        except Exception:
            observer.settings.log_failure()
            return
        self._span = self._item.last_span = span
        self._context = trace.set_span_in_context(span, parent)
        if span.is_recording():
            # Set at the end, together with the outcome: one call costs less than two.
            late: dict[str, Any] = observer.size_attributes()
            late[names.WAIT_TIME] = sum(waits.values())
            late[names.WORKER_ID] = _worker_id()
            self._late_attributes = late
            if names.FOR_LIMIT in waits:
                late[names.LIMIT_WAIT_TIME] = waits[names.FOR_LIMIT]
            for cause, seconds in waits.items():
                if seconds >= _SHOWN_WAIT:
                    about: dict[str, Any] = {names.WAIT_CAUSE: cause, names.WAIT_TIME: seconds}
                    span.add_event(f"waited for a {cause}", about)

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
        if exc is not None:
            self._leave(exc, outcome_of(exc), None)
            return
        # As ``_leave``, and quicker: of most attempts.
        observer, span, took = self._observer, self._span, _clock() - self._since
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None
        if span is not None:
            try:
                if self._late_attributes is not None:
                    self._late_attributes[names.OUTCOME] = OK
                    span.set_attributes(self._late_attributes)
                span.end()
            except Exception:
                observer.settings.log_failure()
        if self._context is not None and self._is_call:
            try:
                observer.duration.record(took, observer.attributes, self._context)
            except Exception:
                observer.settings.log_failure()

    def stop_clock(self) -> None:
        """The call is over; what becomes of the item will be told before long."""
        self._took = _clock() - self._since
        self._ended_at = time.time_ns()

    def fail(self, error: BaseException, outcome: str, delay: float | None = None) -> None:
        """It ended with ``error``; another attempt follows in ``delay`` seconds, or none."""
        if delay is not None:
            self._item.retry_in(delay)
        self._leave(error, outcome, delay)

    def _leave(self, error: BaseException | None, outcome: str, delay: float | None) -> None:
        token, self._token = self._token, None
        if token is not None:
            otel_context.detach(token)
        try:
            self._end(error, outcome, delay)
        except Exception:
            self._observer.settings.log_failure()

    def _end(self, error: BaseException | None, outcome: str, delay: float | None) -> None:
        observer, span = self._observer, self._span
        took = _clock() - self._since if self._took is None else self._took
        # A cancelled attempt neither succeeded nor failed.
        is_cancelled = outcome == CANCELLED
        try:
            if span is not None:
                if self._late_attributes is not None:
                    self._late_attributes[names.OUTCOME] = outcome
                    span.set_attributes(self._late_attributes)
                    if is_cancelled:
                        span.add_event("cancelled", timestamp=self._ended_at)
                    elif outcome == RETRY and delay is not None:
                        name = f"retry in {delay:.3g} s"
                        span.add_event(name, {names.RETRY_DELAY: delay}, self._ended_at)
                observer.settings.end_span(span, None if is_cancelled else error, self._ended_at)
        finally:
            if self._context is not None and not is_cancelled:
                if error is not None:
                    observer.count_error(error, self._context)
                if self._is_call:
                    observer.record_duration(took, error, self._context)


class TracedBatchAttempt(TracedAttempt):
    """One call for several items: one span, with a link to the put of each."""

    __slots__ = ()

    def __init__(
        self,
        observer: Recording,
        items: Sequence[tuple[TracedItem, Context]],
        number: int,
        count: int,
    ) -> None:
        # In no context of theirs. It records the wait of the first item.
        super().__init__(items[0][0], observer, number, None, Context(), True)
        try:
            if self._context is not None:
                for item, _ in items[1:]:
                    for cause, seconds in item.waits_until(self._since, number, None).items():
                        observer.record_wait(cause, seconds, self._context)
            span = self._span
            if span is not None and span.is_recording():
                span.set_attribute(names.BATCH_SIZE, count)
                for item, context in items:
                    put = item.put_span or context.run(trace.get_current_span)
                    about = put.get_span_context()
                    if about.is_valid:
                        span.add_link(about)
        except Exception:
            observer.settings.log_failure()


def _links(span: Any) -> tuple[Link, ...]:
    return (Link(span),) if span.is_valid else ()


def _put_outcome(accepted: bool, error: BaseException | None) -> str:
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
