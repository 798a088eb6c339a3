"""A worker function under the control of a test."""

from __future__ import annotations

import asyncio
from typing import Any

from helpers.tasks import now


class Worker:
    """A worker function that notes what it gets, and can be held up or fail."""

    def __init__(self, *, held: bool = False) -> None:
        self.began: list[Any] = []
        self.done: list[Any] = []
        #: When it got each item.
        self.times: list[float] = []
        #: What to raise, in this order, before it succeeds.
        self.failures: list[BaseException] = []
        self.may_go_on = asyncio.Event()
        if not held:
            self.may_go_on.set()

    async def __call__(self, item: Any) -> Any:
        self.began.append(item)
        self.times.append(now())
        await self.may_go_on.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.done.append(item)
        return item
