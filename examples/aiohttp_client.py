"""A session of aiohttp that keeps to the limits of an API, with one argument.

Starts ``api_server.py``, which allows 50 requests a second and fails sometimes, and fetches 150
items at once. Needs penstock[aiohttp], starlette and uvicorn.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp

from penstock import RetryPolicy
from penstock.aiohttp import PolicyMiddleware

SERVER = [sys.executable, str(Path(__file__).with_name("api_server.py"))]
OPTIONS = ["--rate", "50", "--errors", "0.1", "--latency", "0.05"]


async def fetch_all(url: str) -> None:
    """Fetch the items, and say what it took."""
    middleware = PolicyMiddleware(["45/s"], retry=RetryPolicy(attempts=5), concurrency=20)
    # The total time of aiohttp includes the waits; that of the socket is for each attempt.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)
    async with aiohttp.ClientSession(url, middlewares=[middleware], timeout=timeout) as session:

        async def fetch(number: int) -> int:
            headers = {"X-Request-Id": str(number)}
            async with session.get(f"/items/{number}", headers=headers) as response:
                await response.read()
                return response.status

        statuses = await asyncio.gather(*(fetch(number) for number in range(150)))
    statistics = middleware.statistics()
    print(f"answered  {dict(Counter(statuses))}")
    print(f"sent      {statistics.starts}, {statistics.retries} of them again")


def main() -> None:
    """Start the server, and stop it again."""
    with subprocess.Popen([*SERVER, *OPTIONS], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            asyncio.run(fetch_all(server.stdout.readline().strip()))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
