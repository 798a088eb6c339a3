"""Cutting a limit, and whether it helped."""

from __future__ import annotations

#: What is left of the limit after a cut. (TCP halves; CUBIC, RFC 9438, keeps 0.7.)
CUT = 0.7

#: So many cuts in a row that did not help show that the slowness is not of our making.
FUTILE = 3


class SlowCuts:
    """Cuts in a row because of latency: did they help?"""

    __slots__ = ("_cuts", "_reference", "before")

    def __init__(self) -> None:
        self.before = 0.0  # the limit before the first of them
        self._cuts = 0
        self._reference = 0.0

    def add(self, limit: float, latency: float) -> None:
        """``limit`` is cut, as a round took ``latency`` seconds."""
        if self._cuts == 0:
            self.before = limit
            self._cuts = 1
        elif latency > self._reference:
            # The first round that lies wholly after what happened, or it gets even worse.
            self._reference = latency
            self._cuts = 2
        else:
            self._cuts += 1

    def were_futile(self, latency: float) -> bool:
        """Whether latency is nearer to unchanged than to in proportion with the limit.

        A queue of our own calls gets shorter with every cut, and so does the time spent in it. A
        service that has become slower does not mind.
        """
        if self._cuts < FUTILE:
            return False
        in_proportion: float = CUT ** (self._cuts - 1)
        return latency > self._reference * (1 + in_proportion) / 2
