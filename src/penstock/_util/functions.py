"""Questions about functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_async(func: Callable[..., Any]) -> bool:
    """Whether a call of ``func`` returns a coroutine and runs no code of ``func`` yet."""
    if inspect.iscoroutinefunction(func):
        return True
    return not inspect.isroutine(func) and inspect.iscoroutinefunction(
        getattr(type(func), "__call__", None)  # noqa: B004 - the method, not whether it has one
    )
