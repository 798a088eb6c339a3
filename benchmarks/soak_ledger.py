"""Who offered what to a queue, and what became of it: kept by the users' side, item by item."""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

from penstock import QueueFullError, QueueStateError

#: How many complaints are kept.
MOST = 20


class ItemError(Exception):
    """An item failed, as it was to."""


class Item:
    """Something to put. ``fails``: so many attempts at it."""

    __slots__ = ("attempts", "fails", "number", "offered_at")

    def __init__(self, number: int, fails: int) -> None:
        self.number = number
        self.fails = fails
        self.attempts = 0
        self.offered_at = perf_counter()

    def __repr__(self) -> str:
        return f"item {self.number}"

    def attempt(self) -> None:
        """One more; raises if it is to fail."""
        self.attempts += 1
        if self.attempts <= self.fails:
            raise ItemError(self.number)


@dataclass
class Counts:
    """What can be added up."""

    offered: int = 0
    accepted: int = 0
    refused: int = 0
    cancelled: int = 0
    #: Puts that found the queue stopped.
    closed: int = 0
    succeeded: int = 0
    #: Failed for good; and of these, those that an error handler heard of.
    failed: int = 0
    handled: int = 0
    #: Nobody wanted the result any more.
    skipped: int = 0
    #: Items that ``map`` read, and gave the results of.
    mapped: int = 0
    unprocessed: int = 0
    dead_letters: int = 0
    #: Queues that these are the counts of.
    queues: int = 0

    @property
    def ended(self) -> int:
        """Items that are done."""
        return self.succeeded + self.failed + self.skipped + self.mapped

    def add(self, other: Counts) -> None:
        for field in fields(Counts):
            name = field.name
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Stopwatch:
    """How long things took since they were last asked for. For any thread."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque()
        self.note = self._seconds.append

    def taken(self) -> list[float]:
        """What was noted, from the shortest to the longest; and forget it."""
        count = len(self._seconds)
        return sorted(self._seconds.popleft() for _ in range(count))


class Offer:
    """A put under way."""

    def __init__(self, item: Item) -> None:
        self.item = item
        #: To be set to what ``put`` returned.
        self.accepted = True


class Ledger(Counts):
    """The books of one queue."""

    def __init__(self, name: str, puts: Stopwatch, trips: Stopwatch) -> None:
        super().__init__(queues=1)
        self.name = name
        self.wrong: list[str] = []
        self._puts = puts
        self._trips = trips
        self._lock = threading.Lock()
        self._open: set[Item] = set()

    @contextmanager
    def offering(self, fails: int = 0) -> Iterator[Offer]:
        """Around a put of a new item."""
        with self._lock:
            self.offered += 1
            offer = Offer(Item(self.offered, fails))
            self._open.add(offer.item)
        outcome = "accepted"
        try:
            yield offer
            if not offer.accepted:
                outcome = "refused"
        except QueueFullError:
            offer.accepted, outcome = False, "refused"
        except QueueStateError:
            offer.accepted, outcome = False, "closed"
        except CancelledError:
            offer.accepted, outcome = False, "cancelled"
            raise
        finally:
            self._puts.note(perf_counter() - offer.item.offered_at)
            with self._lock:
                setattr(self, outcome, getattr(self, outcome) + 1)
                if not offer.accepted:
                    self._strike(offer.item, outcome)

    def end(self, item: Item, how: str = "succeeded") -> None:
        """The item is done: ``succeeded``, ``failed`` or ``skipped``."""
        self._trips.note(perf_counter() - item.offered_at)
        with self._lock:
            setattr(self, how, getattr(self, how) + 1)
            self._strike(item, how)

    def handle(self, _: BaseException, item: Item) -> None:
        """Be the error handler."""
        with self._lock:
            self.handled += 1
        self.end(item, "failed")

    def follow(self, item: Item, future: Any) -> None:
        """Note what the future of an item says when it is done."""

        def note(done: Any) -> None:
            if done.cancelled():
                self.end(item, "skipped")
            elif done.exception() is not None and not isinstance(
                done.exception(), QueueStateError
            ):  # that one says that the item is in ``unprocessed``
                self.end(item, "failed")

        future.add_done_callback(note)

    def read(self, numbers: Sequence[int]) -> Iterator[Item]:
        """Items for ``map``."""
        for number in numbers:
            with self._lock:
                self.mapped += 1
            yield Item(number, fails=0)

    def complain(self, text: str) -> None:
        if len(self.wrong) < MOST:
            self.wrong.append(f"{self.name}: {text}")

    def _strike(self, item: Item, how: str) -> None:
        if item in self._open:
            self._open.remove(item)
        else:
            self.complain(f"{item} {how} although it had ended before")

    def close(self, queue: Any, keeps: int = 0) -> None:
        """The queue is stopped: compare the books with what it says.

        ``keeps``: so many dead letters at most.
        """
        metrics, left, stats = queue.metrics, queue.unprocessed, queue.statistics()
        self.unprocessed = len(left)
        self.dead_letters = len(queue.dead_letters)
        ended = self.ended - self.mapped
        for what, mine, its in (
            ("accepted, as ended and unprocessed", self.accepted, ended + len(left)),
            ("offered", self.offered, self.accepted + self.refused + self.cancelled + self.closed),
            ("enqueued", self.accepted + self.mapped, metrics["enqueued"]),
            ("processed", self.ended, metrics["processed"]),
            ("refused", self.refused, metrics["backpressure_events"]),
            ("dead letters", min(self.handled, keeps), self.dead_letters),
            ("in flight", 0, stats.inflight),
            ("waiting putters", 0, stats.waiting_putters),
        ):
            if mine != its:
                self.complain(f"{what}: {mine} by the books, {its} by the queue")
        if self._open != {*left}:
            lost, unknown = self._open - {*left}, {*left} - self._open
            self.complain(f"lost: {lost}; left and not by the books: {unknown}")
