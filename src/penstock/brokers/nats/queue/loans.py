"""Items that were taken by hand, without a worker: which task has which."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar

from penstock.workers.item import Entry

T = TypeVar("T")


class Loans(Generic[T]):
    """What callers of ``get`` have not settled yet, by the task that took it."""

    def __init__(self) -> None:
        self._entries: dict[Any, deque[Entry[T]]] = {}

    def get_started(self, entry: Entry[T]) -> T:
        """The task that runs takes it."""
        self._entries.setdefault(asyncio.current_task(), deque()).append(entry)
        return entry[1]

    def settle(self) -> Entry[T]:
        """The oldest that the task has that runs; of any task, if this one has none.

        Raises:
            ValueError: nobody has any.
        """
        owner: Any = asyncio.current_task()
        if owner not in self._entries:
            owner = next(iter(self._entries), None)
        if owner not in self._entries:
            raise ValueError("task_done() called more often than items were taken with get()")
        entries = self._entries[owner]
        entry = entries.popleft()
        if not entries:
            del self._entries[owner]
        return entry

    def recall(self) -> list[Entry[T]]:
        """Take all of them back."""
        entries = [entry for some in self._entries.values() for entry in some]
        self._entries.clear()
        return entries
