"""A gate that is closed for a while, and then lets the calls that waited start one by one."""

from __future__ import annotations

import math
import random
from typing import Protocol

from penstock.limits.rate.pace import Pace

#: The calls that waited are spread over this share of the time that the gate was closed, and over
#: at most ``SPREAD_MOST`` seconds.
SPREAD_SHARE = 0.1
SPREAD_MOST = 1.0

#: Seconds for which a refusal without a time closes the gate at first and at most, and the share of
#: it that is drawn and added.
_PAUSE, _MOST_PAUSE, _JITTER = 1.0, 48.0, 0.25
#: For how long the others wait for what becomes of the first call: as a multiple of the time that
#: a refusal took, and in seconds at least and at most.
_PROBE_FACTOR, _PROBE_LEAST, _PROBE_MOST = 2.0, 0.05, 5.0
#: So many times in a row the service refused calls at a pace that it had taken before: then it is
#: not about the pace. For so many seconds the items that are refused wait alone, as long as the
#: others that succeed are more. (They count up to ``_MOST_CREDIT``.)
_IN_VAIN, _DOUBT, _MOST_CREDIT = 3, 60.0, 20
#: Seconds after a closing for which it matters: which calls succeed, and how many start at first.
_MATTERS = 30.0


class Refused(Protocol):
    """An item, as far as a gate marks it."""

    @property
    def closing(self) -> int:
        """The number of the closing that its refusal caused last; 0: none."""
        ...

    @closing.setter
    def closing(self, number: int) -> None: ...


class Closures:
    """How often the gates of a limiter went from open to closed."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Gate:
    """Says when the next call may pass. Takes the time; reads no clock.

    When the gate opens, the calls that waited do not pass in the same moment: each is followed by a
    gap, drawn at random so that all of them pass within a tenth of the time that the gate was
    closed, one second at most. After that it is as if it had never been closed.

    A refusal without a time to wait closes it for a second. When it opens, one call goes first, and
    the others wait for a moment to see whether that one is refused too. Then the gate closes for
    twice as long, and so on up to a minute. A call that succeeds begins anew.

    Where no limit learns from refusals, calls start at a :class:`Pace` from then on.
    """

    __slots__ = (
        "_closed_until",
        "_closing",
        "_closures",
        "_credit",
        "_doubts_until",
        "_first_at",
        "_has_success",
        "_hears_until",
        "_is_opening",
        "_is_probing",
        "_latency",
        "_next_at",
        "_open_since",
        "_pace",
        "_pause",
        "_probe_until",
        "_random",
        "_spread_until",
        "_spreads_for",
        "_stands_since",
        "_was_refused",
        "is_active",
        "opens_at",
        "stood_for",
    )

    def __init__(self, rng: random.Random | None = None, closures: Closures | None = None) -> None:
        self._random = random.random if rng is None else rng.random
        self._closures = Closures() if closures is None else closures
        self._closing = 0
        self.reopen()

    def reopen(self) -> None:
        """Open it at once, and forget all times."""
        self._closed_until = self._spread_until = self._probe_until = -math.inf
        self._spreads_for = 0.0
        # The open time: since when it is, and of the calls that started in it: whether one was
        # refused, whether one succeeded, and by how many more succeeded than were refused of items
        # that wait alone.
        self._open_since = -math.inf
        self._was_refused = self._has_success = False
        self._credit = 0
        self._doubts_until = self._hears_until = -math.inf
        self._first_at = math.inf
        self._next_at = -math.inf
        self._is_opening = self._is_probing = False
        self._pause = self._latency = 0.0
        self._pace: Pace | None = None
        self._stands_since = math.inf
        #: Seconds for which no call passed, the last time.
        self.stood_for = 0.0
        #: From when on the next call may pass.
        self.opens_at = -math.inf
        #: Whether it is closed, or was lately: then :meth:`passed` and :meth:`succeeded` are to be
        #: called.
        self.is_active = False

    @property
    def closures(self) -> int:
        """How often it went from open to closed, or any of those that it is counted with."""
        return self._closures.count

    # -- what services say ------------------------------------------------------------------------

    def close(self, now: float, seconds: float, waiting: int = 0) -> None:
        """Close it for ``seconds`` from ``now``, or until the end of an earlier closing if later.

        ``waiting``: how many calls wait to pass.
        """
        until = now + seconds
        if until <= max(now, self._closed_until):
            return
        if now >= self._closed_until:
            self._closures.count += 1  # what makes a closure longer is not another one
        self._closed_until = until
        self._spreads_for = min(seconds * SPREAD_SHARE, SPREAD_MOST)
        self._spread_until = until + self._spreads_for
        self._probe_until = -math.inf
        self.opens_at = self._after(until, waiting)
        self._stands_since = min(self._stands_since, now)
        self.is_active = self._is_opening = True

    def refused(
        self,
        now: float,
        at: float,
        seconds: float,
        waiting: int = 0,
        *,
        item: Refused | None = None,
        is_again: bool = False,
        started: tuple[int, float] | None = None,
    ) -> bool:
        """The call that started ``at`` was refused, which is known at ``now``.

        Args:
            now, at: as above.
            seconds: what the service asked for; 0: it named no time.
            waiting: how many calls wait to pass.
            item: what the call was for.
            is_again: whether the last call for it was refused, too.
            started: how many calls started until now, and in how many seconds: from now on they
                start at a pace. ``None``: they do not, since a limit learns from it.

        Returns:
            Whether it says anything about all calls: else the item is to wait alone.
        """
        is_new = at >= self._open_since and (not self._was_refused or at >= self._closed_until)
        if not is_new:  # it is part of the burst that closed the gate
            if self._pace is not None:
                self._pace.refused += 1
            self.close(now, seconds, waiting)
            return True
        if not seconds and self._waits_alone(now, is_again):
            return False
        self._latency = max(0.0, now - at)
        asked = seconds
        if not seconds:
            self._is_probing = True
            seconds = self._next_pause(now, at, item)
        if started is not None and self._pace is None:
            self._pace = Pace(*started)
        if self._pace is not None:
            self._pace.closed(now, at, succeeded=self._has_passed(at))
            self._pace.refused += 1
            if self._pace.in_vain >= _IN_VAIN and not asked:
                self._pace = None
                self._doubts_until = now + _DOUBT
                self.is_active = True
                return False
        self._was_refused = True
        self._doubts_until = -math.inf
        self.close(now, seconds, waiting)
        if not asked:
            self._hears_until = self._closed_until + _MATTERS
        self._closing += 1
        if item is not None:
            item.closing = self._closing
        return True

    def _waits_alone(self, now: float, is_again: bool) -> bool:
        """Whether others succeed, while a call for this item is refused."""
        if not (is_again or now < self._doubts_until) or not self._credit:
            return False
        self._credit -= 1
        if now < self._doubts_until:
            self._doubts_until = now + _DOUBT
        if self._pace is not None:
            self._pace.refused += 1
        return True

    def _has_passed(self, at: float) -> bool:
        """Whether a call passed, since the gate opened, and before one that started ``at``.

        It succeeded; or it went first, and was not refused for longer than that takes.
        """
        return self._has_success or self._first_at < at

    def _next_pause(self, now: float, at: float, item: Refused | None) -> float:
        """Seconds for which a refusal without a time closes the gate."""
        # Where nobody tells of successes, it is one if nothing was refused for long enough.
        is_anew = self._has_passed(at) or now - self._closed_until > max(self._pause, _PAUSE)
        if not self._pause or is_anew:
            self._pause = _PAUSE
        elif item is None or item.closing != self._closing:
            self._pause = min(2 * self._pause, _MOST_PAUSE)
        return self._pause * (1 + _JITTER * self._random())

    def succeeded(self, now: float, at: float) -> bool:
        """A call that started ``at`` succeeded; whether others may start sooner by that."""
        if at < self._open_since or self._is_opening or now < self._closed_until:
            return False
        self._has_success = True
        self._credit = min(self._credit + 1, _MOST_CREDIT)
        self._pause = 0.0
        if self._stands_since < math.inf:
            self._starts_again(now)
        if now >= self._probe_until:
            return False
        self._probe_until = -math.inf
        self._spread_until = now + self._spreads_for
        self.opens_at = max(now, self._next_at)
        return True

    # -- what calls ask ---------------------------------------------------------------------------

    def closed_for(self, now: float) -> float:
        """Seconds until it opens; 0 when it is open."""
        return max(0.0, self._closed_until - now)

    @property
    def stands_still_for(self) -> float:
        """Seconds from the first of several closings in a row until it opens; 0: calls start."""
        return max(0.0, self._closed_until - self._stands_since)

    def is_idle(self, now: float) -> bool:
        """Whether it is as good as one that was never closed."""
        if now < max(self._spread_until, self._hears_until, self._doubts_until):
            return False
        return self._pace is None or self._pace.is_over(now)

    def passed(self, now: float, waiting: int) -> None:
        """A call passed at ``now``, and ``waiting`` calls wait to pass."""
        if self._is_opening and now >= self._closed_until + _MATTERS:
            self._pace, self._is_probing = None, False
        pace = self._pace
        if self._is_opening:
            self._is_opening = self._was_refused = False
            self._has_success, self._credit = False, 0
            self._first_at = math.inf
            self._open_since = self._closed_until
            if pace is not None:
                pace.opened(now, self._closed_until)
            if self._is_probing:
                self._is_probing = False
                wait = min(max(_PROBE_FACTOR * self._latency, _PROBE_LEAST), _PROBE_MOST)
                self._probe_until = now + wait
                self._first_at = now
                self._next_at = -math.inf if pace is None else pace.passed(now)
                self.opens_at = max(self._probe_until, self._next_at)
                self._spread_until = self._probe_until + self._spreads_for
                return
        if self._stands_since < math.inf:
            self._starts_again(now)
        spreads = now < self._spread_until
        opens_at = self._after(now, waiting) if spreads else -math.inf
        if pace is not None:
            opens_at = max(opens_at, pace.passed(now))
            if pace.is_over(now):
                self._pace = pace = None
        self.opens_at = opens_at
        if not (spreads or pace is not None):
            self.is_active = now < max(self._hears_until, self._doubts_until)

    def _starts_again(self, now: float) -> None:
        self.stood_for = max(0.0, now - self._stands_since)
        self._stands_since = math.inf

    def _after(self, now: float, waiting: int) -> float:
        # The gaps of all that wait fill the rest of the time on average: a mean, times 0 to 2.
        mean = (self._spread_until - now) / (waiting + 1)
        return min(self._spread_until, now + self._random() * 2 * mean)
