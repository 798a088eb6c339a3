"""Items that failed for good: kept with their reason, put back, and never lost on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import ask, messages, plain_client
from brokers.servers import NatsServer
from helpers.handlers import ignore
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import RetryPolicy, WorkQueue
from penstock.brokers.nats import NatsDeadLetter
from penstock.errors import QueueStateError

pytestmark = pytest.mark.real_time

Start = Callable[..., NatsServer]


def failing(text: str = "no") -> Any:
    async def work(item: Any) -> None:
        raise ValueError(f"{text} {item}")

    return work


async def with_dead(make_queue: MakeQueue, *items: Any, **settings: Any) -> Any:
    """A queue that has nothing but these as dead letters, and no workers."""
    queue = make_queue(**settings)
    await queue.start_workers(failing(), 1, ignore)
    await put_all(queue, *items)
    await soon(queue.join())
    await queue.stop_workers()
    return queue


async def test_a_dead_letter_says_what_it_was_and_why(make_queue: MakeQueue) -> None:
    queue = await with_dead(
        make_queue, {"a": 1}, retry=RetryPolicy(2, on=ValueError, backoff=lambda a, e: 0)
    )
    assert await queue.look_at_dead_letters() == [
        NatsDeadLetter(1, {"a": 1}, b'{"a":1}', "ValueError", "no {'a': 1}", 2)
    ]
    assert queue.statistics().dead_letters == 1


async def test_they_take_up_no_room(make_queue: MakeQueue) -> None:
    queue = await with_dead(make_queue, "a", "b", maxsize=2)
    await put_all(queue, "c", "d")
    assert (await queue.info()).dead_letters == 2


async def test_any_machine_sees_them_the_oldest_first(make_queue: MakeQueue) -> None:
    await with_dead(make_queue, *range(5))
    other = make_queue()
    await other.start()
    assert [one.item for one in await other.look_at_dead_letters()] == list(range(5))
    assert [one.item for one in await other.look_at_dead_letters(2)] == [0, 1]
    with pytest.raises(ValueError, match="limit must be at least 1"):
        await other.look_at_dead_letters(0)


async def test_odd_reasons_are_kept_too(make_queue: MakeQueue) -> None:
    texts = ["two\r\nlines: x", "naïve, 日本", "x" * 5000, "", "\x00\x7f", "Nats-Msg-Id: 1"]
    queue = make_queue()

    async def work(item: Any) -> None:
        raise ValueError(texts[item])

    await queue.start_workers(work, 1, ignore)
    await put_all(queue, *range(len(texts)))
    await soon(queue.join())
    letters = await queue.look_at_dead_letters()
    assert [one.item for one in letters] == list(range(len(texts)))
    assert letters[0].error == "two lines: x"
    assert letters[1].error.encode().decode("unicode_escape") == texts[1]
    assert letters[2].error == "x" * 997 + "..."
    assert all(one.error_type == "ValueError" for one in letters)


async def test_an_error_handler_hears_of_it_before(make_queue: MakeQueue) -> None:
    queue, heard = make_queue(), []

    async def handler(error: Exception, item: Any) -> None:
        heard.append((str(error), item, (await queue.info()).dead_letters))

    await queue.start_workers(failing(), 1, handler)
    await put_all(queue, "a")
    await soon(queue.join())
    assert heard == [("no a", "a", 0)]
    assert (await queue.info()).dead_letters == 1


# -- put back -----------------------------------------------------------------------------------


async def test_redriven_items_are_as_new(make_queue: MakeQueue) -> None:
    retry = RetryPolicy(2, on=ValueError, backoff=lambda attempt, error: 0, budget=None)
    queue, worker = await with_dead(make_queue, 1, 2, 3, retry=retry), Worker()
    assert await WorkQueue(queue=queue).redrive() == 3
    worker.failures = [ValueError("once more")]  # it has two attempts again
    await queue.start_workers(worker, 1, ignore)
    await soon(queue.join())
    assert sorted(worker.done) == [1, 2, 3]
    assert (await queue.info()).dead_letters == 0
    assert await queue.redrive() == 0


async def test_redriving_ends_where_there_is_no_room(make_queue: MakeQueue) -> None:
    queue = await with_dead(make_queue, 1, 2, 3, maxsize=3)
    await put_all(queue, 4)
    assert await queue.redrive(timeout=0) == 2
    assert [one.item for one in await queue.look_at_dead_letters()] == [3]
    assert (await queue.info()).size == 3


async def test_two_who_redrive_at_once_put_each_back_once(make_queue: MakeQueue) -> None:
    one, two = await with_dead(make_queue, 1, 2, 3, 4, 5), make_queue()
    await two.start()
    await soon(asyncio.gather(one.redrive(), two.redrive()))
    assert (await one.info()).size == 5
    assert await one.look_at_dead_letters() == []


async def test_what_dies_again_meanwhile_is_not_redriven_for_ever(make_queue: MakeQueue) -> None:
    queue = await with_dead(make_queue, 1, 2, 3)
    await queue.start_workers(failing("again"), 1, ignore)
    assert await soon(queue.redrive()) == 3
    await soon(queue.join())
    letters = await queue.look_at_dead_letters()
    assert [(one.item, one.error) for one in letters] == [(n, f"again {n}") for n in (1, 2, 3)]


async def test_a_queue_that_does_not_run(make_queue: MakeQueue) -> None:
    queue = make_queue()
    for call in (queue.look_at_dead_letters, queue.redrive):
        with pytest.raises(QueueStateError):
            await call()


# -- when they cannot be kept -------------------------------------------------------------------


async def test_what_cannot_be_buried_is_not_lost(
    make_queue: MakeQueue,
    nats_server: NatsServer,
    name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.brokers.source._AGAIN", 0.5)
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 0.3)
    queue, worker = make_queue(ack_wait=1), Worker()
    worker.failures = [ValueError("first"), ValueError("second")]
    await queue.start()
    async with plain_client(nats_server.url) as client:
        told = await ask(client, f"STREAM.INFO.{name}-dead")
        await ask(client, f"STREAM.DELETE.{name}-dead")
        await queue.start_workers(worker, 1, ignore)
        await put_all(queue, "a")
        await until(lambda: "cannot keep a dead letter" in caplog.text)
        assert messages(nats_server, name) == 1
        assert queue.statistics().dead_letters == 0
        await ask(client, f"STREAM.CREATE.{name}-dead", told["config"])
    await soon(queue.join())
    # It came again. By then it succeeded, or failed where it could be kept.
    letters = await queue.look_at_dead_letters()
    assert worker.done == ["a"] or [one.item for one in letters] == ["a"]
    said = [r for r in caplog.records if "cannot keep a dead letter" in r.getMessage()]
    assert {record.levelno for record in said} == {logging.ERROR}
    assert "stays in the queue and is delivered again" in said[0].getMessage()


async def test_no_room_for_more_of_them(
    make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue = make_queue(max_dead_letters=2)
    await queue.start_workers(failing(), 1, ignore)
    await put_all(queue, 1, 2, 3)
    await until(lambda: "there is no room for more of them" in caplog.text)
    info = await queue.info()
    assert (info.size, info.dead_letters) == (1, 2)


async def test_without_room_for_any_they_are_dropped(make_queue: MakeQueue) -> None:
    queue = await with_dead(make_queue, 1, 2, max_dead_letters=0)
    assert (await queue.info()).size == 0
    assert await queue.look_at_dead_letters() == []
    assert await queue.redrive() == 0


async def test_no_permission_to_bury(
    start_nats: Start,
    make_queue: MakeQueue,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    permissions = {"publish": {"deny": [f"penstock.{name}.dead"], "allow": [">"]}}
    user = {"user": "u", "password": "p"}
    server = start_nats(authorization={"users": [{**user, "permissions": permissions}]})
    queue = make_queue(server.url, options=user)
    await queue.start_workers(failing(), 1, ignore)
    await put_all(queue, "a")
    await until(lambda: "cannot keep a dead letter" in caplog.text)
    assert "does not permit this user" in caplog.text
    assert (await queue.info()).size == 1


async def test_a_stop_waits_for_burials(make_queue: MakeQueue) -> None:
    queue = make_queue()
    await queue.start_workers(failing(), 5, ignore)
    await put_all(queue, *range(20))
    await until(lambda: queue.metrics["errors"] == 20)
    assert await soon(queue.stop()) is True
    await queue.start()
    info = await queue.info()
    assert (info.size, info.dead_letters) == (0, 20)
