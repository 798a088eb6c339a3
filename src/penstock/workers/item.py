"""An accepted item, and what goes along with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import Context
from copy import copy
from typing import Any, TypeAlias, TypeVar

from penstock.errors import QueueStateError
from penstock.limits.retry import note_attempts
from penstock.policies.dead_letters import DeadLetter
from penstock.policies.item_state import ItemState
from penstock.policies.observer import CANCELLED, Origin, outcome_of
from penstock.workers.calls import AsyncCall
from penstock.workers.job import Job

T = TypeVar("T")

#: The future of an item's result, for an event loop or for threads.
AnyFuture: TypeAlias = "asyncio.Future[Any] | ThreadFuture[Any]"
#: An accepted item: its number in the order of puts, the item, the context that it runs in, and
#: a ticket if there is more to it. A tuple, because one is made for every item, and an object
#: would cost as much as the whole rest of a put.
Entry: TypeAlias = "tuple[int, T, Context, Ticket | None]"


class Ticket(ItemState):
    """What belongs to an item besides itself and its context, its state under a policy included.

    ``ObservedTicket`` is the one of an item that an observer wants to hear of.
    """

    # Hardly any item has a priority, so it is set for those that have one.
    __slots__ = ("_priority",)

    #: Gets the result, or the error, of the item.
    future: AnyFuture | None
    #: Is called on the item in place of its job's function.
    call: AsyncCall[Any] | None
    #: The job of the item; ``None``: the standing one.
    job: Job[Any] | None

    @property
    def priority(self) -> float:
        """The priority of the item's put, in a queue with priorities."""
        return getattr(self, "_priority", 0)

    @priority.setter
    def priority(self, priority: float) -> None:
        self._priority = priority

    @property
    def is_cancelled(self) -> bool:
        """Whether the future was cancelled: nobody wants the result any more."""
        future = self.future  # which another thread may forget in this very moment
        return future is not None and future.cancelled()

    @property
    def is_dropped(self) -> bool:
        """Whether the job of the item has ended: what becomes of it is nobody's business."""
        return self.job is not None and self.job.is_over

    @property
    def is_nested(self) -> bool:
        """Whether the job of the item was opened inside an item, whose worker waits for it."""
        return self.job is not None and self.job.is_nested

    def run(self, call: AsyncCall[Any], job: Any, item: Any) -> Awaitable[Any]:
        """Call the function, once the item may start, and set the future's result.

        ``call`` is that of ``job``, for an item that has none of its own.
        """
        if self.call is not None:
            call = self.call
        # No coroutine of its own, unless there is more to do than the call.
        if self.future is not None:
            return self._run_for_future(call, job, item)
        scope = self.scope
        return call(item) if scope is None else scope.policy.run(self, call, item, job.adaptive)

    async def _run_for_future(self, call: AsyncCall[Any], job: Job[Any], item: Any) -> None:
        if self.claim():
            scope = self.scope
            self.succeed(
                await call(item)
                if scope is None
                else await scope.policy.run(self, call, item, job.adaptive)
            )

    def after(self, error: BaseException) -> tuple[float | None, BaseException]:
        """The seconds until another attempt, or None: it failed; and the error that it failed with.

        ``error`` is that of the last attempt.
        """
        scope, job = self.scope, self.job
        if scope is None or self.is_revoked or (job is not None and job.is_over):
            return None, error
        try:
            delay = scope.policy.after(self, error)
        except BaseException as broken:  # noqa: BLE001 - the item fails with that
            error, delay = broken, None
        if delay is None:
            note_attempts(error, self._attempts_made(error), self.why)
            if job is not None and self.failures is not None:
                job.outage_error = job.outage_error or self.failures.outage_error
        return delay, error

    def on_failure(self, error: BaseException, item: Any) -> str:
        """The item failed for good, and its error was told: it may become a dead letter.

        Returns:
            What became of it.
        """
        if self.is_dropped:
            self.end(error, CANCELLED)
            return CANCELLED
        scope, is_dead_letter = self.scope, False
        if scope is not None and self.future is None and not self.is_revoked:
            attempts, origin = self._attempts_made(error), self.origin()
            letter = DeadLetter(item, error, attempts, origin, self.priority)
            is_dead_letter = scope.dead_letters.add(letter)
            if is_dead_letter and self.is_observed:
                scope.observer.on_dead_letter(error)
        if self.job is not None:
            self.job.add_failure(error, is_dead_letter=is_dead_letter)
        outcome = outcome_of(error, is_kept=is_dead_letter)
        self.end(error, outcome)
        return outcome

    def origin(self) -> Origin | None:
        """Where an observer has what became of the item so far."""
        return None

    def end(self, error: BaseException, outcome: str) -> None:
        """The item failed for good, with this outcome. For observers."""

    def _attempts_made(self, error: BaseException) -> int:
        # One that was cancelled did not count, for it might have been the worker that was.
        return self.attempts + isinstance(error, (asyncio.CancelledError, GeneratorExit))

    def transfer(self) -> Ticket:
        """Return a copy for the next worker that takes the item, and revoke this one."""
        new = copy(self)
        new.permit = None  # the other worker's
        new.failures = copy(self.failures)  # the other worker's call may still end
        # In this order: an item without a future that is not revoked is kept when it fails.
        self.is_revoked = True
        self.future = None
        return new

    def claim(self) -> bool:
        """Whether the item is to run. From here on a thread's future cannot be cancelled.

        (Or it could be cancelled between a look at it and the setting of its result.)
        """
        future = self.future
        if isinstance(future, ThreadFuture) and not (future.running() or future.done()):
            return future.set_running_or_notify_cancel()
        return not self.is_cancelled

    def forget_future(self) -> None:
        """Drop the future: its event loop is closed, or it was told of the stop."""
        self.future = None

    def fail(self, error: BaseException) -> bool:
        """Set the future's exception; False if there is no future, or it is done."""
        future = self.future
        if future is None or future.done():
            return False
        if isinstance(error, asyncio.CancelledError) and isinstance(future, asyncio.Future):
            future.cancel()  # which looks the same to the one who awaits it
        else:
            try:
                future.set_exception(error)
            except InvalidStateError:  # another thread was faster
                return False
            except TypeError:  # a future cannot hold a StopIteration
                substitute = RuntimeError(f"the item raised {type(error).__name__}")
                substitute.__cause__ = error
                future.set_exception(substitute)
        return True

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised ``error``. For observers."""

    def succeed(self, result: Any) -> None:
        """Set the future's result, if there is a future that waits for it."""
        future = self.future  # which another thread may forget in this very moment
        if future is not None and not future.done():
            with suppress(InvalidStateError):  # another thread was faster
                future.set_result(result)

    def on_get(self) -> None:
        """The item was taken by ``get``: fail its future, since no worker will set it."""
        self.fail(QueueStateError("An item that is taken with get() has no result"))

    def without_job(self) -> Ticket | None:
        """Return what is left when the job has ended and its item is handed back."""
        self.job = self.call = None
        return self

    def attempt(self, context: Context) -> AbstractContextManager[object]:
        """The block in which a caller of ``get`` processes the item; ``context`` is its own."""
        return nullcontext()


class JobTicket(Ticket):
    """The ticket that all items of a job share when there is nothing more to any of them."""

    __slots__ = ()

    def __init__(self, job: Job[Any]) -> None:
        super().__init__()
        self.job = job

    def run(self, call: AsyncCall[Any], job: Any, item: Any) -> Awaitable[Any]:
        """Call the job's function: there is nobody who waits for the result."""
        return call(item)

    def transfer(self) -> Ticket:
        """Return itself: it knows nothing of who has an item."""
        return self

    def without_job(self) -> None:
        """Nothing is left."""


def job_of(entry: Entry[Any]) -> Job[Any] | None:
    """The job of an entry; None is the standing one."""
    ticket = entry[3]
    return None if ticket is None else ticket.job
