"""Many items, workers and queues: series of ``growth.py``."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.growth_series import Meter, Series, all_of, put_all, real, tens, virtual
from benchmarks.queue_clients import do_nothing, yield_once
from penstock import (
    AdaptiveConcurrency,
    BoundedQueue,
    Event,
    Executor,
    FairShares,
    Priorities,
    QueueConfig,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits.backoff import Backoff
from penstock.telemetry import Telemetry

#: Items for each worker, and through each queue.
EACH = 100


# -- many items -----------------------------------------------------------------------------------


async def through(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](100) as queue:
        await queue.start_workers(do_nothing, 10)
        with meter:
            await put_all(queue, range(n))
            await queue.join()


async def wait_and_go(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](n) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.start_workers(do_nothing, 10)
            await queue.join()


async def priorities(n: int, meter: Meter) -> None:
    """All of them have priorities of their own."""
    order = Priorities(key=lambda item: -item)
    async with BoundedQueue[int](n, order=order) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.start_workers(do_nothing, 10)
            await queue.join()


async def keys(n: int, meter: Meter) -> None:
    """All of them are of keys of their own."""
    order = FairShares(key=lambda item: item)
    async with BoundedQueue[int](n, order=order) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.start_workers(do_nothing, 10)
            await queue.join()


async def keys_that_wait(n: int, meter: Meter) -> None:
    order = FairShares(key=lambda item: item)
    async with BoundedQueue[int](n, order=order) as queue:
        with meter:
            await put_all(queue, range(n))
        await queue.stop()


async def keys_that_are_over(n: int, meter: Meter) -> None:
    """Each has an item, and nothing is left of the keys that were."""
    order = FairShares(key=lambda item: item)
    async with BoundedQueue[int](10, order=order) as queue:
        await queue.start_workers(do_nothing, 10)
        with meter:
            await put_all(queue, range(n))
            await queue.join()


async def stock(n: int, meter: Meter) -> None:
    async with BoundedQueue[None](n) as queue:
        with meter:
            for _ in range(n):
                await queue.put(None)
        await queue.stop()


async def left_at_stop(n: int, meter: Meter) -> None:
    queue: BoundedQueue[int] = BoundedQueue(n)
    await queue.start()
    await put_all(queue, range(n))
    with meter:
        await queue.stop(drain=False)
        assert len(queue.unprocessed) == n


async def results_given_up(n: int, meter: Meter) -> None:
    """Every second item's result is wanted no more when the queue stops."""
    queue: BoundedQueue[int] = BoundedQueue(n)
    await queue.start()
    futures = [await queue.submit(item) for item in range(n)]
    for future in futures[1::2]:
        future.cancel()
    with meter:
        await queue.stop(drain=False)
        assert len(queue.unprocessed) == len(futures[::2])
    for future in futures[::2]:
        future.exception()


async def retries(jitter: Any, n: int, meter: Meter) -> None:
    """All items fail once, and wait for their second attempt at the same time."""
    failed: set[int] = set()

    async def fail_once(item: int) -> None:
        if item not in failed:
            failed.add(item)
            raise ConnectionError

    policy = RetryPolicy(2, backoff=Backoff(5.0, jitter=jitter), budget=None)
    async with WorkQueue[int](n, concurrency_limit=10, retry=policy) as queue:
        with meter:
            await put_all(queue, range(n))
            await queue.process(fail_once)
            await queue.join()
        assert queue.metrics["errors"] == 0


async def retries_spread(n: int, meter: Meter) -> None:
    await retries("full", n, meter)


async def retries_at_once(n: int, meter: Meter) -> None:
    await retries("none", n, meter)


async def read_ahead(ordered: bool, n: int, meter: Meter) -> None:
    async def same(item: int) -> int:
        return item

    async with WorkQueue[int](n, concurrency_limit=10) as queue:
        with meter:
            count = 0
            async for _ in queue.map(same, range(n), ordered=ordered):
                count += 1
        assert count == n


async def map_ordered(n: int, meter: Meter) -> None:
    await read_ahead(True, n, meter)


async def map_unordered(n: int, meter: Meter) -> None:
    await read_ahead(False, n, meter)


class Nothing(Event):
    async def invoke(self) -> None:
        pass


async def events(n: int, meter: Meter) -> None:
    config = QueueConfig(queue_capacity=n, concurrency_limit=10)
    async with Executor(Nothing, config) as executor:
        with meter:
            for _ in range(n):
                executor.append(Nothing())
            await executor.wait()
            assert executor.is_all_processed
            assert len(executor.forget_ended()) == n


# -- many workers and queues ----------------------------------------------------------------------


async def workers(n: int, meter: Meter) -> None:
    with meter:
        async with BoundedQueue[int](10 * n) as queue:
            await queue.start_workers(yield_once, n)
            await put_all(queue, range(EACH * n))
            await queue.join()


async def idle_workers(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](100) as queue:
        with meter:
            await queue.start_workers(do_nothing, n)
            await asyncio.sleep(0)


async def workers_cut_off(n: int, meter: Meter) -> None:
    """A stop cancels all workers, each with an item in hand, and a start takes these up again."""
    queue: BoundedQueue[int] = BoundedQueue(n)

    async def hang(_: int) -> None:
        await asyncio.sleep(math.inf)

    await queue.start_workers(hang, n)
    await put_all(queue, range(n))
    await asyncio.sleep(0)
    with meter:
        await queue.stop(timeout=0)
        assert len(queue.unprocessed) == n
        await queue.start_workers(do_nothing, 1)
        await queue.stop()


async def adaptive(n: int, meter: Meter) -> None:
    with meter:
        many = AdaptiveConcurrency(1, n, start=n)
        async with WorkQueue[int](10 * n, concurrency_limit=many) as queue:
            await queue.process(yield_once)
            await put_all(queue, range(EACH * n))
            await queue.join()


async def queues(n: int, meter: Meter) -> None:
    with meter:
        made = [WorkQueue[int](name=f"queue {number}") for number in range(n)]
        for queue in made:
            await queue.process(do_nothing)
        for item in range(EACH):
            for queue in made:
                await queue.put(item)
        for queue in made:
            await queue.join()
            await queue.stop()


async def idle_queues(n: int, meter: Meter) -> None:
    made: list[WorkQueue[int]] = []
    with meter:
        for number in range(n):
            made.append(WorkQueue(name=f"queue {number}"))
            await made[-1].process(do_nothing)
        await asyncio.sleep(0)
    await all_of(queue.stop() for queue in made)


async def collection(n: int, meter: Meter) -> None:
    """What a reader of metrics asks of all queues, once."""
    reader = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    made = [WorkQueue[int](name=f"queue {number}", telemetry=telemetry) for number in range(n)]
    for queue in made:
        await queue.start()
        await put_all(queue, range(10))
    with meter:
        reader.collect(timeout_millis=60_000)
    await all_of(queue.stop() for queue in made)


MANY_ITEMS = [
    Series("items through a queue", tens(3, 7), real(through)),
    Series("items that wait", tens(2, 6), real(wait_and_go), real(stock)),
    Series("items that wait, each of a priority of its own", tens(2, 5), real(priorities)),
    Series("keys of FairShares that wait", tens(2, 5), real(keys), real(keys_that_wait)),
    Series(
        "keys of FairShares that are over",
        tens(2, 5),
        real(keys_that_are_over),
        real(keys_that_are_over),
    ),
    Series("retries that wait, spread", tens(1, 5), virtual(retries_spread)),
    Series("retries that wait, due at once", tens(1, 5), virtual(retries_at_once)),
    Series("results that wait in map, in order", tens(1, 5), real(map_ordered)),
    Series("results that wait in map, as they come", tens(1, 5), real(map_unordered)),
    Series("events of an Executor", tens(1, 5), virtual(events)),
    Series("items left at a stop, and unprocessed", tens(2, 6), real(left_at_stop)),
    Series("results given up, at a stop", tens(1, 5), real(results_given_up)),
]
MANY_WORKERS = [
    Series("workers, 100 items each", tens(0, 3), real(workers), real(idle_workers)),
    Series("workers of AdaptiveConcurrency, 100 items each", tens(0, 3), real(adaptive)),
    Series("workers cut off by a stop, and their items", tens(0, 4), real(workers_cut_off)),
    Series("queues, 100 items each", tens(0, 3), real(queues), real(idle_queues)),
    Series("queues whose metrics are read", tens(0, 3), real(collection)),
]
