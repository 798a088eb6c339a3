"""Checks of arguments, made at the call that passes them.

Each error names the argument, its value and what is allowed.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import reprlib
import sys
from collections.abc import AsyncIterable, Collection, Iterable
from typing import Any


class _ShortRepr(reprlib.Repr):
    """``repr``, cut to a length that fits into a message. It never raises."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 500

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            return super().repr_instance(x, level)
        except Exception:  # noqa: BLE001 - a __repr__ and a __class__ may raise anything
            return f"<a {type(x).__name__} that has no repr>"

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 2_000:  # str() raises for an int of more than some thousand digits
            return f"<an int of {x.bit_length()} bits, {'below' if x < 0 else 'above'} zero>"
        return super().repr_int(x, level)

    def repr_Fraction(self, x: Any, level: int) -> str:  # noqa: N802 - named by the type
        return f"Fraction({self.repr1(x.numerator, level)}, {self.repr1(x.denominator, level)})"


#: The value of an argument, for a message.
shown = _ShortRepr().repr


def positive_int(value: Any, name: str, rule: str) -> int:
    """``value`` as an int of at least 1; ``rule`` begins the message for one that is less.

    It is at most ``sys.maxsize``: the integers of OpenTelemetry have 64 bits.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of this range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except Exception:  # noqa: BLE001 - an __index__ may raise anything
        raise TypeError(f"{name} must be an int, got {shown(value)}") from None
    if number < 1:
        raise ValueError(f"{rule}, got {shown(number)}")
    if number > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, got {shown(number)}")
    return number


def real(value: Any, name: str) -> float:
    """``value`` as a float; a number that is too large for one becomes infinite.

    Raises:
        TypeError: it is no real number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:  # an int or a fraction
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def seconds(value: Any, name: str = "timeout") -> float:
    """``value`` as seconds: zero or more, ``math.inf`` included.

    Raises:
        ValueError: it is no real number, or negative, or NaN.
    """
    try:
        number = real(value, name)
    except TypeError:
        raise ValueError(f"{name} must be a number of seconds, got {shown(value)}") from None
    if not number >= 0:  # nor is NaN
        raise ValueError(
            f"{name} must be zero or more seconds (math.inf: no limit), got {shown(value)}"
        )
    return number


def finite_seconds(value: Any, name: str) -> float:
    """Like :func:`seconds`, but infinity is not allowed."""
    number = seconds(value, name)
    if number == math.inf:
        raise ValueError(f"{name} must be finite, got inf")
    return number


def optional_seconds(value: Any, name: str = "timeout") -> float | None:
    """Like :func:`seconds`, but ``None``, for "no limit", is allowed, and infinity becomes it."""
    if value is None:
        return None
    number = seconds(value, name)
    return None if number == math.inf else number


def plain_callable(value: Any, name: str) -> None:
    """Raise ``TypeError`` for what is no function: for example a coroutine, the result of one."""
    if inspect.iscoroutine(value):
        value.close()  # or Python warns later that it was never awaited
        raise TypeError(
            f"{name} must be a function, got a coroutine: pass the function itself, "
            f"{name}={value.__name__}, without calling it"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")
    own_call = getattr(type(value), "__call__", None)  # noqa: B004 - the method of an object
    if any(
        inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
        for func in (value, own_call)
    ):
        raise TypeError(
            f"{name} must be a function without yield, got the generator {shown(value)}"
        )


def function(value: Any, name: str, *parameters: str) -> None:
    """Raise ``TypeError`` for what does not take one positional argument for each parameter."""
    plain_callable(value, name)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        cure = ""
        if parameters == ("item",) and len(signature.parameters) > 1:
            cure = ". An item is one argument: put a tuple, and unpack it in the function"
        raise TypeError(
            f"{name} must accept {' and '.join(parameters)} as positional arguments, "
            f"got {shown(value)} with {signature}: {error}{cure}"
        ) from None


def optional_function(value: Any, name: str, *parameters: str) -> None:
    """Like :func:`function`; ``None`` is allowed."""
    if value is not None:
        function(value, name, *parameters)


def items(value: Any) -> None:
    """Raise ``TypeError`` for what neither ``for`` nor ``async for`` can iterate over."""
    if not isinstance(value, (Iterable, AsyncIterable)):
        raise TypeError(f"items must be an iterable or an async iterable, got {shown(value)}")


def collection(value: Any) -> None:
    """Raise ``TypeError`` for what is no list, tuple or the like.

    An iterator is none: nobody could get the items again that were read from it for nothing.
    """
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Collection):
        cure = ": use list(...)" if isinstance(value, Iterable) else ""
        raise TypeError(f"items must be a list or another collection, got {shown(value)}{cure}")


def logger(value: Any) -> None:
    """Raise ``TypeError`` for what is no logger; ``None`` is allowed."""
    if value is not None and not callable(getattr(value, "isEnabledFor", None)):
        raise TypeError(f"logger must be a logging.Logger or None, got {shown(value)}")


def label(value: Any, name: str) -> str:
    """``value`` as a name: printable text that is not empty.

    Names are written to logs and terminals, and exporters refuse lone surrogates.

    Raises:
        TypeError: it is no ``str``.
        ValueError: it is empty or not printable.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")
    if not value:
        raise ValueError(f"{name} must not be empty, got {shown(value)}")
    if not value.isprintable():
        raise ValueError(f"{name} must be printable text, got {shown(value)}")
    return value


def members(value: Any, name: str, protocol: type) -> None:
    """Raise ``TypeError`` for what lacks a member of ``protocol``, and say which.

    (``isinstance`` does not say which.)
    """
    if isinstance(value, type):
        raise TypeError(
            f"{name} must be an object, got the class {shown(value)}: write {value.__name__}(...)"
        )
    wanted = [member for member in vars(protocol) if not member.startswith("_")]
    missing = [member for member in wanted if not hasattr(value, member)]
    if missing:
        raise TypeError(
            f"{name} must have the methods of {protocol.__module__}.{protocol.__qualname__}, "
            f"got {shown(value)} without {', '.join(missing)}"
        )
