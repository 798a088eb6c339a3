"""Whether services are away, by how calls of them end.

A service that answered before and then fails the calls of several *different* items, one after the
other, is away. From then on queued items are held, and single ones go out as probes, further and
further apart. The first success ends the outage, and the held items start one after the other,
faster and faster.

All of it is decided here and nothing is waited for: the time is passed in, and the caller holds a
lock. Any number of queues, event loops and threads may share a policy.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Hashable

from penstock._util import checks
from penstock.policies.outage import ItemFailures, Outage, Period, Ramp

#: Different items that have failed since the last success: from this number on it is an outage.
_ITEMS = 5
#: Seconds that an item's last failure waits for the verdict.
_VERDICT = 5.0
#: The most services that are known, where calls have a ``gate_key``.
_MOST_SERVICES = 1000


class _Service:
    """What is known of one service."""

    __slots__ = ("answered_at", "has_answered", "period", "ramp")

    def __init__(self) -> None:
        self.has_answered = False
        #: When it last answered while that was news.
        self.answered_at = -math.inf
        self.period: Period | None = None
        self.ramp: Ramp | None = None

    @property
    def outage(self) -> Outage | None:
        return None if self.period is None else self.period.outage


class Outages:
    """The outages of the services that are called under one policy, each by its key.

    ``None`` is the key of calls that have none. Not thread-safe.

    Args:
        give_up_after: seconds of unbroken outage after which nothing is held any more.
        is_keyed: whether calls have keys.
        items: how many different items have failed since the last success, in an outage.
    """

    def __init__(
        self, give_up_after: float, *, is_keyed: bool = False, items: int = _ITEMS
    ) -> None:
        self._items = items
        self._give_up_after = give_up_after
        self._is_keyed = is_keyed
        self._services: OrderedDict[Hashable, _Service] = OrderedDict()
        #: Whether it is news that a call succeeded.
        self.hears_success = True
        #: Whether items that can be held are to ask before they start.
        self.is_any = False
        #: How many there were.
        self.begun = 0
        #: What the log is to be told: the level, and the text.
        self.news: deque[tuple[int, str]] = deque()

    # -- how calls ended ----------------------------------------------------------------------

    def failed(
        self,
        key: Hashable,
        item: ItemFailures,
        began_at: float | None,
        now: float,
        error: BaseException,
    ) -> None:
        """A call of the item failed as calls of a service do that is away.

        ``began_at``: when it began, if that is known.
        """
        service = self._services.get(key) or self._new_service(key)
        self.hears_success = True
        item.is_sign = False
        if began_at is not None and began_at < service.answered_at <= now:
            return  # the service has answered since
        item.is_sign = True
        period = service.period
        if period is None:
            service.period = period = Period()
        if item.period is not period:
            item.forgiven = item.in_outages
            # One that failed before, while others succeeded, fails by itself: when all the others
            # are done, only such items are left.
            is_sign_of_outage = item.period is None or item.period.outage is not None
            item.period, item.count = period, 0
            period.items += is_sign_of_outage
        item.count += 1
        outage = period.outage
        if outage is None:
            if service.has_answered and period.items >= self._items:
                period.outage = Outage(now)
                self.begun += 1
                self.is_any = True
                self._tell_begin(key, period, error)
        elif outage.probe is item:
            outage.end_probe(now, failed=True)

    def said_nothing(self, key: Hashable, item: ItemFailures, now: float) -> None:
        """A call of the item ended in a way that says nothing about the service."""
        service = self._services.get(key)
        outage = None if service is None else service.outage
        if outage is not None and outage.probe is item:
            outage.end_probe(now, failed=False)

    def answered(self, key: Hashable, began_at: float | None, now: float) -> None:
        """A call succeeded, or the service has answered at least."""
        service = self._services.get(key) or self._new_service(key)
        period = service.period
        outage = None if period is None else period.outage
        if outage is not None:
            if began_at is not None and began_at < outage.since <= now:
                return  # it was on its way before the service was away
            outage.probe = None  # or the two would keep each other alive
            service.ramp = Ramp(now)
            took = max(0.0, now - outage.since)
            self._tell(logging.INFO, key, f"the outage is over, after {took:.1f} s")
        service.has_answered = True
        service.answered_at = now
        service.period = None
        self.hears_success = self._is_keyed

    def longest(self, now: float) -> float:
        """Seconds since the oldest of the outages began; 0: there is none."""
        outages = [one.outage for one in self._services.values() if one.outage is not None]
        return max([max(0.0, now - outage.since) for outage in outages], default=0.0)

    def is_calm(self, key: Hashable) -> bool:
        """Whether it is no news that a call with this key succeeded. Without the lock."""
        service = self._services.get(key)
        return service is not None and service.has_answered and service.period is None

    # -- who may start ------------------------------------------------------------------------

    def delay(self, key: Hashable, item: ItemFailures, now: float) -> float:
        """Seconds until the item may ask again whether it may start; 0: it may start now.

        Infinity: it was held for too long, and is to fail.
        """
        service = self._services.get(key)
        if service is None:
            return 0.0
        period = service.period
        outage = service.outage
        if outage is None:
            return self._delay_after(service, item, now)
        delay = outage.delay(item, now)
        left = outage.since + self._give_up_after - now
        if left <= 0:
            self._give_up(key, outage)
            return math.inf if item.held_in is period else 0.0
        if delay:
            item.held_in = period
        return min(delay, left)

    def start(self, key: Hashable, item: ItemFailures, now: float) -> float:
        """As :meth:`delay`; if it is 0 the item starts."""
        delay = self.delay(key, item, now)
        service = self._services.get(key)
        outage = None if service is None else service.outage
        if not delay and outage is not None and not outage.is_given_up:
            outage.begin_probe(item, now)
        return delay

    def end_ramps(self, now: float) -> None:
        """Forget the outages that have been over for a while."""
        for service in self._services.values():
            if service.ramp is not None and service.ramp.is_over(now):
                service.ramp = None
        self.is_any = any(
            one.outage is not None or one.ramp is not None for one in self._services.values()
        )

    def _delay_after(self, service: _Service, item: ItemFailures, now: float) -> float:
        """:meth:`delay`, where there is no outage any more."""
        ramp = service.ramp
        if ramp is None:
            return 0.0
        if ramp.is_over(now):
            self.end_ramps(now)
            return 0.0
        if item.turn is None or item.turn[0] is not ramp:
            item.turn = (ramp, ramp.next_turn())
        return max(0.0, item.turn[1] - now)

    # -- the last failure of an item ----------------------------------------------------------

    def may_be_outage(self, key: Hashable, item: ItemFailures) -> bool:
        """Whether there may still be a verdict about the last failure of the item."""
        service = self._services.get(key)
        return (
            item.is_sign
            and service is not None
            and service.has_answered
            and service.period is item.period
        )

    def forgive(self, item: ItemFailures) -> None:
        """The last failures of the item do not count as attempts."""
        item.forgiven = item.in_outages + (0 if item.is_in_outage else item.count)
        item.count, item.verdict_at, item.is_kept_away = 0, None, False

    def until_verdict(
        self, key: Hashable, item: ItemFailures, now: float, *, are_calls_made: bool = True
    ) -> float | None:
        """Seconds until the next look for a verdict about the last failure; None: there is none.

        ``are_calls_made``: whether there can be one by now.
        """
        if not self.may_be_outage(key, item):
            return None
        if item.verdict_at is None:
            item.waits_since, item.verdict_at = now, now + _VERDICT
        elif not are_calls_made and now < item.waits_since + self._give_up_after:
            item.verdict_at, item.is_kept_away = now + _VERDICT, True
        left = min(item.verdict_at - now, _VERDICT)
        look_after, item.look_after = item.look_after, 2 * item.look_after
        return min(left, look_after) if left > 0 else None

    # -----------------------------------------------------------------------------------------

    def _new_service(self, key: Hashable) -> _Service:
        if len(self._services) >= _MOST_SERVICES:
            self._forget_one()
        service = self._services[key] = _Service()
        return service

    def _forget_one(self) -> None:
        """Forget the oldest that is not away; what it does next is the first that is known."""
        oldest = next((key for key, one in self._services.items() if one.outage is None), None)
        self._services.pop(oldest, None)

    def _give_up(self, key: Hashable, outage: Outage) -> None:
        if not outage.is_given_up:
            outage.is_given_up = True
            self._tell(
                logging.WARNING,
                key,
                f"the outage has lasted for {self._give_up_after:g} s: the held items fail, "
                "and from now on each item gets one attempt",
            )

    def _tell_begin(self, key: Hashable, period: Period, error: BaseException) -> None:
        self._tell(
            logging.WARNING,
            key,
            f"an outage: {period.items} items failed and none succeeded, the last with "
            f"{checks.shown(error)}; queued items are held, and one at a time is attempted",
        )

    def _tell(self, level: int, key: Hashable, text: str) -> None:
        about = "" if key is None else f"{checks.shown(key)}: "
        self.news.append((level, f"{about}{text}"))
