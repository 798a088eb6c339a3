"""What the tests of the contract have in common."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from helpers.queues import put_all
from helpers.tasks import now, until
from helpers.workers import Worker
from penstock.protocols import Queue
from penstock.testing import VirtualTimeLoop

AnyQueue = Queue[Any]

#: How much later than promised something may happen, where time is virtual.
SLACK = 1.0

NOT_SECONDS = [-1, -0.001, -math.inf, math.nan, "1", b"1", [], True, 1j]


#: What several workers noted: as it is where their order is certain, else sorted.
InOrder = Callable[[list[Any]], list[Any]]


class MakeQueue(Protocol):
    """What a kind of queue gives: see conftest.py. Kinds of work queue take rules as well."""

    def __call__(self, *, maxsize: int = ..., timeout: float = ..., **rules: Any) -> Any: ...


def check_that_it_took(since: float, seconds: float, slack: float = SLACK) -> None:
    """Not less; and not more, where no machine that does other things can hold it up."""
    took = now() - since
    assert took >= seconds
    assert took < seconds + slack or not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


async def until_waiting(queue: AnyQueue, puts: int) -> None:
    """Wait until so many puts wait for room."""
    await until(lambda: queue.statistics().waiting_putters == puts)


async def a_while() -> None:
    """Time enough for something to happen that must not."""
    await asyncio.sleep(0.05)


async def quite_a_while() -> None:
    """The same where it costs nothing to be more certain."""
    await asyncio.sleep(1 if isinstance(asyncio.get_running_loop(), VirtualTimeLoop) else 0.2)


async def filled(make_queue: MakeQueue, *items: Any, timeout: float = 0.1) -> AnyQueue:
    """A queue that runs and has no room left."""
    queue = make_queue(maxsize=len(items), timeout=timeout)
    await queue.start()
    await put_all(queue, *items)
    return queue


@asynccontextmanager
async def queue_that_is(state: str, make_queue: MakeQueue) -> AsyncIterator[AnyQueue]:
    """A queue in this state; one that is stopping goes on to stop at the end."""
    queue = make_queue(maxsize=2)
    if state == "idle":
        yield queue
        return
    await queue.start()
    if state == "stopped":
        await queue.stop()
    if state != "stopping":
        yield queue
        return
    worker = Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "in hand")
    await until(lambda: worker.began == ["in hand"])
    stop = asyncio.create_task(queue.stop())
    await until(lambda: queue.status == "stopping")
    yield queue
    worker.may_go_on.set()
    assert await stop is True
