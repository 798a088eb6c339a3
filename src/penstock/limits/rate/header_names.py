"""The names of headers about limits: which figure of which limit a field holds.

Services order the parts as they like: ``x-ratelimit-remaining-tokens``,
``X-RateLimit-Tokens-Remaining``, ``acme-ratelimit-tokens-remaining-minute``. So the parts are
looked up one by one, and what stands before ``ratelimit`` is somebody's prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

#: The ends of names that are about the call.
_ORDERS = {
    "x-amz-retry-after": "wait-ms",
    "retry-after-ms": "wait-ms",
    "retry-after": "wait",
    "retry-pushback-ms": "pushback",
    "should-retry": "should-retry",
}
#: The word in a name, and the figure that it stands for.
_FIGURES = {
    "limit": "limit",
    "max": "limit",
    "maximum": "limit",
    "remaining": "remaining",
    "left": "remaining",
    "available": "remaining",
    "reset": "reset",
    "resets": "reset",
    "interval": "window",
    "period": "window",
    "window": "window",
    "status": "status",
}
#: What may follow "reset" or "interval" and is no part of the name of a limit; the seconds that a
#: number stands for.
_UNITS = {
    "after": 1.0,
    "at": 1.0,
    "in": 1.0,
    "time": 1.0,
    "date": 1.0,
    "epoch": 1.0,
    "timestamp": 1.0,
    "unix": 1.0,
    "utc": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "seconds": 1.0,
    "ms": 0.001,
    "millis": 0.001,
    "milliseconds": 0.001,
}
#: Reset in so much time from now, not at some time.
_FROM_NOW = {"after", "in"}

_WINDOWS = {
    **dict.fromkeys(("second", "seconds", "secondly"), 1.0),
    **dict.fromkeys(("minute", "minutes", "minutely"), 60.0),
    **dict.fromkeys(("hour", "hours", "hourly"), 3_600.0),
    **dict.fromkeys(("day", "days", "daily"), 86_400.0),
    **dict.fromkeys(("week", "weeks", "weekly"), 7 * 86_400.0),
    **dict.fromkeys(("month", "months", "monthly"), 31 * 86_400.0),
}
_SHORT_WINDOW = re.compile(r"(\d{1,4})(s|sec|m|min|h|hr|d|w)\Z", re.ASCII)
_SHORT_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 7 * 86_400.0}


@dataclass(frozen=True)
class Field:
    """What the name of a header says."""

    #: The name of the limit; "" if it has none.
    dimension: str
    #: Of a limit: "limit", "remaining", "reset", "window" or "status"; "bucket", if the value is
    #: such as ``40/40``; "states" or "policies", if names of limits and figures are in the value.
    #: Of the call: "wait", "wait-ms", "pushback", "should-retry" or "reason".
    figure: str
    #: The window of the limit in seconds, where the name has it.
    window: float | None = None
    #: The seconds that a number stands for.
    scale: float = 1.0
    #: A number is a time from now, however large.
    is_from_now: bool = False


@lru_cache(maxsize=512)
def read(name: str) -> Field | None:
    """What ``name``, in lower case, says; None if it is about something else."""
    for end, figure in _ORDERS.items():
        if name.endswith(end):
            # Only vendors' own fields may hold a time since 1970 (RFC 9110, section 10.2.3).
            return Field("", figure, is_from_now=name == "retry-after")
    parts = [part for part in re.split("[-_]", name) if part]
    rest = _after_ratelimit(parts)
    if rest is not None:
        return _read_rest(rest)
    if parts[-1:] == ["limit"]:
        return Field("-".join(parts[:-1]).removeprefix("x-"), "bucket")
    return None


def _read_rest(rest: list[str]) -> Field | None:
    """What follows "ratelimit" in a name."""
    if not rest:
        return Field("", "states")
    if rest in (["policy"], ["reason"]):
        return Field("", "policies" if rest == ["policy"] else "reason")
    at = _figure_at(rest)
    if at is None:
        window = _window_of(rest[-1:])  # X-HubSpot-RateLimit-Daily: 250000
        return None if window is None else Field("-".join(rest), "limit", window)
    figure, end, scale, is_from_now = _FIGURES[rest[at]], at + 1, 1.0, False
    if figure in {"reset", "window"}:
        while end < len(rest) and rest[end] in _UNITS:
            scale = min(scale, _UNITS[rest[end]])
            is_from_now = is_from_now or rest[end] in _FROM_NOW
            end += 1
    dimension = rest[:at] + rest[end:]
    return Field("-".join(dimension), figure, _window_of(dimension), scale, is_from_now)


def _after_ratelimit(parts: list[str]) -> list[str] | None:
    """What follows "ratelimit" or "rate-limit"; None if there is no such thing."""
    for at, part in enumerate(parts):
        if part.startswith("ratelimit"):
            more = part.removeprefix("ratelimit")  # ratelimitbysize-remaining
            return [more, *parts[at + 1 :]] if more else parts[at + 1 :]
        if part == "rate" and parts[at + 1 : at + 2] in (["limit"], ["limited"]):
            return parts[at + 2 :]
    return None


def _figure_at(parts: list[str]) -> int | None:
    """Where the word for the figure is: at the front, at the end, or between."""
    last = len(parts) - 1
    while last and parts[last] in _UNITS:  # requests-reset-after
        last -= 1
    return next((at for at in (0, last, *range(1, last)) if parts[at] in _FIGURES), None)


def _window_of(parts: list[str]) -> float | None:
    """The seconds of a window, by parts such as "minute", "5h", "10-seconds"."""
    for at, part in enumerate(parts):
        if part in _WINDOWS:
            before = parts[at - 1] if at else ""
            count = int(before) if re.fullmatch("[1-9][0-9]{0,3}", before) else 1
            return count * _WINDOWS[part]
        if match := _SHORT_WINDOW.match(part):
            return int(match[1]) * _SHORT_UNITS[match[2][0]] or None
    return None
