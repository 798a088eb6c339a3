"""What a worker pool needs of a queue: a source of entries, and counters."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from penstock.workers.item import Entry
from penstock.workers.job import Job
from penstock.workers.turn import LoopTurn

T = TypeVar("T")


class PoolSource(Protocol[T]):
    """What a pool needs of the place where its workers get their entries."""

    #: The job of entries that have none of their own, while there is one. The pool sets it.
    standing: Job[T] | None

    @property
    def ready(self) -> int:
        """How many entries are left here to workers, delayed ones too."""
        ...

    def wake(self) -> None:
        """Wake workers for the entries that are there: the caller ends, or waits with an entry."""

    def wake_all(self) -> None:
        """Wake all workers that wait, so that they see that the pool has changed."""


class Source(Protocol[T]):
    """Where workers get their entries. All methods are called in the worker's own thread."""

    #: How long they may go on without a wait.
    turn: LoopTurn

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none right now."""

    async def wait(self) -> bool:
        """Wait until another ``take`` may find an entry (True) or none will ever come (False)."""
        ...

    def wake(self) -> None:
        """Wake workers for the entries that are there: the caller ends, or waits with an entry."""

    async def pause(self) -> None:
        """Let the event loop see to everything else, while no worker takes an entry."""

    def requeue(self, entry: Entry[T]) -> None:
        """Put back the entry of a cancelled worker. It is the next to be taken."""

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Put the entry back; it can be taken again in ``delay`` seconds."""


class SettlingSource(Source[T], Protocol[T]):
    """A source that keeps each entry until it knows what became of it, as that of a broker does."""

    async def done(self, entry: Entry[T]) -> None:
        """The worker function has returned. The worker has the entry in hand until this ends."""

    def failed(self, entry: Entry[T], error: BaseException) -> bool:
        """The item failed for good, and its error was told. Return whether it is a dead letter."""
        ...


class Counters(Protocol):
    """What workers count. A source of several threads has counters for each worker."""

    #: Items that are done: succeeded or failed.
    processed: int
    #: Failures of the worker function. The error handler of the item may still be running.
    errors: int
    #: The futures of those who wait in ``join()``.
    joiners: dict[Any, None]

    def add_failure(self, outcome: str) -> None:
        """Count an item that did not succeed, by its outcome. It will be done in a moment."""

    def notify_if_done(self) -> None:
        """Complete the joiners if all items are done. Workers call it after each item."""
