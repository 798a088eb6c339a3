"""What the transport for tasks and the one for threads have in common: their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from penstock._util import checks
from penstock.errors import (
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    QueueFullError,
    QueueStateError,
)
from penstock.http import judgement
from penstock.http.exchange import Exchange, Turn, Turns
from penstock.http.held import Held
from penstock.limits import AdaptiveConcurrency, CircuitBreaker, Limit, Limiter, RetryPolicy
from penstock.policies.observer import ObserverProvider

TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

#: As many as httpx's own pool has connections.
CONCURRENCY = 100
#: The most of a failure's body that is read before it is known whether it is tried again.
LONGEST_FAILURE = 2**20


class Transport(Generic[TransportT, RequestT, ResponseT]):
    """Holds a queue, and an inner transport that sends.

    ``penstock.httpx.QueueTransport`` documents the arguments.
    """

    #: The package whose classes these are: httpx or httpx2.
    library: ClassVar[Any]
    #: Penstock's errors that are errors of that package as well, by their base.
    errors: ClassVar[dict[type[Exception], Any]]
    _make_inner: ClassVar[type[Any]]
    #: What a body is that holds a worker, as one of the package's streams.
    _stream: ClassVar[type[Held]]
    _make_queue: ClassVar[type[Any]]

    def __init__(
        self,
        limits: Iterable[Limit | str] | Limiter = (),
        *,
        retry: RetryPolicy | None = None,
        concurrency: int | AdaptiveConcurrency = CONCURRENCY,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        maxsize: int = 100,
        timeout: float = math.inf,
        transport: TransportT | None = None,
        is_failure: Callable[[ResponseT], bool] = judgement.is_failure,
        name: str = "http",
        telemetry: ObserverProvider | None = None,
    ) -> None:
        method = self._handler
        if transport is not None and not callable(getattr(transport, method, None)):
            raise TypeError(
                f"transport must have the method {method}, got {checks.shown(transport)}"
            )
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy or None, got {checks.shown(retry)}")
        checks.function(is_failure, "is_failure", "response")
        if concurrency is None:
            raise TypeError("concurrency must be an int or an AdaptiveConcurrency, got None")
        if isinstance(limits, Iterable):
            limits = Limiter(limits)
        self._settings: dict[str, Any] = {
            "maxsize": maxsize,
            "timeout": timeout,
            "concurrency_limit": concurrency,
            "limits": limits,
            "retry": judgement.policy(self.library, retry),
            "breaker": breaker,
            "deadline": deadline,
            "name": name,
            "telemetry": telemetry,
        }
        #: The queue: its ``metrics`` and ``statistics()`` tell how it does.
        self.queue: Any = self._make_queue(**self._settings)
        #: What every request asks before it is sent, to be shared, or told more.
        self.limits: Limiter = self.queue.limits
        self._timeout: float = self.queue.queue.timeout
        self._deadline = None if deadline is None else checks.seconds(deadline, "deadline")
        self._is_failure = is_failure
        self._turns = Turns()
        self._is_closed = False
        self._inner: Any = self._make_inner() if transport is None else transport

    @property
    def _handler(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.queue.queue!r}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise QueueStateError(
                f"Cannot send requests: the {type(self).__name__} {self.queue.name} is closed",
                current_state=self.queue.status.value,
            )

    # -- how an attempt went, for tasks and for threads alike ---------------------------------

    def _check_request(self, request: Any) -> None:
        # Before there is any span, as such an error names the request, and so its URL.
        self.limits.check(request)

    def _time_for_room(self) -> float:
        return self._timeout if self._deadline is None else min(self._timeout, self._deadline)

    def _raise_as_ours(self, error: Exception) -> NoReturn:
        """Raise an error of the queue as one of the package too, which users of that expect."""
        if isinstance(error, QueueStateError):
            self._check_open()
        if isinstance(error, QueueFullError) and self._timeout > self._time_for_room():
            error = self._too_late()
        ours = next((own for base, own in self.errors.items() if isinstance(error, base)), None)
        if ours is None or isinstance(error, ours):
            raise error
        new = ours(str(error))
        new.__dict__.update(error.__dict__)
        raise new from error

    @staticmethod
    def _too_late() -> DeadlineExceededError:
        return DeadlineExceededError("The request could not be sent before its deadline")

    def _found_failing(self, response: Any) -> bool:
        verdict = self._is_failure(response)
        if not isinstance(verdict, bool):
            raise TypeError(f"is_failure must return a bool, got {checks.shown(verdict)}")
        return verdict

    def _copy(self, response: Any, stream: Any) -> Any:
        """The response with another stream."""
        return self.library.Response(
            response.status_code,
            headers=response.headers,
            stream=stream,
            extensions=response.extensions,
        )

    def _deliver(self, response: Any, turn: Turn, begun: Any = None, head: Any = ()) -> Any:
        """Make the response one that holds its worker until it is closed."""
        turn.succeeded()
        if response.is_closed:  # it was made so, by a transport that has no network
            turn.end()
        else:
            response.stream = self._stream(response.stream, turn, self, begun, head)
        self._add_permit(response, turn)
        return response

    def _add_permit(self, response: Any, turn: Turn) -> None:
        if turn.permit is not None:
            response.extensions = {**response.extensions, "penstock_permit": turn.permit}

    def _refused(
        self, exchange: Exchange, turn: Turn, request: Any, response: Any, body: bytes, wait: float
    ) -> None:
        """A response that is a failure, and its body."""
        final, shown = (self._copy(response, self.library.ByteStream(body)) for _ in range(2))
        shown.request = request
        try:
            shown.read()  # for a policy that wants to look
        except self.library.DecodingError:
            shown = self._copy(response, self.library.ByteStream(body))
        self._add_permit(final, turn)
        exchange.failed(turn, judgement.status_error(self.library, request, shown, wait), final)

    def _broke(self, exchange: Exchange, turn: Turn, request: Any, error: Exception) -> None:
        """There is no response."""
        exchange.failed(turn, judgement.of_request(self.library, error, request), error)


def errors_of(full: Any, open_: Any, spent: Any, late: Any) -> dict[type[Exception], Any]:
    """The errors that a package's transports raise, by those of the queue."""
    return {
        QueueFullError: full,
        CircuitBreakerOpenError: open_,
        BudgetExceededError: spent,
        DeadlineExceededError: late,
    }


async def by_turns(request: Any) -> None:
    """The worker function, in whose place each request brings its own."""
    raise AssertionError("a request has no exchange")
