"""What a store asks of fair shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from penstock._util import checks
from penstock.queue.fair_entries import FairEntries
from penstock.queue.fair_puts import FairPuts
from penstock.queue.orders import FairShares, Order
from penstock.queue.places import FairPlaces, Places
from penstock.queue.ranked_entries import Fifo
from penstock.queue.ranks import PriorityRanks
from penstock.queue.shares import Share, Shares, step_of
from penstock.workers.item import Entry
from penstock.workers.turn import LoopTurn


class ShareRanks(PriorityRanks):
    """What a store asks of :class:`FairShares`: the ranks of entries, and where to keep them.

    A rank has the share of the item's key in the third place.
    """

    def __init__(self, order: FairShares, turn: LoopTurn) -> None:
        self.is_capped = order.max_per_key is not None
        self.shares = Shares(math.inf if order.max_per_key is None else order.max_per_key)
        self.key_of = order.key
        super().__init__(order.within, turn)
        self.shares.puts = self.puts
        self._weight = order.weight
        self.has_weights = order.weight is not None

    # -- the functions of the user --------------------------------------------------------------

    def claim(self, item: Any, priority: float) -> Any:
        """What the rank of an item depends on: its priority, its key, and the step of that.

        Raises:
            TypeError, ValueError: the key cannot be hashed, or the weight is not allowed.
            Exception: what a function of the user's raised.
        """
        return self.claim_for(self.key_of(item), item, priority)

    def claim_for(self, key: Any, item: Any, priority: float) -> Any:
        """:meth:`claim`, of an item whose key is known."""
        if self.is_by_priority:
            priority = super().claim(item, priority)
        share = self._known_share(key)
        if self._weight is None:
            return priority, key, 1.0, False
        if share is not None and share.is_busy:
            return priority, key, share.step, False
        return priority, key, self._step(key), True

    def _known_share(self, key: Any) -> Share | None:
        try:
            return self.shares.keys.get(key)
        except TypeError as error:
            raise TypeError(
                f"the key that FairShares got for an item must be hashable, "
                f"got {checks.shown(key)}: {error}"
            ) from None

    def share_of(self, key: Any) -> Share:
        """The share of a key that is about to have an entry, where no key has a weight."""
        share = self._known_share(key)
        if share is None:
            return self.shares.share_of(key, 1.0, is_new_step=False)
        self.shares.wake(share)
        return share

    def _step(self, key: Hashable) -> float:
        weight = self._weight(key)  # type: ignore[misc]
        number = weight if type(weight) in (int, float) else None
        if number is None:
            number = checks.real(weight, f"the weight of the key {checks.shown(key)}")
        step = step_of(number)
        if not step < math.inf:
            raise ValueError(
                f"the weight of the key {checks.shown(key)} must be above 0 and finite, "
                f"got {checks.shown(weight)}"
            )
        return step

    # -- puts -----------------------------------------------------------------------------------

    def has_room(self, claim: Any) -> bool:
        """Whether the key may have one more entry."""
        share = self.shares.keys.get(claim[1])
        return share is None or self.shares.has_room(share)

    def rank(self, claim: Any, number: int) -> Any:
        """The rank of an item that is put now, or of a put that begins to wait."""
        priority, key, step, is_new_step = claim
        share = self.shares.share_of(key, step, is_new_step=is_new_step)
        if not self.is_by_priority:
            return 0, number, share
        first = super().rank(priority, number)
        return (first[0], number, share, *first[2:])

    def granted(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is about to be added; return its rank."""
        return (rank[0], number, self.shares.known(rank[2]), *rank[3:])

    def reserved(self, rank: Any, number: int) -> Any:
        """The entry of a waiting put is to be added before long; return its rank."""
        rank[2].delayed += 1
        self.shares.delayed += 1
        return (rank[0], number, *rank[2:])

    def given_up(self, rank: Any) -> None:
        """The entry of a waiting put is not to be added after all."""
        if rank[2].is_blocked:
            self.shares.unblock(rank[2])
        self.shares.end_busy_time()

    # -- entries that come back -----------------------------------------------------------------

    def returned(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry was taken and did not start: its key is not charged. Return it as it is now."""
        entry, share = self._known(entry)
        self.shares.uncharge(share)
        for entries, line in share.lines.items():
            if line.at is not None:
                entries.place_first(line)
        return entry

    def delayed(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry cannot be taken for a while. Return it as it is now."""
        entry, share = self._known(entry)
        share.delayed += 1
        self.shares.delayed += 1
        return entry

    def ready(self, entry: Entry[Any]) -> None:
        """An entry that was delayed is about to be added."""
        rank: Any = entry[0]
        share: Share = rank[2]
        share.delayed -= 1
        self.shares.delayed -= 1
        self.shares.wake(share)

    def removed(self, delayed: Iterable[Entry[Any]]) -> None:
        """Any entries were removed: these are the delayed ones that are left."""
        shares = self.shares
        shares.delayed = 0
        for share in shares.keys.values():
            share.delayed = 0
        for entry in delayed:
            rank: Any = entry[0]
            rank[2].delayed += 1
            shares.delayed += 1
        self.puts.refresh()
        shares.end_busy_time()

    def _known(self, entry: Entry[Any]) -> tuple[Entry[Any], Share]:
        """An entry whose key may have been forgotten while it was in hand, and its share."""
        number, item, context, ticket = entry
        rank: Any = number
        share = self.shares.known(rank[2])
        if share is not rank[2]:
            new: Any = (rank[0], rank[1], share, *rank[3:])
            entry = new, item, context, ticket
        return entry, share

    def counts(self, entries: Callable[[], Iterable[Entry[Any]]]) -> Mapping[Any, int]:
        """How many entries there are of each key."""
        shares = [*self.shares.keys.values()]  # in one piece: a reader may be in another thread
        return {share.key: share.ready + share.delayed for share in shares}

    # -- places ---------------------------------------------------------------------------------

    def _waiting_puts(self) -> Any:
        return FairPuts(self.shares, super().requeued)

    def places(self) -> Places:
        """Make a place for parked items."""
        return FairPlaces()

    def entries(self) -> FairEntries:
        """Make a place for the entries of a lane, those of a key in the order of their puts."""
        make_line = super().requeued if self.is_by_priority else Fifo
        return FairEntries(self.shares, make_line, self.key_of)

    def requeued(self) -> FairEntries:
        """Make a place for entries that come in any order."""
        return FairEntries(self.shares, super().requeued)


def ranks_of(order: Order, turn: LoopTurn) -> PriorityRanks:
    """What a store asks of an order."""
    return ShareRanks(order, turn) if isinstance(order, FairShares) else PriorityRanks(order, turn)
