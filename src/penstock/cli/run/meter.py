"""How much there was of late: the rate that the display holds against its limit."""

from __future__ import annotations

import math
from collections import deque

#: A rate is over so many seconds at least, in so many parts at least.
_SECONDS, _PARTS = 5.0, 60
_UNITS = {1.0: "s", 60.0: "min", 3600.0: "h", 86_400.0: "d"}


class Meter:
    """Counts what comes, and tells how much came in ``per`` seconds of late.

    Looks back over one period, or over as many whole ones as make five seconds: what keeps to
    ``maximum`` in any ``per`` seconds never reads as more than that. It may read as a little
    less, for the oldest part of that time is left out.

    Args:
        maximum: the limit, if there is one.
        per: seconds in a period, more than 0.
    """

    def __init__(self, maximum: float | None = None, per: float = 1.0) -> None:
        self.maximum = maximum
        self.per = per
        self._periods = math.ceil(_SECONDS / per)
        self._parts = math.ceil(_PARTS / self._periods)
        #: (number, amount) of the parts of periods in which something came, the oldest first.
        self._counts: deque[tuple[int, float]] = deque()

    def add(self, at: float, amount: float = 1) -> None:
        """So much came ``at`` so many seconds from the beginning."""
        part = self._part(at)
        if self._counts and self._counts[-1][0] >= part:
            part, before = self._counts.pop()
            amount += before
        self._counts.append((part, amount))
        while self._counts[0][0] <= part - self._periods * self._parts:
            self._counts.popleft()

    def rate(self, at: float) -> float:
        """How much comes in ``per`` seconds."""
        periods = min(self._periods, max(1, math.floor(at / self.per)))
        from_part = self._part(at) - periods * self._parts
        return sum(amount for part, amount in self._counts if part > from_part) / periods

    def told(self, at: float) -> str:
        """The rate for people, and the limit if there is one: ``7.9/s of 8/s``."""
        unit = f"/{_UNITS.get(self.per) or f'{self.per:g}s'}"
        text = number(self.rate(at)) + unit
        return text if self.maximum is None else f"{text} of {self.maximum:,.6g}{unit}"

    def _part(self, at: float) -> int:
        return math.floor(at / self.per * self._parts)


def number(value: float) -> str:
    """A number for people: two digits of it, or all those before the point."""
    if value and abs(value) < 9.95:
        return f"{value:.1f}".removesuffix(".0") if abs(value) >= 0.95 else f"{value:.2g}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds for people, as in ``0.25 s``, ``42 s``, ``3 min 20 s`` and ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"
