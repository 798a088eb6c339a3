"""What a service says about its limits in the headers of a response.

These forms are read, by field name (in any case):

- ``Retry-After``: seconds, or an HTTP date (RFC 9110, section 10.2.3). ``retry-after-ms``:
  milliseconds, as OpenAI and Azure send it.
- ``RateLimit: "name";r=0;t=5`` and ``RateLimit-Policy: "name";q=10;w=60``
  (draft-ietf-httpapi-ratelimit-headers-08 and later: structured fields, RFC 9651).
- ``RateLimit: limit=10, remaining=0, reset=5`` (the same draft, version 07), and
  ``RateLimit-Limit``, ``RateLimit-Remaining``, ``RateLimit-Reset`` (up to version 06).
- ``X-RateLimit-Limit``, ``-Remaining``, ``-Reset`` (also ``X-Rate-Limit-…``). There is no standard:
  a reset is seconds from now, or seconds or milliseconds since 1970, told apart by their size, or
  a date.
- ``x-ratelimit-remaining-requests``, ``x-ratelimit-reset-tokens`` and so on, with durations such
  as ``6m0s`` (OpenAI's guide "Rate limits").
- ``anthropic-ratelimit-requests-remaining``, ``anthropic-ratelimit-tokens-reset`` and so on, with
  times as of RFC 3339 (Anthropic's guide "Rate limits").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

#: Seconds: a longer wait makes no sense. 31 days is the longest period that services bill.
LONGEST_WAIT = 31 * 86_400.0
#: A reset of at least the first number is in seconds since 1970, of at least the second in
#: milliseconds since 1970; a smaller one is in seconds from now.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11
#: A value with more characters is not read.
_LONGEST_VALUE = 1_000


@dataclass(frozen=True)
class Dimension:
    """What a service says about one of its limits."""

    #: "requests", "tokens", or whatever the service calls it; "" if it has no name.
    name: str
    #: How much a window allows, how much is left of it, and the seconds until all of it is there.
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    #: The length of the window in seconds.
    window: float | None = None


@dataclass(frozen=True)
class Feedback:
    """What the headers of one response say."""

    #: Seconds to wait before the next call, if the service named them.
    retry_after: float | None = None
    dimensions: tuple[Dimension, ...] = ()
    #: How many values made no sense.
    ignored: int = 0

    @property
    def wait(self) -> float:
        """The seconds in which no call should start; 0: go on.

        It is ``retry_after`` if the service named that, which takes precedence by the draft; or
        else the longest ``reset`` of a dimension with nothing remaining.
        """
        if self.retry_after is not None:
            return self.retry_after
        return max(
            (each.reset or 0.0 for each in self.dimensions if each.remaining == 0), default=0.0
        )


def parse(headers: Any, now_wall: float) -> Feedback:
    """Read ``headers``: a mapping, or pairs, of str or bytes.

    ``now_wall``: seconds since 1970, to compare dates with. A date that has just passed means
    "now". Values that make no sense (not a number, negative, NaN, more than 31 days away) are
    ignored and counted. Never raises.
    """
    reader = _Reader(now_wall)
    try:
        pairs = list(_pairs(headers))
    except Exception:  # noqa: BLE001 - whatever this is, it is not headers
        return Feedback(ignored=1)
    for name, value in pairs:
        reader.read(name, value)
    return Feedback(
        reader.retry_after,
        tuple(Dimension(name, **said) for name, said in reader.dimensions.items()),
        reader.ignored,
    )


def _pairs(headers: Any) -> Iterable[tuple[str, str]]:
    if headers is None:
        return
    multi: Any = getattr(headers, "multi_items", None)  # httpx: all of those that were sent twice
    if callable(multi):
        items: Any = multi()
    else:
        items = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in items:
        values = value if isinstance(value, (list, tuple)) else (value,)
        for one in values:
            yield _text(name).strip().lower(), _text(one).strip()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)


_X_RATELIMIT = re.compile(r"x-rate-?limit-(limit|remaining|reset)(?:-([a-z0-9_-]+))?\Z")
_ANTHROPIC = re.compile(r"anthropic-ratelimit-([a-z0-9_-]+)-(limit|remaining|reset)\Z")
_OLD_DRAFT = re.compile(r"ratelimit-(limit|remaining|reset)\Z")


@dataclass
class _Reader:
    now: float
    retry_after: float | None = None
    dimensions: dict[str, dict[str, float]] = field(default_factory=dict)
    ignored: int = 0

    def read(self, name: str, value: str) -> None:
        try:
            known = self._read(name, value)
        except (ValueError, OverflowError, TypeError):
            known = False
        if not known:
            self.ignored += 1

    def _read(self, name: str, value: str) -> bool:
        """Whether all of the value could be used; True for fields that are not about limits."""
        if "ratelimit" not in name and "rate-limit" not in name and "retry-after" not in name:
            return True
        if len(value) > _LONGEST_VALUE:
            return False
        if name == "retry-after":
            return self._retry(_when(value, self.now, epoch=False))
        if name == "retry-after-ms":
            return self._retry(_wait(_number(value) / 1000))
        if name in {"ratelimit", "ratelimit-policy"}:
            return self._draft(value)
        return self._count(name, value)

    def _count(self, name: str, value: str) -> bool:
        """Read a field with one figure, whose kind is in the name of the field."""
        if match := _X_RATELIMIT.match(name):
            return self._note(match[2] or "", match[1], value)
        if match := _ANTHROPIC.match(name):
            return self._note(match[1], match[2], value)
        if match := _OLD_DRAFT.match(name):
            # "10, 10;w=1, 1000;w=3600": the first figure counts, and the policies follow.
            return self._note("", match[1], re.split("[,;]", value)[0].strip(), epoch=False)
        return True

    def _retry(self, seconds: float) -> bool:
        self.retry_after = max(seconds, self.retry_after or 0.0)
        return True

    def _note(self, dimension: str, what: str, value: str, *, epoch: bool = True) -> bool:
        number = _when(value, self.now, epoch=epoch) if what == "reset" else _number(value)
        if not 0 <= number < math.inf:
            return False
        said = self.dimensions.setdefault(dimension, {})
        # If there are two (a proxy may add one): the one that leaves less.
        pick = min if what == "remaining" else max
        said[what] = pick(number, said[what]) if what in said else number
        return True

    def _draft(self, value: str) -> bool:
        """Read a list of items with parameters, or, in version 07, a list of parameters."""
        good = True
        for part in _split(value, ","):
            name, *parameters = [piece.strip() for piece in _split(part, ";")]
            if "=" in name:
                name, parameters = "", [name, *parameters]
            elif name[:1].isdigit():  # a policy of version 07: 100;w=60
                name, parameters = "", [f"q={name}", *parameters]
            good = self._parameters(name.strip('"'), parameters) and good
        return good

    def _parameters(self, dimension: str, parameters: list[str]) -> bool:
        good = bool(parameters)
        for parameter in parameters:
            key, equals, value = parameter.partition("=")
            what = _PARAMETERS.get(key.strip().lower())
            if what is None:
                continue  # a partition key, a unit, or something newer
            try:
                if not equals:
                    raise ValueError(parameter)
                if what == "window":
                    said = self.dimensions.setdefault(dimension, {})
                    said.setdefault(what, _number(value.strip()))
                else:
                    good = self._note(dimension, what, value.strip(), epoch=False) and good
            except ValueError:
                good = False
        return good


_PARAMETERS = {
    "limit": "limit",
    "remaining": "remaining",
    "reset": "reset",
    "q": "limit",
    "r": "remaining",
    "t": "reset",
    "w": "window",
}


def _split(text: str, separator: str) -> list[str]:
    """The parts of ``text`` between separators, except separators in quotes."""
    parts = re.findall(rf'((?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+)', text)
    return [part for part in parts if part.strip()]


_NUMBER = re.compile(r"\d{1,18}(?:\.\d{1,18})?\Z", re.ASCII)
_DURATION = re.compile(
    r"(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9}(?:\.\d{1,12})?)s)?"
    r"(?:(\d{1,9}(?:\.\d{1,12})?)ms)?(?:(\d{1,12}(?:\.\d{1,12})?)(?:us|µs))?\Z",
    re.ASCII,
)
_UNITS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001, 0.000_001)


def _number(text: str) -> float:
    if not _NUMBER.match(text):
        raise ValueError(text)
    return float(text)


def _when(text: str, now: float, *, epoch: bool) -> float:
    """Seconds from now, from a number, a duration or a date."""
    if _NUMBER.match(text):
        number = float(text)
        if epoch and number >= _EPOCH_MILLISECONDS:
            return _until(number / 1000, now)
        if epoch and number >= _EPOCH_SECONDS:
            return _until(number, now)
        return _wait(number)
    if match := _DURATION.match(text):
        amounts = zip(match.groups(), _UNITS, strict=True)
        return _wait(sum(float(amount) * unit for amount, unit in amounts if amount))
    return _until(_date(text), now)


def _date(text: str) -> float:
    if re.match(r"\d{4}-\d\d-\d\d[Tt ]", text, re.ASCII):  # RFC 3339
        text = re.sub(r"(\.\d{6})\d+", r"\1", text.upper().replace("Z", "+00:00"))
        text = re.sub(r"\.(\d{1,5})(?=[+-]|\Z)", lambda part: f".{part[1]:0<6}", text)
        when = datetime.fromisoformat(text)
    else:
        when = parsedate_to_datetime(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return when.timestamp()


def _until(moment: float, now: float) -> float:
    # It lies in the past if the clocks differ a little, or the response was slow.
    if moment < now - LONGEST_WAIT:
        raise ValueError(moment)
    return _wait(max(0.0, moment - now))


def _wait(seconds: float) -> float:
    if not 0 <= seconds <= LONGEST_WAIT:
        raise ValueError(seconds)
    return seconds
