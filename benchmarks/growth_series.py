"""What ``growth.py`` measures with, and what it measures: things of which there may be many."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, TypeAlias

from penstock import BoundedQueue, WorkQueue, testing

#: What is measured stands in a ``with`` block of it.
Meter: TypeAlias = "AbstractContextManager[object]"
#: Does something with so many things.
Act: TypeAlias = Callable[[int, Meter], object]
AsyncAct: TypeAlias = Callable[[int, Meter], Coroutine[Any, Any, object]]


class Stopwatch:
    """Seconds, of the CPU and by the clock."""

    cpu = wall = 0.0

    def __enter__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()

    def __exit__(self, *_: object) -> None:
        self.cpu += process_time() - self._cpu
        self.wall += perf_counter() - self._wall


class Scale:
    """Bytes, of Python's memory, that there are at the end and were not there at the beginning."""

    bytes: float = 0.0

    def __enter__(self) -> None:
        gc.collect()
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]

    def __exit__(self, *_: object) -> None:
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        self.bytes += after - self._before


@dataclass(frozen=True)
class Series:
    """Something to be done with more and more of something."""

    name: str
    sizes: tuple[int, ...]
    act: Act
    #: What is to be weighed; the scale stands around all that makes the things.
    weigh: Act | None = None
    #: The greatest number that is weighed: to trace memory takes time.
    most_weighed: int = 1_000_000


def tens(first: int, last: int) -> tuple[int, ...]:
    """The powers of ten from ``10 ** first`` to ``10 ** last``."""
    return tuple(10**power for power in range(first, last + 1))


def real(act: AsyncAct) -> Act:
    """Do it in an ordinary event loop."""

    def run(n: int, meter: Meter) -> None:
        asyncio.run(act(n, meter))

    return run


def virtual(act: AsyncAct) -> Act:
    """Do it in an event loop that does not wait for its timers."""

    def run(n: int, meter: Meter) -> None:
        testing.run(act(n, meter))

    return run


async def put_all(queue: BoundedQueue[Any] | WorkQueue[Any], items: Iterable[int]) -> None:
    for item in items:
        await queue.put(item, math.inf)


async def all_of(awaitables: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


def shuffled(n: int) -> list[int]:
    numbers = list(range(n))
    random.Random(n).shuffle(numbers)
    return numbers
