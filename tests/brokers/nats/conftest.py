"""Queues for the tests, each with a name of its own, and stopped at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from brokers.servers import NatsServer
from penstock.brokers.nats import NatsQueue

MakeQueue = Callable[..., "NatsQueue[Any]"]


@pytest.fixture
def name() -> str:
    """A name for the queue of the test, as no other has on the shared server."""
    return f"q{uuid4().hex[:12]}"


@pytest.fixture
async def make_queue(nats_server: NatsServer, name: str) -> AsyncIterator[MakeQueue]:
    """Make a queue: on the shared server and of the name above, unless it is said.

    Each stands for a machine: they know nothing of each other but by the server.
    """
    made: list[NatsQueue[Any]] = []

    def make(servers: Any = nats_server.url, **settings: Any) -> NatsQueue[Any]:
        queue: NatsQueue[Any] = NatsQueue(servers, **{"name": name, **settings})
        made.append(queue)
        return queue

    yield make
    await asyncio.gather(*(queue.stop(timeout=0) for queue in made))
