"""What can be told of a function without calling it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling ``func`` gives a coroutine and runs nothing of it yet."""
    if inspect.iscoroutinefunction(func):
        return True
    return not inspect.isroutine(func) and inspect.iscoroutinefunction(
        getattr(type(func), "__call__", None)  # noqa: B004 - the method, not whether it has one
    )
