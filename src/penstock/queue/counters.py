"""The counters of a queue: how many items came in and how many are done; who waits for even."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from penstock.queue.store import EntryBuffer
from penstock.telemetry import names

Field = Literal["full", "cancelled", "stopped", "put_waits", "processed", "errors"]


class QueueCounters:
    """Counts what becomes of the items offered to a queue. For one thread; knows no queue."""

    def __init__(self, buffer: EntryBuffer[Any]) -> None:
        self._buffer = buffer
        #: Puts that were refused for want of room, cancelled, or met by a stop while they waited.
        self.full = self.cancelled = self.stopped = 0
        #: Puts that had to wait, whatever became of them.
        self.put_waits = 0
        #: Items that are done, well or badly, once each.
        self.processed = 0
        #: Failures of worker functions.
        self.errors = 0
        #: Items in the hands of callers of ``get``.
        self.checked_out = 0
        #: Tells how often the gate of the limits was closed.
        self.closures: Callable[[], int] = int
        #: Who waits for all items to be done.
        self.joiners: dict[asyncio.Future[bool], None] = {}

    # What follows is all that others change or sum up, so that a kind of counters that several
    # threads share has few methods to guard.

    def add(self, field: Field) -> None:
        """One more of this. (Where a call would cost too much, the same is done in line.)"""
        setattr(self, field, getattr(self, field) + 1)

    def get_started(self) -> None:
        """An item goes into the hands of a caller of ``get``."""
        self.checked_out += 1

    def task_done(self) -> bool:
        """It is out of them again; False if nobody had one."""
        if not self.checked_out:
            return False
        self.checked_out -= 1
        return True

    @property
    def accepted(self) -> int:
        """Items that were accepted."""
        return self._buffer.accepted

    @property
    def all_processed(self) -> int:
        """Items that are done, whoever counted them."""
        return self.processed

    @property
    def all_errors(self) -> int:
        """Failures of worker functions, whoever counted them."""
        return self.errors

    @property
    def unfinished(self) -> int:
        """Items accepted and not done."""
        # In this order: where other threads go on meanwhile, zero is only read if it was true.
        processed = self.all_processed
        return self.accepted - processed

    def totals(self) -> dict[str, int]:
        """What only grows, for telemetry; the names are its."""
        return {
            names.ACCEPTED: self.accepted,
            names.FULL: self.full,
            names.CANCELLED: self.cancelled,
            names.STOPPED: self.stopped,
            names.PROCESSED: self.all_processed,
            names.CLOSURES: self.closures(),
        }

    # -- joining ------------------------------------------------------------------------------

    def count_finished(self) -> None:
        """An item is done. (Workers do the same in line.)"""
        self.add("processed")
        if self.joiners:
            self.notify_if_done()

    def notify_if_done(self) -> None:
        """Tell the joiners, if all items are done."""
        if not self.unfinished:
            self._notify_joiners(True)

    def forget_joiners(self) -> None:
        """Their loop was closed, so they will never go on."""
        self.joiners.clear()

    def fail_joiners(self) -> None:
        """Tell the joiners that what is left will not be done."""
        self._notify_joiners(False)

    def _notify_joiners(self, finished: bool) -> None:
        joiners = list(self.joiners)
        self.joiners.clear()
        for joiner in joiners:
            if not joiner.done():
                joiner.set_result(finished)

    def _add_joiner(self, joiner: asyncio.Future[bool]) -> None:
        self.joiners[joiner] = None

    async def join(self) -> bool:
        """Wait until all items are done (True), or will not be (False)."""
        joiner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._add_joiner(joiner)
        self.notify_if_done()  # the last one may be done since the caller looked
        try:
            return await joiner
        finally:
            self.joiners.pop(joiner, None)
