"""NatsQueue: a bounded queue for many machines, on NATS JetStream."""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from nats.aio.msg import Msg
from nats.nuid import NUID
from opentelemetry import propagate

from penstock import _checks
from penstock._lifecycle import Lifecycle
from penstock.base import CLOSED, LONG, WARN_EVERY, QueueBase, figures_of
from penstock.brokers.codecs import JSON, Codec, JsonCodec
from penstock.brokers.nats.counts import Counts, Level
from penstock.brokers.nats.dead_letters import Graveyard, NatsDeadLetter
from penstock.brokers.nats.delivery import Delivery, Hands, delivery_of, has_not_begun
from penstock.brokers.nats.engine import CONSUMER, Engine, QueueInfo, check_name
from penstock.brokers.nats.feed import Feed
from penstock.brokers.nats.intake import CONTENT_TYPE, DEADLINE, Intake
from penstock.brokers.nats.publisher import MESSAGE_ID, Line, Publisher
from penstock.brokers.nats.roll_call import NatsProcess, RollCall
from penstock.brokers.nats.wire import (
    ApiError,
    LostError,
    NobodyError,
    Wire,
    check_options,
    check_servers,
)
from penstock.calls import Entry, ErrorHandler, WorkerFunc
from penstock.errors import (
    BrokerError,
    CodecError,
    QueueEmptyError,
    QueueStateError,
)
from penstock.governor import MAX_DEAD_LETTERS, Rules, make_rules
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.limit import Limit
from penstock.limits.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.states import QueueStatistics, QueueStatus, state_error
from penstock.telemetry.api import Telemetry
from penstock.workers import WorkerPool

T = TypeVar("T")

#: As NATS has it.
_MOST_REPLICAS = 5
#: Seconds between two looks at the size, and between two while somebody waits for it to be zero.
_LOOK = 1.0
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.5
#: Looks at items that nobody gets, though workers wait, until that is looked into.
_SUSPICIOUS = 3
#: Seconds that a stop gives the server to hear what became of the items.
_LAST_WORDS = 10.0
#: Seconds that a ``get`` which is not to wait gives the server to answer.
_AT_ONCE = 0.2


class NatsQueue(Lifecycle, QueueBase[T]):
    """A bounded queue for many machines, on NATS JetStream. Meets ``penstock.protocols.Queue``.

    The promise: an item for which ``put`` returned True is stored by the server, and is handed out
    until a worker function has returned for it, or it is among the dead letters. It may be handed
    out more than once: when a worker dies, or is cut off from the server for longer than
    ``ack_wait``. An item for which it returned False never runs.

    Args:
        servers: the URL of a server, ``nats://host:4222``, or those of several of a cluster.
        name: what the queue is called, there and in telemetry: letters, digits, ``-`` and ``_``.
            The server keeps it in the streams ``name`` and ``name-dead``.
        maxsize: the most items that may be in the queue, those in the hands of workers on all
            machines and those that wait for a retry included.
        timeout: seconds that a put waits for room unless it says otherwise: zero or more, or
            ``math.inf``.
        logger: as for :class:`penstock.BoundedQueue`.
        codec: how items become bytes: :class:`penstock.brokers.codecs.JsonCodec` by default.
        replicas: on how many servers of a cluster the items are kept: 1, or 3 (up to 5).
        ack_wait: seconds after which the item of a worker that is not heard of any more is handed
            out again; a live one is heard of every third of it. At least 1.
        max_deliveries: an item that was handed out so often without an end becomes a dead letter,
            for it may be what kills its workers. Each handing-out counts, also those that a stop
            handed back; so it must be more than the attempts of ``retry``. At least 1.
        max_item_size: the most bytes that an item may have; ``None``: as many as the server takes,
            which is 1 MiB with the headers unless its ``max_payload`` says otherwise.
        options: what ``nats.connect`` takes beside: ``user``, ``password``, ``token``,
            ``user_credentials``, ``nkeys_seed``, ``tls``, ...
        limits, retry, breaker, deadline: as for :class:`penstock.WorkQueue`, for the workers of
            this process. A retry waits on the server, for whichever machine; ``attempts`` counts
            the deliveries on all, those that a stop or a death ended included. With a deadline the
            clocks of the machines should agree.
        max_dead_letters: how many items that failed for good are kept; when they are as many, what
            fails stays in the queue. 0: they are dropped.
        telemetry: as for :class:`penstock.BoundedQueue`. The trace of a put goes with its item to
            whichever machine.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    It belongs to the event loop in which it is started. All machines must give the same name,
    maxsize, replicas, ack_wait and max_dead_letters, or ``start()`` refuses.

    Differences from a queue in this process: the bound counts items in flight too; ``size`` is what
    the server said last, up to a second ago; ``stop()`` leaves what waits to other machines;
    ``unprocessed`` is always empty, for what is handed back is on the server; ``submit``, ``map``,
    ``put_nowait`` and ``get_nowait`` are not there. A put that is cancelled while the server has
    not answered may be accepted.
    """

    _accounts: Counts

    def __init__(
        self,
        servers: str | Sequence[str],
        name: str,
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        codec: Codec[T] | None = None,
        replicas: int = 1,
        ack_wait: float = 30.0,
        max_deliveries: int = 20,
        max_item_size: int | None = None,
        options: Mapping[str, Any] | None = None,
        limits: Iterable[Limit] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        max_dead_letters: int = 10 * MAX_DEAD_LETTERS,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, check_name(name))
        rules = make_rules(limits, retry, breaker, deadline, max_dead_letters)
        urls = check_servers(servers)
        _check_figures(replicas, ack_wait, max_deliveries, max_item_size, retry)
        self._max_item_size = max_item_size
        self._codec: Codec[T] = JsonCodec() if codec is None else codec
        _checks.members(self._codec, "codec", Codec)
        self._level = Level(self._maxsize)
        self._accounts = Counts(self._level)
        self._instrument(telemetry, self._accounts.totals, self._level)
        self._rules = Rules(max_dead_letters=max_dead_letters) if rules is None else rules
        self._govern(self._rules)

        self._wire = wire = Wire(urls, check_options(options), self._logger)
        self._engine = Engine(
            wire,
            self._name,
            maxsize=self._maxsize,
            replicas=replicas,
            ack_wait=ack_wait,
            max_dead_letters=max_dead_letters,
        )
        self._publisher = Publisher(wire)
        self._hands = Hands(wire, ack_wait, self._logger, self._name)
        self._hands.on_done = self._one_less
        self._graves = Graveyard(wire, self._engine, self._publisher, self._codec, self._logger)
        self._intake = Intake(
            self._codec, self._hands, self._probe, max_deliveries, self._bury, self._turn_down
        )
        self._feed = Feed(
            wire,
            f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{CONSUMER}",
            self._hands,
            self._receive,
            self._logger,
        )
        wire.on_reconnect = self._feed.reconnected
        self._pool = WorkerPool(self._feed, self._accounts, self._name, self._logger)
        self._roll_call = RollCall(wire, self._engine.roll_subject, self._own_part)

        self._line = Line()
        # Message ids: one that is unique in the world, made at each start, and a number.
        self._id = ""
        self._id_number = 0
        self._starting: asyncio.Lock | None = None
        self._ending: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        # Puts under way; what was taken by hand, by the task that did.
        self._puts = 0
        self._loans: dict[Any, deque[Entry[T]]] = {}
        self._news: asyncio.Event | None = None
        self._quiet_until = 0.0
        self._left = 0  # by the last stop

    # -- what it looks like -------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many items are accepted and not done, on all machines, as the server said last."""
        return len(self._level)

    @property
    def is_empty(self) -> bool:
        """Whether there are none, as the server said last."""
        return not len(self._level)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item, as the server said last."""
        return len(self._level) >= self._maxsize

    @property
    def unprocessed(self) -> list[T]:
        """Always empty: what was not processed is on the server, for any machine."""
        return []

    @property
    def metrics(self) -> dict[str, int]:
        """What this process did: enqueued, processed, errors, backpressure_events."""
        counts = self._accounts
        return {
            "enqueued": counts.accepted,
            "processed": counts.processed,
            "errors": counts.errors,
            "backpressure_events": counts.full,
        }

    def statistics(self) -> QueueStatistics:
        """What this process did and has in hand; ``size`` and ``unfinished`` are the server's."""
        counts, size = self._accounts, len(self._level)
        figures = figures_of(self._governor)
        figures["dead_letters"] = counts.buried
        put_off = self._feed.put_off
        return QueueStatistics(
            name=self._name,
            status=self._status,
            size=size,
            maxsize=self._maxsize,
            peak_size=max(counts.peak, size),
            enqueued=counts.accepted,
            processed=counts.processed,
            errors=counts.errors,
            backpressure_events=counts.full,
            put_waits=counts.put_waits,
            inflight=max(0, len(self._hands) - put_off),
            unfinished=size,
            worker_count=self._pool.count,
            waiting_putters=len(self._line),
            retrying=put_off,
            **figures,
        )

    async def info(self) -> QueueInfo:
        """The queue as the server sees it now, over all machines.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the server does not answer.
        """
        self._must_be_open("look at the queue")
        return await self._engine.info()

    async def processes(self, wait: float = 0.5) -> list[NatsProcess]:
        """What each other process that has the queue open now says that it did.

        The server counts no refused puts: only those who put know them. What a process did is
        forgotten when it ends.

        Args:
            wait: seconds in which they may answer. One that is stuck, that is further away, or that
                is not permitted to answer is not in the list.

        Raises:
            QueueStateError: the queue is not processing.
            ValueError: ``wait`` is no such number.
        """
        self._must_be_open("ask processes")
        return await self._roll_call.ask(min(_checks.seconds(wait, "wait"), LONG))

    def _own_part(self) -> dict[str, int]:
        counts = self._accounts
        return {
            "accepted": counts.accepted,
            "refused": counts.full,
            "processed": counts.processed,
            "errors": counts.errors,
            "in_flight": len(self._hands),
            "workers": self._pool.count,
        }

    # -- putting ------------------------------------------------------------------------------

    async def put(
        self, item: T, timeout: float | None = None, *, deadline: float | None = None
    ) -> bool:
        """Offer an item; True when the server has stored it, False when the queue stayed full.

        Args:
            item: what the codec can encode.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            deadline: as in :meth:`penstock.BoundedQueue.put`.

        Raises:
            QueueUnknownError: the server did not answer for a minute: nobody can say whether the
                item is stored. It is at most once.
            BrokerError: the server refused it for another reason than want of room.
            CodecError: the item cannot be encoded, or is too large. Also a ``ValueError``.
            QueueStateError: the queue is not processing, or stopped while the put waited.
            ValueError: the timeout or deadline is negative, NaN or no number; or a limit can never
                let the item pass.

        While the connection is lost it waits for another one, also beyond ``timeout``: False would
        be a guess. Puts of this process that wait are served first come, first served. Cancelled
        while it waits for room, it leaves nothing behind; cancelled while the server has not
        answered, the item may be in.
        """
        if _get_running_loop() is not self._open_on:
            self._refuse("put")
        limit = self._timeout if timeout is None else _checks.seconds(timeout)
        payload, headers = self._packed(item, deadline)
        if not self._probe.is_on():
            propagate.inject(headers)
            return await self._put(payload, headers, limit, None)
        with self._probe.observe_put() as put:
            put.context.run(propagate.inject, headers)
            put.accepted = await self._put(payload, headers, limit, put.had_to_wait)
            return put.accepted

    def _packed(self, item: T, deadline: float | None) -> tuple[bytes, dict[str, str]]:
        assert self._governor is not None
        if self._governor.limiter.limits:
            self._governor.limiter.check(item)
        payload = self._codec.encode(item)
        if self._max_item_size is not None and len(payload) > self._max_item_size:
            raise CodecError(
                f"The item is {len(payload)} bytes as {self._codec.content_type}, and "
                f"max_item_size allows {self._max_item_size}"
            )
        headers = (
            {} if self._codec.content_type == JSON else {CONTENT_TYPE: self._codec.content_type}
        )
        if deadline is None:
            deadline = self._rules.deadline
        if deadline is not None:
            headers[DEADLINE] = repr(float(_checks.seconds(deadline, "deadline")))
        return payload, headers

    async def _put(
        self,
        payload: bytes,
        headers: dict[str, str],
        limit: float,
        had_to_wait: Callable[[], None] | None,
        first_id: str | None = None,
    ) -> bool:
        ids = [] if first_id is None else [first_id]

        async def attempt() -> bool:
            self._id_number += 1
            headers[MESSAGE_ID] = ids.pop() if ids else f"{self._id}-{self._id_number:x}"
            return await self._publisher.store(self._engine.subject, payload, headers)

        counts, stops = self._accounts, self._stops
        self._puts += 1
        accepted: bool | None = False
        try:
            if not len(self._line):
                accepted = await attempt()
            if not accepted:
                if had_to_wait is not None:
                    had_to_wait()
                if self._stops != stops:
                    accepted = None
                elif limit:
                    counts.put_waits += 1
                    accepted = await self._line.wait_for(attempt, min(limit, LONG))
        except BaseException as error:
            counts.put_failed(error)
            raise
        finally:
            self._puts -= 1
            if not self._puts and self._news is not None:
                self._news.set()
        if accepted is None:
            counts.stopped += 1
            raise self._stopped_meanwhile("put")
        if accepted:
            counts.accept()
        else:
            counts.full += 1
            self._level.told(max(len(self._level), self._maxsize))
            self._complain_of_fullness()
        return accepted

    def _complain_of_fullness(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + WARN_EVERY
            self._log_fullness()

    def put_nowait(self, item: T) -> NoReturn:
        """Refuse: whether there is room, only the server knows, and to ask it takes a moment."""
        self._must_be_open("put")
        raise TypeError(
            f"put_nowait() cannot ask a server: use await put(item, timeout=0) with {self!r}"
        )

    # -- taking by hand -----------------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take an item without a worker; ``task_done()`` in the same task settles it.

        Until then the server is told every third of ``ack_wait`` that it is being worked on.

        Raises:
            QueueEmptyError: none came in ``timeout`` seconds. ``None`` waits as long as it takes.
            QueueStateError: the queue is not processing, or stopped meanwhile.
        """
        entry = await self._take(timeout)
        self._loans.setdefault(asyncio.current_task(), deque()).append(entry)
        return entry[1]

    async def _take(self, timeout: float | None) -> Entry[T]:
        limit = _checks.optional_seconds(timeout)
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
            entry[3].taken_by_hand()
        return entry

    def get_nowait(self) -> NoReturn:
        """Refuse: whether there is an item, only the server knows."""
        self._must_be_open("get")
        raise TypeError(f"get_nowait() cannot ask a server: use await get(timeout=0) with {self!r}")

    def task_done(self) -> None:
        """The oldest item that this task took with ``get()`` is done; the server will hear of it.

        (The oldest of any task, if this one took none.)

        Raises:
            ValueError: called more often than items were taken.
        """
        owner: Any = asyncio.current_task()
        if owner not in self._loans:
            owner = next(iter(self._loans), None)
        if owner not in self._loans:
            raise ValueError("task_done() called more often than items were taken with get()")
        loans = self._loans[owner]
        entry = loans.popleft()
        if not loans:
            del self._loans[owner]
        self._accounts.processed += 1
        self._hands.settle(self._hands.done(delivery_of(entry)))

    # -- workers ------------------------------------------------------------------------------

    async def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers in this process; see :meth:`penstock.BoundedQueue.start_workers`.

        Each asks the server for an item when it is free, and settles it when the function has
        returned. What fails is tried again as ``retry`` says, on whichever machine; then it goes to
        ``error_handler`` or the log, and becomes a dead letter.
        """
        size = self.check_workers(worker_func, num_workers, error_handler)
        await self._start_workers(worker_func, size, error_handler)

    async def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers of this process finish what they hold; cancel them after ``timeout``."""
        limit = _checks.optional_seconds(timeout)
        if self._pool.is_empty:
            return
        self._check_loop("stop workers")
        self._check_not_worker("stop_workers")
        self._pool.retire()
        try:
            await self._pool.end(limit)
        finally:
            await self._feed.hush()

    def _receive(self, message: Msg) -> Entry[T] | None:
        assert self._governor is not None
        return self._intake.entry(message, self._governor)

    def _bury(self, delivery: Delivery, error: BaseException) -> None:
        if not delivery.is_done:
            self._hands.settle(self._bury_now(delivery, error))

    def _turn_down(self, delivery: Delivery, error: Exception) -> None:
        """No worker can have this, so no error handler will hear of it."""
        self._accounts.errors += 1
        self._accounts.processed += 1
        self._logger.error("Queue %s: an item becomes a dead letter: %s", self._name, error)
        self._bury(delivery, error)

    async def _bury_now(self, delivery: Delivery, error: BaseException) -> None:
        if await self._graves.bury(delivery, error, self._hands):
            self._accounts.buried += 1
            self._probe.died(error)

    def _one_less(self) -> None:
        """An item is done, and there is room for another one."""
        self._level.changed(-1)
        self._line.room()
        if self._news is not None:
            self._news.set()

    # -- dead letters -------------------------------------------------------------------------

    async def look_at_dead_letters(self, limit: int = 100) -> list[NatsDeadLetter[T]]:
        """The oldest dead letters of all machines, at most ``limit``.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the server does not answer.
        """
        _checks.positive_int(limit, "limit", "limit must be at least 1")
        self._must_be_open("look at dead letters")
        return await self._graves.look(limit)

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
        limit = self._timeout if timeout is None else _checks.seconds(timeout)
        last = (await self._engine.last_dead_letter()) if self._engine.keeps_dead_letters else 0
        count = number = 0
        while number < last:  # and not those that come meanwhile
            letter = await self._graves.take(number + 1)
            if letter is None or letter[0] > last:
                break
            number, payload, headers = letter
            # Known again, if somebody else redrives at the same time.
            known_as = f"redriven-{self._name}-{number}"
            if not await self._put(payload, headers, limit, None, known_as):
                break
            await self._graves.remove(number)
            count += 1
        return count

    # -- lifecycle ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, make or check the streams, and take items from now on.

        Does nothing if the queue is processing. Waits for a stop under way.

        Raises:
            BrokerError: the server cannot be reached, does not let us, or has a queue of that name
                with other settings. The message says what to do.
            QueueStateError: the queue runs in another event loop.
        """
        await self._start()

    async def _start(self) -> None:
        self._leave_dead_loop()
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
        self._id = NUID().next().decode()  # not before: a program may fork with its queue
        self._news = asyncio.Event()
        self._ending = None
        self._hands.open()
        self._feed.open()
        self._watch = asyncio.create_task(self._look(), name=f"penstock-{self._name}-watch")
        self._open_on = self._loop
        self._set_status(QueueStatus.PROCESSING)

    async def _look(self) -> None:
        """Keep an eye on the queue's size."""
        idle = 0
        while True:
            await asyncio.sleep(_LOOK)
            size = await self._look_once()
            idle = idle + 1 if size and self._feed.is_idle else 0
            if idle > _SUSPICIOUS:
                idle = await self._look_for_forgotten(idle)

    async def _look_for_forgotten(self, idle: int) -> int:
        """There are items, and workers get none of them: see why, again and again to be sure."""
        try:
            if not await self._engine.has_forgotten():
                return 0
            if idle <= 2 * _SUSPICIOUS:
                return idle
            await self._engine.remind()
        except (ApiError, LostError, NobodyError, BrokerError):
            return 0  # some other time
        self._logger.warning(
            "Queue %s: the server holds %d items and hands out none, as it may after it was "
            "killed; now it hands out all of them, also those that were processed",
            self._name,
            len(self._level),
        )
        self._feed.reconnected()
        return 0

    async def _look_once(self) -> int | None:
        try:
            size = await self._engine.size()
        except (ApiError, LostError, NobodyError, BrokerError):
            return None  # the next look may tell
        self._level.told(size)
        if size < self._maxsize:
            self._line.room()
        return size

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, let the workers of this process finish what they hold, disconnect.

        An item that waits for its limits in a worker's hands has not begun: it is handed back.

        Args:
            timeout: seconds for the workers to finish; then they are cancelled. ``None`` or
                ``math.inf``: as long as it takes. ``0``: cancel at once.
            drain: makes no difference here; what waits stays on the server in any case.

        Returns:
            True when the queue was empty at the end. False when something was left: what waited,
            and what was handed back, which the server hands out again at once, to any machine.

        Raises:
            QueueStateError: called from inside a worker function, which would wait for itself.
            ValueError: the timeout is negative, NaN or no number.

        To process all that waits first, ``await join()``; it may be a lot, and other machines may
        put more. Puts and gets that wait get ``QueueStateError``.
        """
        limit = _checks.optional_seconds(timeout)
        self._leave_dead_loop()
        if self._status is QueueStatus.IDLE:
            self._set_status(QueueStatus.STOPPED)
        if self._status is QueueStatus.STOPPED:
            return not self._left
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
        return not self._left

    def _close(self) -> None:
        self._open_on = CLOSED
        self._stops += 1
        self._set_status(QueueStatus.STOPPING)
        self._line.close()
        self._pool.retire()
        self._pool.break_off(has_not_begun)  # it may have to wait for its limits for long
        self._feed.close()
        self._hands.settle(self._feed.hush())

    async def _end(self) -> None:
        """All workers are gone: tell the server the rest, and leave."""
        for loans in self._loans.values():
            for entry in loans:
                self._feed.give_back(entry)
        self._loans.clear()
        await self._wait_for_puts()
        await self._hands.close(_LAST_WORDS)
        if self._watch is not None:
            self._watch.cancel()
        if not self._wire.is_lost:
            await self._look_once()
        self._left = len(self._level)
        await self._wire.close()
        self._set_status(QueueStatus.STOPPED)
        if self._news is not None:
            self._news.set()

    async def _wait_for_puts(self) -> None:
        """Let the server answer the puts that are under way, for a while."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LAST_WORDS
        while self._puts and loop.time() < give_up_at:
            await self._news_or(_LONGEST_LOOK)

    async def _news_or(self, timeout: float) -> None:
        """Wait until something happens here, at most ``timeout`` seconds."""
        assert self._news is not None
        self._news.clear()
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait([news], timeout=timeout)
        finally:
            news.cancel()

    async def _wait_for_stop(self) -> None:
        await self._pool.wait()
        while self._status is QueueStatus.STOPPING:
            if self._ending is not None:
                await asyncio.wait([self._ending])
            else:
                await asyncio.sleep(0)

    async def join(self) -> None:
        """Wait until the queue is empty: all items that any machine put are done.

        Raises:
            QueueStateError: the queue stopped in this process with items in it; or the call comes
                from inside a worker function, which would wait for itself.

        While the server does not answer it waits.
        """
        if self._status in (QueueStatus.IDLE, QueueStatus.STOPPED):
            if len(self._level):
                raise self._not_empty()
            return
        self._check_loop("join")
        self._check_not_worker("join")
        stops, pause = self._stops, _SHORTEST_LOOK
        while self._stops == stops:
            if await self._look_once() == 0 and not len(self._hands):
                return
            await self._news_or(pause)
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

    def _leave_dead_loop(self) -> None:
        if (
            self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING)
            and self._loop is not None
            and self._loop.is_closed()
        ):
            self._open_on = CLOSED
            self._stops += 1
            self._feed.forget()
            self._hands.forget()
            self._pool.abandon()
            self._loans.clear()
            self._puts = 0
            self._line = Line()
            self._set_status(QueueStatus.STOPPED)

    def _must_be_open(self, verb: str) -> None:
        if _get_running_loop() is not self._open_on:
            if self._status is not QueueStatus.PROCESSING:
                raise state_error(verb if " " in verb else f"{verb} items", self._status)
            self._check_loop(verb)


def _check_figures(
    replicas: Any, ack_wait: Any, max_deliveries: Any, max_item_size: Any, retry: RetryPolicy | None
) -> None:
    if _checks.positive_int(replicas, "replicas", "replicas must be at least 1") > _MOST_REPLICAS:
        raise ValueError(f"replicas must be at most {_MOST_REPLICAS}, got {replicas}")
    if not 1 <= _checks.seconds(ack_wait, "ack_wait") <= LONG:
        raise ValueError(f"ack_wait must be at least 1 second and finite, got {ack_wait!r}")
    most = _checks.positive_int(max_deliveries, "max_deliveries", "max_deliveries must be positive")
    if retry is not None and isinstance(retry.attempts, int) and retry.attempts >= most:
        raise ValueError(
            f"max_deliveries must be more than the {retry.attempts} attempts of retry, got {most}"
        )
    if max_item_size is not None:
        _checks.positive_int(max_item_size, "max_item_size", "max_item_size must be at least 1")
