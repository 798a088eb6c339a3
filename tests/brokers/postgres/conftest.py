from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from brokers.postgres.helpers import Opened
from brokers.postgres.server import PostgresServer, running_postgres
from penstock.brokers.postgres import PostgresQueue, init

MakeOpened = Callable[..., Any]


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database of the test's own, which is prepared."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        own = postgres_server.url.rpartition("/")[0] + f"/{name}"
        await init(own)
        yield own
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
async def open_queue(url: str) -> AsyncIterator[MakeOpened]:
    """Open the queue of the test, as many times as it likes."""
    opened: list[Opened] = []

    async def open_one(name: str = "calls", **settings: Any) -> Opened:
        queue = Opened(url, name)
        await queue.open(**settings)
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        await queue.close()


@pytest.fixture
async def make_queue(url: str) -> AsyncIterator[Callable[..., PostgresQueue[Any]]]:
    """Make a queue in the database of the test. Each stands for a process."""
    made: list[PostgresQueue[Any]] = []

    def make(target: Any = url, **settings: Any) -> PostgresQueue[Any]:
        queue: PostgresQueue[Any] = PostgresQueue(target, **settings)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        await queue.stop(timeout=0)


@pytest.fixture
def start_postgres(postgres_programs: Path) -> Iterator[Callable[..., PostgresServer]]:
    """Start a server of the test's own, which keeps its promises about the disk."""
    with ExitStack() as cleanup:

        def start(**settings: Any) -> PostgresServer:
            return cleanup.enter_context(
                running_postgres(postgres_programs, **{"fsync": "on", **settings})
            )

        yield start
