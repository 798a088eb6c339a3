"""What a call took from its limits, and how the call itself finds it again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias

from penstock.limits.rate.exact import Exact, checked_cost
from penstock.limits.rate.limit import Limit, LimitOwner
from penstock.limits.rate.sliding_log import Record
from penstock.limits.rate.window import Demand, LimitState, LimitWindow

#: What an item is to take from a limit, and for which key.
Charge: TypeAlias = "tuple[LimitState, Hashable, Exact]"


def key_of(charges: list[Charge] | None) -> Hashable:
    """The key under the only limit that has keys, or a tuple of all keys; None: there are none."""
    keys = tuple([key for state, key, _ in charges or () if state.is_keyed])
    return keys[0] if len(keys) == 1 else keys or None


#: The permits of the calls that run in this context, the innermost last; of most calls it is just
#: the record of the start, since hardly anybody asks for the permit. Some may be over.
starts_under_way: Final[ContextVar[tuple[Permit | Record, ...]]] = ContextVar(
    "penstock_starts", default=()
)


class PermitIssuer(LimitOwner, Protocol):
    """What a permit needs of the :class:`penstock.Limiter` that made it."""

    def _settle(self, permit: Permit, limit: Limit, cost: Exact) -> None: ...

    def _finish(self, permit: Permit) -> None: ...

    def _permit_of(self, record: Record) -> Permit: ...


class Permit:
    """A call may start, and has been counted. Made by a :class:`penstock.Limiter`."""

    __slots__ = ("_at", "_charges", "_demand", "_records", "call", "limiter")

    #: When the call started, where no limit has a record of that.
    _at: float

    def __init__(
        self,
        limiter: PermitIssuer,
        demand: Demand,
        records: Sequence[Record],
        charges: list[Charge] | None,
    ) -> None:
        self.limiter = limiter
        self._demand = demand
        self._records = records
        #: What the item was to take from each limit; None: the same as all other items.
        self._charges = charges
        #: What it was taken for, while that is under way. It is not taken out of the context then,
        #: which would cost as much as the rest.
        self.call: Any = None

    @property
    def at(self) -> float:
        """When the call started, by the limiter's clock."""
        return self._records[0].at if self._records else self._at

    @property
    def gate_key(self) -> Hashable:
        """The key of the gate that it passed; None: it has no key."""
        own = getattr(self.call, "gate_key", None)
        return key_of(self._charges) if own is None else own

    def settle(self, limit: Limit | str, actual: float) -> None:
        """Correct the cost of the call: it was ``actual`` of ``limit``, or the limit of that name.

        The difference is given back, or charged, for the time at which the call started. If the
        start has left the window, nothing changes. May be called again with a better number, from
        any thread.

        Raises:
            ValueError, TypeError: ``actual`` is not a number of zero or more.
            KeyError: the limiter has no such limit.
        """
        chosen = self.limiter.limit(limit)
        cost = checked_cost(actual, "the actual cost", chosen.name)
        self.limiter._settle(self, chosen, cost)

    def finish(self) -> None:
        """The call has ended. From any thread; a second time it does nothing.

        Calls that find no room in a :class:`penstock.Budget` no longer wait for this call to cost
        less. The blocks of ``async with limiter:`` and ``limiter.permit(item)`` call this method
        at their end, and so do queues.
        """
        self.limiter._finish(self)

    def give_back(self) -> None:
        """The call will not be made: it costs nothing in any limit. From any thread."""
        for limit in self.limiter.limits:
            self.limiter._settle(self, limit, 0)

    def _settle(self, now: float, state: LimitState, cost: Exact) -> LimitWindow | None:
        """For the limiter: correct the record, and return the window that may have more room."""
        for (window, _), record in zip(self._demand, self._records, strict=True):
            if window.owner is state:
                window.log.settle(record, cost)
                return window
        for charged, key, _ in self._charges or ():  # the limit was free for this call until now
            if charged is state and cost:
                window = state.window(key, now)
                self._demand = (*self._demand, (window, cost))
                self._records = (*self._records, window.log.record(now, cost))
        return None

    @contextmanager
    def applied(self) -> Iterator[Permit]:
        """Make this the permit that ``limit.settle(actual)`` finds, within the ``with`` block."""
        around = starts_under_way.get()
        push_current(self)
        try:
            yield self
        finally:
            starts_under_way.set(around)  # by no token: this may run in a copy of the context


def permit_of(start: Permit | Record, limiter: PermitIssuer) -> Permit:
    """The permit of a call that ``limiter`` let through."""
    return start if isinstance(start, Permit) else limiter._permit_of(start)


def current_permits() -> tuple[Permit, ...]:
    """The permits of the calls under way, the innermost last."""
    starts = starts_under_way.get()
    return tuple(
        [
            start if isinstance(start, Permit) else call.limiter._permit_of(start)
            for start in starts
            if (call := start.call) is not None  # another thread may end it in this very moment
        ]
    )


def push_current(permit: Permit) -> Permit:
    """Make ``permit`` current until :func:`pop_current`, and return it."""
    if permit.call is None:
        permit.call = permit.limiter
    starts_under_way.set((*still_under_way(), permit))
    return permit


def still_under_way() -> list[Permit | Record]:
    """What is in ``starts_under_way`` of calls that are not over."""
    return [start for start in starts_under_way.get() if start.call is not None]


def pop_current(limiter: PermitIssuer) -> None:
    """Make the innermost permit of ``limiter`` current no longer: its call is over."""
    starts = starts_under_way.get()
    for index in range(len(starts) - 1, -1, -1):
        permit = starts[index]
        if isinstance(permit, Permit) and permit.limiter is limiter:
            starts_under_way.set(starts[:index] + starts[index + 1 :])
            limiter._finish(permit)
            return
