"""The schema of queues in a database: making it, its version, and what state it is in."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg

from penstock._util import checks
from penstock.brokers.postgres import problems
from penstock.brokers.postgres.connecting import Row, connect, described
from penstock.brokers.postgres.migrations import MIGRATIONS
from penstock.errors import BrokerError

R = TypeVar("R")

#: What this penstock makes.
VERSION: Final = len(MIGRATIONS)
#: The tables, without that of the versions.
TABLES: Final = ("queues", "slots", "dead_letters", "ids", "processes")

# A number of our own, which nobody else locks.
_LOCK = "SELECT pg_advisory_xact_lock(7082130961137)"
_HAS_SCHEMA = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
_HAS_TABLE = "SELECT to_regclass(%s) IS NOT NULL"


@dataclass(frozen=True)
class PostgresTable:
    """A table of the schema, with its indexes."""

    name: str
    bytes: int
    #: Rows that are there, and versions of rows that a vacuum can remove, as the server estimates.
    rows: int
    dead_rows: int


@dataclass(frozen=True)
class PostgresStatus:
    """What state the schema is in."""

    #: 0: there is none.
    version: int
    #: The version that this penstock makes.
    newest: int
    #: The names of the queues, with how many items each has, and may have.
    queues: dict[str, tuple[int, int]]
    tables: tuple[PostgresTable, ...]
    #: Seconds for which the oldest snapshot in the database has been open. While it is, no vacuum
    #: removes what was done since.
    oldest_snapshot: float


def check_schema(schema: Any) -> str:
    """A name for a schema.

    Raises:
        TypeError, ValueError: it is none that is allowed.
    """
    checks.label(schema, "schema")
    if not re.fullmatch("[a-z_][a-z0-9_]{0,39}", schema) or schema.startswith("pg_"):
        raise ValueError(
            "schema must be up to 40 small letters, digits and underscores, begin with no digit "
            f"and not with pg_, got {checks.shown(schema)}"
        )
    return str(schema)


def channel_of(schema: str, queue: int | str = "") -> str:
    """What the channels of a queue for NOTIFY begin with; what happened is at their end."""
    return f"{schema}:{queue}:" if queue else f"{schema}:"


async def init(dsn: str, *, schema: str = "penstock") -> int:
    """Make the schema in a database, or bring it up to date; return its version.

    It may be called at any time, also by several at once. The role must be allowed to create a
    schema in the database, or own this one. Items stay.

    Args:
        dsn: as for :class:`PostgresQueue`.
        schema: what it is called.

    Raises:
        BrokerError: the database cannot be reached, does not let us, or was prepared by a newer
            penstock.
        ValueError, TypeError: for an argument that is not allowed.
    """
    check_schema(schema)

    async def work(connection: psycopg.AsyncConnection[Row], where: str) -> int:
        async with connection.transaction():
            await connection.execute(_LOCK)
            version = await version_of(connection, schema)
            check_version(version, where)
            await _migrate(connection, schema, version)
        return VERSION

    return await _with_connection(dsn, schema, work)


async def _migrate(connection: psycopg.AsyncConnection[Row], schema: str, version: int) -> None:
    if not await (await connection.execute(_HAS_SCHEMA, [schema])).fetchone():
        await connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
    if not version:
        table = f'CREATE TABLE IF NOT EXISTS "{schema}".schema_version (version integer NOT NULL)'
        await connection.execute(table.encode())
        insert = f'INSERT INTO "{schema}".schema_version VALUES (0)'  # noqa: S608 - checked
        await connection.execute(insert.encode())
    for migration in MIGRATIONS[version:]:
        statements = migration.replace("{schema}", f'"{schema}"')
        statements = statements.replace("{channel}", channel_of(schema))
        await connection.execute(statements.encode())
    update = f'UPDATE "{schema}".schema_version SET version = {VERSION}'  # noqa: S608 - checked
    await connection.execute(update.encode())


async def version_of(connection: psycopg.AsyncConnection[Row], schema: str) -> int:
    """The version of the schema; 0 if it is not there."""
    table = f'"{schema}".schema_version'
    (is_there,) = await _row(connection, _HAS_TABLE, table)
    if not is_there:
        return 0
    (version,) = await _row(connection, f"SELECT max(version) FROM {table}")  # noqa: S608 - checked
    return int(version or 0)


def check_version(version: int, where: str) -> None:
    """See that this penstock knows the tables.

    Raises:
        BrokerError: they are newer.
    """
    if version > VERSION:
        raise BrokerError(
            f"{where} was prepared by a newer penstock: its tables have version {version}, and "
            f"this one knows {VERSION}. Upgrade penstock here"
        )


async def status(dsn: str, *, schema: str = "penstock") -> PostgresStatus:
    """What state the schema is in. It changes nothing.

    Args:
        dsn, schema: as for :func:`init`.

    Raises:
        BrokerError, ValueError, TypeError: as :func:`init`.
    """
    check_schema(schema)

    async def work(connection: psycopg.AsyncConnection[Row], where: str) -> PostgresStatus:
        version = await version_of(connection, schema)
        check_version(version, where)
        (oldest,) = await _row(connection, _OLDEST)
        if not version:
            return PostgresStatus(0, VERSION, {}, (), oldest)
        queues = await (
            await connection.execute(_QUEUES.replace("penstock", schema).encode())
        ).fetchall()
        tables = await (await connection.execute(_TABLES, [schema])).fetchall()
        return PostgresStatus(
            version,
            VERSION,
            {name: (size, maxsize) for name, size, maxsize in queues},
            tuple(PostgresTable(*table) for table in tables),
            oldest,
        )

    return await _with_connection(dsn, schema, work)


_QUEUES = """
SELECT name, "penstock".size(id), maxsize FROM "penstock".queues ORDER BY name
"""
_TABLES = """
SELECT relname, pg_total_relation_size(relid), n_live_tup, n_dead_tup
FROM pg_stat_user_tables WHERE schemaname = %s AND relname != 'schema_version' ORDER BY relname
"""
# Another one's transactions show their age to everybody.
_OLDEST = """
SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::double precision
FROM pg_stat_activity
WHERE pid != pg_backend_pid() AND backend_xmin IS NOT NULL AND datname = current_database()
"""


async def vacuum(dsn: str, *, schema: str = "penstock") -> None:
    """Have the server remove what is left of items that are done, now. It disturbs no queue.

    The server does so by itself, again and again; after hours with a snapshot open it may be worth
    it by hand.

    Args:
        dsn, schema: as for :func:`init`.

    Raises:
        BrokerError, ValueError, TypeError: as :func:`init`.
    """
    check_schema(schema)

    async def work(connection: psycopg.AsyncConnection[Row], where: str) -> None:
        if not await version_of(connection, schema):
            raise problems.no_schema(where, schema)
        for table in TABLES:
            await connection.execute(f'VACUUM (ANALYZE) "{schema}".{table}'.encode())

    await _with_connection(dsn, schema, work)


async def _with_connection(
    dsn: str,
    schema: str,
    work: Callable[[psycopg.AsyncConnection[Row], str], Awaitable[R]],
) -> R:
    where = described(dsn)
    connection = await connect(dsn, where, schema)
    async with connection:
        try:
            return await work(connection, where)
        except psycopg.Error as error:
            raise problems.explained(error, where, schema) from error


async def _row(connection: psycopg.AsyncConnection[Row], query: str, *values: Any) -> Row:
    row = await (await connection.execute(query.encode(), values or None)).fetchone()
    assert row is not None
    return row
