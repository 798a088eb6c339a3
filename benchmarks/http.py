"""HTTP requests under a limit and retries, against the same client without.

``python -m benchmarks.http``. What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import process_time
from typing import Any

import aiohttp
import httpx
import httpx2
import requests
from requests.adapters import BaseAdapter

import penstock.aiohttp
import penstock.httpx
import penstock.httpx2
import penstock.requests
from benchmarks import harness
from benchmarks.harness import Contest, Contestant
from penstock import RetryPolicy

#: Requests in a slice, and how many are made at once over loopback, in an event loop.
MANY, AT_ONCE = 400, 20
ASYNC_GOAL, BLOCKING_GOAL = 1.35, 1.5
PLAIN, OURS = "the client alone", "with penstock"
BODY = b'{"prompt": "How deep is the ocean?"}'
ANSWER = b'{"text": "Deep."}'
HEADERS = {"content-type": "application/json", "x-request-id": "0123456789", "server": "bench"}

PACKAGES: tuple[tuple[str, Any, Any], ...] = (
    ("httpx", httpx, penstock.httpx),
    ("httpx2", httpx2, penstock.httpx2),
)

#: A server that answers everything the same, as fast as Python can.
SERVER = f"""
import asyncio

class Answers(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.waits_for = transport, b""

    def data_received(self, data):
        self.waits_for += data
        while (end := self.waits_for.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.waits_for[:end].lower()
            _, _, length = head.partition(b"content-length: ")
            size = int(length.split(b"\\r\\n")[0] or 0)
            if len(self.waits_for) < end + 4 + size:
                return
            self.waits_for = self.waits_for[end + 4 + size:]
            self.transport.write(
                b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
                b"X-Request-Id: 0123456789\\r\\nContent-Length: {len(ANSWER)}\\r\\n\\r\\n"
                + {ANSWER!r}
            )

async def main():
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def settings() -> dict[str, Any]:
    return {"limits": ["60000000/min"], "retry": RetryPolicy(5), "concurrency": 100}


@contextmanager
def serving() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        try:
            yield f"http://127.0.0.1:{one.stdout.readline().strip()}/"
        finally:
            one.terminate()


# -- in an event loop -----------------------------------------------------------------------------


async def one_after_the_other(call: Callable[[], Awaitable[object]], count: int) -> float:
    begin = process_time()
    for _ in range(count):
        await call()
    return process_time() - begin


async def at_once(call: Callable[[], Awaitable[object]], count: int) -> float:
    left = count

    async def some() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(call() for _ in range(AT_ONCE)))  # the connections
    begin = process_time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return process_time() - begin


def mocked(library: Any, module: Any, is_ours: bool, count: int) -> float:
    async def handle(request: object) -> Any:
        return library.Response(200, headers=HEADERS, content=ANSWER)

    async def main() -> float:
        transport = library.MockTransport(handle)
        if is_ours:
            transport = module.PolicyTransport(transport=transport, **settings())
        async with library.AsyncClient(transport=transport) as client:
            post = partial(client.post, "http://nowhere/", content=BODY)
            return await one_after_the_other(post, count)

    return asyncio.run(main())


def over_loopback(library: Any, module: Any, url: str, is_ours: bool, count: int) -> float:
    async def main() -> float:
        transport = module.PolicyTransport(**settings()) if is_ours else None
        async with library.AsyncClient(transport=transport, trust_env=False) as client:
            return await at_once(partial(client.post, url, content=BODY), count)

    return asyncio.run(main())


def over_loopback_by_aiohttp(url: str, is_ours: bool, count: int) -> float:
    async def main() -> float:
        middlewares = [penstock.aiohttp.PolicyMiddleware(**settings())] if is_ours else []
        async with aiohttp.ClientSession(middlewares=middlewares) as session:

            async def post() -> None:
                async with session.post(url, data=BODY) as response:
                    await response.read()

            return await at_once(post, count)

    return asyncio.run(main())


# -- in a thread ----------------------------------------------------------------------------------


def repeat(call: Callable[[], object], count: int) -> float:
    call()
    begin = process_time()
    for _ in range(count):
        call()
    return process_time() - begin


def mocked_in_thread(library: Any, module: Any, is_ours: bool, count: int) -> float:
    def handle(request: object) -> Any:
        return library.Response(200, headers=HEADERS, content=ANSWER)

    transport = library.MockTransport(handle)
    if is_ours:
        transport = module.SyncPolicyTransport(transport=transport, **settings())
    with library.Client(transport=transport) as client:
        return repeat(partial(client.post, "http://nowhere/", content=BODY), count)


class MockAdapter(BaseAdapter):
    """What ``httpx.MockTransport`` is for httpx."""

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 200
        response.headers.update(HEADERS)
        response._content = ANSWER
        response.request = request
        return response

    def close(self) -> None:
        pass


def mocked_requests(is_ours: bool, count: int) -> float:
    adapter: BaseAdapter = MockAdapter()
    if is_ours:
        adapter = penstock.requests.PolicyAdapter(adapter=adapter, **settings())
    return by_requests(adapter, "http://nowhere/", count)


def by_requests(adapter: BaseAdapter | None, url: str, count: int) -> float:
    with requests.Session() as session:
        session.trust_env = False
        if adapter is not None:
            session.mount("http://", adapter)
        return repeat(partial(session.post, url, data=BODY), count)


def in_thread_over_loopback(
    library: Any, module: Any, url: str, is_ours: bool, count: int
) -> float:
    transport = module.SyncPolicyTransport(**settings()) if is_ours else None
    with library.Client(transport=transport, trust_env=False) as client:
        return repeat(partial(client.post, url, content=BODY), count)


def requests_over_loopback(url: str, is_ours: bool, count: int) -> float:
    adapter = penstock.requests.PolicyAdapter(**settings()) if is_ours else None
    return by_requests(adapter, url, count)


# -- the contests ---------------------------------------------------------------------------------


def contest(title: str, run: Callable[[bool, int], float], goal: float | None = None) -> Contest:
    both = [
        Contestant(name, partial(run, is_ours), MANY)
        for name, is_ours in ((PLAIN, False), (OURS, True))
    ]
    return Contest(title, PLAIN, both, {} if goal is None else {OURS: goal})


def contests(url: str) -> list[Contest]:
    found = []
    for name, library, module in PACKAGES:
        run = partial(mocked, library, module)
        found.append(contest(f"{name}, mock transport", run, ASYNC_GOAL))
        run = partial(mocked_in_thread, library, module)
        found.append(contest(f"{name}, mock transport, blocking", run, BLOCKING_GOAL))
    found.append(contest("requests, mock adapter", mocked_requests, BLOCKING_GOAL))
    for name, library, module in PACKAGES:
        loopback = partial(over_loopback, library, module, url)
        found.append(contest(f"{name}, loopback", loopback))
        loopback = partial(in_thread_over_loopback, library, module, url)
        found.append(contest(f"{name}, loopback, blocking", loopback))
    found.append(contest("aiohttp, loopback", partial(over_loopback_by_aiohttp, url)))
    found.append(contest("requests, loopback", partial(requests_over_loopback, url)))
    return found


def main() -> None:
    options = harness.options("Compare HTTP clients with and without penstock.", rounds=11)
    with serving() as url:
        held = contests(url)
        harness.hold(held, options)
    about = harness.surroundings(("penstock", "httpx", "httpx2", "aiohttp", "requests"))
    goals = [goal for each in held for goal in each.reached()]
    report = harness.report(f"{about}; {options.rounds} rounds", goals, held)
    harness.publish("HTTP clients", report, write=options.write)


if __name__ == "__main__":
    main()
