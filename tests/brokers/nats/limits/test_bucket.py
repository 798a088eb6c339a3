"""A key in a bucket, on real servers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from brokers.servers import NatsServer
from helpers.tasks import soon
from penstock import Limit
from penstock.brokers.nats import NatsLimiter
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.limits.bucket import Key
from penstock.brokers.nats.limits.leases import UNITS

pytestmark = pytest.mark.real_time

BOUND = 20.0


@asynccontextmanager
async def key_of(url: str, bucket: str = "limits", name: str | None = None) -> AsyncIterator[Key]:
    connection = Connection([url], {"no_echo": True}, logging.getLogger("penstock"))
    await connection.open()
    try:
        key = Key(connection, bucket, name or uuid.uuid4().hex, 1, "file")
        await key.make_bucket()
        yield key
    finally:
        await connection.close()


async def test_what_is_written_is_read(
    start_nats: Callable[..., NatsServer], each_nats_program: Path
) -> None:
    async with key_of(start_nats(each_nats_program).url) as key:
        assert (await key.read()).revision == 0
        revision = await key.write(b"one", 0)
        entry = await key.read()
        assert (entry.revision, entry.data) == (revision, b"one")
        assert await key.write(b"two", entry.revision)
        assert (await key.read()).data == b"two"


async def test_who_does_not_know_the_last_writes_nothing(nats_server: NatsServer) -> None:
    async with key_of(nats_server.url) as key:
        revision = await key.write(b"one", 0)
        assert revision
        assert await key.write(b"two", 0) is None
        assert await key.write(b"two", revision + 1) is None
        assert (await key.read()).data == b"one"


async def test_the_time_is_that_of_the_server(nats_server: NatsServer) -> None:
    async with key_of(nats_server.url) as key:
        before = time.time()
        told = await key.ask_time()
        # The server is on this machine.
        assert before - 0.1 <= told / UNITS <= time.time() + 0.1


async def test_others_are_heard_and_oneself_is_not(nats_server: NatsServer) -> None:
    name = uuid.uuid4().hex
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with key_of(nats_server.url, name=name) as one, key_of(nats_server.url, name=name) as two:
        await one.listen(heard.put_nowait)
        await one.read()  # by then it listens
        revision = await one.write(b"mine", 0)
        assert revision
        await two.write(b"theirs", revision)
        assert await asyncio.wait_for(heard.get(), BOUND) == b"theirs"


async def test_many_may_make_the_bucket_at_once(nats_server: NatsServer) -> None:
    """Whoever comes second asks again: for a moment nobody answers for the new bucket."""
    bucket = uuid.uuid4().hex

    async def acquire(number: int) -> None:
        limits = [Limit(1, per=1)]
        limiter = NatsLimiter(nats_server.url, limits, name=f"limits{number}", bucket=bucket)
        await soon(limiter.acquire())
        await limiter.aclose()

    await asyncio.gather(*[acquire(number) for number in range(5)])
