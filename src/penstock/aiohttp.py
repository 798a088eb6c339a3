"""Sessions of aiohttp that keep to limits, with one argument.

>>> import aiohttp, penstock.aiohttp
>>> from penstock import Limit, RetryPolicy
>>> middleware = penstock.aiohttp.PolicyMiddleware(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
>>> session = aiohttp.ClientSession(middlewares=[middleware])  # in an event loop

Needs ``penstock[aiohttp]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

try:
    import aiohttp
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    raise ImportError(
        "penstock.aiohttp needs the package aiohttp: pip install 'penstock[aiohttp]'"
    ) from None

from penstock import errors as own
from penstock.http import judgement
from penstock.http.client import LONGEST_FAILURE, errors_of, permit_on, put_permit_on
from penstock.http.sender import CONCURRENCY
from penstock.http.shown import PolicyShown
from penstock.http.slot import HeldSlot
from penstock.http.tasks import TaskSender
from penstock.limits import AdaptiveConcurrency, CircuitBreaker, Limit, Limiter, RetryPolicy
from penstock.limits.rate.permit import Permit
from penstock.policies.gate_keys import GateKey
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy

__all__ = [
    "BudgetExceededError",
    "CircuitBreakerOpenError",
    "DeadlineExceededError",
    "PolicyMiddleware",
    "QueueFullError",
    "ResponseError",
    "is_failure",
    "permit_of",
]


class QueueFullError(own.QueueFullError, aiohttp.ConnectionTimeoutError):
    """There was no slot for the request in time, or too many waited; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, aiohttp.ClientConnectionError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, aiohttp.ClientConnectionError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, aiohttp.ServerTimeoutError):
    """The request could not be sent before its deadline."""


class ResponseError(aiohttp.ClientResponseError):
    """A response that is a failure, as functions of a policy get it. Callers get the response.

    ``response``: that. ``body``: its body, unless it is longer than 1 MiB. The text names no URL.
    """

    def __init__(self, response: ClientResponse) -> None:
        super().__init__(
            response.request_info,
            response.history,
            status=response.status,
            message=response.reason or "",
            headers=response.headers,
        )
        self.response = response
        self.body: bytes | None = response._body  # it is read, or None

    def __str__(self) -> str:
        return f"{self.status} {self.message}".rstrip()


def is_failure(response: ClientResponse) -> bool:
    """Whether a response is a failure, unless a middleware is told otherwise.

    408, 425, 429, and 500 and above. Below 500 also where the service wants the request to be sent
    again (``x-should-retry: true``), and a 403 that is about a rate: with ``Retry-After``, or with
    nothing remaining.
    """
    return judgement.is_failure(response.status, response.headers)


def permit_of(response: ClientResponse) -> Permit | None:
    """What a request took from the limits, to be settled; None: it was sent under none.

    >>> permit_of(response).settle("tokens", (await response.json())["usage"]["total_tokens"])
    """
    return permit_on(response)


class PolicyMiddleware(PolicyShown[TaskSender]):
    """Sends requests under a policy: ``ClientSession(middlewares=[PolicyMiddleware(...)])``.

    The task that makes a request sends it. Each hop of a redirect is one request. Several sessions,
    in any event loops, may use one middleware.

    Args:
        limits: how fast requests may start: a list of :class:`penstock.Limit`, or of texts such as
            ``"500/min"``; or a :class:`penstock.Limiter` that others share. ``cost`` and ``key``
            functions get the ``aiohttp.ClientRequest``.
        retry: a :class:`penstock.RetryPolicy`; ``None``: none. If it has no ``on``, requests are
            sent again as :func:`penstock.httpx.worth_retrying` says; an ``on`` gets the errors of
            aiohttp, and :class:`ResponseError` for responses. A body that can be read only
            once, for example of an async generator, is sent once, and its failure is passed on.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        concurrency: how many requests are sent at once, at least 1, or an
            :class:`penstock.AdaptiveConcurrency`; never more than the connector of the session has
            connections (``TCPConnector(limit=100)``).
        timeout: seconds, zero or more, for which a request waits for a slot; then its caller gets
            :class:`QueueFullError`. Default: as long as it takes.
        deadline: seconds in which a request must have been sent, all attempts and waits included.
            Later it is not sent, and its caller gets :class:`DeadlineExceededError`, or the result
            of the last attempt. ``None``: the deadline of the policy, if there is one.
        maxsize: how many requests may wait for their first attempt, at least 1; the caller of one
            more gets :class:`QueueFullError` at once. ``None``: any number.
        retry_unsafe: send requests again that may have been processed, also if their method is not
            idempotent. Set this for an API where all calls are POST.
        is_failure: a function from a response, whose body is not read yet, to whether it is a
            failure. Default: :func:`is_failure`.
        gate_key: a function from a request to the key of its gate. When a service says "too many
            requests", the requests with its key wait. Default: the host; or the keys of the
            limits, if any has ``key=``.
        policy: a :class:`penstock.Policy` in place of ``limits``, ``retry``, ``breaker`` and
            ``gate_key``, which other clients and queues share.
        name: its name in errors and telemetry; "http" by default, or the name of the policy.
        telemetry: as for :class:`penstock.WorkQueue`. Each attempt has a span under the span of the
            caller, until the headers are there. No URL, header or body is recorded.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    **What a caller gets.** A response. If all attempts failed, it is the last one, and
    ``raise_for_status`` works as usual. If there was no response, the caller gets the exception of
    the last attempt. A request that was never sent raises :class:`QueueFullError`,
    :class:`CircuitBreakerOpenError`, :class:`BudgetExceededError` or
    :class:`DeadlineExceededError`, which are errors of penstock and of aiohttp. ``ValueError``: a
    limit can never let the request pass.

    **What counts when.** For limits, a request counts when it is sent, each attempt again. For
    ``concurrency``, it counts until its response is read to the end, released, closed or
    garbage-collected. Failures are read first, unless they say that they are longer than 1 MiB.

    **Timeouts.** ``ClientTimeout(total=...)`` is for all waits and attempts together, and the
    default of aiohttp is 300 seconds: use ``total=None`` with ``sock_connect`` and ``sock_read``,
    which are for each attempt. ``deadline`` limits the waits. When a caller is cancelled, its
    request is cancelled: a request that waits is not sent and uses up nothing.

    If a kept-alive connection broke and the method is idempotent, aiohttp itself repeats the
    request once; this is a new request here, with its own attempts.
    """

    def __init__(
        self,
        limits: Iterable[Limit | str] | Limiter = (),
        *,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        concurrency: int | AdaptiveConcurrency = CONCURRENCY,
        timeout: float = math.inf,
        deadline: float | None = None,
        maxsize: int | None = None,
        retry_unsafe: bool = False,
        is_failure: Callable[[ClientResponse], bool] | None = None,
        gate_key: GateKey | None = None,
        policy: Policy | None = None,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        self._sender = TaskSender(
            _AiohttpClient(),
            limits,
            retry=retry,
            breaker=breaker,
            concurrency=concurrency,
            timeout=timeout,
            deadline=deadline,
            maxsize=maxsize,
            retry_unsafe=retry_unsafe,
            is_failure=is_failure,
            gate_key=gate_key,
            policy=policy,
            name=name,
            telemetry=telemetry,
        )

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send a request when it may be sent; aiohttp calls this."""
        sender = self._sender
        connector = request.session.connector
        if connector is not None and 0 < connector.limit < sender.connections:
            sender.connections = connector.limit
        is_again = False

        async def once() -> ClientResponse:
            nonlocal is_again
            if is_again:
                await request.close()  # what still writes the body of the last attempt
            is_again = True
            return await handler(request)

        response: ClientResponse = await sender.send(request, once)
        return response


class _AiohttpClient:
    """What is particular to aiohttp."""

    name = "PolicyMiddleware"
    errors = errors_of(
        QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
    )

    def status(self, response: ClientResponse) -> int:
        return response.status

    def headers(self, response: ClientResponse) -> Any:
        return response.headers

    def header_names(self, response: ClientResponse) -> list[bytes]:
        return [name for name, _ in response.raw_headers]

    def host(self, request: ClientRequest) -> str:
        return request.url.host or ""

    def can_resend(self, request: ClientRequest) -> bool:
        return not getattr(request.body, "consumed", False)

    def add_permit(self, response: ClientResponse, permit: Permit) -> None:
        put_permit_on(response, permit)

    def hold(self, response: ClientResponse, slot: HeldSlot) -> None:
        connection = response.connection
        if connection is None:  # the body is there already
            slot.end()
        else:
            connection.add_callback(slot.end)

    async def read_failure(self, response: ClientResponse) -> bool:
        length = response.content_length
        if length is not None and length > LONGEST_FAILURE and response.method != "HEAD":
            return False
        await response.read()
        return True

    async def close(self, response: ClientResponse) -> None:
        response.close()

    def failure(self, request: ClientRequest, response: ClientResponse) -> Exception:
        return ResponseError(response)

    def answer(self, response: ClientResponse) -> ClientResponse:
        return response

    def told(self, request: ClientRequest, error: Exception) -> Exception:
        return error
