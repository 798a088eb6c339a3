"""Questions about functions, and functions under their earlier names."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from opcode import opmap
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

# One of them is in the code of each ``await``, ``async with`` and ``async for``, in all of CPython.
_AWAITS = {opmap.get("GET_AWAITABLE"), opmap.get("GET_ANEXT")}


def is_async(func: Callable[..., Any]) -> bool:
    """Whether a call of ``func`` returns a coroutine and runs no code of ``func`` yet."""
    if inspect.iscoroutinefunction(func):
        return True
    return not inspect.isroutine(func) and inspect.iscoroutinefunction(
        getattr(type(func), "__call__", None)  # noqa: B004 - the method, not whether it has one
    )


def may_suspend(func: Callable[..., Any]) -> bool:
    """Whether a call of an async function may wait for something.

    False is certain: it is an ``async def`` with no ``await`` in it.
    """
    while isinstance(func, (functools.partial, MethodType)):
        func = func.func if isinstance(func, functools.partial) else func.__func__
    if not isinstance(func, FunctionType) or not func.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return None in _AWAITS or not _AWAITS.isdisjoint(func.__code__.co_code[::2])


def deprecated_name(name: str, func: F) -> F:
    """``func``, to be found under an earlier name: each call warns that ``name`` is deprecated.

    Args:
        name: the earlier name, with that of the class: ``"LoopThread.see"``.
        func: the function under its new name. If that is private, the warning does not tell it.
    """
    instead = "" if func.__name__.startswith("_") else f": use {func.__name__}"

    @functools.wraps(func)
    def deprecated(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(f"{name} is deprecated{instead}", DeprecationWarning, stacklevel=2)
        return func(*args, **kwargs)

    deprecated.__doc__ = f"Deprecated{instead}.\n\n:meta private:"  # not listed by Sphinx
    return cast(F, deprecated)
