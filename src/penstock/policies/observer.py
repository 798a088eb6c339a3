"""Who hears what becomes of items: the protocol between the core and telemetry.

Queues, workers and policies know nothing of OpenTelemetry. Each has an ``Observer`` and tells it
what happens; ``penstock.telemetry`` has the one that makes spans and metrics of it. An observer of
your own needs the methods of ``Observer`` and ``ObservedPut``, and an object that makes it, for the
parameter ``telemetry``. (It is no public interface: it may change in any version.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from contextvars import Context
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from penstock._util import checks
from penstock._util.compat import Self
from penstock.errors import DeadlineExceededError

# What became of an attempt; each item ends with one of them that is not RETRY.
OK = "ok"
#: Another attempt follows.
RETRY = "retry"
#: It failed for good and is kept as a dead letter; or it is not kept.
DEAD_LETTER, FAILED = "dead_letter", "failed"
#: It could not be served before its deadline.
DEADLINE = "deadline"
CANCELLED = "cancelled"
#: What holds a put up where the queue itself has room: its key has as many items as it may have.
MAX_PER_KEY = "max_per_key"
#: The outcomes of an item that did not succeed.
FAILURES: tuple[str, ...] = (FAILED, DEAD_LETTER, DEADLINE, CANCELLED)

#: Reads the counts of a queue that never go down. The keys are the outcomes of puts
#: (``"accepted"``, ``"full"``, ``"cancelled"``, ``"stopped"``, and more of a queue on a broker),
#: ``"processed"``, the outcomes of items after ``"processed."``, and ``"gate_closed"`` in seconds.
ReadTotals = Callable[[], Mapping[str, float]]


def outcome_of(error: BaseException, *, is_kept: bool = False) -> str:
    """The outcome of an item that failed for good with ``error``."""
    if isinstance(error, DeadlineExceededError):
        return DEADLINE
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return CANCELLED
    return DEAD_LETTER if is_kept else FAILED


def processed_totals(processed: int, failures: Mapping[str, int]) -> dict[str, int]:
    """The totals of items that are done: all of them, and by outcome.

    ``processed`` is to be read before ``failures``: then no failure is taken for a success.
    """
    totals = {f"processed.{outcome}": failures[outcome] for outcome in FAILURES}
    succeeded = max(0, processed - sum(totals.values()))
    return {"processed": processed, f"processed.{OK}": succeeded, **totals}


@dataclass(frozen=True)
class Origin:
    """Where a dead letter comes from."""

    #: Its trace, in hexadecimal.
    trace_id: str
    #: Whatever the observer needs to refer to the last attempt.
    link: Any


@dataclass(frozen=True)
class QueueReadings:
    """What an observer reads of a queue beside its statistics."""

    #: Items that may start; ``None``: those that wait, by the statistics.
    ready: int | None = None
    #: The item that waits longest of those that may start, if it is observed.
    oldest: ObservedItem | None = None
    #: Workers with no item in hand, since the items wait for a limit.
    held_workers: int = 0
    #: Items that were taken with ``get``: no worker has them.
    checked_out: int = 0
    #: The share of each limit that is used, by its name.
    utilization: Mapping[str, float] = field(default_factory=dict)


class Observer(Protocol):
    """Hears what becomes of the items of one queue or policy.

    The methods are called from any thread. None of them may raise: the core does not catch it.
    """

    @property
    def record_exceptions(self) -> bool:
        """Whether the messages and tracebacks of exceptions may leave the program."""
        ...

    @property
    def verbose_errors(self) -> bool:
        """Whether each failure is logged with its traceback, and not only the first of a kind."""
        ...

    def is_enabled(self) -> bool:
        """Whether items are observed now. Asked at each put, so it must be quick.

        ``on_put`` and ``on_item`` are called only where it says yes.
        """
        ...

    def watch_queue(self, queue: ObservedQueue, totals: ReadTotals, waiting: Sized) -> None:
        """The queue was made: its counts can be read until it is garbage-collected.

        The observer belongs to the queue and must not keep it alive. ``totals`` and ``waiting``,
        whose length is the number of items that wait, do not refer to the queue.
        """
        ...

    def on_put(self, origin: Origin | None = None) -> ObservedPut:
        """A put begins, in the current context; of a dead letter that came from ``origin``."""
        ...

    def on_item(self, age: float = 0.0) -> ObservedItem:
        """Here is an item without a put of this process; it was put ``age`` seconds ago."""
        ...

    def on_retry(self, error: BaseException) -> None:
        """An attempt failed, and another one will be made."""
        ...

    def on_dead_letter(self, error: BaseException) -> None:
        """An item failed for good, and is kept as a dead letter."""
        ...

    def on_limit_wait(self, name: str, seconds: float) -> None:
        """An item was admitted after so many seconds of waiting for limits.

        ``name`` is the limit that has least left then.
        """
        ...


class ObservedItem(Protocol):
    """What an observer has of one item, until the last attempt to process it."""

    def attempt(
        self,
        number: int = 1,
        *,
        limit_wait: float | None = None,
        context: Context | None = None,
        is_call: bool = True,
    ) -> ObservedAttempt:
        """The block of one attempt. An exception that leaves the block is its error.

        Args:
            number: which attempt it is; the first is 1.
            limit_wait: seconds that it waited for limits. ``None``: there are no limits.
            context: the context of the item's put. ``None``: the current one.
            is_call: whether the worker function is called. It is not where the item may not start,
                ever.
        """
        ...

    def age(self) -> float:
        """Seconds since the item was accepted. From any thread."""
        ...

    def wait(self) -> AbstractContextManager[object]:
        """The block in which a worker waits with the item in hand until it may start."""
        ...

    def batch_attempt(
        self, items: Sequence[tuple[ObservedItem, Context]], number: int, count: int
    ) -> AbstractContextManager[object]:
        """The block of one call for several items, of which this is one.

        Args:
            items: those of them that are observed, each with the context of its put.
            number: which attempt it is.
            count: of how many items, observed or not.
        """
        ...

    def origin(self) -> Origin | None:
        """Where to find what became of it so far, if that is kept anywhere."""
        ...

    def on_get(self) -> None:
        """The item was taken with ``get``. Nothing more is told of it."""
        ...

    def on_skipped(self) -> None:
        """No call was made, since its future was cancelled. It counts as done."""
        ...

    def on_handler_error(self, error: BaseException) -> None:
        """The error handler raised ``error``."""
        ...


class ObservedAttempt(Protocol):
    """The block of one attempt, and what became of it.

    Whoever knows that only after the block calls ``fail`` in place of leaving it with the error.
    Until then the context of the attempt is the current one.
    """

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def stop_clock(self) -> None:
        """The call raised an error just now; ``fail`` will be called before long."""
        ...

    def fail(self, error: BaseException, outcome: str, delay: float | None = None) -> None:
        """It ended with ``error``; another attempt follows in ``delay`` seconds, or none."""
        ...


class ObservedPut(ObservedItem, Protocol):
    """The same, of an item that is put here; and the block of its put.

    An exception that leaves the block is the error of the put.
    """

    #: The context that the item is to run in: a copy of that of the put.
    context: Context
    #: Set before the block is left: whether the item is in the queue.
    accepted: bool

    def on_full(self, by: str | None = None) -> None:
        """There is no room: the put waits from now on, or is refused.

        ``by``: what holds it up, if it is not the queue's size: ``MAX_PER_KEY``.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class ObservedQueue(Protocol):
    """The part of a queue that an observer reads, from another thread."""

    @property
    def name(self) -> str:
        """The name of the queue."""
        ...

    @property
    def maxsize(self) -> int:
        """The most items that may wait."""
        ...

    def statistics(self) -> Any:
        """A ``QueueStatistics``."""
        ...

    def readings(self) -> QueueReadings:
        """What else can be read of it."""
        ...


class ObserverProvider(Protocol):
    """Makes observers: what the parameter ``telemetry`` of a queue takes."""

    def get_observer(self, name: str) -> Observer:
        """A new observer, of the queue or policy that is called ``name``."""
        ...


class NoObserver:
    """Observes nothing."""

    record_exceptions = True
    verbose_errors = False

    def __init__(self, name: str) -> None:
        """Of the queue or policy that is called ``name``."""

    def is_enabled(self) -> bool:
        """No."""
        return False

    def watch_queue(self, queue: ObservedQueue, totals: ReadTotals, waiting: Sized) -> None:
        """Read nothing."""

    def on_put(self, origin: Origin | None = None) -> ObservedPut:
        """Is never called."""
        raise AssertionError("an observer that is not enabled was told of a put")

    def on_item(self, age: float = 0.0) -> ObservedItem:
        """Is never called."""
        raise AssertionError("an observer that is not enabled was told of an item")

    def on_retry(self, error: BaseException) -> None:
        """Ignore it."""

    def on_dead_letter(self, error: BaseException) -> None:
        """Ignore it."""

    def on_limit_wait(self, name: str, seconds: float) -> None:
        """Ignore it."""


#: Makes the observer of a queue or policy of this name that is given none. ``penstock/__init__``
#: sets it to telemetry's.
default_observer: Callable[[str], Observer] = NoObserver


def observer_of(telemetry: ObserverProvider | None, name: str) -> Observer:
    """The observer of the queue or policy that is called ``name``.

    Raises:
        TypeError: ``telemetry`` cannot make one.
    """
    if telemetry is None:
        return default_observer(name)
    if isinstance(telemetry, type) or not hasattr(telemetry, "get_observer"):
        raise TypeError(
            f"telemetry must be a penstock.telemetry.Telemetry, got {checks.shown(telemetry)}"
        )
    return telemetry.get_observer(name)
