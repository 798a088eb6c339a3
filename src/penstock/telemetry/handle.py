"""What ``setup`` returns; and how telemetry ends with the interpreter, collector or not."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from penstock._util import checks
from penstock._util.hooks import tell_forked_child

_logger = logging.getLogger("penstock")

#: Seconds that the end of the interpreter waits until all is sent.
_AT_EXIT = 2.0
#: Seconds after which the log says again that nobody answers.
_SILENCE = 600.0


class Unsent(logging.Handler):
    """Says in one line that telemetry does not arrive, in place of what the exporters say.

    They log each try and each retry of each signal.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._urls: list[str] = []
        self._told_at: float | None = None

    def add_url(self, url: str) -> None:
        """Speak for the exporters, too, which send to ``url``."""
        exporters = logging.getLogger("opentelemetry.exporter.otlp")
        if self not in exporters.handlers:
            exporters.addHandler(self)
            exporters.propagate = False
        if url not in self._urls:
            self._urls.append(url)

    def emit(self, record: logging.LogRecord) -> None:
        """An exporter has something to say."""
        self.tell(record.getMessage().partition(", retrying")[0])

    def tell(self, why: str) -> None:
        """Say that telemetry does not arrive, unless that was said lately."""
        if self._urls and (self._told_at is None or time.monotonic() - self._told_at > _SILENCE):
            self._told_at = time.monotonic()
            _logger.warning("Telemetry does not arrive at %s: %s", " and ".join(self._urls), why)


class TelemetryHandle:
    """The telemetry of this program, as :func:`penstock.telemetry.setup` found or made it.

    The methods may be called from any thread, and in a forked child.
    """

    def __init__(self) -> None:
        self.unsent = Unsent()
        self._providers: list[Any] = []
        self._exporters: list[Any] = []
        self._resource: Any = None
        self._meter_provider: Any = None
        self._is_own = False
        self._is_shut_down = False

    def add_providers(self, *providers: Any) -> None:
        """Flush these, whoever made them."""
        self._providers = list(providers)

    def own(self, resource: Any, exporters: Sequence[Any], meter_provider: Any) -> None:
        """Providers with this resource and these exporters were made by ``setup``.

        ``meter_provider``: ``None`` if it made none.
        """
        self._resource, self._exporters, self._is_own = resource, list(exporters), True
        self._meter_provider = meter_provider
        atexit.register(self._at_exit)
        tell_forked_child(self)

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what there is now, before a process is frozen for example.

        Args:
            timeout: the most seconds that it takes.

        Returns:
            Whether all providers said in time that they have done so. (That the receiver has it,
            they do not say.)

        Raises:
            ValueError: ``timeout`` is negative, NaN or no number.
        """
        seconds = checks.seconds(timeout)
        calls = [
            lambda flush=provider.force_flush: flush(timeout_millis=int(min(seconds, 1e6) * 1000))
            for provider in self._providers
            if hasattr(provider, "force_flush")
        ]
        return _all_in_time(calls, seconds)

    def shutdown(self, timeout: float = _AT_EXIT) -> bool:
        """Send what there is, and end. Only what ``setup`` made; again it does nothing.

        Args:
            timeout: the most seconds that it takes.

        Returns:
            Whether it was done in time.

        Raises:
            ValueError: ``timeout`` is negative, NaN or no number.
        """
        seconds = checks.seconds(timeout)
        if self._is_shut_down or not self._is_own:
            return True
        self._is_shut_down = True
        atexit.unregister(self._at_exit)
        calls = [provider.shutdown for provider in self._providers if hasattr(provider, "shutdown")]
        in_time = _all_in_time(calls, seconds)
        if not in_time:
            for exporter in self._exporters:  # what waits for another try gives up
                with suppress(Exception):
                    exporter.shutdown(0)
            self.unsent.tell(f"it was not sent within {seconds:g} s")
        return in_time

    def _at_exit(self) -> None:
        self.shutdown()

    def _after_fork_in_child(self) -> None:
        """Be another instance of the service, which has counted nothing yet."""
        with suppress(Exception):
            _forget_values(self._meter_provider)
        attributes = dict(getattr(self._resource, "attributes", {}))
        if "service.instance.id" in attributes and "service.instance.id=" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            attributes["service.instance.id"] = str(uuid.uuid4())
            with suppress(Exception):  # the SDK has no other way than this
                kind = type(self._resource._attributes)
                self._resource._attributes = kind(attributes=attributes)


def _forget_values(meter_provider: Any) -> None:
    """Begin all counters and histograms of the SDK anew: their values are the parent's.

    The SDK has no other way than this.
    """
    if meter_provider is not None:
        for storage in meter_provider._measurement_consumer._reader_storages.values():
            storage._lock = threading.RLock()  # which a thread of the parent may have held
            storage._instrument_view_instrument_matches = {}


def _all_in_time(calls: Sequence[Callable[[], Any]], seconds: float) -> bool:
    """Make the calls, each in a thread of its own; whether all succeeded within ``seconds``.

    The SDK does not keep to timeouts.
    """
    results: list[Any] = []

    def make(call: Callable[[], Any]) -> None:
        try:
            results.append(call())
        except Exception:
            _logger.exception("OpenTelemetry's SDK failed")
            results.append(False)

    deadline = time.monotonic() + seconds
    threads = []
    for call in calls:
        thread = threading.Thread(target=make, args=(call,), name="penstock-telemetry", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, and starts no more threads
            make(call)
        else:
            threads.append(thread)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return len(results) == len(calls) and all(each is not False for each in results)
