"""What waits for a limit is in no worker's hand, whether workers are tasks or threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from contract.conftest import BLOCKING, WORK_QUEUES, Kind
from contract.helpers import MakeQueue, quite_a_while
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.services import Service
from helpers.tasks import now, until
from penstock import Limit, Limiter

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)

#: Seconds. Longer than any test: what waits for so long does not happen in it.
NEVER = 1000.0

QueueOf = Callable[..., Any]

#: Limits of one, by what they look at.
KINDS: dict[str, dict[str, Any]] = {
    "any item": {},
    "cost": {"cost": lambda item: 1},
    "key": {"key": lambda item: 0},
    "key and cost": {"key": lambda item: 0, "cost": lambda item: 1},
}

each_kind = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
without_key = pytest.mark.parametrize("settings", list(KINDS.values())[:2], ids=list(KINDS)[:2])


@pytest.fixture
def queue_of(make_queue: MakeQueue) -> QueueOf:
    """Makes queues with rules."""
    return partial(make_queue, maxsize=1000, logger=SILENT)


def is_waiting(queue: Any) -> bool:
    """Whether it waits for a limit with all that its workers do not do."""
    statistics = queue.statistics()
    is_called_back: bool = queue.limits.statistics().waiting > 0
    return is_called_back and statistics.inflight == 0


@each_kind
class TestAWorker:
    async def test_holds_no_item_that_waits(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        service, limit = Service(), Limit(1, NEVER, **settings)
        queue = queue_of(limits=[limit])
        await queue.process(service, 3)
        await put_all(queue, *range(6))
        await until(lambda: service.items and is_waiting(queue))
        # A worker may still look at one, for which it will find no room.
        await until(lambda: queue.unprocessed == [1, 2, 3, 4, 5])
        assert queue.statistics().unfinished == 5
        limit.change(max=100)
        assert await queue.stop() is True
        assert sorted(service.items) == list(range(6))

    async def test_starts_nothing_after_a_stop(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        service, limit = Service(), Limit(1, NEVER, **settings)
        queue = queue_of(limits=[limit])
        await queue.process(service, 3)
        await put_all(queue, *range(5))
        await until(lambda: service.items and is_waiting(queue))
        assert await queue.stop(drain=False) is False
        assert queue.unprocessed == [1, 2, 3, 4]
        assert queue.limits.statistics().waiting == 0
        limit.change(max=100)
        await quite_a_while()
        assert service.items == [0]
        await queue.process(service, 1)
        assert await queue.stop() is True
        assert service.items == [0, 1, 2, 3, 4]

    async def test_that_is_the_only_one_starts_them_in_order(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        service = Service()
        queue = queue_of(limits=[Limit(2, 0.1, **settings)])
        began = now()
        await queue.process(service, 1)
        await put_all(queue, *range(9))
        assert await queue.stop() is True
        assert service.items == list(range(9))
        assert now() - began >= 0.4

    async def test_leaves_what_was_to_start_to_others_when_it_goes(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        limit = Limit(1, NEVER, **settings)
        limiter, service = Limiter([limit]), Service()
        queue = queue_of(limits=limiter)
        await queue.process(service, 2)
        await put_all(queue, 0, 1, 2)
        await until(lambda: service.items and is_waiting(queue))
        other = asyncio.create_task(limiter.acquire())
        await until(lambda: limiter.statistics().waiting >= 2)
        await queue.stop_workers()
        limit.change(max=2)
        await other
        assert service.items == [0]
        assert queue.unprocessed == [1, 2]

    async def test_takes_no_more_than_its_share_of_a_limiter(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        limiter, service = Limiter([Limit(2, 0.1, **settings)]), Service()
        queues = [queue_of(limits=limiter) for _ in range(2)]
        for queue in queues:
            await queue.process(service, 2)
        began = now()
        for queue in queues:
            await put_all(queue, *range(6))
        async with limiter:
            pass
        for queue in queues:
            assert await queue.stop() is True
        assert now() - began >= 0.6
        assert sorted(service.items) == sorted([*range(6)] * 2)
        assert limiter.statistics().grants == 13


class TestAFuture:
    @without_key
    async def test_that_is_cancelled_uses_nothing_up(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        service, limit = Service(), Limit(1, NEVER, **settings)
        queue = queue_of(limits=[limit])
        await queue.process(service, 1)  # or more of them would have begun
        await put_all(queue, 0)
        futures = [await queue.submit(item) for item in range(1, 5)]
        await until(lambda: service.items and is_waiting(queue))
        for future in futures[1:]:
            future.cancel()
        limit.change(max=3)
        await put_all(queue, 9)
        await queue.join()
        assert service.items == [0, 1, 9]
        assert limit.limiter.statistics().waiting == 0  # type: ignore[union-attr]


class TestAJob:
    @each_kind
    @pytest.mark.usefixtures("cancellable_calls")
    async def test_that_ends_lets_others_have_what_was_its(
        self, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        service, limit = Service(), Limit(1, NEVER, **settings)
        queue = queue_of(limits=[limit])
        await queue.process(service, 1)
        await put_all(queue, "first")
        await until(lambda: service.items)
        results = queue.map(service, range(3), num_workers=2)
        ahead = asyncio.ensure_future(anext(results))
        await until(lambda: is_waiting(queue))
        ahead.cancel()
        await asyncio.wait([ahead])
        await results.aclose()
        await until(lambda: not queue.limits.statistics().waiting)
        await put_all(queue, "last")
        limit.change(max=2)
        await queue.join()
        assert service.items == ["first", "last"]

    @each_kind
    async def test_inside_an_item_is_waited_for_by_that(
        self, kind: Kind, queue_of: QueueOf, settings: dict[str, Any]
    ) -> None:
        if kind is BLOCKING:
            pytest.skip("a blocking call in an event loop is refused")
        queue = queue_of(limits=[Limit(1, 0.05, **settings)])
        inner = Service()

        async def outer(item: int) -> list[Any]:
            results = queue.map(inner, range(3), num_workers=2)
            return sorted([result async for result in results])

        await queue.process(outer, 2)
        futures = [await queue.submit(item) for item in range(3)]
        assert [await future for future in futures] == [[0, 1, 2]] * 3
        assert await queue.stop() is True
        assert len(inner.items) == 9


class TestWhatIsTakenByHand:
    @without_key
    async def test_waits_for_no_limit(self, queue_of: QueueOf, settings: dict[str, Any]) -> None:
        service, limit = Service(), Limit(1, NEVER, **settings)
        queue = queue_of(limits=[limit])
        await queue.process(service, 1)
        await put_all(queue, 0, 1, 2)
        await until(lambda: service.items and is_waiting(queue))
        assert await queue.get(timeout=0) == 1
        queue.task_done()
        limit.change(max=2)
        await queue.join()
        assert service.items == [0, 2]
