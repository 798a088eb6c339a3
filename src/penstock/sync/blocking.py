"""Coroutines that block instead of suspending, and where one must not block."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.errors import QueueStateError

R = TypeVar("R")


def drive(coro: Coroutine[Any, Any, R]) -> R:
    """What ``coro`` returns, where nothing in it suspends: it runs as a function does."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    coro.close()
    raise AssertionError("a coroutine that blocks must not suspend")


def refuse_in_loop(call: str) -> None:
    """Refuse a call that blocks in a running event loop, which could do nothing meanwhile."""
    if _get_running_loop() is not None:
        raise QueueStateError(
            f"Cannot call {call}() in a running event loop: it would block the loop. Use "
            "put_nowait(), or asyncio.to_thread, or the asynchronous penstock.WorkQueue"
        )
