"""Two tenants of one API: one sends 120 items, the other 10, and neither waits for long.

    python examples/two_tenants.py

Runs against ``api_server.py``, which allows sixty calls a second. First without an order, then with
fair shares. What is told: after how many calls the last one of the quiet tenant was started.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from penstock import FairShares, Limit, RetryPolicy, WorkQueue

RATE = 60
BUSY, QUIET = 120, 10


@dataclass(frozen=True)
class Call:
    """A call, and whose it is."""

    tenant: str
    number: int


def tenant_of(call: Call) -> str:
    """Each tenant gets its turn."""
    return call.tenant


async def run(url: str, order: FairShares | None) -> None:
    """Make the calls of both tenants."""
    started: list[str] = []

    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:

        async def make(call: Call) -> None:
            started.append(call.tenant)
            response = await client.get(
                f"/items/{call.number}", headers={"X-Request-Id": f"{call.tenant} {call.number}"}
            )
            response.raise_for_status()

        # A little longer than a second: calls take longer or less long to the server.
        limits = [Limit(RATE, per=1.05)]
        async with WorkQueue[Call](
            1_000, concurrency_limit=20, limits=limits, retry=RetryPolicy(5), order=order
        ) as queue:
            await queue.process(make)
            for number in range(BUSY):
                if not await queue.put(Call("busy", number)):
                    raise SystemExit("no room")
            for number in range(QUIET):
                if not await queue.put(Call("quiet", number)):
                    raise SystemExit("no room")
            await queue.join()
    last = len(started) - started[::-1].index("quiet")
    name = "no order" if order is None else "fair shares"
    print(f"{name}: {QUIET} calls of the quiet tenant are among the first {last} of {len(started)}")


@contextmanager
def server() -> Iterator[str]:
    """Run the server and yield its address."""
    script = Path(__file__).with_name("api_server.py")
    command = [sys.executable, str(script), "--rate", str(RATE), "--errors", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            yield url
        finally:
            process.terminate()


async def main() -> None:
    """First come, first served; then fair shares."""
    with server() as url:
        await run(url, None)
        await run(url, FairShares(key=tenant_of))


if __name__ == "__main__":
    asyncio.run(main())
