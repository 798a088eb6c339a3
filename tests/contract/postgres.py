"""The queue in PostgreSQL, as the contract's tests want it: each has a name of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg

from contract.helpers import MakeQueue
from penstock.brokers.postgres import PostgresQueue


class PostgresQueueToLookAt(PostgresQueue[Any]):
    """Its ``unprocessed`` is what is in the database, in nobody's hands at the end of a test."""

    def __init__(self, url: str, maxsize: int, timeout: float) -> None:
        self._url = url
        super().__init__(url, f"contract-{uuid4().hex}", maxsize, timeout)

    @property
    def unprocessed(self) -> list[Any]:
        with psycopg.connect(self._url) as connection:
            rows = connection.execute(
                "SELECT data FROM penstock.slots JOIN penstock.queues ON id = queue "
                "WHERE name = %s AND number IS NOT NULL ORDER BY number",
                [self.name],
            )
            return [json.loads(row[0]) for row in rows]


@asynccontextmanager
async def postgres_queues(url: str) -> AsyncIterator[MakeQueue]:
    def make(*, maxsize: int = 100, timeout: float = 0.1) -> PostgresQueueToLookAt:
        return PostgresQueueToLookAt(url, maxsize, timeout)

    yield make
