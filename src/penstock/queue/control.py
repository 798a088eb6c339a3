"""What an operator does with a queue in one process: pause it, remove items, cancel calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from penstock._util import checks
from penstock.errors import QueueClosedError
from penstock.policies.observer import CANCELLED
from penstock.queue.lifecycle import QueueLifecycle, is_cancelled
from penstock.queue.status import QueueStatus, state_error
from penstock.workers.item import Entry, job_of

T = TypeVar("T")


@dataclass(frozen=True)
class ItemInHand(Generic[T]):
    """An item that a worker has in hand, as of the call of ``in_hand()``."""

    item: T
    #: The name of the task or thread that is the worker.
    worker: str
    #: How many seconds ago the worker took the item. (Workers do not look at the clock before
    #: somebody asks. So, of an item taken before the first call of ``in_hand()``: since that call.)
    seconds: float
    _cancel: Callable[[], bool] = field(repr=False, compare=False)

    def cancel(self) -> bool:
        """Cancel the call of the worker function: the item fails with ``CancelledError``.

        Returns:
            False if nothing was cancelled: the worker no longer has the item, or the worker is a
            thread, which cannot be cancelled.

        Does not wait for the end of the call. The error handler is called, or the error is logged;
        the item is not retried. A function may ignore its cancellation, as any task may. If a plain
        function of an event loop is cancelled, its thread continues, and its result is dropped.
        """
        return self._cancel()


class QueueControl(QueueLifecycle[T]):
    """Plain methods: none of them waits."""

    # -- pauses -------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether :meth:`pause` was called, and neither ``resume`` nor a stop or close since."""
        return self._buffer.limits.is_paused and self._status is QueueStatus.PROCESSING

    def pause(self) -> None:
        """Let no worker take an item until :meth:`resume`. Running calls continue.

        Raises:
            QueueStateError: the queue is not processing; a ``QueueClosedError`` if it is closed.

        Items are accepted until the queue is full. An item that fails waits for its next attempt.
        ``get`` waits, or raises ``QueueEmptyError`` after its timeout. To pause a queue twice is
        the same as once. ``close()`` and ``stop()`` end a pause, and the workers process the items
        that wait; after ``stop(drain=False)`` these items stay.
        """
        self._check_control("pause")
        if self._status is not QueueStatus.PROCESSING:
            raise state_error("pause", self._status)
        if not self._buffer.set_paused(True):
            if self._is_closed:
                raise QueueClosedError(
                    "Cannot pause when queue is closed", current_state=self._status.value
                )
            raise state_error("pause", QueueStatus.STOPPING)  # by another thread, in this instant
        self._logger.info("Queue %s is paused", self._name)

    def resume(self) -> None:
        """End a pause. Does nothing if the queue is not paused.

        Raises:
            QueueStateError: the queue is not processing.
        """
        self._check_control("resume")
        if self._status is not QueueStatus.PROCESSING:
            raise state_error("resume", self._status)
        if self.is_paused:
            self._buffer.set_paused(False)
            self._logger.info("Queue %s is resumed", self._name)
            if self._buffer.unclaimed:
                self._arm_idle_warning()

    # -- what waits ---------------------------------------------------------------------------

    def clear(self) -> list[T]:
        """Remove all items that wait, and return them in the order of their puts.

        Raises:
            QueueStateError: the queue runs in another event loop.

        These are the items of ``put`` and ``submit`` that no worker has in hand, also those that
        wait for another attempt or for a limit, and those that a stop has left. The items of a
        ``map`` or a batch are not removed. Futures of ``submit`` are cancelled. A removed item
        counts as done, so ``join()`` does not wait for it. Puts that wait for room get the room.
        """
        return self._take_back(self._unclaimed("clear"))

    def remove(self, predicate: Callable[[T], object]) -> list[T]:
        """Remove the items that wait and for which ``predicate(item)`` is true; return them.

        As :meth:`clear`, for some of the items. On a queue for threads, an item that a worker takes
        during this call is not removed.

        Raises:
            TypeError: ``predicate`` is not a function of an item.
            QueueStateError: the queue runs in another event loop.
            Exception: what ``predicate`` raised; then nothing is removed.
        """
        checks.function(predicate, "predicate", "item")
        entries = self._unclaimed("remove items")
        return self._take_back(
            entry for entry in entries if not is_cancelled(entry[3]) and predicate(entry[1])
        )

    def _unclaimed(self, what: str) -> list[Entry[T]]:
        self._check_control(what)
        return [entry for entry in self._buffer.snapshot() if job_of(entry) is None]

    def _take_back(self, entries: Iterable[Entry[T]]) -> list[T]:
        removed = self._buffer.take_back(list(entries))  # it calls no function with its lock held
        items = [item for _, item, _, ticket in removed if not is_cancelled(ticket)]
        for _, _, _, ticket in removed:
            # That of a thread cannot be cancelled any more once an attempt has begun.
            if ticket is not None and ticket.future is not None and not ticket.future.cancel():
                ticket.fail(asyncio.CancelledError("the item was removed from the queue"))
        if self._status is QueueStatus.STOPPED:
            self._leftover = self._buffer.ready
        for _ in removed:
            self._counters.add_failure(CANCELLED)
            self._counters.count_finished()
        return items

    # -- what is in hand ----------------------------------------------------------------------

    def in_hand(self) -> list[ItemInHand[T]]:
        """The items that workers have in hand: each with its worker, its time, a ``cancel()``.

        Items that were taken with ``get`` and similar methods are not listed, nor the item of an
        async function that has not waited for anything yet.

        Raises:
            QueueStateError: the queue runs in another event loop.
        """
        self._check_control("list the items in hand")
        return [
            ItemInHand(
                entry[1],
                worker.name,
                worker.seconds_in_hand,
                partial(self._pool.cancel_item, worker, entry),
            )
            for worker, entry in self._pool.in_hand()
        ]

    def cancel(self, future: Any) -> bool:
        """Cancel an item by its future of ``submit``: skip it if it waits, else cancel its call.

        Args:
            future: one that ``submit`` of this queue returned.

        Returns:
            False if nothing was cancelled: the future is done, or the item is in the hands of a
            worker that is a thread.

        Raises:
            TypeError: it is no such future.
            QueueStateError: the queue runs in another event loop.

        ``future.cancel()`` only drops the result: a running call continues. This method cancels the
        call, and the future is done when the call has ended; as :meth:`ItemInHand.cancel`.
        """
        self._check_control("cancel an item")
        pool, is_ours = self._pool, getattr(future, "_pool", None) is self._pool
        if not is_ours:
            raise TypeError(
                f"future must be one that submit() of queue {self._name} returned, "
                f"got {checks.shown(future)}"
            )
        for worker, entry in pool.in_hand():
            ticket = entry[3]
            if ticket is not None and ticket.future is future:
                return pool.cancel_item(worker, entry)
        if future.done():
            return False
        if future.cancel():
            return True
        # An attempt has begun, of which another follows.
        waiting = self._unclaimed("cancel an item")
        return bool(self._take_back(e for e in waiting if e[3] and e[3].future is future))

    def _check_control(self, what: str) -> None:
        """Refuse a call where it may not be made."""
        self._leave_closed_loop()
        if self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING):
            self._check_loop(what)
