"""Ways to put items into a file where other processes can take them, for ``sqlite.py``."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.broker_clients import (
    ACK_WAIT,
    BOUND,
    TRIES,
    WORKERS,
    Client,
    Item,
    Left,
    Work,
    end,
    item,
    to_json,
    until_stored,
)
from penstock.brokers.sqlite import SqliteQueue

R = TypeVar("R")

#: Seconds between two looks where there was nothing.
_PAUSE = 0.005


class PenstockSqlite(Client):
    """``SqliteQueue``."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._queue = SqliteQueue[Item](
            self.url, maxsize=BOUND, timeout=math.inf, ack_wait=ACK_WAIT, max_deliveries=TRIES
        )
        async with self._queue:
            yield

    async def put(self, number: int) -> None:
        await self._queue.put(item(number))

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        await self._queue.start_workers(work, WORKERS)
        yield
        await self._queue.stop_workers()


class SqliteByHand(Client):
    """sqlite3 in a thread: a transaction for each put, each take and each end of an item."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._thread = ThreadPoolExecutor(1)
        await self._do(self._connect)
        try:
            yield
        finally:
            await self._do(self._connection.close)
            self._thread.shutdown()

    def _connect(self) -> None:
        self._connection = connection = sqlite3.connect(
            self.url, timeout=30, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY AUTOINCREMENT, "
            "lease REAL NOT NULL DEFAULT 0, data BLOB NOT NULL)"
        )

    async def _do(self, call: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _write(self, call: Callable[[sqlite3.Connection], R]) -> R:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = call(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result

    async def put(self, number: int) -> None:
        data = to_json(item(number)).encode()

        def insert(connection: sqlite3.Connection) -> bool:
            if connection.execute("SELECT count(*) FROM items").fetchone()[0] >= BOUND:
                return False
            connection.execute("INSERT INTO items (data) VALUES (?)", (data,))
            return True

        async def store() -> bool:
            return await self._do(lambda: self._write(insert))

        await until_stored(store)

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        tasks = {asyncio.create_task(task) for task in self._tasks(work)}
        yield
        await end(tasks)

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._take_for_ever(work, 1) for _ in range(WORKERS)]

    async def _take_for_ever(self, work: Work, most: int) -> None:
        def take(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
            now = time.time()
            rows = connection.execute(
                "SELECT id, data FROM items WHERE lease < ? ORDER BY id LIMIT ?", (now, most)
            ).fetchall()
            leases = [(now + ACK_WAIT, row[0]) for row in rows]
            connection.executemany("UPDATE items SET lease = ? WHERE id = ?", leases)
            return rows

        while True:
            rows = await self._do(lambda: self._write(take))
            if not rows:
                await asyncio.sleep(_PAUSE)
                continue
            await asyncio.gather(*(work(json.loads(data)) for _, data in rows))
            done = [(row[0],) for row in rows]
            await self._do(
                lambda done=done: self._write(  # type: ignore[misc]
                    lambda connection: connection.executemany(
                        "DELETE FROM items WHERE id = ?", done
                    )
                )
            )


class SqliteByHandInBatches(SqliteByHand):
    """The same, ten items at a time: when all of them are done, the next ten."""

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._take_for_ever(work, WORKERS)]


@asynccontextmanager
async def sqlite_onlooker(path: str) -> AsyncIterator[Left]:
    """How many items the file has. At the end it is removed."""

    async def left() -> int:
        await asyncio.sleep(0.001)  # others are to have their turn
        with closing(sqlite3.connect(path)) as connection:
            for table in ("penstock_items", "items"):
                try:
                    count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                except sqlite3.OperationalError:  # the table of the others
                    continue
                return count
        return 0

    try:
        yield left
    finally:
        for file in Path(path).parent.glob(f"{Path(path).name}*"):
            file.unlink()
