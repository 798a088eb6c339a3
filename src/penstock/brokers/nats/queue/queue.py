"""NatsQueue: a bounded queue for many machines, on NATS JetStream."""

from __future__ import annotations

import logging
from asyncio import _get_running_loop
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from opentelemetry import propagate

from penstock._util import checks
from penstock._util.lifecycle import Lifecycle
from penstock.brokers.codecs import Codec, JsonCodec
from penstock.brokers.nats.connection.addresses import check_options, check_servers
from penstock.brokers.nats.queue.core import NatsCore
from penstock.brokers.nats.queue.dead_letters import NatsDeadLetter
from penstock.brokers.nats.queue.delivery import delivery_of
from penstock.brokers.nats.queue.engine import QueueInfo, check_name
from penstock.brokers.nats.queue.roll_call import NatsProcess
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.dead_letters import MAX_DEAD_LETTERS, check_max_dead_letters
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy, policy_of
from penstock.queue.base import NO_LIMIT, policy_statistics
from penstock.queue.status import QueueStatistics
from penstock.workers.calls import ErrorHandler, WorkerFunc

T = TypeVar("T")

#: As NATS has it.
_MOST_REPLICAS = 5


class NatsQueue(Lifecycle, NatsCore[T]):
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
        limits, retry, breaker, deadline, attempt_timeout, policy: as for
            :class:`penstock.WorkQueue`, for the workers of this process. A retry waits on the
            server, for whichever machine; ``attempts`` counts the deliveries on all, those that a
            stop or a death ended included. What a service refused as too many requests, and what is
            held while it is away, waits in this process, at most 100 items beside those in hand.
            With a deadline the clocks of the machines should agree.
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
    ``unprocessed`` is always empty, for what is handed back is on the server; ``put_nowait`` and
    ``get_nowait``, and ``submit`` and ``map`` of a ``WorkQueue`` on it, raise ``TypeError``. A put
    that is cancelled while the server has not answered may be accepted.
    """

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
        limits: Iterable[Limit | str] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = 10 * MAX_DEAD_LETTERS,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        check_name(name)
        parts = {
            "limits": limits,
            "retry": retry,
            "breaker": breaker,
            "deadline": deadline,
            "attempt_timeout": attempt_timeout,
        }
        policy = policy_of(policy, parts, name) or Policy()
        max_dead_letters = check_max_dead_letters(max_dead_letters)
        urls = check_servers(servers)
        _check_figures(replicas, ack_wait, max_deliveries, max_item_size, policy.retry)
        checked: Codec[T] = JsonCodec() if codec is None else codec
        checks.members(checked, "codec", Codec)
        super().__init__(
            urls,
            name,
            maxsize,
            timeout,
            logger,
            telemetry,
            policy,
            codec=checked,
            replicas=replicas,
            ack_wait=ack_wait,
            max_deliveries=max_deliveries,
            max_item_size=max_item_size,
            max_dead_letters=max_dead_letters,
            options=check_options(options),
        )

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
        return self._level.is_full

    @property
    def unprocessed(self) -> list[T]:
        """Always empty: what was not processed is on the server, for any machine."""
        return []

    def statistics(self) -> QueueStatistics:
        """What this process did and has in hand; ``size`` and ``unfinished`` are the server's."""
        counts, size = self._counters, len(self._level)
        figures = policy_statistics(self._policy, self._scope, self._pool.adaptive)
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
            waiting_putters=self._putter.waiting,
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
        return await self._roll_call.ask(min(checks.seconds(wait, "wait"), NO_LIMIT))

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
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        limit = self._limit(timeout)
        payload, headers = self._packed(item, deadline)
        if not self._observer.is_enabled():
            propagate.inject(headers)
            return await self._put(payload, headers, limit)
        with self._observer.on_put() as put:
            put.context.run(propagate.inject, headers)
            put.accepted = await self._put(payload, headers, limit, put.on_full)
            return put.accepted

    def _packed(self, item: T, deadline: float | None) -> tuple[bytes, dict[str, str]]:
        policy, _ = self._some_policy()
        policy.limits.check(item)
        if deadline is None:
            deadline = policy.deadline
        if deadline is not None:
            deadline = checks.seconds(deadline, "deadline")
        return self._putter.pack(item, deadline)

    def _limit(self, timeout: float | None) -> float:
        """For how many seconds a put waits for room."""
        return min(self._timeout if timeout is None else checks.seconds(timeout), NO_LIMIT)

    def put_nowait(self, item: T, *, deadline: float | None = None) -> NoReturn:
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
        return self._loans.get_started(await self._take(timeout))

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
        entry = self._loans.settle()
        self._counters.processed += 1
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
        await self._stop_workers(checks.optional_seconds(timeout))

    # -- dead letters -------------------------------------------------------------------------

    async def look_at_dead_letters(self, limit: int = 100) -> list[NatsDeadLetter[T]]:
        """The oldest dead letters of all machines, at most ``limit``.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the server does not answer.
        """
        checks.positive_int(limit, "limit", "limit must be at least 1")
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
        limit = self._limit(timeout)
        return await self._graves.redrive(
            lambda payload, headers, known_as: self._put(payload, headers, limit, None, known_as)
        )

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
        return await self._stop(checks.optional_seconds(timeout))

    async def join(self) -> None:
        """Wait until the queue is empty: all items that any machine put are done.

        Raises:
            QueueStateError: the queue stopped in this process with items in it; or the call comes
                from inside a worker function, which would wait for itself.

        While the server does not answer it waits.
        """
        await self._join()


def _check_figures(
    replicas: Any, ack_wait: Any, max_deliveries: Any, max_item_size: Any, retry: RetryPolicy | None
) -> None:
    if checks.positive_int(replicas, "replicas", "replicas must be at least 1") > _MOST_REPLICAS:
        raise ValueError(f"replicas must be at most {_MOST_REPLICAS}, got {replicas}")
    if not 1 <= checks.seconds(ack_wait, "ack_wait") <= NO_LIMIT:
        raise ValueError(
            f"ack_wait must be at least 1 second and finite, got {checks.shown(ack_wait)}"
        )
    most = checks.positive_int(max_deliveries, "max_deliveries", "max_deliveries must be positive")
    if retry is not None and isinstance(retry.attempts, int) and retry.attempts >= most:
        raise ValueError(
            f"max_deliveries must be more than the {retry.attempts} attempts of retry, got {most}"
        )
    if max_item_size is not None:
        checks.positive_int(max_item_size, "max_item_size", "max_item_size must be at least 1")
