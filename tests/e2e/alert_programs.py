"""Queues for the alerts: some are well, and some are not, each in its own way.

Prints the port at which Prometheus finds them. The end of its input ends the program; a line on it
begins what happens once only.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import sys
from collections.abc import Awaitable, Callable

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from penstock import Backoff, CircuitBreaker, RetryPolicy, WorkQueue

Queue = WorkQueue[int]


async def fine(item: int) -> None:
    await asyncio.sleep(0.01)


async def fails(item: int) -> None:
    await asyncio.sleep(0.01)
    raise ConnectionError(f"item {item}")


def ignore(error: BaseException, item: int) -> None:
    """An error handler: the log is no part of this."""


async def feed(queue: Queue, pause: float = 0.02) -> None:
    """Put items for ever, waiting for room."""
    for item in itertools.count():
        await queue.put(item, timeout=math.inf)
        await asyncio.sleep(pause)


async def batch(begins: asyncio.Event) -> None:
    """It is full all the time, as a batch is."""
    queue = Queue(20, name="batch", concurrency_limit=2)
    async with queue:
        await queue.batch_process(itertools.count(), fine)


async def paced(begins: asyncio.Event) -> None:
    """Its limit holds it back, as it should."""
    async with Queue(20, name="paced", limits=["20/s"]) as queue:
        await queue.process(fine)
        await feed(queue)


async def retried(begins: asyncio.Event) -> None:
    """Each item fails once, and then succeeds."""
    failed: set[int] = set()

    async def fail_once(item: int) -> None:
        await asyncio.sleep(0.01)
        if item not in failed:
            failed.add(item)
            raise ConnectionError(f"item {item}")

    retry = RetryPolicy(attempts=3, backoff=Backoff(0.05), budget=None)
    async with Queue(50, name="retried", retry=retry) as queue:
        await queue.process(fail_once, 4, ignore)
        await feed(queue)


async def stuck(begins: asyncio.Event) -> None:
    """All its workers hang, from some time on."""

    async def hang(item: int) -> None:
        if begins.is_set():
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)

    async with Queue(20, name="stuck", concurrency_limit=2) as queue:
        await queue.process(hang)
        await feed(queue)


async def gate(begins: asyncio.Event) -> None:
    """A service asks for a long pause."""
    async with Queue(20, name="gate", limits=["100/s"]) as queue:
        await queue.process(fine)
        feeding = asyncio.create_task(feed(queue))
        await begins.wait()
        queue.limits.close_for(3600)
        await feeding


async def burst(begins: asyncio.Event) -> None:
    """300 items fail at once, and then nothing happens any more."""
    async with Queue(500, name="burst") as queue:
        await queue.process(fails, 50, ignore)
        await begins.wait()
        for item in range(300):
            await queue.put(item)
        await asyncio.Event().wait()


async def dead_letters(begins: asyncio.Event) -> None:
    """Now and then one item of many is given up."""

    async def fail_some(item: int) -> None:
        await asyncio.sleep(0.01)
        if begins.is_set() and item % 50 == 0:
            raise ConnectionError(f"item {item}")

    retry = RetryPolicy(attempts=2, backoff=Backoff(0.01), budget=None)
    async with Queue(50, name="dead letters", retry=retry) as queue:
        await queue.process(fail_some, 4, ignore)
        await feed(queue)


async def breaker(begins: asyncio.Event) -> None:
    """The service fails for good, and the breaker opens."""

    async def fail_later(item: int) -> None:
        await asyncio.sleep(0.01)
        if begins.is_set():
            raise ConnectionError(f"item {item}")

    retry = RetryPolicy(attempts=100, backoff=Backoff(0.1), budget=None)
    opens = CircuitBreaker(window=10, open_for=3600)
    async with Queue(20, name="breaker", retry=retry, breaker=opens) as queue:
        await queue.process(fail_later, 4, ignore)
        await feed(queue)


async def refused(begins: asyncio.Event) -> None:
    """More is offered than it can do, and producers do not wait."""
    async with Queue(10, name="refused", concurrency_limit=1) as queue:
        await queue.process(fine)
        await begins.wait()
        while True:
            await queue.put(0, timeout=0)
            await asyncio.sleep(0.003)


PROGRAMS: tuple[Callable[[asyncio.Event], Awaitable[None]], ...] = (
    batch,
    paced,
    retried,
    stuck,
    gate,
    burst,
    dead_letters,
    breaker,
    refused,
)


async def main() -> None:
    begins = asyncio.Event()
    loop = asyncio.get_running_loop()
    programs = [asyncio.ensure_future(program(begins)) for program in PROGRAMS]
    await loop.run_in_executor(None, sys.stdin.readline)
    begins.set()
    reading = loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.wait([*programs, reading], return_when=asyncio.FIRST_COMPLETED)
    for program in programs:
        if program.done():
            program.result()  # none of them ends
    os._exit(0)  # without a word to anybody, as a program that was killed


if __name__ == "__main__":
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    server, _ = start_http_server(0, addr="127.0.0.1")
    print(server.server_port, flush=True)  # noqa: T201 - for who started it
    asyncio.run(main())
