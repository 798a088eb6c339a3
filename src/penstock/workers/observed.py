"""An accepted item that is observed: the worker tells of each attempt."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from penstock.policies.governor import Course
from penstock.policies.observer import ObservedItem
from penstock.workers.calls import AsyncCall
from penstock.workers.item import AnyFuture, Ticket
from penstock.workers.job import Job


class ObservedTicket(Ticket):
    """The ticket of an item that an observer wants to hear of.

    A class of its own, so that an item that nobody observes is asked nothing.
    """

    __slots__ = ("_observed",)

    def __init__(
        self,
        observed: ObservedItem,
        future: AnyFuture | None = None,
        call: AsyncCall[Any] | None = None,
        course: Course | None = None,
        job: Job[Any] | None = None,
    ) -> None:
        super().__init__(future, call, course, job)
        self._observed = observed

    async def run(self, call: AsyncCall[Any], standing: Any, item: Any) -> None:
        """Run the item as any ticket does, and observe the attempt."""
        if not self.claim():
            return
        job, course = self.job or standing, self.course
        call = self.call or (call if self.job is None else job.call)
        if course is None:
            with self._observed.attempt():
                result = await call(item)
        else:
            await self._admit(course, item)
            limit_wait = course.waited if course.governor.limiter.limits else None
            with self._observed.attempt(course.attempts + 1, limit_wait=limit_wait):
                result = await course.run(call, item, job.adaptive)
        self.succeed(result)

    def attempt(self, context: Context) -> AbstractContextManager[object]:
        """Observe the block that processes an item after ``get``."""
        return self._observed.attempt(context=context)

    def on_get(self) -> None:
        """The item was taken by ``get``."""
        super().on_get()
        self._observed.on_get()

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised ``error``."""
        self._observed.on_handler_error(error)
