"""The connections of one queue: statements on those of a pool, each committed by itself."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, cast

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from penstock.brokers.postgres import connecting, problems
from penstock.brokers.postgres.connecting import Row
from penstock.brokers.postgres.problems import ConnectionBrokenError
from penstock.errors import BrokerError

#: The most connections of a pool of ours: puts, takes, ends of items, and looks.
_MOST: Final = 4
#: How many connections that look broken are given up for another one.
_MOST_STALE: Final = 20
#: Seconds to wait for a connection, and for the answer to a statement.
_CONNECT, _ANSWER = 10.0, 30.0

AnyPool = AsyncConnectionPool[Any]


class PostgresConnections:
    """Statements for a database, from one event loop.

    Args:
        target: a connection string; or a pool, which stays its owner's.
        schema: for what errors say.
        prepares: keep statements prepared in the server, where the connections are our own.
    """

    def __init__(self, target: str | AnyPool, schema: str, *, prepares: bool = False) -> None:
        self._target = target
        self._prepares = prepares
        self._schema = schema
        self.where = (
            connecting.described(target) if isinstance(target, str) else "PostgreSQL (by its pool)"
        )
        #: Whether the last statement found no connection, or broke it.
        self.is_lost = False
        self._pool: AnyPool | None = None
        # Those of our own pool, to end them where there is no loop any more.
        self._ours: set[psycopg.AsyncConnection[Any]] = set()

    async def open(self) -> None:
        """See that there is a server that is new enough, and have connections to it.

        Raises:
            BrokerError: there is none, or it lets us not in.
        """
        if not isinstance(self._target, str):
            if self._target.closed:
                raise BrokerError("The pool is not open: await pool.open() before start()")
            self._pool = self._target
            return
        # The first one by hand: a pool does not say why it cannot connect.
        await (await connecting.connect(self._target, self.where, self._schema)).close()
        pool: AnyPool = AsyncConnectionPool(
            kwargs={
                **connecting.with_defaults(self._target),
                "autocommit": True,
                "prepare_threshold": 5 if self._prepares else None,
            },
            min_size=1,
            max_size=_MOST,
            open=False,
            configure=self._keep,
            timeout=_CONNECT,
            name="penstock",
        )
        await pool.open()
        self._pool = pool

    async def _keep(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._ours = {one for one in self._ours if not one.closed}
        self._ours.add(connection)

    async def connect(self) -> psycopg.AsyncConnection[Row]:
        """A connection outside the pool.

        Raises:
            BrokerError: there is none.
        """
        if isinstance(self._target, str):
            return await connecting.connect(self._target, self.where, self._schema)
        pool = self._target
        conninfo, kwargs = pool.conninfo, pool.kwargs or {}
        conninfo = await _called(conninfo) if callable(conninfo) else conninfo
        kwargs = await _called(kwargs) if callable(kwargs) else kwargs
        try:
            return await psycopg.AsyncConnection.connect(conninfo, **{**kwargs, "autocommit": True})
        except psycopg.Error as error:
            raise problems.explained(error, self.where, self._schema) from error

    async def execute(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """Carry out a statement; its rows.

        Raises:
            ConnectionBrokenError: nobody can say whether it was carried out.
            BrokerError: it was not.
        """
        pool = self._pool
        if pool is None:
            raise BrokerError(f"{self.where} is closed")
        connection = await self._get(pool)
        timer = asyncio.get_running_loop().call_later(_ANSWER, _cut, connection)
        # A pool of the caller may hand out connections that commit nothing by themselves.
        was_manual = not connection.autocommit
        try:
            if was_manual:
                await connection.set_autocommit(True)
            cursor = connection.cursor(binary=True)
            await cursor.execute(query.encode(), values)
            rows = cast("list[Row]", await cursor.fetchall()) if cursor.description else []
            if was_manual:
                await connection.set_autocommit(False)
        except psycopg.Error as error:
            self.is_lost = problems.is_broken(error, connection)
            told = problems.explained(error, self.where, self._schema)
            if self.is_lost:
                raise ConnectionBrokenError(str(told)) from error
            raise told from error
        finally:
            timer.cancel()
            await pool.putconn(connection)
        self.is_lost = False
        return rows

    async def _get(self, pool: AnyPool) -> psycopg.AsyncConnection[Any]:
        """A connection that did not break while it was not used."""
        for attempt in count():
            try:
                connection: psycopg.AsyncConnection[Any] = await pool.getconn(_CONNECT)
            except (PoolTimeout, TooManyRequests) as error:
                self.is_lost = True
                raise BrokerError(f"{self.where} cannot be reached: {error}") from error
            except PoolClosed as error:
                raise BrokerError(f"{self.where} is closed") from error
            if attempt >= _MOST_STALE or not _is_stale(connection):
                return connection
            await connection.close()
            await pool.putconn(connection)
        raise AssertionError

    async def close(self) -> None:
        """Close the connections, if they are ours."""
        pool, self._pool = self._pool, None
        if pool is not None and pool is not self._target:
            await pool.close()
        self._ours.clear()

    def forget(self) -> None:
        """The event loop was closed: end the connections without it."""
        self._pool = None
        for connection in self._ours:
            connection.pgconn.finish()
        self._ours.clear()


async def _called(function: Any) -> Any:
    value = function()
    return await value if hasattr(value, "__await__") else value


def _is_stale(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server ended it while it was idle; known without asking the server.

    A server says why it ends a connection, and seldom anything else to one that is idle.
    """
    if connection.closed:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection.pgconn.socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """End a connection on which a statement waits for an answer; it fails then."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours,
    ):
        ours.shutdown(socket.SHUT_RDWR)
