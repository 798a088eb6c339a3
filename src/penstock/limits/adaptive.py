"""How many calls at once, when nobody knows: found out from rejections and from latency.

Additive increase, multiplicative decrease, as TCP has it (Chiu and Jain, 1989), in *rounds*. A
round is a trip there and back, as in TCP Vegas (Brakmo and Peterson, 1995): it begins with a
decision, and ends when enough calls that **started** within it have been answered. So each decision
shows its effect before the next one is made, and there is at most one cut per round trip.

What is compared with the baseline is typical latency, not its minimum, as in the Gradient2 limit of
Netflix' concurrency-limits (2018). The baseline is not a long average, though, which would creep up
with the queue: it is what is seen right after a cut, when the queue is gone.
"""

from __future__ import annotations

import math

from penstock._util import checks
from penstock.limits.cuts import CUT, SlowCuts
from penstock.limits.estimate import Ewma, LogSample

#: A round is slow when its latency is surely more than so many times the baseline. Less than
#: ``1 / CUT``: then one cut takes away the whole queue that made it slow, and what follows shows
#: the service without one.
_SLOW = math.log(1.35)

#: How many standard errors make "surely": at the end of a round, and to end a round early.
_SURE, _VERY_SURE = 1.5, 3.0

#: Answers in a round: at least; with noisy latencies at most; and at least to end it early.
_ANSWERS, _MOST_ANSWERS, _FEWEST_ANSWERS = 16, 100, 8

#: Of the variance of latency, from round to round.
_VARIANCE_WEIGHT = 0.1

#: How much of the new baseline is what was seen after a cut, or before the first sign of too much,
#: or while the limit was not reached.
_BASELINE_WEIGHT = 0.25

#: Shorter latencies (seconds) are this program's own rather than the service's, and all the same.
_SHORTEST = 0.001

#: A limit at which a call was rejected is tried again after so many successes, and so many for each
#: call that may be under way. It bounds the rejections per success, however small the limit is.
_PROBE_AFTER, _PROBE_AFTER_TRIPS = 50, 10


class AdaptiveConcurrency:
    """Finds how many calls at once a service takes, between ``min`` and ``max``.

    In place of a fixed ``concurrency_limit``. It begins with ``start`` (``min`` unless given), and
    doubles each round until the first sign of too much. From then on it grows in each round in
    which it was used: half-way back to where the last cut was made, then by one (a twentieth of a
    limit above 20). It is cut to 0.7 of itself when a call is rejected, or when latency is well
    above its baseline: relative to it, so that there is no latency to set. When cuts in a row do
    not bring latency down, the service has become slower by itself: that is the new baseline then,
    and the cuts are undone.

    Tell it how each call ended, :meth:`succeeded`, :meth:`rejected` or :meth:`failed`, and let at
    most :attr:`limit` calls be under way. It reads no clock: ``now`` is in seconds of any clock
    that does not go back. For one queue, on one thread.

    Raises:
        TypeError: A number is no int.
        ValueError: Not 1 <= min <= start <= max.
    """

    def __init__(
        self,
        min: int = 1,
        max: int = 1000,
        *,
        start: int | None = None,
    ) -> None:
        self._min = checks.positive_int(min, "min", "min must be at least 1")
        self._max = checks.positive_int(max, "max", "max must be at least 1")
        if self._min > self._max:
            raise ValueError(f"min must not be above max, got min={self._min} and max={self._max}")
        if start is None:
            start = self._min
        start = checks.positive_int(start, "start", "start must be at least 1")
        if not self._min <= start <= self._max:
            raise ValueError(
                f"start must lie between min={self._min} and max={self._max}, got {start}"
            )
        self._exact = float(start)
        self._doubling = True
        self._before_cut = 0.0
        self._last_cut = -math.inf
        self._cuts = 0
        # What rejections taught.
        self._rejected_at = math.inf
        self._successes = 0  # since the last rejection
        self._held = math.inf
        self._held_until = -math.inf
        # What latencies taught.
        self._baseline: float | None = None
        self._round_trip: float | None = None
        self._variance = Ewma(_VARIANCE_WEIGHT)
        self._slow_cuts = SlowCuts()
        self._limit: int
        self._peak: int
        self._new_round(-math.inf)

    def __repr__(self) -> str:
        return f"AdaptiveConcurrency(min={self._min}, max={self._max}): {self.limit} now"

    @property
    def min(self) -> int:
        """The least that :attr:`limit` can be."""
        return self._min

    @property
    def max(self) -> int:
        """The most that :attr:`limit` can be."""
        return self._max

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return self._limit

    @property
    def baseline(self) -> float | None:
        """Typical seconds of a call where none queues; ``None`` until the first round is over."""
        return self._baseline

    @property
    def round_trip(self) -> float | None:
        """Typical seconds of a call in the last round; ``None`` until the first one is over."""
        return self._round_trip

    @property
    def cuts(self) -> int:
        """How often the limit was cut."""
        return self._cuts

    def succeeded(self, now: float, latency: float, inflight: int) -> None:
        """A call was served in ``latency`` seconds; ``inflight`` were under way, it included."""
        self._successes += 1
        self._let_go(now)
        self._answered(now, latency, inflight)

    def failed(self, now: float, latency: float, inflight: int) -> None:
        """A call failed, not for being one too many.

        That it failed says nothing. That it took longer than it should have does: calls to an
        overloaded service time out.
        """
        self._let_go(now)
        baseline = self._baseline
        if baseline is not None and latency > baseline * math.exp(_SLOW):
            self._answered(now, latency, inflight)

    def rejected(self, now: float, inflight: int) -> None:
        """The service refused a call as one too many; ``inflight`` were under way, it included."""
        held = max(inflight - 1, self._min)
        if self._round_trip is None:  # until it is known: one cut for a burst
            may_cut = self._cuts == 0 or self._successes > 0
        else:
            may_cut = now >= self._last_cut + self._round_trip
        # The service holds these and has no room for another, which would be refused as fast. So
        # for a round trip not even those that are done are replaced by more than it held.
        self._held = min(self._held, held)
        self._held_until = now + (self._round_trip or 0.0)
        self._rejected_at = held + 1
        self._successes = 0
        self._doubling = False
        if may_cut:
            self._slow_cuts = SlowCuts()
            self._cut(now, self._exact)
        self._set_limit()

    def _let_go(self, now: float) -> None:
        if self._held < math.inf and now >= self._held_until:
            self._held = math.inf
            self._set_limit()

    def _answered(self, now: float, latency: float, inflight: int) -> None:
        if now < self._round_began:
            self._new_clock()
        self._peak = max(self._peak, inflight)
        if now - latency < self._round_began or not 0 <= latency < math.inf:
            return  # it started before the last decision, and says nothing about it
        self._answers.add(max(latency, _SHORTEST))
        if self._round_is_over():
            self._end_round(now)

    def _round_is_over(self) -> bool:
        count = self._answers.count
        if self._baseline is None or self._doubling:
            return count >= max(self.limit, min(_ANSWERS, 4 * self.limit), _FEWEST_ANSWERS)
        excess = self._excess(self._baseline) - _SLOW
        if count < max(self.limit, _ANSWERS):
            return count >= _FEWEST_ANSWERS and excess > _VERY_SURE * self._error()
        if count >= self._answers_against_noise():
            return True
        # Enough to grow is not enough to learn a baseline from: what ends early, or is over when
        # it looks good, is on the fast side.
        return excess < -self._error() and not self._teaches()

    def _teaches(self) -> bool:
        """Whether there should be no queue in this round, so that it shows the baseline."""
        return self._after_cut or self._doubling or self._peak < self.limit

    def _excess(self, baseline: float) -> float:
        """Latency in this round over the baseline, as a logarithm."""
        return self._answers.mean - math.log(baseline)

    def _error(self) -> float:
        """The standard error of the mean logarithm of latency in this round."""
        return math.sqrt((self._variance.value or 0.0) / self._answers.count)

    def _answers_against_noise(self) -> int:
        """As many as make the mean so exact that what is slow is surely slow, and not chance."""
        exact = (_VERY_SURE / _SLOW) ** 2 * (self._variance.value or 0.0)
        return max(1, min(_MOST_ANSWERS, round(exact)))

    def _end_round(self, now: float) -> None:
        latency = self._round_trip = math.exp(self._answers.mean)
        baseline = self._baseline = self._baseline or latency
        if self._answers.count > 1:
            self._variance.add(self._answers.variance)
        used = self._peak >= self.limit
        surely = _SLOW + (_VERY_SURE if self._doubling else _SURE) * self._error()
        excess = self._excess(baseline)
        if excess > surely:
            self._doubling = False
            self._slow_round(now, latency)
            return
        if self._teaches() or excess < -surely:  # or the service became faster
            self._baseline = baseline + _BASELINE_WEIGHT * (latency - baseline)
        self._slow_cuts = SlowCuts()
        if used:
            self._grow()
        self._new_round(now)

    def _slow_round(self, now: float, latency: float) -> None:
        if self.limit == self._min or self._slow_cuts.were_futile(latency):
            self._baseline = latency
            self._exact = max(self._exact, self._slow_cuts.before)
            self._slow_cuts = SlowCuts()
            self._new_round(now)
            return
        self._slow_cuts.add(self._exact, latency)
        # Where less was under way than was allowed, a cut of what was allowed would change nothing.
        self._cut(now, min(self._exact, max(self._peak, self._min)))

    def _grow(self) -> None:
        if self._doubling:
            step = self._exact
        else:
            step = max(1.0, self._exact / 20, (self._before_cut - self._exact) / 2)
        grown = min(self._exact + step, self._max)
        if _whole(grown) >= self._rejected_at:
            if self._successes < max(_PROBE_AFTER, _PROBE_AFTER_TRIPS * self.limit):
                grown = max(self._exact, self._rejected_at - 1)
            else:
                self._rejected_at = math.inf
        self._exact = grown

    def _cut(self, now: float, limit: float) -> None:
        self._before_cut = limit
        self._exact = max(float(self._min), CUT * limit)
        self._last_cut = now
        self._cuts += 1
        self._new_round(now)
        self._after_cut = True

    def _new_round(self, now: float) -> None:
        self._round_began = now
        self._after_cut = False
        self._answers = LogSample()
        self._set_limit()
        self._peak = 0  # the most calls that were seen under way in this round

    def _set_limit(self) -> None:
        self._limit = max(self._min, int(min(_whole(self._exact), self._held)))

    def _new_clock(self) -> None:
        """Time went back: it is that of another event loop."""
        self._last_cut = self._held_until = -math.inf
        self._new_round(-math.inf)


def _whole(limit: float) -> int:
    return math.floor(limit + 0.5)
