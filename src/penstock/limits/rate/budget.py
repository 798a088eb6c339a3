"""A budget: a total amount, without a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from penstock._util import checks
from penstock.errors import BudgetExceededError
from penstock.limits.rate.exact import Exact, exact
from penstock.limits.rate.limit import Limit, LimitOwner, positive
from penstock.limits.rate.sliding_log import Record, SlidingLog
from penstock.limits.rate.window import LimitState


class _Charge(Record):
    """The cost of one call."""

    __slots__ = ("is_open",)

    def __init__(self, at: float, cost: Exact) -> None:
        super().__init__(at, cost)
        #: Whether the call is not over, so that it may turn out to cost less.
        self.is_open = True


class BudgetLog(SlidingLog):
    """Stands where a limit has its sliding log: a sum that nothing ever leaves.

    A charge is open from :meth:`record` or :meth:`reserve` until :meth:`finish`. As long as open
    charges are what lacks, there may be room in time; else never.
    """

    __slots__ = ("_open",)

    def __init__(self, maximum: float, period: float, *, forgotten: float = -math.inf) -> None:
        super().__init__(maximum, 1.0)  # which no method here looks at
        #: The cost of the calls under way, which is part of the total.
        self._open: Exact = 0

    def free_at(self, now: float, cost: Exact = 1) -> float:
        """``math.inf`` where ``cost`` has no room now."""
        return -math.inf if self._total + cost <= self._maximum else math.inf

    def is_spent_for(self, cost: Exact) -> bool:
        """Whether ``cost`` has no room, whatever the calls under way turn out to cost."""
        return self._total - self._open + cost > self._maximum

    def open_cost(self, record: Record) -> Exact:
        """How much of its cost a call may turn out not to have cost."""
        assert isinstance(record, _Charge)
        return record.cost if record.is_open else 0

    def record(self, now: float, cost: float | Fraction = 1) -> Record:
        """Count a call that starts at ``now``."""
        charge = _Charge(now, exact(cost))
        self._total += charge.cost
        self._open += charge.cost
        return charge

    def take(self, now: float, cost: Exact) -> Record | None:
        """:meth:`record` it if there is room."""
        return None if self.free_at(now, cost) > now else self.record(now, cost)

    def reserve(self, cost: float | Fraction = 1) -> Record:
        """Count a call that will be confirmed, or cancelled, soon."""
        return self.record(math.inf, cost)

    def confirm(self, record: Record, now: float) -> None:
        """A reserved call starts at ``now``."""
        record.at = now

    def cancel(self, record: Record) -> None:
        """A reserved call does not start. Does nothing once it is confirmed."""
        if record.at == math.inf:
            self.settle(record, 0)

    def settle(self, record: Record, actual: float | Fraction) -> None:
        """Correct the cost of a call to ``actual``, zero or more; also of one that is over."""
        assert isinstance(record, _Charge)
        difference = exact(actual) - record.cost
        record.cost += difference
        self._total += difference
        if record.is_open:
            self._open += difference

    def finish(self, record: Record) -> bool:
        """The call is over, so nobody waits for it to turn out cheaper; False if it was before."""
        assert isinstance(record, _Charge)
        if not record.is_open:
            return False
        record.is_open = False
        self._open -= record.cost
        return True

    def change(self, maximum: float | None = None, period: float | None = None) -> None:
        """Set ``maximum``."""
        if maximum is not None:
            self._maximum = exact(maximum)

    def used(self, now: float) -> Exact:
        """The cost of all calls."""
        return self._total

    def clear(self) -> None:
        """Do nothing: what was spent by another clock is spent all the same."""

    def is_idle(self, now: float) -> bool:
        """Whether nothing was spent."""
        return not self._total


class _BudgetState(LimitState):
    """The amount of a budget, and what was spent of it."""

    __slots__ = ()

    def oversized(self, cost: Exact) -> Exception:
        """The error for a cost that is more than what is left."""
        used = float(sum(window.log.used(0.0) for window in self.windows()))
        return BudgetExceededError(
            f"the budget {checks.shown(self.name)} is spent: {used:g} of {float(self.max):g} "
            f"are used, and this costs {float(cost):g}",
            budget=self.name,
            max=float(self.max),
            used=used,
            cost=float(cost),
        )


class Budget(Limit):
    """Never more than ``max`` in all: a limit whose window has no end.

    Args:
        max: the number of items, or the sum of their costs; above 0, need not be whole.
        cost: a function from an item to its cost, a number of zero or more. Each item costs 1
            unless given.
        name: its name in telemetry, in messages and in ``Permit.settle``. Default: "budget
            of ``max``".

    Raises:
        TypeError: ``max`` is not a number, or ``cost`` cannot be called with one item.
        ValueError: ``max`` is out of its range, or ``name`` is empty.

    Put it into a list of limits: ``limits=["500/min", Budget(2_000_000, cost=tokens)]``. Each
    attempt costs. No call starts if it costs more than what is left. It fails with
    ``BudgetExceededError``. But it waits while running calls (in a worker, or in the block of
    ``async with limiter.permit(item)``) may cost so little that it fits. (A call inside another
    call does not wait for the end of the outer one.) ``settle`` sets the true cost of a call, as
    for any limit; a cost above the estimate is charged in full. The cost of a permit of ``acquire``
    counts until it is settled, and no call waits for that.

    A budget counts in one process, from the start of the program, or of a forked child. It
    learns nothing from refusals.
    """

    def __init__(
        self,
        max: float,
        *,
        cost: Callable[[Any], float] | None = None,
        name: str | None = None,
    ) -> None:
        maximum = positive(max, "max")
        called = f"budget of {float(maximum):g}" if name is None else name
        super().__init__(maximum, 1, cost=cost, name=called)
        self._state = _BudgetState(called, maximum, math.inf, is_keyed=False)
        self._state.log_type = BudgetLog

    @property
    def used(self) -> float:
        """How much is used, with the estimates for running calls. From any thread."""
        return float(sum(window.log.used(0.0) for window in self._state.windows()))

    def __repr__(self) -> str:
        return f"<Budget {self.name!r}: {self.used:g} of {float(self.max):g} used>"

    def change(self, max: float) -> None:  # type: ignore[override] # it has no ``per``
        """Set another ``max``, from any thread. The used amount does not change.

        Calls that wait start at once if there is room now, or fail if there will be none.

        Raises:
            TypeError, ValueError: as for a new ``Budget``; nothing has changed then.
        """
        maximum = positive(max, "max")
        limiter = self.limiter
        if limiter is None:
            self._state.set_rate(maximum, math.inf)
        else:
            limiter._change(self, maximum, math.inf)

    def _join(self, limiter: LimitOwner, log_type: type[SlidingLog]) -> None:
        super()._join(limiter, BudgetLog)
