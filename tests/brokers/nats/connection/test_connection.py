"""The connection: what it says when there is none, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import BOUND
from brokers.proxy import Proxy
from brokers.servers import Certificates, NatsServer
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.brokers.nats import NatsQueue
from penstock.errors import BrokerError
from processes import HeldPort

# nats-py leaves its socket open where a connection comes to nothing.
pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Start = Callable[..., NatsServer]

SECRET = "hunter2"


async def refusal(queue: NatsQueue[Any]) -> str:
    """What a start says that is not to be."""
    with pytest.raises(BrokerError) as caught:
        await soon(queue.start())
    text = str(caught.value)
    assert SECRET not in text
    assert queue.status == "idle"
    return text


@pytest.fixture(autouse=True)
def leave_no_leaks() -> Iterator[None]:
    """To the next test, which would be blamed for them."""
    yield
    gc.collect()


# -- what is no URL and no option ---------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "http://localhost:4222", "nats://", "nats://host:port", "nats://h:99999", "kafka:1:2"],
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="servers must be like nats://host:4222"):
        NatsQueue(url, "q")


def test_a_url_that_is_refused_does_not_show_its_password() -> None:
    with pytest.raises(ValueError, match="servers must be like") as caught:
        NatsQueue(f"http://user:{SECRET}@localhost", "q")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("servers", [None, 4222, b"nats://localhost", {"nats://a"}, [1]])
def test_what_is_no_list_of_urls(servers: Any) -> None:
    with pytest.raises(TypeError, match="servers must be a URL or a list of URLs"):
        NatsQueue(servers, "q")


def test_an_empty_list_of_urls() -> None:
    with pytest.raises(ValueError, match="servers must have at least one URL"):
        NatsQueue([], "q")


@pytest.mark.parametrize("name", ["servers", "error_cb", "reconnected_cb", "passwort"])
def test_options_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'") as caught:
        NatsQueue("nats://localhost", "q", options={name: SECRET})
    assert SECRET not in str(caught.value)


def test_options_are_a_mapping() -> None:
    with pytest.raises(TypeError, match="options must be a mapping, got list"):
        NatsQueue("nats://localhost", "q", options=["user"])  # type: ignore[arg-type]


# -- no connection ------------------------------------------------------------------------------


async def test_nobody_listens(make_queue: MakeQueue) -> None:
    with HeldPort() as port:
        text = await refusal(make_queue(f"nats://user:{SECRET}@127.0.0.1:{port.number}"))
    assert "Nothing listens at nats://127.0.0.1" in text
    assert "nats-server -js" in text


async def test_there_is_no_such_host(make_queue: MakeQueue) -> None:
    text = await refusal(make_queue("nats://no-such-host.invalid:4222"))
    assert "No such host" in text
    assert "Check the URL" in text


async def test_somebody_listens_who_does_not_speak_nats(make_queue: MakeQueue) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = await refusal(make_queue(f"nats://127.0.0.1:{port}"))
    assert f"nats://127.0.0.1:{port} does not answer" in text
    server.close()


async def test_one_of_several_servers_is_enough(
    make_queue: MakeQueue, nats_server: NatsServer
) -> None:
    with HeldPort() as port:
        dead = f"nats://127.0.0.1:{port.number}"
        queue = make_queue([dead, nats_server.url, dead])
        await soon(queue.start())
    assert await queue.put("a") is True


async def test_none_of_several_servers(make_queue: MakeQueue) -> None:
    with HeldPort() as one, HeldPort() as two, HeldPort() as three:
        urls = [f"nats://127.0.0.1:{port.number}" for port in (one, two, three)]
        text = await refusal(make_queue(urls))
    for url in urls:
        assert url in text


async def test_a_start_that_failed_can_be_tried_again(
    make_queue: MakeQueue, nats_server: NatsServer
) -> None:
    with Proxy(nats_server.port) as proxy:
        proxy.cut()
        queue = make_queue(proxy.url)
        await refusal(queue)
        proxy.resume()
        await soon(queue.start())
        assert await queue.put("a") is True
        await queue.stop()


async def test_a_start_that_is_cancelled_leaves_nothing(
    make_queue: MakeQueue, nats_server: NatsServer
) -> None:
    with Proxy(nats_server.port) as proxy:
        queue = make_queue(proxy.url)
        proxy.stall()
        start = asyncio.create_task(queue.start())
        await until(lambda: proxy.connections)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(start)
        assert queue.status == "idle"
        proxy.resume()
        await until(lambda: not proxy.connections)
        await soon(queue.start())
        assert queue.status == "processing"
        await queue.stop()


# -- no admission -------------------------------------------------------------------------------

USERS = {"users": [{"user": "penstock", "password": SECRET}]}


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("", {}),
        ("penstock:wrong@", {}),
        ("", {"user": "penstock", "password": "wrong"}),
        ("", {"user": "nobody", "password": SECRET}),
        ("", {"token": SECRET}),
    ],
)
async def test_wrong_credentials(
    start_nats: Start, make_queue: MakeQueue, user: str, options: dict[str, Any]
) -> None:
    server = start_nats(authorization=USERS)
    text = await refusal(make_queue(f"nats://{user}127.0.0.1:{server.port}", options=options))
    assert f"The NATS server at nats://127.0.0.1:{server.port} refuses these credentials" in text
    assert "check user and password, token or user_credentials" in text


@pytest.mark.parametrize("way", ["in the URL", "in the options"])
async def test_right_credentials(
    start_nats: Start, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    server = start_nats(authorization=USERS)
    caplog.set_level(logging.DEBUG)
    if way == "in the URL":
        queue = make_queue(f"nats://penstock:{SECRET}@127.0.0.1:{server.port}")
    else:
        queue = make_queue(server.url, options={"user": "penstock", "password": SECRET})
    worker = Worker()
    await queue.start_workers(worker, 1)
    server.restart()  # what is said of the connection does not name them
    await until(lambda: "Connected to NATS again" in caplog.text)
    await put_all(queue, "a")
    await soon(queue.join())
    await queue.stop()
    assert worker.done == ["a"]
    said = "\n".join(r.getMessage() for r in caplog.records if r.name == "penstock")
    assert SECRET not in said
    assert SECRET not in repr(queue)


async def test_credentials_that_are_not_good_any_more(
    start_nats: Start,
    make_queue: MakeQueue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 0.5)
    server = start_nats(authorization=USERS)
    queue = make_queue(server.url, options={"user": "penstock", "password": SECRET})
    await queue.start_workers(Worker(), 1)
    caplog.set_level(logging.WARNING)
    server.kill()
    server.settings["authorization"] = {"users": [{"user": "penstock", "password": "other"}]}
    server.start()
    # It says so, instead of idling for ever without a word.
    await until(lambda: any("credentials" in r.getMessage() for r in caplog.records))
    with pytest.raises(BrokerError):
        await soon(queue.put("a"))


async def test_a_stop_ends_the_search_for_a_server_also_where_its_cancellation_is_swallowed(
    start_nats: Start, make_queue: MakeQueue
) -> None:
    """As ``asyncio.wait_for`` swallows one now and then, before Python 3.12."""
    server = start_nats()
    queue = make_queue(server.url)
    await queue.start()
    client, swallowed = queue._engine.connection.client, 0

    async def connect() -> None:
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed += 1
            if swallowed < 3:
                raise OSError("no such server") from None
            raise

    client._select_next_server = connect  # type: ignore[method-assign]
    server.kill()
    await until(lambda: not client.is_connected)
    await soon(queue.stop(drain=False))
    assert swallowed == 3
    assert client.is_closed
    reconnecting = client._reconnection_task
    assert reconnecting is not None
    assert reconnecting.done()


@pytest.mark.parametrize("verify", [False, True])
async def test_tls(start_nats: Start, make_queue: MakeQueue, tmp_path: Path, verify: bool) -> None:
    certificates = Certificates(tmp_path / "certificates")
    server = start_nats(tls=certificates.block(verify=verify))
    context = ssl.create_default_context(cafile=certificates.authority)
    if verify:
        context.load_cert_chain(*certificates.issue("client"))
    queue = make_queue(server.url, options={"tls": context})
    await soon(queue.start())
    assert await queue.put("a") is True


async def test_a_certificate_that_nobody_trusts(
    start_nats: Start, make_queue: MakeQueue, tmp_path: Path
) -> None:
    server = start_nats(tls=Certificates(tmp_path / "certificates").block())
    text = await refusal(make_queue(server.url))
    assert "No TLS connection" in text
    assert "options={'tls'" in text


# -- no JetStream, no permission ------------------------------------------------------------------


async def test_a_server_without_jetstream(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(jetstream=False)
    text = await refusal(make_queue(server.url))
    assert "has no JetStream" in text
    assert "start nats-server with -js" in text


async def test_an_account_without_jetstream(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(
        accounts={
            "with": {"jetstream": "enabled", "users": [{"user": "a", "password": "a"}]},
            "without": {"users": [{"user": "b", "password": "b"}]},
        }
    )
    text = await refusal(make_queue(server.url, options={"user": "b", "password": "b"}))
    assert "JetStream" in text
    assert "account" in text


def permitting(**permissions: Any) -> dict[str, Any]:
    return {"users": [{"user": "u", "password": "p", "permissions": permissions}]}


LOGIN = {"user": "u", "password": "p"}


async def test_no_permission_to_create(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(
        authorization=permitting(publish={"allow": ["$JS.API.STREAM.INFO.>", "penstock.>"]})
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    text = await refusal(make_queue(server.url, options=LOGIN))
    assert "does not permit this user publish" in text.lower().replace("publishing", "publish")
    assert "$js.api.stream.create" in text.lower()
    assert "grant the permission" in text
    assert loop.time() - began < 5


async def test_no_permission_to_put(start_nats: Start, make_queue: MakeQueue, name: str) -> None:
    server = start_nats(
        authorization=permitting(publish={"deny": [f"penstock.{name}"], "allow": [">"]})
    )
    queue = make_queue(server.url, options=LOGIN)
    await soon(queue.start())
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(BrokerError, match="does not permit this user") as caught:
        await soon(queue.put("a"))
    assert f"penstock.{name}" in str(caught.value)
    assert loop.time() - began < 2
    assert queue.metrics["enqueued"] == 0


async def test_no_permission_for_answers(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(authorization=permitting(publish=">", subscribe={"deny": ["_INBOX.>"]}))
    text = await refusal(make_queue(server.url, options=LOGIN))
    assert "permit" in text
    assert "_inbox" in text.lower()


async def test_no_permission_to_take(
    start_nats: Start, make_queue: MakeQueue, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_nats(
        authorization=permitting(
            publish={"deny": [f"$JS.API.CONSUMER.MSG.NEXT.{name}.>"], "allow": [">"]}
        )
    )
    queue = make_queue(server.url, options=LOGIN)
    await queue.start_workers(Worker(), 1)
    await until(lambda: "does not permit this user" in caplog.text)
    assert await queue.put("a") is True


# -- too large ------------------------------------------------------------------------------------


async def test_an_item_that_is_too_large_for_the_server(
    start_nats: Start, make_queue: MakeQueue
) -> None:
    server = start_nats(max_payload=50_000)
    queue, worker = make_queue(server.url), Worker()
    await queue.start_workers(worker, 1)
    with pytest.raises(ValueError, match="accepts 50000: make it smaller") as caught:
        await soon(queue.put("x" * 50_000))
    assert "The item is 500" in str(caught.value)
    assert "max_payload" in str(caught.value)
    assert "xxx" not in str(caught.value)
    await put_all(queue, "small")
    await soon(queue.join(), BOUND)
    assert worker.done == ["small"]


async def test_a_server_that_takes_little(start_nats: Start, make_queue: MakeQueue) -> None:
    server = start_nats(max_payload=2000)
    queue, worker = make_queue(server.url), Worker()
    await queue.start_workers(worker, 1)
    assert await soon(queue.put("x" * 500)) is True
    with pytest.raises(ValueError, match="accepts 2000: make it smaller"):
        await soon(queue.put("x" * 2000))
    assert await soon(queue.put("y" * 500)) is True
    await soon(queue.join())
    assert worker.done == ["x" * 500, "y" * 500]


async def test_the_largest_item_of_the_queue(make_queue: MakeQueue) -> None:
    queue = make_queue(max_item_size=10)
    await queue.start()
    assert await queue.put("x" * 8) is True
    with pytest.raises(
        ValueError, match="11 bytes as application/json, and max_item_size allows 10"
    ):
        await queue.put("x" * 9)
    assert queue.metrics["enqueued"] == 1
