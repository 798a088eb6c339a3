"""What the tests of the queue in a file have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock.brokers.engine import Stored
from penstock.brokers.sql.rows import ItemLease, NewItem, StoredItem
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite.file import SqliteFile
from penstock.brokers.sqlite.storage import Storage, open_queue

R = TypeVar("R")


class Clock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Opened:
    """A queue in a file, each of its calls in a transaction of its own."""

    def __init__(
        self,
        path: Path,
        name: str = "calls",
        *,
        clock: Callable[[], float] | None = None,
        synchronous: str = "FULL",
        **settings: Any,
    ) -> None:
        self.file = SqliteFile(path, synchronous=synchronous, busy_timeout=60.0)
        given = SqlSettings(**settings)
        try:
            number = self.file.write(
                lambda: open_queue(self.file.connection, name, given, self.file.where)
            )
        except BaseException:
            self.file.close()
            raise
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        self.storage = Storage(self.file.connection, number, given, **more)

    def put(self, *data: bytes, **more: Any) -> list[bool]:
        """Put items of these bytes; for each, whether it was accepted."""
        items = [NewItem(one, **more) for one in data]
        stored = self.do(lambda storage: storage.put(items))
        return [outcome is not Stored.FULL for outcome in stored]

    def take(self, most: int = 1) -> list[StoredItem]:
        return self.do(lambda storage: storage.take(most))

    def take_data(self, most: int = 100) -> list[bytes]:
        return [item.data for item in self.take(most)]

    def done(self, *leases: ItemLease) -> list[bool]:
        return self.do(lambda storage: [storage.done(lease) for lease in leases])

    def extend(self, leases: Sequence[ItemLease]) -> list[ItemLease]:
        return self.do(lambda storage: storage.extend(leases))

    def do(self, call: Callable[[Storage], R]) -> R:
        return self.file.write(lambda: call(self.storage))

    def close(self) -> None:
        self.file.close()
