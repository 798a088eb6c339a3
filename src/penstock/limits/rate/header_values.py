"""The values of headers about limits: figures, durations and dates.

Each function raises ``ValueError`` for what makes no sense.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

#: Seconds: a longer wait makes no sense. 31 days is the longest period that services bill.
LONGEST_WAIT = 31 * 86_400.0
#: A reset of at least the first number is in seconds since 1970, of at least the second in
#: milliseconds since 1970; a smaller one is in seconds from now.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11

_NUMBER = re.compile(r"\d{1,18}(?:\.\d{1,18})?\Z", re.ASCII)
#: Each pattern of a duration, and the seconds that its groups stand for.
_DURATIONS = (
    (  # 1d2h3m4.5s, 6m0s, 12ms
        re.compile(
            r"(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?"
            r"(?:(\d{1,9}(?:\.\d{1,12})?)s)?(?:(\d{1,9}(?:\.\d{1,12})?)ms)?"
            r"(?:(\d{1,12}(?:\.\d{1,12})?)(?:us|µs))?\Z",
            re.ASCII,
        ),
        (86_400.0, 3_600.0, 60.0, 1.0, 0.001, 0.000_001),
    ),
    (  # PT1M30S: ISO 8601
        re.compile(
            r"P(?=\d|T\d)(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?"
            r"(?:(\d{1,9}(?:\.\d{1,12})?)S)?)?\Z",
            re.ASCII | re.IGNORECASE,
        ),
        (86_400.0, 3_600.0, 60.0, 1.0),
    ),
    (  # 00:00:05, and 1.00:00:05 with a day, as .NET writes a TimeSpan
        re.compile(
            r"(?:(\d{1,3})\.)?(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,12})?)\Z",
            re.ASCII,
        ),
        (86_400.0, 3_600.0, 60.0, 1.0),
    ),
)


def number(text: str) -> float:
    """A figure of zero or more."""
    if not _NUMBER.match(text):
        raise ValueError(text)
    return float(text)


def duration(text: str) -> float | None:
    """Seconds; None if the text is no duration with units."""
    for pattern, units in _DURATIONS:
        if match := pattern.match(text):
            amounts = zip(match.groups(), units, strict=True)
            return wait(sum(float(amount) * unit for amount, unit in amounts if amount))
    return None


def when(text: str, now: float, *, epoch: bool, scale: float = 1.0) -> float:
    """Seconds from ``now``, from a number, a duration or a date.

    ``epoch``: whether a large number is a time since 1970. ``scale``: the seconds that a number
    stands for, unless it is such a time.
    """
    if _NUMBER.match(text):
        figure = float(text)
        if epoch and figure >= _EPOCH_MILLISECONDS:
            return _until(figure / 1000, now)
        if epoch and figure >= _EPOCH_SECONDS and scale == 1.0:
            return _until(figure, now)
        return wait(figure * scale)
    seconds = duration(text)
    return _until(_date(text), now) if seconds is None else seconds


def wait(seconds: float) -> float:
    """``seconds``, if that is a time to wait."""
    if not 0 <= seconds <= LONGEST_WAIT:
        raise ValueError(seconds)
    return seconds


def _date(text: str) -> float:
    if re.match(r"\d{4}-\d\d-\d\d[Tt ]", text, re.ASCII):  # RFC 3339
        text = re.sub(r"(\.\d{6})\d+", r"\1", text.upper().replace("Z", "+00:00"))
        text = re.sub(r"\.(\d{1,5})(?=[+-]|\Z)", lambda part: f".{part[1]:0<6}", text)
        moment = datetime.fromisoformat(text)
    else:
        moment = parsedate_to_datetime(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _until(moment: float, now: float) -> float:
    # It lies in the past if the clocks differ a little, or the response was slow.
    if moment < now - LONGEST_WAIT:
        raise ValueError(moment)
    return wait(max(0.0, moment - now))
