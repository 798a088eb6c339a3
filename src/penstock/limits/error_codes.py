"""The codes that services answer with, and what they mean for another attempt.

They are compared as :func:`penstock.limits.error_bodies.code_of` makes them: in lower case, with
hyphens.
"""

from __future__ import annotations

import re

#: Too many requests, whatever the status. Those of AWS are botocore's.
THROTTLES = frozenset(
    {
        "bandwidthlimitexceeded",
        "ec2throttledexception",
        "limitexceededexception",
        "priorrequestnotcomplete",
        "provisionedthroughputexceededexception",
        "rate-limit-error",
        "rate-limit-exceeded",
        "rate-limited",
        "ratelimited",
        "ratelimitexceeded",
        "requestlimitexceeded",
        "requestthrottled",
        "requestthrottledexception",
        "resource-exhausted",
        "slowdown",
        "temporary-reduced-capacity",  # problem details
        "throttled",
        "throttledexception",
        "throttling",
        "throttlingexception",
        "too-many-requests",
        "toomanyrequestsexception",
        "transactioninprogressexception",
        "userratelimitexceeded",
    }
)
#: Problem details (RFC 9457) that say the same; elsewhere the word means something else.
QUOTA_EXCEEDED = "quota-exceeded"

#: A failure that may pass, whatever the status (botocore).
TRANSIENT = frozenset({"requesttimeout", "requesttimeoutexception", "internalerror"})

#: Credit or quota is used up: no call of this account succeeds until somebody pays, or the next
#: day or month begins.
SPENT = frozenset(
    {
        "billing-error",
        "billing-hard-limit-reached",
        "billing-not-active",
        "credit-balance-too-low",
        "dailylimitexceeded",
        "dailylimitexceededunreg",
        "enforced-spend-limit-reached",
        "insufficient-quota",
    }
)
CREDIT_SPENT = re.compile(r"credit[ _]balance", re.IGNORECASE)

#: The HTTP status that says the same as a gRPC code (google/rpc/code.proto).
GRPC_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
GRPC_TRANSIENT = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"})
#: Nobody knows whether another attempt would end in the same way.
GRPC_UNKNOWN = frozenset({"CANCELLED", "UNKNOWN", "INTERNAL", "DATA_LOSS"})
#: gRPC answers RESOURCE_EXHAUSTED for a message that is too large, too.
TOO_LARGE = re.compile(r"message larger than max", re.IGNORECASE)
