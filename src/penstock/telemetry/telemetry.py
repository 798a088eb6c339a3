"""The telemetry of a program: what users make, and give to queues."""

from __future__ import annotations

from penstock.telemetry.settings import TelemetrySettings
from penstock.telemetry.spans import TelemetryObserver


class Telemetry(TelemetrySettings):
    """Where the spans and metrics of queues go, and which are made.

    Args:
        tracer_provider, meter_provider: ``None``: the global providers, also when they are set
            after the queue was made. Penstock itself never sets a global provider.
        spans: ``"all"``: a span for each put and for each attempt. ``"process"``: for attempts
            only. ``"parent"``: for both, but only under a sampled span. ``"none"``: none.
        relation: how the span of an attempt relates to the span of the put. ``"parent"``: it is
            its child, in the same trace. ``"link"``: it begins a new trace. It is linked to the put
            in both cases.
        record_exceptions: whether the message and the stack of an exception of a worker function
            are recorded and logged. With False only its type is recorded and logged, for messages
            that may have secrets.
        verbose_errors: whether each failure of a worker function without an error handler is logged
            with its traceback. With False only the first of a kind is, by function, type and place;
            the next ones are one line a second with their number.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    Items themselves are never recorded. Telemetry never makes a put or a worker fail.
    """

    def get_observer(self, name: str) -> TelemetryObserver:
        """The observer of a new queue or policy. (Queues call it; it is no public interface.)"""
        return TelemetryObserver(self, name)


_default: list[Telemetry] = []


def default_observer(name: str) -> TelemetryObserver:
    """The observer of a queue that is given no telemetry: global providers, and every default."""
    if not _default:  # not at the import: the program may set its providers after it
        _default.append(Telemetry())
    return _default[0].get_observer(name)
