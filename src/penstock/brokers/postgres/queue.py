"""PostgresQueue: a bounded queue in a database, for any number of machines."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from opentelemetry import propagate
from psycopg_pool import AsyncConnectionPool

from penstock._util import checks
from penstock.brokers.codecs import Codec
from penstock.brokers.deliveries import check_ack_wait, check_deliveries
from penstock.brokers.engine import Stored
from penstock.brokers.messages import Message, MessageCodec
from penstock.brokers.postgres.connecting import check_dsn
from penstock.brokers.postgres.engine import PostgresEngine
from penstock.brokers.postgres.in_transaction import CallersPut
from penstock.brokers.postgres.schema import check_schema
from penstock.brokers.sql.queue import SqlQueue
from penstock.brokers.sql.rows import NewItem
from penstock.brokers.sql.settings import SqlSettings
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.dead_letters import MAX_DEAD_LETTERS, check_max_dead_letters
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy, policy_of

T = TypeVar("T")

#: Each item of the bound is a row, made once.
_MOST_ITEMS = 1_000_000


class PostgresQueue(SqlQueue[T]):
    """A bounded queue in a PostgreSQL database. Meets ``penstock.protocols.Queue``.

    The promise: an item for which ``put`` returned True is committed, and is handed out until a
    worker function has returned for it, or it is among the dead letters. It may be handed out more
    than once: when a worker dies, or is held up for longer than ``ack_wait``. An item for which it
    returned False never runs. Any number of processes on any machines may have it open.

    The database must have been prepared, by ``penstock postgres init`` or :func:`init`.

    Args:
        dsn_or_pool: ``postgresql://user@host/database`` or another connection string of libpq; or
            an open ``psycopg_pool.AsyncConnectionPool`` of this event loop, which stays yours. Of a
            string it makes a pool of up to 4 connections.
        name: what the queue is called, there and in telemetry. A schema can have many.
        maxsize: the most items that may be in the queue, those in the hands of workers of all
            machines and those that wait for a retry included. At most 1,000,000.
        timeout: seconds that a put waits for room unless it says otherwise: zero or more, or
            ``math.inf``.
        logger: as for :class:`penstock.BoundedQueue`.
        codec: how items become bytes: :class:`penstock.brokers.codecs.JsonCodec` by default.
        ack_wait: seconds after which the item of a worker that is not heard of any more is handed
            out again; a live one is heard of every third of it. At least 1.
        max_deliveries: an item that was handed out so often without an end becomes a dead letter,
            for it may be what kills its workers. Each handing-out counts, also those that a stop
            handed back; so it must be more than the attempts of ``retry``. At least 1.
        max_item_size: the most bytes that an item may have; ``None``: as many as PostgreSQL takes,
            which is 1 GB. It is made for items of some kB.
        dedupe: seconds in which the ``id`` of a put is known again.
        schema: where the tables are: small letters, digits and underscores.
        listen: be told of items by LISTEN and NOTIFY, on one more connection. False: look every 10
            to 250 ms. Behind PgBouncer in transaction mode it must be False.
        limits, retry, breaker, deadline, attempt_timeout, policy: as for
            :class:`penstock.WorkQueue`, for the workers of this process. A retry waits in the
            database, for whichever process; ``attempts`` counts the deliveries to all, those that a
            stop or a death ended included. What a service refused as too many requests, and what is
            held while it is away, waits in this process, at most 100 items beside those in hand.
        max_dead_letters: how many items that failed for good are kept; when they are as many, what
            fails stays in the queue. 0: they are dropped.
        telemetry: as for :class:`penstock.BoundedQueue`. The trace of a put goes with its item to
            whichever process.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    It belongs to the event loop in which it is started, which must not be the ProactorEventLoop of
    Windows. All processes must give the same maxsize, ack_wait, max_dead_letters and dedupe, or
    ``start()`` refuses. All times are by the clock of the database.

    Differences from a queue in memory: the bound counts items in flight too; ``size`` is what the
    database said last, up to a second ago; ``stop()`` leaves what waits to other processes, or the
    next start; ``unprocessed`` is always empty, for what is handed back is in the database;
    ``put_nowait`` and ``get_nowait``, and ``submit`` and ``map`` of a ``WorkQueue`` on it, raise
    ``TypeError``. A put that is cancelled while the database is at it may be accepted.
    """

    _engine: PostgresEngine

    def __init__(
        self,
        dsn_or_pool: str | AsyncConnectionPool[Any],
        name: str = "default",
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        codec: Codec[T] | None = None,
        ack_wait: float = 30.0,
        max_deliveries: int = 20,
        max_item_size: int | None = None,
        dedupe: float = 120.0,
        schema: str = "penstock",
        listen: bool = True,
        limits: Iterable[Limit | str] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = 10 * MAX_DEAD_LETTERS,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        if not isinstance(dsn_or_pool, AsyncConnectionPool):
            check_dsn(dsn_or_pool)
        name = checks.label(name, "name")
        parts = {
            "limits": limits,
            "retry": retry,
            "breaker": breaker,
            "deadline": deadline,
            "attempt_timeout": attempt_timeout,
        }
        policy = policy_of(policy, parts, name)
        checks.positive_int(maxsize, "maxsize", "Queue maxsize must be at least 1")
        if maxsize > _MOST_ITEMS:
            raise ValueError(
                f"maxsize must be at most {_MOST_ITEMS:,}, for each of them is a row, got {maxsize}"
            )
        settings = SqlSettings(
            maxsize,
            check_ack_wait(ack_wait),
            check_max_dead_letters(max_dead_letters),
            checks.finite_seconds(dedupe, "dedupe"),
        )
        check_deliveries(max_deliveries, None if policy is None else policy.retry)
        packing = MessageCodec(codec, max_item_size, max_deliveries)
        engine = PostgresEngine(
            dsn_or_pool,
            name,
            settings,
            schema=check_schema(schema),
            listens=bool(listen),
            figures=self._figures,
            logger=logging.getLogger("penstock") if logger is None else logger,
        )
        super().__init__(
            engine,
            packing,
            policy,
            name=name,
            maxsize=maxsize,
            timeout=timeout,
            logger=logger,
            telemetry=telemetry,
        )
        self._callers = CallersPut(schema, name, engine.where)

    async def put(
        self,
        item: T,
        timeout: float | None = None,
        *,
        deadline: float | None = None,
        id: str | None = None,
        connection: Any = None,
    ) -> bool:
        """Offer an item; True when it is committed, False when the queue stayed full.

        Args:
            item: what the codec can encode.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            deadline: as in :meth:`penstock.BoundedQueue.put`.
            id: when two puts have the same id, from any machine, within the ``dedupe`` seconds of
                the queue, the first item is stored, and both puts return True. A refused put
                leaves no id.
            connection: a ``psycopg.AsyncConnection`` of yours to the same database. The item is put
                in its transaction: True, and it is accepted if you commit. Then ``timeout`` is 0
                unless it is given, for your transaction is open while it waits. A rollback leaves
                nothing, no id either. Two transactions that put with one id wait for each other.

        Raises:
            QueueUnknownError: the connection broke: nobody can say whether the item is stored. It
                is at most once.
            BrokerError: the database cannot be reached, or it refused the item for another reason
                than want of room. It is not stored. (A transaction of yours in which a statement
                failed has to be rolled back.)
            CodecError: the item cannot be encoded, or is too large. Also a ``ValueError``.
            QueueStateError: the queue is not processing, or stopped while the put waited.
            ValueError, TypeError: an argument is not allowed; or a limit can never let it pass.

        Cancelled while it waits for room, it leaves nothing behind; cancelled while the database
        has not answered, the item may be in.
        """
        if connection is None:
            return await super().put(item, timeout, deadline=deadline, id=id)
        self._must_be_open("put")
        limit = self._limit(0 if timeout is None else timeout)
        message = self._pack(item, deadline)
        if id is not None:
            checks.label(id, "id")

        async def offer() -> Stored:
            stored = NewItem(message.payload, message.headers, id=id)
            return await self._callers.put_async(connection, stored)

        if not self._observer.is_enabled():
            propagate.inject(message.headers)
            return await self._producer.put(offer, limit)
        with self._observer.on_put() as put:
            put.context.run(propagate.inject, message.headers)
            put.accepted = await self._producer.put(offer, limit, put.on_full)
            return put.accepted

    def put_in(
        self,
        connection: Any,
        item: T,
        *,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Put an item in a transaction of your own: True, and it is accepted if you commit.

        For connections that block, in their thread. The queue need not be started, but it must have
        been once, so that it is in the database.

        Args:
            connection: a connection of psycopg, psycopg2 or Django to the same database. Committing
                is yours; one that commits each statement by itself commits the item.
            item, deadline, id: as for :meth:`put`. A rollback leaves no id.

        Returns:
            False when there is no room. It waits for none: your transaction would be open.

        Raises:
            BrokerError: the database has no such queue, or refuses. Your transaction has to be
                rolled back then. (By another driver than psycopg: what that one raises.)
            CodecError, ValueError, TypeError: as for :meth:`put`. Your transaction can go on.
        """
        return self._put_in(partial(self._put_by, connection), item, deadline, id)

    def _put_by(self, connection: Any, message: Message, message_id: str | None) -> Stored:
        item = NewItem(message.payload, message.headers, id=message_id)
        return self._callers.put(connection, item)
