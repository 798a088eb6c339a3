"""Entries by keys, each of which has its share of the starts: start-time fair queueing.

Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996. The queue has a virtual time: the virtual
start of the entry that was taken last. Each key has a virtual start, that of its next entry. The
key with the lowest is next, and each entry that is taken moves its key on by 1 / weight. A key that
begins to have entries starts at the virtual time, or where its last entry ended, if that is later.

The keys belong to the queue, and its lanes share them: a tenant with two jobs has one share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

from penstock._util import checks
from penstock.queue.orders import FairShares, Order
from penstock.queue.ranks import PriorityRanks, RankedEntries
from penstock.workers.item import Entry
from penstock.workers.turn import LoopTurn

#: So many items that are out of date may be in a heap, beside one for each that is not.
_STALE = 64


class Share:
    """What is known of a key."""

    __slots__ = ("delayed", "is_blocked", "key", "lines", "put_at", "puts", "ready", "start", "step")

    def __init__(self, key: Hashable, step: float, start: float) -> None:
        self.key = key
        #: By how much an entry moves it on: 1 / weight.
        self.step = step
        #: The virtual start of its next entry.
        self.start = start
        #: How many entries it has that can be taken, and how many that cannot, yet.
        self.ready = self.delayed = 0
        #: Its entries, in all lanes.
        self.lines: dict[FairEntries, _KeyLine] = {}
        #: Its waiting puts; where they stand in the heap of those; and whether they do not, since
        #: it has as many entries as it may have.
        self.puts: Any = None
        self.put_at: float | None = None
        self.is_blocked = False

    @property
    def count(self) -> int:
        """How many entries it has that no worker holds."""
        return self.ready + self.delayed

    @property
    def is_busy(self) -> bool:
        """Whether it has entries, or puts that wait."""
        return bool(self.ready or self.delayed or self.puts)


class _KeyLine:
    """The entries of one key in one lane."""

    __slots__ = ("at", "entries", "share")

    def __init__(self, share: Share, entries: Any) -> None:
        self.share = share
        self.entries = entries
        #: Where it stands in the heap of its lane: the start of its share, as of the last look.
        self.at: float | None = None


class FairEntries:
    """The entries of a lane: a line for each key, and a heap of the lines by virtual start."""

    def __init__(self, shares: ShareRanks, make_line: Callable[[], Any]) -> None:
        self._shares = shares
        self._make_line = make_line
        #: (start, number of the first entry, line). One of them is that of the line: its start is
        #: where the line stands. Others are out of date.
        self._heap: list[tuple[float, int, _KeyLine]] = []
        self._lines: dict[_KeyLine, None] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([entry for line in [*self._lines] for entry in line.entries.copy()])

    def _top(self) -> _KeyLine:
        """The line that is next."""
        heap = self._heap
        while True:
            at, _, line = heap[0]
            if at != line.at:
                heappop(heap)
                continue
            start = line.share.start
            if at == start:
                return line
            line.at = start  # entries of the key were taken from other lanes
            heapreplace(heap, (start, line.entries[0][0][1], line))

    @property
    def head(self) -> Any:
        """The entry that is next."""
        return self._top().entries[0]

    @property
    def rank(self) -> Any:
        """That of the head, to be compared with those of other lanes."""
        line = self._top()
        return line.at, line.entries.rank

    def append(self, entry: Any, /) -> None:
        """Add an entry."""
        rank = entry[0]
        share: Share = rank[2]
        share.ready += 1
        self._size += 1
        line = share.lines.get(self)
        if line is None:
            line = share.lines[self] = _KeyLine(share, self._make_line())
        entries = line.entries
        entries.append(entry)
        if line.at is None:
            line.at = start = share.start
            self._lines[line] = None
            heappush(self._heap, (start, rank[1], line))

    def move(self, line: _KeyLine) -> None:
        """The start of the line's share is lower than it was."""
        start = line.share.start
        if line.at is None or line.at == start:
            return
        line.at = start
        heappush(self._heap, (start, line.entries[0][0][1], line))
        if len(self._heap) > 2 * len(self._lines) + _STALE:
            self._heap = [(one.share.start, one.entries[0][0][1], one) for one in self._lines]
            for one in self._lines:
                one.at = one.share.start
            heapify(self._heap)

    def popleft(self) -> Any:
        """Take the head, and charge it to its key."""
        line = self._top()
        entries, share, shares = line.entries, line.share, self._shares
        entry = entries.popleft()
        self._size -= 1
        share.ready -= 1
        start = share.start
        ticket = entry[3]
        if ticket is None or not ticket.is_cancelled:  # else it is skipped, and does not start
            if start > shares.virtual:
                shares.virtual = start
            share.start = start = start + share.step
        if entries:
            line.at = start
            heapreplace(self._heap, (start, entries[0][0][1], line))
        else:
            line.at = None
            del self._lines[line]
            heappop(self._heap)
            if not share.ready:
                shares.rest(share)
        if share.is_blocked:
            shares.unblock(share)
        return entry

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries."""
        for entry in entries:
            self.append(entry)

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        line = entry[0][2].lines.get(self)
        if line is None:
            return False
        if not line.entries.discard(entry):
            return False
        self._removed(line, 1)
        return True

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        for line in [*self._lines]:
            left = [entry for entry in line.entries if entry[0] not in ranks]
            count = len(line.entries) - len(left)
            if count:
                line.entries.clear()
                line.entries.extend(left)
                self._removed(line, count)

    def clear(self) -> None:
        """Remove all."""
        for line in [*self._lines]:
            count = len(line.entries)
            line.entries.clear()
            self._removed(line, count)
        self._heap.clear()

    def _removed(self, line: _KeyLine, count: int) -> None:
        share = line.share
        self._size -= count
        share.ready -= count
        if not line.entries:
            line.at = None
            del self._lines[line]
            if not share.ready:
                self._shares.rest(share)
        if share.is_blocked:
            self._shares.unblock(share)


class FairPuts:
    """The puts that wait for room: the key that has the fewest entries for its weight is next.

    That is the one whose next entry would have the lowest virtual start. A key that has as many
    entries as it may have is passed over.
    """

    def __init__(self, shares: ShareRanks, make_line: Callable[[], Any]) -> None:
        self._shares = shares
        self._make_line = make_line
        #: (virtual start of the next entry, number of the first put, share).
        self._heap: list[tuple[float, int, Share]] = []
        self._keys: dict[Share, None] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([put for share in self._keys for put in share.puts])

    def append(self, put: Any, /) -> None:
        """Add a put: (rank, anything)."""
        share: Share = put[0][2]
        if share.puts is None:
            share.puts = self._make_line()
        share.puts.append(put)
        self._size += 1
        self._keys[share] = None
        if share.put_at is None and not share.is_blocked:
            self._push(share)

    def _push(self, share: Share) -> None:
        share.put_at = at = self._shares.next_start(share)
        heappush(self._heap, (at, share.puts[0][0][1], share))

    def popleft(self) -> Any:
        """Take the put that is next; None: those of all keys are passed over."""
        heap, shares = self._heap, self._shares
        while heap:
            at, _, share = heap[0]
            if share.put_at != at:
                heappop(heap)
                continue
            if share.count >= shares.most:
                share.put_at, share.is_blocked = None, True
                heappop(heap)
                continue
            start = shares.next_start(share)
            if start > at:
                share.put_at = start
                heapreplace(heap, (start, share.puts[0][0][1], share))
                continue
            put = share.puts.popleft()
            self._size -= 1
            if not share.puts:
                share.put_at = None
                heappop(heap)
                del self._keys[share]
                if not share.is_busy:  # it may be a put that has ended
                    shares.rest(share)
            return put
        return None

    def unblock(self, share: Share) -> None:
        """A key may have more entries again."""
        share.is_blocked = False
        if share.puts and share.put_at is None:
            self._push(share)

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the puts of these ranks."""
        for share in [*self._keys]:
            left = [put for put in share.puts if put[0] not in ranks]
            self._size -= len(share.puts) - len(left)
            share.puts.clear()
            share.puts.extend(left)
        self.refresh()

    def refresh(self) -> None:
        """Look at all keys anew: some have fewer puts, or entries, than they had."""
        self._heap.clear()
        for share in [*self._keys]:
            share.put_at, share.is_blocked = None, False
            if share.puts:
                self._push(share)
            else:
                del self._keys[share]
                if not share.is_busy:
                    self._shares.rest(share)

    def clear(self) -> None:
        """Remove all."""
        self._size = 0
        for share in self._keys:
            share.puts.clear()
        self.refresh()


class ShareRanks(PriorityRanks):
    """What a store asks of :class:`FairShares`: the ranks of entries, and where to keep them."""

    def __init__(self, order: FairShares, turn: LoopTurn) -> None:
        self._make_line = partial(super().entries, is_in_order=True)
        super().__init__(order.within, turn)
        self._key_of = order.key
        self._weight = order.weight
        #: The most entries of a key that no worker holds.
        self.most: float = math.inf if order.max_per_key is None else order.max_per_key
        #: The virtual time.
        self.virtual = 0.0
        #: The keys that have entries, or have had more than their share; and those of them that
        #: have none now, with a heap of these by the virtual time from which on they are forgotten.
        self.keys: dict[Hashable, Share] = {}
        self._resting: dict[Share, None] = {}
        self._until: list[tuple[float, int, Share]] = []
        self._rests = 0
        self.puts: FairPuts = FairPuts(self, self._make_line)

    # -- the functions of the user --------------------------------------------------------------

    def claim(self, item: Any, priority: float) -> Any:
        """What the rank of an item depends on: its priority, its key, and the step of that.

        Raises:
            TypeError, ValueError: the key cannot be hashed, or the weight is not allowed.
            Exception: what a function of the user's raised.
        """
        priority = super().claim(item, priority)
        key = self._key_of(item)
        try:
            share = self.keys.get(key)
        except TypeError as error:
            raise TypeError(
                f"the key that FairShares got for an item must be hashable, "
                f"got {checks.shown(key)}: {error}"
            ) from None
        if share is not None and share.is_busy:
            return priority, key, share.step, False
        return priority, key, self._step(key), True

    def _step(self, key: Hashable) -> float:
        if self._weight is None:
            return 1.0
        weight = self._weight(key)
        number = checks.real(weight, f"the weight of the key {checks.shown(key)}")
        if not 0 < number < math.inf or math.isinf(1 / number):
            raise ValueError(
                f"the weight of the key {checks.shown(key)} must be above 0 and finite, "
                f"got {checks.shown(weight)}"
            )
        return 1 / number

    # -- puts -----------------------------------------------------------------------------------

    def has_room(self, claim: Any) -> bool:
        """Whether the key may have one more entry."""
        share = self.keys.get(claim[1])
        return share is None or share.count < self.most

    def rank(self, claim: Any) -> Any:
        """The rank of an item that is put now."""
        priority, key, step, is_asked = claim
        share = self.keys.get(key)
        if share is None:
            share = self.keys[key] = Share(key, step, self.virtual)
        elif not share.ready:
            if is_asked and not share.is_busy:
                share.step = step
            self._wake(share)
        first = super().rank(priority)
        return (first[0], first[1], share, *first[2:])

    def next_start(self, share: Share) -> float:
        """The virtual start that another entry of the key would have."""
        start = share.start if share.ready else max(share.start, self.virtual)
        return start + share.ready * share.step

    def unblock(self, share: Share) -> None:
        """A key that had as many entries as it may have has fewer."""
        if share.count < self.most:
            self.puts.unblock(share)

    def granted(self, rank: Any) -> None:
        """The entry of a waiting put is about to be added."""
        share: Share = rank[2]
        if self.keys.get(share.key) is not share:
            self.keys[share.key] = share
            share.start = self.virtual
        self._wake(share)

    # -- entries that come back -----------------------------------------------------------------

    def returned(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry was taken and did not start: its key is not charged. Return it as it is now."""
        entry = self._known(entry)
        rank: Any = entry[0]
        share: Share = rank[2]
        self._wake(share)
        share.start -= share.step
        for entries, line in share.lines.items():
            entries.move(line)
        return entry

    def delayed(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry cannot be taken for a while. Return it as it is now."""
        entry = self._known(entry)
        rank: Any = entry[0]
        self._wake(rank[2])
        rank[2].delayed += 1
        return entry

    def ready(self, entry: Entry[Any]) -> None:
        """An entry that was delayed is about to be added."""
        rank: Any = entry[0]
        share: Share = rank[2]
        share.delayed -= 1
        if not share.ready and share.start < self.virtual:
            share.start = self.virtual

    def removed(self, delayed: Iterable[Entry[Any]]) -> None:
        """Any entries were removed: these are the delayed ones that are left."""
        for share in self.keys.values():
            share.delayed = 0
        for entry in delayed:
            rank: Any = entry[0]
            rank[2].delayed += 1
        for share in [*self.keys.values()]:
            if not share.is_busy:
                self.rest(share)
        self.puts.refresh()

    def _known(self, entry: Entry[Any]) -> Entry[Any]:
        """An entry whose key may have been forgotten while it was in hand."""
        number, item, context, ticket = entry
        rank: Any = number
        share: Share = rank[2]
        known = self.keys.get(share.key)
        if known is None:
            self.keys[share.key] = share
            share.start = self.virtual
        elif known is not share:
            new: Any = (rank[0], rank[1], known, *rank[3:])
            return new, item, context, ticket
        return entry

    # -- keys without entries -------------------------------------------------------------------

    def _wake(self, share: Share) -> None:
        """The key is about to have an entry, or a put that waits."""
        self._resting.pop(share, None)
        if not share.ready and share.start < self.virtual:
            share.start = self.virtual

    def rest(self, share: Share) -> None:
        """The key may have no entries any more: forget it when the virtual time has passed it."""
        if share.is_busy or self.keys.get(share.key) is not share:
            return
        self._resting[share] = None
        if len(self._resting) == len(self.keys):  # the queue is empty: there is no time to keep
            self.keys.clear()
            self._resting.clear()
            self._until.clear()
            self.virtual = 0.0
            return
        self._rests += 1
        until = self._until
        heappush(until, (share.start, self._rests, share))
        if len(until) > 2 * len(self._resting) + _STALE:
            until[:] = [(one.start, number, one) for number, one in enumerate(self._resting)]
            heapify(until)
        while until and until[0][0] <= self.virtual:
            _, _, passed = heappop(until)
            if passed in self._resting and passed.start <= self.virtual:
                del self._resting[passed], self.keys[passed.key]

    # -- places ---------------------------------------------------------------------------------

    def entries(self, *, is_in_order: bool = False) -> RankedEntries:
        """Make a place for entries."""
        return FairEntries(self, partial(super().entries, is_in_order=is_in_order))


def ranks_of(order: Order, turn: LoopTurn) -> PriorityRanks:
    """What a store asks of an order."""
    return ShareRanks(order, turn) if isinstance(order, FairShares) else PriorityRanks(order, turn)
