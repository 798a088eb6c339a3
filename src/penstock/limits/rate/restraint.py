"""What refusals teach: how much less than it was told a limit lets through, and for how long.

The first refusal only spreads the starts, in a window that is a little longer. If that does not
help, the rate is cut, and the cut is a measurement: what the service took before it refused is what
it takes. (TCP Westwood sets its window so after a loss; Mascolo and others, 2001.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from penstock.limits.rate.exact import Exact

#: What is measured from this share of what is in force on is the same: then it was the way to the
#: service that took longer for some calls than for others, and windows get longer by a margin.
_SAME = 0.9
#: The margin, as a share of the window: after the first refusal, and what more it becomes with
#: each that follows; and at most so many seconds, for a longer window has no longer way.
_MARGIN, _MARGIN_SECONDS = 0.04, 0.1
#: Less of this margin is none.
_LEAST = 0.2
#: What is refused so many windows after a cut shows that it was too small.
_SOON = 3
#: No cut takes away more than this share at once: it is one measurement.
_KEPT = 0.5
#: Starts follow each other no closer than at so many times the rate, where all that was told was
#: taken; elsewhere at the rate itself, for the service may mind bursts.
_HASTE = 2.0
#: Nothing is eased for so many times what the last refusal cost; each time that easing was wrong
#: it is twice as long, so many times at most.
_PATIENCE, _MOST_PATIENCE = 40.0, 16.0
#: Seconds: nothing is measured in less.
_SHORTEST = 0.001
#: Seconds that a refusal costs at least.
_PAUSE = 1.0
#: The first step of easing; each is twice the one before.
_STEP = 0.05


@dataclass(frozen=True)
class Bounds:
    """What a limit lets through: ``amount`` in ``span`` seconds, made longer by ``margin``."""

    amount: float
    span: float
    margin: float = 0.0
    #: At how many times the rate starts may follow each other.
    haste: float = 1.0

    @property
    def rate(self) -> float:
        """A second."""
        return self.amount / (self.span * (1 + self.margin))


@dataclass(frozen=True)
class Refusal:
    """A call that was refused."""

    #: When it started, what it cost, and what had started in its window by then, it included.
    at: float
    cost: Exact
    fill: Exact


class Restraint:
    """Learns from the refusals under one limit. Takes the time; reads no clock.

    Calls that had started before a cut was made tell more about the refusal that it was made for;
    the cut is corrected. Those that started after it, and are refused, are the next one.
    """

    def __init__(self, told: Bounds) -> None:
        self.told = self.bounds = told
        #: When to :meth:`ease`.
        self.eases_at = math.inf
        self._before = told
        #: Those that did well, before they were eased.
        self._good: Bounds | None = None
        self._cut_at = -math.inf
        self._is_soon = False
        self._first = self._last = Refusal(-math.inf, 0, 0)
        self._refused: Exact = 0
        #: What was measured when starts were only spread.
        self._taken = math.inf
        self._pause = 0.0
        self._patience = 1.0
        self._step = _STEP
        self._margin = min(_MARGIN, _MARGIN_SECONDS / told.span)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to know."""
        return self.eases_at == math.inf

    def was_in_vain(self, at: float) -> bool:
        """Whether a call that started then, and was refused, shows that the cut was too small."""
        if at > self._cut_at:
            return self._good is None and at < self._cut_at + self._soon
        return self._is_soon

    @property
    def _soon(self) -> float:
        return self._pause + _SOON * self.told.span

    def refused(self, refusal: Refusal, now: float, pause: float, span: float) -> None:
        """A call was refused, as is known ``now``; the service wants a ``pause``.

        ``span``: how long it took from the first call in the window until the service takes another
        one, the window at most.
        """
        if refusal.at > self._cut_at:
            self._is_soon = self.was_in_vain(refusal.at)
            self._before = self.bounds
            if self._good is not None:  # it was eased too much
                self._before, self._good = self._good, None
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._first = self._last = refusal
            self._refused = 0
            self._cut_at = now
        elif _order(refusal) < _order(self._first):
            self._first = refusal
        elif _order(refusal) > _order(self._last):
            self._last = refusal
        self._refused += refusal.cost
        self._pause = max(pause, min(self.told.span, _PAUSE))
        self.bounds = self._cut(span)
        self._step = _STEP
        self.eases_at = now + self._rest

    @property
    def _rest(self) -> float:
        return _PATIENCE * self._patience * self._pause

    def _cut(self, span: float) -> Bounds:
        before, told = self._before, self.told
        span = max(span, _SHORTEST)
        margin = max(self._margin, before.margin)
        # Answers come in any order. What started last saw most of what was taken; but what is
        # refused at the beginning of a window saw what was taken in the one before.
        first = self._first.fill - self._first.cost
        taken = float(max(first, self._last.fill - self._refused))
        if before == told:  # first be gentle: so a bucket that is small takes the whole rate
            self._taken = taken
            is_full = float(self._first.fill) >= _SAME * told.amount
            return replace(told, margin=margin, haste=_HASTE if is_full else 1.0)
        if self._is_soon:  # in vain
            taken = min(taken, self._taken)
        else:
            self._taken = math.inf
        if span >= told.span:
            if taken + float(self._first.cost) < _SAME * before.amount or (
                self._is_soon and taken < before.amount
            ):
                return Bounds(max(taken, _KEPT * before.amount), span, margin)
        else:
            kept = _KEPT * before.amount / before.span * span
            amount = min(taken, before.amount / before.span * span)
            return Bounds(max(amount, kept), span, margin)
        return replace(before, margin=margin + self._margin)

    def ease(self, now: float) -> None:
        """It is time to try a little more."""
        bounds, told = self.bounds, self.told
        if bounds == told:  # and that did well for long
            self.eases_at = math.inf
            return
        self._good = bounds
        wait = self._rest
        if bounds.amount / bounds.span < told.amount / told.span:
            more = max(bounds.amount * (1 + self._step), bounds.amount + self._is_window)
            self._step *= 2
            if more / bounds.span < told.amount / told.span:
                self.bounds = replace(bounds, amount=more)
                wait = self._pause
            else:
                self.bounds = replace(told, margin=bounds.margin)
        elif bounds.margin > _LEAST * self._margin:
            self.bounds = replace(bounds, margin=bounds.margin / 2)
        else:
            self.bounds = told
            wait *= 4
        self.eases_at = now + wait

    # -- what that means for a sliding log --------------------------------------------------------

    @property
    def maximum(self) -> float:
        """How much may start in a window."""
        amount = self.bounds.amount if self._is_window else self.told.amount
        return float(math.floor(amount)) if amount >= 1 else amount

    @property
    def period(self) -> float:
        """The length of the window."""
        return self.told.span * (1 + self.bounds.margin) if self._is_window else self.told.span

    @property
    def gap(self) -> float:
        """Seconds from one start to the next, for each 1 that it cost."""
        if self.bounds == self.told:
            return 0.0
        return 1 / (self.bounds.rate * self.bounds.haste)

    @property
    def _is_window(self) -> bool:
        return self.bounds.span >= self.told.span


def _order(refusal: Refusal) -> tuple[float, Exact]:
    return refusal.at, refusal.fill
