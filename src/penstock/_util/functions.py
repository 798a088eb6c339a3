"""Questions about functions, and functions under their earlier names."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def is_async(func: Callable[..., Any]) -> bool:
    """Whether a call of ``func`` returns a coroutine and runs no code of ``func`` yet."""
    if inspect.iscoroutinefunction(func):
        return True
    return not inspect.isroutine(func) and inspect.iscoroutinefunction(
        getattr(type(func), "__call__", None)  # noqa: B004 - the method, not whether it has one
    )


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
