"""Clients of httpx that keep to limits, with one argument.

>>> import httpx, penstock.httpx
>>> from penstock import Limit, RetryPolicy
>>> transport = penstock.httpx.PolicyTransport(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
>>> client = httpx.AsyncClient(transport=transport)

SDKs that accept a client of httpx can use this client. Needs ``penstock[httpx]``. For SDKs that
accept a client of httpx2, such as OpenAI's and Anthropic's, :mod:`penstock.httpx2` has the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ImportError(
        "penstock.httpx needs the package httpx: pip install 'penstock[httpx]'"
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


class QueueFullError(own.QueueFullError, httpx.PoolTimeout):
    """There was no slot for the request in time, or too many waited; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, httpx.TransportError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, httpx.TransportError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, httpx.TimeoutException):
    """The request could not be sent before its deadline."""


_ERRORS = errors_of(
    QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
)


def is_failure(response: httpx.Response) -> bool:
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
    :func:`is_failure`, and after an ``httpx.TransportError`` that says that the connection failed.
    For others (POST, PATCH) only where the service has not done it: after 408, 409, 425, 429 and
    503, where it says ``x-should-retry: true``, or if there was no connection.

    Never where the answer says that another attempt is of no use: credit or quota is used up
    (which is seen in bodies of up to 64 KiB), ``x-should-retry: false``, 501, 505.
    """
    return transports.worth_retrying(httpx, error, retry_unsafe)


class _AsyncStream(TaskBody, httpx.AsyncByteStream):
    pass


class _Stream(ThreadBody, httpx.SyncByteStream):
    pass


class PolicyTransport(
    transports.AsyncPolicyTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncBaseTransport,
):
    """Sends requests under a policy: ``httpx.AsyncClient(transport=PolicyTransport(...))``.

    The task that makes a request sends it. Each hop of a redirect is one request.

    Args:
        limits: how fast requests may start: a list of :class:`penstock.Limit`, or of
            texts such as ``"500/min"``; or a :class:`penstock.Limiter` that other transports and
            queues share. ``cost`` and ``key`` functions get the ``httpx.Request``.
        retry: a :class:`penstock.RetryPolicy`; ``None``: none. If it has no ``on``,
            :func:`worth_retrying` decides. A request whose body is a stream can be sent only once,
            and its failure is passed on.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        concurrency: how many requests are sent at once, at least 1, or an
            :class:`penstock.AdaptiveConcurrency`. Requests get a slot in their order.
        timeout: seconds, zero or more, for which a request waits for a slot; then its caller gets
            :class:`QueueFullError`. Default: as long as it takes.
        deadline: seconds in which a request must have been sent, all attempts and waits included.
            Later it is not sent, and its caller gets :class:`DeadlineExceededError`, or the result
            of the last attempt. ``None``: the deadline of the policy, if there is one.
        maxsize: how many requests may wait for their first attempt, at least 1; the caller of one
            more gets :class:`QueueFullError` at once. ``None``: any number.
        retry_unsafe: send requests again that may have been processed, also if their method is not
            idempotent. Set this for an API where all calls are POST, as with LLMs.
        is_failure: a function from a response, whose body is not read yet, to whether it is a
            failure for ``retry``, ``breaker`` and adaptive concurrency. Default:
            :func:`is_failure`: status 408, 425, 429, or 500 and above; a 403 because of a rate,
            and a response that asks to be sent again (``x-should-retry: true``).
        gate_key: a function from a request to the key of its gate. When a service says "too many
            requests", the requests with its key wait. Default: the host; or the keys of the
            limits, if any has ``key=``.
        policy: a :class:`penstock.Policy` in place of ``limits``, ``retry``, ``breaker`` and
            ``gate_key``, which other clients and queues share. Its ``concurrency``, if it has one,
            limits all of them together.
        transport: the inner transport that sends. Default: an ``httpx.AsyncHTTPTransport``, with as
            many connections as ``concurrency``. If a client has a transport, httpx ignores its
            ``verify``, ``cert``, ``http1``, ``http2``, ``limits`` and ``proxy``, and the
            proxies of the environment. Give them to the inner transport:
            ``transport=httpx.AsyncHTTPTransport(http2=True, proxy=...)``. If it has fewer
            connections than ``concurrency``, no more requests than that are sent at once.
        name: its name in errors and telemetry; "http" by default, or the name of the policy.
        telemetry: as for :class:`penstock.WorkQueue`. Each attempt has a span under the span of the
            caller, until the headers are there, with ``http.request.resend_count`` if it is not
            the first; the spans of an instrumented httpx are under it. No URL, header or body is
            recorded.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    **What a caller gets.** A response, as from any transport. If all attempts failed, it is the
    last response, and ``raise_for_status()`` raises its error. If there was no response, the caller
    gets the exception of the last attempt. A request that was never sent raises
    :class:`QueueFullError`, :class:`CircuitBreakerOpenError`, :class:`BudgetExceededError` or
    :class:`DeadlineExceededError`, which are errors of penstock and of httpx.
    ``QueueStateError``: the transport is closed. ``ValueError``: a limit can never let the request
    pass.

    **What counts when.** For limits, a request counts when it is sent, each attempt again. For
    ``concurrency``, it counts until its response is closed, or read to its end. A program that
    keeps as many streams open as ``concurrency`` allows, and sends one more request, waits until
    ``deadline`` or ``timeout``, or for ever. For latency (adaptive concurrency, deadlines), it
    counts until the headers are there. Failures are read first, up to 1 MiB, so that their
    connection can be used again; longer ones are passed on.

    **Timeouts** of httpx are for each attempt, without the waits. For the waits, use ``deadline``,
    or ``asyncio.timeout`` around the call. When a caller is cancelled, its request is cancelled: a
    request that waits is not sent and uses up nothing, a request in flight is aborted.

    **Headers** of each response go to ``limits.observe``: after ``Retry-After`` and similar
    headers, all requests to that host wait. Set the true cost of a request on its permit,
    ``response.extensions["penstock_permit"]``:
    ``permit.settle("tokens", response.json()["usage"]["total_tokens"])``.

    :meth:`statistics` returns a :class:`penstock.policies.policy.PolicyStatistics`.
    """

    _library: ClassVar[Any] = httpx
    _errors: ClassVar[dict[type[own.PenstockError], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx.AsyncHTTPTransport
    _body: ClassVar[type[Any]] = _AsyncStream


class SyncPolicyTransport(
    transports.BlockingPolicyTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.BaseTransport,
):
    """The same for threads: ``httpx.Client(transport=SyncPolicyTransport(...))``.

    The arguments and rules are those of :class:`PolicyTransport`, with ``httpx.HTTPTransport``. Any
    number of threads may send. Each request is sent by its own thread; Ctrl-C ends the wait and the
    request. If an event loop runs in the thread, a request that would wait raises
    ``QueueStateError``, because it would block the loop: use :class:`PolicyTransport` there. (In a
    notebook it works in each cell without ``await``.) In a forked child the limits and slots start
    empty.
    """

    _library: ClassVar[Any] = httpx
    _errors: ClassVar[dict[type[own.PenstockError], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx.HTTPTransport
    _body: ClassVar[type[Any]] = _Stream


#: The names that they had before.
QueueTransport = PolicyTransport
SyncQueueTransport = SyncPolicyTransport
