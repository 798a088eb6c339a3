"""A file of SQLite, open: its pragmas, its transactions, and its errors in words.

A connection is used by one thread at a time, and each of its calls may block.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from penstock._util.hooks import tell_forked_child
from penstock.brokers.sqlite import schema
from penstock.brokers.sqlite.problems import (
    check_path,
    explained,
    identity_of,
    inherited,
    is_locked,
    locked,
    refuse_inherited,
    unknown,
)
from penstock.errors import BrokerError

R = TypeVar("R")

#: Seconds between two tries to get a lock, at first and at most. SQLite's own waits are longer.
_SHORTEST, _LONGEST = 0.002, 0.02
#: Bytes that the file beside, with what was written last, is cut back to.
_WAL_SIZE: Final = 16 << 20


class SqliteFile:
    """One connection to one file.

    Args:
        synchronous: "FULL": a commit is on the disk when it returns. "NORMAL": it survives the
            death of a process, and not a power cut in the next moment.
        busy_timeout: seconds to wait for the lock of another program.

    Raises:
        BrokerError: the file cannot be used. The message says why, and what to do.
    """

    def __init__(
        self, path: Path, *, synchronous: str = "FULL", busy_timeout: float = 30.0
    ) -> None:
        self.path = path
        self.where = str(path)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        check_path(path)
        refuse_inherited(path)
        try:
            _make_for_owner(path)
            self.connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise explained(error, self.where) from error
        try:
            # Where several processes open a new file at once, all but one may find it locked.
            self.patiently(self._set_up)
        except BaseException:
            self.connection.close()
            raise
        self._identity = identity_of(path)
        tell_forked_child(self)

    def _after_fork_in_child(self) -> object:
        if self._identity is not None:
            inherited.add(self._identity)
        return self.connection  # even to close it would reach into the parent's locks

    def _set_up(self) -> None:
        execute = self.connection.execute
        version = schema.version_of(self.connection)
        if version is not None:
            schema.check_version(version, self.where)
        mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise BrokerError(
                f"{self.where} cannot be used by several processes: SQLite has no write-ahead log "
                f"for it, and keeps journal mode {mode}. Take a file on a disk of this machine"
            )
        execute(f"PRAGMA journal_size_limit = {_WAL_SIZE}")
        execute(f"PRAGMA synchronous = {self._synchronous}")
        with self._transaction():
            schema.set_up(self.connection, self.where)

    def close(self) -> None:
        """Close the connection. The last one that is closed tidies the file up."""
        self._identity = None
        with suppress(sqlite3.Error):
            self.connection.close()

    def patiently(self, call: Callable[[], R]) -> R:
        """Return ``call()``, called again while another program has the lock that it needs.

        Raises:
            BrokerError: the lock was not to be had in ``busy_timeout`` seconds, or the file cannot
                be used. What the call did is undone.
        """
        pause, give_up_at = _SHORTEST, time.monotonic() + self._busy_timeout
        while True:
            try:
                return call()
            except sqlite3.Error as error:
                if not is_locked(error):
                    raise explained(error, self.where) from error
                if time.monotonic() >= give_up_at:
                    raise locked(self.where, self._busy_timeout) from error
            time.sleep(random.uniform(0, pause))  # noqa: S311 - so that not all come back at once
            pause = min(pause * 1.5, _LONGEST)

    def write(self, call: Callable[[], R], *, is_durable: bool = True) -> R:
        """Return ``call()``, carried out in a write transaction of its own.

        Args:
            is_durable: with False it need not survive a power cut.

        Raises:
            QueueUnknownError: the disk failed in the commit.
            BrokerError: as :meth:`patiently`.
        """

        def attempt() -> R:
            with self._transaction():
                return call()

        # What is written into a file without a name is gone when the last process closes it.
        if identity_of(self.path) != self._identity:
            raise BrokerError(
                f"{self.where} was removed or replaced while it was open: stop the queue in all "
                "processes, and start it again"
            )
        if is_durable or self._synchronous != "FULL":
            return self.patiently(attempt)
        # What follows and is durable has it written to the disk as well, for it comes later.
        self.connection.execute("PRAGMA synchronous = NORMAL")
        try:
            return self.patiently(attempt)
        finally:
            self.connection.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if "disk I/O error" in str(error):
                raise unknown(error, self.where) from error
            raise

    def _roll_back(self) -> None:
        # After some errors SQLite has done so itself.
        if self.connection.in_transaction:
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def changes(self) -> int:
        """A number that is another one after each commit of another connection."""
        number: int = self.connection.execute("PRAGMA data_version").fetchone()[0]
        return number


def _make_for_owner(path: Path) -> None:
    """Make the file if it is not there, so that nobody else reads what is in the items.

    SQLite gives the files beside it the same mode.
    """
    with suppress(OSError):  # it is there, or SQLite will say what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
