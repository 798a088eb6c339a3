"""Many items, workers, queues, and many who wait: the series of ``growth.py`` for one queue."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Iterable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.growth_series import Meter, Series, real, tens, virtual
from benchmarks.queue_clients import do_nothing, yield_once
from penstock import (
    AdaptiveConcurrency,
    BoundedQueue,
    Event,
    Executor,
    QueueConfig,
    QueueEmptyError,
    QueueStateError,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits.backoff import Backoff
from penstock.telemetry import Telemetry

#: Items for each worker, and through each queue.
EACH = 100


async def put_all(queue: BoundedQueue[Any] | WorkQueue[Any], items: Iterable[int]) -> None:
    for item in items:
        await queue.put(item, math.inf)


async def all_of(awaitables: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


def shuffled(n: int) -> list[int]:
    numbers = list(range(n))
    random.Random(n).shuffle(numbers)
    return numbers


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


# -- many who wait --------------------------------------------------------------------------------


async def waiting_puts(queue: BoundedQueue[int], timeouts: Iterable[float]) -> list[Any]:
    """So many puts that have begun to wait."""
    tasks = [asyncio.ensure_future(queue.put(0, timeout)) for timeout in timeouts]
    await asyncio.sleep(0)
    return tasks


async def puts_served(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        with meter:
            tasks = await waiting_puts(queue, (1.0 + number for number in shuffled(n)))
            await queue.start_workers(do_nothing, 1)
            assert all(await all_of(tasks))


async def puts_late(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        with meter:
            tasks = await waiting_puts(queue, (1.0 + number / n for number in shuffled(n)))
            assert not any(await all_of(tasks))
        await queue.start_workers(do_nothing, 1)


async def puts_cancelled(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        tasks = await waiting_puts(queue, (1.0 + number for number in range(n)))
        with meter:
            for number in shuffled(n):
                tasks[number].cancel()
            await all_of(tasks)
        await queue.start_workers(do_nothing, 1)


async def puts_cancelled_with_room(n: int, meter: Meter) -> None:
    """Those for which there is room already, and who have not heard of it."""
    async with BoundedQueue[int](n) as queue:
        await put_all(queue, range(n))
        tasks = await waiting_puts(queue, [math.inf] * (n // 2))
        for _ in tasks:
            queue.get_nowait()
            queue.task_done()
        with meter:
            for task in tasks:
                task.cancel()
            await all_of(tasks)
        await queue.start_workers(do_nothing, 1)


async def gets_served(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](100) as queue:

        async def get() -> None:
            await queue.get()
            queue.task_done()

        with meter:
            tasks = [asyncio.ensure_future(get()) for _ in range(n)]
            await asyncio.sleep(0)
            await put_all(queue, range(n))
            await all_of(tasks)
        assert queue.is_empty


async def gets_late(n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        with meter:
            gets = [queue.get(1.0 + number / n) for number in shuffled(n)]
            errors = await all_of(gets)
        assert all(isinstance(error, QueueEmptyError) for error in errors)


async def joins(is_told: bool, n: int, meter: Meter) -> None:
    async with BoundedQueue[int](1) as queue:
        await queue.put(0)
        with meter:
            tasks = [asyncio.ensure_future(queue.join()) for _ in range(n)]
            await asyncio.sleep(0)
            if is_told:
                queue.get_nowait()
                queue.task_done()
            else:
                for number in shuffled(n):
                    tasks[number].cancel()
            await all_of(tasks)
        await queue.stop_workers()
        await queue.start_workers(do_nothing, 1)


async def joins_told(n: int, meter: Meter) -> None:
    await joins(True, n, meter)


async def joins_cancelled(n: int, meter: Meter) -> None:
    await joins(False, n, meter)


async def stop_with_waiters(n: int, meter: Meter) -> None:
    """Half of them puts that were granted room, half that wait for it."""
    queue: BoundedQueue[int] = BoundedQueue(n)
    await queue.start()
    await put_all(queue, range(n))
    tasks = await waiting_puts(queue, [math.inf] * n)
    for _ in range(n // 2):
        queue.get_nowait()
        queue.task_done()
    with meter:
        await queue.stop()
        outcomes = await all_of(tasks)
    assert all(isinstance(outcome, QueueStateError) for outcome in outcomes)


MANY_ITEMS = [
    Series("items through a queue", tens(3, 7), real(through)),
    Series("items that wait", tens(2, 6), real(wait_and_go), real(stock)),
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
MANY_WAITERS = [
    Series("puts that wait, served", tens(1, 5), virtual(puts_served)),
    Series("puts that wait, each until another time", tens(1, 5), virtual(puts_late)),
    Series("puts that wait, cancelled", tens(1, 5), real(puts_cancelled)),
    Series("puts that have room, cancelled", tens(1, 4), real(puts_cancelled_with_room)),
    Series("puts that wait, at a stop", tens(1, 5), real(stop_with_waiters)),
    Series("gets that wait, served", tens(1, 5), real(gets_served)),
    Series("gets that wait, each until another time", tens(1, 5), virtual(gets_late)),
    Series("joins that wait", tens(1, 5), real(joins_told)),
    Series("joins that wait, cancelled", tens(1, 5), real(joins_cancelled)),
]
