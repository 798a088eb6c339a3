"""The protocols: what meets them, and that what meets them can be used."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import pytest

from helpers.tasks import now
from penstock import AsyncExecutor, BoundedQueue, Executor, QueueStatus, WorkQueue, protocols
from penstock.events import Event
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter

T = TypeVar("T")


@pytest.mark.parametrize(
    ("thing", "protocol"),
    [
        (BoundedQueue(), protocols.Queue),
        (BoundedQueue(), protocols.AsyncResourceManager),
        (WorkQueue(), protocols.AsyncResourceManager),
        (AsyncExecutor(), protocols.Executor),
        (AsyncExecutor(), protocols.AsyncResourceManager),
        (Executor(Event), protocols.AsyncResourceManager),
        (Limiter([Limit(1, 1)]), protocols.RateLimiter),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_a_class_meets_its_protocol_without_naming_it(thing: Any, protocol: type) -> None:
    assert isinstance(thing, protocol)
    assert protocol not in type(thing).__mro__


@pytest.mark.parametrize(
    ("thing", "protocol"),
    [
        (asyncio.Queue, protocols.Queue),
        (object, protocols.AsyncResourceManager),
        (AsyncExecutor, protocols.RateLimiter),
    ],
)
def test_what_lacks_a_method_does_not_meet_a_protocol(thing: Any, protocol: type) -> None:
    assert not isinstance(thing(), protocol)


class ListQueue(Generic[T]):
    """A queue of somebody else's: it knows nothing of penstock but the names of the methods."""

    maxsize = 1000
    name = "list"
    is_full = False
    worker_count = 0

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.done: list[T] = []
        self.status: Any = QueueStatus.IDLE
        self.work: Callable[[T], Any] | None = None

    @property
    def size(self) -> int:
        return len(self.items)

    @property
    def is_empty(self) -> bool:
        return not self.items

    @property
    def unprocessed(self) -> list[T]:
        return list(self.items)

    @property
    def metrics(self) -> dict[str, int]:
        return {"enqueued": self.size + len(self.done), "processed": len(self.done)}

    def statistics(self) -> Any:
        return self.metrics

    async def start(self) -> None:
        self.status = QueueStatus.PROCESSING

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        self.status = QueueStatus.STOPPED
        return not self.items

    async def put(self, item: T, timeout: float | None = None) -> bool:
        self.items.append(item)
        return True

    def put_nowait(self, item: T) -> None:
        self.items.append(item)

    async def get(self, timeout: float | None = None) -> T:
        return self.items.popleft()

    def get_nowait(self) -> T:
        return self.items.popleft()

    def task_done(self) -> None:
        pass

    async def join(self) -> None:
        assert self.work is not None
        while self.items:
            item = self.items.popleft()
            await self.work(item)
            self.done.append(item)

    async def start_workers(
        self,
        worker_func: Callable[[T], Any],
        num_workers: int,
        error_handler: Callable[[Exception, T], Any] | None = None,
    ) -> None:
        self.work = worker_func

    async def stop_workers(self, timeout: float | None = None) -> None:
        self.work = None

    async def __aenter__(self) -> ListQueue[T]:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


async def test_a_work_queue_works_over_any_queue_that_meets_the_protocol() -> None:
    inner: ListQueue[int] = ListQueue()
    assert isinstance(inner, protocols.Queue)
    seen = []

    async def worker(item: int) -> None:
        seen.append(item)

    async with WorkQueue(queue=inner) as queue:
        await queue.process(worker)
        assert await queue.put(1)
        queue.put_nowait(2)
        assert queue.size == 2
        await queue.join()
    assert inner.status is QueueStatus.STOPPED
    await queue.batch_process([3, 4], worker)
    assert seen == [1, 2, 3, 4]
    assert queue.metrics == {"enqueued": 4, "processed": 4}


def test_a_queue_that_lacks_methods_is_refused_by_their_names() -> None:
    class Half:
        maxsize = name = status = size = is_empty = is_full = worker_count = unprocessed = None
        metrics = statistics = start = stop = put = put_nowait = get = get_nowait = join = None

    with pytest.raises(TypeError, match=r"without task_done, start_workers, stop_workers$"):
        WorkQueue(queue=Half())  # type: ignore[arg-type]


async def test_the_limiter_is_used_through_its_protocol() -> None:
    limiter: protocols.RateLimiter = Limiter([Limit(1, 5)])
    await limiter.acquire()
    await limiter.acquire()
    assert now() == pytest.approx(5)
