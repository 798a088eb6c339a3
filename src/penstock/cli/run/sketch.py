"""What is kept of many numbers in little memory: percentiles to within some percent, and means."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

#: The most that a percentile is off, as a share of itself.
RELATIVE_ERROR = 0.025
#: Each bucket ends so many times higher than the one before it.
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
#: Seconds that are told apart. What is below or above counts as one of these.
_SHORTEST, _LONGEST = 1e-4, 1e6


class Sketch:
    """The percentiles of durations, each within ``RELATIVE_ERROR`` of the true one.

    Counts in buckets that grow by a constant factor, as DDSketch does (Masson, Rim and Lee, 2019):
    461 of them at most. Below 0.1 ms it tells nothing apart.
    """

    __slots__ = ("_buckets", "count", "most", "total")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        seconds = max(0.0, seconds)
        inside = min(max(seconds, _SHORTEST), _LONGEST)
        self._buckets[math.ceil(math.log(inside) / _LOG_GROWTH)] += 1
        self.count += 1
        self.total += seconds
        self.most = max(self.most, seconds)

    def merge(self, other: Sketch) -> None:
        """Count all that ``other`` has."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)

    @property
    def mean(self) -> float:
        """The mean, exactly; 0 of none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float | None:
        """What ``percent`` of them did not exceed; None of none."""
        rank = max(1, math.ceil(percent / 100 * self.count))
        for bucket, count in sorted(self._buckets.items()):
            rank -= count
            if rank <= 0:
                return min(2 * _GROWTH**bucket / (_GROWTH + 1), self.most)
        return None


@dataclass
class Gauge:
    """What was seen of a number that goes up and down."""

    count: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, value: float) -> None:
        """It was ``value``."""
        self.count += 1
        self.total += value
        self.most = max(self.most, value)

    def merge(self, other: Gauge) -> None:
        """It was all that ``other`` saw, too."""
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)

    @property
    def mean(self) -> float | None:
        """The mean of what was seen; None if nothing was."""
        return self.total / self.count if self.count else None
