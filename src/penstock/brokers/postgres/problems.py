"""What goes wrong with a database, told with its cure."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors

from penstock.errors import BrokerError

#: Classes of SQLSTATE with which a server ends a connection, or refuses one.
_CONNECTION: Final = ("08", "57P")


class ConnectionBrokenError(BrokerError):
    """The connection broke while a statement was on its way: whether it was carried out is open."""


def is_broken(error: psycopg.Error, connection: psycopg.AsyncConnection[object]) -> bool:
    """Whether the connection ended, so that nobody can say what became of the statement."""
    if connection.closed or connection.broken:
        return True
    state = error.sqlstate
    return isinstance(error, psycopg.OperationalError) and (
        state is None or state.startswith(_CONNECTION)
    )


def explained(error: psycopg.Error, where: str, schema: str) -> BrokerError:
    """The error of a statement that was not carried out, or of a connection that was not made."""
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if isinstance(
        error, errors.UndefinedTable | errors.UndefinedFunction | errors.InvalidSchemaName
    ):
        return no_schema(where, schema)
    if isinstance(error, errors.InsufficientPrivilege):
        return BrokerError(f"{where} does not let us: {said}. Grant the role what the queue needs")
    if isinstance(error, errors.DiskFull | errors.OutOfMemory):
        return BrokerError(f"{where} has no room left: {said}. Nothing was stored")
    return BrokerError(f"{where}: {said}")


def no_schema(where: str, schema: str) -> BrokerError:
    """The database has not been prepared."""
    option = "" if schema == "penstock" else f" --schema {schema}"
    return BrokerError(
        f"{where} has no tables of penstock in the schema {schema} yet: make them with "
        f"penstock postgres init{option} URL"
    )
