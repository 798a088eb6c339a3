"""What an error says: whose fault it is, whether another attempt may help, and when."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from penstock._util import checks
from penstock.errors import (
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    PenstockError,
    QueueError,
    RateLimitError,
)

#: Which errors: a class, a tuple of classes, or a function from the error to a bool.
Which: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

#: Mistakes in the program, or in its input: another attempt would end in the same way.
_PERSISTENT = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    BudgetExceededError,
    DeadlineExceededError,
    QueueError,
)

#: Errors of calls that were not made: they say nothing about the service.
_LOCAL = (BudgetExceededError, CircuitBreakerOpenError, DeadlineExceededError, QueueError)

_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS = 408, 425, 429


@dataclass(frozen=True)
class Failure:
    """What an error of an attempt says; what a ``classify`` function returns."""

    #: The HTTP status; ``None``: the error has none.
    status: int | None = None
    #: The service said "too many requests".
    is_throttle: bool = False
    #: Another attempt may succeed.
    is_transient: bool = False
    #: Another attempt would end in the same way. With neither, nobody knows, and it is tried again.
    is_permanent: bool = False
    #: Seconds that the service wants the caller to wait; 0: it named none.
    retry_after: float = 0.0
    #: A circuit breaker refused the call: it was not made.
    is_short_circuit: bool = False


def failure_of(error: BaseException | Failure) -> Failure:
    """What ``error`` says; a ``Failure`` is returned as it is."""
    if isinstance(error, Failure):
        return error
    status = http_status(error)
    return Failure(
        status,
        is_throttle=isinstance(error, RateLimitError) or status == _TOO_MANY_REQUESTS,
        is_transient=isinstance(error, RateLimitError) if status is None else may_pass(status),
        is_permanent=isinstance(error, _PERSISTENT) if status is None else not may_pass(status),
        retry_after=retry_after(error),
        is_short_circuit=isinstance(error, CircuitBreakerOpenError),
    )


def as_predicate(which: Any, name: str) -> Callable[[Exception], bool]:
    """``which`` as a function from an error to a bool; ``name`` is what messages call it.

    Raises:
        TypeError: ``which`` is neither exception classes nor a function of one argument.
        ValueError: It is an empty tuple, or a class that must not be caught
            (``KeyboardInterrupt``).
    """
    if isinstance(which, (type, tuple)):
        classes = which if isinstance(which, tuple) else (which,)
        if not classes:
            raise ValueError(f"{name} must name at least one exception class, got ()")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, BaseException)):
                raise TypeError(
                    f"{name} must be exception classes or a function, got {checks.shown(cls)}"
                )
            if not issubclass(cls, Exception):
                raise ValueError(
                    f"{name} must be subclasses of Exception, got {cls.__name__}: "
                    "what ends a program or a task is never held back"
                )
        return lambda error: isinstance(error, classes)
    if isinstance(which, BaseException):
        raise TypeError(
            f"{name} must be an exception class, got the exception {checks.shown(which)}"
        )
    checks.function(which, name, "error")
    if inspect.iscoroutinefunction(which):
        raise TypeError(
            f"{name} must be a plain function, got the async function {checks.shown(which)}"
        )
    function: Callable[[Exception], bool] = which
    return function


def worth_retrying(error: Exception) -> bool:
    """Whether another attempt may succeed where this one did not.

    If the error has an HTTP status, the status decides: after 408, 425, 429 and 5xx another attempt
    may succeed, after others not. Mistakes in a program (``TypeError``, ``KeyError``,
    ``AssertionError``…), missing files, missing permissions and missed deadlines stay. After all
    other errors another attempt may succeed: there is no list of the errors that all clients raise
    when a connection breaks.
    """
    return not failure_of(error).is_permanent


def may_pass(status: int) -> bool:
    """Whether another attempt may succeed after an answer with this HTTP status."""
    return status >= 500 or status in {_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS}


def service_failed(error: Exception, failure: Failure | None = None) -> bool | None:
    """Whether an error shows that the service failed; ``None`` if it shows nothing.

    A refusal because of a rate limit shows nothing, because the limits deal with it. Nor does an
    error of a call that was not made. With a 4xx answer, the service did answer.
    """
    failure = failure or failure_of(error)
    if failure.is_throttle or isinstance(error, _LOCAL):
        return None
    status = failure.status
    return status is None or status >= 500 or status == _REQUEST_TIMEOUT


def is_throttle(error: BaseException) -> bool:
    """Whether the service said "too many requests"."""
    return failure_of(error).is_throttle


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error has, as errors of httpx, aiohttp, requests and openai do."""
    if isinstance(error, PenstockError):
        return None
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 100 <= value <= 599:
                return int(value)
    return None


def retry_after(error: BaseException) -> float:
    """The seconds that the service wants a caller to wait, as the error says; 0: it named none.

    Values that are not finite numbers above 0 come from a broken service, and are ignored.
    """
    value = getattr(error, "retry_after", None)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return 0.0
    try:
        seconds = float(value)
    except OverflowError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0
