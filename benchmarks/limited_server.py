"""A service that keeps to its limits and says 429 above them, in a process of its own.

``rate_limited_server.py`` starts it. It holds any number of jobs, each with limits and counts of
its own, so that each client finds it fresh.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections import Counter, deque
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass(frozen=True)
class Service:
    """What a service allows, and how it answers."""

    #: Calls that may start in ``per`` seconds; and what they may cost, if that is limited too.
    calls: int = 20
    per: float = 1.0
    tokens: int | None = None
    window: Literal["sliding", "fixed"] = "sliding"
    #: Calls under way.
    at_once: int = 16
    #: How many calls it serves before it lowers ``calls``, and to what.
    lowers_after: int | None = None
    lowers_to: int = 10
    #: Seconds that half of the answers take, and the sigma of their logarithm.
    latency: float = 0.4
    spread: float = 0.5
    #: The share of answers that are 500.
    errors: float = 0.01
    #: Whether its 429 says for how long to wait.
    names_time: bool = True
    seed: int = 1

    def fate(self, item: int, attempt: int) -> tuple[float, bool]:
        """How long the answer takes and whether it is a 500: the same each time."""
        luck = random.Random(f"{self.seed}/{item}/{attempt}")
        seconds = luck.lognormvariate(math.log(self.latency), self.spread)
        return seconds, luck.random() < self.errors


class Door:
    """Who may start. Takes the time; reads no clock."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.calls = service.calls
        self._started: deque[tuple[float, int]] = deque()
        self._served = 0
        self._tokens = 0
        self._fixed_from = -math.inf

    def start(self, now: float, tokens: int) -> float:
        """0, and it has started; or the seconds after which there is room."""
        self._forget(now)
        wait = self._wait(now, tokens)
        if wait > 0:
            return wait
        self._started.append((now, tokens))
        self._tokens += tokens
        self._served += 1
        if self._served == self.service.lowers_after:
            self.calls = self.service.lowers_to
        return 0.0

    def _forget(self, now: float) -> None:
        service = self.service
        if service.window == "fixed":
            if now >= self._fixed_from + service.per:  # the first window begins with the first call
                begun = self._fixed_from if self._started or self._served else now
                self._fixed_from = begun + (now - begun) // service.per * service.per
                self._started.clear()
                self._tokens = 0
            return
        while self._started and self._started[0][0] + service.per <= now:
            self._tokens -= self._started.popleft()[1]

    def _wait(self, now: float, tokens: int) -> float:
        service = self.service
        too_many = len(self._started) + 1 - self.calls
        too_much = 0 if service.tokens is None else self._tokens + tokens - service.tokens
        if too_many <= 0 and too_much <= 0:
            return 0.0
        if service.window == "fixed":
            return self._fixed_from + service.per - now
        for at, cost in self._started:
            too_many -= 1
            too_much -= cost
            if too_many <= 0 and too_much <= 0:
                return at + service.per - now
        raise ValueError(f"a call of {tokens} tokens never fits")


class Job:
    """What one client did to it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.door = Door(service)
        self.under_way = 0
        self.answers: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()
        self.done: Counter[int] = Counter()

    async def call(self, item: int, tokens: int) -> Response:
        full = self.under_way >= self.service.at_once
        wait = 1.0 if full else self.door.start(monotonic(), tokens)
        if wait > 0:
            self.answers[429] += 1
            # Whole seconds, as HTTP has it.
            told = {"Retry-After": str(math.ceil(wait))} if self.service.names_time else None
            return Response(status_code=429, headers=told)
        self.attempts[item] += 1
        seconds, fails = self.service.fate(item, self.attempts[item])
        self.under_way += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.under_way -= 1
        if not fails:
            self.done[item] += 1
        status = 500 if fails else 200
        self.answers[status] += 1
        return JSONResponse({"item": item}, status)


def make_app() -> Starlette:
    jobs: list[Job] = []

    async def begin(request: Request) -> Response:
        jobs.append(Job(Service(**await request.json())))
        return JSONResponse({"job": len(jobs) - 1})

    async def call(request: Request) -> Response:
        path = request.path_params
        tokens = int(request.headers.get("Tokens", "0"))
        job: Job = jobs[path["job"]]
        answer: Response = await job.call(path["item"], tokens)
        return answer

    async def report(request: Request) -> Response:
        job = jobs[request.path_params["job"]]
        return JSONResponse({"answers": job.answers, "done": job.done})

    return Starlette(
        routes=[
            Route("/jobs", begin, methods=["POST"]),
            Route("/jobs/{job:int}", report),
            Route("/jobs/{job:int}/items/{item:int}", call, methods=["POST"]),
        ]
    )


def minimum(service: Service, costs: list[int]) -> float:
    """Seconds that no client can beat: from the first start to the last, and the shortest answer.

    The last call cannot start before the limits allow it, whatever came when; and what fails must
    be called again. (At most ``at_once`` calls under way are no hindrance with these latencies.)
    """
    calls, shortest = list(costs), math.inf
    for item, cost in enumerate(costs):
        attempt = 1
        while service.fate(item, attempt)[1]:
            calls.append(cost)
            attempt += 1
        shortest = min(shortest, service.fate(item, attempt)[0])
    door, now = Door(service), 0.0
    if service.tokens is not None:  # as if they fitted into the windows without a gap
        windows = max(math.ceil(sum(calls) / service.tokens), math.ceil(len(calls) / service.calls))
        return (windows - 1) * service.per + shortest
    for _ in calls:
        while (wait := door.start(now, 0)) > 0:
            now += wait + 1e-9  # rounding must not make it too early
    return now + shortest


def main() -> None:
    """Print the address, and serve until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(make_app(), log_level="warning", timeout_keep_alive=120)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
