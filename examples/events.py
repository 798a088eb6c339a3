"""Work as objects that have a state, run by an Executor.

Prints the result of each event.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import penstock


@dataclass
class Lookup(penstock.Event):
    """One question to a service."""

    city: str

    async def invoke(self) -> str:
        """Ask it."""
        await asyncio.sleep(0.05)
        if self.city == "Atlantis":
            raise LookupError("no such city")
        return f"{self.city} has {len(self.city)} letters"


async def main() -> None:
    """Run five lookups, two at once, at most five in any second."""
    config = penstock.QueueConfig(queue_capacity=5, capacity_refresh_time=1.0, concurrency_limit=2)
    async with penstock.Executor(Lookup, config) as executor:
        for city in ("Oslo", "Quito", "Atlantis", "Hanoi", "Lagos"):
            executor.append(Lookup(city))
        await executor.forward()
        await executor.wait()
    for event in executor.completed:
        print(event.execution.result)
    for event in executor.failed:
        print(f"{event.city} failed: {event.execution.error}")


if __name__ == "__main__":
    asyncio.run(main())
