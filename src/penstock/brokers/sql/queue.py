"""What queues in an SQL database share beyond other brokers' queues."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from opentelemetry import propagate

from penstock._util import checks
from penstock.brokers.engine import BrokerProcess, BrokerQueueInfo, Stored
from penstock.brokers.messages import Message
from penstock.brokers.queue import BrokerQueue
from penstock.brokers.sql.rows import Counts

T = TypeVar("T")


class SqlEngine(Protocol):
    """What the engine of such a queue has beside those of others."""

    async def counts(self) -> Counts:
        """How many items of which kind there are."""
        ...

    async def processes(self) -> list[dict[str, Any]]:
        """What the other processes noted that they did."""
        ...


@dataclass(frozen=True)
class SqlQueueInfo(BrokerQueueInfo):
    """A queue as its database has it, at one instant, over all processes.

    Its ``bytes`` are those of the items, without their headers.
    """

    #: Items that wait for another attempt.
    delayed: int
    bytes: int


class SqlQueue(BrokerQueue[T]):
    """Looks at itself and at other processes, and puts in a transaction of its caller."""

    def _put_in(
        self,
        put: Callable[[Message, str | None], Stored],
        item: T,
        deadline: float | None,
        id: str | None,
    ) -> bool:
        """Put an item in the thread of the caller."""
        message = self._pack(item, deadline)
        if id is not None:
            checks.label(id, "id")
        if not self._observer.is_enabled():
            propagate.inject(message.headers)
            return self._count_put(put(message, id))
        with self._observer.on_put() as span:
            span.context.run(propagate.inject, message.headers)
            span.accepted = self._count_put(put(message, id))
            return span.accepted

    def _count_put(self, stored: Stored) -> bool:
        is_full = stored is Stored.FULL
        count = self._counters.add_full if is_full else self._counters.add_accepted
        loop = self._loop
        if stored is not Stored.DUPLICATE and loop is not None:
            with suppress(RuntimeError):  # it is closed, or is about to be: the item is put
                loop.call_soon_threadsafe(count)  # counters belong to the thread of the loop
        return not is_full

    async def info(self) -> SqlQueueInfo:
        """The queue as its database has it now, over all processes.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the database cannot be read.
        """
        self._must_be_open("look at the queue")
        counts = await self._sql_engine.counts()
        return SqlQueueInfo(
            name=self._name,
            size=counts.size,
            maxsize=counts.maxsize,
            in_flight=counts.in_flight,
            delayed=counts.delayed,
            redelivered=counts.redelivered,
            dead_letters=counts.dead_letters,
            bytes=counts.bytes,
            is_paused=counts.is_paused,
        )

    @property
    def _sql_engine(self) -> SqlEngine:
        return cast("SqlEngine", self._engine)

    async def processes(self, wait: float = 0.0) -> list[BrokerProcess]:
        """What each other process that has the queue open noted that it did.

        It is at most a few seconds old. What a process did is forgotten when it ends.

        Args:
            wait: makes no difference here: nobody is asked, it is in the database.

        Raises:
            QueueStateError: the queue is not processing.
            BrokerError: the database cannot be read.
            ValueError: ``wait`` is no such number.
        """
        checks.seconds(wait, "wait")
        self._must_be_open("look at processes")
        told = [BrokerProcess(**one) for one in await self._sql_engine.processes()]
        return sorted(told, key=lambda process: (process.host, process.pid))
