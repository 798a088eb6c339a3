"""The attempts of one call that is observed, in the task or thread of its caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from penstock.policies.item_state import ItemState
from penstock.policies.observer import RETRY, ObservedAttempt, ObservedItem, outcome_of


class ObservedAttempts:
    """Tells an observer of attempts, one after the other.

    Of one that failed it is known only after its block what becomes of it: :meth:`ended` must
    follow.
    """

    __slots__ = ("_failed", "_observed")

    def __init__(self, observed: ObservedItem) -> None:
        self._observed = observed
        self._failed: ObservedAttempt | None = None

    @contextmanager
    def block(self, state: ItemState) -> Iterator[None]:
        """The block of one attempt."""
        attempt = self._observed.attempt(
            state.attempts + 1, limit_wait=state.waited, is_call=state.refusal is None
        )
        with ExitStack() as stack:
            stack.enter_context(attempt)
            try:
                yield
            except Exception:
                attempt.stop_clock()
                self._failed = attempt
                stack.pop_all()
                raise

    def ended(self, error: BaseException, delay: float | None) -> None:
        """The last attempt ended with ``error``; another one follows in ``delay`` seconds or none.

        Does nothing where there was none.
        """
        attempt, self._failed = self._failed, None
        if attempt is not None:
            attempt.fail(error, outcome_of(error) if delay is None else RETRY, delay)
