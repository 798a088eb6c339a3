"""A queue whose items are kept by a broker: what is the same for all of them."""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from opentelemetry import propagate

from penstock._util import checks
from penstock._util.lifecycle import Lifecycle
from penstock.brokers.counters import BrokerCounters, SizeEstimate
from penstock.brokers.engine import BrokerDeadLetter, KeptMessage, QueueEngine, Stored
from penstock.brokers.messages import Message, MessageCodec
from penstock.brokers.producer import Producer, Pulse
from penstock.brokers.size_monitor import SizeMonitor
from penstock.brokers.source import DeliverySource, has_not_begun
from penstock.errors import CodecError, QueueEmptyError, QueueStateError, QueueUnknownError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.policies.observer import ObservedPut, ObserverProvider, QueueReadings
from penstock.policies.policy import Policy
from penstock.queue.base import (
    CLOSED,
    NO_LIMIT,
    WARNING_INTERVAL,
    QueueBase,
    policy_statistics,
    utilization_of,
)
from penstock.queue.status import QueueStatistics, QueueStatus, state_error
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.item import Entry
from penstock.workers.settling import SettlingPool

T = TypeVar("T")

#: Seconds between two looks at the size while somebody waits for it to be zero.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.5
#: Seconds that a stop gives the broker to hear what became of the items.
_LAST_WORDS = 10.0
#: Seconds that a ``get`` which is not to wait gives the broker to answer.
_AT_ONCE = 0.2
#: How many items of a ``put_many`` go to the broker at once.
_AT_ONCE_PUT = 250


class BrokerQueue(Lifecycle, QueueBase[T]):
    """A queue over a ``QueueEngine``, which keeps the items. Meets ``penstock.protocols.Queue``.

    What is put goes through ``Producer``, what comes through ``DeliverySource``, which tells the
    engine what became of it. Arguments are checked already, but for those of every queue.
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
            **figures,
        )

    def readings(self) -> QueueReadings:
        """What telemetry reads of the queue beside its statistics. Ages only the broker knows."""
        ready = max(0, len(self._size) - self._source.delayed)
        return QueueReadings(ready=ready, utilization=utilization_of(self._policy))

    # -- putting ------------------------------------------------------------------------------

    async def put(
        self,
        item: T,
        timeout: float | None = None,
        *,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Offer an item; True when the broker has stored it, False when the queue stayed full.

        Args:
            item: what the codec can encode.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            deadline: as in :meth:`penstock.BoundedQueue.put`.
            id: of two puts with one id, from whichever machine, within the ``dedupe`` seconds of
                the queue one is stored, and both return True. The item of the first stays. A put
                that is refused leaves no id.

        Raises:
            QueueUnknownError: the broker did not answer for long: nobody can say whether the item
                is stored. It is at most once.
            BrokerError: the broker refused it for another reason than want of room.
            CodecError: the item cannot be encoded, or is too large. Also a ``ValueError``.
            QueueStateError: the queue is not processing, or stopped while the put waited.
            ValueError: the timeout or deadline is negative, NaN or no number; or a limit can never
                let the item pass.

        While the connection is lost it waits for another one, also beyond ``timeout``: False would
        be a guess. Puts of this process that wait are served first come, first served. Cancelled
        while it waits for room, it leaves nothing behind; cancelled while the broker has not
        answered, the item may be in.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        limit = self._limit(timeout)
        message = self._pack(item, deadline)
        if id is not None:
            checks.label(id, "id")
        offer = partial(self._engine.put, message, id)
        if not self._observer.is_enabled():
            propagate.inject(message.headers)
            return await self._producer.put(offer, limit)
        with self._observer.on_put() as put:
            put.context.run(propagate.inject, message.headers)
            put.accepted = await self._producer.put(offer, limit, put.on_full)
            return put.accepted

    def _pack(self, item: T, deadline: float | None) -> Message:
        scope = self._scope
        if scope is not None:
            policy: Any = scope.policy
            policy.limits.check(item)
            if deadline is None:
                deadline = policy.deadline
        if deadline is not None:
            deadline = checks.seconds(deadline, "deadline")
        return self._codec.pack(item, deadline)

    def _limit(self, timeout: float | None) -> float:
        """For how many seconds a put waits for room."""
        return min(self._timeout if timeout is None else checks.seconds(timeout), NO_LIMIT)

    async def put_many(self, items: Collection[T], timeout: float | None = None) -> int:
        """Put ``items`` in their order; return how many were accepted, from the front.

        Args:
            items: a list or another collection.
            timeout: seconds to wait for room, all items together, as for :meth:`put`.

        Raises:
            QueueUnknownError: the broker did not answer for long: nobody can say whether an item is
                stored. The ``accepted`` of the error is how many are before it.
            BrokerError, CodecError, QueueStateError, ValueError: as :meth:`put`, about the first
                item. If some were accepted before, their number is returned, and the next call with
                the rest raises.
            TypeError: ``items`` is no collection.

        Up to 250 items go to the broker at once, and no other process's puts are held up. If it is
        cancelled, what was accepted until then stays, and more may be accepted.
        """
        checks.collection(items)
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        give_up_at, count = self._now() + self._limit(timeout), 0
        try:
            for messages in self._packed(items):
                puts = self._begin_puts(messages)
                with _ended(puts):
                    while messages:
                        left = max(0.0, give_up_at - self._now())
                        stored = await self._put_first(messages, left, puts)
                        count += stored
                        if not stored:
                            return count
                        del messages[:stored]
        except QueueUnknownError as error:
            error.accepted += count
            raise
        except Exception:
            if not count:  # else the next call meets it
                raise
        return count

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _packed(self, items: Iterable[T]) -> Iterator[list[Message]]:
        """The messages of items, some at a time; what an item has against it is raised after."""
        messages: list[Message] = []
        failure: Exception | None = None
        for item in items:
            try:
                messages.append(self._pack(item, None))
            except Exception as error:  # noqa: BLE001 - raised below
                failure = error
                break
            if len(messages) == _AT_ONCE_PUT:
                yield messages
                messages = []
        if messages:
            yield messages
        if failure is not None:
            raise failure

    def _begin_puts(self, messages: Sequence[Message]) -> list[ObservedPut]:
        """Give each message the headers of its trace; return the puts, if they are observed."""
        if not self._observer.is_enabled():
            for message in messages:
                propagate.inject(message.headers)
            return []
        puts = [self._observer.on_put().__enter__() for _ in messages]
        for put, message in zip(puts, messages, strict=True):
            put.context.run(propagate.inject, message.headers)
        return puts

    async def _put_first(
        self, messages: Sequence[Message], timeout: float, puts: list[ObservedPut]
    ) -> int:
        """Put the first of some messages, as many as there is room for in time; return how many.

        Their ``puts`` end, and are taken out.
        """
        stored = 0

        async def offer() -> Stored:
            nonlocal stored
            try:
                stored = await self._engine.put_many(messages)
            except QueueUnknownError as error:
                stored = error.accepted
                self._counters.add_accepted(stored)
                raise
            return Stored.NEW if stored else Stored.FULL

        try:
            await self._producer.put(offer, timeout, puts[0].on_full if puts else None)
        finally:
            for put in puts[:stored]:
                put.accepted = True
                put.__exit__(None, None, None)
            del puts[:stored]
        if stored:
            self._counters.add_accepted(stored - 1)  # and the one that the producer has counted
        return stored

    def _warn_full(self) -> None:
        now = self._now()
        if now >= self._warning_muted_until:
            self._warning_muted_until = now + WARNING_INTERVAL
            self._log_full()

    def put_nowait(self, item: T, *, deadline: float | None = None) -> NoReturn:
        """Refuse: whether there is room, only the broker knows, and to ask it takes a moment."""
        self._must_be_open("put")
        raise TypeError(
            f"put_nowait() cannot ask a server: use await put(item, timeout=0) with {self!r}"
        )

    # -- taking by hand -----------------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take an item without a worker; ``task_done()`` in the same task settles it.

        Until then the broker is told every third of ``ack_wait`` that it is being worked on.

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

        Each asks the broker for an item when it is free, and settles it when the function has
        returned. What fails is tried again as ``retry`` says, on whichever machine; then it goes to
        ``error_handler`` or the log, and becomes a dead letter.
        """
        size = self.check_workers(worker_func, num_workers, error_handler)
        await self._start_workers(worker_func, size, error_handler)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers of this process finish what they hold; cancel them after ``timeout``."""
        await self._stop_workers(checks.optional_seconds(timeout))

    async def pause_all(self) -> None:
        """Have the broker hand out nothing, to any process, until :meth:`resume_all`.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the broker does not answer, or cannot do that.

        Items are accepted until the queue is full. What workers have in hand goes on; a retry waits
        for the end of the pause. It outlasts all processes, those that start later find it too.
        ``stop()`` finishes what is in hand and takes nothing new; ``join()`` waits.
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

    # -- lifecycle ----------------------------------------------------------------------------

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
            drain: makes no difference here; what waits stays at the broker in any case.

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
            if self.status is not QueueStatus.PROCESSING:  # somebody else may have been faster
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
                raise state_error(verb if " " in verb else f"{verb} items", self._status)
            self._check_loop(verb)

    def _on_done(self) -> None:
        """An item is done, and there is room for another one."""
        self._size.add(-1)
        self._producer.on_room()
        self._pulse.beat()


@contextmanager
def _ended(puts: Sequence[ObservedPut]) -> Iterator[None]:
    """The block with which these puts end, with its error."""
    with ExitStack() as stack:
        try:
            yield
        finally:
            for put in puts:
                stack.push(put)


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
            ValueError: nobody has any.
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
