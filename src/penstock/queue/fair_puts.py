"""The puts that wait for room where each key has its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace
from typing import Any

from penstock.queue.shares import Share, Shares


class FairPuts:
    """The waiting puts, (rank, anything) each: the key with the fewest entries for its weight next.

    That is the one whose next entry would have the lowest virtual start. A key that has as many
    entries as it may have is passed over.
    """

    def __init__(self, shares: Shares, make_line: Callable[[], Any]) -> None:
        self._shares = shares
        self._make_line = make_line
        self.size = 0
        # (virtual start of the next entry, number of the first put, share), as of the last look.
        # One of them is that of the share: its start is where the share's puts stand.
        self._heap: list[tuple[float, int, Share]] = []
        self._keys: dict[Share, None] = {}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        return iter([put for share in self._keys for put in share.puts.copy()])

    def append(self, put: Any, /) -> None:
        """Add a put."""
        share: Share = put[0][2]
        if share.puts is None:
            share.puts = self._make_line()
        share.puts.append(put)
        self.size += 1
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
            if not shares.has_room(share):
                share.put_at, share.is_blocked = None, True
                heappop(heap)
                continue
            start = shares.next_start(share)
            if start > at:
                share.put_at = start
                heapreplace(heap, (start, share.puts[0][0][1], share))
                continue
            put = share.puts.popleft()
            self.size -= 1
            if not share.puts:
                share.put_at = None
                heappop(heap)
                del self._keys[share]
            return put
        return None

    def unblock(self, share: Share) -> None:
        """A key may have more entries again."""
        share.is_blocked = False
        if share.puts and share.put_at is None:
            self._push(share)

    def remove_all(self, ranks: set[Any]) -> None:
        """Remove the puts of these ranks."""
        for share in self._keys:
            left = [put for put in share.puts.copy() if put[0] not in ranks]
            self.size -= len(share.puts) - len(left)
            share.puts.clear()
            share.puts.extend(left)
        self.refresh()

    def refresh(self) -> None:
        """Look at all keys anew: some may have fewer puts, or entries, than they had."""
        self._heap.clear()
        for share in [*self._keys]:
            share.put_at, share.is_blocked = None, False
            if share.puts:
                self._push(share)
            else:
                del self._keys[share]

    def clear(self) -> None:
        """Remove all."""
        self.size = 0
        for share in self._keys:
            share.puts.clear()
        self.refresh()
