"""May an item start? What it takes from limits, breaker and the calls at once, and how it waits.

The decisions are plain functions, for tasks and threads alike. Only ``wait`` waits: it has a shell
that awaits and one that blocks.
"""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import _get_running_loop
from typing import Any

from penstock._util.clock import now
from penstock._util.hooks import tell_forked_child
from penstock.errors import BudgetExceededError, CircuitBreakerOpenError, DeadlineExceededError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.deadline import ServiceTime, is_hopeless
from penstock.limits.failures import failure_of
from penstock.limits.rate.limiter import Limiter, UnusableLimiterError
from penstock.limits.rate.permit import Permit, key_of, permit_of, starts_under_way
from penstock.limits.retry import RetryPolicy
from penstock.policies.capacity import CapacityLimiter
from penstock.policies.classify import Classify
from penstock.policies.gate_keys import GateKey, gate_key_of
from penstock.policies.holding import SHORTEST, Holding, Postponed
from penstock.policies.item_state import ItemAttempt, ItemState

#: The most seconds for which an item is put back that waits for a limit.
_LONGEST = 1.0


class NoRoom(Postponed):
    """A limit has no room for the item, and its queue waits for that: the item is its next."""

    def __init__(self) -> None:
        super().__init__(-1.0)


class Admission(Holding):
    """Settings that are checked already, and the first of three steps: lets items start."""

    def __init__(
        self,
        limits: Limiter,
        retry: RetryPolicy | None,
        breaker: CircuitBreaker | None,
        deadline: float | None,
        attempt_timeout: float | None,
        concurrency: int | AdaptiveConcurrency | None,
        own_classify: Classify | None,
        own_gate_key: GateKey | None,
        max_retry_after: float,
    ) -> None:
        #: What it is called in the log.
        self.name = "policy"
        #: What every call asks before it starts. There is one also where no limits were given: a
        #: service can close its gate.
        self.limits = limits
        self.retry = retry
        self.breaker = breaker
        self.deadline = deadline
        self.attempt_timeout = attempt_timeout
        self.concurrency = concurrency
        self.max_retry_after = max_retry_after
        self._own_classify = own_classify
        self._own_gate_key = own_gate_key
        self._adaptive: AdaptiveConcurrency | None = None
        self._slots: CapacityLimiter | None = None
        if isinstance(concurrency, AdaptiveConcurrency):
            self._adaptive = concurrency
            self._slots = CapacityLimiter(lambda: concurrency.limit)
        elif concurrency is not None:
            self._slots = CapacityLimiter(lambda: concurrency)
        # Which steps there are is decided here, once: an item pays for no others.
        self._budget = None if retry is None else retry.budget
        self._has_steps = breaker is not None or self._slots is not None
        self._measures = (
            breaker is not None
            or self._adaptive is not None
            or deadline is not None
            or (retry is not None and retry.needs_elapsed)
        )
        limited = limits.limits
        self._has_budget = limits._has_budget
        #: Whether items with other keys go on while one has to wait.
        self._has_gate_keys = own_gate_key is not None or any(each.key for each in limited)
        #: Under which name a start that did not wait is told.
        self._limit_name = limited[0].name if limited else None
        self._failures = self._retries = 0
        #: When the log may be told of a retry again, by the kind of its error and the level.
        self._quiet_until: dict[tuple[type, int], float] = {}
        self._service = ServiceTime()
        self._after_fork_in_child()
        tell_forked_child(self)

    def _after_fork_in_child(self) -> None:
        # Re-entrant: a task that is destroyed may end its call wherever Python collects garbage.
        self._lock = threading.RLock()
        self._begin_outages()

    # -- may it start -------------------------------------------------------------------------

    def prepare(self, state: ItemState, item: Any, deadline: float | None) -> None:
        """A new item, which is to be done in ``deadline`` seconds, or in those of the policy.

        Raises:
            ValueError, TypeError: the limits can never let it pass; or a function of the user's
                raised, or returned something that is not allowed.
        """
        if self.limits._fixed_demand is None or self._has_gate_keys:
            charges = self.limits._checked(item)
            if self._own_gate_key is not None:
                state.gate_key = gate_key_of(self._own_gate_key, item)
            elif self._has_gate_keys:
                state.gate_key = key_of(charges)
        if deadline is None:
            deadline = self.deadline
        if deadline is not None:
            state.deadline_at = now() + deadline
            self._measures = True  # how long calls take, from now on

    def admit(self, state: ItemState, item: Any) -> bool:
        """Whether the item may start now: then it counts as started. Else :meth:`wait`."""
        if self._has_checks or state.deadline_at is not None or state.scope.granted:
            return False
        state.permit = self.limits._start_now(state.scope.loop)
        if state.permit is None:
            return False
        if state.is_observed and self._limit_name is not None:
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
        began, attempt = now(), ItemAttempt(state)
        try:
            if self._is_refused(state, item, began):
                return
            if self._slots is not None and not self._is_inside(state):
                attempt.has_slot = await self._slots.acquire(_left(state, began))
                if not attempt.has_slot:
                    state.refusal = _too_late()
                    return
            permit = self._permit_outside(state, item) or await self.limits.acquire(
                item, True, state.gate_key
            )
            self._confirm(attempt, permit, began)
        except BaseException as error:  # noqa: BLE001 - raised again unless it is a refusal
            self._was_not_admitted(attempt, error)

    def wait_blocking(self, state: ItemState, item: Any) -> None:
        """As :meth:`wait`, for threads."""
        began, attempt = now(), ItemAttempt(state)

        def is_wanted() -> bool:
            return not state.is_revoked

        try:
            if self._is_refused(state, item, began):
                return
            if self._slots is not None and not self._is_inside(state):
                attempt.has_slot = self._slots.acquire_blocking(is_wanted, _left(state, began))
                if not attempt.has_slot:
                    state.refusal = _too_late()
                    return
            permit = self._permit_outside(state, item) or self.limits.acquire_blocking(
                item,
                _left(state, began),
                is_wanted=is_wanted,
                finishes=True,
                gate_key=state.gate_key,
            )
            self._confirm(attempt, permit, began)
        except TimeoutError as error:
            self._was_not_admitted(attempt, error if state.deadline_at is None else _too_late())
        except BaseException as error:  # noqa: BLE001 - raised again unless it is a refusal
            self._was_not_admitted(attempt, error)

    def withdraw(self, state: ItemState) -> None:
        """An item that was admitted does not start yet: it has used nothing up."""
        if state.permit is not None:
            call = state.permit.call
            self._withdraw(call if isinstance(call, ItemAttempt) else ItemAttempt(state))

    def _is_refused(self, state: ItemState, item: Any, moment: float) -> bool:
        """Whether it makes no sense to wait: then the state has the reason."""
        if state.deadline_at is not None:
            hold = state.scope.hold
            is_reserved = hold is not None and hold.is_reserved_for(state)
            wait = 0.0
            if not is_reserved:
                wait = self.limits.wait_time(item, gate_key=state.gate_key)
            # Infinity: not before something happens, and that may be at once.
            if wait < math.inf and is_hopeless(state.deadline_at, moment + wait):
                state.refusal = _too_late()
                if state.failures is not None:  # it was held, perhaps
                    state.refusal.__cause__ = state.failures.error
                return True
        if self._check_outage(state, starts=False):
            return True
        if self.breaker is not None:
            try:
                self.breaker.check(moment)
            except CircuitBreakerOpenError as error:
                self._refuse(state, error)
                return True
        return False

    def _is_inside(self, state: ItemState) -> bool:
        """Whether a call that has a slot may wait for this one, which it is inside of."""
        if not state.is_awaited:  # it has inherited the context of its put, and no more
            return False
        calls = [start.call for start in starts_under_way.get()]
        # An earlier attempt of the same item, by a worker that is stuck, waits for nothing.
        return any(
            isinstance(call, ItemAttempt)
            and call.has_slot
            and call.state.scope.policy is self
            and call.state is not state
            and not call.state.is_revoked
            for call in calls
        )

    def _permit_outside(self, state: ItemState, item: Any) -> Permit | None:
        """A permit, or raise :class:`Postponed`; None: wait with the item in hand."""
        # What a budget has left may depend on a call that waits, by other items, for this one.
        if state.scope.hold is None or self._has_budget:
            return self._permit_of_key(state, item)
        permit: Permit = state.scope.hold.start(state, item)
        return permit

    def _permit_of_key(self, state: ItemState, item: Any) -> Permit | None:
        """A permit, where items with other keys must not wait for this one; else None."""
        if not (self._has_gate_keys and state.scope.postpones):
            return None
        key = state.gate_key
        permit = self.limits.try_acquire(item, finishes=True, gate_key=key)
        if permit is not None:
            return permit
        if state.waits_since is None:
            state.waits_since = now()
        wait = self.limits.wait_time(item, gate_key=key)
        if wait == math.inf:  # not before something happens, at once or after a call's end
            wait = now() - state.waits_since
        # It looks again before long: limits change, and costs are settled.
        raise Postponed(min(max(SHORTEST, wait), _LONGEST))

    def _confirm(self, attempt: ItemAttempt, permit: Permit, began: float) -> None:
        """It has all that it waited for: may it start indeed?"""
        permit.call = attempt
        state, moment = attempt.state, now()
        state.permit = permit
        waited = moment - (began if state.waits_since is None else state.waits_since)
        state.waits_since = None
        error: Exception | None = None
        if state.deadline_at is not None:
            with self._lock:
                if self._service.is_hopeless(state.deadline_at, moment):
                    error = _too_late()
        if error is None and self.breaker is not None:
            try:
                attempt.breaker_permit = self.breaker.allow(moment)
            except CircuitBreakerOpenError as refused:
                error = refused
        if self.limits._is_gated:
            attempt.passed_at = permit.at
            self.limits._standstills.tell()
        if state.is_revoked:  # a thread waited for this, and its item was taken from it meanwhile
            raise asyncio.CancelledError("another worker has the item now")
        if error is None and self._check_outage(state, starts=True):
            error = state.refusal
        if error is not None:
            self._withdraw(attempt)
            if isinstance(error, CircuitBreakerOpenError):
                self._refuse(state, error)
            else:
                state.refusal = error
        elif state.is_observed and (self._limit_name is not None or waited >= SHORTEST):
            state.waited = waited  # for the gate, where there are no limits
            if self._limit_name is not None:
                name = (waited > 0 and self.limits._scarcest(permit)) or self._limit_name
                state.scope.observer.on_limit_wait(name, waited)

    def _refuse(self, state: ItemState, error: CircuitBreakerOpenError) -> None:
        """The breaker is open: the item fails, or waits until it may close."""
        if self.retry is None:
            state.refusal = error
            return
        pause = max(SHORTEST, failure_of(error).retry_after)
        if state.deadline_at is None or not is_hopeless(state.deadline_at, now() + pause):
            raise Postponed(pause)
        state.refusal = _too_late()

    def _was_not_admitted(self, attempt: ItemAttempt, error: BaseException) -> None:
        """Waiting ended with ``error``, which is raised again unless it is a reason to fail."""
        self._withdraw(attempt)
        state = attempt.state
        if isinstance(error, UnusableLimiterError) and state.scope.postpones:
            raise Postponed(_LONGEST) from None  # it is no reason to give the item up
        if not isinstance(error, (BudgetExceededError, ValueError, TypeError)):
            raise error
        state.refusal = error  # a budget is spent, or the max of a limit was lowered meanwhile

    def _withdraw(self, attempt: ItemAttempt) -> None:
        """It does not start: give back what it has."""
        start, attempt.state.permit = attempt.state.permit, None
        if start is not None:
            permit = permit_of(start, self.limits)
            permit.give_back()
            permit.finish()
        if attempt.breaker_permit is not None and self.breaker is not None:
            self.breaker.cancelled(attempt.breaker_permit)
            attempt.breaker_permit = None
        self._leave_slot(attempt)

    def _leave_slot(self, attempt: ItemAttempt) -> None:
        if attempt.has_slot and self._slots is not None:
            attempt.has_slot = False
            self._slots.release()


def _left(state: ItemState, moment: float) -> float | None:
    """Seconds until the deadline of the item, if it has one."""
    return None if state.deadline_at is None else max(0.0, state.deadline_at - moment)


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("The item could not be processed before its deadline")
