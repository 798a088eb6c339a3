"""Which answers are failures, and which requests may be sent again."""

from __future__ import annotations

import time
from typing import Any

from penstock.limits.connections import is_unsent
from penstock.limits.failures import Failure, failure_of_answer, may_pass
from penstock.limits.rate.headers import parse

#: Sending them twice does what sending them once does (RFC 9110, section 9.2.2; QUERY is a draft).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
#: The service says that it did nothing, or (408) that it did not get the whole request (RFC 9110,
#: section 15.5.9). A 409 is a failure only where the service wants another attempt.
_NOT_DONE = frozenset({408, 409, 425, 429, 503})


def is_failure(status: int, headers: Any) -> bool:
    """Whether the answer says so: 408, 425, 429, or 500 and above.

    Below 500 also where the service wants the request to be sent again (``x-should-retry: true``),
    and a 403 that is about a rate: with ``Retry-After``, or with nothing remaining.
    """
    if status < 400:
        return False
    if status >= 500 or may_pass(status):
        return True
    return not failure_of_answer(status, headers).is_permanent


def may_concern_limits(names: list[Any]) -> bool:
    """Whether headers of these names, bytes or str, may say something about limits.

    Most responses have none that does, and so need not be read.
    """
    joined = (b" " if isinstance(names[0], bytes) else " ").join(names).lower() if names else ""
    if isinstance(joined, bytes):
        return b"limit" in joined or b"retry" in joined
    return "limit" in joined or "retry" in joined


def is_idempotent(method: str, headers: Any) -> bool:
    """Whether a request may be sent twice: by its method, or by its ``Idempotency-Key``."""
    return method.upper() in _IDEMPOTENT or bool(headers.get("idempotency-key"))


def corrected(failure: Failure) -> Failure:
    """What an answer says that is a failure only because a user takes it for one: it may pass."""
    status = failure.status or 0
    is_known = status >= 500 or may_pass(status) or failure.is_quota_spent
    if is_known or not failure.is_permanent:
        return failure
    return Failure(status, is_transient=True, retry_after=failure.retry_after)


def may_be_repeated(
    error: BaseException, failure: Failure, *, is_safe: bool, answer: Any = None
) -> bool:
    """Whether a request that failed with ``error`` may be sent again.

    ``is_safe``: whether sending it twice does no harm. ``answer``: the headers of the answer that
    was a failure; None: there was no answer.
    """
    if failure.is_permanent:
        return False
    if failure.status is None and not failure.is_throttle:
        if not failure.is_transient:
            return False  # it has nothing to do with the service
        return is_safe or is_unsent(error)
    if is_safe or failure.is_throttle or failure.status in _NOT_DONE:
        return True
    return answer is not None and parse(answer, time.time(), failure.status).should_retry is True
