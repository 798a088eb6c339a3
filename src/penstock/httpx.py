"""Clients of httpx that keep to limits, by one argument.

>>> import httpx, penstock.httpx
>>> from penstock import Limit, RetryPolicy
>>> transport = penstock.httpx.QueueTransport(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
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


class QueueFullError(own.QueueFullError, httpx.PoolTimeout):
    """There was no room for the request in time; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, httpx.TransportError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, httpx.TransportError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, httpx.TimeoutException):
    """The request could not be sent before its deadline."""


_ERRORS = errors_of(
    QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
)


def worth_retrying(error: Exception) -> bool:
    """Whether a request that failed with ``error`` is sent again, unless a policy says otherwise.

    An answer that is a failure is, whatever the method: the server says that it did not do it.
    Not so where the answer says that another attempt is of no use: credit or quota is used up
    (which is seen in bodies of up to 64 KiB), ``x-should-retry: false``, 501, 505.
    (``httpx.HTTPStatusError``, with ``response`` and ``request``.) So is a request that did not
    reach the server: no connection. Any other ``httpx.TransportError`` may come after the server
    has done its work; it is worth it for methods that are idempotent (GET, HEAD, OPTIONS, PUT,
    DELETE…; RFC 9110, section 9.2.2), and with an ``Idempotency-Key``.
    """
    return judgement.worth_retrying(httpx, error)


class _AsyncStream(tasks.HeldStream, httpx.AsyncByteStream):
    pass


class _Stream(threads.HeldStream, httpx.SyncByteStream):
    pass


class QueueTransport(
    tasks.AsyncTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncBaseTransport,
):
    """Sends requests through limits, retries and telemetry: ``httpx.AsyncClient(transport=...)``.

    For one event loop, that of the first request, which starts a :class:`penstock.WorkQueue`. The
    client closes it. Every request goes through: each hop of a redirect is one.

    Args:
        limits: how fast requests may start: a list of :class:`penstock.Limit`, or of
            texts such as ``"500/min"``; or a :class:`penstock.Limiter` that other transports and
            queues share. ``cost`` and ``key`` functions get the ``httpx.Request``.
        retry: a :class:`penstock.RetryPolicy`; ``None``: none. Unless it has an ``on`` of its own,
            :func:`worth_retrying` decides. Only requests whose body is at hand are sent again:
            one that is a stream can be sent once, and its failure is passed on.
        concurrency: how many requests are under way at once, or an
            :class:`penstock.AdaptiveConcurrency`.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        deadline: seconds in which a request must have been sent, all attempts included; after that
            it is not, and its caller gets :class:`DeadlineExceededError`. ``None``: no limit.
        maxsize: how many requests wait in the queue; the callers of more wait for room there.
        timeout: seconds for which they do, then they get :class:`QueueFullError`. Unless given, as
            long as it takes.
        transport: what sends, ``httpx.AsyncHTTPTransport()`` unless given. httpx ignores the
            ``verify``, ``cert``, ``http1``, ``http2``, ``limits`` and ``proxy`` of a client that
            is given a transport, and the proxies of the environment: they belong there,
            ``transport=httpx.AsyncHTTPTransport(http2=True, proxy=...)``. Its pool holds 100
            connections unless it is told otherwise.
        is_failure: tells of a response, whose body is not read yet, whether it is a failure:
            something for ``retry``, ``breaker`` and adaptive concurrency. Unless given,
            :func:`is_failure`: status 408, 425, 429, or 500 and above; a 403 that is about a rate,
            and what the service wants to be sent again (``x-should-retry: true``).
        name: what the queue is called in logs and telemetry.
        telemetry: as for :class:`penstock.WorkQueue`. The put and each attempt have spans, under
            that of the caller; those of an instrumented httpx come under the attempt's. No URL,
            header or body is recorded.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    **What a caller gets.** A response, as from any transport: when all attempts ended in a failure,
    the last response, and ``raise_for_status()`` says so. What the last attempt raised, if there
    was none. :class:`QueueFullError`, :class:`CircuitBreakerOpenError`,
    :class:`BudgetExceededError` and :class:`DeadlineExceededError` are errors of penstock and of
    httpx both. ``QueueStateError``:
    the transport is closed, or belongs to another event loop. ``ValueError``: a limit can never
    let the request pass.

    **What counts when.** For limits, a request counts from when it is sent, each attempt anew. For
    ``concurrency``, until its response is closed, which reading to the end does: who holds as many
    streams open as ``concurrency`` says, and asks for one more, waits until ``deadline``, or for
    ever. For latency (adaptive concurrency, deadlines), until the headers are there. Failures are
    read first, up to 1 MiB, so that their connection is used again; longer ones are passed on.

    **Timeouts** of httpx are for each attempt. Waiting for a turn is not among them; ``deadline``
    bounds it, and ``asyncio.timeout`` around the call. A caller that is cancelled takes its
    request with it: what waits is never sent, what is in flight is broken off.

    **Headers** of each response go to ``limits.observe``: with ``Retry-After`` and the like all
    requests wait. What a request truly cost is told by ``response.extensions["penstock_permit"]``,
    a permit: ``permit.settle("tokens", response.json()["usage"]["total_tokens"])``.
    """

    library: ClassVar[Any] = httpx
    errors: ClassVar[dict[type[Exception], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx.AsyncHTTPTransport
    _stream: ClassVar[type[Any]] = _AsyncStream


class SyncQueueTransport(
    threads.BlockingTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.BaseTransport,
):
    """The same for threads: ``httpx.Client(transport=SyncQueueTransport(...))``.

    The arguments, and what holds, are those of :class:`QueueTransport`, with a
    :class:`penstock.sync.WorkQueue` and ``httpx.HTTPTransport()``; ``is_failure`` runs in the
    calling thread. Any number of threads may send. Each request is sent by its own thread; Ctrl-C
    gets out of the wait and of the request. A running event loop is refused, since waiting would
    block it: use :class:`QueueTransport` there. (In a notebook it works in each cell that has no
    ``await`` of its own.) After a fork, one that was used before refuses too.
    """

    library: ClassVar[Any] = httpx
    errors: ClassVar[dict[type[Exception], Any]] = _ERRORS
    _make_inner: ClassVar[type[Any]] = httpx.HTTPTransport
    _stream: ClassVar[type[Any]] = _Stream
