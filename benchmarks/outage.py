"""A job of 400 calls to a server that is away for a while: ``python -m benchmarks.outage``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import httpx
import tenacity

from benchmarks import harness
from benchmarks.harness import Goal
from penstock import RetryPolicy, WorkQueue

ITEMS, PER_SECOND, WORKERS, ATTEMPTS = 400, 20, 5, 5
#: Seconds after which the server goes, and for which it is away.
GOES_AFTER, AWAY = 5.0, (1.0, 3.0, 10.0, 30.0)
MOST_CALLS = 1.1

Call: TypeAlias = Callable[[int], Awaitable[None]]
#: Has all items called, and returns how many failed for good.
Client: TypeAlias = Callable[[Call, AsyncIterator[int]], Awaitable[int]]

PENSTOCK = "penstock, RetryPolicy(5)"


class Server:
    """Answers each request with 200, while it is there; then nobody listens at its port."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def come(self) -> None:
        """Listen; the second time at the port of the first."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def go(self) -> None:
        """Close the port, and break off all connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
        finally:
            self._connections.discard(writer)
            writer.close()


async def items(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
        await asyncio.sleep(1 / PER_SECOND)


# -- who does the job -----------------------------------------------------------------------------


async def with_penstock(call: Call, source: AsyncIterator[int], hold: bool | None = None) -> int:
    queue = WorkQueue[int](100, retry=RetryPolicy(ATTEMPTS, hold=hold))
    result = await queue.batch_process(source, call, WORKERS, lambda *_: None)
    return result.failed


async def with_tenacity(call: Call, source: AsyncIterator[int]) -> int:
    """A semaphore, and five attempts with the waits that penstock has by default."""
    slots, failed = asyncio.Semaphore(WORKERS), 0
    wait = tenacity.wait_random_exponential(multiplier=0.05, max=20)
    retry = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS), wait=wait, reraise=True
    )

    async def one(item: int) -> None:
        nonlocal failed
        async with slots:
            try:
                await retry(call, item)
            except httpx.TransportError:
                failed += 1

    await asyncio.gather(*[asyncio.create_task(one(item)) async for item in source])
    return failed


CLIENTS: dict[str, Client] = {
    PENSTOCK: with_penstock,
    "the same, hold=False": partial(with_penstock, hold=False),
    "semaphore, tenacity": with_tenacity,
}


# -- the job --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of one client's job."""

    lost: int
    calls: float
    seconds: float


@dataclass
class Scenario:
    """The server is away for so many seconds."""

    title: str
    away: float
    count: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def table(self) -> str:
        """What came out."""
        rows = [
            (name, str(one.lost), f"{one.calls:.2f}", f"{one.seconds:.1f}")
            for name in CLIENTS
            for one in [self.outcomes[name]]
        ]
        return harness.table(("", "lost", "calls an item", "seconds"), rows)

    async def run(self, name: str) -> None:
        """Have a client do the job."""
        server, served, calls = Server(), Counter[int](), 0
        loop = asyncio.get_running_loop()
        await server.come()

        async def be_away() -> None:
            await asyncio.sleep(GOES_AFTER)
            server.go()
            await asyncio.sleep(self.away)
            await server.come()

        async with httpx.AsyncClient(trust_env=False) as client:

            async def call(item: int) -> None:
                nonlocal calls
                calls += 1
                await client.get(f"http://127.0.0.1:{server.port}/{item}")
                served[item] += 1

            going, began = asyncio.create_task(be_away()), loop.time()
            failed = await CLIENTS[name](call, items(self.count))
            seconds = loop.time() - began
            await going
        server.go()
        if failed != self.count - len(served):
            raise SystemExit(f"{name}: {failed} failed, and {len(served)} were served")
        self.outcomes[name] = Outcome(failed, calls / self.count, seconds)


async def hold(scenarios: list[Scenario]) -> None:
    """All at once: they wait, most of the time."""
    runs = [scenario.run(name) for scenario in scenarios for name in CLIENTS]
    await asyncio.gather(*runs)


def main() -> None:
    options = harness.options("Do a job while the server is away for a while.", rounds=1)
    count = 150 if options.quick else ITEMS
    scenarios = [
        Scenario(f"Away for {away:g} s", away, count)
        for away in (AWAY[:1] if options.quick else AWAY)
    ]
    asyncio.run(hold(scenarios))
    goals = []
    for scenario in scenarios:
        outcome = scenario.outcomes[PENSTOCK]
        goals.append(Goal(f"{scenario.title}: lost", 0, outcome.lost, "{:.0f}"))
        goals.append(Goal(f"{scenario.title}: calls an item", MOST_CALLS, outcome.calls))
    about = harness.surroundings(("penstock", "httpx", "tenacity"))
    report = harness.report(about, goals, scenarios)
    harness.publish("a server that is away", report, write=options.write)


if __name__ == "__main__":
    main()
