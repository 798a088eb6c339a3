"""Requests for items that stand at the server: how many items are asked for."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds between two signs of life of a server that has nothing for us.
HEARTBEAT = 5.0


@dataclass
class _Pull:
    """A request for items that stands."""

    #: How many are still to come.
    left: int
    #: When the server must have said that it has expired, by the loop's clock.
    until: float


class Pulls:
    """Requests that stand until they are filled or expire, by number, the oldest first.

    Which delivery answers which of them is not told; their sum is what counts.
    """

    def __init__(self) -> None:
        self._pulls: dict[str, _Pull] = {}
        self._number = 0
        #: How many items they are for in all.
        self.asked = 0
        #: When the server was last heard of, by the loop's clock.
        self.heard_at = 0.0

    def __len__(self) -> int:
        return len(self._pulls)

    def begin(self, count: int, now: float, expires: float) -> str:
        """Ask for so many, for so many seconds; returns the number of the request."""
        if not self._pulls:
            self.heard_at = now
        self._number += 1
        number = str(self._number)
        self._pulls[number] = _Pull(count, now + expires)
        self.asked += count
        return number

    def one_came(self) -> None:
        """An item came."""
        # Of whichever pull: their sum is right if it is taken for the oldest one's.
        self.asked = max(0, self.asked - 1)
        number = next(iter(self._pulls), None)
        if number is not None:
            pull = self._pulls[number]
            pull.left -= 1
            if not pull.left:
                del self._pulls[number]

    def end(self, number: str, left: int | None) -> None:
        """One is over; ``left``: how many of its items will not come, if that was told."""
        pull = self._pulls.pop(number, None)
        if left is None:
            left = 0 if pull is None else pull.left
        self.asked = max(0, self.asked - left)
        if not self._pulls:
            self.asked = 0

    def overdue(self, now: float) -> list[str]:
        """Those that should be over; all are forgotten if the server may be gone."""
        if now - self.heard_at > 2.5 * HEARTBEAT:
            self.forget()
        return [number for number, pull in self._pulls.items() if pull.until < now]

    def forget(self) -> None:
        """Nothing will come of any of them."""
        self._pulls.clear()
        self.asked = 0

    def __contains__(self, number: str) -> bool:
        return number in self._pulls
