"""Sessions of requests that keep to limits, with one line.

>>> import requests, penstock.requests
>>> from penstock import Limit, RetryPolicy
>>> adapter = penstock.requests.PolicyAdapter(limits=[Limit(50, per=1)], retry=RetryPolicy(5))
>>> session = requests.Session()
>>> session.mount("https://api.example.com", adapter)

Needs ``penstock[requests]``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

try:
    import requests
    from requests import PreparedRequest, Response
    from requests.adapters import BaseAdapter, HTTPAdapter
    from requests.utils import rewind_body
except ModuleNotFoundError as error:
    if error.name != "requests":
        raise
    raise ImportError(
        "penstock.requests needs the package requests: pip install 'penstock[requests]'"
    ) from None

from penstock import errors as own
from penstock._util import checks
from penstock.http import judgement
from penstock.http.client import LONGEST_FAILURE, errors_of, permit_on, put_permit_on
from penstock.http.sender import CONCURRENCY
from penstock.http.shown import PolicyShown
from penstock.http.slot import HeldSlot
from penstock.http.threads import ThreadSender
from penstock.limits import AdaptiveConcurrency, CircuitBreaker, Limit, Limiter, RetryPolicy
from penstock.limits.rate.permit import Permit
from penstock.policies.gate_keys import GateKey
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy

__all__ = [
    "BudgetExceededError",
    "CircuitBreakerOpenError",
    "DeadlineExceededError",
    "PolicyAdapter",
    "QueueFullError",
    "is_failure",
    "permit_of",
]


class QueueFullError(own.QueueFullError, requests.ConnectTimeout):
    """There was no slot for the request in time, or too many waited; it was not sent."""


class CircuitBreakerOpenError(own.CircuitBreakerOpenError, requests.ConnectionError):
    """Too many requests before it failed; it was not sent."""


class BudgetExceededError(own.BudgetExceededError, requests.ConnectionError):
    """What is left of a budget is less than the request costs; it was not sent."""


class DeadlineExceededError(own.DeadlineExceededError, requests.Timeout):
    """The request could not be sent before its deadline."""


def is_failure(response: Response) -> bool:
    """Whether a response is a failure, unless an adapter is told otherwise.

    408, 425, 429, and 500 and above. Below 500 also where the service wants the request to be sent
    again (``x-should-retry: true``), and a 403 that is about a rate: with ``Retry-After``, or with
    nothing remaining.
    """
    return judgement.is_failure(response.status_code, response.headers)


def permit_of(response: Response) -> Permit | None:
    """What a request took from the limits, to be settled; None: it was sent under none.

    >>> permit_of(response).settle("tokens", response.json()["usage"]["total_tokens"])
    """
    return permit_on(response)


class PolicyAdapter(PolicyShown[ThreadSender], HTTPAdapter):
    """Sends requests under a policy: ``session.mount("https://", PolicyAdapter(...))``.

    The thread that makes a request sends it. Each hop of a redirect is one request. Mount one
    adapter for ``https://`` and ``http://``, or one for each service. Any number of sessions and
    threads may share one.

    Args:
        limits: how fast requests may start: a list of :class:`penstock.Limit`, or of texts such as
            ``"500/min"``; or a :class:`penstock.Limiter` that others share. ``cost`` and ``key``
            functions get the ``requests.PreparedRequest``.
        retry: a :class:`penstock.RetryPolicy`; ``None``: none. If it has no ``on``, requests are
            sent again as :func:`penstock.httpx.worth_retrying` says; an ``on`` gets
            errors of requests, ``HTTPError`` for responses. A body that is a file is read again
            from its start position; a generator is sent only once, and its failure is passed on.
        breaker: a :class:`penstock.CircuitBreaker`. ``None``: none.
        concurrency: how many requests are sent at once, at least 1, or an
            :class:`penstock.AdaptiveConcurrency`. The pool of each host has as many connections.
        timeout: seconds, zero or more, for which a request waits for a slot; then its caller gets
            :class:`QueueFullError`. Default: as long as it takes.
        deadline: seconds in which a request must have been sent, all attempts and waits included.
            Later it is not sent, and its caller gets :class:`DeadlineExceededError`, or the result
            of the last attempt. ``None``: the deadline of the policy, if there is one.
        maxsize: how many requests may wait for their first attempt, at least 1; the caller of one
            more gets :class:`QueueFullError` at once. ``None``: any number.
        retry_unsafe: send requests again that may have been processed, also if their method is not
            idempotent. Set this for an API where all calls are POST.
        is_failure: a function from a response to whether it is a failure. Default:
            :func:`is_failure`.
        gate_key: a function from a request to the key of its gate. When a service says "too many
            requests", the requests with its key wait. Default: the host; or the keys of the
            limits, if any has ``key=``.
        policy: a :class:`penstock.Policy` in place of ``limits``, ``retry``, ``breaker`` and
            ``gate_key``, which other clients and queues share.
        adapter: your own adapter, which sends the requests. Default: this one, which is an
            ``HTTPAdapter``.
        name: its name in errors and telemetry; "http" by default, or the name of the policy.
        telemetry: as for :class:`penstock.WorkQueue`. Each attempt has a span under the span of the
            caller. No URL, header or body is recorded.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    **What a caller gets.** A response. If all attempts failed, it is the last one, and
    ``raise_for_status()`` raises its error. If there was no response, the caller gets the exception
    of the last attempt. A request that was never sent raises :class:`QueueFullError`,
    :class:`CircuitBreakerOpenError`, :class:`BudgetExceededError` or
    :class:`DeadlineExceededError`, which are errors of penstock and of requests.
    ``ValueError``: a limit can never let the request pass. ``QueueStateError``: the request would
    wait, in a thread in which an event loop runs.

    **What counts when.** For limits, a request counts when it is sent, each attempt again. For
    ``concurrency``, it counts until its body is read, which requests does at once. With
    ``stream=True`` it counts until the body is read to its end, closed or garbage-collected. A body
    that ends too early is a failure like any other, unless it is a stream.

    **Timeouts** of requests are for each attempt, without the waits: use ``deadline`` for these.
    Ctrl-C ends the wait and the request. ``session.close()`` ends no waits, and the session can be
    used afterwards, as usual. In a forked child the limits and slots start empty.
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
        is_failure: Callable[[Response], bool] | None = None,
        gate_key: GateKey | None = None,
        policy: Policy | None = None,
        adapter: BaseAdapter | None = None,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        if adapter is not None and not isinstance(adapter, BaseAdapter):
            raise TypeError(
                f"adapter must be an adapter of requests or None, got {checks.shown(adapter)}"
            )
        self._sender = ThreadSender(
            _RequestsClient(),
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
        self._inner = adapter
        super().__init__(pool_maxsize=self._sender.pool_size)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request when it may be sent; sessions call this."""
        send: Any = super().send if self._inner is None else self._inner.send

        def once() -> Response:
            response: Response = send(request, stream, timeout, verify, cert, proxies)
            if not stream:
                response.content  # noqa: B018 - it is read now, and not by the session
            return response

        try:
            response: Response = self._sender.send(request, once)
        except requests.RequestException as error:
            error.request = error.request or request
            raise
        if self._inner is not None:
            response.connection = self  # by which auth sends again
        return response

    def close(self) -> None:
        """Close idle connections."""
        super().close()
        if self._inner is not None:
            self._inner.close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("cannot pickle a PolicyAdapter: its limits are those of this process")


class _RequestsClient:
    """What is particular to requests."""

    name = "PolicyAdapter"
    errors = errors_of(
        QueueFullError, CircuitBreakerOpenError, BudgetExceededError, DeadlineExceededError
    )

    def status(self, response: Response) -> int:
        return response.status_code

    def headers(self, response: Response) -> Any:
        return response.headers

    def header_names(self, response: Response) -> list[str]:
        return list(response.headers)

    def host(self, request: PreparedRequest) -> str:
        return urlsplit(request.url or "").hostname or ""

    def can_resend(self, request: PreparedRequest) -> bool:
        if request.body is None or isinstance(request.body, (bytes, str)):
            return True
        if not isinstance(getattr(request, "_body_position", None), int):
            return False
        try:
            rewind_body(request)
        except (requests.exceptions.UnrewindableBodyError, ValueError):  # it was closed
            return False
        return True

    def add_permit(self, response: Response, permit: Permit) -> None:
        put_permit_on(response, permit)

    def hold(self, response: Response, slot: HeldSlot) -> None:
        raw: Any = response.raw
        if _is_read(response) or raw is None or raw.closed:
            slot.end()
            return
        # What urllib3 calls when the body is read, and what requests and users call to close it.
        # The functions do not refer to ``raw``, which would then live until it is collected.
        for name in ("release_conn", "close"):
            if hasattr(raw, name):
                setattr(raw, name, _then(weakref.WeakMethod(getattr(raw, name)), slot))

    def read_failure(self, response: Response) -> bool:
        if _is_read(response):
            return True
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > LONGEST_FAILURE:
            return False
        response.content  # noqa: B018
        return True

    def close(self, response: Response) -> None:
        response.close()

    def failure(self, request: PreparedRequest, response: Response) -> Exception:
        text = f"{response.status_code} {response.reason or ''}".rstrip()
        return requests.HTTPError(text, request=request, response=response)

    def answer(self, response: Response) -> Response:
        return response

    def told(self, request: PreparedRequest, error: Exception) -> Exception:
        if not isinstance(error, requests.RequestException):
            return error
        # The text of urllib3's errors has the URL in it.
        reason = error.args[0] if error.args else None
        reason = getattr(reason, "reason", None) or reason
        text = "" if reason is None or isinstance(reason, str) else type(reason).__name__
        return type(error)(text, request=request)


def _is_read(response: Any) -> bool:
    return bool(response._content_consumed)


def _then(method: Any, slot: HeldSlot) -> Callable[[], None]:
    """A method that ends the slot, too."""

    def call() -> None:
        try:
            bound = method()
            if bound is not None:
                bound()
        finally:
            slot.end()

    return call
