"""Ways to put items into a database where other machines can take them, for ``postgres.py``."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

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
from penstock.brokers.postgres import PostgresQueue, init

#: Seconds between two looks where there was nothing.
_PAUSE = 0.005

_MAKE = f"""
CREATE TABLE items (
    id bigserial PRIMARY KEY, lease timestamptz NOT NULL DEFAULT '-infinity', data bytea NOT NULL
);
CREATE TABLE counter (n integer NOT NULL);
INSERT INTO counter VALUES (0);
CREATE TABLE slots (
    slot integer PRIMARY KEY, id bigint, lease timestamptz, data bytea
);
CREATE INDEX ON slots (slot) WHERE id IS NULL;
CREATE INDEX ON slots (id) WHERE id IS NOT NULL;
CREATE SEQUENCE ids;
INSERT INTO slots SELECT generate_series(1, {BOUND});
"""


async def prepare(url: str) -> None:
    """Make the tables of all, once."""
    await init(url)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA hand")
        await connection.execute("SET search_path = hand")
        await connection.execute(_MAKE.encode())


class PenstockPostgres(Client):
    """``PostgresQueue``."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._queue = PostgresQueue[Item](
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


class PostgresByHand(Client):
    """psycopg with a pool: one statement, and a commit, for each put, take and end of an item.

    A row counts the items: each put and each end changes it.
    """

    _put = """
    WITH room AS (UPDATE hand.counter SET n = n + 1 WHERE n < %s RETURNING n)
    INSERT INTO hand.items (data) SELECT %b::bytea FROM room
    """
    _take = """
    UPDATE hand.items SET lease = clock_timestamp() + make_interval(secs => %s) WHERE id IN (
        SELECT id FROM hand.items WHERE lease < clock_timestamp()
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING id, data
    """
    _done = """
    WITH gone AS (DELETE FROM hand.items WHERE id = ANY(%s) RETURNING id)
    UPDATE hand.counter SET n = n - (SELECT count(*) FROM gone)
    """

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._pool = AsyncConnectionPool[Any](
            self.url, min_size=1, max_size=10, open=False, kwargs={"autocommit": True}
        )
        await self._pool.open()
        try:
            yield
        finally:
            await self._pool.close()

    def _put_values(self, data: bytes) -> list[Any]:
        return [BOUND, data]

    async def put(self, number: int) -> None:
        data = to_json(item(number)).encode()

        async def store() -> bool:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(self._put, self._put_values(data))
                return bool(cursor.rowcount)

        await until_stored(store)

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        tasks = {asyncio.create_task(task) for task in self._tasks(work)}
        yield
        await end(tasks)

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._take_for_ever(work, WORKERS)]

    async def _take_for_ever(self, work: Work, most: int) -> None:
        while True:
            async with self._pool.connection() as connection:
                cursor = connection.cursor(binary=True)
                rows = await (await cursor.execute(self._take, [ACK_WAIT, most])).fetchall()
            if not rows:
                await asyncio.sleep(_PAUSE)
                continue
            await asyncio.gather(*(work(json.loads(row[1])) for row in rows))
            async with self._pool.connection() as connection:
                await connection.execute(self._done, [[row[0] for row in rows]])


class PostgresSlotsByHand(PostgresByHand):
    """The same, with a row for each place, which puts fill and ends of items empty."""

    _put = """
    UPDATE hand.slots SET id = nextval('hand.ids'), lease = '-infinity', data = %b::bytea
    WHERE slot = (
        SELECT slot FROM hand.slots WHERE id IS NULL ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    """
    _take = """
    UPDATE hand.slots SET lease = clock_timestamp() + make_interval(secs => %s) WHERE slot IN (
        SELECT slot FROM hand.slots WHERE id IS NOT NULL AND lease < clock_timestamp()
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING slot, data
    """
    _done = "UPDATE hand.slots SET id = NULL, lease = NULL, data = NULL WHERE slot = ANY(%s)"

    def _put_values(self, data: bytes) -> list[Any]:
        return [data]


class PostgresOneByOne(PostgresSlotsByHand):
    """The same, each worker takes one item at a time."""

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._take_for_ever(work, 1) for _ in range(WORKERS)]


@asynccontextmanager
async def postgres_onlooker(url: str) -> AsyncIterator[Left]:
    """How many items the database has. At the end they are removed."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def left() -> int:
            await asyncio.sleep(0.001)  # others are to have their turn
            row = await (await connection.execute(_LEFT)).fetchone()
            assert row is not None
            count: int = row[0]
            return count

        yield left
        await connection.execute("DELETE FROM penstock.queues")
        await connection.execute("TRUNCATE hand.items")
        await connection.execute("UPDATE hand.counter SET n = 0")
        await connection.execute("UPDATE hand.slots SET id = NULL, lease = NULL, data = NULL")


_LEFT = """
SELECT (SELECT count(*) FROM penstock.slots WHERE number IS NOT NULL)
    + (SELECT count(*) FROM hand.items) + (SELECT count(*) FROM hand.slots WHERE id IS NOT NULL)
"""
