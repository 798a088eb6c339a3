"""The rate that refusals teach: how much less than configured a limit allows, and for how long.

The first refusal only spreads the starts, in a window that is a little longer. If that is
insufficient, the rate is cut, and the cut is a measurement: what the service took before it refused
is what it takes. (TCP Westwood sets its window so after a loss; Mascolo and others, 2001.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from penstock.limits.rate.exact import Exact

#: A measurement of at least this share of the amount in force is the same amount. Then some calls
#: took longer than others to reach the service, and the window gets longer by a margin.
_SAME = 0.9
#: The margin after the first refusal, which each later refusal adds again: a share of the window,
#: and at most this many seconds, because the way to the service is no longer for a long window.
_MARGIN, _MARGIN_SECONDS = 0.04, 0.1
#: A margin below this share of the first one is dropped.
_LEAST = 0.2
#: A refusal within this many windows after a cut shows that the cut was insufficient.
_SOON = 3
#: A cut keeps at least this share of the amount: it is a single measurement.
_KEPT = 0.5
#: Starts follow each other no closer than at this multiple of the rate, if all that was configured
#: was taken; else at the rate itself, because the service may refuse bursts.
_BURST_FACTOR = 2.0
#: Nothing is relaxed for this many times the pause of the last refusal. Each time that relaxing was
#: wrong doubles the time, up to ``_MOST_PATIENCE`` times.
_PATIENCE, _MOST_PATIENCE = 40.0, 16.0
#: Seconds: a shorter time measures nothing.
_SHORTEST = 0.001
#: Seconds: the least pause that a refusal costs.
_PAUSE = 1.0
#: The first step when the rate is relaxed, as a share of it; each step is twice the one before.
_STEP = 0.05


@dataclass(frozen=True)
class Bounds:
    """What a limit allows: ``amount`` in ``span`` seconds, made longer by the share ``margin``."""

    amount: float
    span: float
    margin: float = 0.0
    #: How many times the rate single starts may follow each other at.
    burst_factor: float = 1.0

    @property
    def rate(self) -> float:
        """The amount a second."""
        return self.amount / (self.span * (1 + self.margin))


@dataclass(frozen=True)
class Refusal:
    """A call that was refused."""

    #: When it started, what it cost, and the total cost in its window by then, with it.
    at: float
    cost: Exact
    fill: Exact


class LearnedRate:
    """What one limit allows, as its refusals teach. Takes the time; reads no clock.

    A refused call that had started before the last cut belongs to the same burst: it corrects the
    cut. A refused call that started after the last cut makes the next one.
    """

    def __init__(self, configured: Bounds) -> None:
        self.configured = self.bounds = configured
        #: When to :meth:`relax`.
        self.relax_at = math.inf
        self._before = configured
        #: The bounds that were not refused, before they were relaxed.
        self._last_good: Bounds | None = None
        self._cut_at = -math.inf
        self._is_soon = False
        self._first = self._last = Refusal(-math.inf, 0, 0)
        self._refused: Exact = 0
        #: The amount that was measured when starts were only spread.
        self._taken = math.inf
        self._pause = 0.0
        self._patience = 1.0
        self._step = _STEP
        self._margin = min(_MARGIN, _MARGIN_SECONDS / configured.span)

    @property
    def is_over(self) -> bool:
        """Whether the limit is back at the configured rate, for good."""
        return self.relax_at == math.inf

    def was_insufficient(self, at: float) -> bool:
        """Whether the refusal of a call that started at ``at`` shows that the cut was too small."""
        if at > self._cut_at:
            return self._last_good is None and at < self._cut_at + self._soon
        return self._is_soon

    @property
    def _soon(self) -> float:
        return self._pause + _SOON * self.configured.span

    def refused(self, refusal: Refusal, now: float, pause: float, span: float) -> None:
        """A call was refused, which is known at ``now``; the service wants ``pause`` seconds.

        ``span``: the seconds from the first call in the window until the service takes another one,
        at most a window.
        """
        if refusal.at > self._cut_at:
            self._is_soon = self.was_insufficient(refusal.at)
            self._before = self.bounds
            if self._last_good is not None:  # it was relaxed too much
                self._before, self._last_good = self._last_good, None
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._first = self._last = refusal
            self._refused = 0
            self._cut_at = now
        elif _order(refusal) < _order(self._first):
            self._first = refusal
        elif _order(refusal) > _order(self._last):
            self._last = refusal
        self._refused += refusal.cost
        self._pause = max(pause, min(self.configured.span, _PAUSE))
        self.bounds = self._cut(span)
        self._step = _STEP
        self.relax_at = now + self._time_to_relax

    @property
    def _time_to_relax(self) -> float:
        return _PATIENCE * self._patience * self._pause

    def _cut(self, span: float) -> Bounds:
        before, configured = self._before, self.configured
        span = max(span, _SHORTEST)
        margin = max(self._margin, before.margin)
        # Answers come in any order. The call that started last saw most of what was taken; but a
        # call that is refused at the beginning of a window saw what was taken in the one before.
        first = self._first.fill - self._first.cost
        taken = float(max(first, self._last.fill - self._refused))
        if (
            before == configured
        ):  # only spread: so a service with a small bucket gives the whole rate
            self._taken = taken
            is_full = float(self._first.fill) >= _SAME * configured.amount
            factor = _BURST_FACTOR if is_full else 1.0
            return replace(configured, margin=margin, burst_factor=factor)
        if self._is_soon:  # the cut before was insufficient
            taken = min(taken, self._taken)
        else:
            self._taken = math.inf
        if span >= configured.span:
            if taken + float(self._first.cost) < _SAME * before.amount or (
                self._is_soon and taken < before.amount
            ):
                return Bounds(max(taken, _KEPT * before.amount), span, margin)
        else:
            kept = _KEPT * before.amount / before.span * span
            amount = min(taken, before.amount / before.span * span)
            return Bounds(max(amount, kept), span, margin)
        return replace(before, margin=margin + self._margin)

    def relax(self, now: float) -> None:
        """Allow a little more, because nothing was refused until :attr:`relax_at`."""
        bounds, configured = self.bounds, self.configured
        if bounds == configured:  # and nothing was refused since
            self.relax_at = math.inf
            return
        self._last_good = bounds
        wait = self._time_to_relax
        if bounds.amount / bounds.span < configured.amount / configured.span:
            more = max(bounds.amount * (1 + self._step), bounds.amount + self._is_window)
            self._step *= 2
            if more / bounds.span < configured.amount / configured.span:
                self.bounds = replace(bounds, amount=more)
                wait = self._pause
            else:
                self.bounds = replace(configured, margin=bounds.margin)
        elif bounds.margin > _LEAST * self._margin:
            self.bounds = replace(bounds, margin=bounds.margin / 2)
        else:
            self.bounds = configured
            wait *= 4
        self.relax_at = now + wait

    # -- for SlidingLog.restrict ------------------------------------------------------------------

    @property
    def maximum(self) -> float:
        """The cost that may start in a window."""
        amount = self.bounds.amount if self._is_window else self.configured.amount
        return float(math.floor(amount)) if amount >= 1 else amount

    @property
    def period(self) -> float:
        """The length of the window in seconds."""
        span = self.configured.span
        return span * (1 + self.bounds.margin) if self._is_window else span

    @property
    def gap(self) -> float:
        """Seconds from one start to the next, for each 1 of its cost; 0: none."""
        if self.bounds == self.configured:
            return 0.0
        return 1 / (self.bounds.rate * self.bounds.burst_factor)

    @property
    def _is_window(self) -> bool:
        return self.bounds.span >= self.configured.span


def _order(refusal: Refusal) -> tuple[float, Exact]:
    return refusal.at, refusal.fill
