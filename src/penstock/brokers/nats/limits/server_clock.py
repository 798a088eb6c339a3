"""What time it is at the server, which is the one clock that all machines have."""

from __future__ import annotations

import math

from penstock.brokers.nats.limits.leases import UNITS


class ServerClock:
    """What the server's clock says, as far as one can tell from here.

    What the server stamped between two moments of the local clock tells what the difference of
    both clocks is, give or take the time between. Wall clocks do not come into it.
    """

    #: Clocks run apart by no more than this (quartz: a fifth of it).
    DRIFT = 100e-6

    def __init__(self) -> None:
        self._low, self._high = -math.inf, math.inf
        self._as_of = 0.0

    def learn(self, sent: float, received: float, stamp: int) -> None:
        """The server stamped something after it was sent and before the answer came."""
        drift = (received - sent) * self.DRIFT * UNITS
        low, high = stamp - received * UNITS - drift, stamp - sent * UNITS + drift
        known_low, known_high = self._bounds(received)
        if low <= known_high and high >= known_low:
            low, high = max(low, known_low), min(high, known_high)
        # Else it was set, or it is another server's now: only the news counts.
        self._low, self._high, self._as_of = low, high, received

    def doubt(self, local: float) -> float:
        """How many seconds it may be off by."""
        low, high = self._bounds(local)
        return (high - low) / UNITS

    def at_least(self, local: float) -> int:
        """It is surely not earlier there."""
        return math.floor(self._bounds(local)[0] + local * UNITS)

    def at_most(self, local: float) -> int:
        """It is surely not later there."""
        return math.ceil(self._bounds(local)[1] + local * UNITS)

    def surely_since(self, now: float, moment: int) -> float:
        """The local time from which that moment has surely come."""
        return (moment - self._bounds(now)[0]) / UNITS

    def surely_until(self, now: float, moment: int) -> float:
        """The local time until which that moment has surely not passed."""
        return (moment - self._bounds(now)[1]) / UNITS

    def _bounds(self, local: float) -> tuple[float, float]:
        drift = abs(local - self._as_of) * self.DRIFT * UNITS
        return self._low - drift, self._high + drift
