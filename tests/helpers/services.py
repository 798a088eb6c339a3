"""A service that fails as a test wants it to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from helpers.tasks import now
from penstock.limits.rate.permit import current_permits


class Service:
    """A worker function that fails as often as it is told to, and notes who called it when.

    Itself it is an async function; ``in_thread`` is the same as a plain one.
    """

    def __init__(
        self,
        fails: dict[Any, int] | None = None,
        *,
        takes: float = 0.0,
        error: Callable[[], BaseException] = ConnectionError,
    ) -> None:
        #: How many more times each item fails.
        self.fails = Counter(fails or {})
        self.takes = takes
        self.error = error
        self.calls: list[tuple[Any, float]] = []
        #: When a limit counted each item's call, which the call itself notes later.
        self.counted: dict[Any, float] = {}
        self.raised: list[BaseException] = []
        self.under_way = self.peak = 0
        self._lock = threading.Lock()

    async def __call__(self, item: Any) -> Any:
        with self._call(item, now()):
            if self.takes:
                await asyncio.sleep(self.takes)
        return self._answer(item)

    def in_thread(self, item: Any) -> Any:
        with self._call(item, time.monotonic()):
            if self.takes:
                time.sleep(self.takes)
        return self._answer(item)

    @contextmanager
    def _call(self, item: Any, at: float) -> Iterator[None]:
        with self._lock:
            self.calls.append((item, at))
            for permit in current_permits():
                self.counted.update((item, record.at) for record in permit._records)
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1

    def _answer(self, item: Any) -> Any:
        with self._lock:
            if not self.fails[item]:
                return item
            self.fails[item] -= 1
            self.raised.append(error := self.error())
        raise error

    @property
    def items(self) -> list[Any]:
        return [item for item, _ in self.calls]

    def times(self, item: Any) -> list[float]:
        return [at for called, at in self.calls if called == item]


class Away:
    """A service that is away for a while, and notes its calls: those it served, and when."""

    def __init__(
        self, began: float = 0.0, ended: float = 0.0, *, takes: float = 0.0, fails_in: float = 0.0
    ) -> None:
        #: It is away from ``began`` to ``ended``, by the clock of the loop.
        self.began, self.ended = began, ended
        self.takes, self.fails_in = takes, fails_in
        self.error: Callable[[], BaseException] = partial(ConnectionError, "nobody there")
        self.calls: list[tuple[Any, float]] = []
        self.served: list[Any] = []

    @property
    def is_away(self) -> bool:
        return self.began <= now() < self.ended

    async def __call__(self, item: Any) -> Any:
        self.calls.append((item, now()))
        if self.is_away:
            await asyncio.sleep(self.fails_in)
            raise self.error()
        await asyncio.sleep(self.takes)
        self.served.append(item)
        return item

    def since(self, moment: float) -> list[float]:
        """When calls were made from a moment on, in seconds from then."""
        return [at - moment for _, at in self.calls if at >= moment]

    def during(self, began: float, ended: float) -> list[tuple[Any, float]]:
        """The calls between two moments."""
        return [(item, at) for item, at in self.calls if began <= at < ended]
