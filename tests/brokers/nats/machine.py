"""A machine that shares a limit: prints when its calls started. Run by the tests, in processes.

Reads what it shall do as JSON; prints ``ready``, starts when it is told, and prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

#: By how much its clocks are wrong, in seconds.
SKEW = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
true_monotonic, true_time = time.monotonic, time.time
if SKEW:
    time.monotonic = lambda: true_monotonic() + SKEW
    time.time = lambda: true_time() - SKEW

from penstock import Limit  # noqa: E402 - its clocks are wrong from the start
from penstock.brokers.nats import NatsLimiter  # noqa: E402


async def main(job: dict[str, Any]) -> None:
    limits = [Limit(most, per, name=name) for name, most, per in job["limits"]]
    limiter = NatsLimiter(job["urls"], limits, name=job["name"], replicas=min(3, len(job["urls"])))
    starts: list[float] = []
    await limiter.acquire()
    print("ready", flush=True)  # noqa: T201 - it is for the test
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def work() -> None:
        while len(starts) < job["calls"]:
            permit = await limiter.acquire()
            # When the limiter let it start. The kernel may hold up this process before it can look
            # at a clock itself, and would make two calls look nearer to each other than they are.
            starts.append(permit._records[0].at - SKEW)

    await asyncio.gather(*(work() for _ in range(job["waiters"])))
    print(json.dumps({"starts": starts, "requests": limiter.calls}), flush=True)  # noqa: T201
    await limiter.aclose()


asyncio.run(main(json.loads(sys.argv[1])))
