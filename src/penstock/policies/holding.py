"""What a policy does about outages: it tells ``Outages`` how calls end, and holds items."""

from __future__ import annotations

import logging
import math
import threading

from penstock._util.clock import now
from penstock.errors import OutageError
from penstock.limits.rate.permit import Permit
from penstock.limits.rate.sliding_log import Record
from penstock.limits.retry import RetryPolicy
from penstock.policies.item_state import ItemAttempt, ItemState
from penstock.policies.outage import ItemFailures
from penstock.policies.outages import Outages

_logger = logging.getLogger("penstock")

#: The least seconds for which an item is put back that cannot start yet.
SHORTEST = 0.001


class Postponed(Exception):  # noqa: N818 - it says what becomes of the item; nothing went wrong
    """The item may not start yet. Is never seen outside of a queue or a call."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class Holding:
    """Holds items while their service is away."""

    name: str
    retry: RetryPolicy | None
    _lock: threading.RLock
    _has_gate_keys: bool
    #: Whether there is more to a start than the limits; and the same, or there is an outage.
    _has_steps: bool
    _has_checks: bool
    #: Whether outages are to be told of a success.
    _hears_success: bool
    #: The outages of the services; None: nothing is ever held for one.
    _outages: Outages | None

    def _begin_outages(self) -> None:
        """No call has been made yet."""
        retry = self.retry
        self._has_checks, self._hears_success, self._outages = self._has_steps, False, None
        if retry is not None and retry.hold is not False:
            self._outages = Outages(retry.give_up_after, is_keyed=self._has_gate_keys)
            self._look_at_outages()

    def _look_at_outages(self) -> None:
        """Set what most calls look at, which no outage concerns. With the lock."""
        outages = self._outages
        assert outages is not None
        self._hears_success = outages.hears_success
        self._has_checks = self._has_steps or outages.is_any

    def _tell_news(self) -> None:
        """Log what there is to tell of outages. Without the lock: handlers are the user's."""
        news = None if self._outages is None else self._outages.news
        while news:
            try:
                level, text = news.popleft()
            except IndexError:  # another thread was faster
                return
            _logger.log(level, "Policy %s: %s", self.name, text)

    def _outage_for(self) -> float:
        """Seconds since the oldest outage began; 0: there is none."""
        if self._outages is None or not self._outages.is_any:
            return 0.0
        with self._lock:
            return self._outages.longest(now())

    def _check_outage(self, state: ItemState, *, starts: bool) -> bool:
        """Whether the item fails: its service has been down for too long.

        ``starts``: it begins now, if it may.

        Raises:
            Postponed: its service is away, or was a moment ago, and its turn comes later.
        """
        outages = self._outages
        if outages is None or not outages.is_any:
            return False
        assert self.retry is not None
        moment, hold = now(), self.retry.hold
        if not (state.is_queued if hold is None else hold):
            with self._lock:
                outages.end_ramps(moment)
                self._look_at_outages()
            return False
        item = state.failures = state.failures or ItemFailures()
        with self._lock:
            ask = outages.start if starts else outages.delay
            delay = ask(state.gate_key, item, moment)
            self._look_at_outages()
        self._tell_news()
        if delay == math.inf:
            self._give_up(state, item)
            state.refusal = item.error or item.outage_error
            return True
        if delay:
            raise Postponed(held_for(delay, state, moment))
        return False

    def _give_up(self, state: ItemState, item: ItemFailures) -> None:
        """The item fails, since its service has been down for too long."""
        assert self.retry is not None
        state.why = f"its service has been down for {self.retry.give_up_after:g} s"
        item.outage_error = OutageError(
            f"The service has been down for more than {self.retry.give_up_after:g} s"
        )

    # -- how calls ended ----------------------------------------------------------------------

    def _hear_success(self, state: ItemState, start: Permit | Record | None) -> None:
        """A call succeeded, and that may be news; or the service has answered at least."""
        outages, key = self._outages, state.gate_key
        if outages is None or (self._has_gate_keys and outages.is_calm(key)):
            return
        with self._lock:
            outages.answered(key, _began_at(start), now())
            self._hears_success = outages.hears_success
        if outages.news:
            self._tell_news()

    def _hear_failure(
        self,
        state: ItemState,
        start: Permit | Record,
        error: BaseException,
        is_away: bool | None,
    ) -> None:
        """A call failed. ``is_away``: as calls of a service that is away; None: it says nothing."""
        outages = self._outages
        assert outages is not None
        item = state.failures
        if is_away:
            item = state.failures = item or ItemFailures()
            with self._lock:
                outages.failed(state.gate_key, item, _began_at(start), now(), error)
                self._hears_success = True
                self._has_checks |= outages.is_any
            if outages.news:
                self._tell_news()
            return
        if item is not None:
            item.is_sign = False
        if is_away is False:
            if self._hears_success:
                self._hear_success(state, start)
        elif item is not None and item.probes:
            with self._lock:
                outages.said_nothing(state.gate_key, item, now())


def held_for(delay: float, state: ItemState, moment: float) -> float:
    """``delay`` seconds, but not past the deadline of the item."""
    left = math.inf if state.deadline_at is None else state.deadline_at - moment
    return max(SHORTEST, min(delay, left))


def _began_at(start: Permit | Record | None) -> float | None:
    """When a call began, if that is known."""
    if start is None:
        return None
    attempt = start.call
    if isinstance(attempt, ItemAttempt) and attempt.called_at is not None:
        return attempt.called_at
    if isinstance(start, Record):
        return start.at
    return start._records[0].at if start._records else None
