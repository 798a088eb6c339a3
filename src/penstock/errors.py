"""The exceptions of penstock that users catch.

All of them pickle, and keep their context as attributes.
"""

from __future__ import annotations

import asyncio
import queue as _stdlib_queue
from typing import Any


class APIClientError(Exception):
    """Base of all penstock errors. ``message`` is the text; ``str(error)`` is the same."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with ``args`` alone and lose keyword-only context.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    cls: type[APIClientError], args: tuple[Any, ...], state: dict[str, Any]
) -> APIClientError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class QueueError(APIClientError):
    """Base of everything that a queue refuses."""


# The second and third bases let ``except queue.Full`` and ``except asyncio.QueueFull``,
# already written in somebody's code, go on working.
class QueueFullError(QueueError, _stdlib_queue.Full, asyncio.QueueFull):
    """There was no room in time. The item was not accepted and never will be.

    ``queue_size`` items waited and ``queue_capacity`` may; ``None`` where that is not known.
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
    """The call does not fit what the queue is doing; ``current_state`` says what that is.

    ``current_state`` is the value of a :class:`penstock.QueueStatus`, for example ``"idle"``.
    """

    def __init__(self, message: str, *, current_state: str | None = None) -> None:
        super().__init__(message)
        self.current_state = current_state


class BrokerError(QueueError):
    """The broker could not be reached, or refused. Of a put: the item was not accepted."""


class QueueUnknownError(BrokerError):
    """Nobody can say whether the item was accepted: the broker's answer never came.

    It is in the queue at most once. ``message_id`` is the one that it was offered with.
    """

    def __init__(self, message: str, *, message_id: str | None = None) -> None:
        super().__init__(message)
        self.message_id = message_id


class CodecError(QueueError, ValueError):
    """An item cannot be turned into bytes, or bytes into an item."""


class RateLimitError(APIClientError):
    """The service said "too many requests". ``retry_after``: seconds to wait, if it said."""

    def __init__(
        self, message: str = "Rate limit exceeded", *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitBreakerOpenError(APIClientError):
    """The call was not attempted: too many before it failed. ``retry_after``: seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class APITimeoutError(APIClientError):
    """The service did not answer in time."""


class DeadlineExceededError(APIClientError):
    """The item could no longer be served before its deadline, so it was not attempted."""
