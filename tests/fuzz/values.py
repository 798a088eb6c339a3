"""Values of every kind, for arguments that ought to be of one."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st


class Text(str):
    """Text, but of a type of its own."""

    __slots__ = ()


class FloatLike:
    """What numpy's scalars have, and nothing else."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __float__(self) -> float:
        return self.number


class IndexLike:
    """An integer of somebody's own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Broken:
    """Raises whatever it is asked."""

    def __float__(self) -> float:
        raise ZeroDivisionError("broken")

    def __index__(self) -> int:
        raise ZeroDivisionError("broken")

    def __len__(self) -> int:
        raise ZeroDivisionError("broken")

    def __bool__(self) -> bool:
        raise ZeroDivisionError("broken")


async def _async_function(item: Any) -> Any:
    return item


def _generator(item: Any) -> Any:
    yield item


#: Longer than Python turns into text.
_HUGE = 10**5_000

_odd_numbers = st.sampled_from(
    [
        *(math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7e308, 1e9, 2.5),
        *(0, -1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400), _HUGE, -_HUGE),
        *(Decimal(1), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1e9999")),
        *(Fraction(1, 3), Fraction(10**400), Fraction(1, 10**400), Fraction(-1, 3), 1j),
        *(True, False),
    ]
)
_odd_objects = st.sampled_from(
    [
        *(FloatLike(1.0), FloatLike(math.nan), IndexLike(3), IndexLike(-3), IndexLike(_HUGE)),
        *(Broken(), object(), int, type, None, ..., NotImplemented),
        *(len, print, _async_function, _generator, lambda: None, lambda item: item),
        *(
            Text(""),
            Text("name"),
            "",
            "\0",
            "\ud800",
            "a\nb",
            "\x1b[31m",
            "12",
            "nan",
            "x" * 10_000,
        ),
        *(b"", b"12", bytearray(b"1"), memoryview(b"1")),
        *((), [], {}, set(), (1,), [1], {"max": 1}, {1: 2}, range(3)),
        *(ValueError, ValueError("x"), KeyboardInterrupt),
    ]
)

#: Anything at all, with what is a number more often than not.
anything = st.one_of(
    _odd_numbers,
    _odd_objects,
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.decimals(),
    st.fractions(),
)

#: For a test of many calls, each of which gets so many.
few = settings(max_examples=settings().max_examples // 4)
