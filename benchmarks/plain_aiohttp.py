"""What one writes without penstock: reads lines, sends them by aiohttp, writes the answers.

``run_command.py`` holds ``penstock run`` against it. No limits, no retries, no journal.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import aiohttp


async def work(
    lines: Iterator[str], url: str, session: aiohttp.ClientSession, results: TextIO
) -> None:
    for line in lines:
        request: dict[str, Any] = json.loads(line)
        path, body = request["path"], request["json"]
        async with session.request(request["method"], url + path, json=body) as response:
            result = {"id": request["id"], "status": response.status, "body": await response.json()}
        results.write(json.dumps(result) + "\n")


async def main(file: str, url: str, out: str, at_once: int) -> None:
    connector = aiohttp.TCPConnector(limit=at_once)
    with open(file) as requests, open(out, "w") as results:  # noqa: ASYNC230 - as one does
        lines = iter(requests)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(work(lines, url, session, results) for _ in range(at_once)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
