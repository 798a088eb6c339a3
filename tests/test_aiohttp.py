"""The middleware for aiohttp: what is particular to that client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.http_server import BOUND, Answer, Held, Seen, Server
from helpers.tasks import until
from penstock import Limit, RetryPolicy
from penstock.limits import Backoff

aiohttp: Any = pytest.importorskip("aiohttp")

pytestmark = pytest.mark.real_time

QUICK = RetryPolicy(3, backoff=Backoff(0.001, throttle_base=0.001), budget=None)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


def session(*limits: Any, connector: Any = None, **options: Any) -> Any:
    from penstock.aiohttp import PolicyMiddleware

    return aiohttp.ClientSession(
        middlewares=[PolicyMiddleware(limits, **options)], connector=connector
    )


def failing_first(seen: Seen) -> Answer:
    return Answer(503 if seen.number == 1 else 200)


async def test_no_more_are_under_way_than_the_connector_has_connections(server: Server) -> None:
    from penstock.aiohttp import PolicyMiddleware

    middleware = PolicyMiddleware(concurrency=50)
    connector = aiohttp.TCPConnector(limit=2)
    async with aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as http:

        async def get() -> None:
            async with http.get(server.url) as response:
                await response.read()

        await asyncio.gather(*(get() for _ in range(10)))
        assert middleware.statistics().concurrency_limit == 2
    assert server.most_inflight <= 2


async def test_a_file_is_sent_again_from_where_it_was(server: Server, tmp_path: Path) -> None:
    server.answer = failing_first
    path = tmp_path / "body"
    path.write_bytes(b"0123456789")
    async with session(retry=QUICK) as http:
        with path.open("rb") as file:
            file.seek(4)
            async with http.put(server.url, data=file) as response:
                assert response.status == 200
    assert [seen.body for seen in server.seen] == [b"456789"] * 2


async def test_a_form_is_sent_again(server: Server) -> None:
    server.answer = failing_first
    form = aiohttp.FormData({"name": "penstock"})
    form.add_field("file", b"content", filename="a.txt")
    async with session(retry=QUICK) as http, http.put(server.url, data=form) as response:
        assert response.status == 200
    assert len({seen.body for seen in server.seen}) == 1
    assert len(server.seen) == 2


async def test_raise_for_status_is_asked_of_the_last_response(server: Server) -> None:
    server.answer = lambda seen: Answer(503)
    async with session(retry=QUICK) as http:
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await http.get(server.url, raise_for_status=True)
    assert caught.value.status == 503
    assert len(server.seen) == 3


async def test_the_total_time_of_aiohttp_includes_the_waits(server: Server) -> None:
    async with session(Limit(1, per=3600)) as http:
        async with http.get(server.url) as response:
            await response.read()
        with pytest.raises(asyncio.TimeoutError):
            await http.get(server.url, timeout=aiohttp.ClientTimeout(total=0.1))
    assert len(server.seen) == 1


async def test_a_stalled_attempt_is_given_up_and_another_one_made(server: Server) -> None:
    may_go_on = threading.Event()

    def answer(seen: Seen) -> Answer:
        if seen.number == 1:
            may_go_on.wait(BOUND)
        return Answer()

    server.answer = answer
    timeout = aiohttp.ClientTimeout(total=None, sock_read=0.5)
    async with (
        session(retry=QUICK, retry_unsafe=True) as http,
        http.post(server.url, data=b"{}", timeout=timeout) as response,
    ):
        assert response.status == 200
    may_go_on.set()
    assert len(server.seen) >= 2


async def test_a_request_that_is_cancelled_in_flight_frees_its_slot(server: Server) -> None:
    from penstock.aiohttp import PolicyMiddleware

    server.answer = held = Held()
    middleware = PolicyMiddleware(concurrency=1, retry=QUICK)
    async with aiohttp.ClientSession(middlewares=[middleware]) as http:

        async def read() -> bytes:
            async with http.get(server.url) as response:
                body: bytes = await response.read()
                return body

        reading, waiting = asyncio.create_task(read()), asyncio.create_task(read())
        await until(lambda: len(server.seen) == 1 and middleware.statistics().waiting_for_slots)
        waiting.cancel()
        await until(waiting.done)
        reading.cancel()
        await until(lambda: not middleware.statistics().under_way)
        held.may_go_on.set()
        assert await asyncio.wait_for(read(), BOUND) == b"first second"
    assert len(server.seen) == 2
