"""The tables of queues in a file, and their version.

They may stand beside those of a program in a file of its own, so they say their version themselves;
``PRAGMA user_version`` belongs to the program.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from penstock.errors import BrokerError

#: What this penstock writes.
VERSION: Final = 1

#: The bits of an item's number that count the puts; those above are the number of its queue.
_COUNTING_BITS = 40

_TABLES = """
CREATE TABLE penstock_schema (version INTEGER NOT NULL);
CREATE TABLE penstock_queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    maxsize INTEGER NOT NULL,
    ack_wait REAL NOT NULL,
    max_dead_letters INTEGER NOT NULL,
    dedupe REAL NOT NULL,
    is_paused INTEGER NOT NULL DEFAULT 0,
    -- changed with each put and each end of an item, in the same transaction
    size INTEGER NOT NULL,
    last_number INTEGER NOT NULL
);
CREATE TABLE penstock_items (
    number INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    rank REAL NOT NULL,
    put_at REAL NOT NULL,
    due REAL,
    lease INTEGER,
    deliveries INTEGER NOT NULL DEFAULT 0,
    headers TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX penstock_ready ON penstock_items (queue, rank, number) WHERE due IS NULL;
CREATE INDEX penstock_due ON penstock_items (queue, due) WHERE due IS NOT NULL;
CREATE TABLE penstock_dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    died_at REAL NOT NULL,
    rank REAL NOT NULL,
    headers TEXT NOT NULL,
    data BLOB NOT NULL,
    deliveries INTEGER NOT NULL,
    error_type TEXT NOT NULL,
    error TEXT NOT NULL
);
CREATE INDEX penstock_dead ON penstock_dead_letters (queue, number);
CREATE TABLE penstock_ids (
    queue INTEGER NOT NULL,
    id TEXT NOT NULL,
    put_at REAL NOT NULL,
    PRIMARY KEY (queue, id)
) WITHOUT ROWID;
CREATE INDEX penstock_old_ids ON penstock_ids (queue, put_at);
CREATE TABLE penstock_processes (
    key TEXT PRIMARY KEY,
    queue INTEGER NOT NULL,
    seen_at REAL NOT NULL,
    told TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO penstock_schema (version) VALUES (1);
"""


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of the tables in the file; None if there are none."""
    there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'penstock_schema'"
    if connection.execute(there).fetchone() is None:
        return None
    row = connection.execute("SELECT version FROM penstock_schema").fetchone()
    return None if row is None else int(row[0])


def check_version(version: int, where: str) -> None:
    """See that this penstock knows the tables.

    Raises:
        BrokerError: they are newer.
    """
    if version > VERSION:
        raise BrokerError(
            f"{where} was written by a newer penstock: its tables have version {version}, and this "
            f"one knows {VERSION}. Upgrade penstock here"
        )


def set_up(connection: sqlite3.Connection, where: str) -> None:
    """Make the tables if they are not there; in a write transaction.

    Raises:
        BrokerError: they are newer than this penstock.
    """
    version = version_of(connection)
    if version is not None:
        check_version(version, where)
        return
    for statement in _TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)


def first_number(queue: int) -> int:
    """The number below those of all items of a queue. Items of one queue lie side by side."""
    return queue << _COUNTING_BITS
