"""What an answer of a service means: is another attempt of any use, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from penstock.limits import error_codes
from penstock.limits.error_bodies import ErrorBody, messages_mention
from penstock.limits.error_response import ErrorResponse
from penstock.limits.rate.headers import Feedback, parse

_BAD_REQUEST, _PAYMENT_REQUIRED, _FORBIDDEN = 400, 402, 403
_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS = 408, 425, 429
_NOT_IMPLEMENTED, _UNAVAILABLE, _VERSION_NOT_SUPPORTED = 501, 503, 505
_EXHAUSTED = "RESOURCE_EXHAUSTED"
#: Characters of a reason that are kept.
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Failure:
    """What an error of an attempt says; what a ``classify`` function returns."""

    #: The HTTP status, or the status for a gRPC code; ``None``: the error has none.
    status: int | None = None
    #: The service said "too many requests".
    is_throttle: bool = False
    #: Another attempt may succeed: the service or the network is down or too busy.
    is_transient: bool = False
    #: Another attempt would fail in the same way. With neither, it is not known, and it is retried.
    is_permanent: bool = False
    #: Seconds that the service wants the caller to wait; 0: it named none.
    retry_after: float = 0.0
    #: A circuit breaker refused the call: it was not made.
    is_short_circuit: bool = False
    #: A throttle because too many calls run at once, not because too many started: it does not
    #: close the gate.
    is_concurrency: bool = False
    #: Credit or quota is used up, so that all calls of the account fail. It is permanent, too.
    is_quota_spent: bool = False
    #: Why, in the words of the service; "" if it did not say.
    reason: str = field(default="", compare=False)


def may_pass(status: int) -> bool:
    """Whether another attempt may succeed after an answer with this HTTP status.

    After 408, 425, 429 and 5xx, except 501 and 505: the service will not learn that meanwhile.
    """
    if status >= 500:
        return status not in {_NOT_IMPLEMENTED, _VERSION_NOT_SUPPORTED}
    return status in {_REQUEST_TIMEOUT, _TOO_EARLY, _TOO_MANY_REQUESTS}


def failure_of_answer(status: int, headers: Any = None, body: Any = None) -> Failure:
    """What an HTTP answer says, taken as a failure.

    ``headers``: as for :func:`penstock.limits.rate.headers.parse`. ``body``: the bytes or text, or
    what was made of its JSON. Never raises.
    """
    read = ErrorBody()
    read.read(body)
    return failure_of_response(ErrorResponse(status, headers, body=read)) or Failure(status)


def failure_of_response(response: ErrorResponse) -> Failure | None:
    """What an answer of a service says; ``None``: there is no answer in it."""
    codes, grpc = response.body.codes, response.grpc_code
    status = response.status or error_codes.GRPC_STATUS.get(grpc)
    if status is None and not codes & (error_codes.THROTTLES | error_codes.SPENT):
        return None
    heard = parse(response.headers, time.time(), status)
    is_spent = _is_spent(status, response.body)
    is_final = is_spent or _is_too_large(response)
    is_throttle = not is_final and _is_throttle(status, response, heard)
    is_transient = is_throttle or _may_pass(response)
    is_unknown = not is_transient and grpc in error_codes.GRPC_UNKNOWN
    if heard.should_retry is not None:  # the order decides over the status
        is_transient, is_unknown = heard.should_retry, False
    is_transient = is_transient and not is_final
    return Failure(
        status,
        is_throttle=is_throttle,
        is_transient=is_transient,
        is_permanent=is_final or not (is_transient or is_unknown),
        retry_after=_wait(response, heard),
        is_concurrency=is_throttle and _is_about_concurrency(response.body, heard),
        is_quota_spent=is_spent,
        reason=_reason(response.body, heard),
    )


def _is_spent(status: int | None, body: ErrorBody) -> bool:
    if status == _PAYMENT_REQUIRED or body.is_daily_quota or body.codes & error_codes.SPENT:
        return True
    may_say_so = status in {None, _BAD_REQUEST, _FORBIDDEN, _TOO_MANY_REQUESTS}
    return may_say_so and messages_mention(body.messages, error_codes.CREDIT_SPENT)


def _is_too_large(response: ErrorResponse) -> bool:
    is_exhausted = response.grpc_code == _EXHAUSTED
    return is_exhausted and messages_mention(response.body.messages, error_codes.TOO_LARGE)


def _is_throttle(status: int | None, response: ErrorResponse, heard: Feedback) -> bool:
    codes = response.body.codes
    if status == _TOO_MANY_REQUESTS or response.grpc_code == _EXHAUSTED:
        return True
    if codes & error_codes.THROTTLES or error_codes.QUOTA_EXCEEDED in codes:
        return True
    if status == _FORBIDDEN:
        return heard.retry_after is not None or heard.is_exhausted
    return status == _UNAVAILABLE and heard.retry_after is not None


def _may_pass(response: ErrorResponse) -> bool:
    if response.body.codes & error_codes.TRANSIENT:
        return True
    if response.grpc_code in error_codes.GRPC_TRANSIENT:
        return True
    return response.status is not None and may_pass(response.status)


def _is_about_concurrency(body: ErrorBody, heard: Feedback) -> bool:
    if heard.is_concurrency or any("concurren" in code for code in body.codes):
        return True
    concurrency = {each.name for each in heard.dimensions if each.is_concurrency}
    return bool(body.violated) and body.violated <= concurrency


def _reason(body: ErrorBody, heard: Feedback) -> str:
    words = [*body.messages[:1], *sorted(body.codes), heard.reason]
    return next((word.strip() for word in words if word.strip()), "")[:_LONGEST_REASON]


def _wait(response: ErrorResponse, heard: Feedback) -> float:
    """What the client says, or else the headers, and never less than the body."""
    named = response.retry_after or heard.wait or heard.retry_after or 0.0
    return max(named, response.body.retry_after or 0.0)
