"""A program for Prometheus to scrape: a queue that is overloaded, one left by its workers, others.

Prints the port that it listens on. A line on its standard input takes the workers away from the
queue "abandoned"; the end of its input ends the program.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys

from alert_programs import breaker, dead_letters, gate
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

import penstock


async def work(number: int) -> None:
    await asyncio.sleep(0.01)
    if number % 5 == 0:
        raise ValueError(f"{number} is a multiple of five")


async def produce(queue: penstock.WorkQueue[int]) -> None:
    for number in itertools.count():
        # Every other put waits for room: some of these get it, and the others are refused.
        if not await queue.put(number, timeout=0.005 if number % 2 else 0):
            await asyncio.sleep(0.001)


def limited_queue() -> penstock.WorkQueue[int]:
    """One that has all the rules there are."""
    return penstock.WorkQueue[int](
        maxsize=10,
        concurrency_limit=penstock.AdaptiveConcurrency(2, 5),
        name="limited",
        limits=[penstock.Limit(50, per=1, name="requests")],
        retry=penstock.RetryPolicy(attempts=2, on=ValueError, backoff=penstock.Backoff(0.01)),
        breaker=penstock.CircuitBreaker(failure_share=1),
        order=penstock.FairShares(key=lambda number: number % 3),
    )


async def next_line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def main() -> None:
    overloaded = penstock.WorkQueue[int](maxsize=10, concurrency_limit=2, name="overloaded")
    abandoned = penstock.WorkQueue[int](name="abandoned")
    limited = limited_queue()
    async with overloaded, abandoned, limited:
        await overloaded.process(work, error_handler=lambda error, item: None)
        await abandoned.process(work)
        await limited.process(work, error_handler=lambda error, item: None)
        producers = [asyncio.create_task(produce(overloaded)) for _ in range(3)]
        producers.append(asyncio.create_task(produce(limited)))
        begins = asyncio.Event()
        others = [asyncio.create_task(each(begins)) for each in (breaker, dead_letters, gate)]
        await asyncio.sleep(0.5)
        begins.set()
        await next_line()
        await abandoned.queue.stop_workers()
        for number in range(3):
            await abandoned.put(number)
        await next_line()
        for task in (*producers, *others):
            task.cancel()
        await asyncio.wait(others, timeout=5)
        await overloaded.stop(drain=False)
        await abandoned.stop(drain=False)
        await limited.stop(timeout=0, drain=False)


if __name__ == "__main__":
    logging.getLogger("penstock").setLevel(logging.CRITICAL)  # it refuses all the time
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    server, _ = start_http_server(0, addr="127.0.0.1")
    print(server.server_port, flush=True)  # noqa: T201 - for who started it
    asyncio.run(main())
    server.shutdown()
