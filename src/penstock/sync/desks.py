"""Desks: where one worker takes its entries, and counts what becomes of them.

Workers run in several threads, so no two write the same number. And a desk knows at every instant
what its worker holds: one more taken than finished. So the item can be taken back from a worker
that is stuck, in a thread or in the event loop, and what that one counts later does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from penstock.sync.bridge import Bridge
from penstock.sync.loop_side import LoopSide
from penstock.workers.item import Entry

if TYPE_CHECKING:
    from penstock.sync.counters import SharedCounters

T = TypeVar("T")


class Desk(Generic[T]):
    """The source and the counters of one worker."""

    def __init__(self, bridge: Bridge[T], counters: SharedCounters) -> None:
        self._bridge = bridge
        self._counters = counters
        self.processed = 0
        self.errors = 0
        self.joiners = counters.joiners
        self.notify_if_done = counters.notify_if_done
        #: Entries that went into the worker's hands, and the last of them; the bridge writes them.
        self.taken = 0
        self.entry: Entry[T] | None = None
        #: Whether the worker lost the item that it holds, and nothing that it does counts.
        self.is_lost = False
        counters.open_desk(self)

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none right now."""
        return self._bridge.take(self)

    def requeue(self, entry: Entry[T]) -> None:
        """The worker was cancelled with the entry in its hands."""
        with self._bridge.lock:
            if not self.is_lost:  # else it was handed back already
                self.taken -= 1
                self._bridge.keep(entry)

    def delay(self, entry: Entry[T], delay: float) -> None:
        """The entry is to be handed out again in ``delay`` seconds."""
        with self._bridge.lock:
            if not self.is_lost:
                self.taken -= 1
                self._bridge.delay(entry, delay)

    def surrender(self) -> bool:
        """Take back what the worker holds, if it holds anything."""
        with self._bridge.lock:
            if self.is_lost:
                return False
            # The worker goes on meanwhile, but it can neither take anything now nor finish twice.
            holds_one = self.taken > self._counters.close_desk(self)
            # In this order: one that is lost tells nobody of a failure, so what it counts then
            # must not count, or nobody would ever hear of the item.
            self.is_lost = True
            if holds_one and self.entry is not None:
                number, item, context, ticket = self.entry
                # A copy: the worker may be in the context itself, and only one can be. And what
                # it makes of the item is nobody's result any more.
                new = None if ticket is None else ticket.transfer()
                self._bridge.keep((number, item, context.copy(), new))
            return holds_one

    def close(self) -> None:
        """The worker has left."""
        self._counters.close_desk(self)


class LoopDesk(Desk[T]):
    """The desk of a worker in the event loop."""

    def __init__(self, bridge: Bridge[T], counters: SharedCounters) -> None:
        super().__init__(bridge, counters)
        assert bridge.loop_side is not None
        self._side: LoopSide = bridge.loop_side

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none, or it is somebody else's turn in the loop."""
        return self._bridge.take(self) if self._side.may_take() else None

    async def wait(self) -> bool:
        """Wait until a look is worth it; False when nothing will come any more."""
        return await self._side.wait()

    def wake(self) -> None:
        """Call others to what is there."""
        self._side.wake()
        self._bridge.wake_threads()

    def wake_all(self) -> None:
        """Let every worker look around."""
        self._bridge.wake_all()


class ThreadDesk(Desk[T]):
    """The desk of a worker that is a thread."""

    def __init__(
        self, bridge: Bridge[T], counters: SharedCounters, is_retired: Callable[[], bool]
    ) -> None:
        super().__init__(bridge, counters)
        self._is_retired = is_retired

    async def wait(self) -> bool:
        """Block until a look is worth it; False when nothing will come any more."""
        return await self._bridge.wait(None, self._is_retired)

    def wake(self) -> None:
        """Call others to what is there."""
        self._bridge.wake()

    def wake_all(self) -> None:
        """Let every worker look around."""
        self._bridge.wake_all()
