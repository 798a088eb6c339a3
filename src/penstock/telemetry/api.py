"""Telemetry: where the spans and metrics of queues go, and which there are."""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Sized
from typing import Any, Final, Literal, get_args

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, StatusCode, TracerProvider

from penstock._util import checks
from penstock._version import __version__
from penstock.telemetry import _sdk, names
from penstock.telemetry.metrics import Instruments, Totals, Watched
from penstock.telemetry.spans import Probe

SpanMode = Literal["all", "process", "parent", "none"]
Relation = Literal["parent", "link"]

_logger = logging.getLogger("penstock")

# One set of instruments for each meter, however many Telemetry objects share it: an SDK does not
# ask for the counts of a second one. The global one follows whatever provider is set later.
_instruments: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()
_global_instruments: list[Instruments] = []
_instruments_lock = threading.RLock()


def _instruments_of(provider: MeterProvider | None) -> Instruments:
    with _instruments_lock:
        global_one = metrics.get_meter_provider()
        provider = global_one if provider is None else provider
        if provider is global_one and _global_instruments:
            return _global_instruments[0]
        found = _instruments.get(provider)
        if found is None:
            meter = provider.get_meter(names.SCOPE, __version__, schema_url=names.SCHEMA_URL)
            found = _instruments[provider] = Instruments(meter)
        if provider is global_one:
            _global_instruments.append(found)
        return found


class Telemetry:
    """Where the spans and metrics of queues go, and which there are.

    Args:
        tracer_provider, meter_provider: ``None``: the global ones, also when they are set after
            the queue was made. Penstock itself never sets a global provider.
        spans: ``"all"``; ``"process"``: no put spans; ``"parent"``: only under a sampled span;
            ``"none"``.
        relation: how the span of an attempt relates to that of the put. ``"parent"``: its child,
            in the same trace. ``"link"``: a trace of its own. It is linked to the put either way.
        record_exceptions: record the message and stack of what a worker function raises. With
            False only its type is recorded: for messages that may hold what must not leave.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    Items themselves are never recorded. Telemetry never makes a put or a worker fail.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        spans: SpanMode = "all",
        relation: Relation = "parent",
        record_exceptions: bool = True,
    ) -> None:
        _check_provider(tracer_provider, TracerProvider, "tracer_provider")
        _check_provider(meter_provider, MeterProvider, "meter_provider")
        _check_choice(spans, SpanMode, "spans")
        _check_choice(relation, Relation, "relation")
        if not isinstance(record_exceptions, bool):
            raise TypeError(
                f"record_exceptions must be a bool, got {checks.shown(record_exceptions)}"
            )
        self.spans: Final = spans
        self.relation: Final = relation
        self.record_exceptions: Final = record_exceptions
        self.tracer: Final = trace.get_tracer(
            names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL
        )
        self.instruments: Final = _instruments_of(meter_provider)
        #: Asks whether anybody listens; asked at every put.
        self.is_on: Final[Callable[[], bool]] = (
            _sdk.is_set_up if tracer_provider is None and meter_provider is None else _always
        )
        self._complained = False

    def watch(self, queue: Watched, totals: Totals, line: Sized, capacity: int) -> Probe:
        """Export the counts of ``queue`` while it lives; the probe observes its items."""
        return Probe(self, queue.name, capacity, line, self.instruments.watch(queue, totals))

    # -- for the probes -----------------------------------------------------------------------

    def is_suppressed(self, context: otel_context.Context | None = None) -> bool:
        """Whether somebody, an exporter for one, asked that nothing be instrumented here."""
        around = otel_context.get_current() if context is None else context
        return bool(around.get(_SUPPRESS_INSTRUMENTATION_KEY))

    def wants_put_span(self, context: otel_context.Context) -> bool:
        """Whether a put that is made in this context gets a span."""
        if self.spans == "all" or (self.spans == "parent" and _is_sampled(context)):
            return not self.is_suppressed(context)
        return False

    def wants_process_span(self, context: otel_context.Context) -> bool:
        """Whether an attempt whose item has this context gets a span."""
        return self.spans in ("all", "process") or (self.spans == "parent" and _is_sampled(context))

    def end_span(self, span: Span, error: BaseException | None) -> None:
        """End ``span``, as failed if there is an error, as OpenTelemetry's conventions have it."""
        try:
            if error is not None and span.is_recording():
                span.set_attribute(names.ERROR_TYPE, names.error_type(error))
                span.set_status(StatusCode.ERROR)  # even if the exception cannot tell its message
                if self.record_exceptions:
                    message = str(error)
                    span.set_status(StatusCode.ERROR, _whole(message))
                    span.record_exception(error, _what_can_be_sent(error, message))
        finally:
            span.end()

    def count_error(
        self, probe: Probe, error: BaseException, context: otel_context.Context | None = None
    ) -> None:
        """Count a failure of a worker function or an error handler."""
        try:
            self.instruments.worker_errors.add(
                1, {**probe.attributes, names.ERROR_TYPE: names.error_type(error)}, context
            )
        except Exception:
            self.complain()

    def complain(self) -> None:
        """Log the exception under way, the first time that telemetry fails."""
        if not self._complained:
            self._complained = True
            _logger.error("Telemetry failed; the queue goes on. This is logged once", exc_info=True)


def _whole(text: str) -> str:
    """``text`` with escapes for half characters: for one of those, OTLP drops a whole batch."""
    return text.encode("utf-8", "backslashreplace").decode()


def _what_can_be_sent(error: BaseException, message: str) -> dict[str, str] | None:
    """The attributes of a recorded exception that has half characters in its message or stack."""
    if message.isascii() and error.__cause__ is error.__context__ is None:
        return None  # nearly always, and to put a stack in words takes longer than all the rest
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if (stack := _whole(told)) == told:
        return None
    return {"exception.message": _whole(message), "exception.stacktrace": stack}


def _always() -> bool:
    return True


def _is_sampled(context: otel_context.Context | None) -> bool:
    # Not is_recording(): a span that has ended says no, and the put has ended when its item runs.
    return trace.get_current_span(context).get_span_context().trace_flags.sampled


def _check_provider(value: Any, kind: type, name: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, got {checks.shown(value)}")


def _check_choice(value: Any, choices: Any, name: str) -> None:
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, got {checks.shown(value)}"
        )


_default: list[Telemetry] = []


def default_telemetry() -> Telemetry:
    """What a queue uses that is given none: the global providers, and every default."""
    if not _default:
        _default.append(Telemetry())
    return _default[0]
