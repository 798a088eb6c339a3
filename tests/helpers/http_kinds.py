"""The six ways to send through a policy, under one face: what tests of all of them use.

Blocking clients are called in threads.
"""

# ruff: noqa: PLW0108 - a bound method of the response would keep it

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from helpers.http_server import BOUND

THREADS = 310


@dataclass
class Reply:
    """A response whose body is read."""

    status: int
    body: bytes
    permit: Any


@dataclass
class Open:
    """A response whose body is not read."""

    status: int
    #: One is taken out and called: what remains is closed with the list.
    read: Callable[[], Awaitable[bytes]]
    close: Callable[[], Awaitable[None]]
    #: Forgetting this forgets the response.
    response: list[Any] = field(default_factory=list)


class Kind:
    """One way: its names, and how to make a client that sends so."""

    def __init__(self, module: str, sender: str, *, is_blocking: bool) -> None:
        self.module = module
        self.sender = sender
        self.is_blocking = is_blocking
        self.library: Any = importlib.import_module(module)
        self.ours: Any = importlib.import_module(f"penstock.{module}")

    def __repr__(self) -> str:
        return f"{self.module}-{'threads' if self.is_blocking else 'tasks'}"

    @property
    def attempts_by_itself(self) -> int:
        """How often the client itself makes a request that is broken off."""
        return 2 if self.module == "aiohttp" else 1

    @property
    def error(self) -> Any:
        """What all errors of the client's connections are."""
        library = self.library
        names = ("TransportError", "ClientError", "RequestException")
        return next(getattr(library, name) for name in names if hasattr(library, name))

    def make(self, *limits: Any, **options: Any) -> Any:
        """What sends."""
        return getattr(self.ours, self.sender)(limits, **options)

    @asynccontextmanager
    async def client(self, url: str, *limits: Any, **options: Any) -> AsyncIterator[Face]:
        """A client that sends so, to a server."""
        sender = self.make(*limits, **options)
        if self.module == "aiohttp":
            connector = self.library.TCPConnector(limit=0)
            session = self.library.ClientSession(
                connector=connector,
                middlewares=[sender],
                timeout=self.library.ClientTimeout(total=None, sock_read=BOUND),
            )
            async with session:
                yield Aiohttp(sender, session, url)
        elif self.module == "requests":
            with ThreadPoolExecutor(THREADS) as threads, self.library.Session() as session:
                session.trust_env = False
                session.mount("http://", sender)
                yield Requests(sender, session, url, threads)
        elif self.is_blocking:
            with (
                ThreadPoolExecutor(THREADS) as threads,
                self.library.Client(transport=sender, base_url=url, timeout=BOUND) as http,
            ):
                yield BlockingHttpx(sender, http, url, threads)
        else:
            async with self.library.AsyncClient(
                transport=sender, base_url=url, timeout=BOUND
            ) as http:
                yield TaskHttpx(sender, http, url)


class Face:
    """A client."""

    def __init__(self, sender: Any, http: Any, url: str, threads: Any = None) -> None:
        self.sender = sender
        self.http = http
        self.url = url
        self._threads = threads

    def statistics(self) -> Any:
        return self.sender.statistics()

    async def get(self, path: str = "/") -> Reply:
        return await self.send("GET", path)

    async def send(self, method: str, path: str = "/", body: Any = None, **headers: str) -> Reply:
        """``headers``: an underscore stands for a hyphen."""
        raise NotImplementedError

    async def open(self, path: str = "/") -> Open:
        raise NotImplementedError

    def unrepeatable(self) -> Any:
        """A body that can be read once: ``one two``."""
        raise NotImplementedError

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class TaskHttpx(Face):
    async def send(self, method: str, path: str = "/", body: Any = None, **headers: str) -> Reply:
        response = await self.http.request(method, path, content=body, headers=named(headers))
        return Reply(
            response.status_code, response.content, response.extensions.get("penstock_permit")
        )

    async def open(self, path: str = "/") -> Open:
        response = await self.http.send(self.http.build_request("GET", path), stream=True)
        holder = [response]
        del response
        return Open(
            holder[0].status_code,
            lambda: holder[0].aread(),  # type: ignore[no-any-return]
            lambda: holder[0].aclose(),  # type: ignore[no-any-return]
            holder,
        )

    def unrepeatable(self) -> Any:
        async def body() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        return body()


class BlockingHttpx(Face):
    async def send(self, method: str, path: str = "/", body: Any = None, **headers: str) -> Reply:
        def send() -> Reply:
            response = self.http.request(method, path, content=body, headers=named(headers))
            permit = response.extensions.get("penstock_permit")
            return Reply(response.status_code, response.content, permit)

        reply: Reply = await self.in_thread(send)
        return reply

    async def open(self, path: str = "/") -> Open:
        def send() -> list[Any]:
            return [self.http.send(self.http.build_request("GET", path), stream=True)]

        holder = await self.in_thread(send)
        return Open(
            holder[0].status_code,
            lambda: self.in_thread(lambda: holder[0].read()),
            lambda: self.in_thread(lambda: holder[0].close()),
            holder,
        )

    def unrepeatable(self) -> Any:
        return once()


class Requests(Face):
    async def send(self, method: str, path: str = "/", body: Any = None, **headers: str) -> Reply:
        from penstock.requests import permit_of

        def send() -> Reply:
            response = self.http.request(
                method, self.url + path, data=body, headers=named(headers), timeout=BOUND
            )
            return Reply(response.status_code, response.content, permit_of(response))

        reply: Reply = await self.in_thread(send)
        return reply

    async def open(self, path: str = "/") -> Open:
        def send() -> list[Any]:
            return [self.http.get(self.url + path, stream=True, timeout=BOUND)]

        holder = await self.in_thread(send)
        return Open(
            holder[0].status_code,
            lambda: self.in_thread(lambda: holder[0].content),
            lambda: self.in_thread(lambda: holder[0].close()),
            holder,
        )

    def unrepeatable(self) -> Any:
        return once()


class Aiohttp(Face):
    async def send(self, method: str, path: str = "/", body: Any = None, **headers: str) -> Reply:
        from penstock.aiohttp import permit_of

        async with self.http.request(
            method, self.url + path, data=body, headers=named(headers)
        ) as response:
            return Reply(response.status, await response.read(), permit_of(response))

    async def open(self, path: str = "/") -> Open:
        holder = [await self.http.get(self.url + path)]

        async def close() -> None:
            holder[0].close()

        return Open(holder[0].status, lambda: holder[0].read(), close, holder)  # type: ignore[no-any-return]

    def unrepeatable(self) -> Any:
        async def body() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        return body()


def once() -> Iterator[bytes]:
    yield b"one "
    yield b"two"


WAYS = (
    ("httpx", "PolicyTransport", False),
    ("httpx", "SyncPolicyTransport", True),
    ("httpx2", "PolicyTransport", False),
    ("httpx2", "SyncPolicyTransport", True),
    ("aiohttp", "PolicyMiddleware", False),
    ("requests", "PolicyAdapter", True),
)
