"""The decisions about an item under a policy: may it start, how did its call go, is it tried again.

Whoever has an item calls :meth:`PolicyEngine.admit`, :meth:`PolicyEngine.run` and
:meth:`PolicyEngine.after` in turn: queue workers, executors, ``Policy.call``. What is known of the
item is data, in an ``ItemState``. The decisions are plain functions, for tasks and threads alike.
Only ``wait`` waits: it has a shell that awaits and one that blocks.
"""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock._util.clock import now
from penstock._util.compat import add_note, timeout_after
from penstock._util.hooks import tell_forked_child
from penstock.errors import (
    APITimeoutError,
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
)
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.deadline import ServiceTime, is_hopeless
from penstock.limits.failures import Failure, failure_of
from penstock.limits.rate.limiter import Limiter, UnusableLimiterError
from penstock.limits.rate.permit import Permit, current_permits, permits_under_way
from penstock.limits.retry import RetryPolicy
from penstock.policies.capacity import CapacityLimiter
from penstock.policies.classify import Classify, classify
from penstock.policies.item_state import ItemState, NotBegunError

#: The least seconds for which an item is put back that cannot start yet; and the most, where it
#: waits for a limit.
_SHORTEST, _LONGEST = 0.001, 1.0


class Postponed(Exception):  # noqa: N818 - it says what becomes of the item; nothing went wrong
    """The item may not start yet. Is never seen outside of a queue or a call."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class PolicyEngine:
    """Runs items under settings that are checked already; :class:`penstock.Policy` has the checks.

    The methods may be called from any thread.
    """

    def __init__(
        self,
        limits: Limiter,
        retry: RetryPolicy | None,
        breaker: CircuitBreaker | None,
        deadline: float | None,
        attempt_timeout: float | None,
        concurrency: int | AdaptiveConcurrency | None,
        own_classify: Classify | None,
    ) -> None:
        #: What every call asks before it starts. There is one also where no limits were given: a
        #: service can close its gate.
        self.limits = limits
        self.retry = retry
        self.breaker = breaker
        self.deadline = deadline
        self.attempt_timeout = attempt_timeout
        self.concurrency = concurrency
        self._own_classify = own_classify
        self._adaptive: AdaptiveConcurrency | None = None
        self._slots: CapacityLimiter | None = None
        if isinstance(concurrency, AdaptiveConcurrency):
            self._adaptive = concurrency
            self._slots = CapacityLimiter(lambda: concurrency.limit)
        elif concurrency is not None:
            self._slots = CapacityLimiter(lambda: concurrency)
        # Which steps there are is decided here, once: an item pays for no others.
        self._budget = None if retry is None else retry.budget
        self._has_checks = breaker is not None or self._slots is not None
        self._measures = (
            breaker is not None
            or self._adaptive is not None
            or deadline is not None
            or (retry is not None and retry.needs_elapsed)
        )
        limited = limits.limits
        self._has_budget = limits._has_budget
        self._is_keyed = any(limit.key is not None for limit in limited)
        self._limit_name = (
            None if not limited else limited[0].name if len(limited) == 1 else limits.name
        )
        self._failures = self._retries = 0
        self._service = ServiceTime()
        self._after_fork_in_child()
        tell_forked_child(self)

    def _after_fork_in_child(self) -> None:
        # Re-entrant: a task that is destroyed may end its call wherever Python collects garbage.
        self._lock = threading.RLock()

    # -- may it start -------------------------------------------------------------------------

    def prepare(self, state: ItemState, item: Any, deadline: float | None) -> None:
        """A new item, which is to be done in ``deadline`` seconds, or in those of the policy.

        Raises:
            ValueError, TypeError: the limits can never let it pass.
        """
        if self.limits._fixed_demand is None:
            self.limits.check(item)
        if deadline is None:
            deadline = self.deadline
        if deadline is not None:
            state.deadline_at = now() + deadline
            self._measures = True  # how long calls take, from now on

    def admit(self, state: ItemState, item: Any) -> bool:
        """Whether the item may start now: then it counts as started. Else :meth:`wait`."""
        if self._has_checks or state.deadline_at is not None:
            return False
        permit = self.limits._start_now()
        if permit is None:
            return False
        state.permit = permit
        if self._limit_name is not None:
            state.waited = 0.0
            state.scope.observer.on_limit_wait(self._limit_name, 0.0)
        return True

    async def wait(self, state: ItemState, item: Any) -> None:
        """Wait until the item may start, and count it as started; block where no loop runs.

        If it may not start, ever, ``state.refusal`` says why.

        Raises:
            Postponed: not yet; and nobody need wait with the item in hand.
        """
        if _get_running_loop() is None:
            self.wait_blocking(state, item)
            return
        began = now()
        try:
            if self._is_refused(state, item, began):
                return
            if self._needs_slot():
                await self._slots.acquire()  # type: ignore[union-attr]
                state.has_slot = True
            permit = self._permit_of_key(state, item) or await self.limits.acquire(
                item, finishes=True
            )
            self._confirm(state, permit, began)
        except BaseException as error:  # noqa: BLE001 - raised again unless it is a refusal
            self._was_not_admitted(state, error)

    def wait_blocking(self, state: ItemState, item: Any) -> None:
        """As :meth:`wait`, for threads."""
        began = now()
        try:
            if self._is_refused(state, item, began):
                return

            def is_wanted() -> bool:
                return not state.is_revoked

            if self._needs_slot():
                self._slots.acquire_blocking(is_wanted)  # type: ignore[union-attr]
                state.has_slot = True
            permit = self._permit_of_key(state, item) or self.limits.acquire_blocking(
                item, is_wanted=is_wanted, finishes=True
            )
            self._confirm(state, permit, began)
        except BaseException as error:  # noqa: BLE001 - raised again unless it is a refusal
            self._was_not_admitted(state, error)

    def _is_refused(self, state: ItemState, item: Any, moment: float) -> bool:
        """Whether it makes no sense to wait: then the state has the reason."""
        if state.deadline_at is not None:
            wait = self.limits.wait_time(item)
            # Infinity: not before something happens, and that may be at once.
            if wait < math.inf and is_hopeless(state.deadline_at, moment + wait):
                state.refusal = _too_late()
                return True
        if self.breaker is not None:
            try:
                self.breaker.check(moment)
            except CircuitBreakerOpenError as error:
                self._refuse(state, error)
                return True
        return False

    def _needs_slot(self) -> bool:
        """Whether the call is to wait for one of the calls at once. Not inside such a call."""
        return self._slots is not None and not any(
            isinstance(permit.call, ItemState)
            and permit.call.has_slot
            and permit.call.scope.policy is self
            for permit in current_permits()
        )

    def _permit_of_key(self, state: ItemState, item: Any) -> Permit | None:
        """A permit, where items with other keys must not wait for this one; else None."""
        if not (self._is_keyed and state.scope.postpones):
            return None
        permit = self.limits.try_acquire(item, finishes=True)
        if permit is not None:
            return permit
        if state.waits_since is None:
            state.waits_since = now()
        wait = self.limits.wait_time(item)
        if wait == math.inf:  # not before something happens, at once or after a call's end
            wait = now() - state.waits_since
        # It looks again before long: limits change, and costs are settled.
        raise Postponed(min(max(_SHORTEST, wait), _LONGEST))

    def _confirm(self, state: ItemState, permit: Permit, began: float) -> None:
        """It has all that it waited for: may it start indeed?"""
        moment = now()
        waited = moment - (state.waits_since or began)
        state.waits_since = None
        state.permit = permit
        error: Exception | None = None
        if state.deadline_at is not None:
            with self._lock:
                if self._service.is_hopeless(state.deadline_at, moment):
                    error = _too_late()
        if error is None and self.breaker is not None:
            try:
                state.breaker_permit = self.breaker.allow(moment)
            except CircuitBreakerOpenError as refused:
                error = refused
        if state.is_revoked:  # a thread waited for this, and its item was taken from it meanwhile
            raise asyncio.CancelledError("somebody else has the item now")
        if isinstance(error, CircuitBreakerOpenError):
            self._withdraw(state)
            self._refuse(state, error)
        elif error is not None:
            self._withdraw(state)
            state.refusal = error
        elif self._limit_name is not None:
            state.waited = waited
            state.scope.observer.on_limit_wait(self._limit_name, waited)

    def _refuse(self, state: ItemState, error: CircuitBreakerOpenError) -> None:
        """The breaker is open: the item fails, or waits until it may close."""
        if self.retry is None:
            state.refusal = error
            return
        pause = max(_SHORTEST, failure_of(error).retry_after)
        if state.deadline_at is None or not is_hopeless(state.deadline_at, now() + pause):
            raise Postponed(pause)
        state.refusal = _too_late()

    def _was_not_admitted(self, state: ItemState, error: BaseException) -> None:
        """Waiting ended with ``error``, which is raised again unless it is a reason to fail."""
        self._withdraw(state)
        if isinstance(error, UnusableLimiterError) and state.scope.postpones:
            raise Postponed(_LONGEST) from None  # it is no reason to give the item up
        if not isinstance(error, (BudgetExceededError, ValueError, TypeError)):
            raise error
        state.refusal = error  # a budget is spent, or the max of a limit was lowered meanwhile

    def _withdraw(self, state: ItemState) -> None:
        """It does not start: give back what it has."""
        if state.permit is not None:
            state.permit.give_back()
            state.permit.finish()
            state.permit = None
        if state.breaker_permit is not None and self.breaker is not None:
            self.breaker.cancelled(state.breaker_permit)
            state.breaker_permit = None
        if state.has_slot and self._slots is not None:
            state.has_slot = False
            self._slots.release()

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
        permit = self._started(state, adaptive)
        try:
            if self.attempt_timeout is None:
                result = await call(item)
            else:
                result = await self._in_time(call(item), self.attempt_timeout)
        except BaseException as error:
            self._failed(state, permit, error)
            raise
        self._succeeded(state, permit)
        return result

    @contextmanager
    def attempt(self, state: ItemState) -> Iterator[None]:
        """The block of one attempt that is a plain call: what :meth:`run` does around its own."""
        permit = self._started(state, None)
        try:
            yield
        except NotBegunError:
            state.attempts -= 1
            self._withdraw(state)
            self._release(state, permit)
            raise
        except BaseException as error:
            self._failed(state, permit, error)
            raise
        self._succeeded(state, permit)

    async def _in_time(self, call: Awaitable[Any], seconds: float) -> Any:
        timeout = timeout_after(seconds)
        try:
            async with timeout:
                return await call
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise APITimeoutError(f"The attempt took longer than {seconds:g} seconds") from error

    def _started(self, state: ItemState, adaptive: AdaptiveConcurrency | None) -> Permit:
        """The call begins."""
        permit = state.permit
        if permit is None:
            assert state.refusal is not None
            raise state.refusal
        state.attempts += 1
        if self._measures or adaptive is not None:
            state.called_at = moment = now()
            state.adaptive = adaptive
            if state.attempts == 1:
                state.began_at = moment
            with self._lock:
                state.scope.inflight += 1
        permit.call = state
        around = permits_under_way.get()
        # Never taken out again: it is over then, which costs less to say.
        is_alone = not around or (around[-1].is_over and len(around) == 1)
        permits_under_way.set((permit,) if is_alone else (*current_permits(), permit))
        return permit

    def _succeeded(self, state: ItemState, permit: Permit) -> None:
        """The call returned."""
        if not state.has_responded:
            if self._budget is not None:
                self._budget.succeeded(state.failure)
            if state.called_at is not None:
                self._tell(state, None, None)
        self._release(state, permit)

    def _failed(self, state: ItemState, permit: Permit, error: BaseException) -> None:
        """The call raised ``error``."""
        try:
            failure: Failure | None = None
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                state.attempts -= 1  # it neither succeeded nor failed
            else:
                with self._lock:
                    self._failures += 1
                failure = state.failure = classify(error, self._own_classify)
                if failure.is_throttle and not state.has_responded:
                    self.limits.refused(failure.retry_after, permit=permit)
            if state.called_at is not None and not state.has_responded:
                self._tell(state, error, failure)
        except Exception as broken:  # a function of the user's: the item fails with that
            state.failure = failure_of(broken)
            raise
        finally:
            self._release(state, permit)

    def responded(self, state: ItemState) -> None:
        """The call under way has succeeded by now, though it goes on."""
        if state.has_responded:
            return
        if self._budget is not None:
            self._budget.succeeded(state.failure)
        if state.called_at is not None:
            self._tell(state, None, None)
        state.has_responded = True

    def _tell(self, state: ItemState, error: BaseException | None, failure: Failure | None) -> None:
        """Tell the breaker, the deadlines and those who adapt how a measured call went."""
        assert state.called_at is not None
        moment = now()
        took = moment - state.called_at
        changed = False
        with self._lock:
            if error is None:
                self._service.add(took, moment)
            for adaptive, inflight in self._adapting(state):
                before = adaptive.limit
                if error is None:
                    adaptive.succeeded(moment, took, inflight)
                elif failure is not None and failure.is_throttle:
                    adaptive.rejected(moment, inflight)
                elif failure is not None:
                    adaptive.failed(moment, took, inflight)
                changed = changed or adaptive.limit != before
        if changed:
            if state.scope.on_limit_change is not None:
                state.scope.on_limit_change()
            if self._slots is not None:
                self._slots.adapt()
        breaker, permit = self.breaker, state.breaker_permit
        if breaker is None or permit is None:
            return
        state.breaker_permit = None
        if error is None:
            breaker.succeeded(moment, permit)
        elif isinstance(error, Exception):
            breaker.failed(moment, permit, error, failure)
        else:
            breaker.cancelled(permit)

    def _adapting(self, state: ItemState) -> list[tuple[AdaptiveConcurrency, int]]:
        """Who finds out how many calls at once are best, each with the number under way."""
        adapting = []
        if state.adaptive is not None:
            adapting.append((state.adaptive, state.scope.inflight))
        if self._adaptive is not None and self._slots is not None:
            adapting.append((self._adaptive, self._slots.taken))
        return adapting

    def _release(self, state: ItemState, permit: Permit) -> None:
        """The call has ended, and all was told of it."""
        permit.call = state.permit = None
        permit.is_over = True
        if self._has_budget:
            permit.finish()
        if state.called_at is not None:
            state.called_at = state.adaptive = None
            with self._lock:
                state.scope.inflight -= 1
        if state.has_slot and self._slots is not None:
            state.has_slot = False
            self._slots.release()
        if state.has_responded:
            state.has_responded = False

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
        if self.retry is None or error is refusal or not isinstance(error, Exception):
            return None
        moment = now()
        left = math.inf if state.deadline_at is None else state.deadline_at - moment
        try:
            delay = self.retry.next_wait(
                state.attempts,
                error,
                elapsed=moment - state.began_at,
                at_most=left,
                failure=state.failure,
            )
        except StopIteration:  # a backoff that takes its waits from an iterator: no more
            add_note(error, "penstock: not tried again, the retry policy raised StopIteration")
            return None
        if delay is not None:
            with self._lock:
                self._retries += 1
                state.scope.retries += 1
            state.scope.observer.on_retry(error)
        return delay


def responded() -> None:
    """For a call that holds its worker beyond its response: here it is, and the call succeeded.

    What the call took until now is what tells of the service; until its end it is still under way.
    """
    for permit in reversed(current_permits()):
        if isinstance(permit.call, ItemState):
            permit.call.scope.policy.responded(permit.call)
            return


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The item could not be served before its deadline")
