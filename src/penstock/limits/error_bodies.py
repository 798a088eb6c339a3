"""What the body of an answer says of a failure: codes, messages, times, quotas.

There are many forms (Google's ``error.details``, problem details of RFC 9457, GraphQL's ``errors``,
``{"error": {"code": …}}``), and they share their words. So the words are looked up wherever errors
keep them, and not along the path of one vendor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.limits.rate.header_values import LONGEST_WAIT, duration

#: Bytes or characters: a body that says why it is one of a failure is short.
_LONGEST_BODY = 65_536
#: Parts of a body that are looked at, and how deep.
_MOST_PARTS, _DEEPEST = 300, 8
_LONGEST_CODE = 200

#: Where errors are inside of bodies.
_INSIDE = frozenset({"error", "errors", "detail", "details", "extensions", "fault", "body"})
_CODES = frozenset(
    {"code", "type", "reason", "status", "error", "error_code", "errorcode", "error_type", "__type"}
)
_MESSAGES = frozenset({"message", "title", "detail", "error", "error_message", "msg"})
_PER_DAY = re.compile(r"per[ _-]?day|daily", re.IGNORECASE)


@dataclass
class ErrorBody:
    """What is known of the bodies that were read."""

    #: As :func:`code_of` makes them.
    codes: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    #: Seconds to wait; ``None``: it names none.
    retry_after: float | None = None
    #: The quota of a day is used up.
    is_daily_quota: bool = False
    #: The names of the limits that refused the call.
    violated: set[str] = field(default_factory=set)
    _parts: int = 0

    def read(self, body: Any) -> None:
        """Read what a client has of a body: bytes or text of JSON, or what was made of it."""
        if isinstance(body, (bytes, bytearray, str)):
            body = _parsed(body)
        self._read(body, 0)

    def _read(self, value: Any, depth: int) -> None:
        self._parts += 1
        if depth > _DEEPEST or self._parts > _MOST_PARTS:
            return
        if isinstance(value, (list, tuple)):
            for each in value[:_MOST_PARTS]:
                self._read(each, depth + 1)
        elif isinstance(value, Mapping):
            self._read_mapping(value, depth)

    def _read_mapping(self, value: Mapping[Any, Any], depth: int) -> None:
        for key, each in list(value.items())[:_MOST_PARTS]:
            name = key.lower() if isinstance(key, str) else ""
            if name in _CODES:
                self.add_code(each)
            if name in _MESSAGES and isinstance(each, str):
                self.messages.append(each)
            if name == "violated-policies" and isinstance(each, (list, tuple)):
                self.violated.update(one for one in each if isinstance(one, str))
            elif name == "cost" and isinstance(each, Mapping):
                self._wait(_seconds_of_cost(each))
            elif name in _INSIDE:
                self._read(each, depth + 1)
        kind = value.get("@type")
        if isinstance(kind, str) and kind.endswith("google.rpc.RetryInfo"):
            self._wait(_seconds(value.get("retryDelay")))
        elif isinstance(kind, str) and kind.endswith("google.rpc.QuotaFailure"):
            self._read_violations(value.get("violations"))

    def _read_violations(self, violations: Any) -> None:
        for each in violations if isinstance(violations, (list, tuple)) else ():
            if isinstance(each, Mapping):
                words = [each.get(key) for key in ("quotaId", "quotaMetric", "description")]
                if any(isinstance(word, str) and _PER_DAY.search(word) for word in words):
                    self.is_daily_quota = True

    def add_code(self, value: Any) -> None:
        """Note a code that is text; anything else is none."""
        if isinstance(value, str) and len(value) <= _LONGEST_CODE:
            self.codes.add(code_of(value))

    def _wait(self, seconds: float | None) -> None:
        if seconds is not None:
            self.retry_after = max(seconds, self.retry_after or 0.0)


def code_of(text: str) -> str:
    """A code without the namespace before it, in lower case, with hyphens: "insufficient-quota"."""
    return re.split("[#/:]", text.strip())[-1].lower().replace("_", "-").replace(" ", "-")


def messages_mention(messages: Iterable[str], pattern: re.Pattern[str]) -> bool:
    """Whether one of them has what ``pattern`` looks for, near its beginning."""
    return any(pattern.search(message[:2_000]) for message in messages)


def _parsed(text: bytes | bytearray | str) -> Any:
    if len(text) > _LONGEST_BODY:
        return None
    start = text.lstrip()[:1]
    if start not in (b"{", b"[", "{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _seconds(value: Any) -> float | None:
    """A protobuf duration: "45.8s", or its two fields."""
    if isinstance(value, str):
        try:
            return duration(value)
        except ValueError:
            return None
    if isinstance(value, Mapping):
        return _sane(_figure(value.get("seconds", 0)) + _figure(value.get("nanos", 0)) / 1e9)
    return None


def _seconds_of_cost(cost: Mapping[Any, Any]) -> float | None:
    """The time until a bucket has what a GraphQL query costs, as Shopify tells it."""
    status = cost.get("throttleStatus")
    if not isinstance(status, Mapping):
        return None
    rate = _figure(status.get("restoreRate"))
    if not rate > 0:
        return None
    missing = _figure(cost.get("requestedQueryCost", 1)) - _figure(status.get("currentlyAvailable"))
    return _sane(max(0.0, missing / rate)) if not math.isnan(missing) else None


def _figure(value: Any) -> float:
    """A number, or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= LONGEST_WAIT else None
