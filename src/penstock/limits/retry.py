"""The retry policy: whether an item that failed is tried again, and when."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock._util import checks
from penstock._util.compat import add_note
from penstock.limits.backoff import Backoff, not_before
from penstock.limits.budget import RetryBudget
from penstock.limits.failures import Failure, Which, as_predicate, failure_of, worth_retrying

if TYPE_CHECKING:
    from tenacity import RetryCallState

#: They stand for "not given".
_STANDARD_BACKOFF = Backoff()
_OWN_BUDGET = RetryBudget()

_GIVEN_UP, _NOT_ATTEMPTED = "penstock: given up after ", "penstock: not attempted"

#: Why an item is not tried again.
NO_ATTEMPTS = "the retry policy allows no more attempts"
NO_BUDGET = "the budget for retries is empty"
_PERMANENT = "another attempt would fail in the same way"
_NOT_ASKED_FOR = "the retry policy does not retry such an error"
_TOO_LATE = "another attempt would come after its deadline"

_default_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


@dataclass(frozen=True)
class RetryPolicy:
    """Which errors are retried, how often, when, and what a retry costs.

    It decides (:meth:`next_wait`), and its users wait. It is frozen, but its budget is not: queues
    with the same policy share one budget.

    Args:
        attempts: Calls of the worker function for one item, the first one included; at least 1. Or
            a ``stop_...`` object of tenacity.
        on: Which errors are retried: an exception class, a tuple of classes, or a function from the
            error to a bool. Default: :func:`penstock.limits.failures.worth_retrying`. Errors
            that are not an ``Exception`` (``CancelledError``, ``KeyboardInterrupt``,
            ``SystemExit``) are never retried.
        backoff: A :class:`Backoff`, a function ``(attempt, error) -> seconds``, or a ``wait_...``
            object of tenacity (that is, anything that takes one argument, a ``RetryCallState``).
            A retry is never earlier than ``retry_after`` of an error says.
        budget: The :class:`RetryBudget` that pays for retries; ``None``: they cost nothing. By
            default, the policy has its own budget.
        hold: Whether items wait while their service is down. ``None``: items of ``put``, ``map``
            and ``batch_process`` wait until it is back; if a caller awaits the result (``submit``,
            ``Policy.call``, HTTP clients), the item fails after its attempts. ``True``: all wait.
            ``False``: none waits.
        give_up_after: Seconds of outage without a break after which items no longer wait; above 0,
            or ``math.inf``. Then they fail, ``map`` and ``batch_process`` stop reading items and
            raise :class:`penstock.OutageError`, and each new item gets one attempt, until one
            succeeds.

    Raises:
        TypeError: A setting is of the wrong type.
        ImportError: An object of tenacity is given, and tenacity is not installed.
        ValueError: A setting is out of its range, or settings contradict each other: with
            ``attempts=1`` there are no retries, so a backoff or a budget has no use.
    """

    attempts: int | Callable[[RetryCallState], bool] = 3
    on: Which = worth_retrying
    backoff: Backoff | Callable[[int, Exception], float] | Callable[[RetryCallState], float] = (
        _STANDARD_BACKOFF
    )
    budget: RetryBudget | None = _OWN_BUDGET
    hold: bool | None = None
    give_up_after: float = 300.0

    #: Whether there is ever a second attempt.
    repeats: bool = field(init=False, repr=False, compare=False)
    _most: float = field(init=False, repr=False, compare=False)
    _is_worth_it: Callable[[Exception], bool] = field(init=False, repr=False, compare=False)
    _backoff_takes_state: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most: float
        if callable(self.attempts):
            _no_class(self.attempts, "attempts")
            checks.function(self.attempts, "attempts", "retry_state")
            most = math.inf
        else:
            most = checks.positive_int(self.attempts, "attempts", "attempts must be at least 1")
        if most == 1:
            for name, given in (
                ("backoff", self.backoff is not _STANDARD_BACKOFF),
                ("budget", self.budget is not _OWN_BUDGET and self.budget is not None),
            ):
                if given:
                    shown = checks.shown(getattr(self, name))
                    raise ValueError(
                        f"attempts=1 means no retries: leave {name} out, got {name}={shown}"
                    )
        takes_state = not isinstance(self.backoff, Backoff) and _takes_state(self.backoff)
        budget: Any = self.budget
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, got {checks.shown(budget)}")
        if self.hold is not None and not isinstance(self.hold, bool):
            raise TypeError(f"hold must be a bool or None, got {checks.shown(self.hold)}")
        if not checks.seconds(self.give_up_after, "give_up_after"):
            raise ValueError("give_up_after must be above 0, got 0")
        if budget is _OWN_BUDGET:
            object.__setattr__(self, "budget", RetryBudget())
        if takes_state or callable(self.attempts):
            import tenacity  # noqa: F401 - if it is missing, the user learns it now, not in a retry
        object.__setattr__(self, "repeats", most > 1)
        object.__setattr__(self, "_most", most)
        object.__setattr__(self, "_is_worth_it", as_predicate(self.on, "on"))
        object.__setattr__(self, "_backoff_takes_state", takes_state)

    @property
    def needs_elapsed(self) -> bool:
        """Whether :meth:`next_wait` is to be told the seconds since the first attempt began."""
        return callable(self.attempts) or self._backoff_takes_state

    def next_wait(
        self,
        attempt: int,
        error: BaseException,
        *,
        elapsed: float = 0.0,
        at_most: float = math.inf,
        rng: random.Random | None = None,
        failure: Failure | None = None,
    ) -> float | None:
        """Seconds to wait before the next attempt; ``None``: there is no other attempt.

        When a wait is returned, the budget has paid for it.

        Args:
            attempt: The number of the attempt that ended with ``error``, from 1.
            error: How it ended.
            elapsed: Seconds since the first attempt began.
            at_most: Seconds; if the wait would be longer, there is no other attempt.
            rng: Draws the jitter.
            failure: What ``error`` says; by default this method reads ``error``.

        Raises:
            ValueError: The backoff function returned no finite number of seconds.
            Exception: What an ``on``, ``backoff`` or ``attempts`` function raised. Both have
                ``error`` as their cause. The item must not be retried, and the budget has paid
                nothing.
        """
        if not isinstance(error, Exception):
            return None
        verdict = self.judge(
            attempt, error, failure or failure_of(error), elapsed=elapsed, at_most=at_most, rng=rng
        )
        return None if isinstance(verdict, str) else verdict

    def is_worth_it(self, error: Exception, failure: Failure) -> bool:
        """Whether an item that failed with ``error`` may be tried again at all."""
        if self.on is worth_retrying:
            return not failure.is_permanent
        try:
            return bool(self._is_worth_it(error))
        except Exception as broken:
            if broken is error:
                raise
            raise broken from error

    def judge(
        self,
        attempt: int,
        error: Exception,
        failure: Failure,
        *,
        uncounted: int = 0,
        elapsed: float = 0.0,
        at_most: float = math.inf,
        rng: random.Random | None = None,
        is_free: bool = False,
    ) -> float | str:
        """As :meth:`next_wait`, but why the item is given up, where it is.

        Args:
            attempt, error, failure, elapsed, at_most, rng: as there.
            uncounted: how many of the attempts do not count; the backoff counts them all the same.
            is_free: whether the budget need not pay.
        """
        if attempt - uncounted >= self._most or not self.repeats:
            return NO_ATTEMPTS
        has_own_on = self.on is not worth_retrying
        if (has_own_on or failure.is_permanent) and not self.is_worth_it(error, failure):
            return _PERMANENT if failure.is_permanent else _NOT_ASKED_FOR
        rng = rng or _default_rng
        counted = max(1, attempt - uncounted)
        try:
            if isinstance(self.backoff, Backoff):
                wait = self.backoff.wait(attempt, failure, rng)
            else:
                wait = self._own_backoff(attempt, error, elapsed)
            if wait <= failure.retry_after:
                wait = not_before(wait, failure, rng)
            if callable(self.attempts) and self.attempts(
                _retry_state(counted, error, elapsed, wait)
            ):
                return NO_ATTEMPTS
        except Exception as broken:
            if broken is error:
                raise
            raise broken from error
        if wait > at_most:
            return _TOO_LATE
        if not is_free and self.budget is not None and not self.budget.take(failure):
            return NO_BUDGET
        return wait

    def succeeded(self, attempt: int, last_error: BaseException | Failure | None = None) -> None:
        """Refund the budget: attempt ``attempt`` succeeded, after ``last_error`` ended the last."""
        if self.budget is not None:
            self.budget.succeeded(last_error if attempt > 1 else None)

    def _own_backoff(self, attempt: int, error: Exception, elapsed: float) -> float:
        """What a backoff of the user's says."""
        backoff: Any = self.backoff
        if self._backoff_takes_state:
            wait = backoff(_retry_state(attempt, error, elapsed, 0.0))
        else:
            wait = backoff(attempt, error)
        return checks.finite_seconds(wait, "what backoff returns")


def note_attempts(error: BaseException, attempts: int, why: str = "") -> None:
    """Write on an error how many attempts were made before it was final, and why there is no other.

    They are its attribute ``penstock_attempts``, for :func:`attempts_made`; and a note in its
    traceback (Python 3.11 and later), if there were several or ``why`` is given. An error that
    cannot be written to gets neither.
    """
    try:
        error.penstock_attempts = attempts  # type: ignore[attr-defined]
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):  # the item failed for good before, and was redriven
            notes[:] = [note for note in notes if not _is_ours(note)]
        if attempts > 1 or why:
            made = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            text = f"{_GIVEN_UP}{made}" if attempts else _NOT_ATTEMPTED
            add_note(error, f"{text}: {why}" if why else text)
    except (AttributeError, TypeError):  # a class with __slots__, or frozen
        return


def attempts_made(error: BaseException) -> int:
    """How many attempts were made before ``error`` was final; 1 if nothing is written on it."""
    attempts = getattr(error, "penstock_attempts", 1)
    return attempts if isinstance(attempts, int) else 1


def _is_ours(note: object) -> bool:
    return isinstance(note, str) and note.startswith((_GIVEN_UP, _NOT_ATTEMPTED))


def _retry_state(
    attempt: int, error: Exception, elapsed: float, upcoming_wait: float
) -> RetryCallState:
    """What tenacity's ``wait_...`` and ``stop_...`` objects look at.

    Attempt ``attempt`` ended with ``error``, ``elapsed`` seconds after the first one began.
    """
    from tenacity import Future, RetryCallState, Retrying

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    state.outcome = Future(attempt)
    state.outcome.set_exception(error)
    state.start_time = 0.0  # on a clock of its own: tenacity looks at the difference only
    state.outcome_timestamp = elapsed
    state.upcoming_sleep = upcoming_wait
    return state


def _no_class(value: Any, name: str) -> None:
    if isinstance(value, type):
        raise TypeError(
            f"{name} must be an object, got the class {value.__name__}: write {value.__name__}(...)"
        )


def _takes_state(backoff: Any) -> bool:
    """Whether ``backoff`` takes one argument, a ``RetryCallState``, and not attempt and error."""
    _no_class(backoff, "backoff")
    checks.plain_callable(backoff, "backoff")
    if inspect.iscoroutinefunction(backoff):
        raise TypeError(
            f"backoff must be a plain function, got the async function {checks.shown(backoff)}"
        )
    try:
        signature = inspect.signature(backoff)
    except (TypeError, ValueError):  # some built-in functions have none to show
        return False
    for count in (2, 1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 1
    raise TypeError(
        "backoff must accept attempt and error as positional arguments (or, like tenacity's, a "
        f"retry_state), got {checks.shown(backoff)} with {signature}"
    )
