"""A small HTTP server that answers as a rate-limited API does.

    python examples/api_server.py --rate 60 --seed 1

It listens on the loopback interface and prints its address as its first line. Answers take a
varying time, some are 500, and above the rate they are 429 with ``Retry-After``. The answer to
a request depends only on the seed, its ``X-Request-Id`` and how often it was tried, with one
exception: which requests get a 429 depends on the order in which they arrive. A client that
waits as long as the server says succeeds after at most ``MOST_ERRORS`` + 2 attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import socket
from collections import Counter, deque
from time import monotonic
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

#: The most 500s that one request gets.
MOST_ERRORS = 2


class Fate:
    """Decides what happens to each request. Knows nothing of HTTP, and gets the time as ``now``."""

    def __init__(self, seed: int, rate: int, errors: float, latency: float) -> None:
        self.seed = seed
        self.rate = rate
        self.errors = errors
        self.latency = latency
        self._served: deque[float] = deque()
        self._promises: dict[str, float] = {}
        self._attempts: Counter[str] = Counter()

    def seconds_to_wait(self, request_id: str, now: float) -> int:
        """0 to serve the request, or what to say in ``Retry-After``.

        Never more than ``rate`` requests in any second, but for one thing: ``Retry-After`` is a
        promise. Who comes back after that time is served, and only newcomers are turned away.
        """
        while self._served and self._served[0] <= now - 1:
            self._served.popleft()
        promised = self._promises.get(request_id, math.inf)
        if len(self._served) < self.rate or promised <= now:
            self._served.append(now)
            return 0
        wait = max(1, math.ceil(self._served[0] + 1 - now))
        self._promises[request_id] = min(promised, now + wait)
        return wait

    def attempt(self, request_id: str) -> tuple[float, bool]:
        """How many seconds the next attempt of this request takes, and whether it fails."""
        self._attempts[request_id] += 1
        attempt = self._attempts[request_id]
        fails = attempt <= MOST_ERRORS and self._draw("error", request_id, attempt) < self.errors
        if not fails:  # a later request with this id starts again
            del self._attempts[request_id]
            self._promises.pop(request_id, None)
        # Most answers take about the same time, and a few take much longer.
        luck = self._draw("latency", request_id, attempt)
        return self.latency * (0.5 + luck + 4 * luck**20), fails

    def _draw(self, what: str, request_id: str, attempt: int) -> float:
        """A number from 0 to 1, the same each time."""
        text = f"{self.seed}/{what}/{request_id}/{attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


async def one_item(request: Request) -> Response:
    """An item, with the fields that were asked for."""
    number = request.path_params["number"]
    item = {"number": number, "name": f"item {number}", "price": round(number % 90 + 9.99, 2)}
    fields = request.query_params.getlist("field")
    return JSONResponse({name: item[name] for name in fields or item if name in item})


async def put_item(request: Request) -> Response:
    """Pretends to store an item."""
    return JSONResponse({"number": request.path_params["number"], "stored": await request.json()})


async def delete_item(request: Request) -> Response:
    """Pretends to delete an item."""
    return Response(status_code=204)


async def search(request: Request) -> Response:
    """Finds as many as were asked for."""
    limit = int(request.query_params.get("limit", "3"))
    found = [f"{request.query_params.get('q', '')}-{number}" for number in range(limit)]
    return JSONResponse({"found": found})


async def echo(request: Request) -> Response:
    """Sends back what it gets."""
    return JSONResponse({"id": request.headers.get("X-Request-Id"), "json": await request.json()})


async def report(request: Request) -> Response:
    """Text, for a change."""
    return PlainTextResponse(f"Report for {request.path_params['day']}: all is well.\n")


def make_app(fate: Fate) -> Starlette:
    """The API: pages that share one fate, and two, /health and /stats, that are spared it."""
    answers: Counter[int] = Counter()

    def limited(page: Any) -> Any:
        async def call(request: Request) -> Response:
            request_id = request.headers.get("X-Request-Id") or f"{request.method} {request.url}"
            wait = fate.seconds_to_wait(request_id, monotonic())
            response: Response
            if wait:
                response = JSONResponse(
                    {"error": "too many requests"}, 429, headers={"Retry-After": str(wait)}
                )
            else:
                seconds, fails = fate.attempt(request_id)
                await asyncio.sleep(seconds)
                if fails:
                    response = JSONResponse({"error": "something broke; try again"}, 500)
                else:
                    response = await page(request)
            answers[response.status_code] += 1
            return response

        return call

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def stats(request: Request) -> Response:
        return Response(json.dumps(answers, sort_keys=True), media_type="application/json")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/stats", stats),
            Route("/items/{number:int}", limited(one_item), methods=["GET"]),
            Route("/items/{number:int}", limited(put_item), methods=["PUT"]),
            Route("/items/{number:int}", limited(delete_item), methods=["DELETE"]),
            Route("/search", limited(search)),
            Route("/echo", limited(echo), methods=["POST"]),
            Route("/reports/{day}", limited(report)),
        ]
    )


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A server that answers as a rate-limited API.")
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=60, help="requests served per second")
    parser.add_argument("--errors", type=float, default=0.05, help="share of answers that are 500")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds, about")
    options = parser.parse_args()
    fate = Fate(options.seed, options.rate, options.errors, options.latency)
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        make_app(fate),
        log_level="warning",
        timeout_graceful_shutdown=1,
        # Longer than clients keep a connection: otherwise both might close one at the same time,
        # just when a request goes out.
        timeout_keep_alive=60,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
