"""What an order costs, and what it brings: ``python -m benchmarks.orders``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from time import process_time
from typing import TypeAlias

from benchmarks import harness
from benchmarks.harness import Contest, Goal
from benchmarks.queue_clients import contestant, do_nothing
from penstock import BoundedQueue, FairShares, Priorities

#: Items in a slice.
MANY = 10_000
BOUND, WORKERS = 100, 10
#: Of one tenant and of another; after how many starts those of the second are to be done.
BUSY, QUIET, STARTS_GOAL = 10_000, 10, 25

Make: TypeAlias = Callable[[int], BoundedQueue[int]]


def bare(bound: int) -> BoundedQueue[int]:
    return BoundedQueue(bound)


def priorities(levels: int, bound: int) -> BoundedQueue[int]:
    return BoundedQueue(bound, order=Priorities(key=lambda item: item % levels))


def fair_shares(keys: int, bound: int) -> BoundedQueue[int]:
    return BoundedQueue(bound, order=FairShares(key=lambda item: item % keys))


def capped(keys: int, bound: int) -> BoundedQueue[int]:
    return BoundedQueue(bound, order=FairShares(key=lambda item: item % keys, max_per_key=bound))


def nested(keys: int, bound: int) -> BoundedQueue[int]:
    within = Priorities(key=lambda item: item % 7)
    return BoundedQueue(bound, order=FairShares(key=lambda item: item % keys, within=within))


async def through(make: Make, items: int) -> float:
    """They go through a bound of a hundred to ten workers."""
    async with make(BOUND) as queue:
        await queue.start_workers(do_nothing, WORKERS)
        begin = process_time()
        for item in range(items):
            await queue.put(item, math.inf)
        await queue.join()
        return process_time() - begin


async def wait_and_go(make: Make, items: int) -> float:
    """All are put before there are workers."""
    async with make(items) as queue:
        begin = process_time()
        for item in range(items):
            await queue.put(item, math.inf)
        await queue.start_workers(do_nothing, WORKERS)
        await queue.join()
        return process_time() - begin


BARE = "no order"


def contests() -> list[Contest]:
    few: dict[str, Make] = {
        BARE: bare,
        "Priorities, 10 numbers": partial(priorities, 10),
        "FairShares, 10 keys": partial(fair_shares, 10),
        "FairShares, 10 keys, max_per_key": partial(capped, 10),
        "FairShares, 10 keys, within=Priorities()": partial(nested, 10),
    }
    goals = {"Priorities, 10 numbers": 1.5, "FairShares, 10 keys": 1.6}
    many: dict[str, Make] = {
        BARE: bare,
        **{f"Priorities, {n:,} numbers": partial(priorities, n) for n in (1, 10, 1_000, 100_000)},
        **{f"FairShares, {n:,} keys": partial(fair_shares, n) for n in (1, 10, 1_000, 100_000)},
    }
    return [
        Contest(
            "Items through a queue",
            BARE,
            [contestant(name, partial(through, make), MANY) for name, make in few.items()],
            goals,
        ),
        Contest(
            "100,000 items that wait, and go",
            BARE,
            [contestant(name, partial(wait_and_go, make), 100_000) for name, make in many.items()],
        ),
    ]


async def starts_until_done(order: FairShares | None) -> int:
    """10,000 items of one tenant wait, then 10 of another come: the start of the last of these."""
    started: list[str] = []

    async def work(tenant: str) -> None:
        started.append(tenant)
        await asyncio.sleep(0)

    async with BoundedQueue[str](BUSY + QUIET, order=order) as queue:
        for tenant, count in (("busy", BUSY), ("quiet", QUIET)):
            for _ in range(count):
                await queue.put(tenant)
        await queue.start_workers(work, WORKERS)
        await queue.join()
    return len(started) - started[::-1].index("quiet")


def main() -> None:
    options = harness.options("What an order costs, and what it brings.", rounds=15)
    held = contests()
    harness.hold(held, options)
    orders = {"no order": None, "FairShares": FairShares(key=lambda tenant: tenant)}
    starts = {name: asyncio.run(starts_until_done(order)) for name, order in orders.items()}

    goals = [goal for contest in held for goal in contest.reached()]
    what = f"{BUSY:,} items of one tenant, then {QUIET} of another: starts until these are done"
    goals.append(Goal(f"{what}: FairShares", STARTS_GOAL, starts["FairShares"], "{:.0f}"))
    about = f"{harness.surroundings(['penstock'])}; {options.rounds} rounds"
    table = harness.table(("", "starts"), [(name, f"{n:,}") for name, n in starts.items()])
    report = harness.report(about, goals, held, f"### {what}", table)
    harness.publish("orders", report, write=options.write)


if __name__ == "__main__":
    main()
