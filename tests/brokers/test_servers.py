"""The servers of these tests do what the tests take for granted."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from brokers.proxy import Proxy
from brokers.servers import Certificates, Cluster, NatsServer
from processes import HeldPort

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

#: Seconds in which nothing shall come, and those in which something shall.
SHORT, BOUND = 0.3, 30.0

Start = Callable[..., Any]


@asynccontextmanager
async def client(*urls: str, **options: Any) -> AsyncIterator[Any]:
    async def quiet(error: Exception) -> None:
        pass  # what the test sees is enough

    connected = await nats.connect(
        list(urls),
        error_cb=quiet,
        connect_timeout=5,
        reconnect_time_wait=0.05,
        max_reconnect_attempts=-1,
        **options,
    )
    try:
        yield connected
    finally:
        await connected.close()


async def eventually(js: JetStreamContext, subject: str, body: bytes) -> None:
    """Publish as soon as somebody takes it: once, also where an answer was lost or came late."""
    give_up_at = time.monotonic() + BOUND
    while time.monotonic() < give_up_at:
        with suppress(nats.errors.Error, nats.js.errors.Error):
            await js.publish(subject, body, timeout=1, headers={"Nats-Msg-Id": body.decode()})
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"nobody took {body!r}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to hold a port for another")
def test_a_port_that_is_held_is_had_by_who_names_it_time_and_again() -> None:
    with HeldPort() as port:
        here = ("127.0.0.1", port.number)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(here)
            with socket.create_server(here) as server, socket.create_connection(here):
                server.accept()[0].close()


async def bodies(js: JetStreamContext, stream: str) -> list[bytes | None]:
    """What a stream has, in its order. After an election, it may have left out a number."""
    state = (await js.stream_info(stream)).state
    found = []
    for number in range(state.first_seq, state.last_seq + 1):
        with suppress(nats.js.errors.NotFoundError):
            found.append((await js.get_msg(stream, number)).data)
    return found


async def test_the_shared_server_has_jetstream(nats_server: NatsServer) -> None:
    async with client(nats_server.url) as nc:
        js = nc.jetstream(timeout=BOUND)
        await js.add_stream(name="shared", subjects=["shared"])
        assert (await js.publish("shared", b"1")).seq == 1


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_stream_outlives_its_server(
    start_nats: Start, each_nats_program: Path, end: str
) -> None:
    server = start_nats(each_nats_program)
    async with client(server.url) as nc:
        js = nc.jetstream(timeout=BOUND)
        await js.add_stream(name="kept", subjects=["kept"])
        await js.publish("kept", b"1")
        getattr(server, end)()
        assert not server.is_running
        server.start()
        await eventually(js, "kept", b"2")
        assert await bodies(js, "kept") == [b"1", b"2"]


async def test_a_frozen_server_answers_when_it_is_thawed(start_nats: Start) -> None:
    server = start_nats()
    async with client(server.url) as nc:
        server.freeze()
        pong = asyncio.ensure_future(nc.flush(BOUND))
        await asyncio.wait({pong}, timeout=SHORT)
        assert not pong.done()
        server.thaw()
        await pong


async def test_settings_reach_the_server(start_nats: Start) -> None:
    server = start_nats(
        jetstream={"max_file_store": 1_000_000},
        max_payload=1000,
        authorization={
            "users": [{"user": "a", "password": "b", "permissions": {"publish": "$JS.>"}}]
        },
    )
    refused: asyncio.Queue[Exception] = asyncio.Queue()

    async with client(server.url, user="a", password="b") as nc:
        nc._error_cb = refused.put
        assert nc.max_payload == 1000
        await nc.publish("other", b"")
        await nc.flush()
        error = await asyncio.wait_for(refused.get(), BOUND)
        assert "permissions violation" in str(error).lower()
        with pytest.raises(nats.js.errors.ServerError, match="storage"):
            await nc.jetstream(timeout=BOUND).add_stream(
                StreamConfig(name="large", subjects=["large"], max_bytes=2_000_000)
            )


async def test_a_server_can_be_without_jetstream(start_nats: Start) -> None:
    async with client(start_nats(jetstream=False).url) as nc:
        with pytest.raises(nats.js.errors.ServiceUnavailableError):
            await nc.jetstream(timeout=BOUND).account_info()


async def test_tls(start_nats: Start, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    server = start_nats(tls=certificates.block(verify=True))
    context = ssl.create_default_context(cafile=certificates.authority)
    context.load_cert_chain(*certificates.issue("client"))
    async with client(server.url, tls=context) as nc:
        await nc.flush()


def test_a_server_that_does_not_start_says_why(start_nats: Start) -> None:
    with pytest.raises(RuntimeError, match=r"ended with code 1(.|\n)*unknown field"):
        start_nats(no_such_setting=1)


async def test_a_proxy_stands_still_and_goes_on(nats_server: NatsServer) -> None:
    with Proxy(nats_server.port) as proxy:
        async with client(proxy.url) as nc:
            proxy.stall()
            pong = asyncio.ensure_future(nc.flush(BOUND))
            await asyncio.wait({pong}, timeout=SHORT)
            assert not pong.done()
            assert proxy.connections == 1
            proxy.resume()
            await pong


async def test_a_proxy_cuts_connections(nats_server: NatsServer) -> None:
    gone, back = asyncio.Event(), asyncio.Event()

    async def note_gone() -> None:
        gone.set()

    async def note_back() -> None:
        back.set()

    with Proxy(nats_server.port) as proxy:
        async with client(proxy.url, disconnected_cb=note_gone, reconnected_cb=note_back) as nc:
            proxy.cut()
            await asyncio.wait_for(gone.wait(), BOUND)
            await asyncio.sleep(SHORT)  # it tries again, and does not succeed
            assert not back.is_set()
            proxy.resume()
            await asyncio.wait_for(back.wait(), BOUND)
            await nc.flush()


async def replicated(js: JetStreamContext, name: str) -> None:
    await js.add_stream(name=name, subjects=[name], num_replicas=3)


async def test_a_cluster_elects_anew_when_a_leader_is_killed(start_cluster: Start) -> None:
    cluster: Cluster = start_cluster()
    async with client(*cluster.urls) as nc:
        js = nc.jetstream(timeout=BOUND)
        await replicated(js, "orders")
        await js.publish("orders", b"1")
        old = cluster.leader("orders")
        old.kill()
        await eventually(js, "orders", b"2")
        assert cluster.leader("orders") is not old
        await asyncio.to_thread(old.restart)
        await asyncio.to_thread(cluster.wait_for_meta_leader, 3)
        assert await bodies(js, "orders") == [b"1", b"2"]


async def test_a_cluster_elects_anew_when_a_leader_is_frozen(start_cluster: Start) -> None:
    cluster: Cluster = start_cluster()
    old = cluster.wait_for_meta_leader(3)
    old.freeze()
    new = cluster.wait_for_meta_leader()
    assert new is not old


async def test_a_leader_that_is_cut_off_keeps_its_clients_and_loses_its_office(
    start_cluster: Start,
) -> None:
    cluster: Cluster = start_cluster(proxied=True)
    urls = cluster.urls
    async with client(*urls) as nc:
        await replicated(nc.jetstream(timeout=BOUND), "orders")
    old = cluster.leader("orders")
    others = [node.url for node in cluster.nodes if node is not old]
    async with client(old.url) as attached, client(*others) as nc:
        assert attached.servers == [attached.connected_url]  # it is told of no other
        cluster.isolate(old)
        with pytest.raises(nats.errors.Error):
            await attached.jetstream(timeout=BOUND).publish("orders", b"lost", timeout=2)
        await eventually(nc.jetstream(timeout=BOUND), "orders", b"kept")
        cluster.rejoin(old)
        await asyncio.to_thread(cluster.wait_for_meta_leader, 3)
        await eventually(attached.jetstream(timeout=BOUND), "orders", b"again")
        assert await bodies(nc.jetstream(timeout=BOUND), "orders") == [b"kept", b"again"]
