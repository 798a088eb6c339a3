"""The janus queue in which a queue for threads keeps its entries."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import janus

from penstock.queue.store import EntryStore
from penstock.workers.item import Entry

T = TypeVar("T")


class JanusQueue(janus.Queue["Entry[T]"]):
    """A janus queue over our store, by the methods that janus has for subclasses.

    janus keeps the bound. Which entry is put where, and taken next, is for the store to say.
    """

    def __init__(self, maxsize: int, entries: deque[Entry[T]] | None = None) -> None:
        self.entries: deque[Entry[T]] = deque() if entries is None else entries
        #: Where the next get takes from.
        self.source = self.entries
        self.store: EntryStore[T]
        super().__init__(maxsize)

    def _init(self, maxsize: int) -> None:
        pass

    def _qsize(self) -> int:
        return len(self.entries) + self.store._in_lanes

    def _put(self, item: Entry[T]) -> None:
        if item[3] is None and self.store._owner is None:
            self.entries.append(item)
        else:
            self.store._append(item)

    def _get(self) -> Entry[T]:
        return self.source.popleft()

    def use_methods(self, is_plain: bool) -> None:
        """``is_plain``: all entries are in the one deque, and its own methods are the quickest."""
        # One by one: after a look at its __dict__, Python finds the attributes of an object slowly.
        if is_plain:
            self._qsize = self.entries.__len__  # type: ignore[method-assign]
            self._put = self.entries.append  # type: ignore[assignment, method-assign]
            self._get = self.entries.popleft  # type: ignore[method-assign]
        else:
            del self._qsize, self._put, self._get
