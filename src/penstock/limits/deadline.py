"""Deadlines: items that can no longer be served in time are not started."""

from __future__ import annotations

import math

from penstock._util import checks
from penstock.limits.estimate import Ewma


def is_hopeless(deadline_at: float, now: float, expected: float | None = 0.0) -> bool:
    """Whether an item that starts at ``now`` misses its deadline.

    ``deadline_at`` and ``now`` are in seconds of one clock; ``math.inf`` is no deadline.
    ``expected`` is how many seconds a call takes; ``None`` if that is not known: then the item is
    hopeless only when its deadline has passed.
    """
    return now + (expected or 0.0) > deadline_at or now >= deadline_at


class ServiceTime:
    """How long a call takes at worst, mostly; what :func:`is_hopeless` expects.

    It is smoothed like the retransmission timeout of TCP (RFC 6298): the average time of the calls
    that succeeded, plus twice the mean distance from it. (With the average alone, a queue that is
    always behind would start items with just that much time left, and every second one would be
    late.)

    If even an item with all its time left were hopeless, no call would start, and nothing would be
    learned, ever again. So when no call was started or answered for ``trial`` seconds, one hopeless
    item is let through, if its deadline has not passed.

    Not thread-safe. ``trial`` is zero or more, else ``ValueError``.
    """

    def __init__(self, trial: float = 1.0) -> None:
        self._trial = checks.seconds(trial, "trial")
        self._average = Ewma()
        self._distance = Ewma(0.25)
        self._last_start = -math.inf

    @property
    def expected(self) -> float | None:
        """Seconds that a call takes; ``None`` before the first one succeeded."""
        average, distance = self._average.value, self._distance.value
        return None if average is None or distance is None else average + 2 * distance

    def add(self, seconds: float, now: float | None = None) -> None:
        """A call took ``seconds`` until ``now``. Times below 0 or not finite are ignored."""
        if now is not None:
            self._last_start = max(self._last_start, now)  # an answer says as much as a trial
        if not 0 <= seconds < math.inf:
            return
        average = self._average.value
        self._distance.add(abs(seconds - (seconds if average is None else average)))
        self._average.add(seconds)

    def is_hopeless(self, deadline_at: float, now: float) -> bool:
        """As :func:`is_hopeless`; an item that it lets through is expected to start at ``now``."""
        if is_hopeless(deadline_at, now):
            return True
        if now < self._last_start:
            self._last_start = -math.inf  # the clock of another event loop
        if is_hopeless(deadline_at, now, self.expected) and now < self._last_start + self._trial:
            return True
        self._last_start = now
        return False
