"""A call for several items: what became of each of them, and what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from penstock._util import checks
from penstock._util.batch import Batch
from penstock._util.clock import now
from penstock.limits.deadline import is_hopeless
from penstock.limits.failures import Failure, failure_of, worth_retrying
from penstock.limits.rate.limiter import Limiter
from penstock.policies.admission import _too_late
from penstock.policies.holding import Postponed
from penstock.policies.item_state import ItemState, PolicyScope
from penstock.policies.observer import CANCELLED, FAILED
from penstock.workers.calls import AsyncCall
from penstock.workers.item import Entry, Ticket
from penstock.workers.job import Job
from penstock.workers.observed import ObservedTicket

T = TypeVar("T")


class KeyWaits:
    """The keys of a job whose calls have items of one key each: since when their items wait."""

    def __init__(self) -> None:
        #: When the first of the entries came that wait, the oldest first.
        self.since: dict[Any, float] = {}
        #: The keys that wait for no more.
        self.ripe: dict[Any, None] = {}

    def clear(self) -> None:
        """Forget all."""
        self.since.clear()
        self.ripe.clear()

    def drop(self, share: Any) -> None:
        """The key has no entries."""
        self.since.pop(share, None)
        self.ripe.pop(share, None)

    def end_waits(self, until: float) -> float | None:
        """Let those wait no more that have waited since ``until``; return since when others do."""
        for share, since in self.since.items():
            if since > until:
                return since
            self.ripe[share] = None
        return None


@dataclass(eq=False)
class Batching:
    """How a job takes its entries: several for each call."""

    #: The most of them.
    max_size: int
    #: Seconds after the first of them in which others may come.
    max_wait: float
    #: Whether a call that fails for good is made again for each half of the items.
    split: bool = True
    #: Whether the function has to return a result for each item.
    needs_results: bool = False
    #: Whether the items of a call have one key of fair shares.
    per_key: bool = False
    #: When the first of the entries came that wait; minus infinity: long ago. None: none waits.
    since: float | None = None
    #: What ends that wait, in an event loop.
    timer: asyncio.TimerHandle | None = None
    #: Whether no more entries will come: the last batch need not wait for others.
    is_complete: bool = False

    def __post_init__(self) -> None:
        #: Since when the entries of each key wait, where a call has items of one.
        self.keys: Any = KeyWaits() if self.per_key else None

    def end_wait(self) -> None:
        """None of the entries waits any more."""
        self.since = None
        if self.keys is not None:
            self.keys.clear()
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()


class BatchFailed(Exception):  # noqa: N818 - it says what to do; the items have the errors
    """Some items of a batch failed. Is never seen outside of a worker."""


class BatchTicket(Ticket, Generic[T]):
    """The ticket of an entry that stands for several: for those of one call.

    Its item is the list of their items. They are counted one by one, by this ticket; the last one
    of them by the worker, as the entry of any call. What is requeued, delayed or reclaimed is taken
    apart again (:func:`parts_of`).
    """

    __slots__ = ("batching", "counters", "done", "entries", "failed", "outcome", "source")

    def __init__(self, entries: list[Entry[T]], job: Job[T], batching: Batching) -> None:
        scopes = [ticket.scope for _, _, _, ticket in entries if ticket is not None]
        super().__init__(next((scope for scope in scopes if scope is not None), None))
        self.job = job
        self.batching = batching
        #: Those of which it is not known yet what becomes of them.
        self.entries = entries
        #: How many are done and not counted.
        self.done = 0
        #: Those that failed, each with its error.
        self.failed: list[tuple[Entry[T], BaseException]] = []
        #: What became of the last of them.
        self.outcome = FAILED
        #: Where the worker gets its entries, and what it counts by. Set by whoever hands it out.
        self.source: Any = None
        self.counters: Any = None

    # -- the call -----------------------------------------------------------------------------

    async def run(self, call: AsyncCall[Any], job: Any, item: Any) -> None:
        """Call the function for all that may start, and tell each item what became of it.

        Raises:
            BatchFailed: some failed.
            Postponed: they may not start yet.
        """
        try:
            entries = self._those_that_may_run()
            if entries:
                await self._call(self, call, job, entries)
        except (asyncio.CancelledError, GeneratorExit, Postponed):
            self._count()  # the others go back
            raise
        if self.failed:
            raise BatchFailed
        self.done -= 1  # the worker counts one
        self._count()

    def _those_that_may_run(self) -> list[Entry[T]]:
        """Drop what nobody wants or what is too late, and give back what is too much at once."""
        moment, limiter = now(), None if self.scope is None else self.scope.policy.limits
        entries, cancelled = [], []
        for entry in self.entries:
            ticket = entry[3]
            if ticket is None:
                entries.append(entry)
            elif not ticket.claim():
                self.counters.add_failure(CANCELLED)
                if isinstance(ticket, ObservedTicket):
                    ticket.observed.on_skipped()
                cancelled.append(entry)
            elif ticket.deadline_at is not None and is_hopeless(ticket.deadline_at, moment):
                ticket.refusal = _too_late()
                self._fail(entry, ticket.refusal)
            else:
                entries.append(entry)
        self._settle(cancelled)
        if limiter is not None and limiter._fixed_demand is None:
            fit = _how_many_fit(limiter, [entry[1] for entry in entries])
            rest = entries[fit:]
            if rest:
                self.forget(rest)
                self.source.give_back(rest)
                return entries[:fit]
        return entries

    async def _call(  # noqa: PLR0912 - in one piece, since each case ends the call
        self, state: ItemState, call: AsyncCall[Any], job: Any, entries: Sequence[Entry[T]]
    ) -> None:
        items = Batch([entry[1] for entry in entries])
        scope, is_first = state.scope, state is self
        try:
            if scope is None:
                with self._observing(entries):
                    result = await call(items)
            else:
                policy = scope.policy
                if not policy.admit(state, items):
                    await policy.wait(state, items)
                if is_first and state.refusal is None:
                    self._count_attempt(entries)
                with self._observing(entries):
                    result = await policy.run(
                        state, call, items, job.adaptive if is_first else None
                    )
            outcomes = self._outcomes(result, entries)
        except (asyncio.CancelledError, GeneratorExit, Postponed):
            raise
        except BaseException as error:  # noqa: BLE001 - the items fail with it
            if self._may_split(state, error, entries):
                for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                    await self._call(ItemState(self._scope_in_hand()), call, job, half)
                return
            for entry in entries:
                self._fail(entry, error, state)
            return
        if result is None:
            for _, _, _, ticket in entries:
                if ticket is not None:
                    ticket.succeed(None)
            self._settle(entries)
            return
        settled = []
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                self._fail(entry, outcome)
            else:
                settled.append(entry)
                if entry[3] is not None:
                    entry[3].succeed(outcome)
        self._settle(settled)

    def _outcomes(self, result: Any, entries: Sequence[Entry[T]]) -> Sequence[Any]:
        if result is None and not self.batching.needs_results:
            return [None] * len(entries)
        if not isinstance(result, (list, tuple)) or len(result) != len(entries):
            allowed = "a list" if self.batching.needs_results else "None or a list"
            given = f"{len(result)}" if isinstance(result, (list, tuple)) else checks.shown(result)
            error = TypeError(
                f"The function of a batch must return {allowed} with one outcome for each item, "
                f"{len(entries)} in all, got {given}"
            )
            self.refusal = error  # a mistake in the program: nothing is tried again
            raise error
        return result

    def _may_split(self, state: ItemState, error: BaseException, entries: Sequence[Any]) -> bool:
        """Whether halves are to be tried: some item may be the culprit, and time is not."""
        if not self.batching.split or len(entries) < 2 or not isinstance(error, Exception):
            return False
        if error is self.refusal or error is state.refusal:
            return False
        retry = None if self.scope is None else self.scope.policy.retry
        if retry is None or retry.on is worth_retrying:
            failure: Failure = state.failure or failure_of(error)
            return failure.is_permanent
        return not retry._is_worth_it(error)

    def _scope_in_hand(self) -> PolicyScope | None:
        """For calls that wait for limits with their items in hand."""
        own = self.scope
        if own is None:
            return None
        scope = PolicyScope(own.policy, own.observer, max_dead_letters=0, postpones=False)
        scope.loop = own.loop
        return scope

    def _count_attempt(self, entries: Sequence[Entry[T]]) -> None:
        moment = now()
        for _, _, _, ticket in entries:
            if ticket is not None:
                ticket.attempts += 1
                if ticket.attempts == 1:
                    ticket.began_at = moment

    def _observing(self, entries: Sequence[Entry[T]]) -> AbstractContextManager[object]:
        """The block of one call, if any of its items is observed."""
        observed = [
            (ticket.observed, context, ticket.attempts)
            for _, _, context, ticket in entries
            if isinstance(ticket, ObservedTicket)
        ]
        if not observed:
            return nullcontext()
        first, _, number = observed[0]
        puts = [(item, context) for item, context, _ in observed]
        return first.batch_attempt(puts, max(1, number), len(entries))

    # -- what became of its items ---------------------------------------------------------------

    def _settle(self, entries: Sequence[Entry[T]]) -> None:
        """These are done."""
        if len(entries) == len(self.entries):  # the worker counts the last one
            self.done += len(entries)
            self.entries = []
        elif entries:
            # Now, and not at the end: the worker may be given up meanwhile, and the others go back.
            self.source.drop(self, entries)

    def forget(self, entries: Sequence[Entry[T]]) -> None:
        """It is known what becomes of these."""
        if len(entries) == len(self.entries):
            self.entries = []
        elif entries:
            numbers = {entry[0] for entry in entries}
            self.entries = [entry for entry in self.entries if entry[0] not in numbers]

    def _fail(self, entry: Entry[T], error: BaseException, state: ItemState | None = None) -> None:
        """The item failed, by the call that ``state`` is of, or by itself."""
        ticket = entry[3]
        if ticket is not None and ticket.scope is not None:
            failure = None if state is None else state.failure
            ticket.failure = failure or failure_of(error)
            if error is self.refusal:
                ticket.refusal = error if isinstance(error, Exception) else None
        self.failed.append((entry, error))

    def _count(self) -> None:
        self.counters.processed += self.done
        self.done = 0

    def after(self, error: BaseException) -> tuple[float | None, BaseException]:
        """Delay what is to be tried again; 0 if that is all that is left, None if some failed."""
        if isinstance(error, Postponed):
            return super().after(error)
        if not isinstance(error, BatchFailed):
            failed = {entry[0] for entry, _ in self.failed}
            for entry in self.entries:
                if entry[0] not in failed:
                    self._fail(entry, error, self)
        self._count()
        final = []
        for entry, reason in self.failed:
            ticket = entry[3]
            delay, failure = (None, reason) if ticket is None else ticket.after(reason)
            if delay is None:
                final.append((entry, failure))
            else:
                self.source.delay(entry, delay)
        self.failed = final
        self.entries = [entry for entry, _ in final]
        return (None if final else 0.0), BatchFailed()

    def on_failure(self, error: BaseException, item: Any) -> str:
        """Each item is told by itself, and all but the last were counted."""
        return self.outcome

    def fail(self, error: BaseException) -> bool:
        """As :meth:`on_failure`."""
        return False

    def transfer(self) -> BatchTicket[T]:
        """Return a copy for the next worker, and revoke this one."""
        new = copy(self)
        new.permit = None
        self.is_revoked = True
        new.entries = [
            (number, item, context.copy(), None if ticket is None else ticket.transfer())
            for number, item, context, ticket in self.entries
        ]
        return new


def parts_of(entry: Entry[T]) -> Sequence[Entry[T]]:
    """The entries that an entry stands for: itself, or those of a batch that are not done."""
    ticket = entry[3]
    return ticket.entries[:] if isinstance(ticket, BatchTicket) else (entry,)


def _how_many_fit(limiter: Limiter, items: Sequence[Any]) -> int:
    """How many of the first items may be one start: their costs are within each limit's max."""
    totals: dict[Any, Any] = {}
    for count, item in enumerate(items):
        for limit in limiter.limits:
            if limit.cost is None:
                continue
            try:
                totals[limit] = totals.get(limit, 0) + limit._cost_of(item)
            except (TypeError, ValueError):  # it is told when the call is to start
                return max(1, count)
            if count and totals[limit] > limit.max:
                return count
    return len(items)
