"""Checks of arguments, made at the call that brings them.

Each error names the argument, the value it got and what is allowed.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import AsyncIterable, Iterable
from typing import Any


def positive_int(value: Any, name: str, rule: str) -> int:
    """``value`` as an int of at least 1; ``rule`` is the sentence for one that is less."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{rule}, got {number}")
    return number


def seconds(value: Any, name: str = "timeout") -> float:
    """``value`` as seconds: zero or more, ``math.inf`` included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number of seconds, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction too large for a float
        number = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    if not number >= 0:  # NaN is not either
        raise ValueError(f"{name} must be zero or more seconds (math.inf: no limit), got {value!r}")
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
        raise TypeError(f"{name} must be a function, got {value!r}")
    own_call = getattr(type(value), "__call__", None)  # noqa: B004 - of an object that has one
    if any(
        inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
        for func in (value, own_call)
    ):
        raise TypeError(f"{name} must be a function that returns, got the generator {value!r}")


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
            f"got {value!r} with {signature}: {error}"
        ) from None


def optional_function(value: Any, name: str, *parameters: str) -> None:
    """Like :func:`function`; ``None`` is allowed."""
    if value is not None:
        function(value, name, *parameters)


def items(value: Any) -> None:
    """Refuse what can be iterated neither with ``for`` nor with ``async for``."""
    if not isinstance(value, (Iterable, AsyncIterable)):
        raise TypeError(f"items must be an iterable or an async iterable, got {value!r}")


def logger(value: Any) -> None:
    """Refuse what does not log; None is allowed."""
    if value is not None and not callable(getattr(value, "isEnabledFor", None)):
        raise TypeError(f"logger must be a logging.Logger or None, got {value!r}")


def label(value: Any, name: str) -> str:
    """``value`` as a name: text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    if not value:
        raise ValueError(f"{name} must not be empty, got {value!r}")
    return value


def members(value: Any, name: str, protocol: type) -> None:
    """Refuse what lacks a member that ``protocol`` names. (``isinstance`` would not say which.)"""
    if isinstance(value, type):
        raise TypeError(f"{name} must be an object, got the class {value!r}: call it")
    missing = [member for member in _members_of(protocol) if not hasattr(value, member)]
    if missing:
        raise TypeError(
            f"{name} must have the methods of {protocol.__module__}.{protocol.__qualname__}, "
            f"got {value!r} without {', '.join(missing)}"
        )


def _members_of(protocol: type) -> list[str]:
    return [member for member in vars(protocol) if not member.startswith("_")]
