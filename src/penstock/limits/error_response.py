"""Where the errors of clients keep what the service answered: status, headers, body, codes.

Attributes are looked up by shape, and no client is imported. A value of the wrong type is no value.
Nothing is fetched: a body that was not read yet stays unread.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

from penstock.limits.error_bodies import ErrorBody

#: The attributes that are looked at; and those by which a class can have any.
_ATTRIBUTES = frozenset(
    {
        *("response", "status_code", "status", "http_status", "resp", "headers", "retry_after"),
        *("code", "type", "error_code", "reason", "message", "grpc_status_code", "details"),
        *("trailing_metadata", "body", "json_body", "data", "content", "errors", "extensions"),
        *("exceptions", "last_attempt", "__getattr__"),
        *("smtp_code", "recipients"),
    }
)

#: How many errors are looked at that are inside of each other.
_DEEPEST = 8


@dataclass
class ErrorResponse:
    """What a service answered, as far as an error has it."""

    #: The HTTP status; ``None``: there is none.
    status: int | None = None
    headers: Any = None
    #: The name of a gRPC status code, such as "UNAVAILABLE"; "" if there is none.
    grpc_code: str = ""
    body: ErrorBody = field(default_factory=ErrorBody)
    #: Seconds to wait by an attribute of the error; 0: it has none.
    retry_after: float = 0.0


def is_plain(error: BaseException) -> bool:
    """Whether it has nothing of a service: no attribute that is looked at here, and no cause."""
    kind: Any = type(error)
    try:
        if error.__cause__ is not None or not _ATTRIBUTES.isdisjoint(error.__dict__):
            return False
        return _is_plain_class(kind)
    except Exception:  # noqa: BLE001 - a class that cannot be hashed, or whose attributes raise
        return False


@lru_cache(maxsize=256)
def _is_plain_class(cls: type[BaseException]) -> bool:
    return not any(name in vars(base) for base in cls.__mro__ for name in _ATTRIBUTES)


def responses(error: BaseException) -> Iterator[ErrorResponse]:
    """What the service answered by ``error``, by its cause, and so on.

    The first that says something counts.
    """
    current: BaseException | None = error
    for _ in range(_DEEPEST):
        if current is None:
            break
        current = unwrapped(current)
        try:
            response = _response_of(current)
        except Exception:  # noqa: BLE001 - the mappings in it may be of any class
            response = ErrorResponse()
        yield response
        cause = attribute(current, "__cause__")
        current = cause if isinstance(cause, BaseException) else None


def unwrapped(error: BaseException) -> BaseException:
    """The error inside of a ``RetryError`` of tenacity or an exception group of one."""
    for _ in range(_DEEPEST):
        inner = _inside(error)
        if inner is None:
            break
        error = inner
    return error


def seconds_to_wait(error: BaseException) -> float:
    """The seconds in the attribute ``retry_after``; 0: it has none.

    Values that are not finite numbers above 0 come from a broken service, and are ignored.
    """
    value = attribute(error, "retry_after")
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return 0.0
    try:
        seconds = float(value)
    except OverflowError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _inside(error: BaseException) -> BaseException | None:
    parts = attribute(error, "exceptions")
    if isinstance(parts, tuple) and callable(attribute(error, "subgroup")):
        alone = parts[0] if len(parts) == 1 else None
        return alone if isinstance(alone, Exception) else None
    last = attribute(error, "last_attempt")  # a future
    if callable(attribute(last, "exception")) and _call(last, "done") is True:
        inner = _call(last, "exception")
        return inner if isinstance(inner, Exception) else None
    return None


def _response_of(error: BaseException) -> ErrorResponse:
    response = attribute(error, "response")
    found = ErrorResponse(retry_after=seconds_to_wait(error))
    if isinstance(response, Mapping):
        _read_botocore(found, response)
    else:
        _read_http(found, error, response)
        for holder in (error, response):
            _read_grpc(found, holder)
        _read_response_body(found.body, response)
    _read_error_body(found.body, error)
    return found


def _read_http(found: ErrorResponse, error: BaseException, response: Any) -> None:
    resp = attribute(error, "resp")  # googleapiclient: an httplib2.Response, a mapping of headers
    found.status = _first(
        _status(attribute(error, "status_code")),
        _status(attribute(error, "status")),
        _status(attribute(response, "status_code")),
        _status(attribute(response, "status")),
        _status(attribute(error, "http_status")),
        _status(_digits(attribute(resp, "status"))),
        # Codes are many things; those of HTTP failures are 400 and above.
        _status(attribute(error, "code"), least=400),
    )
    found.headers = _first(
        _headers(attribute(response, "headers")),
        _headers(attribute(error, "headers")),
        _headers(resp),
    )


def _read_botocore(found: ErrorResponse, response: Mapping[Any, Any]) -> None:
    metadata = response.get("ResponseMetadata")
    if isinstance(metadata, Mapping):
        found.status = _status(metadata.get("HTTPStatusCode"))
        found.headers = _headers(metadata.get("HTTPHeaders"))
    error = response.get("Error")
    if isinstance(error, Mapping):
        found.body.add_code(error.get("Code"))
        message = error.get("Message")
        if isinstance(message, str):
            found.body.messages.append(message)


def _read_grpc(found: ErrorResponse, holder: Any) -> None:
    """An ``RpcError``, or an error of google.api_core that was made of one."""
    if callable(attribute(holder, "trailing_metadata")) and callable(attribute(holder, "code")):
        code = _call(holder, "code")
        metadata = _call(holder, "trailing_metadata")
        details = _call(holder, "details") if callable(attribute(holder, "details")) else None
        if found.headers is None:
            found.headers = _headers(metadata)
        if isinstance(details, str):
            found.body.messages.append(details)
    else:
        code = attribute(holder, "grpc_status_code")
    name = attribute(code, "name")
    if not found.grpc_code and isinstance(name, str) and not isinstance(code, type):
        found.grpc_code = name


def _read_error_body(body: ErrorBody, error: BaseException) -> None:
    """What the client took from the body, and has on its error."""
    for name in ("code", "type", "error_code", "reason", "status"):
        body.add_code(_plain(attribute(error, name)))
    for name in ("body", "json_body", "data", "content"):
        body.read(attribute(error, name))
    errors = attribute(error, "errors")
    if isinstance(errors, (list, tuple)):  # GraphQL
        body.read({"errors": errors, "extensions": attribute(error, "extensions")})
    details = attribute(error, "details")
    if isinstance(details, (list, tuple)):  # google.api_core: messages of protobuf
        details = [_message(each) for each in details]
    body.read({"details": details})
    message = attribute(error, "message")
    if isinstance(message, str):
        body.messages.append(message)


def _read_response_body(body: ErrorBody, response: Any) -> None:
    """The body, if it was read: a property may read it now, so properties are left alone."""
    own = attribute(response, "__dict__")
    if isinstance(own, dict):
        body.read(own.get("_content"))  # httpx, requests
        body.read(own.get("data"))  # slack_sdk


def _message(value: Any) -> Any:
    """One of Google's error details as its JSON would be."""
    kind = attribute(attribute(value, "DESCRIPTOR"), "full_name")
    if not isinstance(kind, str):
        return value
    delay = attribute(value, "retry_delay")
    violations = [
        {
            "quotaId": attribute(each, "quota_id"),
            "quotaMetric": attribute(each, "quota_metric"),
            "description": attribute(each, "description"),
        }
        for each in _listed(attribute(value, "violations"))
    ]
    return {
        "@type": kind,
        "retryDelay": {"seconds": attribute(delay, "seconds"), "nanos": attribute(delay, "nanos")},
        "violations": violations,
        "reason": attribute(value, "reason"),
    }


def _listed(value: Any) -> list[Any]:
    try:
        return list(value)[:100]
    except Exception:  # noqa: BLE001 - it is no list
        return []


def attribute(holder: Any, name: str) -> Any:
    """The attribute; ``None`` where it has none, or reading it raises."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None


def _call(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name)()
    except Exception:  # noqa: BLE001 - so may a method
        return None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _status(value: Any, least: int = 100) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 599:
        return None
    return int(value)


def _digits(value: Any) -> Any:
    is_text = isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit()
    return int(value) if is_text else value


def _headers(value: Any) -> Any:
    """``value``, if it can be headers: a mapping, or pairs."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return None
    is_mapping = isinstance(value, Mapping) or callable(attribute(value, "items"))
    return value if is_mapping or isinstance(value, (list, tuple)) else None


def _plain(value: Any) -> Any:
    """The value of an ``Enum``, or what is given."""
    inner = attribute(value, "value")
    return inner if isinstance(inner, str) else value
