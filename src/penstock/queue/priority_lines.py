"""The entries of a lane by their priorities."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from penstock.queue.ranked_entries import rank_of


class PriorityLines:
    """Entries by their priorities: a line for each, and a heap of the priorities.

    There are few priorities, most often, so this is quicker than a heap of all entries. A line of
    one is that entry, or else as many priorities as entries would take much memory.
    """

    __slots__ = ("_first", "_priorities", "key_of", "lines", "size")

    def __init__(self, key_of: Callable[[Any], Any] | None = None) -> None:
        #: What a put asks for, here at hand: the priority of an item; None: its put says it.
        self.key_of = key_of
        self.size = 0
        #: A deque of entries, or one entry, by priority. The first may be empty.
        self.lines: dict[float, Any] = {}
        self._priorities: list[float] = []
        # The first line, unless it is empty, or another has become the first.
        self._first: deque[Any] = deque()

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        return iter(self.copy())

    def copy(self) -> list[Any]:
        """The entries, those of a priority in their order. From any thread."""
        lines = [*self.lines.values()]
        return [one for line in lines for one in ((line,) if type(line) is tuple else line.copy())]

    def _first_line(self) -> deque[Any]:
        lines, priorities = self.lines, self._priorities
        while not (line := lines[priorities[0]]):
            del lines[heappop(priorities)]
        if type(line) is tuple:
            line = lines[priorities[0]] = deque((line,))
        self._first = line
        return self._first

    @property
    def head(self) -> Any:
        """The entry with the lowest rank."""
        return (self._first or self._first_line())[0]

    @property
    def rank(self) -> Any:
        """The lowest rank."""
        return self.head[0]

    def goes_before(self, other: Any) -> bool:
        """Whether the head goes before that of ``other``."""
        return bool(self.rank < other.rank)

    def append(self, entry: Any, /) -> None:
        """Add an entry that was put after all that are there."""
        priority = entry[0][0]
        line = self.lines.get(priority)
        self.size += 1
        if line is None:
            self.lines[priority] = entry
            heappush(self._priorities, priority)
            if self._priorities[0] == priority:
                self._first = deque()
        elif type(line) is tuple:
            self.lines[priority] = deque((line, entry))
        else:
            line.append(entry)

    def popleft(self) -> Any:
        """Take the head."""
        line = self._first or self._first_line()
        self.size -= 1
        return line.popleft()

    def extend(self, entries: Iterable[Any], /) -> None:
        """Add entries, whenever they were put."""
        ordered = sorted([*self, *entries], key=rank_of)
        self.clear()
        for entry in ordered:
            self.append(entry)

    def clear(self) -> None:
        """Remove all."""
        self.size = 0
        self.lines.clear()
        self._priorities.clear()
        self._first = deque()

    def discard(self, entry: Any) -> bool:
        """Remove one entry; False if it is not there."""
        line = self.lines.get(entry[0][0])
        if not line or (line is not entry and (type(line) is tuple or entry not in line)):
            return False
        if line is entry:
            self.lines[entry[0][0]] = deque()
        else:
            line.remove(entry)
        self.size -= 1
        return True

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the entries of these ranks, in one pass."""
        left = [entry for entry in self if entry[0] not in ranks]
        if len(left) < self.size:
            self.clear()
            for entry in left:
                self.append(entry)
