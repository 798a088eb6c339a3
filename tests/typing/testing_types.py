"""What type checkers make of what users test their code with."""

from __future__ import annotations

import asyncio

from typing_extensions import assert_type

from penstock import WorkQueue
from penstock.testing import DeadlockError, VirtualTimeLoop, run


async def answer() -> int:
    return 42


async def first_item(queue: WorkQueue[str]) -> str:
    return await queue.get()


def in_virtual_time(queue: WorkQueue[str]) -> None:
    assert_type(run(answer()), int)
    assert_type(run(first_item(queue)), str)
    loop: asyncio.AbstractEventLoop = VirtualTimeLoop()
    assert_type(loop.run_until_complete(answer()), int)
    assert_type(VirtualTimeLoop().time(), float)
    error: RuntimeError = DeadlockError()
    del error


def wrong_uses() -> None:
    run(answer)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    run(42)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
