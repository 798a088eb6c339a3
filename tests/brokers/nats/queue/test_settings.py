"""Joining a queue that is there already: its settings are what the server has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nats
import pytest

from brokers.servers import NatsServer
from penstock.brokers.nats import NatsQueue, QueueSettings, existing_settings
from penstock.errors import BrokerError

pytestmark = pytest.mark.real_time


async def test_a_queue_is_joined_with_the_settings_that_it_has(nats_server: NatsServer) -> None:
    async with NatsQueue[int](
        nats_server.url, "joined", 7, ack_wait=2.5, max_dead_letters=3
    ) as queue:
        assert await queue.put(1)

    settings = await existing_settings(nats_server.url, "joined")

    assert settings == QueueSettings(maxsize=7, replicas=1, ack_wait=2.5, max_dead_letters=3)
    async with NatsQueue[int](nats_server.url, "joined", **settings.as_arguments()) as queue:
        assert await queue.get() == 1
        queue.task_done()


async def test_a_queue_without_dead_letters_is_known_as_such(nats_server: NatsServer) -> None:
    async with NatsQueue[int](nats_server.url, "deathless", max_dead_letters=0):
        pass
    assert await existing_settings(nats_server.url, "deathless") == QueueSettings(
        max_dead_letters=0
    )


async def test_the_defaults_are_those_of_a_queue(nats_server: NatsServer) -> None:
    async with NatsQueue[int](nats_server.url, "usual"):
        pass
    assert await existing_settings(nats_server.url, "usual") == QueueSettings()


async def test_looking_makes_nothing(nats_server: NatsServer) -> None:
    assert await existing_settings(nats_server.url, "mistyped") is None
    assert await existing_settings([nats_server.url], "mistyped") is None


async def test_what_was_not_made_to_its_end_has_the_defaults(nats_server: NatsServer) -> None:
    async with NatsQueue[int](nats_server.url, "half", 9, ack_wait=5):
        pass
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_consumer("half", "workers")
    await client.jetstream().delete_stream("half-dead")
    await client.close()
    settings = await existing_settings(nats_server.url, "half")
    assert settings == QueueSettings(maxsize=9)
    async with NatsQueue[int](nats_server.url, "half", **settings.as_arguments()):
        pass


async def test_a_stream_of_somebody_else_is_refused(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="foreign", subjects=["foreign.>"])
    await client.close()
    with pytest.raises(BrokerError, match=r"^Stream foreign at .* exists, and is no queue"):
        await existing_settings(nats_server.url, "foreign")


async def test_a_server_without_jetstream_is_told(
    start_nats: Callable[..., NatsServer],
) -> None:
    server = start_nats(jetstream=False)
    with pytest.raises(BrokerError, match="nats-server with -js"):
        await existing_settings(server.url, "any")


async def test_credentials_go_along_and_are_not_told(
    start_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = start_nats(authorization={"users": [{"user": "me", "password": "s3cret"}]})
    options = {"user": "me", "password": "s3cret"}
    assert await existing_settings(server.url, "any", options=options) is None
    with_password = server.url.replace("://", "://me:wr0ng@")
    with pytest.raises(BrokerError) as refusal:
        await existing_settings(with_password, "any")
    assert "wr0ng" not in str(refusal.value)


async def test_what_is_no_name_is_refused(nats_server: NatsServer) -> None:
    with pytest.raises(ValueError, match="'a b'"):
        await existing_settings(nats_server.url, "a b")
