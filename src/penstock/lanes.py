"""The items of a queue that wait for the limit of their key, in order: who has how much before it.

An item is in its lane for as long as somebody holds its :class:`Place`, and a lane is there for as
long as anybody is in it. So what was taken out of the queue keeps nobody waiting, and nothing is
left of a key for which nobody waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from weakref import WeakValueDictionary

from penstock.limits.exact import Exact


class Lane:
    """Those that wait for the same keys."""

    __slots__ = ("__weakref__", "entered", "gone", "left")

    def __init__(self, limits: int) -> None:
        #: How many ever came, and what they cost of each limit; and those of them that left.
        self.entered: tuple[Exact, ...] = (0,) * (1 + limits)
        self.left: tuple[Exact, ...] = self.entered
        #: Those that left and are not in ``left`` yet.
        self.gone: deque[tuple[Exact, ...]] = deque()


class Place:
    """The place of one item in its lane. To leave is to let go of it."""

    __slots__ = ("before", "lane", "own")

    def __init__(self, lane: Lane, own: tuple[Exact, ...]) -> None:
        self.lane = lane
        self.own = own
        self.before = lane.entered
        lane.entered = _sums(lane.entered, own)

    def __del__(self) -> None:
        # Without a lock: the garbage collector may do this while this very thread holds it.
        self.lane.gone.append(self.own)


class Lanes:
    """The lanes of one queue. May be used from any thread."""

    def __init__(self) -> None:
        self._lanes: WeakValueDictionary[Hashable, Lane] = WeakValueDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._lanes)

    def enter(self, keys: tuple[Hashable, ...], costs: tuple[Exact, ...]) -> Place:
        """Join the lane of these keys at its end."""
        with self._lock:
            lane = self._lanes.get(keys)
            if lane is None:
                lane = self._lanes[keys] = Lane(len(costs))
            return Place(lane, (1, *costs))

    def ahead(self, place: Place) -> tuple[int, tuple[Exact, ...]]:
        """How many are before it, and what they cost of each limit; or less, never more.

        Less, where one left that was behind it.
        """
        lane = place.lane
        with self._lock:
            while lane.gone:
                lane.left = _sums(lane.left, lane.gone.popleft())
            ahead = [max(0, one - gone) for one, gone in zip(place.before, lane.left, strict=True)]
        return int(ahead[0]), tuple(ahead[1:])


def _sums(some: tuple[Exact, ...], more: tuple[Exact, ...]) -> tuple[Exact, ...]:
    return tuple([one + other for one, other in zip(some, more, strict=True)])
