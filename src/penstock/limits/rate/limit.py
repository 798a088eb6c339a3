"""So much in so many seconds: what a user says, and where it is counted."""

from __future__ import annotations

import math
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from penstock._util import checks
from penstock.limits.rate.exact import Exact, checked_cost, is_number
from penstock.limits.rate.permit import current_permits
from penstock.limits.rate.sliding_log import SlidingLog

if TYPE_CHECKING:
    from penstock.limits.rate.limiter import Limiter
    from penstock.limits.rate.line import Group


class Meter:
    """Where one limit is counted for one key, and who waits for it."""

    __slots__ = ("blockers", "groups", "is_restrained", "key", "limit", "log", "parked")

    def __init__(self, limit: Limit, key: Hashable, log: SlidingLog) -> None:
        self.limit = limit
        self.key = key
        self.log = log
        #: Whether refusals have left less of it than the limit says.
        self.is_restrained = False
        #: How many groups of waiters need it.
        self.groups = 0
        #: Groups that lack capacity here; whoever is younger than one of them waits behind it.
        self.blockers: dict[Group, None] = {}
        #: Groups that wait behind those, as a heap of (age, group).
        self.parked: list[tuple[int, Group]] = []


class Limit:
    """Never more than ``max`` starts in any window of ``per`` seconds, wherever it begins.

    Args:
        max: how many items, or how much of what ``cost`` says; more than 0, need not be whole.
        per: seconds, more than 0.
        cost: what an item costs, as a function of it: a number of zero or more. One item each if
            not given. An item that costs 0 passes freely.
        key: items with different keys are limited separately, each key with ``max`` per ``per``.
            Keys that are idle are forgotten.
        name: what to call it in telemetry, in messages and in ``Permit.settle``; for example
            "tokens". Default: "``max`` per ``per`` s".

    Raises:
        TypeError, ValueError: for an argument that is not allowed.

    A limit counts for one :class:`Limiter` at a time; whatever shall share it shares the limiter.
    """

    def __init__(
        self,
        max: float,
        per: float,
        *,
        cost: Callable[[Any], float] | None = None,
        key: Callable[[Any], Hashable] | None = None,
        name: str | None = None,
    ) -> None:
        self._max = _positive(max, "max")
        self._per = float(_positive(per, "per"))
        checks.optional_function(cost, "cost", "item")
        checks.optional_function(key, "key", "item")
        self.cost = cost
        self.key = key
        default = f"{float(self._max):g} per {self._per:g} s"
        self._name = default if name is None else checks.label(name, "name")
        #: By key, the one that was used longest ago first.
        self._meters: OrderedDict[Hashable, Meter] = OrderedDict()
        self._forgotten = -math.inf
        self._limiter: weakref.ref[Limiter] | None = None

    @property
    def max(self) -> float:
        """How much may start in a window."""
        return self._max

    @property
    def per(self) -> float:
        """The length of the window in seconds."""
        return self._per

    @property
    def name(self) -> str:
        """What it is called; stays when the rate changes."""
        return self._name

    @property
    def limiter(self) -> Limiter | None:
        """The limiter that it is part of."""
        return None if self._limiter is None else self._limiter()

    def __repr__(self) -> str:
        return f"<Limit {self.name!r}: {float(self._max):g} per {self._per:g} s>"

    def change(
        self,
        max: float | None = None,
        per: float | None = None,
    ) -> None:
        """Another ``max`` or ``per`` from now on, from any thread.

        Whoever waits starts at once if there is room now; whoever waits with a cost above the new
        ``max`` gets a ``ValueError``. What started before the change counts in the windows after
        it. With a longer ``per`` this goes for what the limit no longer remembers, too: if
        something did start that long ago, the limit counts as full until that has left the window.

        Raises:
            TypeError, ValueError: as for a new ``Limit``; nothing has changed then.
        """
        new_max = self._max if max is None else _positive(max, "max")
        new_per = self._per if per is None else float(_positive(per, "per"))
        limiter = self.limiter
        if limiter is None:
            self.set_rate(new_max, new_per)
        else:
            limiter._change(self, new_max, new_per)

    def settle(self, actual: float) -> None:
        """The call under way cost ``actual`` in truth: the difference is given back, or charged.

        For use inside of a worker function, or of ``async with limiter:``. Elsewhere, and from
        another context, use :meth:`Permit.settle`, which tells more.

        Raises:
            RuntimeError: no call under way has a permit of this limit.
            ValueError, TypeError: ``actual`` is not a number of zero or more.
        """
        limiter = self.limiter
        for permit in reversed(current_permits()):
            if permit.limiter is limiter:
                permit.settle(self, actual)
                return
        raise RuntimeError(
            f"settle of the limit {checks.shown(self.name)} was called outside of any call that "
            "it let through: call it in the worker function, or in `async with limiter:`, or keep "
            "the permit and use permit.settle"
        )

    # -- for the limiter --------------------------------------------------------------------------

    def price(self, item: Any) -> Exact:
        """What the item costs: ``TypeError`` or ``ValueError`` for what cannot be a cost."""
        if self.cost is None:
            return 1
        try:
            value = self.cost(item)
        except Exception as error:
            raise ValueError(
                f"the cost function of the limit {checks.shown(self.name)} raised for "
                f"{_one(item)}: {checks.shown(error)}"
            ) from error
        return checked_cost(value, f"the cost of {_one(item)}", self._name)

    def too_much(self, cost: Exact) -> ValueError:
        """The error for a cost that can never pass."""
        return ValueError(
            f"a cost of {float(cost):g} can never pass the limit {checks.shown(self.name)}, "
            f"whose max is {float(self._max):g}"
        )

    def key_of(self, item: Any) -> Hashable:
        """The key of the item: ``ValueError`` or ``TypeError`` for what cannot be one."""
        if self.key is None:
            return None
        try:
            key = self.key(item)
        except Exception as error:
            raise ValueError(
                f"the key function of the limit {checks.shown(self.name)} raised for "
                f"{_one(item)}: {checks.shown(error)}"
            ) from error
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(
                f"the key of {_one(item)} under the limit {checks.shown(self.name)} must be "
                f"hashable, got {_one(key)}"
            ) from error
        return key

    def meter(self, key: Hashable, now: float) -> Meter:
        """The meter of a key; forgets some that are idle."""
        meter = self._meters.get(key)
        if self.key is None and meter is not None:
            return meter
        if meter is None:
            limiter = self.limiter
            kind = SlidingLog if limiter is None else limiter.log_type
            log = kind(self._max, self._per, forgotten=self._forgotten)
            meter = self._meters[key] = Meter(self, key, log)
        elif self.key is not None:
            self._meters.move_to_end(key)
        if self.key is not None:
            self._forget_idle(now, meter)
        return meter

    def _forget_idle(self, now: float, in_use: Meter) -> None:
        # Two for each one that may be new: so they become fewer, at a constant price.
        for _ in range(2):
            key, oldest = next(iter(self._meters.items()))
            if oldest is in_use:
                return
            if oldest.groups or oldest.is_restrained:  # somebody waits for it: it will be used
                self._meters.move_to_end(key)
            elif oldest.log.is_idle(now):
                self._forgotten = max(self._forgotten, oldest.log.forgotten)
                del self._meters[key]

    def meters(self) -> list[Meter]:
        """Those that there are."""
        return list(self._meters.values())

    def set_rate(self, maximum: float, period: float) -> None:
        """Another rate, for all keys."""
        self._max, self._per = maximum, period
        for meter in self._meters.values():
            meter.log.change(maximum, period)

    def use_another_clock(self) -> None:
        """Forget the starts: their times are of a clock that no longer counts."""
        self._forgotten = -math.inf
        for meter in self._meters.values():
            meter.log.clear()

    def belong_to(self, limiter: Limiter) -> None:
        """Be part of this limiter: ``ValueError`` while it is part of another."""
        if self.limiter not in (None, limiter):
            raise ValueError(
                f"the limit {checks.shown(self.name)} is part of another Limiter: make one Limit "
                "for each, or pass that Limiter on to all who share it"
            )
        self._limiter = weakref.ref(limiter)


def _one(item: Any) -> str:
    """An item for a message, which may be logged: what is in it is nobody else's business."""
    return f"a {type(item).__name__}"


def _positive(value: Any, name: str) -> float:
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {checks.shown(value)}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be more than zero and finite, got {checks.shown(value)}")
    number: float = value
    return number
