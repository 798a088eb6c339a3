"""The parts of a queue on NATS, how they hang together, and when they are open.

``NatsQueue`` is its face. What is put goes through ``putter``, what comes through ``feed`` and
``intake``; what becomes of it the server hears from ``delivery``, and how many there are is heard
by ``watch``.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from nats.aio.msg import Msg

from penstock._util import checks
from penstock.brokers.codecs import Codec
from penstock.brokers.nats.connection.wire import Wire
from penstock.brokers.nats.queue.counts import Counts, Level
from penstock.brokers.nats.queue.dead_letters import Graveyard
from penstock.brokers.nats.queue.delivery import Delivery, Hands, has_not_begun
from penstock.brokers.nats.queue.engine import CONSUMER, Engine
from penstock.brokers.nats.queue.feed import Feed
from penstock.brokers.nats.queue.intake import Intake
from penstock.brokers.nats.queue.loans import Loans
from penstock.brokers.nats.queue.news import News
from penstock.brokers.nats.queue.publisher import Publisher
from penstock.brokers.nats.queue.putter import Putter
from penstock.brokers.nats.queue.roll_call import RollCall
from penstock.brokers.nats.queue.watch import Watch
from penstock.errors import QueueEmptyError, QueueStateError
from penstock.policies.observer import DEAD_LETTER, ObserverProvider
from penstock.policies.policy import Policy
from penstock.queue.base import CLOSED, WARNING_INTERVAL, QueueBase
from penstock.queue.status import QueueStatus, state_error
from penstock.workers.item import Entry
from penstock.workers.pool import WorkerPool

T = TypeVar("T")

#: Seconds between two looks at the size while somebody waits for it to be zero.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.5
#: Seconds that a stop gives the server to hear what became of the items.
_LAST_WORDS = 10.0
#: Seconds that a ``get`` which is not to wait gives the server to answer.
_AT_ONCE = 0.2


class NatsCore(QueueBase[T]):
    """The parts of a queue on NATS, and its lifecycle. Its arguments are checked already."""

    _counters: Counts

    def __init__(
        self,
        servers: Sequence[str],
        name: str,
        maxsize: int,
        timeout: float,
        logger: logging.Logger | None,
        telemetry: ObserverProvider | None,
        policy: Policy,
        *,
        codec: Codec[T],
        replicas: int,
        ack_wait: float,
        max_deliveries: int,
        max_item_size: int | None,
        max_dead_letters: int,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(maxsize, timeout, logger, name)
        self._level = Level(self._maxsize)
        self._counters = Counts(self._level)
        self._observe(telemetry, self._counters.totals, self._level)
        self._use(policy, 0)  # dead letters are on the server
        self._news = News()

        self._wire = wire = Wire(servers, options, self._logger)
        self._engine = engine = Engine(
            wire,
            name,
            maxsize=self._maxsize,
            replicas=replicas,
            ack_wait=ack_wait,
            max_dead_letters=max_dead_letters,
        )
        publisher = Publisher(wire)
        self._putter = Putter(
            publisher,
            engine.subject,
            codec,
            max_item_size,
            self._counters,
            self._level,
            self._news,
        )
        self._hands = Hands(wire, ack_wait, self._logger, name)
        self._hands.on_done = self._one_less
        self._graves = Graveyard(wire, engine, publisher, codec, self._logger)
        self._intake = Intake(
            codec, self._hands, self._observer, max_deliveries, self._bury, self._turn_down
        )
        self._feed = Feed(
            wire,
            f"$JS.API.CONSUMER.MSG.NEXT.{name}.{CONSUMER}",
            self._hands,
            self._receive,
            self._logger,
        )
        wire.on_reconnect = self._feed.reconnected
        self._loans: Loans[T] = Loans()
        self._pool = WorkerPool(self._feed, self._counters, name, self._logger)
        self._log_failures()
        self._watch = Watch(engine, self._level, self._feed, self._putter.room, self._logger)
        self._roll_call = RollCall(wire, engine.roll_subject, self._own_part)

        self._starting: asyncio.Lock | None = None
        self._ending: asyncio.Task[None] | None = None
        self._quiet_until = 0.0
        self._leftover = 0  # by the last stop

    def _own_part(self) -> dict[str, int]:
        """What this process did, for others who ask."""
        counts = self._counters
        return {
            "accepted": counts.accepted,
            "refused": counts.full,
            "processed": counts.processed,
            "errors": counts.errors,
            "in_flight": len(self._hands),
            "workers": self._pool.count,
        }

    # -- putting and taking ---------------------------------------------------------------------

    async def _put(
        self,
        payload: bytes,
        headers: dict[str, str],
        timeout: float,
        on_full: Callable[[], None] | None = None,
        first_id: str | None = None,
    ) -> bool:
        """As :meth:`Putter.put`, but an error where that says None."""
        accepted = await self._putter.put(payload, headers, timeout, on_full, first_id)
        if accepted is None:
            raise self._stopped_meanwhile("put")
        if not accepted:
            self._warn_full()
        return accepted

    def _warn_full(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + WARNING_INTERVAL
            self._log_full()

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = checks.optional_seconds(timeout)
        self._must_be_open("get")
        loop = asyncio.get_running_loop()
        # A server is a moment away, so less than that would be no question at all.
        give_up_at = None if limit is None else loop.time() + max(limit, _AT_ONCE)
        stops = self._stops
        while (entry := self._feed.take()) is None:
            left = None if give_up_at is None else give_up_at - loop.time()
            if left is not None and left <= 0:
                raise QueueEmptyError(f"Queue {self._name} is empty")
            await self._feed.wait(left)
            if self._stops != stops:
                raise self._stopped_meanwhile("get")
        if entry[3] is not None:
            entry[3].on_get()
        return entry

    # -- from the server to the workers, and back -----------------------------------------------

    def _receive(self, message: Msg) -> Entry[T] | None:
        assert self._scope is not None
        return self._intake.entry(message, self._scope)

    def _bury(self, delivery: Delivery, error: BaseException) -> None:
        if not delivery.is_done:
            self._hands.settle(self._bury_now(delivery, error))

    def _turn_down(self, delivery: Delivery, error: Exception) -> None:
        """No worker can have this, so no error handler will hear of it."""
        self._counters.errors += 1
        self._counters.add_failure(DEAD_LETTER)
        self._counters.processed += 1
        self._logger.error("Queue %s: an item becomes a dead letter: %s", self._name, error)
        self._bury(delivery, error)

    async def _bury_now(self, delivery: Delivery, error: BaseException) -> None:
        if await self._graves.bury(delivery, error, self._hands):
            self._counters.buried += 1
            self._observer.on_dead_letter(error)

    def _one_less(self) -> None:
        """An item is done, and there is room for another one."""
        self._level.changed(-1)
        self._putter.room()
        self._news.tell()

    # -- lifecycle ----------------------------------------------------------------------------

    async def _start(self) -> None:
        self._leave_closed_loop()
        if self._status is QueueStatus.PROCESSING:
            self._check_loop("start")
            return
        if self._status is QueueStatus.STOPPING:
            self._check_loop("start")
            self._check_not_worker("start")
        if self._starting is None or self._loop is not asyncio.get_running_loop():
            self._starting = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        async with self._starting:
            if self.status is QueueStatus.STOPPING:
                await self._wait_for_stop()
            if self.status is not QueueStatus.PROCESSING:  # somebody else may have been faster
                await self._open()

    async def _open(self) -> None:
        await self._wire.open()
        try:
            await self._engine.set_up()
            self._level.told(await self._engine.patiently(self._engine.size))
            await self._roll_call.listen()
        except BaseException:
            await self._wire.close()
            raise
        self._ending = None
        self._putter.open()
        self._hands.open()
        self._feed.open()
        self._watch.open()
        self._open_in = self._loop
        self._set_status(QueueStatus.PROCESSING)

    async def _without_workers(self) -> None:
        await self._feed.hush()

    async def _stop(self, limit: float | None) -> bool:
        self._leave_closed_loop()
        if self._status is QueueStatus.IDLE:
            self._set_status(QueueStatus.STOPPED)
        if self._status is QueueStatus.STOPPED:
            return not self._leftover
        self._check_loop("stop")
        self._check_not_worker("stop")
        if self._status is QueueStatus.PROCESSING:
            self._close()
        try:
            await self._pool.end(limit)
        finally:
            if self._ending is None and self._pool.is_empty:
                self._ending = asyncio.create_task(self._end())
            if self._ending is not None:
                await asyncio.shield(self._ending)
        return not self._leftover

    def _close(self) -> None:
        self._open_in = CLOSED
        self._stops += 1
        self._set_status(QueueStatus.STOPPING)
        self._putter.close()
        self._pool.retire()
        self._pool.cancel_where(has_not_begun)  # it may have to wait for its limits for long
        self._feed.close()
        self._hands.settle(self._feed.hush())

    async def _end(self) -> None:
        """All workers are gone: tell the server the rest, and leave."""
        for entry in self._loans.recall():
            self._feed.requeue(entry)
        await self._putter.finish(_LAST_WORDS)
        await self._hands.close(_LAST_WORDS)
        self._watch.close()
        if not self._wire.is_lost:
            await self._watch.look()
        self._leftover = len(self._level)
        await self._wire.close()
        self._set_status(QueueStatus.STOPPED)
        self._news.tell()

    async def _wait_for_stop(self) -> None:
        await self._pool.wait()
        while self._status is QueueStatus.STOPPING:
            if self._ending is not None:
                await asyncio.wait([self._ending])
            else:
                await asyncio.sleep(0)

    async def _join(self) -> None:
        if self._status in (QueueStatus.IDLE, QueueStatus.STOPPED):
            if len(self._level):
                raise self._not_empty()
            return
        self._check_loop("join")
        self._check_not_inside()
        stops, pause = self._stops, _SHORTEST_LOOK
        while self._stops == stops:
            if await self._watch.look() == 0 and not len(self._hands):
                return
            await self._news.wait(pause)
            pause = min(pause * 2, _LONGEST_LOOK)
        await self._wait_for_stop()
        if len(self._level):
            raise self._not_empty()

    def _not_empty(self) -> QueueStateError:
        return QueueStateError(
            f"Cannot join: the queue stopped here with {len(self._level)} items in it, which are "
            "for other machines or the next start",
            current_state=self._status.value,
        )

    def _forget_loop(self) -> None:
        self._feed.forget()
        self._hands.forget()
        self._pool.abandon()
        self._loans.recall()
        self._putter.forget()
        self._watch.forget()
        self._news.forget()

    def _must_be_open(self, verb: str) -> None:
        if _get_running_loop() is not self._open_in:
            if self._status is not QueueStatus.PROCESSING:
                raise state_error(verb if " " in verb else f"{verb} items", self._status)
            self._check_loop(verb)
