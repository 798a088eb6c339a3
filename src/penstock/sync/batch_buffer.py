"""The buffer of a queue for threads, whose entries are taken several at once."""

from __future__ import annotations

from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from penstock.queue.batch_buffer import BatchStore
from penstock.sync.buffer import EntryHolder, JanusBuffer
from penstock.sync.waiting import BY_HAND, THREAD
from penstock.workers.batch import Batching, BatchTicket
from penstock.workers.item import Entry, Ticket, job_of

T = TypeVar("T")


class BatchJanusBuffer(BatchStore[T], JanusBuffer[T]):
    """The rules of ``penstock.queue.batch_buffer``, for any number of threads."""

    def available(self, kind: int) -> int:
        """The number of calls for which a thread or task of a kind can take entries."""
        if kind == BY_HAND or self.limits.is_paused:
            return super().available(kind)
        count = self._takeable(kind == THREAD)
        return min(count, self._spare) if self.lanes else count

    def _admit(
        self, item: T, context: Context, ticket: Ticket | None, rank: Any = None
    ) -> Entry[T]:
        entry = super()._admit(item, context, ticket, rank)
        job = job_of(entry)
        if self._note_put(self._main if job is None else self.lanes.get(job, self._main), entry):
            self.wake_locked()
        return entry

    def _call_after(self, delay: float, batching: Batching, since: float) -> None:
        loop = self.loop
        if loop is not None:
            call = partial(self._on_wait_over, batching, since)
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(loop.call_later, delay, call, context=Context())

    def _on_wait_over(self, batching: Batching, since: float) -> None:
        with self.lock:
            if self._end_wait(batching, since):
                self.wake_locked()

    def _take_of_several(self, holder: EntryHolder[T]) -> Entry[T] | None:
        entry = super()._take_of_several(holder)
        if entry is not None and isinstance(entry[3], BatchTicket):
            entry[3].source = entry[3].counters = holder
            holder.taken += len(entry[3].entries) - 1
        return entry

    def wake_locked(self) -> None:
        """Wake workers for what is available, for a caller that holds the lock."""
        if not self.limits.is_paused:
            self._unpark_kinds()

    def _unpark(self, count: int) -> None:
        self.wake_locked()
