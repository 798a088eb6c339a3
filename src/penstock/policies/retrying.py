"""Is an item tried again, and when: its attempts, its throttles, and outages of its service."""

from __future__ import annotations

import logging
import math

from penstock._util import checks
from penstock._util.clock import now
from penstock._util.compat import add_note
from penstock.limits.breaker import BreakerState
from penstock.limits.failures import Failure, failure_of
from penstock.limits.retry import NO_ATTEMPTS, NO_BUDGET
from penstock.policies.admission import Admission
from penstock.policies.holding import SHORTEST, Postponed, held_for
from penstock.policies.item_state import ItemState
from penstock.policies.outage import ItemFailures

_logger = logging.getLogger("penstock")

#: A retry in more than so many seconds is a warning.
_LONG = 5.0
#: Seconds between two lines about retries after errors of one kind.
_QUIET = 1.0
#: How many kinds of errors are told apart.
_MOST_KINDS = 100


class Retrying(Admission):
    """The third step: what follows from how an attempt ended."""

    # -- is it tried again --------------------------------------------------------------------

    def after(self, state: ItemState, error: BaseException) -> float | None:
        """Seconds until another attempt after one that ended with ``error``; None: it failed.

        Raises:
            BaseException: what a function of the retry policy raised: the item fails with that.
        """
        state.is_postponed = isinstance(error, Postponed)
        if isinstance(error, Postponed):
            return error.delay
        refusal, state.refusal = state.refusal, None
        if self.retry is None or not isinstance(error, Exception):
            return None
        failure = state.failure or failure_of(error)
        if error is refusal:
            delay = self._look_again(state, error)
        elif failure.retry_after and self._is_too_long(failure):
            return None  # whatever the retry policy says; there is a note on the error
        elif failure.is_throttle or state.failures is not None:  # of a few items only
            delay = self._after_trouble(state, error, failure)
        else:
            delay = self._next_attempt(state, error, failure)
        if delay is not None and state.refusal is None:  # else it waits for the verdict
            with self._lock:
                self._retries += 1
                state.scope.retries += 1
            if state.is_observed:
                state.scope.observer.on_retry(error)
        return delay

    def _is_too_long(self, failure: Failure) -> bool:
        """Whether the service asks for a longer wait than is allowed."""
        return failure.retry_after > self.max_retry_after and not failure.is_short_circuit

    def _next_attempt(
        self,
        state: ItemState,
        error: Exception,
        failure: Failure,
        *,
        forgiven: int = 0,
        throttles: int = 0,
        is_free: bool = False,
    ) -> float | None:
        """:meth:`after`, by the retry policy alone.

        ``forgiven`` of the attempts are as if they had not been made, and ``throttles`` of them do
        not count. ``is_free``: the budget for retries need not pay.
        """
        assert self.retry is not None
        elapsed, left = 0.0, math.inf
        if self._measures:  # or nobody asks
            moment = now()
            elapsed = moment - state.began_at
            if state.deadline_at is not None:
                left = state.deadline_at - moment
        try:
            verdict = self.retry.judge(
                state.attempts - forgiven,
                error,
                failure,
                uncounted=throttles,
                elapsed=elapsed,
                at_most=left,
                is_free=is_free,
            )
        except StopIteration:  # a backoff that takes its waits from an iterator: no more
            add_note(error, "penstock: not retried, the retry policy raised StopIteration")
            state.why = ""
            return None
        if isinstance(verdict, str):
            state.why = verdict
            return None
        state.paid_failure = None if is_free else failure
        if verdict > _LONG or _logger.isEnabledFor(logging.INFO):
            self._log_retry(state, error, verdict, is_throttle=failure.is_throttle)
        return verdict

    def _after_trouble(self, state: ItemState, error: Exception, failure: Failure) -> float | None:
        """:meth:`after`, where the service is, or was, away, or refuses too many calls."""
        assert self.retry is not None
        item = state.failures = state.failures or ItemFailures()
        item.error = error
        is_queued, hold = state.is_queued, self.retry.hold
        is_held = self.retry.repeats and (is_queued if hold is None else hold)
        is_away = is_held and item.is_sign and item.is_in_outage
        if is_away and self.retry.is_worth_it(error, failure):
            return self._hold(state, item)
        is_free = failure.is_throttle and self.retry.repeats and (is_held or is_queued)
        if not is_free:
            item.throttled_since = None
        elif self._was_throttled_too_long(state, item):
            return None
        delay = self._next_attempt(
            state,
            error,
            failure,
            forgiven=item.in_outages if is_held else 0,
            throttles=item.throttles,
            is_free=is_free,
        )
        if delay is not None:
            state.is_postponed = is_free
            return delay
        if is_held and item.is_sign and state.why in {NO_ATTEMPTS, NO_BUDGET}:
            return self._wait_for_verdict(state, error, item)
        return None

    def _was_throttled_too_long(self, state: ItemState, item: ItemFailures) -> bool:
        """One more throttle of an item whose throttles do not count as attempts."""
        assert self.retry is not None
        moment = now()
        item.throttles += 1
        if item.throttled_since is None or moment < item.throttled_since:
            item.throttled_since = moment
        is_too_long = moment - item.throttled_since >= self.retry.give_up_after
        if is_too_long:
            state.why = f"the service has refused it for {self.retry.give_up_after:g} s"
        return is_too_long

    # -- outages ------------------------------------------------------------------------------

    def _hold(self, state: ItemState, item: ItemFailures) -> float | None:
        """Hold an item whose last call fell into an outage; None: that was given up."""
        assert self._outages is not None
        item.verdict_at = None
        with self._lock:
            moment = now()
            delay = self._outages.delay(state.gate_key, item, moment)
            period = item.period
            is_given_up = period is not None and period.outage is not None
            is_given_up = is_given_up and period.outage.is_given_up  # type: ignore[union-attr]
            item.held_in = period
        self._tell_news()
        if is_given_up:
            self._give_up(state, item)
            return None
        state.paid_failure = None
        state.is_postponed = True
        return held_for(delay, state, moment)

    def _wait_for_verdict(
        self, state: ItemState, error: Exception, item: ItemFailures
    ) -> float | None:
        """Have an item that failed for good come back, in case that this is an outage.

        Not where most of its attempts failed while others succeeded: then it is the item.
        """
        assert self._outages is not None
        attempts = state.attempts - item.in_outages - item.throttles
        if 2 * item.count < attempts:
            return None
        moment, breaker = now(), self.breaker
        are_calls_made = breaker is None or breaker.state(moment) is BreakerState.CLOSED
        with self._lock:
            wait = self._outages.until_verdict(
                state.gate_key, item, moment, are_calls_made=are_calls_made
            )
        if wait is None:
            return None
        item.traceback = error.__traceback__
        state.refusal = error  # what it fails with when it comes back
        state.is_postponed = True
        return max(SHORTEST, wait)

    def _look_again(self, state: ItemState, error: Exception) -> float | None:
        """:meth:`after`, where no call was made: it was refused, or waits for the verdict."""
        item = state.failures
        if item is None or item.verdict_at is None or item.error is not error:
            return None
        error.__traceback__ = item.traceback  # without the looks
        if item.is_in_outage:
            return self._hold(state, item)
        outages = self._outages
        assert outages is not None
        if item.is_kept_away and not outages.may_be_outage(state.gate_key, item):
            # A breaker let too few calls through for a verdict, until the service was back.
            outages.forgive(item)
            return SHORTEST
        return self._wait_for_verdict(state, error, item)

    # -- the log ------------------------------------------------------------------------------

    def _log_retry(
        self, state: ItemState, error: Exception, delay: float, *, is_throttle: bool
    ) -> None:
        """Tell of a retry: the first of its kind in a second, and of a long wait once."""
        # Where calls are refused for a while the gate tells.
        level = logging.WARNING if delay > _LONG and not is_throttle else logging.INFO
        if not _logger.isEnabledFor(level):
            return
        kind, moment = (type(error), level), now()
        with self._lock:
            quiet = self._quiet_until
            if moment < quiet.get(kind, -math.inf) <= moment + max(_QUIET, delay):
                return
            if len(quiet) >= _MOST_KINDS:
                quiet.clear()
            quiet[kind] = moment + (delay if level == logging.WARNING else _QUIET)
        _logger.log(
            level,
            "Policy %s: attempt %d failed with %s; the next one is in %.3g s",
            self.name,
            state.attempts,
            checks.shown(error),
            delay,
        )
