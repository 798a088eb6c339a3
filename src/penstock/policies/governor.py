"""What a queue keeps to beside its bound: limits, retries, a breaker, deadlines, concurrency.

The decisions are those of ``penstock.limits``. Here they are put in order, for one item after the
other: may it start, what did its call tell, is it tried again. The same for tasks and for threads.
"""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from penstock._util import checks
from penstock._util.clock import now
from penstock._util.compat import add_note
from penstock.errors import BudgetExceededError, CircuitBreakerOpenError, DeadlineExceededError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.deadline import ServiceTime, is_hopeless
from penstock.limits.failures import is_throttle, retry_after
from penstock.limits.rate.budget import Budget
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter, UnusableLimiterError
from penstock.limits.rate.permit import Permit
from penstock.limits.retry import RetryPolicy, note_attempts
from penstock.policies.observer import Observer

T = TypeVar("T")

#: How many dead letters are kept unless it is said.
MAX_DEAD_LETTERS = 1000

#: The least seconds for which an item is put off that cannot start yet; and the most, where it
#: waits for a limit.
_SHORTEST, _LONGEST = 0.001, 1.0


@dataclass(frozen=True)
class Rules:
    """What a queue keeps to beside its bound; checked by whoever makes them."""

    limiter: Limiter | None = None
    retry: RetryPolicy | None = None
    breaker: CircuitBreaker | None = None
    #: Seconds in which each item is to be done, from its put.
    deadline: float | None = None
    #: The most items that failed for good which are kept.
    max_dead_letters: int = MAX_DEAD_LETTERS


def make_rules(
    limits: Any, retry: Any, breaker: Any, deadline: Any, max_dead_letters: Any
) -> Rules | None:
    """Rules of what a user gave; None where that is nothing.

    Raises:
        TypeError, ValueError: for what is not allowed.
    """
    if isinstance(limits, Limit):
        raise TypeError(
            f"limits must be a list of Limit, or a Limiter: write limits=[{checks.shown(limits)}]"
        )
    limiter = limits if isinstance(limits, Limiter) else Limiter(limits)
    is_given = limiter is limits or bool(limiter.limits)
    for value, kind, name in (
        (retry, RetryPolicy, "retry"),
        (breaker, CircuitBreaker, "breaker"),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__} or None, got {checks.shown(value)}")
    if deadline is not None:
        deadline = checks.seconds(deadline, "deadline")
    if isinstance(max_dead_letters, bool) or not isinstance(max_dead_letters, int):
        raise TypeError(f"max_dead_letters must be an int, got {checks.shown(max_dead_letters)}")
    if max_dead_letters < 0:
        raise ValueError(
            f"max_dead_letters must be zero or more, got {checks.shown(max_dead_letters)}"
        )
    rules = Rules(limiter if is_given else None, retry, breaker, deadline, max_dead_letters)
    return None if rules == Rules(max_dead_letters=max_dead_letters) else rules


@dataclass(frozen=True)
class DeadLetter(Generic[T]):
    """An item that failed for good, and why."""

    item: T
    error: BaseException
    #: Calls of the worker function that were made; 0 if it was not to start at all.
    attempts: int


class Postponed(Exception):  # noqa: N818 - it says what becomes of the item; nothing went wrong
    """The item may not start yet. Is never seen outside of a queue."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class Governor:
    """Applies the rules to the items of one queue. Its methods may be called from any thread."""

    def __init__(self, rules: Rules, observer: Observer) -> None:
        self.rules = rules
        self.observer = observer
        # There is always one: its gate is closed when the service says so, whatever the limits.
        self.limiter = Limiter([]) if rules.limiter is None else rules.limiter
        self._is_keyed = any(limit.key is not None for limit in self.limiter.limits)
        limits = self.limiter.limits
        #: Whether an attempt says when it is over.
        self.has_budget = any(isinstance(limit, Budget) for limit in limits)
        self.limit_name = limits[0].name if len(limits) == 1 else self.limiter.name
        #: Called when an adaptive limit has changed.
        self.on_limit: Callable[[], None] | None = None
        self.retries = 0
        self.dead_letters: deque[DeadLetter[Any]] = deque()
        self._service = ServiceTime()
        self._inflight = 0
        self._lock = threading.Lock()

    @property
    def breaker_state(self) -> str | None:
        """What the breaker does now, if there is one."""
        breaker = self.rules.breaker
        return None if breaker is None else breaker.state(now()).value

    def course(self, item: Any, deadline: float | None) -> Course:
        """For a new item, which is to be done in ``deadline`` seconds, or in those of the rules.

        Raises:
            ValueError, TypeError: the limits can never let it pass.
        """
        if self.limiter.limits:
            self.limiter.check(item)
        seconds = self.rules.deadline if deadline is None else deadline
        return Course(self, None if seconds is None else now() + seconds)

    # -- may it start -------------------------------------------------------------------------

    async def admit(  # noqa: PLR0911 - each is one reason
        self, course: Course, item: Any
    ) -> Exception | None:
        """Wait until the item may start; return why it may not, ever.

        Waits by blocking where no event loop runs.

        Raises:
            Postponed: not yet; and nobody need wait with the item in hand.
        """
        began = now()
        rules = self.rules
        if course.deadline_at is not None:
            try:
                wait = self.limiter.wait_time(item)
            except (BudgetExceededError, ValueError, TypeError) as error:
                return error
            # Infinity: not before something happens, and that may be at once.
            if wait < math.inf and is_hopeless(course.deadline_at, began + wait):
                return self._too_late()
        if rules.breaker is not None:
            try:
                with self._lock:
                    rules.breaker.check(began)
            except CircuitBreakerOpenError as error:
                return self._refused(course, error)
        try:
            permit = await self._permit(course, item)
        except UnusableLimiterError:  # which is no reason to give the item up
            raise Postponed(_LONGEST) from None
        except (ValueError, TypeError) as error:  # the max of a limit was lowered meanwhile
            return error
        except BudgetExceededError as error:
            return error
        moment = now()
        course.waited = moment - (course.waits_since or began)
        course.waits_since = None
        with self._lock:
            if course.deadline_at is not None and self._service.is_hopeless(
                course.deadline_at, moment
            ):
                permit.give_back()
                return self._too_late()
            if rules.breaker is not None:
                try:
                    course.breaker_permit = rules.breaker.allow(moment)
                except CircuitBreakerOpenError as error:
                    permit.give_back()
                    return self._refused(course, error)
        course.permit = permit
        return None

    async def _permit(self, course: Course, item: Any) -> Permit:
        limiter = self.limiter
        if self._is_keyed:
            # Not in a worker's hands: items with other keys must not wait for this one.
            permit = limiter.try_acquire(item, finishes=True)
            if permit is None:
                if course.waits_since is None:
                    course.waits_since = now()
                wait = limiter.wait_time(item)
                if wait == math.inf:  # not before something happens, at once or after a call's end
                    wait = now() - course.waits_since
                # It looks again before long: limits change, and costs are settled.
                raise Postponed(min(max(_SHORTEST, wait), _LONGEST))
            return permit
        if _get_running_loop() is None:
            return limiter.acquire_blocking(
                item, is_wanted=lambda: not course.is_revoked, finishes=True
            )
        return await limiter.acquire(item, finishes=True)

    def _refused(self, course: Course, error: CircuitBreakerOpenError) -> Exception:
        if self.rules.retry is None:
            return error
        pause = max(_SHORTEST, retry_after(error))
        if course.deadline_at is not None and is_hopeless(course.deadline_at, now() + pause):
            return self._too_late()
        raise Postponed(pause)

    @staticmethod
    def _too_late() -> DeadlineExceededError:
        return DeadlineExceededError("The item could not be served before its deadline")

    # -- what its call told -------------------------------------------------------------------

    def begins(self) -> None:
        """A call begins."""
        with self._lock:
            self._inflight += 1

    def left(self) -> None:
        """A call ended of which all was told when it had its answer."""
        with self._lock:
            self._inflight -= 1

    def ended(  # noqa: PLR0912 - one after the other is told
        self,
        course: Course,
        error: BaseException | None,
        took: float,
        adaptive: AdaptiveConcurrency | None,
        *,
        goes_on: bool = False,
    ) -> None:
        """A call ended, after so many seconds; or ``goes_on``, and has its answer."""
        moment = now()
        rules = self.rules
        was_cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
        with self._lock:
            inflight = self._inflight
            if not goes_on:
                self._inflight -= 1
            before = None if adaptive is None else adaptive.limit
            if error is None:
                self._service.add(took, moment)
                if adaptive is not None:
                    adaptive.succeeded(moment, took, inflight)
            elif adaptive is not None and not was_cancelled:
                if is_throttle(error):
                    adaptive.rejected(moment, inflight)
                else:
                    adaptive.failed(moment, took, inflight)
            breaker, permit = rules.breaker, course.breaker_permit
            if breaker is not None and permit is not None:
                if error is None:
                    breaker.succeeded(moment, permit)
                elif isinstance(error, Exception):
                    breaker.failed(moment, permit, error)
                else:
                    breaker.cancelled(permit)
            after = None if adaptive is None else adaptive.limit
        if error is None:
            if rules.retry is not None:
                rules.retry.succeeded(course.attempts, course.last_error)
        elif is_throttle(error):
            self.limiter.refused(retry_after(error), permit=course.permit)
        if after is not None and after != before and self.on_limit is not None:
            self.on_limit()

    def cancelled(self, course: Course) -> None:
        """A call that was admitted does not begin."""
        breaker, permit = self.rules.breaker, course.breaker_permit
        if breaker is not None and permit is not None:
            with self._lock:
                breaker.cancelled(permit)

    # -- is it tried again --------------------------------------------------------------------

    def next_wait(self, course: Course, error: BaseException) -> float | None:
        """Seconds until another attempt, or None."""
        retry = self.rules.retry
        if retry is None:
            return None
        moment = now()
        left = math.inf if course.deadline_at is None else course.deadline_at - moment
        wait = retry.next_wait(
            course.attempts, error, elapsed=moment - course.began_at, at_most=left
        )
        if wait is None:
            return None
        with self._lock:
            self.retries += 1
        self.observer.on_retry(error)
        return wait

    def dig_up(self) -> DeadLetter[Any] | None:
        """Take the oldest of those that failed for good."""
        with self._lock:
            return self.dead_letters.popleft() if self.dead_letters else None

    def put_back(self, letter: DeadLetter[Any], *, as_newest: bool) -> None:
        """Keep it all the same, as the oldest or the newest."""
        with self._lock:
            if as_newest:
                self.dead_letters.append(letter)
            else:
                self.dead_letters.appendleft(letter)

    def bury(self, letter: DeadLetter[Any]) -> bool:
        """Keep an item that failed for good; the oldest goes when there are too many.

        Returns:
            Whether dead letters are kept.
        """
        if self.rules.retry is None or not self.rules.max_dead_letters:
            return False
        with self._lock:
            self.dead_letters.append(letter)
            while len(self.dead_letters) > self.rules.max_dead_letters:
                self.dead_letters.popleft()
        self.observer.on_dead_letter(letter.error)
        return True


class Course:
    """What one item has been through under the rules. One thread at a time has it in hand."""

    __slots__ = (
        "_adaptive",
        "_called_at",
        "attempts",
        "began_at",
        "breaker_permit",
        "deadline_at",
        "governor",
        "is_answered",
        "is_revoked",
        "last_error",
        "permit",
        "refusal",
        "waited",
        "waits_since",
    )

    def __init__(self, governor: Governor, deadline_at: float | None) -> None:
        self.governor = governor
        self.deadline_at = deadline_at
        #: Calls of the worker function, that under way included.
        self.attempts = 0
        self.began_at = 0.0
        self._called_at = 0.0
        self._adaptive: AdaptiveConcurrency | None = None
        #: Whether the call under way has its answer already, and goes on.
        self.is_answered = False
        self.last_error: BaseException | None = None
        self.refusal: Exception | None = None
        #: Seconds that the last attempt waited for limits.
        self.waited = 0.0
        #: Since when it is put off for the limit of its key.
        self.waits_since: float | None = None
        #: Whether somebody else has the item now.
        self.is_revoked = False
        self.permit: Permit | None = None
        self.breaker_permit: int | None = None

    async def admit(self, item: Any) -> None:
        """Wait until it may start. Raises ``Postponed`` if it shall not be waited for."""
        self.permit = self.breaker_permit = None
        self.waited = 0.0
        self.refusal = await self.governor.admit(self, item)
        if self.governor.limiter.limits and self.refusal is None:
            self.governor.observer.on_limit_wait(self.governor.limit_name, self.waited)

    def give_up(self) -> None:
        """It may start, and shall not: somebody else has the item now."""
        if self.permit is not None:
            self.permit.give_back()
        self.governor.cancelled(self)

    async def run(
        self,
        call: Callable[[Any], Awaitable[Any]],
        item: Any,
        adaptive: AdaptiveConcurrency | None = None,
    ) -> Any:
        """Make the call that was admitted, or raise why it was not; tell ``adaptive`` of it."""
        if self.refusal is not None:
            raise self.refusal
        governor = self.governor
        self._adaptive = adaptive
        self.attempts += 1
        self.is_answered = False
        self._called_at = began = now()
        if self.attempts == 1:
            self.began_at = began
        governor.begins()
        around = _under_way.get()
        _under_way.set(self)
        try:
            with nullcontext() if self.permit is None else self.permit.applied():
                result = await call(item)
        except BaseException as error:
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                self.attempts -= 1  # it neither succeeded nor failed
            self._ended(error)
            raise
        finally:
            _under_way.set(around)  # by no token: this may run in a copy of the context
            if governor.has_budget and self.permit is not None:
                self.permit.finish()
        self._ended(None)
        return result

    def answered(self) -> None:
        """The call under way has succeeded by now, though it goes on."""
        took = now() - self._called_at
        self.governor.ended(self, None, took, self._adaptive, goes_on=True)
        self.is_answered = True

    def _ended(self, error: BaseException | None) -> None:
        if self.is_answered:
            self.governor.left()
        else:
            self.governor.ended(self, error, now() - self._called_at, self._adaptive)

    def verdict(self, error: BaseException) -> tuple[float | None, BaseException]:
        """In how many seconds the item is tried again, or None; and the error that counts."""
        if self.is_revoked:
            return None, error
        if isinstance(error, Postponed):
            return error.delay, error
        if error is not self.refusal and isinstance(error, Exception):
            try:
                wait = self.governor.next_wait(self, error)
            except StopIteration:  # a backoff that takes its waits from an iterator: no more
                wait = None
                add_note(error, "penstock: not tried again, the retry policy raised StopIteration")
            except BaseException as broken:  # noqa: BLE001 - the item fails with that
                error, wait = broken, None
            if wait is not None:
                self.last_error = error
                return wait, error
        self.last_error = None
        note_attempts(error, self._attempts_made(error))
        return None, error

    def bury(self, error: BaseException, item: Any) -> bool:
        """It failed for good, and was reported. Return whether it is kept as a dead letter."""
        if self.is_revoked:
            return False
        return self.governor.bury(DeadLetter(item, error, self._attempts_made(error)))

    def _attempts_made(self, error: BaseException) -> int:
        # One that was cancelled did not count, for it might have been the worker that was.
        return self.attempts + isinstance(error, (asyncio.CancelledError, GeneratorExit))


#: The course whose call the code that runs is part of.
_under_way: ContextVar[Course | None] = ContextVar("penstock_course", default=None)


def answered() -> None:
    """For a call that holds its worker beyond its answer: here it is, and the call succeeded.

    What the call took until now is what tells of the service; until its end it is still under way.
    """
    course = _under_way.get()
    if course is not None:
        course.answered()
