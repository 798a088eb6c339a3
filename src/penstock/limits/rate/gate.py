"""A gate that is closed for a while, and then lets the calls that waited start one by one."""

from __future__ import annotations

import math
import random

#: The calls that waited are spread over this share of the time that the gate was closed, and over
#: at most ``SPREAD_MOST`` seconds.
SPREAD_SHARE = 0.1
SPREAD_MOST = 1.0


class Gate:
    """Says when the next call may pass. Takes the time; reads no clock.

    When the gate opens, the calls that waited do not pass in the same moment: each is followed by a
    gap, drawn at random so that all of them pass within a tenth of the time that the gate was
    closed, one second at most. After that it is as if it had never been closed.
    """

    __slots__ = (
        "_closed_before",
        "_closed_seen",
        "_closed_since",
        "_closed_until",
        "_random",
        "_spread_until",
        "closures",
        "opens_at",
        "spreads",
    )

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = random.random if rng is None else rng.random
        self.closures = 0
        # Seconds of earlier closings, and of all as they were read last.
        self._closed_before = self._closed_seen = 0.0
        self.reopen()

    def reopen(self) -> None:
        """Open it at once."""
        self._closed_before = self._closed_seen
        self._closed_since = self._closed_until = self._spread_until = -math.inf
        #: From when on the next call may pass.
        self.opens_at = -math.inf
        #: Whether gaps are still drawn, so that :meth:`passed` must be called.
        self.spreads = False

    def close(self, now: float, seconds: float, waiting: int = 0) -> None:
        """Close it for ``seconds`` from ``now``, or until the end of an earlier closing if later.

        ``waiting``: how many calls wait to pass.
        """
        until = now + seconds
        if until <= max(now, self._closed_until):
            return
        if now >= self._closed_until:
            self.closures += 1  # what makes a closure longer is not another one
            self._closed_before, self._closed_since = self.closed_time(now), now
        self._closed_until = until
        self._spread_until = until + min(seconds * SPREAD_SHARE, SPREAD_MOST)
        self.opens_at = self._after(until, waiting)
        self.spreads = True

    def closed_for(self, now: float) -> float:
        """Seconds until it opens; 0 when it is open."""
        return max(0.0, self._closed_until - now)

    def closed_time(self, now: float) -> float:
        """For how many seconds it has been closed so far. Changes nothing that matters."""
        if self._closed_since > -math.inf:
            current = max(0.0, min(now, self._closed_until) - self._closed_since)
            self._closed_seen = max(self._closed_seen, self._closed_before + current)
        return self._closed_seen

    def passed(self, now: float, waiting: int) -> None:
        """A call passed at ``now``, and ``waiting`` calls wait to pass."""
        self.spreads = now < self._spread_until
        if self.spreads:
            self.opens_at = self._after(now, waiting)

    def _after(self, now: float, waiting: int) -> float:
        # The gaps of all that wait fill the rest of the time on average: a mean, times 0 to 2.
        mean = (self._spread_until - now) / (waiting + 1)
        return min(self._spread_until, now + self._random() * 2 * mean)
