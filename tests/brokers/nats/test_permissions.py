"""The permissions that the docs give to producers, workers and operators are enough, and needed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from brokers.servers import NatsServer
from penstock import BrokerError, QueueEmptyError
from penstock.brokers.nats import NatsQueue

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

DOCS = Path(__file__).parents[3] / "docs"

Queue = Callable[[str], NatsQueue[str]]


def block() -> str:
    """The configuration as it stands in the docs."""
    for page in sorted(DOCS.glob("**/*.md")):
        found = re.search(r"```\w*\n(authorization \{.*?)```", page.read_text("utf-8"), re.DOTALL)
        if found is not None:
            return found[1]
    raise AssertionError("no page has it")


@pytest.fixture
def queue(start_nats: Callable[..., NatsServer], nats_program: Path, tmp_path: Path) -> Queue:
    """The queue as a user has it, on a server that has the permissions of the docs."""
    users = tmp_path / "users.conf"
    users.write_text(block(), encoding="utf-8")
    # A server whose configuration is followed by that of the docs.
    both = tmp_path / "both.conf"
    program = tmp_path / "nats-server"
    program.write_text(
        "#!/bin/sh\n"
        f"""sed -e '1d' -e '$d' "$2" > {both}\n"""
        f"cat {users} >> {both}\n"
        f"exec {nats_program} --config {both}\n"
    )
    program.chmod(0o755)
    server = start_nats(program=program)

    def queue(user: str) -> NatsQueue[str]:
        url = server.url.replace("://", f"://{user}:change-me@")
        return NatsQueue(url, "calls", 10)

    return queue


async def test_they_are_enough(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    async def work(item: str) -> None:
        if item == "bad":
            raise ValueError("it is bad")

    caplog.set_level(logging.ERROR)
    async with (
        queue("operator") as operator,
        queue("producer") as producer,
        queue("worker") as worker,
    ):
        await worker.start_workers(work, 2, lambda error, item: None)
        for item in ("good", "bad"):
            assert await producer.put(item)
        await asyncio.wait_for(producer.join(), 20)
        (letter,) = await operator.look_at_dead_letters()
        assert (letter.item, letter.error) == ("bad", "it is bad")
        assert len(await operator.processes(1)) == 2
        await worker.stop_workers()
        assert await operator.redrive() == 1
        assert (await operator.info()).size == 1
        assert await worker.get(10) == "bad"
    assert caplog.messages == []


async def test_a_producer_cannot_make_a_queue(queue: Queue) -> None:
    with pytest.raises(BrokerError, match=r'publish to "\$js\.api\.stream\.create\.calls"'):
        await queue("producer").start()


async def test_a_worker_cannot_put(queue: Queue) -> None:
    async with queue("operator"), queue("worker") as worker:
        with pytest.raises(BrokerError, match=r'publish to "penstock\.calls"'):
            await worker.put("from a worker")


async def test_a_producer_gets_no_items(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    async with queue("operator"), queue("producer") as producer:
        assert await producer.put("mine")
        with pytest.raises(QueueEmptyError):
            await producer.get(0.5)
    assert 'publish to "$js.api.consumer.msg.next.calls.workers"' in caplog.text
