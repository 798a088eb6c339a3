"""Averages of many measurements."""

from __future__ import annotations

import math

from penstock._util import checks


class Ewma:
    """An exponentially weighted moving average: each new value counts ``weight`` of the whole.

    ``weight`` lies in (0, 1], else ``ValueError``. The first values, about ``1 / weight`` of them,
    all count the same (the plain mean), so that the very first one does not weigh too much. TCP
    smooths its round-trip time like this, with 1/8 (RFC 6298). Not thread-safe.
    """

    __slots__ = ("_count", "_value", "_weight")

    def __init__(self, weight: float = 0.125) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"weight must be above 0 and at most 1, got {checks.shown(weight)}")
        self._weight = weight
        self._count = 0
        self._value = 0.0

    @property
    def value(self) -> float | None:
        """The average; ``None`` before the first value."""
        return self._value if self._count else None

    def add(self, value: float) -> None:
        """Take one more value into account; ignores values that are not finite."""
        if not math.isfinite(value):
            return
        self._count += 1
        self._value += (value - self._value) * max(self._weight, 1 / self._count)


class LogSample:
    """The mean and variance of the logarithms of measured values.

    Latencies have long tails: a few calls that take ten times as long would carry the plain mean
    away. The mean of the logarithms (the logarithm of the geometric mean) hardly moves.
    """

    __slots__ = ("_squares", "_sum", "count")

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take one more value, above 0, into account."""
        logarithm = math.log(value)
        self.count += 1
        self._sum += logarithm
        self._squares += logarithm * logarithm

    @property
    def mean(self) -> float:
        """The mean; needs at least one value."""
        return self._sum / self.count

    @property
    def variance(self) -> float:
        """The variance; needs at least two values."""
        spread = self._squares - self.count * self.mean**2
        return max(0.0, spread / (self.count - 1))  # rounding could make it negative
