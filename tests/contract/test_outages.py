"""What is held while its service is away, whether workers are tasks or threads."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import MakeQueue
from helpers.handlers import Handler, ignore
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.tasks import soon, until
from penstock import OutageError, Policy, QueueStateError, RetryPolicy
from penstock.policies import outage

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)

QueueOf = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage in which less time passes: some kinds of queue need real time."""
    for name in ("_FIRST", "_LONGEST", "_LATER", "_PROBING", "_DOUBLES_IN"):
        monkeypatch.setattr(outage, name, 0.02)
    monkeypatch.setattr(outage, "_RAMP", 0.2)


@pytest.fixture
def queue_of(make_queue: MakeQueue) -> QueueOf:
    def make(**settings: Any) -> Any:
        settings.setdefault("attempts", 2)
        policy = Policy(retry=RetryPolicy(**settings))
        queue = make_queue(maxsize=100, logger=SILENT, policy=policy)
        queue.policy = policy
        return queue

    return make


class Service:
    """It is there, or it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.called: list[Any] = []
        self.served: list[Any] = []

    async def __call__(self, item: Any) -> Any:
        self.called.append(item)
        await asyncio.sleep(0.001)
        if self.is_away:
            raise ConnectionError("nobody there")
        self.served.append(item)
        return item


async def in_outage(queue: Any, service: Service, handler: Any = None) -> None:
    """Have five workers, 20 items, and a service that went away before them."""
    await queue.process(service, 5, handler)
    await put_all(queue, "first")
    await soon(queue.join())
    service.is_away = True
    service.served.clear()
    await put_all(queue, *range(20))
    await until(lambda: queue.policy.statistics().outage_for > 0.1)


async def test_queued_items_wait_outside_the_workers_until_it_is_back(queue_of: QueueOf) -> None:
    service, handler = Service(), Handler()
    async with queue_of() as queue:
        await in_outage(queue, service, handler)
        await until(lambda: not queue.statistics().inflight)
        assert sorted(queue.unprocessed) == list(range(20))
        service.is_away = False
        await soon(queue.join())
    assert sorted(service.served) == list(range(20))
    assert not handler.got
    assert queue.policy.statistics().outage_for == 0


async def test_what_somebody_awaits_does_not_wait(queue_of: QueueOf) -> None:
    service = Service()
    async with queue_of() as queue:
        await in_outage(queue, service)
        with pytest.raises(ConnectionError):
            await soon(await queue.submit("awaited"))
        assert service.called.count("awaited") == 2
        await queue.stop(timeout=0)


async def test_a_stop_hands_back_what_is_held(queue_of: QueueOf) -> None:
    service, queue = Service(), queue_of()
    await in_outage(queue, service)
    assert await soon(queue.stop(timeout=0.05)) is False
    assert sorted(queue.unprocessed) == list(range(20))
    service.is_away = False
    await queue.process(service, 5)
    await soon(queue.join())
    assert await soon(queue.stop())
    assert Counter(service.served) == Counter(range(20))


async def test_once_given_up_it_fails_and_later_puts_get_one_attempt(queue_of: QueueOf) -> None:
    service, handler = Service(), Handler()
    async with queue_of(give_up_after=0.3) as queue:
        await in_outage(queue, service, handler)
        await soon(queue.join())
        assert sorted(handler.items) == list(range(20))
        assert {type(error) for _, error in handler.got} <= {ConnectionError, OutageError}
        await put_all(queue, "later")
        await soon(queue.join())
        assert service.called.count("later") == 1
        service.is_away = False
        await put_all(queue, "good")
        await soon(queue.join())
        assert service.served == ["good"]
        assert queue.policy.statistics().outage_for == 0


class Source:
    """Items, and how many of them were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(10_000):
            self.read += 1
            yield number


def away_from(service: Service, number: int) -> Callable[[Any], Any]:
    async def call(item: Any) -> Any:
        service.is_away |= item >= number
        return await service(item)

    return call


async def test_a_batch_reads_no_further_then_and_says_so(queue_of: QueueOf) -> None:
    service, source, queue = Service(), Source(), queue_of(give_up_after=0.3)
    with pytest.raises(OutageError) as raised:
        await soon(queue.batch_process(source, away_from(service, 10), 2, ignore))
    result = raised.value.result
    assert result.processed == source.read < 200
    assert result.failed == source.read - len(service.served)
    assert queue.status == "stopped"


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_nor_does_a_map(queue_of: QueueOf, return_exceptions: bool) -> None:
    service, source, queue, got = Service(), Source(), queue_of(give_up_after=0.3), []
    results = queue.map(
        away_from(service, 10), source, num_workers=2, return_exceptions=return_exceptions
    )

    async def read() -> None:
        async for result in results:
            got.append(result)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(OutageError):
        await soon(read())
    assert source.read < 300
    values = [result for result in got if isinstance(result, int)]
    assert values == list(range(len(values)))
    assert len(values) >= 8
    assert len(got) == (source.read if return_exceptions else len(values))


async def test_a_batch_ends_under_a_stop_as_any_batch_does(queue_of: QueueOf) -> None:
    service, source, queue = Service(), Source(), queue_of()
    batch = asyncio.create_task(queue.batch_process(source, away_from(service, 10), 2))
    await until(lambda: queue.policy.statistics().outage_for > 0.05)
    assert await soon(queue.stop(timeout=0.05)) is False
    with pytest.raises(QueueStateError):
        await soon(batch)


async def test_with_hold_a_call_waits_too(queue_of: QueueOf) -> None:
    service = Service()
    async with queue_of(hold=True) as queue:
        await in_outage(queue, service)
        future = await queue.submit("awaited", timeout=math.inf)
        called = asyncio.create_task(queue.policy.call(service, "called"))
        await asyncio.sleep(0.2)
        assert not future.done()
        assert not called.done()
        service.is_away = False
        assert await soon(future) == "awaited"
        assert await soon(called) == "called"
        await soon(queue.join())
    assert Counter(service.served) == Counter([*range(20), "awaited", "called"])
