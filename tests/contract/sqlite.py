"""The queue in a file, as the contract's tests want it: each in a file of its own."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from contract.helpers import MakeQueue
from penstock.brokers.sqlite import SqliteQueue


class SqliteQueueToLookAt(SqliteQueue[Any]):
    """Its ``unprocessed`` is what is in the file, in nobody's hands at the end of a test."""

    @property
    def unprocessed(self) -> list[Any]:
        if not self.path.exists():  # it was not started yet
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT data FROM penstock_items ORDER BY number")
            return [json.loads(row[0]) for row in rows]


@asynccontextmanager
async def sqlite_queues() -> AsyncIterator[MakeQueue]:
    with tempfile.TemporaryDirectory() as folder:
        count = 0

        def make(*, maxsize: int = 100, timeout: float = 0.1) -> SqliteQueueToLookAt:
            nonlocal count
            count += 1
            return SqliteQueueToLookAt(
                Path(folder) / f"{count}.db", maxsize=maxsize, timeout=timeout
            )

        yield make
