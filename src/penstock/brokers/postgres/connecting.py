"""The way to a database: what a DSN may be, and a connection to it."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from penstock.brokers.postgres import problems
from penstock.errors import BrokerError

Row = tuple[Any, ...]

#: The oldest server that has what the queue needs, as servers number themselves.
_OLDEST: Final = 150000

#: What a connection has unless the DSN says otherwise. What is cut off is noticed in a minute, and
#: a server in the distance that does not answer in ten seconds.
DEFAULTS: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "penstock",
}


def check_dsn(dsn: Any) -> str:
    """A connection string, or URL.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(dsn, str):
        raise TypeError(
            f"dsn_or_pool must be a str or a psycopg_pool.AsyncConnectionPool, "
            f"got {type(dsn).__name__}"
        )
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Not what it says: a password may be in it.
        raise ValueError(
            "dsn_or_pool must be like postgresql://user@host/database, or "
            "host=... dbname=..., and this is not"
        ) from None
    return dsn


def described(dsn: str) -> str:
    """Where that is, for people, without a password."""
    parts = conninfo_to_dict(check_dsn(dsn))
    database = parts.get("dbname") or parts.get("user") or "the default database"
    host = parts.get("host") or parts.get("hostaddr")
    if not host:
        return f"PostgreSQL ({database})"
    port = parts.get("port")
    return f"PostgreSQL at {host}{f':{port}' if port else ''} ({database})"


def with_defaults(dsn: str) -> dict[str, Any]:
    """The parameters of a connection."""
    return {**DEFAULTS, **conninfo_to_dict(check_dsn(dsn))}


async def connect(dsn: str, where: str, schema: str) -> psycopg.AsyncConnection[Row]:
    """Connect. Each statement is committed by itself.

    Raises:
        BrokerError: that cannot be, or the server is too old.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            **with_defaults(dsn), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        raise problems.explained(error, where, schema) from error
    try:
        check_server(connection.info.server_version, where)
    except BaseException:
        await connection.close()
        raise
    return connection


def check_server(version: int, where: str) -> None:
    """See that the server is new enough.

    Raises:
        BrokerError: it is not.
    """
    if version < _OLDEST:
        raise BrokerError(
            f"{where} is version {version // 10000}, and penstock needs PostgreSQL "
            f"{_OLDEST // 10000} or newer"
        )
