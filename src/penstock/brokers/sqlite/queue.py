"""SqliteQueue: a bounded queue in a file, for the processes of one machine."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from penstock._util import checks
from penstock.brokers.codecs import Codec
from penstock.brokers.deliveries import check_ack_wait, check_deliveries
from penstock.brokers.messages import MessageCodec
from penstock.brokers.sql.queue import SqlQueue
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite.engine import SqliteEngine
from penstock.brokers.sqlite.settings import checked_path
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.dead_letters import MAX_DEAD_LETTERS, check_max_dead_letters
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy, policy_of
from penstock.queue.base import NO_LIMIT

T = TypeVar("T")


class SqliteQueue(SqlQueue[T]):
    """A bounded queue in a file of SQLite. Meets ``penstock.protocols.Queue``.

    The promise: an item for which ``put`` returned True is in the file, on the disk, and is handed
    out until a worker function has returned for it, or it is among the dead letters. No crash of a
    process, nor of the machine, takes it away. It may be handed out more than once: when a worker
    dies, or is held up for longer than ``ack_wait``. An item for which it returned False never
    runs. Any number of processes of one machine may have it open.

    Args:
        path: the file, which is made if it is not there, readable by its owner only; its folder
            must be there. SQLite keeps two more files beside it, ``-wal`` and ``-shm``, which
            belong to it. It may be the file of your own program: the queue has tables of its own
            there, whose names begin with ``penstock_``, and sets the journal mode to WAL. Not on a
            network file system.
        name: what the queue is called, there and in telemetry. A file can have many.
        maxsize: the most items that may be in the queue, those in the hands of workers of all
            processes and those that wait for a retry included.
        timeout: seconds that a put waits for room unless it says otherwise: zero or more, or
            ``math.inf``.
        logger: as for :class:`penstock.BoundedQueue`.
        codec: how items become bytes: :class:`penstock.brokers.codecs.JsonCodec` by default.
        ack_wait: seconds after which the item of a worker that is not heard of any more is handed
            out again; a live one is heard of every third of it. At least 1.
        max_deliveries: an item that was handed out so often without an end becomes a dead letter,
            for it may be what kills its workers. Each handing-out counts, also those that a stop
            handed back; so it must be more than the attempts of ``retry``. At least 1.
        max_item_size: the most bytes that an item may have; ``None``: as many as SQLite takes.
        synchronous: ``"FULL"``: what was accepted survives a power cut. ``"NORMAL"``: only the
            death of a process, and a put takes a tenth of the time.
        busy_timeout: seconds to wait for another program that has the file locked.
        dedupe: seconds in which the ``id`` of a put is known again.
        limits, retry, breaker, deadline, attempt_timeout, policy: as for
            :class:`penstock.WorkQueue`, for the workers of this process. A retry waits in the file,
            for whichever process; ``attempts`` counts the deliveries to all, those that a stop or a
            death ended included. What a service refused as too many requests, and what is held
            while it is away, waits in this process, at most 100 items beside those in hand.
        max_dead_letters: how many items that failed for good are kept; when they are as many, what
            fails stays in the queue. 0: they are dropped.
        telemetry: as for :class:`penstock.BoundedQueue`. The trace of a put goes with its item to
            whichever process.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.

    It belongs to the event loop in which it is started; the file is used in a thread of its own.
    All processes must give the same maxsize, ack_wait, max_dead_letters and dedupe, or ``start()``
    refuses. A process must not fork while it has the queue open, and then open it in the child.

    Differences from a queue in memory: the bound counts items in flight too; ``size`` is what the
    file said last, up to a second ago; ``stop()`` leaves what waits to other processes, or the next
    start; ``unprocessed`` is always empty, for what is handed back is in the file; ``put_nowait``
    and ``get_nowait``, and ``submit`` and ``map`` of a ``WorkQueue`` on it, raise ``TypeError``. A
    put that is cancelled while the disk is at it may be accepted.
    """

    _engine: SqliteEngine

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str = "default",
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        codec: Codec[T] | None = None,
        ack_wait: float = 30.0,
        max_deliveries: int = 20,
        max_item_size: int | None = None,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        busy_timeout: float = 30.0,
        dedupe: float = 120.0,
        limits: Iterable[Limit | str] | Limiter = (),
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = 10 * MAX_DEAD_LETTERS,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        file = checked_path(path)
        name = checks.label(name, "name")
        parts = {
            "limits": limits,
            "retry": retry,
            "breaker": breaker,
            "deadline": deadline,
            "attempt_timeout": attempt_timeout,
        }
        policy = policy_of(policy, parts, name)
        settings = SqlSettings(
            checks.positive_int(maxsize, "maxsize", "Queue maxsize must be at least 1"),
            check_ack_wait(ack_wait),
            check_max_dead_letters(max_dead_letters),
            checks.finite_seconds(dedupe, "dedupe"),
        )
        check_deliveries(max_deliveries, None if policy is None else policy.retry)
        packing = MessageCodec(codec, max_item_size, max_deliveries)
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(
                f"synchronous must be 'FULL' or 'NORMAL', got {checks.shown(synchronous)}"
            )
        engine = SqliteEngine(
            file,
            name,
            settings,
            synchronous=synchronous,
            busy_timeout=min(checks.seconds(busy_timeout, "busy_timeout"), NO_LIMIT),
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

    @property
    def path(self) -> Path:
        """The file."""
        return self._engine.path

    def put_in(
        self,
        connection: sqlite3.Connection,
        item: T,
        *,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Put an item in a transaction of your own: True, and it is accepted if you commit.

        Call it in the thread of the connection, which is one to the same file. The queue need not
        be started, but it must have been once, so that it is in the file.

        Args:
            connection: where no transaction is open, one is begun. Committing is yours.
            item, deadline, id: as for :meth:`put`. A rollback leaves no id.

        Returns:
            False when there is no room. It waits for none: your transaction would be open.

        Raises:
            BrokerError: the file cannot be written, or has no such queue.
            CodecError: as for :meth:`put`.
            ValueError, TypeError: as for :meth:`put`; or the connection is to another file, or
                commits each statement by itself and has no transaction open.

        What raises leaves nothing of the item in your transaction, which you may go on with.
        """
        return self._put_in(partial(self._engine.put_in, connection), item, deadline, id)
