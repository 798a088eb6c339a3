"""What waits in a queue, as far as it is the same for one event loop and for many threads."""

from __future__ import annotations

from bisect import insort
from collections import deque
from contextvars import Context
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from penstock.calls import Entry, Ticket

T = TypeVar("T")


class Outcome(Enum):
    """How a wait for room ended."""

    ACCEPTED = "accepted"
    TIMED_OUT = "timed out"
    CLOSED = "closed"


class Line(Generic[T]):
    """The entries of one queue: a line with a bound, and what cancelled workers gave back.

    What is given back is kept apart from the line, is handed out before it, and never makes the
    line longer than the bound.
    """

    def __init__(self, maxsize: int, line: deque[Entry[T]]) -> None:
        self.maxsize = maxsize
        self.closed = False
        #: The most entries that ever stood in line.
        self.peak = 0
        #: The entries, in order; for a look at its length, no more.
        self.line = line
        self._returned: list[Entry[T]] = []
        self._order = 0
        self._withdrawn = 0

    def __len__(self) -> int:
        return len(self.line)

    @property
    def accepted(self) -> int:
        """How many entries were ever accepted."""
        return self._order - self._withdrawn

    @property
    def ready(self) -> int:
        """How many entries are accepted and in nobody's hands."""
        return len(self._returned) + len(self.line)

    def snapshot(self) -> list[Entry[T]]:
        """The entries that are accepted and in nobody's hands, those given back first."""
        # Each list is copied in one piece: a reader may be in another thread.
        return [*self._returned, *list(self.line)]

    def _keep(self, entry: Entry[T]) -> None:
        insort(self._returned, entry, key=_order_of)


class Storage(Protocol[T]):
    """What a queue needs of the object that holds its entries. ``Buffer`` documents each."""

    maxsize: int
    closed: bool
    peak: int
    line: deque[Entry[T]]

    def __len__(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def putters(self) -> int: ...
    def snapshot(self) -> list[Entry[T]]: ...
    def discard(self, entry: Entry[T]) -> bool: ...
    def offer(
        self, item: T, ticket: Ticket | None = None, context: Context | None = None
    ) -> bool: ...
    async def wait_for_room(
        self,
        item: T,
        timeout: float | None,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> Outcome: ...
    def take(self) -> Entry[T] | None: ...
    async def wait(self, timeout: float | None = None) -> bool: ...
    def give_back(self, entry: Entry[T]) -> None: ...
    def wake(self) -> None: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def forget_waiters(self) -> None: ...


def _order_of(entry: Entry[Any]) -> int:
    return entry[0]
