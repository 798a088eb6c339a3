"""A queue on NATS, against nats-py used by hand and task queues: ``python -m benchmarks.brokers``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import TypeAlias

from benchmarks import harness, servers
from benchmarks.broker_clients import (
    BOUND,
    ByHand,
    ByHandInBatches,
    Client,
    Item,
    Left,
    Penstock,
    Saq,
    Taskiq,
    nats_onlooker,
    number_of,
    produce,
    put_all,
    redis_onlooker,
)
from benchmarks.harness import Contest, Contestant, Goal, Spread

#: Items in a slice; so many that the bound is reached, where producers outrun the workers; and for
#: those that take several times as long.
ITEMS, MORE, FEW = BOUND, 3 * BOUND, 300
#: Seconds that a slice may take.
LIMIT = 120.0
#: The least share of the rate of nats-py by hand that we want to see.
GOAL = 0.8

Go: TypeAlias = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Way:
    """A way to put and take items, on a server that runs."""

    name: str
    client: type[Client]
    onlooker: Callable[[str], AbstractAsyncContextManager[Left]]
    url: str
    #: The most items in a slice.
    most: int = MORE


# -- who puts -------------------------------------------------------------------------------------


class Producers:
    """So many who put, each one item after the other."""

    def __init__(self, count: int) -> None:
        self.count = count

    def shares(self, items: int) -> Iterator[range]:
        return (range(first, items, self.count) for first in range(self.count))

    @asynccontextmanager
    async def ready(self, way: Way, client: Client, items: int) -> AsyncIterator[Go]:
        """What has them put their shares of the items; it returns CPU time of other processes."""
        raise NotImplementedError
        yield


class Tasks(Producers):
    """Tasks in this process, by the client that the workers use."""

    @asynccontextmanager
    async def ready(self, way: Way, client: Client, items: int) -> AsyncIterator[Go]:
        async def go() -> float:
            await asyncio.gather(*(put_all(client, share) for share in self.shares(items)))
            return 0.0

        yield go


class Processes(Producers):
    """Processes, each with a client of its own."""

    def __init__(self, pipes: list[Connection]) -> None:
        super().__init__(len(pipes))
        self._pipes = pipes

    @asynccontextmanager
    async def ready(self, way: Way, client: Client, items: int) -> AsyncIterator[Go]:
        for pipe, share in zip(self._pipes, self.shares(items), strict=True):
            pipe.send((way.client, way.url, share))
        await self._answers()

        async def go() -> float:
            for pipe in self._pipes:
                pipe.send(None)
            return sum(await self._answers())

        yield go

    async def _answers(self) -> list[float]:
        answers = (asyncio.to_thread(pipe.recv) for pipe in self._pipes)
        return list(await asyncio.gather(*answers))


@contextmanager
def processes(count: int) -> Iterator[Processes]:
    """Start them, and end them."""
    context = multiprocessing.get_context("spawn")
    pipes, started = [], []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=produce, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        started.append(process)
    yield Processes(pipes)
    for pipe, process in zip(pipes, started, strict=True):
        pipe.send(None)
        process.join(LIMIT)


# -- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """Seconds: by the clock, and of the CPU of all processes of ours."""

    wall: float
    cpu: float


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()

    def read(self, more_cpu: float = 0.0) -> Took:
        return Took(perf_counter() - self._wall, process_time() - self._cpu + more_cpu)


class Done:
    """Sees that each item is processed."""

    def __init__(self, items: int) -> None:
        self._missing = set(range(items))
        self._all = asyncio.Event()

    async def work(self, item: Item) -> None:
        self._missing.discard(number_of(item))  # at least once is what is promised
        if not self._missing:
            self._all.set()

    async def wait(self, left: Left) -> None:
        """Until the workers have had all, and the server knows that they are done."""

        async def nothing_left() -> None:
            await self._all.wait()
            while await left():
                pass

        await asyncio.wait_for(nothing_left(), LIMIT)


async def put(producers: Producers, way: Way, items: int) -> Took:
    """Put into a queue that has room."""
    client = way.client(way.url)
    async with way.onlooker(way.url) as left, client.open():
        async with producers.ready(way, client, items) as go:
            watch = Stopwatch()
            took = watch.read(await go())
        assert await left() == items, "not all are stored"
    return took


async def get(way: Way, items: int) -> Took:
    """Have workers take what is there, and do nothing with it but to acknowledge it."""
    client, done = way.client(way.url), Done(items)
    async with way.onlooker(way.url) as left, client.open():
        await asyncio.gather(*(client.put(number) for number in range(items)))
        watch = Stopwatch()
        async with client.work(done.work):
            await done.wait(left)
            return watch.read()


async def end_to_end(producers: Producers, way: Way, items: int) -> Took:
    """Put while workers take; producers wait while there is no room."""
    client, done = way.client(way.url), Done(items)
    async with (
        way.onlooker(way.url) as left,
        client.open(),
        client.work(done.work),
        producers.ready(way, client, items) as go,
    ):
        watch = Stopwatch()
        more_cpu = await go()
        await done.wait(left)
        return watch.read(more_cpu)


# -- the contests ---------------------------------------------------------------------------------

PENSTOCK = "penstock NatsQueue"
EACH = "nats-py by hand, a subscription per worker"
BATCHES = "nats-py by hand, batches of ten"
BY_HAND = "nats-py by hand"


class RateContest(Contest):
    """Items per second by the clock, with CPU time beside; the baseline is the fastest by hand."""

    def __init__(
        self,
        title: str,
        measure: Callable[[Way, int], Awaitable[Took]],
        ways: Iterable[Way],
        items: int = ITEMS,
        *,
        ours: str = PENSTOCK,
        by_hand: str = BY_HAND,
    ) -> None:
        self.ours, self._by_hand = ours, by_hand
        ways = list(ways)
        self.cpu: dict[str, list[float]] = {way.name: [] for way in ways}
        super().__init__(
            title,
            by_hand,
            [
                Contestant(way.name, partial(self._run, measure, way), min(items, way.most))
                for way in ways
            ],
            {ours: GOAL},
        )

    def _run(self, measure: Callable[[Way, int], Awaitable[Took]], way: Way, items: int) -> float:
        async def main() -> Took:
            return await measure(way, items)

        took = asyncio.run(main())
        self.cpu[way.name].append(took.cpu / items)
        return took.wall

    def forget(self) -> None:
        super().forget()
        for figures in self.cpu.values():
            figures.clear()

    def hold(self, rounds: int, scale: float = 1.0, *, warm_up: bool = True) -> None:
        super().hold(rounds, scale, warm_up=warm_up)
        by_hand = [name for name in self.times if name.startswith(self._by_hand)]
        self.baseline = min(by_hand, key=lambda name: statistics.median(self.times[name]))

    def ratio(self, name: str) -> Spread:
        """How much of the baseline's rate a contestant has."""
        pairs = zip(self.times[name], self.times[self.baseline], strict=True)
        return Spread.of([base / time for time, base in pairs])

    def table(self) -> str:
        rows = []
        for name, times in self.times.items():
            is_baseline = name == self.baseline
            rate, ratio = Spread.of([1 / time for time in times]), self.ratio(name)
            rows.append(
                (
                    f"**{name}**" if name in self.goals else name,
                    f"{rate.median:.0f}",
                    f"{rate.low:.0f} to {rate.high:.0f}",
                    "1" if is_baseline else f"{ratio.median:.2f}",
                    "" if is_baseline else f"{ratio.low:.2f} to {ratio.high:.2f}",
                    f"{statistics.median(self.cpu[name]) * 1e6:.0f}",
                )
            )
        head = ("", "items per second", "quartiles", "ratio", "quartiles", "CPU µs per item")
        return harness.table(head, rows)

    def reached(self) -> list[Goal]:
        """The goal: at least so much of the baseline's rate."""
        what = f"{self.title}: {self.ours} against {self.baseline}"
        return [Goal(what, GOAL, self.ratio(self.ours).median, at_least=True)]


def contests(nats_url: str, redis_url: str | None, apart: Processes) -> list[RateContest]:
    at_nats = partial(Way, onlooker=nats_onlooker, url=nats_url)
    penstock, taskiq = at_nats(PENSTOCK, Penstock), at_nats("taskiq on NATS", Taskiq)
    others = [taskiq]
    if redis_url is not None:
        others.append(Way("SAQ on Redis", Saq, redis_onlooker, redis_url, FEW))
    putting = [penstock, at_nats(BY_HAND, ByHand), *others]
    working = [penstock, at_nats(EACH, ByHand), at_nats(BATCHES, ByHandInBatches), *others]
    one, several = Tasks(1), Tasks(4)
    processes_of_their_own = f"{apart.count} producers in processes of their own"
    return [
        RateContest("Put, one producer", partial(put, one), putting),
        RateContest("Put, 4 producers", partial(put, several), putting),
        RateContest(f"Put, {processes_of_their_own}", partial(put, apart), putting),
        RateContest("Get and acknowledge", get, working),
        RateContest("End to end, one producer", partial(end_to_end, one), working),
        RateContest("End to end, 4 producers", partial(end_to_end, several), working),
        RateContest(
            f"End to end, {processes_of_their_own}",
            partial(end_to_end, apart),
            working,
            MORE,
        ),
    ]


def main() -> None:
    options = harness.options("Compare a queue on NATS with its peers.", rounds=15)
    nats_program, redis_program = servers.find_nats(), servers.find_redis()
    if nats_program is None:
        print(
            "There is no nats-server: install it (Debian: apt-get install nats-server), or name "
            f"one by {servers.NATS_SERVER}",
            file=sys.stderr,
        )
        return
    if redis_program is None:
        print("There is no redis-server: without SAQ", file=sys.stderr)
    for name in ("saq", "taskiq"):  # they complain of each stop, and SAQ of each start
        logging.getLogger(name).setLevel(logging.CRITICAL)

    load = f"load {os.getloadavg()[0]:.1f} before, " if hasattr(os, "getloadavg") else ""
    with ExitStack() as stack:
        nats_url = stack.enter_context(servers.nats(nats_program))
        redis_url = redis_program and stack.enter_context(servers.redis(redis_program))
        # Each process takes a second of CPU to start: where it is quick there is one.
        apart = stack.enter_context(processes(1 if options.quick else 4))
        held = contests(nats_url, redis_url, apart)
        if options.quick:
            held = held[::3]
        harness.hold(held, options)

    packages = ("penstock", "nats-py", "taskiq", "taskiq-nats", "saq", "redis", "hiredis")
    programs = [version(program) for program in (nats_program, redis_program) if program]
    about = (
        f"{harness.surroundings(packages)}; {', '.join(programs)}; {load}{options.rounds} rounds"
    )
    goals = [goal for contest in held for goal in contest.reached()]
    harness.publish("brokers", harness.report(about, goals, held), write=options.write)


def version(program: str) -> str:
    """What a server says that it is."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return " ".join(said.stdout.replace("v=", "").replace(": v", " ").split()[:3])


if __name__ == "__main__":
    main()
