"""Not starting what can no longer be in time."""

from __future__ import annotations

import math

from penstock._util import checks
from penstock.limits.estimate import Ewma


def is_hopeless(deadline_at: float, now: float, expected: float | None = 0.0) -> bool:
    """Whether an item that starts at ``now`` misses its deadline.

    ``deadline_at`` and ``now`` are in seconds of one clock, ``math.inf`` is no deadline.
    ``expected`` is how many seconds the service takes; ``None`` where nobody knows: then the item
    is hopeless only when its deadline has passed.
    """
    return now + (expected or 0.0) > deadline_at or now >= deadline_at


class ServiceTime:
    """How long a call takes at worst, mostly; what :func:`is_hopeless` expects.

    Smoothed like the retransmission timeout of TCP (RFC 6298): the average of the calls that
    succeeded, plus twice their mean distance from it. (Were it only the average, then a queue that
    is always behind would start items with just that much time left, and every other one would be
    late.)

    When it says that even an item with all its time before it is hopeless, nothing would be
    started, and nothing learned, ever again. So when nothing was started or answered for ``trial``
    seconds, one such item is let through, if its deadline has not passed. Not thread-safe.
    """

    def __init__(self, trial: float = 1.0) -> None:
        self._trial = checks.seconds(trial, "trial")
        self._average = Ewma()
        self._distance = Ewma(0.25)
        self._last_start = -math.inf

    @property
    def expected(self) -> float | None:
        """Seconds; ``None`` before the first call."""
        average, distance = self._average.value, self._distance.value
        return None if average is None or distance is None else average + 2 * distance

    def add(self, seconds: float, now: float | None = None) -> None:
        """A call took so many seconds, until ``now``. What is below 0 or not finite is ignored."""
        if now is not None:
            self._last_start = max(self._last_start, now)  # an answer teaches no less than a trial
        if not 0 <= seconds < math.inf:
            return
        average = self._average.value
        self._distance.add(abs(seconds - (seconds if average is None else average)))
        self._average.add(seconds)

    def is_hopeless(self, deadline_at: float, now: float) -> bool:
        """Like :func:`is_hopeless`; what it lets through is taken to start at ``now``."""
        if is_hopeless(deadline_at, now):
            return True
        if now < self._last_start:
            self._last_start = -math.inf  # the clock of another event loop
        if is_hopeless(deadline_at, now, self.expected) and now < self._last_start + self._trial:
            return True
        self._last_start = now
        return False
