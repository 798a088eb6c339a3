"""What the orders of a queue mean, in pure Python: quadratic, and obvious.

``PriorityModel`` and ``FairModel`` say which entry is next. ``Shares`` knows nothing of virtual
times: it looks at what was started, and sees whether all keys got what their weights promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

Key = Hashable


class Placed(Protocol):
    """What a model has to know of an entry."""

    number: int
    key: Key
    priority: Any
    put_at: float


class PriorityModel:
    """The lowest priority number first, first come within one.

    Those that have waited ``max_wait`` seconds go before all others, the first put first.
    """

    def __init__(self, max_wait: float | None = None) -> None:
        self.max_wait = math.inf if max_wait is None else max_wait

    def rank(self, entry: Placed, now: float) -> tuple[Any, ...]:
        """The place of an entry among all: the lowest is next."""
        if now - entry.put_at >= self.max_wait:
            return (0, entry.number)
        return (1, entry.priority, entry.number)

    def first(self, entries: Iterable[Placed], now: float) -> Placed | None:
        """The entry that is next."""
        return min(entries, key=lambda entry: self.rank(entry, now), default=None)


@dataclass
class _KeyState:
    weight: float
    #: The virtual time at which its next entry starts.
    start: float
    #: How many entries of it are in the store: when there is none, the key is idle.
    count: int = 0


@dataclass
class FairModel:
    """Start-time fair queueing: the key with the earliest virtual start is next.

    A key that becomes active begins at the virtual time of the queue, or where its last entry
    ended, whichever is later.
    """

    weigh: Callable[[Key], float] = lambda key: 1.0
    #: The virtual start of the entry that was started last.
    now: float = 0.0
    keys: dict[Key, _KeyState] = field(default_factory=dict)
    #: Which keys' weights were asked, in that order.
    asked: list[Key] = field(default_factory=list)

    def came(self, key: Key) -> None:
        """An entry of the key is there."""
        state = self.keys.get(key)
        if state is None or not state.count:
            self.asked.append(key)
            start = self.now if state is None else max(self.now, state.start)
            self.keys[key] = state = _KeyState(self.weigh(key), start)
        state.count += 1

    def started(self, key: Key) -> float:
        """An entry of the key was taken; returns its virtual start."""
        state = self.keys[key]
        self.now = max(self.now, state.start)
        begun, state.start = state.start, state.start + 1 / state.weight
        state.count -= 1
        return begun

    def gone(self, key: Key) -> None:
        """An entry of the key was removed, and did not start."""
        self.keys[key].count -= 1

    def returned(self, key: Key) -> None:
        """An entry that was started is back: it is not charged."""
        self.came(key)
        self.keys[key].start -= 1 / self.keys[key].weight

    def rank(self, entry: Placed) -> tuple[float, int]:
        """The place of the first entry of a key among those of the other keys."""
        return (self.keys[entry.key].start, entry.number)

    def first(self, entries: Iterable[Placed]) -> Placed | None:
        """The entry that is next."""
        heads: dict[Key, Placed] = {}
        for entry in sorted(entries, key=lambda entry: entry.number):
            heads.setdefault(entry.key, entry)
        return min(heads.values(), key=self.rank, default=None)


class UnfairError(AssertionError):
    """A key got more, or less, than its share."""


@dataclass
class _Race:
    """Two keys that both have entries to start, since some moment."""

    #: How much more the first got than the second, by their weights: the least, and the most.
    least: float = 0.0
    most: float = 0.0
    now: float = 0.0

    def add(self, amount: float) -> None:
        self.now += amount
        self.least, self.most = min(self.least, self.now), max(self.most, self.now)


class Shares:
    """Sees that all keys get their shares, each within one item of it.

    For as long as two keys both have entries that could start, the numbers of their starts, each
    divided by its weight, differ by no more than one item of each (Goyal, Vin and Cheng, 1996).
    """

    def __init__(self, weigh: Callable[[Key], float] = lambda key: 1.0) -> None:
        self.weigh = weigh
        self._races: dict[frozenset[Key], _Race] = {}
        self._order: dict[Key, int] = {}

    def started(self, key: Key, ready: Iterable[Key]) -> None:
        """An entry of ``key`` was started, while all of ``ready`` had entries that could start.

        Raises:
            UnfairError: one of two keys got more than its share.
        """
        keys = {key, *ready}
        for one in keys:
            self._order.setdefault(one, len(self._order))
        races = {frozenset(pair) for pair in combinations(keys, 2)}
        self._races = {pair: self._races.get(pair, _Race()) for pair in races}
        for pair, race in self._races.items():
            if key not in pair:
                continue
            first, second = sorted(pair, key=self._order.__getitem__)
            race.add((1 if key == first else -1) / self.weigh(key))
            allowed = 1 / self.weigh(first) + 1 / self.weigh(second)
            if race.most - race.least > allowed + 1e-9:
                raise UnfairError(
                    f"{first!r} and {second!r} differ by {race.most - race.least:g} items, "
                    f"by their weights, of at most {allowed:g}"
                )

    def stopped(self, key: Key) -> None:
        """For a moment nothing of ``key`` could start."""
        self._races = {pair: race for pair, race in self._races.items() if key not in pair}

    def forget(self) -> None:
        """Begin anew: something was taken that did not start."""
        self._races.clear()


def most_starts(place: int, weight: float, others: Sequence[float]) -> float:
    """After how many starts, its own included, the entry at ``place`` of its key is started.

    ``place``: 1 for the first of the key, which had none before. ``others``: the weights of the
    other keys, all with as many entries as they like.
    """
    return place + sum(math.floor((place - 1) * other / weight) + 1 for other in others)
