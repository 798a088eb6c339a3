"""One outage of a service: who probes whether it is over, who waits, and how the others go on.

Nothing is waited for: the time is passed in. An item that may not start is told when to ask again.
So nobody has to be woken, whatever became of whom meanwhile.
"""

from __future__ import annotations

import math
from types import TracebackType

from penstock.errors import OutageError

#: Seconds from the beginning to the first probe, and between the last probes of a long outage.
_FIRST, _LONGEST = 1.0, 15.0
#: Seconds after which another probe goes out though the last one has not ended.
_PROBE_LOST = 60.0
#: Seconds until an item that finds a probe under way asks again.
_PROBING = 0.5
#: Seconds by which an item asks later for each time that it has failed in the outage, so that the
#: next probe is another item; at most for so many times.
_LATER, _MOST_LATER = 0.25, 8
#: Seconds between two items that ask; at most so many stand in line.
_APART, _MOST_APART = 0.005, 1000

#: After the end the first item starts after this time, three have started after twice the time,
#: seven after three times, and so on; after ``_RAMP`` seconds nobody is held up.
_DOUBLES_IN, _RAMP = 0.5, 5.0

#: Seconds until an item looks for the first time whether its last failure is one of an outage; it
#: looks again after twice the time each.
_FIRST_LOOK = 0.05


class Ramp:
    """The time after an outage, in which items start one after the other, faster and faster."""

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._turns = 0

    def is_over(self, now: float) -> bool:
        """Whether items start as they come; also by the clock of another event loop."""
        return not self._began_at <= now < self._began_at + _RAMP

    def next_turn(self) -> float:
        """When one more item may start."""
        self._turns += 1
        return self._began_at + _DOUBLES_IN * math.log2(self._turns + 1)


class Outage:
    """An outage, from the verdict to the first success."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.next_at = now + _FIRST
        #: The item whose call is the probe under way, and since when it is.
        self.probe: ItemFailures | None = None
        self._probe_since = 0.0
        self._interval = _FIRST
        # How many items have asked since the last probe ended.
        self._asked = 0
        #: Whether it lasts for longer than anybody waits for.
        self.is_given_up = False

    def delay(self, item: ItemFailures, now: float) -> float:
        """Seconds until the item may ask again; 0: its call may be the next probe."""
        self._go_by(now)
        if self.probe is not None and now < self._probe_since + _PROBE_LOST:
            wait = _PROBING
        elif now >= self.next_at:
            return 0.0
        else:
            wait = self.next_at - now
        place = min(self._asked, _MOST_APART)
        self._asked += 1
        failed = 0
        if item.period is not None and item.period.outage is self:
            failed = min(1 + item.probes, _MOST_LATER)
        return wait + _LATER * failed + _APART * place

    def begin_probe(self, item: ItemFailures, now: float) -> None:
        """The call of the item is the probe."""
        self.probe = item
        self._probe_since = now
        item.probes += 1

    def end_probe(self, now: float, *, failed: bool) -> None:
        """The probe has failed, or it ended in a way that says nothing about the service."""
        if failed:
            self._interval = min(2 * self._interval, _LONGEST)
        self.probe = None
        self.next_at = now + self._interval
        self._asked = 0

    def _go_by(self, now: float) -> None:
        """A clock that went back is that of another event loop: by it, the time begins now."""
        passed = self.since - now
        if passed > 0:
            self.since -= passed
            self.next_at -= passed
            self._probe_since -= passed


class Period:
    """The time since a service last answered, in which calls failed."""

    #: How many items have failed in it.
    items = 0
    #: What became of it, if it is an outage.
    outage: Outage | None = None


class ItemFailures:
    """How the calls of one item have failed. Made at the first failure, or when it is held.

    (The defaults are those of the class: most that fail never get further.)
    """

    #: The period in which its last calls failed, and how many of them.
    period: Period | None = None
    count = 0
    #: Whether its last failure is one of those that make an outage.
    is_sign = False
    #: Calls before that period that fell into an outage; and calls that were throttled. Neither
    #: count as attempts.
    forgiven = 0
    throttles = 0
    #: Since when it was throttled and nothing else.
    throttled_since: float | None = None
    #: The period in which it is held, and how often it was the probe.
    held_in: Period | None = None
    probes = 0
    #: What its last call failed with, while it is held or waits for the verdict.
    error: Exception | None = None
    traceback: TracebackType | None = None
    #: When it fails if there is no verdict before, and when it looks again.
    verdict_at: float | None = None
    waits_since = 0.0
    look_after = _FIRST_LOOK
    #: Whether a breaker kept calls away while it waited.
    is_kept_away = False
    #: When it may start, after an outage.
    turn: tuple[Ramp, float] | None = None
    #: Why it fails for good, if the outage was given up.
    outage_error: OutageError | None = None

    @property
    def is_in_outage(self) -> bool:
        """Whether its last failures fell into an outage, which may be over by now."""
        return self.period is not None and self.period.outage is not None

    @property
    def in_outages(self) -> int:
        """How many of its calls fell into an outage."""
        return self.forgiven + (self.count if self.is_in_outage else 0)
