"""Worker slots: where one worker takes its entries and counts what becomes of them.

Workers run in several threads, so no two write the same number: each counts in its own slot, and
``SharedCounters`` adds the slots up. A slot knows at every instant what its worker holds: one more
taken than finished. So the entry of a worker that is stuck, in a thread or in the event loop, can
be reclaimed, and what that worker counts later does not matter.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

from penstock.policies.observer import CANCELLED
from penstock.queue.counters import Field, QueueCounters
from penstock.queue.entry_buffer import EntryBuffer
from penstock.sync.buffer import JanusBuffer
from penstock.sync.waiting import LoopWaiters
from penstock.workers.batch import BatchTicket, parts_of
from penstock.workers.item import Entry, job_of
from penstock.workers.job import Job
from penstock.workers.turn import ENDLESS, LoopTurn

T = TypeVar("T")


class SharedCounters(QueueCounters):
    """Counters that any thread may change; each worker counts in its own slot."""

    def __init__(self, buffer: EntryBuffer[Any]) -> None:
        super().__init__(buffer)
        self._lock = threading.RLock()
        self._slots: set[WorkerSlot[Any]] = set()

    @property
    def slots(self) -> list[WorkerSlot[Any]]:
        """The slots of all workers."""
        with self._lock:
            return list(self._slots)

    def register(self, slot: WorkerSlot[Any]) -> None:
        """Add what ``slot`` counts to the totals."""
        with self._lock:
            self._slots.add(slot)

    def unregister(self, slot: WorkerSlot[Any]) -> int:
        """Ignore what ``slot`` counts from now on; return how many entries it had finished."""
        with self._lock:
            processed = slot.processed  # once: it may go on counting in this very moment
            if slot in self._slots:
                self._slots.remove(slot)
                self.processed += processed
                self.errors += slot.errors
            return processed

    def add(self, field: Field) -> None:
        """Add one to the count of ``field``."""
        with self._lock:
            super().add(field)

    def add_failure(self, outcome: str) -> None:
        """Count an item that did not succeed."""
        with self._lock:
            super().add_failure(outcome)

    def get_started(self) -> None:
        """A caller of ``get`` takes an item."""
        with self._lock:
            super().get_started()

    def task_done(self) -> bool:
        """A caller of ``get`` has finished an item; False if no caller had one."""
        with self._lock:
            return super().task_done()

    @property
    def all_processed(self) -> int:
        """Items that are done, by the counts of all slots."""
        with self._lock:
            return self.processed + sum(slot.processed for slot in self._slots)

    @property
    def all_errors(self) -> int:
        """Failures of worker functions, by the counts of all slots."""
        with self._lock:
            return self.errors + sum(slot.errors for slot in self._slots)

    # -- joining ------------------------------------------------------------------------------

    def notify_if_done(self) -> None:
        """Tell the joiners, if all items are done."""
        if self._buffer.ready:  # most often the answer, at no cost
            return
        with self._lock:
            if not self.unfinished:
                self._notify_joiners(True)

    def _add_joiner(self, joiner: asyncio.Future[bool]) -> None:
        with self._lock:
            super()._add_joiner(joiner)

    def _notify_joiners(self, finished: bool) -> None:
        with self._lock:
            joiners = list(self.joiners)
            self.joiners.clear()
        for joiner in joiners:
            with suppress(RuntimeError):  # its loop is closed
                joiner.get_loop().call_soon_threadsafe(_tell, joiner, finished)


def _tell(joiner: asyncio.Future[bool], finished: bool) -> None:
    if not joiner.done():
        joiner.set_result(finished)


class WorkerSlot(Generic[T]):
    """The source and the counters of one worker.

    Args:
        standing: the job of entries that have none of their own, for this worker.
    """

    is_for_threads = False
    turn: LoopTurn = ENDLESS

    def __init__(
        self, buffer: JanusBuffer[T], counters: SharedCounters, standing: Job[T] | None
    ) -> None:
        self._buffer = buffer
        self._counters = counters
        self.standing = standing
        self.processed = 0
        self.errors = 0
        self.joiners = counters.joiners
        self.notify_if_done = counters.notify_if_done
        #: How many entries the worker took, the last of them, and its job where there are several
        #: jobs. The buffer writes all three.
        self.taken = 0
        self.entry: Entry[T] | None = None
        self.job: Job[T] | None = None
        #: When it took that, where it is a thread, and somebody has asked for it.
        self.since = 0.0
        #: Whether the entry was reclaimed: nothing counts that the worker does since.
        self.is_revoked = False
        #: Whether the worker asks the pool before it takes another entry.
        self.must_ask = False
        counters.register(self)

    def add_failure(self, outcome: str) -> None:
        """Count an item that did not succeed."""
        if not self.is_revoked:
            self._counters.add_failure(outcome)

    def take(self) -> Entry[T] | None:
        """The next entry, or None when there is none right now."""
        return self._buffer.take(self)

    def note_time(self) -> None:
        """Note when the worker takes an entry, if it is a thread: a task does that anyhow."""

    def requeue(self, entry: Entry[T]) -> None:
        """Take back the entry of a worker that was cancelled."""
        with self._buffer.lock:
            if not self.is_revoked:  # else the entry was reclaimed already
                self.taken -= len(parts_of(entry))
                self._buffer.release(self)
                self._buffer.requeue_locked(entry)

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Take back an entry, to be handed out again in ``delay`` seconds."""
        with self._buffer.lock:
            if self.is_revoked:
                return
            self._buffer.release(self)
            for part in parts_of(entry):
                if self._buffer.delay(part, delay):
                    self.taken -= 1
                else:
                    self.processed += 1

    def give_back(self, entries: Sequence[Entry[T]]) -> None:
        """Take back some of the entries of a batch, whose call goes on with the others."""
        with self._buffer.lock:
            if not self.is_revoked:
                self.taken -= len(entries)
                for entry in entries:
                    self._buffer.requeue_locked(entry)

    def drop(self, ticket: BatchTicket[T], entries: Sequence[Entry[T]]) -> None:
        """Some of the entries of a batch are done, and its call goes on with the others."""
        with self._buffer.lock:
            if not self.is_revoked:  # else they went back with the others
                ticket.forget(entries)
                self.processed += len(entries)

    async def pause(self) -> None:
        """Go on: a thread is in nobody's way."""

    def wake(self) -> None:
        """Wake other workers for the entries that are available."""
        self._buffer.wake()

    def wake_all(self) -> None:
        """Wake every worker that waits."""
        self._buffer.wake_all()

    @property
    def has_one_in_hand(self) -> bool:
        """Whether the worker has an entry in hand."""
        return self.taken > self.processed

    @property
    def job_in_hand(self) -> Job[T] | None:
        """The job of the entry that the worker has in hand, or None."""
        entry = self.entry
        if entry is None or not self.has_one_in_hand:
            return None
        return job_of(entry) or self.standing

    def reclaim(self) -> Job[T] | None:
        """Take the entry from a worker that does not return it.

        Returns:
            The job of the entry; None if the worker has none, or one of a job that has ended.
        """
        is_dropped = False
        with self._buffer.lock:
            if self.is_revoked:
                return None
            # The worker goes on meanwhile, but it can neither take an entry now nor finish twice.
            holds_one = self.taken > self._counters.unregister(self)
            # In this order: a worker whose slot is revoked reports no failure, so what it counts
            # then must not count, or nobody would ever hear of the item.
            self.is_revoked = self.must_ask = True
            entry = self.entry
            self._buffer.release(self)
            if not holds_one or entry is None:
                return None
            number, item, context, ticket = entry
            is_dropped = ticket is not None and ticket.is_dropped
            if not is_dropped:
                # A copy: the worker may be in the context itself, and only one can be. And what
                # the worker makes of the item is nobody's result any more.
                new = None if ticket is None else ticket.transfer()
                self._buffer.requeue_locked((number, item, context.copy(), new))
            else:
                self._buffer.wake_locked()
        if is_dropped:
            for _ in parts_of(entry):
                self._counters.add_failure(CANCELLED)
                self._counters.count_finished()
            return None
        return job_of(entry) or self.standing

    def close(self) -> None:
        """The worker has left."""
        self._release()
        self._counters.unregister(self)

    def _release(self) -> None:
        """The entry in hand is done, and the worker takes no other for now."""
        if self.job is not None:  # another worker may have one of its items now
            with self._buffer.lock:
                self._buffer.release(self)
                self._buffer.wake_locked()


class LoopSlot(WorkerSlot[T]):
    """The slot of a worker in the event loop."""

    def __init__(
        self, buffer: JanusBuffer[T], counters: SharedCounters, standing: Job[T] | None
    ) -> None:
        super().__init__(buffer, counters, standing)
        assert buffer.loop_waiters is not None
        self._waiters: LoopWaiters = buffer.loop_waiters
        self.turn = self._waiters.turn

    def take(self) -> Entry[T] | None:
        """The next entry; None when there is none, or the loop has other things to do first."""
        if self._waiters.may_take():
            return self._buffer.take(self)
        self._release()
        return None

    async def wait(self) -> bool:
        """Wait until there may be an entry to take; False when none will ever come."""
        return await self._waiters.wait()

    async def pause(self) -> None:
        """Let the event loop see to everything else, while no worker takes an entry."""
        self._release()
        await self.turn.pause()

    def wake(self) -> None:
        """Wake other workers for the entries that are available."""
        self._waiters.wake()
        self._buffer.wake_threads()


class ThreadSlot(WorkerSlot[T]):
    """The slot of a worker that is a thread."""

    is_for_threads = True

    def note_time(self) -> None:
        """Note from now on when the worker takes an entry: to look at the clock takes time."""
        if not self.since:
            self.since = monotonic()
            self.take = self._take_and_note  # type: ignore[method-assign]

    def _take_and_note(self) -> Entry[T] | None:
        self.since = monotonic()
        return super().take()

    async def wait(self) -> bool:
        """Block until there may be an entry to take; False when none will ever come."""
        return self._buffer.wait_in_thread(lambda: self.must_ask)
