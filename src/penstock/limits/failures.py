"""What an error says: whose fault, whether another attempt may help, and when."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

from penstock._util import checks
from penstock.errors import (
    CircuitBreakerOpenError,
    DeadlineExceededError,
    PenstockError,
    QueueError,
    RateLimitError,
)

#: Which errors: a class, several, or a function that tells.
Which: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

#: A mistake in the program, or in what it was given: the same again next time.
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
    DeadlineExceededError,
    QueueError,
)

_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS = 408, 425, 429


def as_predicate(which: Any, name: str) -> Callable[[Exception], bool]:
    """``which`` as a function from an error to a bool.

    Raises:
        TypeError: It is neither exception classes nor a function of one argument.
        ValueError: No classes at all, or one that must not be caught (``KeyboardInterrupt``).
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

    Where the error carries an HTTP status, it decides: 408, 425, 429 and 5xx may pass, and no other
    does. Mistakes in a program (``TypeError``, ``KeyError``, ``AssertionError``…), missing files
    and permissions do not pass, nor does a missed deadline. Everything else may: there is no list
    of what all the clients in the world raise when a connection breaks.
    """
    status = http_status(error)
    if status is not None:
        return may_pass(status)
    return not isinstance(error, _PERSISTENT)


def may_pass(status: int) -> bool:
    """Whether an answer with this HTTP status may be another one next time."""
    return status >= 500 or status in {_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS}


def service_failed(error: Exception) -> bool | None:
    """Whether an error shows that the service is unwell; ``None`` where it shows nothing.

    A rate limit does not: it is for the limits to keep to it. Nor does what was not attempted, and
    a 4xx answer is an answer.
    """
    if is_throttle(error) or isinstance(
        error, (CircuitBreakerOpenError, DeadlineExceededError, QueueError)
    ):
        return None
    status = http_status(error)
    return status is None or status >= 500 or status == _REQUEST_TIMEOUT


def is_throttle(error: BaseException) -> bool:
    """Whether the service said "too many requests"."""
    return isinstance(error, RateLimitError) or http_status(error) == _TOO_MANY_REQUESTS


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, as those of httpx, aiohttp, requests and openai do."""
    if isinstance(error, PenstockError):
        return None
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 100 <= value <= 599:
                return int(value)
    return None


def retry_after(error: BaseException) -> float:
    """Seconds before which the service does not want another attempt; 0 where it did not say.

    What is no finite number of seconds above 0 came from a broken service, and is ignored.
    """
    value = getattr(error, "retry_after", None)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return 0.0
    try:
        seconds = float(value)
    except OverflowError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0
