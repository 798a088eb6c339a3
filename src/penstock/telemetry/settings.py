"""Where spans and metrics go, and which are made: what ``Telemetry`` was told."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from opentelemetry import _logs, metrics, trace
from opentelemetry import context as otel_context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeter
from opentelemetry.trace import Span, StatusCode, TracerProvider

from penstock._util import checks
from penstock._util.hooks import ForkSafeLock
from penstock._version import __version__
from penstock.telemetry import names
from penstock.telemetry.metrics import Instruments
from penstock.telemetry.sdk import has_global_provider

SpanMode = Literal["all", "process", "parent", "none"]
Relation = Literal["parent", "link"]

_logger = logging.getLogger("penstock")

# One set of instruments for each meter provider, however many Telemetry objects share it: an SDK
# does not call the callbacks of a second set. Providers are told apart by identity: other people's
# need not be hashable, and two that are equal need not be one. The set of the global provider
# follows the provider that is set later.
_instruments: dict[int, tuple[Callable[[], object], Instruments]] = {}
_global_instruments: list[Instruments] = []
_instruments_lock = ForkSafeLock(threading.RLock)


def _instruments_of(provider: MeterProvider | None) -> Instruments:
    with _instruments_lock:
        global_provider = metrics.get_meter_provider()
        provider = global_provider if provider is None else provider
        if provider is global_provider and _global_instruments:
            return _global_instruments[0]
        known, instruments = _instruments.get(id(provider), (None, None))
        if instruments is None or known is None or known() is not provider:
            instruments = Instruments(_meter_of(provider))
            _instruments[id(provider)] = (_reference(provider), instruments)
        if provider is global_provider:
            _global_instruments.append(instruments)
        return instruments


def _meter_of(provider: MeterProvider) -> Meter:
    try:
        return provider.get_meter(names.SCOPE, __version__, schema_url=names.SCHEMA_URL)
    except Exception:  # of somebody else's provider: the queue goes on without metrics
        _logger.exception("The meter provider returned no meter: there are no metrics")
        return NoOpMeter(names.SCOPE)


def _reference(provider: MeterProvider) -> Callable[[], object]:
    """What returns ``provider`` as long as it lives; with its end the instruments end."""
    key = id(provider)

    def forget(gone: object) -> None:  # takes no lock: the garbage collector may call it anywhere
        known = _instruments.get(key)
        if known is not None and known[0] is gone:
            del _instruments[key]

    try:
        return weakref.ref(provider, forget)
    except TypeError:  # it cannot be referred to weakly, so it lives on
        return lambda: provider


class TelemetrySettings:
    """The settings of a :class:`Telemetry`, and what they mean for one span."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        spans: SpanMode = "all",
        relation: Relation = "parent",
        record_exceptions: bool = True,
        verbose_errors: bool = False,
    ) -> None:
        _check_provider(tracer_provider, TracerProvider, "tracer_provider")
        _check_provider(meter_provider, MeterProvider, "meter_provider")
        _check_choice(spans, SpanMode, "spans")
        _check_choice(relation, Relation, "relation")
        _check_bool(record_exceptions, "record_exceptions")
        _check_bool(verbose_errors, "verbose_errors")
        self.spans: Final = spans
        self.relation: Final = relation
        #: Whether each put, and each attempt, gets a span; else ``is_followed`` is asked.
        self.spans_puts: Final = spans == "all"
        self.spans_attempts: Final = spans in ("all", "process")
        self.record_exceptions: Final = record_exceptions
        self.verbose_errors: Final = verbose_errors
        self.tracer: Final = trace.get_tracer(
            names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL
        )
        self.instruments: Final = _instruments_of(meter_provider)
        #: Whether spans and metrics go anywhere. Each put calls it.
        self.is_enabled: Final[Callable[[], bool]] = (
            has_global_provider if tracer_provider is None and meter_provider is None else _always
        )
        self._is_failure_logged = False
        # As the conventions say: "logs" in place of events, or "logs/dup" beside them.
        opted_in = os.environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "").split(",")
        signals = {each.strip() for each in opted_in}
        self._has_exception_logs = not signals.isdisjoint({"logs", "logs/dup"})
        self._has_exception_events = "logs" not in signals or "logs/dup" in signals

    # -- for the observer of each queue ---------------------------------------------------------

    def is_suppressed(self, context: otel_context.Context | None = None) -> bool:
        """Whether instrumentation is suppressed in ``context``, as exporters do around theirs."""
        parent = otel_context.get_current() if context is None else context
        return bool(parent.get(_SUPPRESS_INSTRUMENTATION_KEY))

    def is_followed(self, context: otel_context.Context) -> bool:
        """Whether a put or attempt in ``context`` gets a span since there is one of its caller."""
        return self.spans == "parent" and _is_sampled(context)

    def end_span(
        self, span: Span, error: BaseException | None, end_time: int | None = None
    ) -> None:
        """End ``span``, with the status ERROR if there is an error, as the conventions say.

        ``end_time``: in nanoseconds, when it ended; ``None``: now.
        """
        try:
            if error is not None and span.is_recording():
                span.set_attribute(names.ERROR_TYPE, names.error_type(error))
                span.set_status(StatusCode.ERROR)  # even if str(error) raises
                if self.record_exceptions:
                    message = str(error)
                    span.set_status(StatusCode.ERROR, _escape_surrogates(message))
                    more = _exception_attributes(error, message)
                    is_logged = self._has_exception_logs and _log_exception(
                        span, error, message, end_time
                    )
                    if self._has_exception_events or not is_logged:
                        span.record_exception(error, more, end_time)
        finally:
            span.end(end_time)

    def log_failure(self) -> None:
        """Log the exception that is being handled, the first time that telemetry fails."""
        if not self._is_failure_logged:
            self._is_failure_logged = True
            _logger.error(
                "Telemetry failed, and the queue continues without it. This is logged once",
                exc_info=True,
            )


def _escape_surrogates(text: str) -> str:
    """``text`` with escapes in place of lone surrogates: OTLP drops a whole batch for one."""
    return text.encode("utf-8", "backslashreplace").decode()


def _exception_attributes(error: BaseException, message: str) -> dict[str, str] | None:
    """The attributes of a recorded exception with lone surrogates in its message or stack.

    ``None`` where there are none: then OpenTelemetry's own attributes are right.
    """
    if message.isascii() and error.__cause__ is error.__context__ is None:
        return None  # nearly always; and to format a stack takes longer than all the rest
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    escaped = _escape_surrogates(stack)
    if escaped == stack:
        return None
    return {"exception.message": _escape_surrogates(message), "exception.stacktrace": escaped}


def _log_exception(span: Span, error: BaseException, message: str, moment: int | None) -> bool:
    """Record an exception as a log record under ``span``; False where this API has no such."""
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    logger = _logs.get_logger(names.SCOPE, __version__, schema_url=names.SCHEMA_URL)
    try:
        logger.emit(
            timestamp=moment or time.time_ns(),
            context=trace.set_span_in_context(span),
            severity_number=_logs.SeverityNumber.ERROR,
            severity_text="ERROR",
            event_name="exception",
            body=_escape_surrogates(message),
            attributes={
                "exception.type": names.error_type(error),
                "exception.message": _escape_surrogates(message),
                "exception.stacktrace": _escape_surrogates(stack),
            },
        )
    except TypeError:  # before 1.36, emit() takes a record and no parts of one
        return False
    return True


def _always() -> bool:
    return True


def _is_sampled(context: otel_context.Context | None) -> bool:
    # Not is_recording(): it is False for a span that has ended, and the span of the put has ended
    # when its item is processed.
    return trace.get_current_span(context).get_span_context().trace_flags.sampled


def _check_provider(value: Any, kind: type, name: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, got {checks.shown(value)}")


def _check_bool(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {checks.shown(value)}")


def _check_choice(value: Any, choices: Any, name: str) -> None:
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, got {checks.shown(value)}"
        )
