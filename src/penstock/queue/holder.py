"""What a store knows of what holds its entries back: limits, and a pause."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.workers.item import Entry


class Holder:
    """What holds entries back that wait for a limit. This one holds none.

    It has what the store knows of that, too: a store with many more attributes would find each of
    them more slowly.
    """

    def __init__(self) -> None:
        #: Whether workers find nothing, and whether they are woken one at a time.
        self.is_held = self.is_limited = False
        #: Whether nobody finds anything: the queue is paused.
        self.is_paused = False
        #: Since when it is limited, and when it was held last, by ``now()``.
        self.limited_since = self.held_at = 0.0
        #: The parked entries, by number, and the numbers of those that were parked and are to be
        #: taken next. All these numbers count as those of delayed entries.
        self.parked: dict[int, Entry[Any]] = {}
        self.handed_out: set[int] = set()
        #: The event loop of the queue, from the first start on, if it has none but this.
        self.loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Wait for the limit no more: no worker is left. Not with the lock of a buffer."""

    def was_parked(self, number: int, place: Any) -> None:
        """The entry of this number is parked, and waits at ``place``."""

    def was_taken(self, place: Any) -> None:
        """An entry that was handed out is taken."""

    def changed(self) -> None:
        """Any of the entries that are parked or handed out may be gone."""
