"""A service and its clients, simulated: seeded, discrete events on a heap, no clock and no asyncio.

A server has ``capacity`` places, and takes a lognormal time for each call. A :class:`Queueing` one
lets what is above that wait; a :class:`Rejecting` one answers 429 at once. Times are in seconds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Timeline:
    """What happens when. Events of the same moment happen in the order they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def after(self, delay: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay, event)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass
class Server:
    """The number of places, and the time that a call takes in one of them."""

    timeline: Timeline
    rng: random.Random
    capacity: int
    mean: float = 0.2  # seconds
    sigma: float = 0.3  # of the logarithm of the time: 0.3 is a p99 of twice the mean
    network: float = 0.002  # seconds that an answer travels
    busy: int = 0

    def service_time(self) -> float:
        return self.mean * self.rng.lognormvariate(-(self.sigma**2) / 2, self.sigma)

    def call(self, answer: Callable[[bool], None]) -> None:
        """Take a call; ``answer(True)`` when it is served, ``answer(False)`` for a 429."""
        raise NotImplementedError

    def resize(self, capacity: int) -> None:
        self.capacity = capacity

    def _serve(self, answer: Callable[[bool], None]) -> None:
        self.busy += 1
        self.timeline.after(self.service_time(), lambda: self._served(answer))

    def _served(self, answer: Callable[[bool], None]) -> None:
        self.busy -= 1
        self.timeline.after(self.network, lambda: answer(True))


@dataclass
class Rejecting(Server):
    """Answers 429 when all its places are taken."""

    def call(self, answer: Callable[[bool], None]) -> None:
        if self.busy >= self.capacity:
            self.timeline.after(self.network, lambda: answer(False))
        else:
            self._serve(answer)


@dataclass
class Queueing(Server):
    """Lets calls wait, first come, first served, when all its places are taken."""

    waiting: deque[Callable[[bool], None]] = field(default_factory=deque)

    def call(self, answer: Callable[[bool], None]) -> None:
        self.waiting.append(answer)
        self._fill()

    def resize(self, capacity: int) -> None:
        super().resize(capacity)
        self._fill()

    def _fill(self) -> None:
        while self.waiting and self.busy < self.capacity:
            self._serve(self.waiting.popleft())

    def _served(self, answer: Callable[[bool], None]) -> None:
        super()._served(answer)
        self._fill()


class Control(Protocol):
    """How many calls may be under way; :class:`penstock.limits.adaptive.AdaptiveConcurrency`."""

    @property
    def limit(self) -> int: ...
    def succeeded(self, now: float, latency: float, inflight: int) -> None: ...
    def rejected(self, now: float, inflight: int) -> None: ...


class Oracle:
    """Knows the capacity at every moment."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def limit(self) -> int:
        return self._server.capacity

    def succeeded(self, now: float, latency: float, inflight: int) -> None: ...
    def rejected(self, now: float, inflight: int) -> None: ...


@dataclass
class Client:
    """Has always more to do, and starts as much of it at once as its control allows."""

    timeline: Timeline
    server: Server
    control: Control
    inflight: int = 0
    latencies: list[float] = field(default_factory=list)
    rejections: int = 0
    limits: list[tuple[float, int]] = field(default_factory=list)

    def work(self) -> None:
        while self.inflight < self.control.limit:
            self.inflight += 1
            began = self.timeline.now
            self.server.call(lambda served, began=began: self._answered(served, began))  # type: ignore[misc]

    def _answered(self, served: bool, began: float) -> None:
        now = self.timeline.now
        if served:
            self.latencies.append(now - began)
            self.control.succeeded(now, now - began, self.inflight)
        else:
            self.rejections += 1
            self.control.rejected(now, self.inflight)
        self.inflight -= 1
        self.limits.append((now, self.control.limit))
        self.work()

    @property
    def p99(self) -> float:
        return percentile(self.latencies, 0.99)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def run(
    kind: type[Server],
    control: Callable[[Server], Control],
    *,
    seed: int,
    phases: tuple[tuple[float, int], ...] = ((60, 20), (60, 5), (60, 20)),
    sigma: float = 0.3,
    mean: float = 0.2,
    changes: tuple[tuple[float, float], ...] = (),
) -> Client:
    """Let a client work: ``phases`` of (seconds, capacity), ``changes`` of (when, mean time)."""
    timeline = Timeline()
    server = kind(timeline, random.Random(seed), phases[0][1], sigma=sigma, mean=mean)
    client = Client(timeline, server, control(server))
    timeline.at(0, client.work)
    end = 0.0
    for seconds, capacity in phases:
        if end:
            timeline.at(end, lambda capacity=capacity: server.resize(capacity))  # type: ignore[misc]
            timeline.at(end, client.work)
        end += seconds
    for when, slower in changes:
        timeline.at(when, lambda slower=slower: setattr(server, "mean", slower))  # type: ignore[misc]
    timeline.run(end)
    return client
