"""Which answers are failures, and which failures are worth another attempt."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from penstock.limits import RetryPolicy, failures
from penstock.limits.failures import as_predicate, failure_of_answer, may_pass

#: Sending them twice does what sending them once does (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})


def is_failure(response: Any) -> bool:
    """Whether the answer says so: 408, 425, 429, or 500 and above.

    Below 500 also where the service wants the request to be sent again (``x-should-retry: true``),
    and a 403 that is about a rate: with ``Retry-After``, or with nothing remaining.
    """
    status = response.status_code
    if status < 400:
        return False
    if status >= 500 or may_pass(status):
        return True
    return not failure_of_answer(status, response.headers).is_permanent


def worth_retrying(library: Any, error: Exception) -> bool:
    """Whether a request that failed with ``error`` is sent again unless a policy says otherwise."""
    if isinstance(error, library.HTTPStatusError):
        return _is_answer_worth_retrying(error)
    if isinstance(error, (library.UnsupportedProtocol, library.LocalProtocolError)):
        return False  # it will not be any better next time
    if isinstance(error, (library.ConnectError, library.ConnectTimeout, library.PoolTimeout)):
        return True  # it cannot have reached the server
    return isinstance(error, library.TransportError) and _may_be_doubled(error)


def _is_answer_worth_retrying(error: Exception) -> bool:
    """Whether an answer that was found to be a failure may be another one next time."""
    failure = failures.failure_of(error)
    if not failure.is_permanent:
        return True
    status = failure.status or 0
    # What is none by its status is one because an ``is_failure`` of the user's said so.
    return not failure.is_quota_spent and status < 500 and not may_pass(status)


def _may_be_doubled(error: Any) -> bool:
    request = error.request
    return request.method in _IDEMPOTENT or "idempotency-key" in request.headers


def policy(library: Any, retry: RetryPolicy | None) -> RetryPolicy | None:
    """``retry``, with this judgement unless it has its own, and only where the body is at hand."""
    if retry is None or retry.attempts == 1:
        return None
    is_left_to_us = retry.on is failures.worth_retrying
    judge = partial(worth_retrying, library) if is_left_to_us else as_predicate(retry.on, "on")

    def on(error: Exception) -> bool:
        request = getattr(error, "request", None)
        return isinstance(getattr(request, "stream", None), library.ByteStream) and judge(error)

    return replace(retry, on=on)


def of_request(library: Any, error: Exception, request: Any) -> Exception:
    """``error``, which says what it is an error of; in the form that telemetry may see."""
    with suppress(AttributeError, TypeError):  # it takes no attributes
        error.request = request  # type: ignore[attr-defined] # as the clients do later
    if isinstance(error, library.LocalProtocolError):  # its text may hold a header's value
        blank: Exception = library.LocalProtocolError("it cannot be sent", request=request)
        return blank
    return error


def status_error(library: Any, request: Any, response: Any, retry_after: float) -> Exception:
    """What the queue gets to know of a response that is a failure; no URL is in it."""
    text = f"{response.status_code} {response.reason_phrase}".rstrip()
    error: Any = library.HTTPStatusError(text, request=request, response=response)
    error.retry_after = retry_after or None
    result: Exception = error
    return result
