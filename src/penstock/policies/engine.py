"""What becomes of an item under a policy: may it start, how did its call go, is it tried again.

Whoever has an item calls :meth:`PolicyEngine.admit`, :meth:`PolicyEngine.run` and
:meth:`PolicyEngine.after` in turn: queue workers, executors, ``Policy.call``. What is known of the
item is data, in an ``ItemState``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from penstock._util.clock import now
from penstock._util.compat import add_note, timeout_after
from penstock.errors import APITimeoutError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.failures import Failure, failure_of, shows_outage
from penstock.limits.rate.permit import Permit, permit_of, starts_under_way, still_under_way
from penstock.limits.rate.sliding_log import Record
from penstock.policies.classify import classify
from penstock.policies.item_state import ItemAttempt, ItemState, NotBegun
from penstock.policies.retrying import Retrying


class PolicyEngine(Retrying):
    """Runs items under settings that are checked already; :class:`penstock.Policy` has the checks.

    The methods may be called from any thread.
    """

    # -- its call -----------------------------------------------------------------------------

    async def run(
        self,
        state: ItemState,
        call: Callable[[Any], Awaitable[Any]],
        item: Any,
        adaptive: AdaptiveConcurrency | None = None,
    ) -> Any:
        """Make one attempt: ``call(item)``, once it may start, unless it was admitted before.

        ``adaptive`` is told how it went, too.

        Raises:
            Postponed: as :meth:`wait`.
            BaseException: what the call raised, or why it was not made.
        """
        if state.permit is None and state.refusal is None and not self.admit(state, item):
            await self.wait(state, item)
        start = self._started(state, adaptive)
        try:
            if self.attempt_timeout is None:
                result = await call(item)
            else:
                result = await self._in_time(call(item), self.attempt_timeout)
        except BaseException as error:
            self._failed(state, start, error)
            raise
        self._succeeded(state, start)
        return result

    @contextmanager
    def attempt(self, state: ItemState) -> Iterator[None]:
        """The block of one attempt that is a plain call: what :meth:`run` does around its own."""
        start = self._started(state, None)
        try:
            yield
        except BaseException as error:
            if isinstance(error, NotBegun):
                permit_of(start, self.limits).give_back()
            self._failed(state, start, error)
            raise
        self._succeeded(state, start)

    async def _in_time(self, call: Awaitable[Any], seconds: float) -> Any:
        timeout = timeout_after(seconds)
        try:
            async with timeout:
                return await call
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise APITimeoutError(f"The attempt took longer than {seconds:g} seconds") from error

    def _started(self, state: ItemState, adaptive: AdaptiveConcurrency | None) -> Permit | Record:
        """The call begins."""
        start, state.permit = state.permit, None
        if start is None:
            assert state.refusal is not None
            raise state.refusal
        state.attempts += 1
        if self._measures or adaptive is not None:
            start.call = attempt = start.call or ItemAttempt(state)
            attempt.called_at = moment = now()
            attempt.adaptive = adaptive
            if state.attempts == 1:
                state.began_at = moment
            with self._lock:
                state.scope.inflight += 1
        elif start.call is None:
            start.call = state  # there is nothing more to it
        # Never taken out again: it is over then, which costs less to say.
        around = starts_under_way.get()
        is_alone = not around or (len(around) == 1 and around[0].call is None)
        starts_under_way.set((start,) if is_alone else (*still_under_way(), start))
        return start

    def _succeeded(self, state: ItemState, start: Permit | Record) -> None:
        """The call returned."""
        attempt = start.call
        if attempt is state:
            if self._budget is not None and not self._budget.is_full:
                self._budget.succeeded(state.paid_failure)
            if self._hears_success:
                self._hear_success(state, start)
        elif not attempt.has_responded:
            self._tell_success(attempt, start)
        start.call = None
        if attempt is not state or self._has_budget:
            self._release(start, attempt)

    def _tell_success(self, attempt: ItemAttempt, start: Permit | Record | None = None) -> None:
        if self._hears_success:
            self._hear_success(attempt.state, start)
        if self._budget is not None and not self._budget.is_full:
            self._budget.succeeded(attempt.state.paid_failure)
        if attempt.called_at is not None:
            self._tell(attempt, None, None)
        if attempt.passed_at is not None and self.limits._is_gated:
            self.limits._succeeded(attempt.passed_at, attempt.state.gate_key)

    def _failed(self, state: ItemState, start: Permit | Record, error: BaseException) -> None:
        """The call raised ``error``."""
        attempt = start.call
        counts = attempt is state or not attempt.has_responded
        try:
            failure: Failure | None = None
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                state.attempts -= 1  # it neither succeeded nor failed
            else:
                with self._lock:
                    self._failures += 1
                own, last = self._own_classify, state.failure
                failure = failure_of(error) if own is None else classify(error, own)
                state.failure = failure
                if counts and failure.is_throttle and self._closes_gate(attempt, failure):
                    self._refused(state, permit_of(start, self.limits), error, last)
                if failure.retry_after and self._is_too_long(failure):
                    state.failure = failure = self._too_long(failure, error)
            if self._outages is not None:
                is_away = shows_outage(failure) if counts and failure is not None else None
                if is_away is not None or state.failures is not None:
                    self._hear_failure(state, start, error, is_away)
            if counts and attempt is not state and attempt.called_at is not None:
                self._tell(attempt, error, failure)
        except Exception as broken:  # a function of the user's: the item fails with that
            state.failure = failure_of(broken)
            raise
        finally:
            start.call = None
            if attempt is not state or self._has_budget:
                self._release(start, attempt)

    def _closes_gate(self, attempt: ItemState | ItemAttempt, failure: Failure) -> bool:
        """Whether a refusal is a reason to let no call start for a while."""
        if failure.is_concurrency or failure.is_permanent:
            return False
        if failure.retry_after or isinstance(attempt, ItemState):
            return True
        # It may be about how many calls are under way: who adapts that answers it, while it can.
        return not any(one.limit > one.min for one, _ in self._adapting(attempt))

    def _refused(
        self, state: ItemState, permit: Permit, error: BaseException, last: Failure | None
    ) -> None:
        """The service said "too many requests": the gate closes. ``last``: what the attempt before
        this one ended with."""
        failure = state.failure
        assert failure is not None
        status = "" if failure.status is None else f", HTTP {failure.status}"
        reason = f": {failure.reason}" if failure.reason else ""
        self.limits._refused(
            min(failure.retry_after, self.max_retry_after),
            permit,
            state.gate_key,
            item=state,
            is_again=last is not None and last.is_throttle,
            why=f" ({type(error).__name__}{status}{reason})",
        )

    def _too_long(self, failure: Failure, error: BaseException) -> Failure:
        """What an error says that asks for a longer wait than is allowed: not to try again."""
        add_note(
            error,
            f"penstock: not retried, the service asks to wait {failure.retry_after:g} s, and "
            f"max_retry_after is {self.max_retry_after:g}",
        )
        return replace(failure, is_permanent=True, is_transient=False)

    def responded(self, attempt: ItemAttempt) -> None:
        """The call under way has succeeded by now, though it goes on."""
        if not attempt.has_responded:
            self._tell_success(attempt)
            attempt.has_responded = True

    def _tell(
        self, attempt: ItemAttempt, error: BaseException | None, failure: Failure | None
    ) -> None:
        """Tell the breaker, the deadlines and those who adapt how a measured call went."""
        assert attempt.called_at is not None
        moment = now()
        took = moment - attempt.called_at
        changed = False
        with self._lock:
            if error is None:
                self._service.add(took, moment)
            for adaptive, inflight in self._adapting(attempt):
                before = adaptive.limit
                if error is None:
                    adaptive.succeeded(moment, took, inflight)
                elif failure is not None and failure.is_throttle:
                    adaptive.rejected(moment, inflight)
                elif failure is not None:
                    adaptive.failed(moment, took, inflight)
                changed = changed or adaptive.limit != before
        if changed:
            scope = attempt.state.scope
            if scope.on_limit_change is not None:
                scope.on_limit_change()
            if self._slots is not None:
                self._slots.adapt()
        breaker, permit = self.breaker, attempt.breaker_permit
        if breaker is None or permit is None:
            return
        attempt.breaker_permit = None
        if error is None:
            breaker.succeeded(moment, permit)
        elif isinstance(error, Exception):
            breaker.failed(moment, permit, error, failure)
        else:
            breaker.cancelled(permit)

    def _adapting(self, attempt: ItemAttempt) -> list[tuple[AdaptiveConcurrency, int]]:
        """Who finds out how many calls at once are best, each with the number under way."""
        adapting = []
        if attempt.adaptive is not None:
            adapting.append((attempt.adaptive, attempt.state.scope.inflight))
        if self._adaptive is not None and self._slots is not None:
            adapting.append((self._adaptive, self._slots.taken))
        return adapting

    def _release(self, start: Permit | Record, attempt: ItemState | ItemAttempt) -> None:
        """The call has ended, and all was told of it: put away what it has beside its start."""
        if isinstance(start, Permit) and self._has_budget:
            start.finish()
        if isinstance(attempt, ItemAttempt):
            if attempt.called_at is not None:
                with self._lock:
                    attempt.state.scope.inflight -= 1
            if attempt.breaker_permit is not None and self.breaker is not None:  # nothing was told
                self.breaker.cancelled(attempt.breaker_permit)
            self._leave_slot(attempt)


def responded() -> None:
    """For a call that holds its worker beyond its response: here it is, and the call succeeded.

    What the call took until now is what tells of the service; until its end it is still under way.
    """
    for start in reversed(starts_under_way.get()):
        attempt = start.call
        if isinstance(attempt, ItemState):
            start.call = attempt = ItemAttempt(attempt)
        if isinstance(attempt, ItemAttempt):
            attempt.state.scope.policy.responded(attempt)
            return
