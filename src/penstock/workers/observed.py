"""An accepted item that is observed: the worker tells of each attempt."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from penstock._util.clock import now
from penstock.policies.item_state import Hold
from penstock.policies.observer import RETRY, ObservedAttempt, ObservedItem, Origin
from penstock.workers.calls import AsyncCall
from penstock.workers.item import Ticket

#: Seconds for which a limit is taken for what holds a queue up, after an item found no room.
_RECENTLY = 1.0


class ObservedTicket(Ticket):
    """The ticket of an item that an observer wants to hear of.

    A class of its own, so that an item that nobody observes is asked nothing.
    """

    __slots__ = ("failed_attempt", "observed")

    is_observed = True

    #: Set by whoever makes the ticket.
    observed: ObservedItem
    #: The attempt that failed, until it is known what becomes of the item.
    failed_attempt: ObservedAttempt | None

    def __init__(self, scope: Any = None) -> None:
        super().__init__(scope)
        self.failed_attempt = None

    async def run(self, call: AsyncCall[Any], job: Any, item: Any) -> None:
        """Run the item as any ticket does, and observe the attempt."""
        if self.future is not None and not self.claim():
            self.observed.on_skipped()
            return
        call, policy = self.call or call, None if self.scope is None else self.scope.policy
        if policy is None:
            attempt = self.observed.attempt()
        else:
            if self.refusal is not None:  # its last attempt was told, and there is no other
                raise self.refusal
            if not policy.admit(self, item):
                with self.observed.wait():
                    await policy.wait(self, item)
            attempt = self.observed.attempt(
                self.attempts + 1, limit_wait=self._limit_wait(), is_call=self.refusal is None
            )
        attempt.__enter__()
        try:
            if policy is None:
                result = await call(item)
            else:
                result = await policy.run(self, call, item, job.adaptive)
        except BaseException as error:
            # A worker that is cancelled, or whose item was taken from it, tells nothing more.
            if self.is_revoked or isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                attempt.__exit__(type(error), error, error.__traceback__)
            else:
                attempt.stop_clock()
                self.failed_attempt = attempt
            raise
        attempt.__exit__(None, None, None)
        if self.future is not None:
            self.succeed(result)

    def _limit_wait(self) -> float | None:
        """Seconds that limits held it up; more than the item has waited if it came later."""
        hold: Hold | None = self.scope.hold
        if self.waited is not None and hold is not None and hold.is_limited:
            moment = now()
            if self.waited or moment - hold.held_at < _RECENTLY:
                # It had its turn late: those before it waited for the limit, too.
                return max(self.waited, moment - hold.limited_since)
        return self.waited

    def after(self, error: BaseException) -> tuple[float | None, BaseException]:
        """As that of any ticket; and tell of an attempt that is followed by another."""
        delay, failure = super().after(error)
        if delay is not None:
            self._end_attempt(error, RETRY, delay)
        return delay, failure

    def origin(self) -> Origin | None:
        """Where the observer has what became of the item so far."""
        return self.observed.origin()

    def end(self, error: BaseException, outcome: str) -> None:
        """Tell of the last attempt, after all that is logged about its failure."""
        self._end_attempt(error, outcome, None)

    def _end_attempt(self, error: BaseException, outcome: str, delay: float | None) -> None:
        attempt, self.failed_attempt = self.failed_attempt, None
        if attempt is not None:
            attempt.fail(error, outcome, delay)

    def transfer(self) -> Ticket:
        """As that of any ticket; the attempt under way is not the next worker's."""
        new = super().transfer()
        assert isinstance(new, ObservedTicket)
        new.failed_attempt = None
        return new

    def attempt(self, context: Context) -> ObservedAttempt:
        """Observe the block that processes an item after ``get``."""
        return self.observed.attempt(context=context)

    def on_get(self) -> None:
        """The item was taken by ``get``."""
        super().on_get()
        self.observed.on_get()

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised ``error``."""
        self.observed.on_handler_error(error)
