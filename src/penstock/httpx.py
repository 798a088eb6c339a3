"""Clients of httpx that keep to limits, by one argument.

>>> import httpx, penstock.httpx
>>> from penstock import Limit, RetryPolicy
>>> transport = penstock.httpx.PolicyTransport(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
>>> client = httpx.AsyncClient(transport=transport)

SDKs that accept a client of httpx, as OpenAI's, get them so too. Needs ``penstock[httpx]``. For
those that accept one of httpx2, as Anthropic's, :mod:`penstock.httpx2` has the same.
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

    Each request is sent by the task that makes it, and each hop of a redirect is one.

    Args:
        limits: how fast requests may start: a list of :class:`penstock.Limit`, or of
            texts such as ``"500/min"``; or a :class:`penstock.Limiter` that other transports and
            queues share. ``cost`` and ``key`` functions get the ``httpx.Request``.
        retry: a :class:`penstock.RetryPolicy`; ``None``: none. Unless it has an ``on`` of its own,
            :func:`worth_retrying` decides. Only requests whose body is at hand are sent again:
            one that is a stream can be sent once, and its failure is passed on.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        concurrency: how many requests are under way at once, at least 1, or an
            :class:`penstock.AdaptiveConcurrency`. Who waits gets a slot in turn.
        timeout: seconds, zero or more, for which a request waits for a slot; then its caller gets
            :class:`QueueFullError`. Unless given, as long as it takes.
        deadline: seconds in which a request must have been sent, all attempts and waits included;
            after that it is not, and its caller gets :class:`DeadlineExceededError`, or what the
            last attempt ended with. ``None``: that of the policy, if there is one.
        maxsize: how many requests may wait for their first attempt, at least 1; the caller of one
            more gets :class:`QueueFullError` at once. ``None``: any number.
        retry_unsafe: whether requests are sent again that may have been processed, though their
            method is not idempotent. Set this for an API that is all POST, as those of LLMs are.
        is_failure: tells of a response, whose body is not read yet, whether it is a failure:
            something for ``retry``, ``breaker`` and adaptive concurrency. Unless given,
            :func:`is_failure`: status 408, 425, 429, or 500 and above; a 403 that is about a rate,
            and what the service wants to be sent again (``x-should-retry: true``).
        gate_key: a function from a request to the key of its gate. When a service says "too many
            requests", the requests with its key wait. Unless given, the host; or the keys of the
            limits, where any has ``key=``.
        policy: a :class:`penstock.Policy` in place of ``limits``, ``retry``, ``breaker`` and
            ``gate_key``, which other clients and queues share. Its ``concurrency``, if it has one,
            bounds all of them together.
        transport: what sends: ``httpx.AsyncHTTPTransport``, with as many connections as
            ``concurrency``, unless given. httpx ignores the ``verify``, ``cert``, ``http1``,
            ``http2``, ``limits`` and ``proxy`` of a client that is given a transport, and the
            proxies of the environment: they belong there,
            ``transport=httpx.AsyncHTTPTransport(http2=True, proxy=...)``. Where one has fewer
            connections than ``concurrency``, no more requests than that are under way.
        name: what it is called in errors and telemetry; "http" unless given, or the policy's name.
        telemetry: as for :class:`penstock.WorkQueue`. Each attempt has a span under that of the
            caller, until the headers are there, with ``http.request.resend_count`` if it is not
            the first; the spans of an instrumented httpx come under it. No URL, header or body is
            recorded.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    **What a caller gets.** A response, as from any transport: when all attempts ended in a failure,
    the last response, and ``raise_for_status()`` says so. What the last attempt raised, if there
    was none. What was never sent: :class:`QueueFullError`, :class:`CircuitBreakerOpenError`,
    :class:`BudgetExceededError` and :class:`DeadlineExceededError`, which are errors of penstock
    and of httpx both. ``QueueStateError``: the transport is closed. ``ValueError``: a limit can
    never let the request pass.

    **What counts when.** For limits, a request counts from when it is sent, each attempt anew. For
    ``concurrency``, until its response is closed, which reading to the end does: who holds as many
    streams open as ``concurrency`` says, and asks for one more, waits until ``deadline`` or
    ``timeout``, or for ever. For latency (adaptive concurrency, deadlines), until the headers are
    there. Failures are read first, up to 1 MiB, so that their connection is used again; longer ones
    are passed on.

    **Timeouts** of httpx are for each attempt. Waits are not among them; ``deadline`` bounds them,
    and ``asyncio.timeout`` around the call. A caller that is cancelled takes its request with it:
    what waits is never sent and has used nothing up, what is in flight is broken off.

    **Headers** of each response go to ``limits.observe``: with ``Retry-After`` and the like all
    requests to that host wait. What a request truly cost is told by
    ``response.extensions["penstock_permit"]``, a permit:
    ``permit.settle("tokens", response.json()["usage"]["total_tokens"])``.

    :meth:`statistics` tells how it does: a :class:`penstock.policies.policy.PolicyStatistics`.
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

    The arguments, and what holds, are those of :class:`PolicyTransport`, with
    ``httpx.HTTPTransport``. Any number of threads may send. Each request is sent by its own thread;
    Ctrl-C gets out of the wait and of the request. Where an event loop runs in the thread, a
    request that would have to wait gets ``QueueStateError``, since it would block the loop: use
    :class:`PolicyTransport` there. (In a notebook it works in each cell that has no ``await`` of
    its own.) In a forked child the limits and slots are as new.
    """

    _library: ClassVar[Any] = httpx
    _errors: ClassVar[dict[type[own.PenstockError], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx.HTTPTransport
    _body: ClassVar[type[Any]] = _Stream


#: The names that they had before.
QueueTransport = PolicyTransport
SyncQueueTransport = SyncPolicyTransport
