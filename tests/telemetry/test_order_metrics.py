"""Which keys, or priorities, have items that wait: ``statistics()``, and the metric."""

from __future__ import annotations

from typing import Any

import penstock
from helpers.tasks import settle
from penstock import FairShares, Priorities
from telemetry.recorder import Recorder


def queue_of(recorder: Recorder, order: Any, **options: Any) -> penstock.WorkQueue[Any]:
    return penstock.WorkQueue(
        order=order, name="q", telemetry=recorder.telemetry(), **{"maxsize": 1000, **options}
    )


def by_key(recorder: Recorder) -> dict[Any, Any]:
    return {key: count for (_, key), count in recorder.values("penstock.order.items").items()}


async def test_the_keys_with_most_items_are_told_and_the_rest_as_other() -> None:
    recorder = Recorder()
    async with queue_of(recorder, FairShares(lambda item: item % 30)) as queue:
        await queue.put_many(range(295))
        counts = queue.statistics().waiting_by_key
        assert counts is not None
        assert len(counts) == 11
        assert counts["other"] == 295 - 100
        assert by_key(recorder) == counts
        queue.clear()


async def test_priorities_are_told_the_same_way() -> None:
    recorder = Recorder()
    async with queue_of(recorder, Priorities()) as queue:
        for priority in (0, 0, 5, -1):
            await queue.put("x", priority=priority)
        assert queue.statistics().waiting_by_key == {"0": 2, "5": 1, "-1": 1}
        assert by_key(recorder) == {"0": 2, "5": 1, "-1": 1}
        queue.clear()


async def test_what_waits_for_another_attempt_counts_and_what_is_in_hand_does_not() -> None:
    async def fail(item: str) -> None:
        raise ConnectionError

    recorder = Recorder()
    for order in (FairShares(str), Priorities(len)):
        retry = penstock.RetryPolicy(2, backoff=lambda attempt, error: 60, budget=None)
        async with queue_of(recorder, order, retry=retry) as queue:
            await queue.process(fail, 1)
            await queue.put("a")
            await queue.put("a")
            while queue.statistics().retrying < 2:
                await settle()
            assert sum((queue.statistics().waiting_by_key or {}).values()) == 2
            queue.clear()


async def test_a_key_that_has_none_any_more_is_zero_once_and_then_gone() -> None:
    recorder = Recorder()
    async with queue_of(recorder, FairShares(lambda item: item[0])) as queue:
        await queue.put("a1")
        await queue.put("b1")
        assert by_key(recorder) == {"a": 1, "b": 1}
        queue.remove(lambda item: item[0] == "a")
        assert by_key(recorder) == {"a": 0, "b": 1}
        assert by_key(recorder) == {"b": 1}
        queue.clear()


async def test_queues_of_one_name_have_ten_keys_together() -> None:
    recorder = Recorder()
    order = FairShares(lambda item: item)
    async with queue_of(recorder, order) as one, queue_of(recorder, order) as two:
        await one.put_many(range(10))
        await two.put_many(range(5, 15))
        counts = by_key(recorder)
        assert len(counts) == 11
        assert [counts[str(key)] for key in range(5, 10)] == [2] * 5
        assert sum(counts.values()) == 20
        one.clear()
        two.clear()


async def test_without_an_order_there_is_nothing() -> None:
    recorder = Recorder()
    async with queue_of(recorder, None) as queue:
        await queue.put("a")
        assert queue.statistics().waiting_by_key is None
        assert "penstock.order.items" not in recorder.metrics()
        queue.clear()
