"""NatsQueue: a bounded queue for many machines, on NATS JetStream."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from penstock._util import checks
from penstock.brokers.codecs import Codec
from penstock.brokers.deliveries import check_ack_wait, check_deliveries
from penstock.brokers.messages import MessageCodec
from penstock.brokers.nats.connection.addresses import check_options, check_servers
from penstock.brokers.nats.queue.engine import NatsEngine
from penstock.brokers.nats.queue.processes import NatsProcess, ProcessStats
from penstock.brokers.nats.queue.streams import DEDUPE, QueueInfo, check_name
from penstock.brokers.queue import BrokerQueue
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.dead_letters import MAX_DEAD_LETTERS, check_max_dead_letters
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy, policy_of
from penstock.queue.base import NO_LIMIT

T = TypeVar("T")

#: As NATS has it.
_MOST_REPLICAS = 5


class NatsQueue(BrokerQueue[T]):
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
        dedupe: seconds in which the server knows the ``id`` of a put again: at least 120, since by
            ids it is found out as well what became of a put that was not answered.
        telemetry: as for :class:`penstock.BoundedQueue`. The trace of a put goes with its item to
            whichever machine.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    It belongs to the event loop in which it is started. All machines must give the same name,
    maxsize, replicas, ack_wait, max_dead_letters and dedupe, or ``start()`` refuses.

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
        dedupe: float = DEDUPE,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        check_name(name)
        checks.logger(logger)
        parts = {
            "limits": limits,
            "retry": retry,
            "breaker": breaker,
            "deadline": deadline,
            "attempt_timeout": attempt_timeout,
        }
        policy = policy_of(policy, parts, name)
        max_dead_letters = check_max_dead_letters(max_dead_letters)
        urls = check_servers(servers)
        _check_replicas(replicas)
        check_ack_wait(ack_wait)
        check_deliveries(max_deliveries, None if policy is None else policy.retry)
        _check_dedupe(dedupe)
        packing = MessageCodec(codec, max_item_size, max_deliveries)
        self._engine: NatsEngine = NatsEngine(
            urls,
            name,
            check_options(options),
            logging.getLogger("penstock") if logger is None else logger,
            maxsize=checks.positive_int(maxsize, "maxsize", "Queue maxsize must be at least 1"),
            replicas=replicas,
            ack_wait=ack_wait,
            max_dead_letters=max_dead_letters,
            dedupe=dedupe,
        )
        super().__init__(
            self._engine,
            packing,
            policy,
            name=name,
            maxsize=maxsize,
            timeout=timeout,
            logger=logger,
            telemetry=telemetry,
        )
        self._engine.processes = ProcessStats(
            self._engine.connection, self._engine.streams.processes_subject, self._figures
        )

    # -- what it looks like -------------------------------------------------------------------

    async def info(self) -> QueueInfo:
        """The queue as the server sees it now, over all machines.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the server does not answer.
        """
        self._must_be_open("look at the queue")
        return await self._engine.streams.info()

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
        return await self._engine.processes.ask(min(checks.seconds(wait, "wait"), NO_LIMIT))


def _check_replicas(replicas: Any) -> None:
    if checks.positive_int(replicas, "replicas", "replicas must be at least 1") > _MOST_REPLICAS:
        raise ValueError(f"replicas must be at most {_MOST_REPLICAS}, got {replicas}")


def _check_dedupe(dedupe: Any) -> None:
    if not DEDUPE <= checks.seconds(dedupe, "dedupe") <= NO_LIMIT:
        raise ValueError(
            f"dedupe must be at least {DEDUPE:g} seconds and finite, got {checks.shown(dedupe)}"
        )
