"""At most so many starts in any stretch of so many seconds."""

from __future__ import annotations

from collections import deque


class SlidingLog:
    """The exact form of "``maximum`` per ``period``": it remembers when the last starts were.

    In no window of ``period`` seconds, wherever it begins, lie more than ``maximum`` starts. (A
    counter that is reset every period lets twice as many through around the reset; a leaky bucket
    lets a burst through on top of its rate.) Takes the time and gives a wait; reads no clock.
    """

    def __init__(self, maximum: int, period: float) -> None:
        self._starts: deque[float] = deque(maxlen=maximum)
        self._maximum = maximum
        self._period = period

    def wait_time(self, now: float) -> float:
        """Seconds from ``now`` until one more may start; 0 when it may start now."""
        if self._starts and now < self._starts[-1]:
            self._starts.clear()  # a clock that goes back is another clock, of another loop
        if len(self._starts) < self._maximum:
            return 0.0
        return max(0.0, self._starts[0] + self._period - now)

    def record(self, now: float) -> None:
        """One starts at ``now``."""
        self._starts.append(now)
