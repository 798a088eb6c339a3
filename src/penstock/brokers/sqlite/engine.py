"""The engine of a queue in a file: what ``BrokerQueue`` asks, carried out in the file's thread."""

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
from pathlib import Path
from typing import Any, Final, TypeVar

from penstock.brokers.engine import KeptMessage, Receiver, Stored
from penstock.brokers.messages import Delivery, Message
from penstock.brokers.sql.rows import Counts, DeadRow, Kept, NewItem, StoredItem
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite.file import SqliteFile
from penstock.brokers.sqlite.in_transaction import put_in_transaction
from penstock.brokers.sqlite.storage import Storage, open_queue
from penstock.brokers.sqlite.thread import SqliteThread
from penstock.errors import BrokerError

#: Dead letters that are read at once.
_PAGE: Final = 100
#: Seconds after which a refused put is taken not to wait; one that does is offered more often.
_WAITS: Final = 1.0
#: Seconds between two notes for other processes of what this one did, at least.
_NOTE: Final = 0.9

#: Seconds until items are looked for again, where that failed.
_AGAIN: Final = 1.0

R = TypeVar("R")


class SqliteEngine:
    """Keeps the items of one queue in a file. A ``QueueEngine``, see ``penstock.brokers.engine``.

    Args:
        synchronous, busy_timeout: as for :class:`SqliteFile`.
        figures: returns what this process did, for other processes that ask.
    """

    is_lost = False

    def __init__(
        self,
        path: Path,
        name: str,
        settings: SqlSettings,
        *,
        synchronous: str,
        busy_timeout: float,
        figures: Callable[[], dict[str, int]],
        logger: logging.Logger,
    ) -> None:
        self.path = path
        self.where = str(path)
        self.ack_wait = settings.ack_wait
        self.keeps_dead_letters = settings.max_dead_letters > 0
        self._name = name
        self._settings = settings
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._figures = figures
        self._logger = logger
        #: What was logged last of why there are no items.
        self._complaint = ""
        self._thread: SqliteThread | None = None
        self._file: SqliteFile
        self._storage: Storage
        self._receiver: Receiver
        # What was noted last for other processes, and when.
        self._last_told, self._told_at = "", -_NOTE
        #: What other processes know this one by. One process may have a queue open twice.
        self._key = ""
        self._look: asyncio.Task[None] | None = None
        self._must_look_again = False
        self._due: asyncio.TimerHandle | None = None
        self._full: asyncio.TimerHandle | None = None

    # -- the connection -------------------------------------------------------------------------

    async def open(self, receiver: Receiver) -> int:
        """Open the file, make the queue or check it; return its size."""
        self._receiver = receiver
        self._key = uuid.uuid4().hex
        self._thread = thread = SqliteThread(
            self._open_file, f"penstock-{self._name}-sqlite", self._on_change
        )
        try:
            self._file = await thread.start()
            return await thread.call(self._set_up)
        except BaseException:
            self._thread = None
            await thread.close()
            raise

    def _open_file(self) -> SqliteFile:
        return SqliteFile(self.path, synchronous=self._synchronous, busy_timeout=self._busy_timeout)

    def _set_up(self) -> int:
        connection = self._file.connection
        queue = open_queue(connection, self._name, self._settings, self.where)
        self._storage = Storage(connection, queue, self._settings)
        self._storage.tell(self._key, self._told())
        return self._storage.size()

    async def close(self) -> None:
        """Carry out what was called, and close the file."""
        thread, self._thread = self._thread, None
        self._end_look()
        if thread is not None:
            with suppress(BrokerError):  # others forget it by themselves
                await thread.call(lambda: self._storage.leave(self._key), is_durable=False)
            await thread.close()

    def forget(self) -> None:
        """The event loop was closed."""
        thread, self._thread = self._thread, None
        self._look = self._due = self._full = None
        if thread is not None:
            thread.abandon()

    def _call(self, function: Callable[[], R], **how: bool) -> asyncio.Future[R]:
        if self._thread is None:
            raise BrokerError(f"{self.where} is closed")
        return self._thread.call(function, **how)

    # -- items in -------------------------------------------------------------------------------

    async def put(self, message: Message, message_id: str | None = None) -> Stored:
        """Store a message, if there is room."""
        item = NewItem(message.payload, message.headers, id=message_id)
        stored: Stored = (await self._call(lambda: self._storage.put([item])))[0]
        if stored is Stored.FULL:
            self._on_full()
        self._look_soon()
        return stored

    async def put_many(self, messages: Sequence[Message]) -> int:
        """Store the first of the messages, as many as there is room for; return how many."""
        items = [NewItem(message.payload, message.headers) for message in messages]
        outcomes: list[Stored] = await self._call(lambda: self._storage.put(items))
        if Stored.FULL in outcomes:
            self._on_full()
        self._look_soon()
        return sum(outcome is not Stored.FULL for outcome in outcomes)

    def put_in(self, connection: Any, message: Message, message_id: str | None = None) -> Stored:
        """Store a message by a connection of the caller, in its thread and transaction."""
        item = NewItem(message.payload, message.headers, id=message_id)
        return put_in_transaction(connection, item, self.path, self._name)

    # -- items out ------------------------------------------------------------------------------

    def ask(self, wanted: int, seconds: float) -> None:
        """Look for items now, and whenever there is news, as long as any are wanted."""
        self._look_soon()

    def _look_soon(self) -> None:
        """Look for items, if any are wanted; once more if a look is under way."""
        if self._look is not None:
            self._must_look_again = True
        elif self._thread is not None and self._receiver.wanted > 0:
            self._look = asyncio.create_task(self._take())

    async def _take(self) -> None:
        thread = self._thread
        try:
            self._must_look_again = True
            while self._must_look_again and thread is not None:
                self._must_look_again = False
                if (wanted := self._receiver.wanted) <= 0:
                    break
                items, left = await thread.call(partial(self._take_now, wanted), writes=False)
                for item in items:
                    self._receiver.receive(_delivery_of(item))
                if left is not None:
                    self._look_in(left)
            self._complaint = ""
        except BrokerError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._logger.warning("Queue %s cannot take items: %s", self._name, error)
            self._look_in(_AGAIN)
        finally:
            self._look = None
            self._watch()

    def _take_now(self, wanted: int) -> tuple[list[StoredItem], float | None]:
        """Items, and the seconds until there may be more without any news. In the thread."""
        left = self._storage.next_ready()
        if left != 0:  # most looks find nothing, and want no lock then
            return [], left
        # A lease need not survive a power cut: without it, the item is ready.
        items = self._file.write(lambda: self._storage.take(wanted), is_durable=False)
        return items, self._storage.next_ready() if len(items) < wanted else None

    def _look_in(self, seconds: float) -> None:
        if self._due is not None:
            self._due.cancel()
        loop = asyncio.get_running_loop()
        self._due = loop.call_later(min(seconds, self.ack_wait), self._look_soon)

    def _watch(self) -> None:
        """Look often for changes by others, or seldom."""
        if self._thread is not None:
            self._thread.watch(self._receiver.wanted > 0 or self._full is not None)

    def _on_full(self) -> None:
        """A put was refused. If it waits for room it comes again soon, and wants to hear of it."""
        if self._full is not None:
            self._full.cancel()
        self._full = asyncio.get_running_loop().call_later(_WAITS, self._end_full)
        self._watch()

    def _end_full(self) -> None:
        self._full = None
        self._watch()

    def _on_change(self) -> None:
        """Another process has changed the file."""
        if self._thread is None:
            return
        self._receiver.on_room()
        self._look_soon()

    async def hush(self) -> None:
        """Take nothing more for what was asked so far."""
        if self._look is not None:
            await asyncio.wait([self._look])
        self._end_look()
        self._watch()

    def _end_look(self) -> None:
        for timer in (self._due, self._full):
            if timer is not None:
                timer.cancel()
        self._due = self._full = None

    # -- settling -------------------------------------------------------------------------------

    async def ack(self, delivery: Delivery) -> None:
        """The item is done."""
        await self._call(lambda: self._storage.done(delivery.handle))

    async def nak(self, delivery: Delivery, delay: float) -> None:
        """Hand the item out again in ``delay`` seconds."""
        await self._call(lambda: self._storage.give_back(delivery.handle, delay))
        self._look_soon()

    async def term(self, delivery: Delivery) -> None:
        """Never hand the item out again."""
        await self.ack(delivery)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """All these are being worked on. Other processes see that this one is there."""
        leases = [delivery.handle for delivery in deliveries]
        told = self._told()

        def extend() -> None:
            self._storage.extend(leases)
            self._storage.tell(self._key, told)

        await self._call(extend, is_durable=False)

    # -- dead letters ---------------------------------------------------------------------------

    async def add_dead_letter(self, delivery: Delivery, error_type: str, error: str) -> bool:
        """Keep the item as a dead letter, and take it out of the queue, in one."""
        kept = await self._call(
            lambda: self._storage.add_dead_letter(delivery.handle, error_type, error)
        )
        if kept is Kept.LOST:
            raise BrokerError("its lease had ended, and it is in other hands or done")
        return kept is Kept.YES

    async def dead_letters(self) -> AsyncIterator[KeptMessage]:
        """Those that are there now, the oldest first."""
        last = await self._call(self._storage.last_dead_letter, writes=False)
        after = 0
        while after < last:
            read = partial(self._storage.dead_letters, _PAGE, after=after, last=last)
            rows: list[DeadRow] = await self._call(read, writes=False)
            if not rows:
                return
            for row in rows:
                message = Message(row.data, row.headers)
                yield KeptMessage(row.number, message, row.error_type, row.error, row.deliveries)
            after = rows[-1].number

    async def redrive(self, letter: KeptMessage) -> Stored:
        """Move a dead letter back into the queue, as if it were new, in one."""
        stored: Stored = await self._call(lambda: self._storage.redrive(letter.number))
        self._look_soon()
        return stored

    # -- looking --------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many items are accepted and not done. What this process did is noted, if it did."""
        told, now = self._told(), asyncio.get_running_loop().time()
        if told == self._last_told or now < self._told_at + _NOTE:
            return await self._call(self._storage.size, writes=False)
        self._last_told, self._told_at = told, now

        def tell_and_look() -> int:
            self._storage.tell(self._key, told)
            return self._storage.size()

        return await self._call(tell_and_look, is_durable=False)

    async def counts(self) -> Counts:
        """How many of which kind."""
        counts: Counts = await self._call(self._storage.counts, writes=False)
        return counts

    async def on_stall(self, looks: int) -> bool:
        """Nothing to do: the file forgets no item."""
        return True

    async def set_paused(self, is_paused: bool) -> None:
        """Hand out nothing, to any process, until it is set back."""
        await self._call(lambda: self._storage.set_paused(is_paused))
        self._look_soon()

    def _told(self) -> str:
        process = {"host": socket.gethostname(), "pid": os.getpid(), **self._figures()}
        return json.dumps(process)

    async def processes(self) -> list[dict[str, Any]]:
        """What the other processes say that they did, at most a third of ``ack_wait`` ago."""
        told = await self._call(lambda: self._storage.processes(self._key), writes=False)
        return [json.loads(one) for one in told]


def _delivery_of(item: StoredItem) -> Delivery:
    message = Message(item.data, item.headers)
    return Delivery(item.lease.number, item.deliveries, item.age, message, item.lease)
