"""The counters of a queue: how many items came in, how many are done, and who joins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from penstock.queue.entry_buffer import EntryBuffer

Field = Literal["full", "cancelled", "stopped", "put_waits", "processed", "errors"]


class QueueCounters:
    """Counts what becomes of the items that are put into a queue. For one thread."""

    def __init__(self, buffer: EntryBuffer[Any]) -> None:
        self._buffer = buffer
        #: Puts that found the queue full, were cancelled, or were ended by a stop.
        self.full = self.cancelled = self.stopped = 0
        #: Puts that waited, whatever became of them.
        self.put_waits = 0
        #: Items that are done, succeeded or failed, once each.
        self.processed = 0
        #: Failures of worker functions.
        self.errors = 0
        #: Items that were taken with ``get`` and are not done.
        self.checked_out = 0
        #: Returns how often the gate of the limits was closed.
        self.closures: Callable[[], int] = int
        #: The futures of those who wait in ``join()``.
        self.joiners: dict[asyncio.Future[bool], None] = {}

    # All that others change or sum up follows, so that counters which several threads share have
    # few methods to guard.

    def add(self, field: Field) -> None:
        """Count one more. (Where a call would cost too much, callers do the same in line.)"""
        setattr(self, field, getattr(self, field) + 1)

    def get_started(self) -> None:
        """An item was taken with ``get``."""
        self.checked_out += 1

    def task_done(self) -> bool:
        """Such an item is done; False if there was none."""
        if not self.checked_out:
            return False
        self.checked_out -= 1
        return True

    @property
    def accepted(self) -> int:
        """Accepted items."""
        return self._buffer.accepted

    @property
    def all_processed(self) -> int:
        """Items that are done, all workers together."""
        return self.processed

    @property
    def all_errors(self) -> int:
        """Failures of worker functions, all workers together."""
        return self.errors

    @property
    def unfinished(self) -> int:
        """Accepted items that are not done."""
        # In this order: other threads go on counting, and zero must be true when it is read.
        processed = self.all_processed
        return self.accepted - processed

    def totals(self) -> dict[str, int]:
        """The counters that only grow, for telemetry: puts by their outcome, and two more."""
        return {
            "accepted": self.accepted,
            "full": self.full,
            "cancelled": self.cancelled,
            "stopped": self.stopped,
            "processed": self.all_processed,
            "closures": self.closures(),
        }

    # -- joining ------------------------------------------------------------------------------

    def call_when_done(self, call: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call ``call()`` in ``loop`` when all items are done, at once if they are.

        Not if the queue stops with items left.
        """
        self._add_joiner(_CallingJoiner(call, loop))
        self.notify_if_done()

    def count_finished(self) -> None:
        """An item is done. (Workers do the same in line.)"""
        self.add("processed")
        if self.joiners:
            self.notify_if_done()

    def notify_if_done(self) -> None:
        """Complete the joiners if all items are done."""
        if not self.unfinished:
            self._notify_joiners(True)

    def forget_joiners(self) -> None:
        """Forget the joiners: their loop is closed, so none will ever go on."""
        self.joiners.clear()

    def fail_joiners(self) -> None:
        """Complete the joiners: the items that are left will not be done."""
        self._notify_joiners(False)

    def _notify_joiners(self, finished: bool) -> None:
        joiners = list(self.joiners)
        self.joiners.clear()
        for joiner in joiners:
            # A finaliser may finish an item when the loop is closed.
            if not joiner.done() and not joiner.get_loop().is_closed():
                joiner.set_result(finished)

    def _add_joiner(self, joiner: asyncio.Future[bool]) -> None:
        self.joiners[joiner] = None

    async def join(self) -> bool:
        """Wait until all items are done (True), or some will not be (False)."""
        joiner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._add_joiner(joiner)
        self.notify_if_done()  # the last one may be done since the caller looked
        try:
            return await joiner
        finally:
            self.joiners.pop(joiner, None)


class _CallingJoiner(asyncio.Future[bool]):
    """Stands among the joiners, and calls a function in the instant in which the last item is done.

    (The callbacks of an ordinary future are called one turn of the loop later.)
    """

    def __init__(self, call: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._call = call

    def set_result(self, result: bool) -> None:
        super().set_result(result)
        if result:
            self._call()
