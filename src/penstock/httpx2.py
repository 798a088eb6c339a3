"""Clients of httpx2 that keep to limits, by one argument.

>>> import httpx2, penstock.httpx2
>>> from penstock import Limit, RetryPolicy
>>> transport = penstock.httpx2.QueueTransport(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
>>> client = httpx2.AsyncClient(transport=transport)

The same as :mod:`penstock.httpx`, with the classes of httpx2, which OpenAI's and Anthropic's SDKs
are built on. Needs ``penstock[httpx2]``.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import httpx2
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ImportError(
        "penstock.httpx2 needs the package httpx2: pip install 'penstock[httpx2]'"
    ) from None

from penstock import errors as own
from penstock.http import judgement, tasks, threads
from penstock.http.face import errors_of
from penstock.http.judgement import is_failure

__all__ = [
    "BudgetExceededError",
    "CircuitBreakerOpenError",
    "DeadlineExceededError",
    "QueueFullError",
    "QueueTransport",
    "SyncQueueTransport",
    "is_failure",
    "worth_retrying",
]


class QueueFullError(own.QueueFullError, httpx2.PoolTimeout):
    """There was no room for the request in time; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, httpx2.TransportError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, httpx2.TransportError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, httpx2.TimeoutException):
    """The request could not be sent before its deadline."""


_ERRORS = errors_of(
    QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
)


def worth_retrying(error: Exception) -> bool:
    """Whether a request that failed with ``error`` is sent again, unless a policy says otherwise.

    An answer that is a failure is, whatever the method: the server says that it did not do it.
    Not so where the answer says that another attempt is of no use: credit or quota is used up
    (which is seen in bodies of up to 64 KiB), ``x-should-retry: false``, 501, 505.
    (``httpx2.HTTPStatusError``, with ``response`` and ``request``.) So is a request that did not
    reach the server: no connection. Any other ``httpx2.TransportError`` may come after the server
    has done its work; it is worth it for methods that are idempotent (GET, HEAD, OPTIONS, PUT,
    DELETE…; RFC 9110, section 9.2.2), and with an ``Idempotency-Key``.
    """
    return judgement.worth_retrying(httpx2, error)


class _AsyncStream(tasks.HeldStream, httpx2.AsyncByteStream):
    pass


class _Stream(threads.HeldStream, httpx2.SyncByteStream):
    pass


class QueueTransport(
    tasks.AsyncTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """:class:`penstock.httpx.QueueTransport` for ``httpx2.AsyncClient(transport=...)``.

    The same in everything; where that says httpx, this is httpx2.
    """

    library: ClassVar[Any] = httpx2
    errors: ClassVar[dict[type[Exception], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx2.AsyncHTTPTransport
    _stream: ClassVar[type[Any]] = _AsyncStream


class SyncQueueTransport(
    threads.BlockingTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response],
    httpx2.BaseTransport,
):
    """:class:`penstock.httpx.SyncQueueTransport` for ``httpx2.Client(transport=...)``.

    The same in everything; where that says httpx, this is httpx2.
    """

    library: ClassVar[Any] = httpx2
    errors: ClassVar[dict[type[Exception], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx2.HTTPTransport
    _stream: ClassVar[type[Any]] = _Stream
