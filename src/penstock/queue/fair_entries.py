"""The entries of a lane by their keys, the key with the lowest virtual start first."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from penstock.queue.ranked_entries import rank_of
from penstock.queue.shares import Share, Shares

#: So many lines may stand in a turn that is not theirs any more.
_STALE = 64


class _KeyLine:
    """The entries of one key in one lane."""

    __slots__ = ("at", "entries", "share")

    def __init__(self, share: Share, entries: Any) -> None:
        self.share = share
        self.entries = entries
        #: Where it stands in its lane: the start of its share, as of the last look. None: it is
        #: empty.
        self.at: float | None = None


class FairEntries:
    """A line for each key, and the lines by the virtual starts of their keys.

    Most keys have one of a few starts. So there is a heap of starts, and for each its *turn*, a
    deque of the lines that stand there: first come, first served, but what comes back goes before
    the others.
    """

    __slots__ = (
        "_make_line",
        "_next",
        "_next_turn",
        "_now",
        "_shares",
        "_starts",
        "_turn",
        "_turns",
        "has_room",
        "is_capped",
        "key_of",
        "last_start",
        "lines",
        "size",
    )

    def __init__(
        self, shares: Shares, make_line: Callable[[], Any], key_of: Callable[[Any], Any] = id
    ) -> None:
        self._shares = shares
        #: What a put asks for, here at hand: the key of an item, and whether a key may not have as
        #: many entries as there is room for.
        self.key_of = key_of
        self.is_capped = shares.most < math.inf
        self.has_room = shares.has_room
        self._make_line = make_line
        self.size = 0
        #: The lines that have entries, by key.
        self.lines: dict[Hashable, _KeyLine] = {}
        # A line may be in several turns, and stands in one alone: that of its ``at``.
        self._turns: dict[float, deque[_KeyLine]] = {}
        self._starts: list[float] = []
        # Here at hand: the first turn and its start, and the turn that a line got last.
        self._turn: deque[_KeyLine] = deque()
        self._now = self._next = -math.inf
        self._next_turn = self._turn
        #: The start of the entry that was taken last.
        self.last_start = -math.inf

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        lines = [*self.lines.values()]  # in one piece: a reader may be in another thread
        return iter([entry for line in lines for entry in line.entries.copy()])

    # -- turns --------------------------------------------------------------------------------

    def _turn_at(self, start: float) -> deque[_KeyLine]:
        turn = self._turns.get(start)
        if turn is None:
            turn = self._turns[start] = deque()
            heappush(self._starts, start)
            if start < self._now:
                self._turn = turn
                self._now = start
        self._next, self._next_turn = start, turn
        return turn

    def _place(self, line: _KeyLine) -> None:
        """Let a line stand where its share starts."""
        line.at = start = line.share.start
        self._turn_at(start).append(line)

    def place_first(self, line: _KeyLine) -> None:
        """Let a line stand where its share starts, before the others."""
        line.at = start = line.share.start
        turn = self._turn_at(start)
        turn.appendleft(line)
        if len(turn) > 2 * len(self.lines) + _STALE:
            left = dict.fromkeys(one for one in turn if one.at == start)
            turn.clear()
            turn.extend(left)

    def _top(self) -> _KeyLine:
        """The line that is next: the first of the first turn."""
        while True:
            self._now = at = self._starts[0]
            self._turn = turn = self._turns[at]
            while turn:
                line = turn[0]
                if line.at == at:
                    if line.share.start == at:
                        return line
                    turn.popleft()
                    self._place(line)  # entries of the key were taken from other lanes
                else:
                    turn.popleft()
            del self._turns[at]
            heappop(self._starts)
            self._next = -math.inf

    @property
    def head(self) -> Any:
        """The entry that is next."""
        return self._top().entries[0]

    @property
    def rank(self) -> Any:
        """That of the head, to be compared with those of other lanes."""
        line = self._top()
        return line.at, line.entries.rank[1]

    def goes_before(self, other: FairEntries) -> bool:
        """Whether the head goes before that of ``other``: among equals, what comes back does."""
        mine, others = self._top(), other._top()
        if mine.share.start > others.share.start:
            return False
        same = mine.share.lines.get(other)
        if same is None or same.at is None or mine.entries.rank < same.entries.rank:
            return True
        other.place_first(same)  # the key is next, with an entry of the other
        return False

    # -- entries ------------------------------------------------------------------------------

    def goes_before_of(self, share: Share, other: FairEntries) -> bool:
        """:meth:`goes_before`, for the entries of one key; the next that is taken is of that."""
        mine, others = self._rank_of(share), other._rank_of(share)
        is_mine = mine is not None and (others is None or mine < others)
        (self if is_mine else other).prefer(share)
        return is_mine

    def _rank_of(self, share: Share) -> Any:
        line = share.lines.get(self)
        return None if line is None or line.at is None else line.entries.rank

    def prefer(self, share: Share | None) -> None:
        """Let the entry that is taken next be of this key; None: let the order hold again."""
        if share is None:
            self._turn, self._now = deque(), -math.inf
        else:
            line = share.lines[self]
            self._turn = deque((line,))
            self._now = line.at = share.start

    def _line_of(self, share: Share) -> _KeyLine:
        line: _KeyLine | None = share.lines.get(self)
        return self._begin(share, line) if line is None or line.at is None else line

    def _begin(self, share: Share, line: _KeyLine | None) -> _KeyLine:
        """The line of a key, which had no entries and is about to have one."""
        if line is None:
            line = share.lines[self] = _KeyLine(share, self._make_line())
        if not self.lines:
            self._shares.filled[self] = None
        self.lines[share.key] = line
        return line

    def append(self, entry: Any, /) -> None:
        """Add an entry that was put after all others of its key."""
        share: Share = entry[0][2]
        line = share.lines.get(self)
        if line is None or line.at is None:
            line = self._begin(share, line)
            line.entries.append(entry)  # first: a line that is in a turn is never empty
            line.at = start = share.start
            if start == self._next:
                self._next_turn.append(line)
            else:
                self._turn_at(start).append(line)
        else:
            line.entries.append(entry)
        self.size += 1

    def put_back(self, entry: Any) -> None:
        """Add an entry that comes back."""
        share: Share = entry[0][2]
        line = self._line_of(share)
        line.entries.append(entry)
        self.place_first(line)
        self.size += 1

    def popleft(self) -> Any:
        """Take the head, and charge it to its key."""
        turn = self._turn
        if not turn or (line := turn[0]).at != self._now or line.share.start != self._now:
            line = self._top()
            turn = self._turn
        entries, share = line.entries, line.share
        entry = entries.popleft()
        self.size -= 1
        ticket = entry[3]
        if ticket is None or not ticket.is_cancelled:  # else it is skipped, and does not start
            self.last_start = self._now
            share.start = start = share.start + share.step
            turn.popleft()
            if entries:
                line.at = start
                if start == self._next:
                    self._next_turn.append(line)
                else:
                    self._turn_at(start).append(line)
            else:
                self._was_emptied(line)
        elif not entries:
            turn.popleft()
            self._was_emptied(line)
        if share.is_blocked:
            self._shares.unblock(share)
        return entry

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries, whenever they were put."""
        changed: dict[_KeyLine, None] = {}
        for entry in entries:
            self.append(entry)
            changed[self._line_of(entry[0][2])] = None
        for line in changed:
            ordered = sorted(line.entries.copy(), key=rank_of)
            line.entries.clear()
            line.entries.extend(ordered)

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        line = entry[0][2].lines.get(self)
        if line is None or not line.entries.discard(entry):
            return False
        self._has_fewer(line, 1)
        return True

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        for line in [*self.lines.values()]:
            left = [entry for entry in line.entries.copy() if entry[0] not in ranks]
            count = len(line.entries) - len(left)
            if count:
                line.entries.clear()
                line.entries.extend(left)
                self._has_fewer(line, count)

    def clear(self) -> None:
        """Remove all."""
        for line in [*self.lines.values()]:
            count = len(line.entries)
            line.entries.clear()
            self._has_fewer(line, count)

    def _has_fewer(self, line: _KeyLine, count: int) -> None:
        self.size -= count
        if not line.entries:
            self._was_emptied(line)
        if line.share.is_blocked:
            self._shares.unblock(line.share)

    def _was_emptied(self, line: _KeyLine) -> None:
        line.at = None
        del self.lines[line.share.key]
        if not self.lines:
            self._turns.clear()
            self._starts.clear()
            self._turn = deque()
            self._now = self._next = -math.inf
            self._shares.was_emptied(self)
            self.last_start = -math.inf
