"""The orders in which a queue hands out its items, as a user states them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from penstock._util import checks


@dataclass(frozen=True)
class Priorities:
    """The item with the lowest priority number goes first; among equals, the one put first.

    As ``queue.PriorityQueue`` has it, lower is sooner. The priority of an item is that of its put,
    ``put(item, priority=1)``, and 0 unless given; or what ``key`` returns.

    Args:
        key: a function from an item to its priority: an int or a float, but not NaN. It is called
            once in the put, or twice where the put has to wait. A put then takes no ``priority``.
        max_wait: seconds. An item that has waited for so long goes before all others, the oldest
            first, so that none waits for ever behind a stream of lower numbers. The time counts
            from the call of ``put``. ``None`` or ``math.inf``: there is no such time, and items
            with high numbers wait for as long as there are others.

    Raises:
        TypeError: ``key`` is no function of an item.
        ValueError: ``max_wait`` is negative, NaN or no number.

    Puts that wait for room are served in this order, too. What is given back, or is tried again,
    has the place that it had.
    """

    key: Callable[[Any], float] | None = None
    max_wait: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        checks.optional_function(self.key, "key", "item")
        checks.optional_seconds(self.max_wait, "max_wait")


@dataclass(frozen=True)
class FairShares:
    """Each key has its turn: the 10,000 items of one hold up another's ten by no more than a share.

    A key is a tenant, a user, a customer: whoever is to have a share. While several keys have items
    that wait, each gets as many starts as its weight says. (Start-time fair queueing: Goyal, Vin
    and Cheng, 1996. An item counts as one.) Items of one key start in the order of their puts.

    Args:
        key: a function from an item to its key, which must be hashable.
        weight: a function from a key to its weight: above 0 and finite. A key with weight 2 gets
            two starts for each one of a key with weight 1. It is called when a key begins to have
            items that wait. Each has weight 1 unless given.
        max_per_key: the most items of one key that may wait, at least 1: what waits for another
            attempt counts, what workers hold does not. A put above it waits, or is refused, while
            other keys find room. ``None``: as many as the queue has room for.
        within: the order of the items of one key: a :class:`Priorities`. ``None``: that of their
            puts.

    Raises:
        TypeError: ``key`` or ``weight`` is no function of one argument, ``max_per_key`` no int,
            ``within`` no ``Priorities``.
        ValueError: ``max_per_key`` is below 1.

    Puts that wait for room are served in this order, too. What is given back without a start is
    not charged to its key; another attempt is. A key without items that wait costs nothing, and is
    forgotten as soon as what it had is no more than its share.
    """

    key: Callable[[Any], Hashable]
    weight: Callable[[Any], float] | None = field(default=None, kw_only=True)
    max_per_key: int | None = field(default=None, kw_only=True)
    within: Priorities | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        checks.function(self.key, "key", "item")
        checks.optional_function(self.weight, "weight", "key")
        if self.max_per_key is not None:
            rule = "max_per_key must be at least 1"
            checks.positive_int(self.max_per_key, "max_per_key", rule)
        if self.within is not None and not isinstance(self.within, Priorities):
            raise TypeError(f"within must be a Priorities or None, got {checks.shown(self.within)}")


#: An order of a queue. (None: first come, first served.)
Order: TypeAlias = Priorities | FairShares


def checked_order(value: Any) -> Order | None:
    """``value``, if it is an order or None.

    Raises:
        TypeError: it is neither.
    """
    if value is None or isinstance(value, (Priorities, FairShares)):
        return value
    cure = ": call it" if value in (Priorities, FairShares) else ""
    raise TypeError(
        f"order must be a Priorities, a FairShares or None, got {checks.shown(value)}{cure}"
    )


def checked_priority(value: Any, what: str = "priority") -> float:
    """``value``, if it is a number that can be compared with others.

    Raises:
        TypeError: it is no number.
        ValueError: it is NaN.
    """
    number: float = value if type(value) in (int, float) else checks.real(value, what)
    if math.isnan(number):
        raise ValueError(f"{what} must not be NaN, got {checks.shown(value)}")
    return number
