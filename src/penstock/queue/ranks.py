"""What a store asks of priorities: the ranks of entries, and where to keep them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.queue.orders import Priorities, checked_priority
from penstock.queue.overdue import OverdueFirst
from penstock.queue.places import PlaceHeap, Places
from penstock.queue.priority_lines import PriorityLines
from penstock.queue.ranked_entries import RankedEntries, RankHeap, ReturnedEntries
from penstock.workers.item import Entry
from penstock.workers.turn import LoopTurn


class PriorityRanks:
    """What a store asks of :class:`Priorities`: the ranks of entries, and where to keep them.

    A store calls its methods, but :meth:`claim`, with its lock, if it has one.
    """

    #: Whether a key may have no more than a number of entries.
    is_capped = False

    def __init__(self, order: Priorities | None, turn: LoopTurn) -> None:
        #: Whether there are priorities, and whether a put may say its own.
        self.is_by_priority = order is not None
        self.takes_priority = order is not None and order.key is None
        self.key = None if order is None else order.key
        self._turn = turn
        max_wait = None if order is None else order.max_wait
        self._max_wait = math.inf if max_wait is None else max_wait
        #: The entries of granted puts that are not confirmed, by rank, in one event loop.
        self.to_come: dict[Any, Entry[Any]] = {}
        #: How many puts have waited, in threads.
        self.last_put = 0
        #: The waiting puts, (rank, anything) each.
        self.puts: Any = self._waiting_puts()

    def claim(self, item: Any, priority: float) -> Any:
        """What the rank of an item depends on. Calls functions of the user's.

        Raises:
            TypeError, ValueError: the key is no priority.
            Exception: what the user's function raised.
        """
        if self.key is None:
            return priority
        priority = self.key(item)
        return priority if type(priority) is int else checked_key(priority)

    def has_room(self, claim: Any) -> bool:
        """Whether there is room for an item, as far as the order goes."""
        return True

    def counts(self, entries: Callable[[], Iterable[Entry[Any]]]) -> Mapping[Any, int]:
        """How many of ``entries()`` there are of each priority."""
        ranks: list[Any] = [entry[0] for entry in entries()]
        return Counter(rank[0] for rank in ranks)

    def rank(self, claim: Any, number: int) -> Any:
        """The rank of an item that is put now, or of a put that begins to wait."""
        if self._max_wait == math.inf:
            return claim, number
        return claim, number, self._turn.clock()

    def entries(self) -> RankedEntries:
        """Make a place for the entries of a lane, which come in the order of their puts."""
        if self._max_wait == math.inf:
            return PriorityLines(self.key)
        return OverdueFirst(self._turn, self._max_wait)

    def _waiting_puts(self) -> Any:
        return self.requeued()

    def requeued(self) -> ReturnedEntries:
        """Make a place for entries that come in any order."""
        if self._max_wait == math.inf:
            return RankHeap()
        return OverdueFirst(self._turn, self._max_wait)

    def places(self) -> Places:
        """Make a place for parked items."""
        return PlaceHeap()

    # -- what happens to entries --------------------------------------------------------------

    def granted(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is about to be added; return its rank."""
        return (rank[0], number, *rank[2:])

    def reserved(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is to be added before long; return its rank."""
        return (rank[0], number, *rank[2:])

    def given_up(self, rank: Any) -> None:
        """The entry of a waiting put is not to be added after all."""

    def returned(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry was taken and did not start. Return it as it is now."""
        return entry

    def delayed(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry cannot be taken for a while. Return it as it is now."""
        return entry

    def ready(self, entry: Entry[Any]) -> None:
        """An entry that was delayed is about to be added."""

    def removed(self, delayed: Iterable[Entry[Any]]) -> None:
        """Any entries were removed: these are the delayed ones that are left."""


def checked_key(priority: Any) -> float:
    """``priority``, if it is one.

    Raises:
        TypeError, ValueError: it is none.
    """
    return checked_priority(priority, "the priority that key gave an item")
