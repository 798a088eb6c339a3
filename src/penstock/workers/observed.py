"""An accepted item that is observed: the worker tells of each attempt."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from penstock.policies.observer import ObservedItem
from penstock.workers.calls import AsyncCall
from penstock.workers.item import Ticket


class ObservedTicket(Ticket):
    """The ticket of an item that an observer wants to hear of.

    A class of its own, so that an item that nobody observes is asked nothing.
    """

    __slots__ = ("observed",)

    is_observed = True

    #: Set by whoever makes the ticket.
    observed: ObservedItem

    async def run(self, call: AsyncCall[Any], job: Any, item: Any) -> None:
        """Run the item as any ticket does, and observe the attempt."""
        if not self.claim():
            return
        call, scope = self.call or call, self.scope
        if scope is None:
            with self.observed.attempt():
                result = await call(item)
        else:
            policy = scope.policy
            if self.refusal is not None:  # its last attempt was told, and there is no other
                raise self.refusal
            if not policy.admit(self, item):
                await policy.wait(self, item)
            with self.observed.attempt(self.attempts + 1, limit_wait=self.waited):
                result = await policy.run(self, call, item, job.adaptive)
        self.succeed(result)

    def attempt(self, context: Context) -> AbstractContextManager[object]:
        """Observe the block that processes an item after ``get``."""
        return self.observed.attempt(context=context)

    def on_get(self) -> None:
        """The item was taken by ``get``."""
        super().on_get()
        self.observed.on_get()

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised ``error``."""
        self.observed.on_handler_error(error)
