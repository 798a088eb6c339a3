"""Clients of httpx2 that keep to limits, with one argument.

>>> import httpx2, penstock.httpx2
>>> from penstock import Limit, RetryPolicy
>>> transport = penstock.httpx2.PolicyTransport(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
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
from penstock.http import judgement, transports
from penstock.http.bodies import TaskBody, ThreadBody
from penstock.http.client import errors_of
from penstock.http.transports import permit_of

__all__ = [
    "BudgetExceededError",
    "CircuitBreakerOpenError",
    "DeadlineExceededError",
    "PolicyTransport",
    "QueueFullError",
    "QueueTransport",
    "SyncPolicyTransport",
    "SyncQueueTransport",
    "is_failure",
    "permit_of",
    "worth_retrying",
]


class QueueFullError(own.QueueFullError, httpx2.PoolTimeout):
    """There was no slot for the request in time, or too many waited; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, httpx2.TransportError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, httpx2.TransportError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, httpx2.TimeoutException):
    """The request could not be sent before its deadline."""


_ERRORS = errors_of(
    QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
)


def is_failure(response: httpx2.Response) -> bool:
    """Whether a response is a failure, unless a transport is told otherwise.

    408, 425, 429, and 500 and above. Below 500 also where the service wants the request to be sent
    again (``x-should-retry: true``), and a 403 that is about a rate: with ``Retry-After``, or with
    nothing remaining.
    """
    return judgement.is_failure(response.status_code, response.headers)


def worth_retrying(error: Exception, retry_unsafe: bool = False) -> bool:
    """Whether a request that failed with ``error`` is sent again, unless a policy says otherwise.

    For idempotent methods (GET, HEAD, OPTIONS, PUT, DELETE…; RFC 9110, section 9.2.2), for requests
    with an ``Idempotency-Key``, and for all with ``retry_unsafe``: after all of
    :func:`is_failure`, and after an ``httpx2.TransportError`` that says that the connection failed.
    For others (POST, PATCH) only where the service has not done it: after 408, 409, 425, 429 and
    503, where it says ``x-should-retry: true``, or if there was no connection.

    Never where the answer says that another attempt is of no use: credit or quota is used up
    (which is seen in bodies of up to 64 KiB), ``x-should-retry: false``, 501, 505.
    """
    return transports.worth_retrying(httpx2, error, retry_unsafe)


class _AsyncStream(TaskBody, httpx2.AsyncByteStream):
    pass


class _Stream(ThreadBody, httpx2.SyncByteStream):
    pass


class PolicyTransport(
    transports.AsyncPolicyTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncBaseTransport,
):
    """:class:`penstock.httpx.PolicyTransport` for ``httpx2.AsyncClient(transport=...)``.

    The same in everything; where that says httpx, this is httpx2.
    """

    _library: ClassVar[Any] = httpx2
    _errors: ClassVar[dict[type[own.PenstockError], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx2.AsyncHTTPTransport
    _body: ClassVar[type[Any]] = _AsyncStream


class SyncPolicyTransport(
    transports.BlockingPolicyTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response],
    httpx2.BaseTransport,
):
    """:class:`penstock.httpx.SyncPolicyTransport` for ``httpx2.Client(transport=...)``.

    The same in everything; where that says httpx, this is httpx2.
    """

    _library: ClassVar[Any] = httpx2
    _errors: ClassVar[dict[type[own.PenstockError], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx2.HTTPTransport
    _body: ClassVar[type[Any]] = _Stream


#: The names that they had before.
QueueTransport = PolicyTransport
SyncQueueTransport = SyncPolicyTransport
