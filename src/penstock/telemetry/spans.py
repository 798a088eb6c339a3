"""What happens to one item, as spans and distributions: its put, and each attempt to process it.

Nothing in here may make a put or a worker fail: a raising sampler, processor or exporter is logged
once and otherwise as good as absent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence, Sized
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Counter
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind

from penstock._util.compat import Self
from penstock.errors import QueueError, QueueStateError, QueueUnknownError
from penstock.policies.governor import Course
from penstock.telemetry import names
from penstock.telemetry.metrics import Watch
from penstock.workers.calls import AsyncCall
from penstock.workers.item import AnyFuture, Ticket

if TYPE_CHECKING:
    from penstock.telemetry.api import Telemetry

# Seconds for durations and waits; a module variable so that a test can put another clock here.
_clock = time.perf_counter


class Probe:
    """The telemetry of one queue: what the queue holds, and asks when somebody listens."""

    def __init__(
        self, telemetry: Telemetry, name: str, capacity: int, line: Sized, watch: Watch
    ) -> None:
        self.telemetry = telemetry
        #: Asks whether anybody listens.
        self.is_on = telemetry.is_on
        self.attributes = {names.QUEUE_NAME: name}
        self.put_name = f"{names.PUT} {name}"
        self.put_attributes = {**self.attributes, names.OPERATION: names.PUT}
        self.wait_name = f"{names.BACKPRESSURE} {name}"
        self.wait_attributes = {**self.attributes, names.OPERATION: names.BACKPRESSURE}
        self.process_name = f"{names.PROCESS} {name}"
        self.process_attributes = {
            **self.attributes,
            names.OPERATION: names.PROCESS,
            names.ATTEMPT: 1,
        }
        self._capacity = capacity
        self._line = line
        self._watch = watch  # dies with the probe, and so with the queue

    def observe_put(
        self,
        future: AnyFuture | None = None,
        call: AsyncCall[Any] | None = None,
        course: Course | None = None,
    ) -> PutObservation:
        """Watch a put, by ``with``. The arguments are those of the item's ticket."""
        return PutObservation(self, ObservedTicket(self, future, call, course))

    def size_attributes(self) -> dict[str, int]:
        """How full the queue is."""
        return {names.QUEUE_SIZE: len(self._line), names.QUEUE_CAPACITY: self._capacity}

    def retried(self, error: BaseException) -> None:
        """An attempt failed, and another one will be made."""
        self._count(self.telemetry.instruments.retries, error)

    def died(self, error: BaseException) -> None:
        """An item became a dead letter."""
        self._count(self.telemetry.instruments.dead_letters, error)

    def _count(self, counter: Counter, error: BaseException) -> None:
        if self.is_on() and not self.telemetry.is_suppressed():
            try:
                counter.add(1, {**self.attributes, names.ERROR_TYPE: names.error_type(error)})
            except Exception:
                self.telemetry.complain()

    def waited(self, name: str, seconds: float) -> None:
        """An item waited so long for a limit."""
        if self.is_on() and not self.telemetry.is_suppressed():
            try:
                self.telemetry.instruments.limit_wait.record(
                    seconds, {**self.attributes, names.LIMIT_NAME: name}
                )
            except Exception:
                self.telemetry.complain()

    def record_wait(self, seconds: float) -> None:
        """An item waited that long and was taken."""
        try:
            self.telemetry.instruments.item_wait.record(seconds, self.attributes)
        except Exception:
            self.telemetry.complain()

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
        """A new span; None when the SDK fails to make one."""
        try:
            return self.telemetry.tracer.start_span(
                name, context, kind, attributes, links, start_time
            )
        except Exception:
            self.telemetry.complain()
            return None


class PutObservation:
    """One put, from its call to its outcome.

    ``context`` is the one that the item shall run in, with the put's span as the current one, and
    ``ticket`` what shall go along with the item. The caller sets ``accepted``, and calls
    ``had_to_wait()`` when there is no room.
    """

    __slots__ = ("_probe", "_span", "_waits_since", "accepted", "context", "ticket")

    def __init__(self, probe: Probe, ticket: ObservedTicket) -> None:
        self._probe = probe
        self.ticket = ticket
        self._span: Span | None = None
        self._waits_since: tuple[int, float] | None = None
        self.accepted = False
        around = otel_context.get_current()
        if probe.telemetry.wants_put_span(around):
            self._span = probe.start_span(
                probe.put_name, SpanKind.PRODUCER, probe.put_attributes, context=around
            )
        self.context: Context = copy_context()
        if self._span is not None:
            self.context.run(otel_context.attach, trace.set_span_in_context(self._span, around))

    def had_to_wait(self) -> None:
        """There was no room: from here on it is backpressure."""
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
            self.ticket.accepted_now()
        try:
            self._end(_outcome(self.accepted, exc), exc)
        except Exception:
            self._probe.telemetry.complain()

    def _end(self, outcome: str, error: BaseException | None) -> None:
        probe, span = self._probe, self._span
        try:
            if span is not None and span.is_recording():
                span.set_attributes({**probe.size_attributes(), names.PUT_OUTCOME: outcome})
            if self._waits_since is not None:
                self._report_backpressure(*self._waits_since, outcome)
        finally:
            if span is not None:
                probe.telemetry.end_span(span, None if outcome == names.CANCELLED else error)

    def _report_backpressure(self, started: int, since: float, outcome: str) -> None:
        probe, span = self._probe, self._span
        waited = _clock() - since
        context = None if span is None else trace.set_span_in_context(span)
        if span is not None and span.is_recording():
            wait = probe.start_span(
                probe.wait_name,
                SpanKind.INTERNAL,
                probe.wait_attributes,
                context=context,
                start_time=started,
            )
            if wait is not None:
                wait.set_attributes(
                    {
                        **probe.size_attributes(),
                        names.WAIT_TIME: waited,
                        names.PUT_OUTCOME: outcome,
                    }
                )
                wait.end()
        if not probe.telemetry.is_suppressed():
            probe.telemetry.instruments.backpressure_wait.record(
                waited, {**probe.attributes, names.PUT_OUTCOME: outcome}, context
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
    """Goes along with an item whose put was observed, and has each attempt observed too.

    ``age``: seconds since it was accepted.
    """

    __slots__ = ("_probe", "_put_at")

    def __init__(
        self,
        probe: Probe,
        future: AnyFuture | None,
        call: AsyncCall[Any] | None,
        course: Course | None,
        age: float = 0.0,
    ) -> None:
        super().__init__(future, call, course)
        self._probe = probe
        self._put_at = _clock() - age

    def accepted_now(self) -> None:
        """It waited for room until now; that is backpressure, and not its own wait."""
        self._put_at = _clock()

    async def run(self, call: AsyncCall[Any], item: Any) -> None:
        """As any ticket, and the attempt is observed."""
        if not self.claim():
            return
        call, course = self.call or call, self.course
        if course is None:
            with Attempt(self._probe, self._put_at, None):
                result = await call(item)
        else:
            await self._admit(course, item)
            with Attempt(self._probe, self._put_at, None, course):
                result = await course.run(call, item)
        self.succeed(result)

    def attempt(self, context: Context) -> Attempt:
        """Watch the block in which an item is processed that was taken by hand."""
        return Attempt(self._probe, self._put_at, context)

    def on_get(self) -> None:
        """Record how long it waited; nobody will tell more."""
        super().on_get()
        self._probe.record_wait(_clock() - self._put_at)

    def handler_failed(self, error: BaseException) -> None:
        """Count it with the failures of worker functions."""
        self._probe.telemetry.count_error(self._probe, error)


class Attempt:
    """One attempt to process an item, watched by ``with``; its span is the current one meanwhile.

    ``item_context`` is the context of the item's put, or None when it is the current context.
    """

    __slots__ = ("_context", "_probe", "_since", "_span", "_token")

    def __init__(
        self,
        probe: Probe,
        put_at: float,
        item_context: Context | None,
        course: Course | None = None,
    ) -> None:
        self._probe = probe
        self._token: Any = None
        self._span: Span | None = None
        self._context: otel_context.Context | None = None
        self._since = _clock()
        telemetry = probe.telemetry
        try:
            around = (
                otel_context.get_current()
                if item_context is None
                else item_context.run(otel_context.get_current)
            )
            if telemetry.is_suppressed(around):
                return
            self._context = around
            if telemetry.wants_process_span(around):
                self._start_span(around, self._since - put_at, course)
            telemetry.instruments.item_wait.record(
                self._since - put_at, probe.attributes, self._context
            )
        except Exception:
            telemetry.complain()

    def _start_span(
        self, around: otel_context.Context, waited: float, course: Course | None
    ) -> None:
        probe = self._probe
        put = trace.get_current_span(around)
        put_context = put.get_span_context()
        if probe.telemetry.relation == "link":  # a new trace, but the same baggage
            around = trace.set_span_in_context(INVALID_SPAN, around)
        attributes: dict[str, Any] = probe.process_attributes
        if course is not None and course.attempts:
            attributes = {**attributes, names.ATTEMPT: course.attempts + 1}
        span = probe.start_span(
            probe.process_name,
            SpanKind.CONSUMER,
            attributes,
            context=around,
            links=(Link(put_context),) if put_context.is_valid else (),
        )
        if span is None:
            return
        self._span = span
        self._context = trace.set_span_in_context(span, around)
        if span.is_recording():
            span.set_attributes(
                {
                    **probe.size_attributes(),
                    names.WAIT_TIME: waited,
                    names.WORKER_ID: _worker_id(),
                }
            )
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
            self._probe.telemetry.complain()

    def _end(self, error: BaseException | None) -> None:
        probe, span = self._probe, self._span
        telemetry = probe.telemetry
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
                attributes = probe.attributes
                if error is not None:
                    attributes = {**attributes, names.ERROR_TYPE: names.error_type(error)}
                    telemetry.count_error(probe, error, self._context)
                telemetry.instruments.duration.record(took, attributes, self._context)
