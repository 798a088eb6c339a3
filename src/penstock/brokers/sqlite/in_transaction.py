"""A put in a transaction of the caller: the item is there if the caller commits."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from penstock._util import checks
from penstock.brokers.engine import Stored
from penstock.brokers.sql.rows import NewItem
from penstock.brokers.sqlite.problems import explained, is_locked
from penstock.brokers.sqlite.storage import Storage, settings_of
from penstock.errors import BrokerError

_SAVE, _KEEP, _UNDO = (f"{verb} penstock_put" for verb in ("SAVEPOINT", "RELEASE", "ROLLBACK TO"))


def put_in_transaction(connection: Any, item: NewItem, path: Path, name: str) -> Stored:
    """Store an item by a connection of the caller, in its thread.

    Raises:
        TypeError, ValueError: ``connection`` is none to this file, or has no transaction.
        BrokerError: the file cannot be written, or has no such queue. Nothing is left of the put.
    """
    _check_connection(connection, path)
    try:
        if not connection.in_transaction:  # as sqlite3 does itself at the first INSERT
            connection.execute("BEGIN IMMEDIATE")
        connection.execute(_SAVE)
        try:
            there = settings_of(connection, name)
            if there is None:
                raise _no_queue(path, name)
            (stored,) = Storage(connection, *there).put([item])
        except BaseException:
            connection.execute(_UNDO)
            raise
        finally:
            connection.execute(_KEEP)
    except sqlite3.Error as error:
        if is_locked(error):
            raise BrokerError(
                f"{path} is locked: another connection has written since your transaction began to "
                "read, or writes for longer than the timeout of your connection. Begin with BEGIN "
                "IMMEDIATE"
            ) from error
        if "no such table" in str(error):
            raise _no_queue(path, name) from error
        raise explained(error, str(path)) from error
    return stored


def _no_queue(path: Path, name: str) -> BrokerError:
    return BrokerError(f"{path} has no queue {name} yet: start() makes it")


def _check_connection(connection: Any, path: Path) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(f"connection must be a sqlite3.Connection, got {type(connection).__name__}")
    cursor = connection.cursor()
    cursor.row_factory = None
    files = [row[2] for row in cursor.execute("PRAGMA database_list") if row[1] == "main"]
    file = os.fsdecode(files[0]) if files else ""
    if not file or not path.exists() or not os.path.samefile(file, path):
        raise ValueError(
            f"connection must be one to {path}, where the queue is, got one to "
            f"{checks.shown(file) if file else 'a database in memory'}"
        )
    # From Python 3.12 on there is autocommit, too; -1 says that isolation_level counts.
    autocommit = getattr(connection, "autocommit", -1)
    is_manual = connection.isolation_level is None if autocommit == -1 else autocommit
    if is_manual and not connection.in_transaction:
        raise ValueError(
            "connection commits each statement by itself, so there is no transaction to put the "
            "item in: execute BEGIN IMMEDIATE first"
        )
