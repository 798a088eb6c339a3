"""Rates as people write them: ``500/min``."""

from __future__ import annotations

import math
import re
from typing import Any

from penstock._util import checks

_SECONDS = {
    ("ms",): 0.001,
    ("s", "sec", "secs", "second", "seconds"): 1.0,
    ("m", "min", "mins", "minute", "minutes"): 60.0,
    ("h", "hour", "hours"): 3_600.0,
    ("d", "day", "days"): 86_400.0,
}
_UNITS = {name: seconds for names, seconds in _SECONDS.items() for name in names}
_RATE = re.compile(r"\s*([0-9_.]+)\s*(?:/|per\s)\s*([0-9_.]*)\s*([a-z]+)\s*")


def parse_rate(text: Any) -> tuple[float, float]:
    """The amount and the seconds of a rate: ``(500.0, 60.0)`` for ``"500/min"``.

    Other rates are ``20/s``, ``100/10s``, ``1_000/day`` and ``200 per minute``. The units are ms,
    s, min (or m), h and d, and their long names.

    Raises:
        TypeError: it is no text.
        ValueError: it is no such text, or a number in it is not finite and more than zero.
    """
    if not isinstance(text, str):
        raise TypeError(f"a rate must be a str such as '500/min', got {checks.shown(text)}")
    found = _RATE.fullmatch(text.lower())
    try:
        if found is None:
            raise ValueError
        amount, count, unit = found.groups()
        rate = float(amount), float(count or 1) * _UNITS[unit]
        if not all(0 < number < math.inf for number in rate):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(
            f"a rate must look like 500/min, 20/s or 100/10s, got {checks.shown(text)}"
        ) from None
    return rate
