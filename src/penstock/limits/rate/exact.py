"""Costs as numbers without rounding."""

from __future__ import annotations

import numbers
import sys
from fractions import Fraction
from typing import Any, TypeAlias

from penstock._util import checks

#: A number without rounding: sums of costs neither drift nor depend on the order.
Exact: TypeAlias = "int | Fraction"


def exact(value: float | Fraction) -> Exact:
    """A finite number without rounding: an int where it is a whole one, since ints are quick."""
    if type(value) is int:
        return value
    fraction = Fraction(value)
    return fraction.numerator if fraction.denominator == 1 else fraction


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number, of whatever type; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def checked_cost(value: Any, what: str, limit: str) -> Exact:
    """``value`` as an exact cost.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, NaN or not finite. Both say "``what`` under the limit
            ``limit``".
    """
    if type(value) is int and 0 <= value <= sys.maxsize:
        return value
    if not is_number(value):
        raise TypeError(
            f"{what} under the limit {checks.shown(limit)} must be a number, "
            f"got {checks.shown(value)}"
        )
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(
            f"{what} under the limit {checks.shown(limit)} must be finite and zero or more, "
            f"got {checks.shown(value)}"
        )
    return exact(value)
