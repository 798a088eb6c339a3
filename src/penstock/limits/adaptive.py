"""How many calls at once: found out from rejections and from latency.

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
from penstock.limits.estimate import Ewma, LogSample

#: What is left of the limit after a cut. (TCP halves; CUBIC, RFC 9438, keeps 0.7.)
_CUT = 0.7

#: This many cuts in a row that did not help show that the service itself has become slower.
_FUTILE = 3

#: A round is slow when its latency is surely above this multiple of the baseline, here as a
#: logarithm. It is below ``1 / _CUT``: so one cut takes away the whole queue that made the round
#: slow, and the next round shows the service without a queue.
_SLOW = math.log(1.35)

#: How many standard errors make "surely": at the end of a round, and to end it early.
_SURE, _VERY_SURE = 1.5, 3.0

#: Answers in a round: the least; the most, with noisy latencies; the least to end it early.
_ANSWERS, _MOST_ANSWERS, _FEWEST_ANSWERS = 16, 100, 8

#: The weight of a round in the average variance of latency.
_VARIANCE_WEIGHT = 0.1

#: The weight in the baseline of a round after a cut, before the first sign of too many calls, or
#: in which the limit was not reached.
_BASELINE_WEIGHT = 0.25

#: Latencies below this (seconds) are this program's own, not the service's, and count as this.
_SHORTEST = 0.001

#: A limit at which a call was rejected is tried again after this many successes, and after this
#: many for each call that may be under way. It bounds the rejections per success, however small the
#: limit is.
_PROBE_AFTER, _PROBE_AFTER_TRIPS = 50, 10


class DecreaseStreak:
    """Cuts in a row because of latency: did they help?"""

    __slots__ = ("_cuts", "_reference", "limit_before")

    def __init__(self) -> None:
        self.limit_before = 0.0  # the limit before the first cut
        self._cuts = 0
        self._reference = 0.0

    def add(self, limit: float, latency: float) -> None:
        """``limit`` is cut, because a round took ``latency`` seconds."""
        if self._cuts == 0:
            self.limit_before = limit
            self._cuts = 1
        elif latency > self._reference:
            # It is the first round that lies wholly after the change, or latency still grows.
            self._reference = latency
            self._cuts = 2
        else:
            self._cuts += 1

    def was_futile(self, latency: float) -> bool:
        """Whether latency stayed nearly the same, instead of falling in proportion with the limit.

        A queue of our own calls gets shorter with every cut, and so does the time spent in it. If
        the service itself has become slower, cuts change nothing.
        """
        if self._cuts < _FUTILE:
            return False
        in_proportion: float = _CUT ** (self._cuts - 1)
        return latency > self._reference * (1 + in_proportion) / 2


class AdaptiveConcurrency:
    """Finds how many calls at once a service accepts, between ``min`` and ``max``.

    Use it in place of a fixed ``concurrency_limit``. The limit starts at ``start`` (``min`` by
    default), and doubles each round until the first sign of too many calls. After that it grows in
    each round in which it was reached: half-way back to where the last cut was made, then by one (a
    twentieth of a limit above 20). It is cut to 0.7 of itself when a call is rejected, or when
    latency is well above its baseline: relative to it, so that there is no latency to set. When
    several cuts in a row do not lower the latency, the service itself has become slower: its
    latency is the new baseline then, and the cuts are undone. When a call is rejected although
    as many calls at once succeeded before, the reason may be another one, such as a limit of
    calls per second: the next round without a problem undoes that cut, and it does not end
    the doubling.

    Report how each call ended, by :meth:`succeeded`, :meth:`rejected` or :meth:`failed`, and let at
    most :attr:`limit` calls be under way. It reads no clock: ``now`` is in seconds of any clock
    that does not go back. For one queue; its methods must be called one at a time.

    Raises:
        TypeError: A number is not an int.
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
        self._is_sure = True  # that the last cut was because of too many calls at once
        # Learned from rejections.
        self._rejected_at = math.inf
        self._successes = 0  # since the last rejection
        self._most_served = 0  # calls at once, in a round that ended well since the last cut
        self._held = math.inf
        self._held_until = -math.inf
        # Learned from latencies.
        self._baseline: float | None = None
        self._round_trip: float | None = None
        self._variance = Ewma(_VARIANCE_WEIGHT)
        self._streak = DecreaseStreak()
        self._limit: int
        self._peak: int
        self._before_peak: int
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
        """Typical seconds of a call that does not queue; ``None`` until the first round is over."""
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
        """A call was served in ``latency`` seconds; ``inflight`` calls were under way, with it."""
        self._successes += 1
        self._end_hold(now)
        self._answered(now, latency, inflight)

    def failed(self, now: float, latency: float, inflight: int) -> None:
        """A call failed after ``latency`` seconds, and not because of too many calls.

        The failure says nothing about the limit. A latency well above the baseline does: calls to
        an overloaded service time out.
        """
        self._end_hold(now)
        baseline = self._baseline
        if baseline is not None and latency > baseline * math.exp(_SLOW):
            self._answered(now, latency, inflight)

    def rejected(self, now: float, inflight: int) -> None:
        """The service refused a call because of too many; ``inflight`` were under way, with it."""
        held = max(inflight - 1, self._min)
        if self._round_trip is None:  # it is not known yet: one cut for each burst
            may_cut = self._cuts == 0 or self._successes > 0
        else:
            may_cut = now >= self._last_cut + self._round_trip
        # The service holds these calls and has no room for another, which would be refused at once.
        # So for a round trip not even calls that are done are replaced beyond what it held.
        self._held = min(self._held, held)
        self._held_until = now + (self._round_trip or 0.0)
        self._successes = 0
        if may_cut:
            self._streak = DecreaseStreak()
            self._cut(now, self._exact, is_sure=not self._has_served_limit())
        if self._is_sure:
            self._doubling = False
            self._rejected_at = held + 1
        self._set_limit()

    def _has_served_limit(self) -> bool:
        """Whether the service has served as many calls at once as the limit allows.

        Then it takes fewer by now, or it rejects for another reason. Nobody can tell which: so the
        limit is cut, but soon tried again. If the service takes fewer, it then rejects once more.
        """
        return max(self._most_served, self._served()) >= self.limit

    def _served(self) -> int:
        """Calls at once that the service has served in this round, and that were not only sent."""
        return self._peak if self._answers.count - self._before_peak >= self._peak else 0

    def _end_hold(self, now: float) -> None:
        if self._held < math.inf and now >= self._held_until:
            self._held = math.inf
            self._set_limit()

    def _answered(self, now: float, latency: float, inflight: int) -> None:
        if now < self._round_began:
            self._new_clock()
        if inflight > self._peak:
            self._peak = inflight
            self._before_peak = self._answers.count
        if now - latency < self._round_began or not 0 <= latency < math.inf:
            return  # the call started before the last decision, and says nothing about it
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
        # Enough answers to grow are not enough to learn a baseline from: a round that ends early,
        # or when it looks good, is on the fast side.
        return excess < -self._error() and not self._teaches()

    def _teaches(self) -> bool:
        """Whether this round is without a queue, most likely, and so shows the baseline."""
        return self._after_cut or self._doubling or self._peak < self.limit

    def _excess(self, baseline: float) -> float:
        """Latency in this round over the baseline, as a logarithm."""
        return self._answers.mean - math.log(baseline)

    def _error(self) -> float:
        """The standard error of the mean logarithm of latency in this round."""
        return math.sqrt((self._variance.value or 0.0) / self._answers.count)

    def _answers_against_noise(self) -> int:
        """The number of answers that makes a slow mean surely slow, and not chance."""
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
        self._streak = DecreaseStreak()
        self._most_served = max(self._most_served, self._served())
        if used:
            self._grow()
        self._new_round(now)

    def _slow_round(self, now: float, latency: float) -> None:
        if self.limit == self._min or self._streak.was_futile(latency):
            self._baseline = latency
            self._exact = max(self._exact, self._streak.limit_before)
            self._streak = DecreaseStreak()
            self._new_round(now)
            return
        self._streak.add(self._exact, latency)
        # With fewer calls under way than allowed, a cut of the limit itself would change nothing.
        self._cut(now, min(self._exact, max(self._peak, self._min)))

    def _grow(self) -> None:
        if self._doubling:
            step = self._exact
        else:
            way_back = self._before_cut - self._exact
            step = max(1.0, self._exact / 20, way_back / 2 if self._is_sure else way_back)
        grown = min(self._exact + step, self._max)
        if _whole(grown) >= self._rejected_at:
            if self._successes < max(_PROBE_AFTER, _PROBE_AFTER_TRIPS * self.limit):
                grown = max(self._exact, self._rejected_at - 1)
            else:
                self._rejected_at = math.inf
        self._exact = grown

    def _cut(self, now: float, limit: float, *, is_sure: bool = True) -> None:
        self._before_cut = limit
        self._is_sure = is_sure
        self._most_served = 0
        self._exact = max(float(self._min), _CUT * limit)
        self._last_cut = now
        self._cuts += 1
        self._new_round(now)
        self._after_cut = is_sure  # else there was no queue that is gone now

    def _new_round(self, now: float) -> None:
        self._round_began = now
        self._after_cut = False
        self._answers = LogSample()
        self._set_limit()
        self._peak = 0  # the most calls that were under way in this round
        self._before_peak = 0  # answers in this round before there were so many

    def _set_limit(self) -> None:
        self._limit = max(self._min, int(min(_whole(self._exact), self._held)))

    def _new_clock(self) -> None:
        """Forget times, because the clock went back: it is that of another event loop."""
        self._last_cut = self._held_until = -math.inf
        self._new_round(-math.inf)


def _whole(limit: float) -> int:
    return math.floor(limit + 0.5)
