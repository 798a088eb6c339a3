"""The keys of a queue, each of which has its share of the starts: start-time fair queueing.

Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996. The queue has a virtual time: the virtual
start of the entry that was taken last. Each key has a virtual start, that of its next entry. The
key with the lowest is next, and each entry that is taken moves its key on by 1 / weight. A key that
begins to have entries starts at the virtual time, or where its last entry ended, if that is later.

The keys belong to the queue, and its lanes share them: a tenant with two jobs has one share.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

#: So many keys may be known that have no entries, beside one for each that has some.
FEW = 64


class Share:
    """What is known of a key."""

    __slots__ = (
        "base",
        "busy_time",
        "delayed",
        "is_blocked",
        "key",
        "lines",
        "put_at",
        "puts",
        "start",
        "step",
    )

    def __init__(self, key: Hashable, step: float, start: float, busy_time: int) -> None:
        self.key = key
        #: By how much an entry moves it on: 1 / weight.
        self.step = step
        #: The virtual start of its next entry; and the number of the busy time that this is of.
        self.start = start
        self.busy_time = busy_time
        #: The virtual start when it was the virtual time last. No less: what came before is past.
        self.base = start
        #: Its lines, by the places of entries that have them.
        self.lines: dict[Any, Any] = {}
        #: How many of its entries are in none of these: they cannot be taken, yet.
        self.delayed = 0
        #: Its waiting puts; where they stand among those of other keys; and whether they do not,
        #: since it has as many entries as it may have.
        self.puts: Any = None
        self.put_at: float | None = None
        self.is_blocked = False

    @property
    def ready(self) -> int:
        """How many entries it has that can be taken. From any thread."""
        return sum([len(line.entries) for line in tuple(self.lines.values())])

    @property
    def is_busy(self) -> bool:
        """Whether it has entries, or puts that wait."""
        return bool(self.ready or self.delayed or self.puts)


class Shares:
    """All keys of a queue, and its virtual time.

    That begins anew when no entry is left. The time from one such moment to the next is a busy
    time. A key that has no entries is forgotten when the virtual time has passed it, or a little
    later: when there are too many of them.
    """

    def __init__(self, most: float) -> None:
        #: The most entries that a key may have.
        self.most = most
        self.keys: dict[Hashable, Share] = {}
        self._virtual = 0.0
        self.busy_time = 0
        #: The places that have entries; and how many entries are delayed, puts wait.
        self.filled: dict[Any, None] = {}
        self.delayed = 0
        self.puts: Any = ()
        self._sweep_at = FEW

    @property
    def virtual(self) -> float:
        """The virtual time: the highest start of all entries that were taken."""
        for place in self.filled:
            if place.last_start > self._virtual:  # noqa: PLR1730 - a call would take longer
                self._virtual = place.last_start
        return self._virtual

    def share_of(self, key: Hashable, step: float, *, is_new_step: bool) -> Share:
        """The share of a key that is about to have an entry, or a put that waits."""
        share = self.keys.get(key)
        if share is None:
            if len(self.keys) >= self._sweep_at:
                self._sweep()
            share = self.keys[key] = Share(key, step, self.virtual, self.busy_time)
        else:
            if is_new_step and not share.is_busy:
                share.step = step
            self.wake(share)
        return share

    def wake(self, share: Share) -> None:
        """A key may have had nothing to take, and is about to have an entry."""
        if share.busy_time != self.busy_time:
            share.busy_time = self.busy_time
            share.start = share.base = self.virtual
        elif share.start < (virtual := self.virtual) and not share.ready:
            share.start = share.base = virtual

    def known(self, share: Share) -> Share:
        """The share of its key by now: it may have been forgotten since."""
        found = self.keys.get(share.key)
        if found is None:
            found = self.keys[share.key] = share
            share.busy_time = -1
        self.wake(found)
        return found

    def uncharge(self, share: Share) -> None:
        """An entry was taken that did not start."""
        start = max(share.start - share.step, share.base)
        share.start = start if share.ready else max(start, min(share.start, self.virtual))

    def has_room(self, share: Share) -> bool:
        """Whether a key may have one more entry."""
        if self.most == math.inf:
            return True
        count = share.delayed
        for line in share.lines.values():
            count += len(line.entries)
        return count < self.most

    def next_start(self, share: Share) -> float:
        """The virtual start that another entry of the key would have."""
        ready = 0
        for line in share.lines.values():
            ready += len(line.entries)
        return share.start + ready * share.step if ready else max(share.start, self.virtual)

    def unblock(self, share: Share) -> None:
        """A key that had as many entries as it may have has fewer."""
        if self.has_room(share):
            self.puts.unblock(share)

    def was_emptied(self, place: Any) -> None:
        """A place of entries has none any more."""
        self._virtual = self.virtual
        del self.filled[place]
        self.end_busy_time()

    def end_busy_time(self) -> None:
        """Begin anew if no entry is left."""
        if self.filled or self.delayed or self.puts:
            return
        self.busy_time += 1
        self._virtual = 0.0
        if len(self.keys) > FEW:
            self.keys.clear()
            self._sweep_at = FEW

    def _sweep(self) -> None:
        virtual = self.virtual
        self.keys = {
            key: share
            for key, share in self.keys.items()
            if share.is_busy or (share.busy_time == self.busy_time and share.start > virtual)
        }
        self._sweep_at = 2 * len(self.keys) + FEW


def step_of(weight: float) -> float:
    """By how much an entry moves a key of this weight on; infinite or NaN: it is not allowed."""
    return 1 / weight if 0 < weight < math.inf else math.nan
