"""How fast calls start after a refusal, where no limit of the program learns from it."""

from __future__ import annotations

import math
from collections import deque

#: Seconds: what the service took in the last one of them is what it takes. It is the most common
#: window of services; one that is longer shows in a gate that must be closed for longer.
_WINDOW = 1.0
#: The pace is so much below what was measured.
_SHARE = 0.95
#: A measurement counts where the pace was used up to this share. Else there was less to do.
_USED = 0.5
#: What was measured is kept for this many times the time that the gate was closed (at least a
#: window), and then grows by this share in each such time, until it is doubled. Then there is no
#: pace any more. A refusal meanwhile doubles the patience, up to ``_MOST_PATIENCE`` times.
_PATIENCE, _GROWTH, _MOST_PATIENCE = 10.0, 0.05, 4.0
_STEPS = math.log(2) / math.log(1 + _GROWTH)
#: It never falls below this share at once, unless the gate must be closed for longer: it is a
#: single measurement.
_KEPT_SHARE = 0.5
#: A refusal after less than this share of what the service took in a second before is not explained
#: by the pace.
_MUCH_LESS = 0.7
#: A guess is doubled in each such time. After so many of them there is no pace any more.
_DOUBLINGS = 10
#: Seconds for which it is remembered when a call passed, since a refusal may take long to come; and
#: of how many calls at most.
_KEPT, _MOST_KEPT = 5.0, 10_000
#: Seconds: a start that comes late by less moves no later ones.
_LATE = 0.05


class Pace:
    """The rate of starts from one opening of a gate on. Takes the time; reads no clock.

    The first refusal measures little, since nobody noted what came before it. So the gate opens at
    a guess: as many starts a second as there were until then, or as calls were refused at once. It
    is doubled each second, until the next refusal. From then on the rate is what the service took
    before that.

    Args:
        started: how many calls started until the first refusal.
        took: the seconds in which they did.
    """

    def __init__(self, started: int = 0, took: float = 0.0) -> None:
        self._started = started
        self._took = took
        #: How many calls were refused that had started before the gate was closed; while it is
        #: open, since it was opened.
        self.refused = 0
        #: How many times in a row calls were refused after much less than the service had taken in
        #: a second before.
        self.in_vain = self._best = 0
        self._refused_at = 0.0
        self._rate = 1.0
        self._is_guess = True
        self._began = math.inf
        self._unit = _WINDOW
        self._patience = 1.0
        self._next = -math.inf
        # Of the calls that passed since the gate opened: all, and when the last ones did.
        self._passed = 0
        self._recent: deque[float] = deque(maxlen=_MOST_KEPT)
        # What was measured before the gate was closed: how many passed in the last window, and in
        # all, and in what time; None: nothing.
        self._measured: tuple[int, int, float] | None = None
        self._closings = 0
        self._closed_at = math.inf

    def closed(self, now: float, at: float, *, succeeded: bool) -> None:
        """The gate was closed at ``now``, since the call that started ``at`` was refused.

        ``succeeded``: whether any call did since the gate was opened.
        """
        if not self._closings or succeeded:
            self._measure(now, at)
            if succeeded:
                self._started = 0  # it was long ago
            self._closings, self._closed_at, self.refused = 0, now, 0
        self._closings += 1

    def _measure(self, now: float, at: float) -> None:
        took = at - self._began
        if took < 0:
            return  # it is the first refusal
        recent = sum(1 for passed in self._recent if at - _WINDOW <= passed < at)
        used = self.rate(now) * min(took, _WINDOW)
        passed = self._passed - sum(1 for passed in self._recent if passed >= at)
        taken = (max(0, recent - self.refused), max(0, passed - self.refused))
        self._patience = 1.0 if self._is_guess else min(2 * self._patience, _MOST_PATIENCE)
        is_explained = recent + 1 >= _MUCH_LESS * self._best
        self.in_vain = 0 if is_explained else self.in_vain + 1
        self._best = max(self._best, recent)
        self._refused_at = self.rate(at)
        self._measured = (*taken, took) if recent > _USED * used else None

    def opened(self, now: float, opened_at: float) -> None:
        """The first call passes since the gate opened, at ``opened_at``."""
        closed_for = opened_at - self._closed_at
        self._unit = max(_WINDOW, closed_for)
        if self._measured is None:
            until_now = max(0, self._started - self.refused) / (self._took + self._unit)
            self._rate = max(until_now, max(1, self.refused) / self._unit)
        else:
            recent, passed, took = self._measured
            # Where the gate had to be closed several times, the window is longer than a second.
            whole = took + closed_for if self._closings > 1 else max(took, _WINDOW)
            rate = max(passed / whole, recent / _WINDOW if self._closings == 1 else 0.0)
            self._rate = _SHARE * (rate or 1 / self._unit)
            if self._closings == 1:
                self._rate = max(self._rate, _KEPT_SHARE * self._refused_at)
            else:
                self.in_vain = self._best = 0
        self._is_guess = self._measured is None
        self._began = now
        self._passed = self.refused = 0
        self._recent.clear()
        self._next = now

    def passed(self, now: float) -> float:
        """A call passes; when the next one may."""
        self._passed += 1
        self._recent.append(now)
        while self._recent[0] <= now - _KEPT:
            self._recent.popleft()
        self._next = max(self._next, now - _LATE) + 1 / self.rate(now)
        return self._next

    def rate(self, now: float) -> float:
        """How many calls may start a second."""
        if self._is_guess:
            factor = math.pow(2, min((now - self._began) / self._unit, _DOUBLINGS))
        else:
            factor = math.pow(1 + _GROWTH, min(self._steps(now), _STEPS))
        return self._rate * factor

    def _steps(self, now: float) -> float:
        return max(0.0, (now - self._grows_from) / self._unit)

    @property
    def _grows_from(self) -> float:
        return self._began + _PATIENCE * self._patience * self._unit

    def is_over(self, now: float) -> bool:
        """Whether it holds up nobody any more."""
        if self._is_guess:
            return now - self._began >= _DOUBLINGS * self._unit
        return self._steps(now) >= _STEPS
