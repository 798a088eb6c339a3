"""What a call took from its limits, and how the call itself finds it again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.limits.rate.exact import Exact, checked_cost
from penstock.limits.rate.sliding_log import Record

if TYPE_CHECKING:
    from penstock.limits.rate.lessons import Lessons
    from penstock.limits.rate.limit import Limit, Meter
    from penstock.limits.rate.limiter import Limiter
    from penstock.limits.rate.line import Needs

#: What an item needs, before it is known where that is counted.
Price: TypeAlias = "tuple[Limit, Hashable, Exact]"

#: Those that the code that runs was let through with, the innermost last.
_current: ContextVar[tuple[Permit, ...]] = ContextVar("penstock_permits", default=())


class Permit:
    """A call may start, and has been counted. Made by a :class:`Limiter`."""

    __slots__ = ("_needs", "_prices", "_records", "limiter")

    def __init__(
        self,
        limiter: Limiter,
        needs: Needs,
        records: Sequence[Record],
        prices: list[Price] | None,
    ) -> None:
        self.limiter = limiter
        self._needs = needs
        self._records = records
        #: What the item was to take from each limit; None: the same as all others.
        self._prices = prices

    def settle(self, limit: Limit | str, actual: float) -> None:
        """The call cost ``actual`` of ``limit`` (or the limit of that name) in truth.

        The difference is given back, or charged, as of when the call started; what started longer
        ago than the limit looks back stays as it is. May be called again with a better figure,
        from any thread.

        Raises:
            ValueError, TypeError: ``actual`` is not a number of zero or more.
            KeyError: the limiter has no such limit.
        """
        chosen = self.limiter.limit(limit)
        cost = checked_cost(actual, "the actual cost", chosen.name)
        self.limiter._settle(self, chosen, cost)

    def give_back(self) -> None:
        """The call will not be made after all: it cost nothing of any limit."""
        for limit in self.limiter.limits:
            self.limiter._settle(self, limit, 0)

    def settle_at(self, now: float, limit: Limit, cost: Exact) -> Meter | None:
        """For the limiter: write it down, and say where there may be more room now."""
        for (meter, _), record in zip(self._needs, self._records, strict=True):
            if meter.limit is limit:
                meter.log.settle(record, cost)
                return meter
        for passed, key, _ in self._prices or ():  # it cost nothing then
            if passed is limit and cost:
                meter = limit.meter(key, now)
                self._needs = (*self._needs, (meter, cost))
                self._records = (*self._records, meter.log.record(now, cost))
        return None

    def refused_at(self, now: float, pause: float, lessons: Lessons) -> None:
        """For the limiter: learn from it that this call was refused."""
        lessons.refused(self._needs, self._records, now, pause)

    @contextmanager
    def applied(self) -> Iterator[Permit]:
        """Make this the permit that ``limit.settle(actual)`` finds, within the ``with`` block."""
        around = _current.get()
        _current.set((*around, self))
        try:
            yield self
        finally:
            _current.set(around)  # by no token: this may run in a copy of the context


def current_permits() -> tuple[Permit, ...]:
    """The permits of the call under way, the innermost last."""
    return _current.get()


def enter(permit: Permit) -> Permit:
    """Make it current until :func:`leave`."""
    _current.set((*_current.get(), permit))
    return permit


def leave(limiter: Limiter) -> None:
    """The innermost permit of this limiter is current no longer."""
    permits = _current.get()
    for index in range(len(permits) - 1, -1, -1):
        if permits[index].limiter is limiter:
            _current.set(permits[:index] + permits[index + 1 :])
            return


class PermitContext:
    """A permit for the time of a ``with`` or ``async with`` block, in which it is current."""

    __slots__ = ("_item", "_limiter")

    def __init__(self, limiter: Limiter, item: Any) -> None:
        self._limiter = limiter
        self._item = item

    async def __aenter__(self) -> Permit:
        return enter(await self._limiter.acquire(self._item))

    async def __aexit__(self, *_: object) -> None:
        leave(self._limiter)

    def __enter__(self) -> Permit:
        return enter(self._limiter.acquire_blocking(self._item))

    def __exit__(self, *_: object) -> None:
        leave(self._limiter)
