"""What a queue does in its file: statements, without a thread or a loop.

All methods that change something are called in a write transaction, so each sees what the one
before it left, and nobody else comes in between. That makes the bound exact.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock.brokers.engine import Stored
from penstock.brokers.sql import statements as sql
from penstock.brokers.sql.rows import (
    Counts,
    DeadRow,
    ItemLease,
    Kept,
    NewItem,
    StoredItem,
    new_lease,
)
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite import schema

_ADD_QUEUE = """
INSERT INTO penstock_queues
    (name, maxsize, ack_wait, max_dead_letters, dedupe, size, last_number)
VALUES (:name, :maxsize, :ack_wait, :max_dead_letters, :dedupe, 0, 0)
"""
_FIRST_NUMBER = "UPDATE penstock_queues SET last_number = :number WHERE id = :queue"
# The size is kept by each change. Counted once more, in case somebody removed items by hand.
_COUNT_AGAIN = """
UPDATE penstock_queues SET size = (SELECT count(*) FROM penstock_items WHERE queue = :queue)
WHERE id = :queue
"""
_LEVEL = "SELECT size, maxsize, last_number FROM penstock_queues WHERE id = ?"
_BOUND = "SELECT maxsize, is_paused FROM penstock_queues WHERE id = ?"
_PAUSE = "UPDATE penstock_queues SET is_paused = ? WHERE id = ?"
_SIZE = "SELECT size FROM penstock_queues WHERE id = ?"
_GROW = "UPDATE penstock_queues SET size = size + ?, last_number = ? WHERE id = ?"
_SHRINK = "UPDATE penstock_queues SET size = size - ? WHERE id = ?"
_PUT = """
INSERT INTO penstock_items (number, queue, rank, put_at, headers, data) VALUES (?, ?, ?, ?, ?, ?)
"""
# As bytes, also where somebody put text by hand.
_READY = """
SELECT number, CAST(data AS BLOB), headers, deliveries, put_at FROM penstock_items
WHERE queue = ? AND due IS NULL ORDER BY rank, number LIMIT ?
"""
_HAS_READY = "SELECT 1 FROM penstock_items WHERE queue = ? AND due IS NULL LIMIT 1"
_TELL = "INSERT OR REPLACE INTO penstock_processes (key, queue, seen_at, told) VALUES (?, ?, ?, ?)"
_LEAVE = "DELETE FROM penstock_processes WHERE key = ?"
_FORGET_OLD = "DELETE FROM penstock_processes WHERE queue = ? AND seen_at < ?"
_PROCESSES = "SELECT told FROM penstock_processes WHERE queue = ? AND key != ? AND seen_at >= ?"


def settings_of(connection: sqlite3.Connection, name: str) -> tuple[int, SqlSettings] | None:
    """The number of a queue and what it is set to; None if there is none."""
    row = _cursor(connection).execute(sql.SETTINGS, {"name": name}).fetchone()
    return None if row is None else (row[0], SqlSettings(*row[1:]))


def open_queue(connection: sqlite3.Connection, name: str, settings: SqlSettings, where: str) -> int:
    """The number of the queue ``name``, which is made if it is not there; in a write transaction.

    Raises:
        BrokerError: it is there with other settings.
    """
    there = settings_of(connection, name)
    if there is not None:
        settings.check_against(there[1], name, where)
        connection.execute(_COUNT_AGAIN, {"queue": there[0]})
        return there[0]
    cursor = connection.execute(_ADD_QUEUE, {"name": name, **settings.as_arguments()})
    number = cursor.lastrowid
    assert number is not None
    connection.execute(_FIRST_NUMBER, {"queue": number, "number": schema.first_number(number)})
    return number


class Storage:
    """One queue, by one connection.

    Args:
        queue: its number, see :func:`open_queue`.
        clock: returns the seconds since 1970. All processes are on one machine, which has one.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        queue: int,
        settings: SqlSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._settings = settings
        self._clock = clock

    def _execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        return _cursor(self._connection).execute(statement, values)

    def _named(self, **values: Any) -> dict[str, Any]:
        dedupe = self._settings.dedupe
        return {"queue": self._queue, "now": self._clock(), "dedupe": dedupe, **values}

    # -- putting ------------------------------------------------------------------------------

    def put(self, items: Sequence[NewItem]) -> list[Stored]:
        """Store items, and return what became of each."""
        size, maxsize, last = self._execute(_LEVEL, (self._queue,)).fetchone()
        now, room, number = self._clock(), maxsize - size, last
        stored: list[Stored] = []
        rows: list[tuple[Any, ...]] = []
        has_ids = False
        for item in items:
            if item.id is not None:
                if not has_ids:
                    self._execute(sql.FORGET_IDS, self._named())
                    has_ids = True
                if self._execute(sql.KNOWS_ID, self._named(id=item.id)).fetchone() is not None:
                    stored.append(Stored.DUPLICATE)
                    continue
            if len(rows) >= room:
                stored.append(Stored.FULL)
                continue
            if item.id is not None:
                self._execute(sql.ADD_ID, self._named(id=item.id))
            number += 1
            headers = json.dumps(item.headers) if item.headers else ""
            rows.append((number, self._queue, item.rank, now, headers, item.data))
            stored.append(Stored.NEW)
        if rows:
            self._connection.executemany(_PUT, rows)
            self._execute(_GROW, (len(rows), number, self._queue))
        return stored

    # -- handing out --------------------------------------------------------------------------

    def take(self, most: int) -> list[StoredItem]:
        """Hand out up to ``most`` items, each under a lease."""
        if self._is_paused():
            return []
        now = self._clock()
        self._execute(sql.MAKE_READY, self._named(longest=self._longest_lease))
        taken, lent = [], []
        until = now + self._settings.ack_wait
        for number, data, headers, deliveries, put_at in self._execute(
            _READY, (self._queue, most)
        ).fetchall():
            lease = new_lease(number)
            age = max(0.0, now - put_at)
            lent.append({"number": number, "token": lease.token, "until": until})
            taken.append(StoredItem(lease, data, _headers_of(headers), deliveries + 1, age))
        self._connection.executemany(sql.LEASE, lent)
        return taken

    def set_paused(self, is_paused: bool) -> None:
        """Hand out nothing, to anybody, until it is set back."""
        self._execute(_PAUSE, (int(is_paused), self._queue))

    def _is_paused(self) -> bool:
        return bool(self._execute(_BOUND, (self._queue,)).fetchone()[1])

    @property
    def _longest_lease(self) -> float:
        return 2 * self._settings.ack_wait

    def next_ready(self) -> float | None:
        """Seconds until an item can be handed out, 0 if one can be now; None if there is none.

        It reads only, and needs no transaction.
        """
        if self._is_paused():
            return None
        if self._execute(_HAS_READY, (self._queue,)).fetchone() is not None:
            return 0.0
        due = self._execute(sql.NEXT_DUE, {"queue": self._queue}).fetchone()[0]
        return None if due is None else max(0.0, due - self._clock())

    def extend(self, leases: Sequence[ItemLease]) -> list[ItemLease]:
        """Let leases end later; return those that had ended, so that others may have the items."""
        until = self._clock() + self._settings.ack_wait
        return [
            lease
            for lease in leases
            if not self._execute(sql.EXTEND, {**lease._asdict(), "until": until}).rowcount
        ]

    # -- settling -----------------------------------------------------------------------------

    def done(self, lease: ItemLease) -> bool:
        """The item is done: remove it. Whether it was there.

        It may be in other hands, where the lease has ended; they find it gone.
        """
        is_removed = bool(self._execute(sql.DONE, {"number": lease.number}).rowcount)
        if is_removed:
            self._execute(_SHRINK, (1, self._queue))
        return is_removed

    def give_back(self, lease: ItemLease, delay: float = 0.0) -> bool:
        """Have an item handed out again in ``delay`` seconds; whether the lease still held."""
        due = self._clock() + delay if delay > 0 else None
        return bool(self._execute(sql.RETURN, {**lease._asdict(), "due": due}).rowcount)

    def add_dead_letter(self, lease: ItemLease, error_type: str, error: str) -> Kept:
        """Make a dead letter of an item. See :class:`Kept` for what may become of it."""
        if self._execute(sql.COUNT_DEAD, self._named()).fetchone()[0] >= (
            self._settings.max_dead_letters
        ):
            return Kept.FULL
        values = self._named(**lease._asdict(), error_type=error_type, error=error)
        if not self._execute(sql.ADD_DEAD, values).rowcount:
            return Kept.LOST
        self.done(lease)
        return Kept.YES

    # -- dead letters ---------------------------------------------------------------------------

    def dead_letters(self, limit: int, *, after: int = 0, last: int = sys.maxsize) -> list[DeadRow]:
        """The oldest ``limit`` dead letters with numbers above ``after``, up to ``last``."""
        values = self._named(limit=limit, after=after, last=last)
        return [
            DeadRow(number, data, _headers_of(headers), deliveries, error_type, error)
            for number, data, headers, deliveries, error_type, error in self._execute(
                sql.DEAD_LETTERS, values
            )
        ]

    def last_dead_letter(self) -> int:
        """The number of the newest one; 0 if there is none."""
        return self._execute(sql.LAST_DEAD, self._named()).fetchone()[0] or 0

    def redrive(self, number: int) -> Stored:
        """Put a dead letter back as if it were new, and remove it; where it is full it stays."""
        row = self._execute(sql.DEAD_TO_PUT, {"number": number}).fetchone()
        if row is None:  # somebody else was faster
            return Stored.DUPLICATE
        rank, headers, data = row
        (stored,) = self.put([NewItem(data, _headers_of(headers), rank)])
        if stored is Stored.NEW:
            self._execute(sql.REMOVE_DEAD, {"number": number})
        return stored

    # -- looking --------------------------------------------------------------------------------

    def size(self) -> int:
        """How many items are accepted and not done."""
        count: int = self._execute(_SIZE, (self._queue,)).fetchone()[0]
        return count

    def counts(self) -> Counts:
        """How many items of which kind there are."""
        maxsize, is_paused = self._execute(_BOUND, (self._queue,)).fetchone()
        row = self._execute(sql.COUNTS, self._named()).fetchone()
        size, in_flight, delayed, redelivered, volume = (value or 0 for value in row)
        dead = self._execute(sql.COUNT_DEAD, self._named()).fetchone()[0]
        return Counts(maxsize, bool(is_paused), size, in_flight, delayed, redelivered, dead, volume)

    # -- who has it open ------------------------------------------------------------------------

    def tell(self, key: str, told: str) -> None:
        """Note what the process ``key`` did, for others who ask."""
        now = self._clock()
        self._execute(_FORGET_OLD, (self._queue, now - 2 * self._settings.ack_wait))
        self._execute(_TELL, (key, self._queue, now, told))

    def leave(self, key: str) -> None:
        """The process ``key`` has closed the queue."""
        self._execute(_LEAVE, (key,))

    def processes(self, key: str) -> list[str]:
        """What the other processes noted that have it open."""
        since = self._clock() - self._settings.ack_wait
        return [row[0] for row in self._execute(_PROCESSES, (self._queue, key, since))]


def _cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    cursor = connection.cursor()
    cursor.row_factory = None  # the connection may be a caller's, which makes rows of its own
    return cursor


def _headers_of(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except ValueError:  # not of our making: the item is handed out without, and not left for ever
        return {}
    return {key: str(value) for key, value in headers.items()} if isinstance(headers, dict) else {}
