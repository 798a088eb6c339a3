"""Statistics by key, or by priority: which of them have items that wait."""

from __future__ import annotations

import math
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES, Kind
from contract.helpers import MakeQueue
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import FairShares, Priorities


@pytest.fixture(params=WORK_QUEUES)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.mark.parametrize("max_wait", [None, 60])
async def test_priorities(make_queue: MakeQueue, max_wait: float | None) -> None:
    queue: Any = make_queue(order=Priorities(max_wait=max_wait))
    await queue.start()
    for priority in (3, 0, 0, -1.5):
        await queue.put("item", priority=priority)
    assert queue.statistics().waiting_by_key == {"3": 1, "0": 2, "-1.5": 1}
    assert len(queue.clear()) == 4
    assert queue.statistics().waiting_by_key == {}


async def test_keys_and_only_of_what_no_worker_holds(make_queue: MakeQueue) -> None:
    queue: Any = make_queue(order=FairShares(key=lambda item: item[0]))
    worker = Worker(held=True)
    await queue.process(worker, 1)
    await put_all(queue, "a1", "a2", "b1")
    await until(lambda: worker.began)
    assert queue.statistics().waiting_by_key == {"a": 1, "b": 1}
    worker.may_go_on.set()
    await soon(queue.join())
    assert queue.statistics().waiting_by_key == {}


async def test_without_an_order_there_is_none(make_queue: MakeQueue) -> None:
    queue: Any = make_queue()
    await queue.start()
    await queue.put("item", math.inf)
    assert queue.statistics().waiting_by_key is None
    queue.clear()
