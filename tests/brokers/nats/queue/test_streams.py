"""What a queue is on the server: made if it is not there, refused if it is something else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import ask, plain_client
from brokers.servers import NatsServer
from helpers.handlers import ignore
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock.brokers.nats import NatsQueue, QueueInfo
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError
from penstock.errors import BrokerError, QueueStateError

pytestmark = pytest.mark.real_time

Start = Callable[..., NatsServer]


async def refusal(queue: NatsQueue[Any]) -> str:
    with pytest.raises(BrokerError) as caught:
        await soon(queue.start())
    assert queue.status == "idle"
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("maxsize", 0), ("replicas", 0), ("replicas", 6), ("ack_wait", 0.9), ("ack_wait", math.inf),
     ("ack_wait", math.nan), ("max_deliveries", 0), ("max_item_size", 0), ("timeout", -1),
     ("max_dead_letters", -1), ("deadline", -1), ("name", "a b"), ("name", "a.b"), ("name", ""),
     ("name", "x" * 201), ("name", "ä")],
)  # fmt: skip
def test_what_no_queue_can_have(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        NatsQueue("nats://localhost", **{"name": "q", name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("maxsize", 1.5), ("replicas", "3"), ("max_deliveries", None), ("codec", "json"),
     ("name", None), ("telemetry", 1), ("retry", 3), ("max_dead_letters", None)],
)  # fmt: skip
def test_what_is_of_the_wrong_type(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        NatsQueue("nats://localhost", **{"name": "q", name: value})


async def test_streams_are_made_as_the_contract_needs_them(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    await make_queue(maxsize=7, ack_wait=12, max_dead_letters=3).start()
    async with plain_client(nats_server.url) as client:
        stream = (await ask(client, f"STREAM.INFO.{name}"))["config"]
        dead = (await ask(client, f"STREAM.INFO.{name}-dead"))["config"]
        consumer = (await ask(client, f"CONSUMER.INFO.{name}.workers"))["config"]
    assert (stream["retention"], stream["max_msgs"], stream["discard"]) == ("workqueue", 7, "new")
    assert (stream["storage"], stream["max_age"], stream["max_bytes"]) == ("file", 0, -1)
    assert (dead["retention"], dead["max_msgs"], dead["discard"]) == ("limits", 3, "new")
    assert (consumer["ack_policy"], consumer["ack_wait"]) == ("explicit", 12 * 10**9)
    assert consumer["max_deliver"] == -1  # or poison would keep its place for ever


async def test_a_second_machine_finds_what_the_first_one_made(make_queue: MakeQueue) -> None:
    queues = [make_queue() for _ in range(5)]
    await asyncio.gather(*(queue.start() for queue in queues))  # all at once
    for queue in queues:
        await put_all(queue, "x")
    assert (await queues[0].info()).size == 5


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"maxsize": 11}, "max_msgs is 10 there and 11 here"),
        ({"ack_wait": 31}, "ack_wait is 30 s there and 31 s here"),
        ({"max_dead_letters": 9}, "max_msgs is 10000 there and 9 here"),
    ],
)
async def test_a_queue_of_another_shape_is_refused(
    make_queue: MakeQueue, name: str, here: dict[str, Any], said: str
) -> None:
    await make_queue(maxsize=10).start()
    text = await refusal(make_queue(**{"maxsize": 10, **here}))
    assert said in text
    assert f"Queue {name} does not match" in text
    assert "Give all machines the same settings" in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"retention": "limits"}, "retention is 'limits' there and 'workqueue' here"),
        ({"max_age": 60 * 10**9}, "max_age is 60 s there and must not be set"),
        ({"storage": "memory"}, "storage is 'memory' there and 'file' here"),
        ({"discard": "old"}, "discard is 'old' there and 'new' here"),
        ({"subjects": ["orders"]}, "subjects is ['orders'] there"),
    ],
)
async def test_a_stream_of_somebody_else_is_left_alone(
    make_queue: MakeQueue, nats_server: NatsServer, name: str, config: dict[str, Any], said: str
) -> None:
    async with plain_client(nats_server.url) as client:
        stream = {"name": name, "subjects": [f"penstock.{name}"], "retention": "workqueue",
                  "max_msgs": 100, "discard": "new", "storage": "file", **config}  # fmt: skip
        made = await ask(client, f"STREAM.CREATE.{name}", stream)
        assert "error" not in made
        text = await refusal(make_queue())
        assert said in text
        there = await ask(client, f"STREAM.INFO.{name}")
        assert there["config"] == made["config"]


async def test_a_subject_that_another_stream_has_already(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    async with plain_client(nats_server.url) as client:
        await ask(client, f"STREAM.CREATE.{name}-x",
                  {"name": f"{name}-x", "subjects": [f"penstock.{name}"]})  # fmt: skip
        text = await refusal(make_queue())
    assert f"Cannot create stream {name}" in text
    assert "overlap" in text


async def test_a_server_that_makes_the_stream_just_now_may_say_that_its_subject_is_in_use(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nats-server 2.9 does to one of several machines that begin at once."""

    async def another_was_faster(
        connection: Connection, subject: str, *request: Any
    ) -> dict[str, Any]:
        answer = await api(connection, subject, *request)
        if subject.startswith("STREAM.CREATE."):
            said = {"code": 400, "err_code": 10065, "description": "subjects overlap"}
            raise ApiError(said)
        return answer

    api = Connection.api
    monkeypatch.setattr(Connection, "api", another_was_faster)
    queue = make_queue()
    await soon(queue.start())
    await put_all(queue, "x")
    assert (await queue.info()).size == 1


async def test_replicas_need_a_cluster(make_queue: MakeQueue) -> None:
    text = await refusal(make_queue(replicas=3))
    assert "give replicas=1, or start a cluster" in text


async def test_a_server_that_has_no_room_for_a_stream(
    start_nats: Start, make_queue: MakeQueue
) -> None:
    server = start_nats(
        accounts={
            "small": {
                "jetstream": {"max_streams": 1},
                "users": [{"user": "a", "password": "a"}],
            }
        }
    )
    text = await refusal(make_queue(server.url, options={"user": "a", "password": "a"}))
    assert "maximum number of streams reached" in text
    assert "Cannot create stream" in text


# -- looking ----------------------------------------------------------------------------------


async def test_info_is_over_all_machines(make_queue: MakeQueue, name: str) -> None:
    first, second = make_queue(maxsize=20), make_queue(maxsize=20)
    held = Worker(held=True)
    await first.start_workers(held, 2, ignore)
    await second.start()
    await put_all(second, *range(5))
    await until(lambda: len(held.began) == 2)
    info = await second.info()
    assert isinstance(info, QueueInfo)
    assert (info.name, info.size, info.maxsize, info.in_flight) == (name, 5, 20, 2)
    assert (info.dead_letters, info.replicas, info.redelivered) == (0, 1, 0)
    assert info.bytes > 0
    held.failures = [ValueError("no")] * 5
    held.may_go_on.set()
    await soon(first.join())
    await until(lambda: first.statistics().dead_letters == 5)
    info = await second.info()
    assert (info.size, info.in_flight, info.dead_letters) == (0, 0, 5)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + 10
    while (await second.info()).idle_workers == 0:
        assert loop.time() < give_up_at
        await asyncio.sleep(0.01)


async def test_info_of_a_queue_that_does_not_run(make_queue: MakeQueue) -> None:
    with pytest.raises(QueueStateError, match="Cannot look"):
        await make_queue().info()


async def test_a_queue_that_was_deleted_under_way(
    make_queue: MakeQueue, nats_server: NatsServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 0.5)
    queue = make_queue()
    await queue.start()
    async with plain_client(nats_server.url) as client:
        await ask(client, f"STREAM.DELETE.{name}")
    with pytest.raises(BrokerError, match=r"not stored .*was the queue deleted"):
        await soon(queue.put("a"))
    with pytest.raises(BrokerError, match="stream not found"):
        await soon(queue.info())
