"""A program for the dashboard to show: three minutes of a queue with ups and downs.

    python examples/observability/load.py --otlp http://localhost:4317

It is calm first; then there is a rush, more than the workers can do; then what they call is slow
and fails at times; then it is calm again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from opentelemetry import trace

import penstock
from penstock.telemetry import setup

#: Four workers at 40 ms an item do a hundred a second.
WORKERS, WORK = 4, 0.04


class Phase(NamedTuple):
    """What it is like for a part of the time."""

    share: float
    #: Orders a second.
    arrivals: float
    #: How many times longer than usual the work takes, and how much of it fails.
    slowness: float
    failures: float


PHASES = (
    Phase(share=0.3, arrivals=60, slowness=1, failures=0),
    Phase(share=0.2, arrivals=170, slowness=1, failures=0.01),
    Phase(share=0.2, arrivals=40, slowness=2, failures=0.3),
    Phase(share=0.3, arrivals=60, slowness=1, failures=0),
)

tracer = trace.get_tracer("load")


class Shop:
    """Takes orders and fulfils them, as well as the phase lets it."""

    def __init__(self, seed: int) -> None:
        self.phase = PHASES[0]
        self.queue = penstock.WorkQueue[int](
            maxsize=50, timeout=0.2, concurrency_limit=WORKERS, name="orders"
        )
        self._luck = random.Random(seed)

    async def run(self, seconds: float) -> dict[str, int]:
        """Run for so long, and say what happened."""
        async with self.queue:
            await self.queue.process(self.fulfil, error_handler=lambda error, order: None)
            customers = [
                asyncio.create_task(self.order(number)) async for number in self._arrivals(seconds)
            ]
            await asyncio.gather(*customers)
        return self.queue.metrics

    async def _arrivals(self, seconds: float) -> AsyncIterator[int]:
        """Customers, at the rate of each phase, however slow we are to serve them."""
        arrival = end = time.monotonic()
        number = 0
        for self.phase in PHASES:
            end += seconds * self.phase.share
            while arrival < end:
                arrival += self._luck.expovariate(self.phase.arrivals)
                await asyncio.sleep(max(0, arrival - time.monotonic()))
                number += 1
                yield number

    async def order(self, number: int) -> None:
        """A customer, who is sent away if there is no room in time."""
        with tracer.start_as_current_span("order"):
            await self.queue.put(number)

    async def fulfil(self, order: int) -> None:
        """The worker function."""
        with tracer.start_as_current_span("charge card"):
            await asyncio.sleep(self._luck.gammavariate(4, WORK / 4) * self.phase.slowness)
            if self._luck.random() < self.phase.failures:
                raise self._luck.choice([TimeoutError, ConnectionError])(f"order {order}")


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--otlp", help="where to send traces and metrics; nowhere by default")
    parser.add_argument("--seconds", type=float, default=180, help="how long (180)")
    parser.add_argument("--seed", type=int, default=1, help="the same luck each time (1)")
    parser.add_argument("--console", action="store_true", help="show them here, without a server")
    arguments = parser.parse_args()
    # It is refused a lot, on purpose.
    logging.getLogger("penstock").setLevel(logging.ERROR)
    if arguments.otlp or arguments.console:
        setup("shop", arguments.otlp, console=arguments.console)
    for what, count in asyncio.run(Shop(arguments.seed).run(arguments.seconds)).items():
        print(f"{what}: {count}")


if __name__ == "__main__":
    main()
