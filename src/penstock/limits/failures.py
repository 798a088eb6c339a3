"""What an error says: whose fault it is, whether another attempt may help, and when."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeAlias

from penstock._util import checks
from penstock.errors import (
    APITimeoutError,
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    OutageError,
    PenstockError,
    QueueError,
    RateLimitError,
)
from penstock.limits.connections import is_broken
from penstock.limits.error_response import (
    attribute,
    is_plain,
    responses,
    seconds_to_wait,
    unwrapped,
)
from penstock.limits.mail import failure_of_mail
from penstock.limits.refusals import Failure, failure_of_answer, failure_of_response, may_pass

__all__ = [
    "Failure",
    "Which",
    "as_predicate",
    "failure_of",
    "failure_of_answer",
    "http_status",
    "is_throttle",
    "may_pass",
    "retry_after",
    "service_failed",
    "worth_retrying",
]

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
_LOCAL = (
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    OutageError,
    QueueError,
)


def failure_of(error: BaseException | Failure) -> Failure:
    """What ``error`` says; a ``Failure`` is returned as it is. Never raises.

    Status, headers and body are looked for where clients keep them; also in the error inside of a
    ``RetryError`` of tenacity or an exception group of one, and in the cause.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, PenstockError):
        return _failure_of_ours(error)
    if is_plain(error):  # the quick way
        return Failure(is_permanent=isinstance(error, _PERSISTENT), is_transient=is_broken(error))
    inner = unwrapped(error)
    if isinstance(inner, PenstockError):
        return _failure_of_ours(inner)
    answers = chain([failure_of_mail(inner)], map(failure_of_response, responses(inner)))
    return next((failure for failure in answers if failure is not None), None) or Failure(
        is_transient=is_broken(inner),
        is_permanent=isinstance(inner, _PERSISTENT),
        retry_after=seconds_to_wait(inner),
    )


def _failure_of_ours(error: PenstockError) -> Failure:
    known = attribute(error, "failure")
    if isinstance(known, Failure):
        return known
    inner: Failure | None = None
    if error.__cause__ is not None and not isinstance(error, _LOCAL):  # a client's error
        found = map(failure_of_response, responses(error.__cause__))
        inner = next((each for each in found if each is not None), None)
    wait = seconds_to_wait(error)
    if isinstance(error, RateLimitError):
        wait = wait or (0.0 if inner is None else inner.retry_after)
        return Failure(is_throttle=True, is_transient=True, retry_after=wait)
    return inner or Failure(
        is_transient=isinstance(error, APITimeoutError),
        is_permanent=isinstance(error, _PERSISTENT),
        retry_after=wait,
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
            raise ValueError(f"{name} must have at least one exception class, got ()")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, BaseException)):
                raise TypeError(
                    f"{name} must be exception classes or a function, got {checks.shown(cls)}"
                )
            if not issubclass(cls, Exception):
                raise ValueError(
                    f"{name} must be subclasses of Exception, got {cls.__name__}: "
                    "an exception that ends a program or a task is always raised"
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

    The answer of the service decides: its order to retry or not, used-up credit or quota, or else
    the HTTP status. After 408, 425, 429 and 5xx except 501 and 505 another attempt may succeed,
    after other statuses not. After mistakes in a program (``TypeError``, ``KeyError``,
    ``AssertionError``…), missing files, missing permissions and missed deadlines, it would fail
    again. After all other errors another attempt may succeed: there is no list of the errors that
    all clients raise when a connection breaks.
    """
    return not failure_of(error).is_permanent


def service_failed(error: Exception, failure: Failure | None = None) -> bool | None:
    """Whether an error shows that the service failed; ``None`` if it shows nothing.

    A refusal because of a rate limit shows nothing, because the limits deal with it. Nor does an
    error of a call that was not made. With a 4xx answer, the service did answer.
    """
    failure = failure or failure_of(error)
    if failure.is_throttle or isinstance(error, _LOCAL):
        return None
    status = failure.status
    return status is None or status >= 500 or status == 408


def shows_outage(failure: Failure) -> bool | None:
    """Whether calls fail like this while a service is away; ``None`` if it shows nothing.

    True: no connection, a broken one, a timeout, 408, 5xx but those that stay, and what gRPC says
    in their place. False: the service is there, and found fault with the call. An error that nobody
    knows shows nothing, nor does a throttle.
    """
    status = failure.status
    if failure.is_throttle or not (failure.is_transient or failure.is_permanent):
        return None
    if status is None:
        return True if failure.is_transient else None
    if status == 408 or (status >= 500 and may_pass(status)):
        return True
    return False if status < 500 else None


def is_throttle(error: BaseException) -> bool:
    """Whether the service said "too many requests"."""
    return failure_of(error).is_throttle


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error has; ``None``: it has none."""
    return failure_of(error).status


def retry_after(error: BaseException) -> float:
    """The seconds that the service wants a caller to wait, as the error says; 0: it named none."""
    return failure_of(error).retry_after
