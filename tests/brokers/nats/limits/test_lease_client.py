"""What keeps a limiter in slots, when servers freeze, are cut off, or hold something odd."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from brokers.servers import Cluster, NatsServer
from penstock import Limit
from penstock.brokers.nats import NatsLimiter
from penstock.brokers.nats.limits import lease_client

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

SHORT, BOUND = 0.4, 40.0
LONG = 600.0


@pytest.fixture
def make(nats_server: NatsServer) -> Iterator[Callable[..., NatsLimiter]]:
    """Makes limiters of one name."""
    made = []
    name = uuid.uuid4().hex

    def make_one(most: float, per: float, *urls: str, **options: Any) -> NatsLimiter:
        limit = Limit(most, per, name="calls")
        servers = urls or (nats_server.url,)
        limiter = NatsLimiter(servers, [limit], name=name, bucket=name, **options)
        made.append(limiter)
        return limiter

    yield make_one
    for limiter in made:
        limiter.close()


async def starts(limiter: NatsLimiter) -> None:
    await asyncio.wait_for(limiter.acquire(), BOUND)


async def waits(limiter: NatsLimiter, seconds: float = SHORT) -> None:
    """It cannot start: not for so long."""
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(limiter.acquire(), seconds)


@asynccontextmanager
async def bucket_of(limiter: NatsLimiter, url: str) -> AsyncIterator[Any]:
    client = await nats.connect(url)
    try:
        js: JetStreamContext = client.jetstream()
        yield await js.key_value(limiter.bucket)
    finally:
        await client.close()


async def test_many_are_served_by_few_requests(make: Callable[..., NatsLimiter]) -> None:
    limiter = make(1000, 1)
    await starts(limiter)
    before = limiter.calls
    await asyncio.wait_for(asyncio.gather(*[limiter.acquire() for _ in range(200)]), BOUND)
    assert limiter.calls - before <= 100  # some 20 where nothing else is going on


async def test_who_waits_long_asks_seldom(make: Callable[..., NatsLimiter]) -> None:
    limiter = make(1, LONG)
    await starts(limiter)
    await waits(limiter)
    before = limiter.calls
    waiters = [asyncio.ensure_future(limiter.acquire()) for _ in range(20)]
    await asyncio.wait(waiters, timeout=1)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert limiter.calls - before <= 5


async def test_a_frozen_server_is_waited_for(
    make: Callable[..., NatsLimiter], start_nats: Callable[..., NatsServer]
) -> None:
    server = start_nats()
    limiter = make(2, LONG, server.url)
    await starts(limiter)
    server.freeze()
    waiter = asyncio.ensure_future(limiter.acquire())
    await asyncio.wait({waiter}, timeout=SHORT)
    assert not waiter.done()
    server.thaw()
    await asyncio.wait_for(waiter, BOUND)
    await waits(limiter)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of nats-py
async def test_a_leader_that_is_cut_off_lets_nobody_through(
    make: Callable[..., NatsLimiter], start_cluster: Callable[..., Cluster]
) -> None:
    """Its clients are still attached to it, and the others go on without it."""
    cluster = start_cluster(proxied=True)
    first = make(4, LONG, *cluster.urls, replicas=3)
    await starts(first)
    old = await asyncio.to_thread(cluster.leader, f"KV_{first.bucket}")
    attached = make(4, LONG, old.url, replicas=3)
    others = make(4, LONG, *[node.url for node in cluster.nodes if node is not old], replicas=3)
    await starts(attached)
    await starts(others)
    cluster.isolate(old)
    waiter = asyncio.ensure_future(attached.acquire())
    await asyncio.wait({waiter}, timeout=1)
    assert not waiter.done()
    await starts(others)
    cluster.rejoin(old)
    # Four have started, so nobody else may.
    await waits(others)
    await asyncio.wait({waiter}, timeout=5)
    assert not waiter.done()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_when_the_key_is_deleted_the_window_counts_as_full(
    make: Callable[..., NatsLimiter], nats_server: NatsServer
) -> None:
    limiter = make(2, 1.5)
    await starts(limiter)
    async with bucket_of(limiter, nats_server.url) as bucket:
        (key,) = [key for key in await bucket.keys() if not key.startswith("clock.")]
        await bucket.delete(key)
    await waits(limiter, 0.7)
    await starts(limiter)


async def test_what_is_no_ledger_is_told_to_those_who_wait(
    make: Callable[..., NatsLimiter], nats_server: NatsServer
) -> None:
    limiter = make(2, LONG)
    await starts(limiter)
    async with bucket_of(limiter, nats_server.url) as bucket:
        (key,) = [key for key in await bucket.keys() if not key.startswith("clock.")]
        await bucket.put(key, b'{"format":2}')
    with pytest.raises(ValueError, match="format 2, and this version reads 1"):
        await starts(limiter)


async def test_limits_that_nobody_uses_any_more_give_way(
    make: Callable[..., NatsLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_client, "IDLE", 0.2)
    one = make(1, 0.1)
    await starts(one)
    two = make(2, 0.1)
    with pytest.raises(ValueError, match=r"1 per 0\.1 s there and 2 per 0\.1 s here"):
        await starts(two)
    one.close()
    await asyncio.sleep(0.5)  # the time without use that it takes
    await starts(two)


async def test_a_user_who_is_not_let_in_waits_and_is_told_once(
    make: Callable[..., NatsLimiter],
    start_nats: Callable[..., NatsServer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = start_nats(authorization={"user": "me", "password": "right"})
    limiter = make(2, LONG, server.url, options={"user": "me", "password": "wr0ng"})
    await waits(limiter, 1)
    (told,) = [text for text in caplog.messages if "do not answer" in text]
    assert server.url in told
    assert "wr0ng" not in caplog.text
