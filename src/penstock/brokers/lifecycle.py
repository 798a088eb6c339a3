"""The parts of a queue on a broker, and when they are open: start, stop, join."""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from penstock._util import checks
from penstock._util.lifecycle import Lifecycle
from penstock.brokers.counters import BrokerCounters, SizeEstimate
from penstock.brokers.engine import QueueEngine
from penstock.brokers.messages import MessageCodec
from penstock.brokers.producer import Producer, Pulse
from penstock.brokers.size_monitor import SizeMonitor
from penstock.brokers.source import DeliverySource, has_not_begun
from penstock.errors import QueueStateError
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy
from penstock.queue.base import CLOSED, WARNING_INTERVAL, QueueBase
from penstock.queue.status import QueueStatus, state_error
from penstock.workers.item import Entry
from penstock.workers.settling import SettlingPool

T = TypeVar("T")

#: Seconds between two looks at the size while a ``join`` waits for it to be zero.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.5
#: Seconds that a stop gives the broker to hear what became of the items.
_LAST_WORDS = 10.0


class BrokerLifecycle(Lifecycle, QueueBase[T]):
    """The parts of a queue on a broker. Its own arguments are checked already.

    ``Producer`` offers items to the engine. ``DeliverySource`` gets them from the engine for the
    workers, and tells the engine what became of each.
    """

    _counters: BrokerCounters

    def __init__(
        self,
        engine: QueueEngine,
        codec: MessageCodec[T],
        policy: Policy | None,
        *,
        name: str,
        maxsize: int,
        timeout: float,
        logger: logging.Logger | None,
        telemetry: ObserverProvider | None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name)
        self._engine = engine
        self._codec = codec
        self._size = SizeEstimate(self._maxsize)
        self._source = source = DeliverySource(
            engine, codec, self._size, self._logger, name, self._on_done, self._some_policy
        )
        self._counters = source.counters
        self._observe(telemetry, self._counters.totals, self._size)
        source.observer = self._observer
        if policy is not None:
            self._use(policy, 0)  # dead letters are kept by the broker
        self._pulse = Pulse()
        self._producer = Producer(
            self._counters,
            self._pulse,
            self._warn_full,
            partial(self._stopped_meanwhile, "put"),
        )
        source.on_room = self._producer.on_room
        self._monitor = SizeMonitor(engine, self._size, source, self._producer.on_room, name)
        self._pool = SettlingPool(source, self._counters, name, self._logger)
        self._log_failures()
        self._checked_out: _CheckedOut[T] = _CheckedOut()
        self._starting: asyncio.Lock | None = None
        self._ending: asyncio.Task[None] | None = None
        self._warning_muted_until = 0.0
        self._leftover = 0  # by the last stop

    def _use(self, policy: Policy, max_dead_letters: int) -> None:
        super()._use(policy, max_dead_letters)
        self._source.scope = self._scope

    def _warn_full(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._warning_muted_until:
            self._warning_muted_until = now + WARNING_INTERVAL
            self._log_full()

    async def start(self) -> None:
        """Connect, make the queue or check it, and take items from now on.

        Does nothing if the queue is processing. Waits for a stop under way.

        Raises:
            BrokerError: the broker cannot be reached, does not let us, or has a queue of that name
                with other settings. The message says what to do.
            QueueStateError: the queue runs in another event loop.
        """
        await self._start()

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, let the workers of this process finish what they hold, disconnect.

        An item that waits for its limits in a worker's hands has not begun: it is handed back.

        Args:
            timeout: seconds for the workers to finish; then they are cancelled. ``None`` or
                ``math.inf``: as long as it takes. ``0``: cancel at once.
            drain: makes no difference here; the items that wait stay at the broker.

        Returns:
            True when the queue was empty at the end. False when something was left: what waited,
            and what was handed back, which the broker hands out again at once, to any machine.

        Raises:
            QueueStateError: called from inside a worker function, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.

        To process all that waits first, ``await join()``; it may be a lot, and other machines may
        put more. Puts and gets that wait get ``QueueStateError``.
        """
        return await self._stop(checks.optional_seconds(timeout))

    async def join(self) -> None:
        """Wait until the queue is empty: all items that any machine put are done.

        Raises:
            QueueStateError: the queue stopped in this process with items in it; or the call comes
                from inside a worker function, which would wait for itself.

        While the broker does not answer it waits.
        """
        if self._status in (QueueStatus.IDLE, QueueStatus.STOPPED):
            if len(self._size):
                raise self._not_empty()
            return
        self._check_loop("join")
        self._check_not_inside()
        stops, pause = self._stops, _SHORTEST_LOOK
        while self._stops == stops:
            if await self._monitor.look() == 0 and not self._source.held:
                return
            await self._pulse.wait(pause)
            pause = min(pause * 2, _LONGEST_LOOK)
        await self._wait_for_stop()
        if len(self._size):
            raise self._not_empty()

    def _not_empty(self) -> QueueStateError:
        return QueueStateError(
            f"Cannot join: the queue stopped on this machine with {len(self._size)} items in it. "
            "They wait for other machines or for the next start",
            current_state=self._status.value,
        )

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
            if self.status is not QueueStatus.PROCESSING:  # another call may have been faster
                await self._open()

    async def _open(self) -> None:
        self._size.set(await self._engine.open(self._source))
        self._ending = None
        self._source.open()
        self._monitor.open()
        self._open_in = self._loop
        self._set_status(QueueStatus.PROCESSING)

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
        self._producer.close()
        self._pool.retire()
        self._pool.cancel_where(has_not_begun)  # it may have to wait for its limits for long
        self._source.close()
        self._source.settle(self._source.hush())

    async def _end(self) -> None:
        """All workers are gone: tell the broker the rest, and leave."""
        for entry in self._checked_out.clear():
            self._source.requeue(entry)
        await self._producer.finish(_LAST_WORDS)
        await self._source.finish(_LAST_WORDS)
        self._monitor.close()
        if not self._engine.is_lost:
            await self._monitor.look()
        self._leftover = len(self._size)
        await self._engine.close()
        self._set_status(QueueStatus.STOPPED)
        self._pulse.beat()

    async def _wait_for_stop(self) -> None:
        await self._pool.wait()
        while self._status is QueueStatus.STOPPING:
            if self._ending is not None:
                await asyncio.wait([self._ending])
            else:
                await asyncio.sleep(0)

    def _forget_loop(self) -> None:
        self._source.forget()
        self._pool.abandon()
        self._checked_out.clear()
        self._producer.forget()
        self._monitor.forget()
        self._pulse.forget()
        self._engine.forget()

    def _must_be_open(self, verb: str) -> None:
        if _get_running_loop() is not self._open_in:
            if self._status is not QueueStatus.PROCESSING:
                what = f"{verb} items" if verb in ("put", "get") else verb
                raise state_error(what, self._status)
            self._check_loop(verb)

    def _on_done(self) -> None:
        """An item is done, and there is room for another one."""
        self._size.add(-1)
        self._producer.on_room()
        self._pulse.beat()


class _CheckedOut(Generic[T]):
    """The items that callers of ``get`` have not settled yet, by the task that took them."""

    def __init__(self) -> None:
        self._entries: dict[Any, deque[Entry[T]]] = {}

    def add(self, entry: Entry[T]) -> T:
        """The task that runs has taken it; return its item."""
        self._entries.setdefault(asyncio.current_task(), deque()).append(entry)
        return entry[1]

    def pop(self) -> Entry[T]:
        """The oldest that the task has that runs; of any task, if this one has none.

        Raises:
            ValueError: no task has any.
        """
        owner: Any = asyncio.current_task()
        if owner not in self._entries:
            owner = next(iter(self._entries), None)
        if owner not in self._entries:
            raise ValueError("task_done() called more often than items were taken with get()")
        entries = self._entries[owner]
        entry = entries.popleft()
        if not entries:
            del self._entries[owner]
        return entry

    def clear(self) -> Iterable[Entry[T]]:
        """Take all of them back."""
        entries = [entry for some in self._entries.values() for entry in some]
        self._entries.clear()
        return entries
