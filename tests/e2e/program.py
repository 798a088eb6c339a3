"""A program with three queues that sends what happens to an OTLP receiver.

    python tests/e2e/program.py http://127.0.0.1:4317

In it happens all that an observer may have to find: items that fail, items that take long, puts
that wait for room, puts that are refused. Its last line is JSON: how often each of these happened.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import sys
from collections import Counter
from typing import NamedTuple

from opentelemetry import trace

import penstock
from penstock.telemetry import Telemetry, setup

SERVICE = "shop"
#: How many of each kind there are, and how many seconds one takes.
QUICK, FAILING, SLOW, MAILS = 400, 15, 4, 30
QUICK_SECONDS, SLOW_SECONDS = 0.02, 1.5

tracer = trace.get_tracer("shop")


class Order(NamedTuple):
    """What is put into the queue "orders"."""

    kind: str
    number: int


async def fulfil(order: Order) -> None:
    """The worker function."""
    with tracer.start_as_current_span("charge card"):
        await asyncio.sleep(SLOW_SECONDS if order.kind == "slow" else QUICK_SECONDS)
        if order.kind == "failing":
            raise ValueError("card declined")


async def send_mail(number: int) -> None:
    """The worker function of the other queue. The first one fails, so its trace is kept."""
    await asyncio.sleep(QUICK_SECONDS)
    if number == 0:
        raise ConnectionError("no route to host")


async def charge(number: int) -> None:
    """The worker function of the queue that has all the rules. One item needs another attempt."""
    await asyncio.sleep(QUICK_SECONDS)
    if number % 20 == 0:
        raise ConnectionError("no route to host")


charges_breaker = penstock.CircuitBreaker(failure_share=1)


def charges_queue() -> penstock.WorkQueue[int]:
    """For the metrics alone: its spans would be counted with the others."""
    return penstock.WorkQueue[int](
        maxsize=10,
        concurrency_limit=penstock.AdaptiveConcurrency(1, 2),
        name="charges",
        telemetry=Telemetry(spans="none"),
        limits=[penstock.Limit(20, per=1, name="charges")],
        retry=penstock.RetryPolicy(attempts=2, backoff=penstock.Backoff(0.01)),
        breaker=charges_breaker,
    )


async def keep_charging(queue: penstock.WorkQueue[int]) -> None:
    for number in itertools.count():
        await queue.put(number, timeout=math.inf)
        if number == 20:  # the service asks for a pause, and it fails a little later
            queue.limits.close_for(2)
        elif number == 60:
            charges_breaker.open(2)


async def take_order(queue: penstock.WorkQueue[Order], order: Order, timeout: float) -> bool:
    """A request that leads to an item."""
    with tracer.start_as_current_span("request"):
        return await queue.put(order, timeout=timeout)


async def main() -> dict[str, int]:
    """Run it, and say what happened."""
    orders = penstock.WorkQueue[Order](maxsize=5, concurrency_limit=2, name="orders")
    mails = penstock.WorkQueue[int](
        maxsize=10, concurrency_limit=2, name="mails", telemetry=Telemetry(relation="link")
    )
    counts: Counter[str] = Counter()
    offers = 0
    charges = charges_queue()
    async with orders, mails, charges:
        await charges.process(charge, error_handler=lambda error, number: None)
        charging = asyncio.create_task(keep_charging(charges))
        await orders.process(fulfil, error_handler=lambda error, order: None)
        await mails.process(send_mail, error_handler=lambda error, number: None)
        kinds = ["quick"] * QUICK
        kinds[::27] = ["failing"] * len(kinds[::27])
        for number, kind in enumerate(kinds):
            # The queue is nearly always full, so nearly every put waits.
            assert await take_order(orders, Order(kind, number), math.inf)
            counts[kind] += 1
            if number % 20 == 0:
                offers += 1
                counts["refused"] += not await take_order(orders, Order("quick", -1), 0)
        # Both workers are held up, and what comes behind them waits as long.
        for number in range(SLOW):
            assert await take_order(orders, Order("slow", number), math.inf)
            counts["slow"] += 1
        for number in range(MAILS):
            assert await mails.put(number, timeout=math.inf)
        await orders.join()
        await mails.join()
        charging.cancel()
    statistics = orders.queue.statistics()
    return {
        **counts,
        "failing mails": 1,
        # Each request begins one. A mail's put begins one, and so does its processing.
        "traces": len(kinds) + offers + SLOW + 2 * MAILS,
        "accepted": statistics.enqueued,
        "processed": statistics.processed,
        "waited": statistics.put_waits,
        "full": statistics.backpressure_events,
    }


if __name__ == "__main__":
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    setup(SERVICE, sys.argv[1], resource_attributes={"service.instance.id": "shop-1"})
    print(json.dumps(asyncio.run(main())))  # noqa: T201 - its report
