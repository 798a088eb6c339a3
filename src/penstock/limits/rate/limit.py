"""A limit as a user states it: an amount, the seconds in which it may start, and for what."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from penstock._util import checks
from penstock._util.batch import Batch
from penstock._util.rates import parse_rate
from penstock.limits.rate.exact import Exact, checked_cost, is_number
from penstock.limits.rate.headers import Feedback
from penstock.limits.rate.sliding_log import SlidingLog
from penstock.limits.rate.window import LimitState


class LimitOwner(Protocol):
    """What a limit, and who holds one, need of the :class:`penstock.Limiter` that it is part of."""

    @property
    def name(self) -> str:
        """What the limiter is called."""
        ...

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All its limits."""
        ...

    def limit(self, which: Limit | str) -> Limit:
        """The limit of this name."""
        ...

    def close_for(self, seconds: float) -> None:
        """Let no call start for ``seconds``."""
        ...

    def observe(self, headers: Any, status: int | None = None) -> Feedback:
        """Read the headers of a response, and close the gate if they say so."""
        ...

    def _change(self, limit: Limit, maximum: float, period: float) -> None: ...

    def _settle_current(self, limit: Limit, actual: float) -> bool: ...


class Limit:
    """Never more than ``max`` starts in any window of ``per`` seconds, wherever it begins.

    Args:
        max: the number of items, or the sum of their costs; above 0, need not be whole.
        per: the length of a window in seconds; above 0 and finite.
        cost: a function from an item to its cost, a number of zero or more. Each item costs 1
            unless given. An item that costs 0 passes freely.
        key: a function from an item to its key, which must be hashable. Items with different keys
            are limited separately, each key with ``max`` per ``per``. Idle keys are forgotten.
        name: its name in telemetry, in messages and in ``Permit.settle``; for example
            "tokens". Default: "``max`` per ``per`` s".

    Raises:
        TypeError: a number is not a number, or a function cannot be called with one item.
        ValueError: a number is out of its range, or ``name`` is empty.

    A limit counts for one :class:`Limiter` at a time. To share a limit, share its limiter.
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
        maximum = positive(max, "max")
        period = float(positive(per, "per"))
        checks.optional_function(cost, "cost", "item")
        checks.optional_function(key, "key", "item")
        self.cost = cost
        self.key = key
        default = f"{float(maximum):g} per {period:g} s"
        called = default if name is None else checks.label(name, "name")
        self._state = LimitState(called, maximum, period, is_keyed=key is not None)
        self._limiter: weakref.ref[LimitOwner] | None = None

    @staticmethod
    def parse(
        rate: str,
        *,
        cost: Callable[[Any], float] | None = None,
        key: Callable[[Any], Hashable] | None = None,
        name: str | None = None,
    ) -> Limit:
        """A limit from a text: ``Limit.parse("500/min")`` is ``Limit(500, per=60)``.

        Other rates are ``20/s``, ``100/10s``, ``1_000/day`` and ``200 per minute``. The units are
        ms, s, min (or m), h and d, and their long names. Every list of limits may have such texts
        in it.

        Args:
            rate: the rate.
            cost, key, name: as for ``Limit``.

        Raises:
            TypeError, ValueError: ``rate`` is no such text; or as ``Limit``.
        """
        maximum, period = parse_rate(rate)
        return Limit(maximum, period, cost=cost, key=key, name=name)

    @property
    def max(self) -> float:
        """How much may start in a window."""
        return self._state.max

    @property
    def per(self) -> float:
        """The length of a window in seconds."""
        return self._state.per

    @property
    def name(self) -> str:
        """What it is called. It stays the same when the rate changes."""
        return self._state.name

    @property
    def limiter(self) -> LimitOwner | None:
        """The :class:`Limiter` that it is part of."""
        return None if self._limiter is None else self._limiter()

    def __repr__(self) -> str:
        rate = f"{float(self.max):g} per {self.per:g} s"
        return f"<Limit {self.name!r}>" if rate == self.name else f"<Limit {self.name!r}: {rate}>"

    def change(
        self,
        max: float | None = None,
        per: float | None = None,
    ) -> None:
        """Set another ``max`` or ``per`` (seconds), from any thread.

        Calls that wait start at once if there is room now. A call that waits with a cost above the
        new ``max`` gets a ``ValueError``. What started before the change counts in the windows
        after it. With a longer ``per`` this goes for starts that the limit no longer remembers,
        too: if there was one so long ago, the limit counts as full until it has left the window.

        Raises:
            TypeError, ValueError: as for a new ``Limit``; nothing has changed then.
        """
        state = self._state
        new_max = state.max if max is None else positive(max, "max")
        new_per = state.per if per is None else float(positive(per, "per"))
        limiter = self.limiter
        if limiter is None:
            state.set_rate(new_max, new_per)
        else:
            limiter._change(self, new_max, new_per)

    def settle(self, actual: float) -> None:
        """Correct the cost of the running call: the difference is given back, or charged.

        Call it in a worker function, or in ``async with limiter:``. Elsewhere, and from another
        context, use :meth:`Permit.settle`, which has the details.

        Raises:
            RuntimeError: no running call has a permit of this limit.
            ValueError, TypeError: ``actual`` is not a number of zero or more.
        """
        limiter = self.limiter
        if limiter is None or not limiter._settle_current(self, actual):
            raise RuntimeError(
                f"settle of the limit {checks.shown(self.name)} was called outside of a call "
                "that has its permit: call it in the worker function, or in `async with limiter:`, "
                "or keep the permit and use permit.settle"
            )

    # -- for the limiter --------------------------------------------------------------------------

    def _join(self, limiter: LimitOwner, log_type: type[SlidingLog]) -> None:
        """Be part of ``limiter``, and count starts in logs of ``log_type`` from now on.

        Raises:
            ValueError: it is part of another one.
        """
        if self.limiter not in (None, limiter):
            raise ValueError(
                f"the limit {checks.shown(self.name)} is part of another Limiter: make one Limit "
                "for each, or give that Limiter to all who share it"
            )
        self._limiter = weakref.ref(limiter)
        self._state.log_type = log_type

    def _cost_of(self, item: Any) -> Exact:
        """The cost of ``item``.

        Raises:
            TypeError, ValueError: the cost function raised, or returned what cannot be a cost.
        """
        if self.cost is None:
            return 1
        if type(item) is Batch:
            return sum(self._cost_of(one) for one in item)
        try:
            value = self.cost(item)
        except Exception as error:
            raise ValueError(
                f"the cost function of the limit {checks.shown(self.name)} raised for "
                f"{type_of(item)}: {checks.shown(error)}"
            ) from error
        return checked_cost(value, f"the cost of {type_of(item)}", self._state.name)

    def _key_of(self, item: Any) -> Hashable:
        """The key of ``item``.

        Raises:
            TypeError, ValueError: the key function raised, or returned what cannot be a key.
        """
        if self.key is None:
            return None
        try:
            key = self.key(item)
        except Exception as error:
            raise ValueError(
                f"the key function of the limit {checks.shown(self.name)} raised for "
                f"{type_of(item)}: {checks.shown(error)}"
            ) from error
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(
                f"the key of {type_of(item)} under the limit {checks.shown(self.name)} must be "
                f"hashable, got {type_of(key)}"
            ) from error
        return key


def type_of(item: Any) -> str:
    """The type of ``item``, for a message: messages are logged, and items may hold secrets."""
    return f"a {type(item).__name__}"


def positive(value: Any, name: str) -> float:
    """``value``, if it is a finite number above zero."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {checks.shown(value)}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be more than zero and finite, got {checks.shown(value)}")
    number: float = value
    return number
