"""A broker in memory: what queues share on any broker is tested on it, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.brokers.codecs import JsonCodec
from penstock.brokers.engine import KeptMessage, Receiver, Stored
from penstock.brokers.messages import Delivery, Message, MessageCodec
from penstock.brokers.queue import BrokerQueue
from penstock.errors import BrokerError
from penstock.policies.policy import Policy

#: Seconds that the broker takes to answer. A power of two: sums of it are exact.
_DELAY = 1 / 1024


@dataclass
class Row:
    """An item that the broker has."""

    message: Message
    stored_at: float
    deliveries: int = 0
    #: When it may be handed out, again or for the first time.
    due: float = 0.0
    #: The delivery by which somebody has it.
    holder: Delivery | None = None


@dataclass
class Store:
    """What a broker keeps of one queue; several engines may share it, as machines do."""

    maxsize: int = 100
    max_dead_letters: int = 1000
    ack_wait: float = 30.0
    rows: dict[int, Row] = field(default_factory=dict)
    letters: dict[int, KeptMessage] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    last: int = 0
    is_paused: bool = False
    engines: list[MemoryEngine] = field(default_factory=list)

    def stored_items(self) -> list[Any]:
        return [JsonCodec().decode(row.message.payload) for _, row in sorted(self.rows.items())]


class MemoryEngine:
    """A ``QueueEngine``. While ``is_lost`` is set, every call fails."""

    where = "memory"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ack_wait = store.ack_wait
        self.is_lost = False
        self.keeps_dead_letters = store.max_dead_letters > 0
        #: The calls of ``ack``, ``nak`` and ``term``, and the keys of their items.
        self.told: list[tuple[Any, ...]] = []
        self._receiver: Receiver | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def _answer(self) -> None:
        await asyncio.sleep(_DELAY)
        if self.is_lost:
            raise BrokerError("there is no answer")

    def _all_look(self) -> None:
        for engine in self.store.engines:
            engine._look()

    async def open(self, receiver: Receiver) -> int:
        await self._answer()
        self._receiver = receiver
        self.store.engines.append(self)
        return len(self.store.rows)

    async def close(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._receiver = None
        if self in self.store.engines:
            self.store.engines.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def put(self, message: Message, message_id: str | None = None) -> Stored:
        await self._answer()
        if message_id is not None and message_id in self.store.ids:
            return Stored.DUPLICATE
        if len(self.store.rows) >= self.store.maxsize:
            return Stored.FULL
        if message_id is not None:
            self.store.ids.add(message_id)
        self.store.last += 1
        now = asyncio.get_running_loop().time()
        copy = Message(message.payload, dict(message.headers))
        self.store.rows[self.store.last] = Row(copy, now)
        self._all_look()
        return Stored.NEW

    async def put_many(self, messages: Sequence[Message]) -> int:
        for count, message in enumerate(messages):
            if await self.put(message) is Stored.FULL:
                return count
        return len(messages)

    def ask(self, wanted: int, seconds: float) -> None:
        self._look()

    async def hush(self) -> None:
        await self._answer()

    def _look(self) -> None:
        """Hand out what is due, as far as it is wanted, and look again when more is."""
        loop, receiver = asyncio.get_running_loop(), self._receiver
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if receiver is None or self.store.is_paused:
            return None
        now = loop.time()
        for key, row in sorted(self.store.rows.items()):
            if receiver.wanted <= 0:
                return None
            if row.due <= now:
                row.deliveries += 1
                row.due = now + self.ack_wait
                age = now - row.stored_at
                row.holder = Delivery(key, row.deliveries, age, row.message, None)
                loop.call_soon(receiver.receive, row.holder)
                # It is on its way, and wanted no more; a real broker would know that from its own.
                return self._look_soon(loop)
        if self.store.rows:
            due = min(row.due for row in self.store.rows.values())
            self._timer = loop.call_at(due, self._look)
        return None

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_DELAY, self._look)

    def _row_of(self, delivery: Delivery) -> Row | None:
        row = self.store.rows.get(delivery.key)
        return row if row is not None and row.holder is delivery else None

    async def ack(self, delivery: Delivery) -> None:
        await self._answer()
        self.told.append(("ack", delivery.key))
        if self._row_of(delivery) is not None:
            del self.store.rows[delivery.key]

    async def term(self, delivery: Delivery) -> None:
        await self._answer()
        self.told.append(("term", delivery.key))
        if self._row_of(delivery) is not None:
            del self.store.rows[delivery.key]

    async def nak(self, delivery: Delivery, delay: float) -> None:
        await self._answer()
        self.told.append(("nak", delivery.key, delay))
        row = self._row_of(delivery)
        if row is not None:
            row.holder, row.due = None, asyncio.get_running_loop().time() + delay
            self._all_look()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self._answer()
        for delivery in deliveries:
            row = self._row_of(delivery)
            if row is not None:
                row.due = asyncio.get_running_loop().time() + self.ack_wait

    async def add_dead_letter(self, delivery: Delivery, error_type: str, error: str) -> bool:
        await self._answer()
        if len(self.store.letters) >= self.store.max_dead_letters:
            return False
        self.store.letters[delivery.key] = KeptMessage(
            delivery.key, delivery.message, error_type, error, delivery.number
        )
        return True

    async def dead_letters(self) -> AsyncIterator[KeptMessage]:
        await self._answer()
        for letter in list(self.store.letters.values()):
            yield replace(letter)

    async def redrive(self, letter: KeptMessage) -> Stored:
        stored = await self.put(letter.message)
        if stored is Stored.NEW:
            del self.store.letters[letter.number]
        return stored

    async def size(self) -> int:
        await self._answer()
        return len(self.store.rows)

    async def on_stall(self, looks: int) -> bool:
        return True

    async def set_paused(self, is_paused: bool) -> None:
        await self._answer()
        self.store.is_paused = is_paused
        self._all_look()


class MemoryQueue(BrokerQueue[Any]):
    """A queue on it. ``unprocessed`` is what the broker has."""

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        *,
        store: Store | None = None,
        max_deliveries: int = 20,
        name: str = "memory",
        telemetry: Any = None,
        **policy: Any,
    ) -> None:
        self.store = Store(maxsize) if store is None else store
        self.engine = MemoryEngine(self.store)
        super().__init__(
            self.engine,
            MessageCodec(JsonCodec(), None, max_deliveries),
            Policy(**policy) if policy else None,
            name=name,
            maxsize=maxsize,
            timeout=timeout,
            logger=None,
            telemetry=telemetry,
        )

    @property
    def unprocessed(self) -> list[Any]:
        return self.store.stored_items()
