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
from penstock.policies.governor import Course
from penstock.telemetry import names
from penstock.telemetry.metrics import ObservedQueue, ReadTotals
from penstock.telemetry.telemetry import Telemetry
from penstock.workers.calls import AsyncCall
from penstock.workers.item import AnyFuture, Ticket
from penstock.workers.job import Job

# In seconds, for durations and waits; a module variable so that a test can replace it.
_clock = time.perf_counter


class QueueTelemetry:
    """The telemetry of one queue. The queue calls it if ``is_enabled()``.

    Args:
        telemetry: the settings.
        queue: its counts are exported until it is garbage-collected.
        totals: reads the counts of the queue that never go down.
        buffer: has the waiting items; only its length is read.
        capacity: the most items that may wait.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        queue: ObservedQueue,
        totals: ReadTotals,
        buffer: Sized,
        capacity: int,
    ) -> None:
        self.telemetry = telemetry
        #: Whether spans and metrics go anywhere.
        self.is_enabled = telemetry.is_enabled
        name = queue.name
        self.attributes = about = {names.QUEUE_NAME: name}
        self.put_name = f"{names.PUT} {name}"
        self.put_attributes = {**about, names.OPERATION: names.PUT}
        self.wait_name = f"{names.BACKPRESSURE} {name}"
        self.wait_attributes = {**about, names.OPERATION: names.BACKPRESSURE}
        self.process_name = f"{names.PROCESS} {name}"
        self.process_attributes = {**about, names.OPERATION: names.PROCESS, names.ATTEMPT: 1}
        self._capacity = capacity
        self._buffer = buffer
        # Garbage-collected with this object, and so with the queue.
        self._registration = telemetry.instruments.register(queue, totals)

    def observe_put(
        self,
        future: AnyFuture | None = None,
        call: AsyncCall[Any] | None = None,
        course: Course | None = None,
        job: Job[Any] | None = None,
    ) -> ObservedPut:
        """A context manager around a put. The arguments are those of the item's ticket."""
        return ObservedPut(self, ObservedTicket(self, future, call, course, job=job))

    def size_attributes(self) -> dict[str, int]:
        """The attributes that say how full the queue is."""
        return {names.QUEUE_SIZE: len(self._buffer), names.QUEUE_CAPACITY: self._capacity}

    def retried(self, error: BaseException) -> None:
        """Count an attempt that failed and will be followed by another."""
        self._count_unless_suppressed(self.telemetry.instruments.retries, error)

    def died(self, error: BaseException) -> None:
        """Count an item that became a dead letter."""
        self._count_unless_suppressed(self.telemetry.instruments.dead_letters, error)

    def _count_unless_suppressed(self, counter: Counter, error: BaseException) -> None:
        if self.is_enabled() and not self.telemetry.is_suppressed():
            self._count(counter, error)

    def count_error(
        self, error: BaseException, context: otel_context.Context | None = None
    ) -> None:
        """Count a failure of a worker function or of an error handler.

        ``context`` has the span of the attempt; ``None``: the current context.
        """
        self._count(self.telemetry.instruments.worker_errors, error, context)

    def _count(
        self, counter: Counter, error: BaseException, context: otel_context.Context | None = None
    ) -> None:
        try:
            attributes = {**self.attributes, names.ERROR_TYPE: names.error_type(error)}
            counter.add(1, attributes, context)
        except Exception:
            self.telemetry.log_failure()

    def waited(self, name: str, seconds: float) -> None:
        """Record the seconds that an item waited for the limit called ``name``."""
        if self.is_enabled() and not self.telemetry.is_suppressed():
            attributes = {**self.attributes, names.LIMIT_NAME: name}
            self._record(self.telemetry.instruments.limit_wait, seconds, attributes)

    def record_wait(self, seconds: float) -> None:
        """Record the seconds that an item waited until it was taken."""
        self._record(self.telemetry.instruments.item_wait, seconds, self.attributes)

    def _record(self, histogram: Histogram, seconds: float, attributes: dict[str, str]) -> None:
        try:
            histogram.record(seconds, attributes)
        except Exception:
            self.telemetry.log_failure()

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
            return self.telemetry.tracer.start_span(
                name, context, kind, attributes, links, start_time
            )
        except Exception:
            self.telemetry.log_failure()
            return None


class ObservedPut:
    """One put, from its call to its outcome: a context manager around it.

    The item is put with ``context``, in which the span of the put is the current one, and with
    ``ticket``. The caller calls ``on_full()`` if there is no room, and sets ``accepted``.
    """

    __slots__ = ("_queue", "_span", "_waits_since", "accepted", "context", "ticket")

    def __init__(self, queue: QueueTelemetry, ticket: ObservedTicket) -> None:
        self._queue = queue
        self.ticket = ticket
        self._span: Span | None = None
        self._waits_since: tuple[int, float] | None = None
        self.accepted = False
        parent = otel_context.get_current()
        if queue.telemetry.wants_put_span(parent):
            self._span = queue.start_span(
                queue.put_name, SpanKind.PRODUCER, queue.put_attributes, context=parent
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
            self.ticket.mark_accepted()
        try:
            self._end(_outcome(self.accepted, exc), exc)
        except Exception:
            self._queue.telemetry.log_failure()

    def _end(self, outcome: str, error: BaseException | None) -> None:
        queue, span = self._queue, self._span
        try:
            if span is not None and span.is_recording():
                span.set_attributes({**queue.size_attributes(), names.PUT_OUTCOME: outcome})
            if self._waits_since is not None:
                self._report_backpressure(*self._waits_since, outcome)
        finally:
            if span is not None:
                queue.telemetry.end_span(span, None if outcome == names.CANCELLED else error)

    def _report_backpressure(self, start_time: int, since: float, outcome: str) -> None:
        queue, span = self._queue, self._span
        waited = _clock() - since
        context = None if span is None else trace.set_span_in_context(span)
        if span is not None and span.is_recording():
            wait = queue.start_span(
                queue.wait_name,
                SpanKind.INTERNAL,
                queue.wait_attributes,
                context=context,
                start_time=start_time,
            )
            if wait is not None:
                size = queue.size_attributes()
                wait.set_attributes({**size, names.WAIT_TIME: waited, names.PUT_OUTCOME: outcome})
                wait.end()
        if not queue.telemetry.is_suppressed():
            queue.telemetry.instruments.backpressure_wait.record(
                waited, {**queue.attributes, names.PUT_OUTCOME: outcome}, context
            )


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


class ObservedTicket(Ticket):
    """The ticket of an item whose put was observed: it observes each attempt.

    ``age``: seconds since the item was accepted.
    """

    __slots__ = ("_put_at", "_queue")

    def __init__(
        self,
        queue: QueueTelemetry,
        future: AnyFuture | None,
        call: AsyncCall[Any] | None,
        course: Course | None,
        age: float = 0.0,
        job: Job[Any] | None = None,
    ) -> None:
        super().__init__(future, call, course, job)
        self._queue = queue
        self._put_at = _clock() - age

    def mark_accepted(self) -> None:
        """The item is accepted now: until now its put waited, from now on the item waits."""
        self._put_at = _clock()

    async def run(self, call: AsyncCall[Any], standing: Any, item: Any) -> None:
        """Run the item as any ticket does, and observe the attempt."""
        if not self.claim():
            return
        job, course = self.job or standing, self.course
        call = self.call or (call if self.job is None else job.call)
        if course is None:
            with ObservedAttempt(self._queue, self._put_at, None):
                result = await call(item)
        else:
            await self._admit(course, item)
            with ObservedAttempt(self._queue, self._put_at, None, course):
                result = await course.run(call, item, job.adaptive)
        self.succeed(result)

    def attempt(self, context: Context) -> ObservedAttempt:
        """Observe the block that processes an item after ``get``."""
        return ObservedAttempt(self._queue, self._put_at, context)

    def on_get(self) -> None:
        """Record how long the item waited: the caller of ``get`` reports nothing more."""
        super().on_get()
        self._queue.record_wait(_clock() - self._put_at)

    def handler_failed(self, error: BaseException) -> None:
        """Count the error among the failures of worker functions."""
        self._queue.count_error(error)


class ObservedAttempt:
    """One attempt to process an item: a context manager, in which its span is the current one.

    ``item_context`` is the context of the item's put, or None when it is the current context.
    """

    __slots__ = ("_context", "_queue", "_since", "_span", "_token")

    def __init__(
        self,
        queue: QueueTelemetry,
        put_at: float,
        item_context: Context | None,
        course: Course | None = None,
    ) -> None:
        self._queue = queue
        self._token: Token[otel_context.Context] | None = None
        self._span: Span | None = None
        self._context: otel_context.Context | None = None
        self._since = _clock()
        telemetry = queue.telemetry
        try:
            parent = (
                otel_context.get_current()
                if item_context is None
                else item_context.run(otel_context.get_current)
            )
            if telemetry.is_suppressed(parent):
                return
            self._context = parent
            if telemetry.wants_process_span(parent):
                self._start_span(parent, self._since - put_at, course)
            telemetry.instruments.item_wait.record(
                self._since - put_at, queue.attributes, self._context
            )
        except Exception:
            telemetry.log_failure()

    def _start_span(
        self, parent: otel_context.Context, waited: float, course: Course | None
    ) -> None:
        queue = self._queue
        put_context = trace.get_current_span(parent).get_span_context()
        if queue.telemetry.relation == "link":  # a new trace, but the same baggage
            parent = trace.set_span_in_context(INVALID_SPAN, parent)
        attributes: dict[str, Any] = queue.process_attributes
        if course is not None and course.attempts:
            attributes = {**attributes, names.ATTEMPT: course.attempts + 1}
        span = queue.start_span(
            queue.process_name,
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
            size = queue.size_attributes()
            span.set_attributes({**size, names.WAIT_TIME: waited, names.WORKER_ID: _worker_id()})
            if course is not None and course.governor.limiter.limits:
                span.set_attribute(names.LIMIT_WAIT_TIME, course.waited)

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
            self._queue.telemetry.log_failure()

    def _end(self, error: BaseException | None) -> None:
        queue, span = self._queue, self._span
        telemetry = queue.telemetry
        # A cancelled attempt neither succeeded nor failed.
        was_cancelled = error is not None and isinstance(
            error, (asyncio.CancelledError, GeneratorExit)
        )
        took = _clock() - self._since
        try:
            if span is not None:
                telemetry.end_span(span, None if was_cancelled else error)
        finally:
            if self._context is not None and not was_cancelled:
                attributes = queue.attributes
                if error is not None:
                    attributes = {**attributes, names.ERROR_TYPE: names.error_type(error)}
                    queue.count_error(error, self._context)
                telemetry.instruments.duration.record(took, attributes, self._context)
