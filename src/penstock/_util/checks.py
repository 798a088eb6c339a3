"""Checks of arguments, made at the call that brings them.

Each error names the argument, the value it got and what is allowed.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import reprlib
import sys
from collections.abc import AsyncIterable, Iterable
from typing import Any


class _Short(reprlib.Repr):
    """What fits into a message."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 500

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            return super().repr_instance(x, level)
        except Exception:  # noqa: BLE001 - whatever its repr raises
            return f"<a {type(x).__name__} that cannot be shown>"

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 2_000:  # Python turns no more than some thousand digits into text
            return f"<an int of {x.bit_length()} bits, {'below' if x < 0 else 'above'} zero>"
        return super().repr_int(x, level)

    def repr_Fraction(self, x: Any, level: int) -> str:  # noqa: N802 - by the name of the type
        return f"Fraction({self.repr1(x.numerator, level)}, {self.repr1(x.denominator, level)})"


#: ``value`` for a message: short, and never an error in place of the error.
shown = _Short().repr


def positive_int(value: Any, name: str, rule: str) -> int:
    """``value`` as an int of at least 1; ``rule`` is the sentence for one that is less.

    It is at most ``sys.maxsize``, as all that can be counted: telemetry knows no larger ones.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except Exception:  # noqa: BLE001 - whatever its __index__ raises
        raise TypeError(f"{name} must be an int, got {shown(value)}") from None
    if number < 1:
        raise ValueError(f"{rule}, got {shown(number)}")
    if number > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, got {shown(number)}")
    return number


def real(value: Any, name: str) -> float:
    """``value`` as a float; what is too large for one is infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:  # an int or a fraction
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def seconds(value: Any, name: str = "timeout") -> float:
    """``value`` as seconds: zero or more, ``math.inf`` included."""
    try:
        number = real(value, name)
    except TypeError:
        raise ValueError(f"{name} must be a number of seconds, got {shown(value)}") from None
    if not number >= 0:  # NaN is not either
        raise ValueError(
            f"{name} must be zero or more seconds (math.inf: no limit), got {shown(value)}"
        )
    return number


def optional_seconds(value: Any, name: str = "timeout") -> float | None:
    """Like :func:`seconds`, with ``None`` and infinity both meaning "no limit"."""
    if value is None:
        return None
    number = seconds(value, name)
    return None if number == math.inf else number


def plain_callable(value: Any, name: str) -> None:
    """Refuse what is no function, above all a coroutine: the result of calling one."""
    if inspect.iscoroutine(value):
        value.close()  # or Python would complain later that nobody awaited it
        raise TypeError(
            f"{name} must be a function, got a coroutine: pass the function itself, "
            f"{name}={value.__name__}, without calling it"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")
    own_call = getattr(type(value), "__call__", None)  # noqa: B004 - of an object that has one
    if any(
        inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
        for func in (value, own_call)
    ):
        raise TypeError(f"{name} must be a function that returns, got the generator {shown(value)}")


def function(value: Any, name: str, *parameters: str) -> None:
    """Refuse what cannot be called with one positional argument for each of ``parameters``."""
    plain_callable(value, name)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some built-in functions have none to show
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise TypeError(
            f"{name} must accept {' and '.join(parameters)} as positional arguments, "
            f"got {shown(value)} with {signature}: {error}"
        ) from None


def optional_function(value: Any, name: str, *parameters: str) -> None:
    """Like :func:`function`; ``None`` is allowed."""
    if value is not None:
        function(value, name, *parameters)


def items(value: Any) -> None:
    """Refuse what can be iterated neither with ``for`` nor with ``async for``."""
    if not isinstance(value, (Iterable, AsyncIterable)):
        raise TypeError(f"items must be an iterable or an async iterable, got {shown(value)}")


def logger(value: Any) -> None:
    """Refuse what does not log; None is allowed."""
    if value is not None and not callable(getattr(value, "isEnabledFor", None)):
        raise TypeError(f"logger must be a logging.Logger or None, got {shown(value)}")


def label(value: Any, name: str) -> str:
    """``value`` as a name: printable text that is not empty.

    It stands in logs and on terminals, and an exporter takes no half characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)}")
    if not value:
        raise ValueError(f"{name} must not be empty, got {shown(value)}")
    if not value.isprintable():
        raise ValueError(f"{name} must be printable text, got {shown(value)}")
    return value


def members(value: Any, name: str, protocol: type) -> None:
    """Refuse what lacks a member that ``protocol`` names. (``isinstance`` would not say which.)"""
    if isinstance(value, type):
        raise TypeError(f"{name} must be an object, got the class {shown(value)}: call it")
    missing = [member for member in _members_of(protocol) if not hasattr(value, member)]
    if missing:
        raise TypeError(
            f"{name} must have the methods of {protocol.__module__}.{protocol.__qualname__}, "
            f"got {shown(value)} without {', '.join(missing)}"
        )


def _members_of(protocol: type) -> list[str]:
    return [member for member in vars(protocol) if not member.startswith("_")]
