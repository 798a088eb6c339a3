"""A limiter against its peers, and items under limits: ``python -m benchmarks.limits``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import process_time
from typing import Any, TypeAlias

import aiolimiter
import pyrate_limiter

from benchmarks import harness
from benchmarks.harness import Contest, Contestant, Goal
from penstock import Limit, Limiter, RetryPolicy, WorkQueue

#: Acquires in a slice, of the fast contestants and of the slow one.
MANY, FEW = 10_000, 5_000
#: A limit that leaves room for any number of them.
ROOM, MINUTE = 1_000_000, 60.0

MICROSECONDS_GOAL = 2.0
SHARE_GOAL = 2.0
ITEM_GOAL = 2.0

Acquire: TypeAlias = Callable[[], Awaitable[object]]
#: Makes a limiter of so many per so many seconds.
Make: TypeAlias = Callable[[int, float], AbstractAsyncContextManager[Acquire]]


@asynccontextmanager
async def ours(maximum: int, per: float) -> AsyncIterator[Acquire]:
    yield Limiter([Limit(maximum, per)]).acquire


@asynccontextmanager
async def ours_with_tokens(maximum: int, per: float) -> AsyncIterator[Acquire]:
    tokens = Limit(maximum * 1_000, per, cost=lambda _: 700, name="tokens")
    yield Limiter([Limit(maximum, per), tokens]).acquire


@asynccontextmanager
async def theirs_aiolimiter(maximum: int, per: float) -> AsyncIterator[Acquire]:
    yield aiolimiter.AsyncLimiter(maximum, per).acquire


@asynccontextmanager
async def theirs_pyrate(maximum: int, per: float) -> AsyncIterator[Acquire]:
    rate = pyrate_limiter.Rate(maximum, int(per * 1000))
    limiter = pyrate_limiter.Limiter(rate)
    try:
        yield limiter.try_acquire_async
    finally:
        limiter.close()


OURS, TOKENS = "penstock, one limit", "penstock, requests and tokens"
AIOLIMITER, PYRATE = "aiolimiter", "pyrate-limiter, async"
MAKERS: dict[str, Make] = {
    OURS: ours,
    TOKENS: ours_with_tokens,
    AIOLIMITER: theirs_aiolimiter,
    PYRATE: theirs_pyrate,
}


# -- acquire with room ----------------------------------------------------------------------------


async def acquire_with_room(make: Make, items: int) -> float:
    async with make(ROOM, MINUTE) as acquire:
        begin = process_time()
        for _ in range(items):
            await acquire()
        return process_time() - begin


def in_loop(make: Make, items: int) -> float:
    return asyncio.run(acquire_with_room(make, items))


def with_room() -> Contest:
    return Contest(
        "Acquire with room",
        AIOLIMITER,
        [
            Contestant(name, partial(in_loop, make), FEW if name == PYRATE else MANY)
            for name, make in MAKERS.items()
        ],
    )


# -- items of a queue -----------------------------------------------------------------------------

BARE, UNDER_POLICY = "neither limits nor retries", "one limit and retries"
#: What is given to each queue, made anew for it.
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    BARE: dict,
    "retries": lambda: {"retry": RetryPolicy()},
    UNDER_POLICY: lambda: {"limits": [Limit(ROOM, MINUTE)], "retry": RetryPolicy()},
    # As in a queue that runs for long: for each start that is counted, another leaves the window.
    f"{UNDER_POLICY}, a window of 10 ms": lambda: {
        "limits": [Limit(ROOM, 0.01)],
        "retry": RetryPolicy(),
    },
}


async def do_nothing(_: int) -> None:
    pass


async def yield_once(_: int) -> None:
    await asyncio.sleep(0)


async def items_of_queue(
    settings: Callable[[], dict[str, Any]],
    work: Callable[[int], Coroutine[Any, Any, None]],
    items: int,
) -> float:
    async with WorkQueue[int](100, concurrency_limit=10, **settings()) as queue:
        await queue.process(work)
        begin = process_time()
        for item in range(items):
            while not await queue.put(item):
                pass
        await queue.join()
        return process_time() - begin


def under_policy(title: str, work: Callable[[int], Coroutine[Any, Any, None]]) -> Contest:
    def run(settings: Callable[[], dict[str, Any]], items: int) -> float:
        return asyncio.run(items_of_queue(settings, work, items))

    return Contest(
        title,
        BARE,
        [Contestant(name, partial(run, settings), FEW) for name, settings in SETTINGS.items()],
    )


# -- a thousand who wait --------------------------------------------------------------------------

WAITERS, RATE = 1_000, 10


async def share_of_cpu(make: Make, seconds: float) -> float:
    """Per cent of a core while so many wait and ten a second go through."""
    async with make(RATE, 1.0) as acquire:
        tasks = [asyncio.ensure_future(acquire()) for _ in range(WAITERS)]
        await asyncio.sleep(0.2)  # making them is not what is measured
        wall, cpu = time.perf_counter(), process_time()
        await asyncio.sleep(seconds)
        share = (process_time() - cpu) / (time.perf_counter() - wall)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return 100 * share


# -- what a window holds --------------------------------------------------------------------------

PER, CALLERS = 0.5, 20


@dataclass
class Window:
    """What went through, a figure a round."""

    most: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


async def what_goes_through(make: Make, periods: int) -> list[float]:
    """When each start was, while twenty callers ask for more all the time."""
    times: list[float] = []
    async with make(RATE, PER) as acquire:
        end = time.perf_counter() + periods * PER

        async def caller() -> None:
            while True:
                await acquire()
                now = time.perf_counter()
                if now >= end:
                    return
                times.append(now)

        tasks = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
        await asyncio.sleep(periods * PER)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return times


def most_in_any_window(times: list[float]) -> int:
    # A caller notes its time some microseconds after its start: half a per cent is for that.
    length = PER * 0.995
    return max(sum(begin <= at < begin + length for at in times) for begin in times)


# -- the report -----------------------------------------------------------------------------------


def main() -> None:
    options = harness.options("Compare a limiter in one event loop with its peers.", rounds=15)
    rounds = max(1, options.rounds // 5)
    seconds = 0.5 if options.quick else 2.0
    periods = 2 if options.quick else 5

    contest = with_room()
    item = under_policy("An item of a queue that does nothing", do_nothing)
    item.goals[UNDER_POLICY] = ITEM_GOAL
    waiting_item = under_policy("An item of a queue that yields once", yield_once)
    harness.hold([contest, item, waiting_item], options)
    shares: dict[str, list[float]] = {name: [] for name in MAKERS}
    windows = {name: Window() for name in MAKERS}
    names = list(MAKERS)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            shares[name].append(asyncio.run(share_of_cpu(MAKERS[name], seconds)))
            times = asyncio.run(what_goes_through(MAKERS[name], periods))
            windows[name].most.append(most_in_any_window(times))
            windows[name].starts.append(len(times))

    micros = statistics.median(contest.times[OURS]) * 1e6
    share = statistics.median(shares[OURS])
    most = max(windows[OURS].most)
    waiters = f"CPU at {WAITERS:,} waiters"
    goals = [
        Goal(f"Acquire with room, µs: {OURS}", MICROSECONDS_GOAL, micros, "{:.1f}"),
        *item.reached(),
        Goal(f"{waiters}, per cent: {OURS}", SHARE_GOAL, share, "{:.1f}"),
        Goal(f"Most starts in any window of a limit of {RATE}: {OURS}", RATE, most, "{:.0f}"),
    ]
    head = ("", waiters, "most in any window", f"starts in {periods} periods")
    rows = [
        (
            name,
            f"{statistics.median(shares[name]):.1f} %",
            str(max(windows[name].most)),
            f"{statistics.median(windows[name].starts):.0f}",
        )
        for name in MAKERS
    ]
    about = harness.surroundings(("penstock", "aiolimiter", "pyrate-limiter"))
    report = harness.report(
        f"{about}; {options.rounds} rounds, {rounds} of the second kind",
        goals,
        [contest, item, waiting_item],
        f"### {RATE} a period, and more who want to",
        harness.table(head, rows),
    )
    harness.publish("limits", report, write=options.write)


if __name__ == "__main__":
    main()
