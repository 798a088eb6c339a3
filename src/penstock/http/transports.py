"""The transports of httpx and of httpx2, which have the same classes under the same names.

Imports neither: each package knows only its own classes, so :mod:`penstock.httpx` and
:mod:`penstock.httpx2` hand over theirs.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

from penstock._util import checks
from penstock.errors import PenstockError
from penstock.http import judgement
from penstock.http.bodies import HeldBody
from penstock.http.client import LONGEST_FAILURE
from penstock.http.sender import CONCURRENCY, RequestSender
from penstock.http.shown import PolicyShown
from penstock.http.slot import HeldSlot
from penstock.http.tasks import TaskSender
from penstock.http.threads import ThreadSender
from penstock.limits import AdaptiveConcurrency, CircuitBreaker, Limit, Limiter, RetryPolicy
from penstock.limits.failures import failure_of
from penstock.limits.rate.permit import Permit
from penstock.policies.gate_keys import GateKey
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy

TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_PERMIT = "penstock_permit"


class _HttpxClient:
    """What httpx and httpx2 have in common."""

    def __init__(
        self,
        library: Any,
        name: str,
        body: type[HeldBody],
        errors: dict[type[PenstockError], Any],
    ) -> None:
        self._library = library
        self._body = body
        self.name = name
        self.errors = errors
        #: Streams of responses that nobody read or closed.
        self.leftovers: deque[Any] = deque()

    def status(self, response: Any) -> int:
        status: int = response.status_code
        return status

    def headers(self, response: Any) -> Any:
        return response.headers

    def header_names(self, response: Any) -> list[bytes]:
        return [name for name, _ in response.headers.raw]

    def host(self, request: Any) -> str:
        host: str = request.url.host
        return host

    def can_resend(self, request: Any) -> bool:
        return isinstance(request.stream, self._library.ByteStream)

    def add_permit(self, response: Any, permit: Permit) -> None:
        response.extensions = {**response.extensions, _PERMIT: permit}

    def hold(self, response: Any, slot: HeldSlot) -> None:
        if response.is_closed:  # it was made so, by a transport that has no network
            slot.end()
            return
        stream, begun, head = response.stream, None, ()
        if isinstance(stream, _Begun):
            stream, begun, head = stream.stream, stream.chunks, stream.head
        response.stream = self._body(stream, slot, self.leftovers, begun, head)

    async def read_failure(self, response: Any) -> bool:
        stream = response.stream
        begun = _Begun(stream, aiter(stream))
        async for chunk in begun.chunks:
            if begun.add(chunk) > LONGEST_FAILURE:
                response.stream = begun
                return False
        await stream.aclose()
        response.stream = self._library.ByteStream(b"".join(begun.head))
        return True

    async def close(self, response: Any) -> None:
        stream = response.stream
        if hasattr(stream, "aclose"):
            await stream.aclose()

    def failure(self, request: Any, response: Any) -> Exception:
        library, shown = self._library, response
        if isinstance(response.stream, library.ByteStream):
            shown = self._copy(response)
            shown.request = request
            try:
                shown.read()  # for a policy that wants to look
            except library.DecodingError:
                shown = self._copy(response)
        shown.request = request
        text = f"{response.status_code} {response.reason_phrase}".rstrip()
        error: Exception = library.HTTPStatusError(text, request=request, response=shown)
        return error

    def answer(self, response: Any) -> Any:
        return self._copy(response)

    def _copy(self, response: Any) -> Any:
        return self._library.Response(
            response.status_code,
            headers=response.headers,
            stream=response.stream,
            extensions=response.extensions,
        )

    def told(self, request: Any, error: Exception) -> Exception:
        with suppress(AttributeError, TypeError):  # it takes no attributes
            error.request = request  # type: ignore[attr-defined] # as the clients do later
        if isinstance(error, self._library.LocalProtocolError):  # it may quote a header
            blank: Exception = self._library.LocalProtocolError("it cannot be sent")
            blank.request = request  # type: ignore[attr-defined]
            return blank
        return error


class _BlockingHttpxClient(_HttpxClient):
    """The same for threads."""

    def read_failure(self, response: Any) -> Any:
        stream = response.stream
        begun = _Begun(stream, iter(stream))
        for chunk in begun.chunks:
            if begun.add(chunk) > LONGEST_FAILURE:
                response.stream = begun
                return False
        stream.close()
        response.stream = self._library.ByteStream(b"".join(begun.head))
        return True

    def close(self, response: Any) -> Any:
        stream = response.stream
        if hasattr(stream, "close"):
            stream.close()


class _Begun:
    """A stream that was read in part."""

    def __init__(self, stream: Any, chunks: Any) -> None:
        self.stream = stream
        self.chunks = chunks
        self.head: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> int:
        """Keep a chunk; returns the size of all."""
        self.head.append(chunk)
        self._size += len(chunk)
        return self._size


class PolicyTransportBase(PolicyShown[Any], Generic[TransportT, RequestT, ResponseT]):
    """What the transports for tasks and those for threads share: their arguments."""

    _library: ClassVar[Any]
    _errors: ClassVar[dict[type[PenstockError], Any]]
    _body: ClassVar[type[HeldBody]]
    _make_inner: ClassVar[type[Any]]
    _make_client: ClassVar[type[_HttpxClient]]
    _make_sender: ClassVar[type[Any]]
    _method: ClassVar[str]

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
        is_failure: Callable[[ResponseT], bool] | None = None,
        gate_key: GateKey | None = None,
        policy: Policy | None = None,
        transport: TransportT | None = None,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        if transport is not None and not callable(getattr(transport, self._method, None)):
            raise TypeError(
                f"transport must have the method {self._method}, got {checks.shown(transport)}"
            )
        self._client = self._make_client(
            self._library, type(self).__name__, self._body, self._errors
        )
        self._sender: Any = self._make_sender(
            self._client,
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
        self._inner: Any = self._fit(self._sender) if transport is None else transport
        if transport is not None:
            self._sender.connections = _connections(transport)

    def _fit(self, sender: RequestSender) -> Any:
        """An inner transport that has a connection for each request at once."""
        size = sender.pool_size
        limits = self._library.Limits(max_connections=size, max_keepalive_connections=size)
        return type(self)._make_inner(limits=limits)


class AsyncPolicyTransport(PolicyTransportBase[TransportT, RequestT, ResponseT]):
    """Sends by the task that calls it."""

    _make_client = _HttpxClient
    _make_sender = TaskSender
    _method = "handle_async_request"

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send a request when it may be sent; clients call this."""
        handle = self._inner.handle_async_request
        leftovers = self._client.leftovers

        async def once() -> Any:
            while leftovers:
                await _close_leftover(leftovers)
            return await handle(request)

        response: ResponseT = await self._sender.send(request, once)
        return response

    async def __aenter__(self) -> Any:
        """Enter the inner transport."""
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close, as :meth:`aclose`."""
        self._sender.close()
        await self._inner.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Close the inner transport. Closing it again does nothing.

        Requests that wait get ``QueueStateError`` and are not sent; those in flight and responses
        that are not read to their end are broken off with their connections, as httpx has it.
        """
        self._sender.close()
        await self._inner.aclose()


class BlockingPolicyTransport(PolicyTransportBase[TransportT, RequestT, ResponseT]):
    """Sends by the thread that calls it."""

    _make_client = _BlockingHttpxClient
    _make_sender = ThreadSender
    _method = "handle_request"

    def handle_request(self, request: RequestT) -> ResponseT:
        """Send a request when it may be sent; clients call this."""
        handle = self._inner.handle_request
        leftovers = self._client.leftovers

        def once() -> Any:
            while leftovers:
                with suppress(Exception):
                    leftovers.popleft().close()
            return handle(request)

        response: ResponseT = self._sender.send(request, once)
        return response

    def __enter__(self) -> Any:
        """Enter the inner transport."""
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close, as :meth:`close`."""
        self._sender.close()
        self._inner.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Close the inner transport. Closing it again does nothing.

        Requests that wait get ``QueueStateError``, within half a second, and are not sent; those in
        flight and responses that are not read to their end are broken off with their connections,
        as httpx has it.
        """
        self._sender.close()
        self._inner.close()


async def _close_leftover(leftovers: deque[Any]) -> None:
    with suppress(Exception):  # by another thread, or nobody wants to know how that went
        await leftovers.popleft().aclose()


def _connections(transport: Any) -> int:
    """The most requests at once that a transport has connections for, where that can be seen."""
    pool = getattr(transport, "_pool", None)
    most = getattr(pool, "_max_connections", None)
    if not isinstance(most, int) or isinstance(most, bool) or getattr(pool, "_http2", False):
        return sys.maxsize  # by HTTP/2, one connection has many
    return max(1, most)


def permit_of(response: Any) -> Permit | None:
    """What the request of a response took from the limits, to be settled; None: nothing."""
    permit = response.extensions.get(_PERMIT)
    return permit if isinstance(permit, Permit) else None


def worth_retrying(library: Any, error: Exception, retry_unsafe: bool) -> bool:
    """Whether a request of the package that failed is sent again; see :mod:`penstock.httpx`."""
    if not isinstance(error, (library.TransportError, library.HTTPStatusError)):
        return False
    known: Any = error
    request = known.request
    answer = getattr(error, "response", None)
    is_safe = retry_unsafe or judgement.is_idempotent(request.method, request.headers)
    headers = None if answer is None else answer.headers
    failure = judgement.corrected(failure_of(error))
    return judgement.may_be_repeated(error, failure, is_safe=is_safe, answer=headers)
