"""The exceptions of penstock that users catch.

All of them pickle, with their attributes.
"""

from __future__ import annotations

import asyncio
import queue as _stdlib_queue
from typing import Any


class PenstockError(Exception):
    """Base of all errors of penstock. ``message`` is the text; ``str(error)`` is the same."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with ``args`` alone, and so loses keyword-only arguments.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    cls: type[PenstockError], args: tuple[Any, ...], state: dict[str, Any]
) -> PenstockError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


#: The same class, under the name that a client of an API expects.
APIClientError = PenstockError


class QueueError(PenstockError):
    """Base of the errors of queues: of calls that a queue refuses, and of its broker."""


# The second and third bases let ``except queue.Full`` and ``except asyncio.QueueFull``,
# already written in somebody's code, go on working.
class QueueFullError(QueueError, _stdlib_queue.Full, asyncio.QueueFull):
    """There was no room in time. The item was not accepted and will not be.

    ``queue_size``: how many items waited. ``queue_capacity``: how many items may wait. Either
    is ``None`` if it is not known. Also a ``queue.Full`` and an ``asyncio.QueueFull``.
    """

    def __init__(
        self,
        message: str = "Queue is full",
        *,
        queue_size: int | None = None,
        queue_capacity: int | None = None,
    ) -> None:
        super().__init__(message)
        self.queue_size = queue_size
        self.queue_capacity = queue_capacity


class QueueEmptyError(QueueError, _stdlib_queue.Empty, asyncio.QueueEmpty):
    """No item came in time. Also a ``queue.Empty`` and an ``asyncio.QueueEmpty``."""

    def __init__(self, message: str = "Queue is empty") -> None:
        super().__init__(message)


class QueueStateError(QueueError, RuntimeError):
    """The call is not possible in the state of the queue. Also a ``RuntimeError``.

    ``current_state`` is that state, the value of a :class:`penstock.QueueStatus`, for example
    ``"idle"``; ``None`` if it does not matter.
    """

    def __init__(self, message: str, *, current_state: str | None = None) -> None:
        super().__init__(message)
        self.current_state = current_state


# Python 3.13 has two more of the kind, for queues that are shut down.
_SHUT_DOWN: tuple[type[Exception], ...] = tuple(
    kind
    for kind in (
        getattr(_stdlib_queue, "ShutDown", None),
        getattr(asyncio, "QueueShutDown", None),
    )
    if kind is not None
)


class QueueClosedError(QueueStateError, *_SHUT_DOWN):  # type: ignore[misc]
    """The queue is closed: no item can be put, or no item is left to be taken.

    From Python 3.13 on also a ``queue.ShutDown`` and an ``asyncio.QueueShutDown``.
    """

    def __init__(
        self, message: str = "Queue is closed", *, current_state: str | None = None
    ) -> None:
        super().__init__(message, current_state=current_state)


class BrokerError(QueueError):
    """The broker could not be reached, or it refused. From a put: the item was not accepted."""


class QueueUnknownError(BrokerError):
    """It is not known whether the broker accepted the item: its answer never came.

    The item is in the queue at most once. ``message_id`` is the id of the item's message.
    ``accepted``: of a ``put_many``, how many items were accepted before it; else 0.
    """

    def __init__(self, message: str, *, message_id: str | None = None, accepted: int = 0) -> None:
        super().__init__(message)
        self.message_id = message_id
        self.accepted = accepted


class CodecError(QueueError, ValueError):
    """An item cannot be encoded as bytes, or bytes cannot be decoded. Also a ``ValueError``."""


class BatchError(PenstockError):
    """Items of a batch failed. ``result`` is its :class:`penstock.BatchResult`."""

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class RateLimitError(PenstockError):
    """The service said "too many requests". ``retry_after``: the seconds it asked for, or None."""

    def __init__(
        self, message: str = "Rate limit exceeded", *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitBreakerOpenError(PenstockError):
    """The call was not attempted, because too many calls before it failed.

    ``retry_after``: seconds until the breaker may allow a call, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BudgetExceededError(PenstockError):
    """A :class:`penstock.Budget` has less left than the call costs; the call was not made.

    ``budget``: the name of the budget. ``max``: its whole amount. ``used``: the used amount, with
    the estimates for running calls. ``cost``: what the call would have cost. Each is ``None`` if it
    is not known.
    """

    def __init__(
        self,
        message: str = "The budget is spent",
        *,
        budget: str | None = None,
        max: float | None = None,
        used: float | None = None,
        cost: float | None = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.max = max
        self.used = used
        self.cost = cost


class OutageError(PenstockError):
    """The service has been down for longer than ``give_up_after`` of the retry policy.

    An item that was held and never attempted has this error. ``map`` and ``batch_process`` raise
    it, and stop reading items. ``result``: for ``batch_process``, its
    :class:`penstock.BatchResult`; otherwise None.
    """

    def __init__(
        self, message: str = "The service has been down for too long", *, result: Any = None
    ) -> None:
        super().__init__(message)
        self.result = result


class APITimeoutError(PenstockError):
    """The service did not answer in time."""


class DeadlineExceededError(PenstockError):
    """The item could not be done before its deadline any more, so it was not attempted."""
