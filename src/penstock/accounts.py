"""The accounts of a queue: how many items came in and how many are done; who waits for even."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.buffer import Buffer
from penstock.telemetry import names


class Accounts:
    """Counts what becomes of the items offered to a buffer. Knows nothing of the queue."""

    def __init__(self, buffer: Buffer[Any]) -> None:
        self._buffer = buffer
        #: Puts that were refused for want of room, cancelled, or met by a stop while they waited.
        self.full = self.cancelled = self.stopped = 0
        #: Puts that had to wait, whatever became of them.
        self.put_waits = 0
        #: Items that are done, well or badly, once each.
        self.processed = 0
        #: Failures of worker functions.
        self.errors = 0
        #: Who waits for all items to be done.
        self.joiners: list[asyncio.Future[bool]] = []

    @property
    def unfinished(self) -> int:
        """Items accepted and not done."""
        return self._buffer.accepted - self.processed

    def totals(self) -> dict[str, int]:
        """What only grows, for telemetry; the names are its."""
        return {
            names.ACCEPTED: self._buffer.accepted,
            names.FULL: self.full,
            names.CANCELLED: self.cancelled,
            names.STOPPED: self.stopped,
            names.PROCESSED: self.processed,
        }

    def count_finished(self) -> None:
        """An item is done. (Workers do the same in line.)"""
        self.processed += 1
        if self.joiners:
            self.settle()

    def settle(self) -> None:
        """Tell the joiners, if all items are done."""
        if not self.unfinished:
            self._wake_joiners(True)

    def forget_joiners(self) -> None:
        """Their loop was closed, so they will never go on."""
        self.joiners = []

    def dismiss(self) -> None:
        """Tell the joiners that what is left will not be done."""
        self._wake_joiners(False)

    def _wake_joiners(self, finished: bool) -> None:
        joiners, self.joiners = self.joiners, []
        for joiner in joiners:
            if not joiner.done():
                joiner.set_result(finished)

    async def join(self) -> bool:
        """Wait until all items are done (True), or will not be (False)."""
        joiner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.joiners.append(joiner)
        try:
            return await joiner
        finally:
            if joiner in self.joiners:
                self.joiners.remove(joiner)
