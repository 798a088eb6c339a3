"""A service with a rate limit and the way to it, in virtual time; the queue is a real one.

Calls travel to the service, and their answers back, for a time that is drawn; a program sends one
after the other, and now and then everything stands still for a moment. Times are in seconds.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock import AdaptiveConcurrency, Limit, RateLimitError, RetryPolicy, WorkQueue
from penstock.limits import retry
from penstock.testing import VirtualTimeLoop


class Rule(Protocol):
    """What a service allows."""

    def start(self, now: float) -> float:
        """0, and the call is taken; or the seconds after which there is room."""
        ...


class Sliding:
    """``calls`` in any window of ``per`` seconds; ``then``: from when on it is another number."""

    def __init__(self, calls: int, per: float = 1.0, then: Iterable[tuple[float, int]] = ()):
        self.calls, self.per = calls, per
        self._then = deque(then)
        self._starts: deque[float] = deque()

    def start(self, now: float) -> float:
        while self._then and now >= self._then[0][0]:
            self.calls = self._then.popleft()[1]
        starts = self._starts
        while starts and starts[0] + self.per <= now:
            starts.popleft()
        if len(starts) < self.calls:
            starts.append(now)
            return 0.0
        return starts[len(starts) - self.calls] + self.per - now


class Fixed:
    """``calls`` in each window; the next window begins when the last one ends."""

    def __init__(self, calls: int, per: float = 1.0, phase: float = 0.0):
        self.calls, self.per, self.phase = calls, per, phase
        self._window, self._count = -1, 0

    def start(self, now: float) -> float:
        window = math.floor((now + self.phase) / self.per)
        if window != self._window:
            self._window, self._count = window, 0
        if self._count < self.calls:
            self._count += 1
            return 0.0
        return (window + 1) * self.per - self.phase - now


class Bucket:
    """``rate`` calls a second, and no more than ``burst`` at once."""

    def __init__(self, rate: float, burst: float):
        self.rate, self.burst = rate, burst
        self._left, self._at = burst, 0.0

    def start(self, now: float) -> float:
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.rate


@dataclass(frozen=True)
class Way:
    """What lies between the program and the service. As on a machine with little else to do."""

    #: How long calls and answers travel: half of them, and the sigma of the logarithm.
    median: float = 0.0005
    sigma: float = 0.7
    #: What the first call of each connection takes longer.
    connect: float = 0.003
    #: What sending a call, serving it and reading its answer cost of a processor, in which the
    #: program, or the service, does nothing else.
    sending: float = 0.0008
    serving: float = 0.0005
    reading: float = 0.0005
    #: By how much timers ring late.
    late: float = 0.001
    #: In how many of the calls the program, or the service, stands still, and for how long at most.
    stalls: float = 0.003
    stall: float = 0.03


QUIET = Way()
#: With others who want the processor as well.
BUSY = Way(0.002, 1.0, 0.01, 0.002, 0.002, 0.001, 0.003, 0.02, 0.06)


class Loop(VirtualTimeLoop):
    """Virtual time in which work takes time, and timers ring a little late."""

    def __init__(self, rng: random.Random, late: float) -> None:
        self._rng, self._late = rng, late
        super().__init__()

    def spend(self, seconds: float) -> None:
        """Do nothing else for so long."""
        self._advance(seconds)

    def call_at(self, when: float, *args: Any, **settings: Any) -> asyncio.TimerHandle:
        """As any loop, and late."""
        return super().call_at(when + self._rng.random() * self._late, *args, **settings)


@dataclass
class Outcome:
    seconds: float
    answers: Counter[int]
    starts: list[float]
    refusals: list[float]
    done: Counter[int]
    queue: WorkQueue[int]

    @property
    def refused(self) -> int:
        return self.answers[429]

    def most_in_any(self, per: float) -> int:
        starts = self.starts
        return max(sum(begin <= at < begin + per for at in starts) for begin in starts)


@dataclass
class Service:
    """Answers in a lognormal time, 1 % of the answers are 500, and 429 says how long to wait."""

    rule: Rule
    rng: random.Random
    way: Way = QUIET
    at_once: int = 16
    latency: float = 0.4
    spread: float = 0.5
    errors: float = 0.01
    #: What it says with a 429, of the seconds after which there is room.
    says: Callable[[float], float | None] = math.ceil  # type: ignore[assignment]
    answers: Counter[int] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    done: Counter[int] = field(default_factory=Counter)
    _under_way: int = 0
    _connections: int = 0
    _serves_from: float = 0.0

    async def call(self, item: int) -> None:
        loop, way = asyncio.get_running_loop(), self.way
        assert isinstance(loop, Loop)
        self.starts.append(loop.time())
        loop.spend(way.sending + self._stall())
        connects = self._connections == 0
        self._connections -= not connects
        await asyncio.sleep(self._travel() + connects * way.connect * (0.5 + self.rng.random()))
        # The service handles one call after the other.
        self._serves_from = max(self._serves_from, loop.time()) + way.serving + self._stall()
        await asyncio.sleep(self._serves_from - loop.time())
        wait = 1.0 if self._under_way >= self.at_once else self.rule.start(loop.time())
        if wait > 0:
            await self._answer(loop, 429)
            self.refusals.append(loop.time())
            raise RateLimitError(retry_after=self.says(wait))
        self._under_way += 1
        try:
            await asyncio.sleep(self.rng.lognormvariate(math.log(self.latency), self.spread))
        finally:
            self._under_way -= 1
        fails = self.rng.random() < self.errors
        self.done[item] += not fails
        await self._answer(loop, 500 if fails else 200)
        if fails:
            raise ConnectionError("500")

    def _travel(self) -> float:
        return self.rng.lognormvariate(math.log(self.way.median), self.way.sigma)

    def _stall(self) -> float:
        return self.rng.random() * self.way.stall if self.rng.random() < self.way.stalls else 0.0

    async def _answer(self, loop: Loop, status: int) -> None:
        self.answers[status] += 1
        await asyncio.sleep(self._travel())
        loop.spend(self.way.reading)
        self._connections += 1


def seed_all(seed: int) -> None:
    """Draw the same in all that follows: the gaps of gates, and the waits before retries."""
    random.seed(seed)
    retry._default_rng.seed(seed)


def do(
    rule: Rule,
    limits: Callable[[], list[Limit]],
    *,
    seed: int,
    count: int = 400,
    workers: int | AdaptiveConcurrency = 16,
    attempts: int = 7,
    **settings: Any,
) -> Outcome:
    """Do a job of ``count`` items with a queue under ``limits``."""
    service = Service(rule, random.Random(seed), **settings)

    async def main() -> tuple[float, WorkQueue[int]]:
        seed_all(seed)
        queue = WorkQueue[int](
            concurrency_limit=workers, limits=limits(), retry=RetryPolicy(attempts=attempts)
        )
        await queue.batch_process(range(count), service.call, error_handler=lambda *_: None)
        return asyncio.get_running_loop().time(), queue

    loop = Loop(random.Random(seed), service.way.late)
    try:
        asyncio.set_event_loop(loop)
        seconds, queue = loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return Outcome(seconds, service.answers, service.starts, service.refusals, service.done, queue)


def at_least(rule: Rule, count: int, shortest: float = 0.1) -> float:
    """The least seconds that ``count`` calls take, the last of which takes ``shortest``."""
    now = 0.0
    for _ in range(count):
        while (wait := rule.start(now)) > 0:
            now += wait + 1e-9
    return now + shortest


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)
