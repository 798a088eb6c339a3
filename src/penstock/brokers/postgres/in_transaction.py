"""A put in a transaction of the caller: the item is there if the caller commits."""

from __future__ import annotations

from typing import Any

import psycopg

from penstock.brokers.engine import Stored
from penstock.brokers.postgres import problems
from penstock.brokers.postgres.storage import headers_text
from penstock.brokers.sql.rows import NewItem


class CallersPut:
    """Puts by connections of the caller.

    Args:
        schema, name: of the queue.
        where: for what errors say.
    """

    def __init__(self, schema: str, name: str, where: str) -> None:
        self._schema = schema
        self._name = name
        self._where = where
        self._query = f'SELECT "{schema}".put(%s::text, %s::bytea, %s::text, %s::text)'

    def put(self, connection: Any, item: NewItem) -> Stored:
        """Store an item by a connection that blocks, of psycopg, psycopg2 or Django.

        Raises:
            TypeError: it is none.
            BrokerError: psycopg says that it is not stored. What others raise is theirs.
        """
        if isinstance(connection, psycopg.AsyncConnection):
            raise TypeError("connection must be one that blocks: await put(item, connection=...)")
        if not callable(getattr(connection, "cursor", None)):
            raise TypeError(
                f"connection must be one of psycopg, psycopg2 or Django, "
                f"got {type(connection).__name__}"
            )
        try:
            with connection.cursor() as cursor:
                cursor.execute(self._query, self._values(item))
                return _stored(cursor.fetchone())
        except psycopg.Error as error:
            raise problems.explained(error, self._where, self._schema) from error

    async def put_async(self, connection: Any, item: NewItem) -> Stored:
        """The same by an ``AsyncConnection`` of psycopg."""
        if not isinstance(connection, psycopg.AsyncConnection):
            raise TypeError(
                f"connection must be a psycopg.AsyncConnection, got {type(connection).__name__}; "
                "for one that blocks: put_in(connection, item)"
            )
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(self._query.encode(), self._values(item))
                return _stored(await cursor.fetchone())
        except psycopg.Error as error:
            raise problems.explained(error, self._where, self._schema) from error

    def _values(self, item: NewItem) -> list[Any]:
        return [self._name, item.data, headers_text(item.headers), item.id]


def _stored(row: Any) -> Stored:
    # A connection of the caller may make rows of its own kind.
    value = next(iter(row.values())) if isinstance(row, dict) else row[0]
    return Stored(value)
