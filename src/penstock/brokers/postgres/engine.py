"""The engine of a queue in PostgreSQL: what ``BrokerQueue`` asks, as statements."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from penstock.brokers.engine import KeptMessage, Receiver, Stored
from penstock.brokers.messages import Delivery, Message
from penstock.brokers.postgres.batches import Batches
from penstock.brokers.postgres.connections import AnyPool, PostgresConnections
from penstock.brokers.postgres.listener import ITEMS, ROOM, Listener, Notifier
from penstock.brokers.postgres.problems import ConnectionBrokenError
from penstock.brokers.postgres.storage import SlotLease, SlotStorage, TakenItem
from penstock.brokers.sql.rows import Counts, Kept, NewItem
from penstock.brokers.sql.settings import SqlSettings
from penstock.errors import BrokerError, QueueUnknownError

#: Dead letters that are read at once; items that are taken at once.
_PAGE, _MOST_TAKEN = 100, 250
#: Bytes that are put at once by ``put_many``, or one item.
_MOST_BYTES: Final = 16_000_000
#: Seconds until items are looked for again, where that failed.
_AGAIN: Final = 1.0
#: Seconds between two looks for items, where nobody tells of them: the first, and the longest.
_SHORTEST, _LONGEST = 0.01, 0.25
#: Seconds between two notes for other processes of what this one did, at least.
_NOTE: Final = 0.9
#: How many times longer than a count took the next one waits.
_RARE: Final = 20


class PostgresEngine:
    """Keeps the items of one queue in a schema. A ``QueueEngine``, see ``penstock.brokers.engine``.

    Args:
        target: a connection string, or a pool.
        listens: whether to LISTEN, and to be told by NOTIFY; or else to look, again and again.
        figures: returns what this process did, for other processes that ask.
    """

    def __init__(
        self,
        target: str | AnyPool,
        name: str,
        settings: SqlSettings,
        *,
        schema: str,
        listens: bool,
        figures: Callable[[], dict[str, int]],
        logger: logging.Logger,
    ) -> None:
        self.ack_wait = settings.ack_wait
        self.keeps_dead_letters = settings.max_dead_letters > 0
        self.schema = schema
        self._name = name
        self._settings = settings
        self._listens = listens
        self._figures = figures
        self._logger = logger
        self._connections = PostgresConnections(target, schema, prepares=listens)
        self._storage = SlotStorage(self._connections, schema, name)
        self._puts = Batches(self._put_some, lambda item: len(item.data))
        self._ends = Batches(self._end_some)
        self._returns = Batches(self._return_some)
        self._is_open = False
        self._receiver: Receiver
        self._listener: Listener | None = None
        self._notifier: Notifier
        #: What other processes know this one by. One process may have a queue open twice.
        self._key = ""
        # What was noted last for other processes, and when; and the size, until when.
        self._last_told, self._told_at = "", -_NOTE
        self._last_size, self._size_until = 0, 0.0
        #: What was logged last of why there are no items.
        self._complaint = ""
        self._look: asyncio.Task[None] | None = None
        self._must_look_again = False
        self._due: asyncio.TimerHandle | None = None
        self._pause = _SHORTEST

    @property
    def where(self) -> str:
        """Where the queue is kept."""
        return self._connections.where

    @property
    def is_lost(self) -> bool:
        """Whether there is no connection just now."""
        return self._connections.is_lost

    # -- the connection -------------------------------------------------------------------------

    async def open(self, receiver: Receiver) -> int:
        """Connect, make the queue or check it; return its size."""
        self._receiver = receiver
        self._key = uuid.uuid4().hex
        self._size_until = 0.0
        await self._connections.open()
        try:
            await self._storage.open(self._settings)
            await self._storage.tell(self._key, self._told())
            size = await self._storage.size()
        except BaseException:
            await self._connections.close()
            raise
        self._notifier = Notifier(partial(self._storage.notify, self._key))
        if self._listens:
            self._listener = Listener(
                self._connections.connect, self._storage.channel, self._on_news
            )
        self._is_open = True
        return size

    async def close(self) -> None:
        """Send what is to be sent still, and disconnect."""
        self._is_open = False
        self._end_timer()
        for batches in (self._puts, self._ends, self._returns):
            await batches.finish()
        await self._notifier.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        if not self.is_lost:
            with suppress(BrokerError):  # it is forgotten by itself
                await self._storage.tell(self._key, None)
        await self._connections.close()

    def forget(self) -> None:
        """The event loop was closed."""
        self._is_open = False
        self._look = self._due = None
        for part in (self._puts, self._ends, self._returns, self._notifier, self._listener):
            if part is not None:
                part.forget()
        self._listener = None
        self._connections.forget()

    def _must_be_open(self) -> None:
        if not self._is_open:
            raise BrokerError(f"{self.where} is closed")

    # -- items in -------------------------------------------------------------------------------

    async def put(self, message: Message, message_id: str | None = None) -> Stored:
        """Store a message, if there is room."""
        self._must_be_open()
        item = NewItem(message.payload, message.headers, id=message_id)
        try:
            if message_id is None:
                stored = await self._puts.add(item)
            else:
                stored = await self._storage.put(item)
        except ConnectionBrokenError as error:
            raise self._unknown(error, message_id) from error
        if stored is Stored.NEW:
            self._look_soon()
        elif stored is Stored.FULL:
            self._listen(ROOM)
        return stored

    async def put_many(self, messages: Sequence[Message]) -> int:
        """Store the first of the messages, as many as there is room for; return how many."""
        self._must_be_open()
        items: list[NewItem] = []
        size = 0
        for message in messages:
            size += len(message.payload)
            if items and size > _MOST_BYTES:  # the rest comes with the next call
                break
            items.append(NewItem(message.payload, message.headers))
        try:
            count = await self._store(items)
        except ConnectionBrokenError as error:
            raise self._unknown(error) from error
        if count:
            self._look_soon()
        else:
            self._listen(ROOM)
        return count

    async def _store(self, items: Sequence[NewItem]) -> int:
        count, was_idle = await self._storage.put_many(items)
        # If items were ready, somebody was at work, and looks for more by itself. (If not: workers
        # look once a second, too.)
        if was_idle:
            self._notifier.tell(ITEMS)
        return count

    async def _put_some(self, items: Sequence[NewItem]) -> list[Stored]:
        count = await self._store(items)
        return [Stored.NEW] * count + [Stored.FULL] * (len(items) - count)

    def _unknown(self, error: BrokerError, message_id: str | None = None) -> QueueUnknownError:
        return QueueUnknownError(
            f"It is not known whether {self.where} stored the item: {error}", message_id=message_id
        )

    def _on_items(self) -> None:
        """This process has put something: its own workers look, and others are told."""
        self._look_soon()
        self._notifier.tell(ITEMS)

    # -- items out ------------------------------------------------------------------------------

    def ask(self, wanted: int, seconds: float) -> None:
        """Look for items now, and whenever there is news, as long as any are wanted."""
        self._listen(ITEMS)
        self._look_soon()

    def _listen(self, what: str) -> None:
        if self._listener is not None:
            self._listener.listen(what)

    def _look_soon(self) -> None:
        """Look for items, if any are wanted; once more if a look is under way."""
        if self._look is not None:
            self._must_look_again = True
        elif self._is_open and self._receiver.wanted > 0:
            self._look = asyncio.create_task(self._take())

    async def _take(self) -> None:
        try:
            self._must_look_again = True
            while self._must_look_again and self._is_open:
                self._must_look_again = False
                if (wanted := self._receiver.wanted) <= 0:
                    break
                items, left = await self._storage.take(min(wanted, _MOST_TAKEN))
                for item in items:
                    self._receiver.receive(_delivery_of(item))
                self._after_look(bool(items), left)
            self._complaint = ""
        except BrokerError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._logger.warning("Queue %s cannot take items: %s", self._name, error)
            self._look_in(_AGAIN)
        finally:
            self._look = None

    def _after_look(self, found: bool, left: float | None) -> None:
        """When to look again, where there is no news until then."""
        seconds = self.ack_wait if left is None else min(left, self.ack_wait)
        if not self._listens:
            self._pause = _SHORTEST if found else min(1.5 * self._pause, _LONGEST)
            seconds = min(seconds, self._pause)
        self._look_in(seconds)

    def _look_in(self, seconds: float) -> None:
        self._end_timer()
        self._due = asyncio.get_running_loop().call_later(seconds, self._look_soon)

    def _end_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _on_news(self, what: str, sender: str) -> None:
        """Somebody told that there are items, or room."""
        if not self._is_open or sender == self._key:
            return
        if what == ROOM:
            self._receiver.on_room()
        else:
            self._look_soon()

    async def hush(self) -> None:
        """Take nothing more for what was asked so far."""
        if self._look is not None:
            await asyncio.wait([self._look])
        self._end_timer()

    # -- settling -------------------------------------------------------------------------------

    async def ack(self, delivery: Delivery) -> None:
        """The item is done."""
        await self._ends.add(delivery.handle)

    async def _end_some(self, leases: Sequence[SlotLease]) -> list[None]:
        if await self._storage.done(leases):  # whoever found no room is told of it
            self._notifier.tell(ROOM)
        return [None] * len(leases)

    async def nak(self, delivery: Delivery, delay: float) -> None:
        """Hand the item out again in ``delay`` seconds."""
        await self._returns.add((delivery.handle, delay))
        self._look_soon()

    async def _return_some(self, returns: Sequence[tuple[SlotLease, float]]) -> list[None]:
        await self._storage.give_back(returns)
        self._notifier.tell(ITEMS)
        return [None] * len(returns)

    async def term(self, delivery: Delivery) -> None:
        """Never hand the item out again."""
        await self.ack(delivery)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """All these are being worked on. Other processes see that this one is there."""
        await self._storage.extend([delivery.handle for delivery in deliveries])
        await self._storage.tell(self._key, self._told())

    # -- dead letters ---------------------------------------------------------------------------

    async def add_dead_letter(self, delivery: Delivery, error_type: str, error: str) -> bool:
        """Keep the item as a dead letter, and take it out of the queue, in one."""
        kept = await self._storage.add_dead_letter(delivery.handle, error_type, error)
        if kept is Kept.LOST:
            raise BrokerError("its lease had ended, and it is in other hands or done")
        return kept is Kept.YES

    async def dead_letters(self) -> AsyncIterator[KeptMessage]:
        """Those that are there now, the oldest first."""
        last = await self._storage.last_dead_letter()
        after = 0
        while after < last:
            rows = await self._storage.dead_letters(_PAGE, after=after, last=last)
            if not rows:
                return
            for row in rows:
                message = Message(row.data, row.headers)
                yield KeptMessage(row.number, message, row.error_type, row.error, row.deliveries)
            after = rows[-1].number

    async def redrive(self, letter: KeptMessage) -> Stored:
        """Move a dead letter back into the queue, as if it were new, in one."""
        stored = await self._storage.redrive(letter.number)
        if stored is Stored.NEW:
            self._on_items()
        return stored

    # -- looking --------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many items are accepted and not done. What this process did is noted, if it did.

        To count many takes the server a while; then it is asked less often.
        """
        loop = asyncio.get_running_loop()
        told, began = self._told(), loop.time()
        if told != self._last_told and began >= self._told_at + _NOTE:
            self._last_told, self._told_at = told, began
            await self._storage.tell(self._key, told)
        began = loop.time()
        if self._is_open and began < self._size_until:
            return self._last_size
        self._last_size = size = await self._storage.size()
        took = loop.time() - began
        self._size_until = loop.time() + (_RARE * took if took > 0.05 else 0.0)
        return size

    async def counts(self) -> Counts:
        """How many of which kind."""
        return await self._storage.counts()

    async def on_stall(self, looks: int) -> bool:
        """Look, in case nobody told of the items: a proxy may swallow it."""
        self._look_soon()
        return True

    async def set_paused(self, is_paused: bool) -> None:
        """Hand out nothing, to any process, until it is set back."""
        await self._storage.set_paused(is_paused)
        self._on_items()

    def _told(self) -> str:
        process = {"host": socket.gethostname(), "pid": os.getpid(), **self._figures()}
        return json.dumps(process)

    async def processes(self) -> list[dict[str, Any]]:
        """What the other processes say that they did, at most a third of ``ack_wait`` ago."""
        return [json.loads(one) for one in await self._storage.processes(self._key)]


def _delivery_of(item: TakenItem) -> Delivery:
    message = Message(item.data, item.headers)
    return Delivery(item.lease.number, item.deliveries, item.age, message, item.lease)
