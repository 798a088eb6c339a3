"""A queue whose items are kept by a broker: what is the same for all of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NoReturn, TypeVar

from penstock._util import checks
from penstock.brokers.engine import BrokerDeadLetter, KeptMessage
from penstock.brokers.putting import BrokerPuts
from penstock.errors import CodecError, QueueEmptyError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.policies.observer import QueueReadings
from penstock.queue.base import policy_statistics, utilization_of
from penstock.queue.status import QueueStatistics, QueueStatus
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.item import Entry

T = TypeVar("T")

#: Seconds that a ``get`` which is not to wait gives the broker to answer.
_AT_ONCE = 0.2


class BrokerQueue(BrokerPuts[T]):
    """A queue over a ``QueueEngine``, which keeps the items. Meets ``penstock.protocols.Queue``."""

    # -- what it looks like -------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many items are accepted and not done, on all machines, as the broker said last."""
        return len(self._size)

    @property
    def is_empty(self) -> bool:
        """Whether there are none, as the broker said last."""
        return not len(self._size)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item, as the broker said last."""
        return self._size.is_full

    @property
    def unprocessed(self) -> list[T]:
        """Always empty: what was not processed is at the broker, for any machine."""
        return []

    def statistics(self) -> QueueStatistics:
        """What this process did and has in hand; ``size`` and ``unfinished`` are the broker's."""
        counters, size, delayed = self._counters, len(self._size), self._source.delayed
        figures = policy_statistics(self._policy, self._scope, self._pool.adaptive)
        figures["dead_letters"] = counters.dead_letters
        return QueueStatistics(
            name=self._name,
            status=self._status,
            size=size,
            maxsize=self._maxsize,
            peak_size=max(self._size.peak, size),
            enqueued=counters.accepted,
            processed=counters.processed,
            errors=counters.errors,
            backpressure_events=counters.full,
            put_waits=counters.put_waits,
            inflight=max(0, self._source.held - delayed),
            unfinished=size,
            worker_count=self._pool.count,
            waiting_putters=self._producer.waiting,
            retrying=delayed,
            is_paused=self.is_paused,
            **figures,
        )

    def readings(self) -> QueueReadings:
        """What telemetry reads of the queue beside its statistics. Ages only the broker knows."""
        ready = max(0, len(self._size) - self._source.delayed)
        return QueueReadings(ready=ready, utilization=utilization_of(self._policy))

    def _figures(self) -> dict[str, int]:
        """What this process did, for others that ask."""
        counters = self._counters
        return {
            "accepted": counters.accepted,
            "refused": counters.full,
            "processed": counters.processed,
            "errors": counters.errors,
            "in_flight": self._source.held,
            "workers": self._pool.count,
        }

    # -- taking by hand -----------------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take an item without a worker; ``task_done()`` in the same task settles it.

        Until then the queue renews its lease, every third of ``ack_wait``.

        Raises:
            QueueEmptyError: none came in ``timeout`` seconds. ``None`` waits as long as it takes.
            QueueStateError: the queue is not processing, or stopped meanwhile.
        """
        return self._checked_out.add(await self._take(timeout))

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = checks.optional_seconds(timeout)
        self._must_be_open("get")
        loop = asyncio.get_running_loop()
        # A broker is a moment away, so less than that would be no question at all.
        give_up_at = None if limit is None else loop.time() + max(limit, _AT_ONCE)
        stops = self._stops
        while (entry := self._source.take_by_hand()) is None:
            left = None if give_up_at is None else give_up_at - loop.time()
            if left is not None and left <= 0:
                raise QueueEmptyError(f"Queue {self._name} is empty")
            await self._source.wait_by_hand(left)
            if self._stops != stops:
                raise self._stopped_meanwhile("get")
        if entry[3] is not None:
            entry[3].on_get()
        return entry

    def get_nowait(self) -> NoReturn:
        """Refuse: whether there is an item, only the broker knows."""
        self._must_be_open("get")
        raise TypeError(f"get_nowait() cannot ask a server: use await get(timeout=0) with {self!r}")

    def task_done(self) -> None:
        """The oldest item that this task took with ``get()`` is done; the broker will hear of it.

        (The oldest of any task, if this one took none.)

        Raises:
            ValueError: called more often than items were taken.
        """
        entry = self._checked_out.pop()
        self._counters.processed += 1
        self._source.settle(self._source.done(entry))

    # -- workers ------------------------------------------------------------------------------

    async def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers in this process; see :meth:`penstock.BoundedQueue.start_workers`.

        A worker that is free asks the broker for an item, and settles it when the function has
        returned. An item that fails is attempted again by ``retry``, on any machine. After the last
        attempt its error goes to ``error_handler`` or the log, and it becomes a dead letter.
        """
        size = self.check_workers(worker_func, num_workers, error_handler)
        await self._start_workers(worker_func, size, error_handler)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers of this process finish what they hold; cancel them after ``timeout``."""
        await self._stop_workers(checks.optional_seconds(timeout))

    @property
    def is_paused(self) -> bool:
        """Whether the workers of this process stand still, by :meth:`pause`."""
        return self._source.limits.is_paused and self._status is QueueStatus.PROCESSING

    def pause(self) -> None:
        """Let no worker of this process take an item until :meth:`resume`. Others continue.

        Raises:
            QueueStateError: the queue is not processing.

        Items are accepted. Running calls continue. Items that wait in this process go back to the
        broker. ``get`` waits. ``stop()`` ends a pause.
        """
        self._must_be_open("pause")
        self._source.set_paused(True)
        self._source.settle(self._source.hush())
        self._logger.info("Queue %s is paused", self._name)

    def resume(self) -> None:
        """End a pause of this process. Does nothing if there is none.

        Raises:
            QueueStateError: the queue is not processing.
        """
        self._must_be_open("resume")
        if self.is_paused:
            self._source.set_paused(False)
            self._source.ask_soon()
            self._logger.info("Queue %s is resumed", self._name)

    async def pause_all(self) -> None:
        """Let the broker deliver no items, to any process, until :meth:`resume_all`.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the broker does not answer, or cannot do that.

        Items are accepted until the queue is full. Running calls continue; a retry waits for the
        end of the pause. The pause also holds for processes that start later. ``stop()`` finishes
        the items in hand and takes no new ones; ``join()`` waits.
        """
        self._must_be_open("pause")
        await self._engine.set_paused(True)
        self._logger.info("Queue %s is paused, for all processes", self._name)

    async def resume_all(self) -> None:
        """End a pause of all processes. Does nothing if there is none.

        Raises:
            QueueStateError, BrokerError: as :meth:`pause_all`.
        """
        self._must_be_open("resume")
        await self._engine.set_paused(False)
        self._logger.info("Queue %s is resumed, for all processes", self._name)

    async def _without_workers(self) -> None:
        await self._source.hush()

    # -- dead letters -------------------------------------------------------------------------

    async def look_at_dead_letters(self, limit: int = 100) -> list[BrokerDeadLetter[T]]:
        """The oldest dead letters of all machines, at most ``limit``.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the broker does not answer.
        """
        checks.positive_int(limit, "limit", "limit must be at least 1")
        self._must_be_open("look at dead letters")
        letters: list[BrokerDeadLetter[T]] = []
        async for letter in self._engine.dead_letters():
            letters.append(self._decoded(letter))
            if len(letters) == limit:
                break
        return letters

    def _decoded(self, letter: KeptMessage) -> BrokerDeadLetter[T]:
        item: T | None
        try:
            item = self._codec.decode(letter.message)
        except CodecError:
            item = None
        return BrokerDeadLetter(
            letter.number,
            item,
            letter.message.payload,
            letter.error_type,
            letter.error,
            letter.deliveries,
        )

    async def redrive(self, timeout: float | None = None) -> int:
        """Put the dead letters back, the oldest first, as if they were new.

        Args:
            timeout: seconds that each may wait for room, as in :meth:`put`.

        Returns:
            How many were put. At the first that finds no room it ends.

        Raises:
            QueueStateError, ValueError, BrokerError: as in :meth:`put`; no item is lost.

        If the process dies in the middle, one item may be in the queue and a dead letter too.
        """
        self._must_be_open("redrive")
        limit, count = self._limit(timeout), 0
        async for letter in self._engine.dead_letters():
            if not await self._producer.put(partial(self._engine.redrive, letter), limit):
                break
            count += 1
        return count
