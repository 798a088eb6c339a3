"""The engine of a queue on NATS JetStream. A ``QueueEngine``, see ``penstock.brokers.engine``."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from penstock.brokers.engine import KeptMessage, Receiver, Stored
from penstock.brokers.messages import Delivery, Message
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import NoReplyError
from penstock.brokers.nats.queue.consumer import PullConsumer
from penstock.brokers.nats.queue.dead_letters import DeadLetterStore
from penstock.brokers.nats.queue.processes import ProcessStats
from penstock.brokers.nats.queue.publisher import MESSAGE_ID, Publisher
from penstock.brokers.nats.queue.streams import CONSUMER, QueueStreams

_ACK: Final = b"+ACK"
_NAK: Final = b"-NAK"
_TERM: Final = b"+TERM"
_IN_PROGRESS: Final = b"+WPI"

#: How often items are seen that no worker gets, though workers wait, before the cause is searched.
_SUSPICIOUS: Final = 3


class NatsEngine:
    """The streams of one queue, and the connection to them."""

    def __init__(
        self,
        servers: Sequence[str],
        name: str,
        options: Mapping[str, Any],
        logger: logging.Logger,
        *,
        maxsize: int,
        replicas: int,
        ack_wait: float,
        max_dead_letters: int,
        dedupe: float,
    ) -> None:
        self._logger = logger
        self.ack_wait = ack_wait
        self.connection = connection = Connection(servers, options, logger)
        self.streams = QueueStreams(
            connection,
            name,
            maxsize=maxsize,
            replicas=replicas,
            ack_wait=ack_wait,
            max_dead_letters=max_dead_letters,
            dedupe=dedupe,
        )
        self._publisher = Publisher(connection)
        self._letters = DeadLetterStore(connection, self.streams, self._publisher)
        self._consumer = PullConsumer(
            connection, f"$JS.API.CONSUMER.MSG.NEXT.{name}.{CONSUMER}", logger
        )
        connection.on_reconnect = self._consumer.reconnected
        #: What processes tell each other. Set before the first start.
        self.processes: ProcessStats

    @property
    def where(self) -> str:
        """The servers, for people."""
        return f"NATS at {self.connection.where}"

    @property
    def is_lost(self) -> bool:
        """Whether there is no connection just now."""
        return self.connection.is_lost

    @property
    def keeps_dead_letters(self) -> bool:
        """Whether items that failed for good are kept."""
        return self.streams.keeps_dead_letters

    # -- the connection -----------------------------------------------------------------------

    async def open(self, receiver: Receiver) -> int:
        """Connect, make or check the streams, and return how many items there are."""
        await self.connection.open()
        try:
            await self.streams.set_up()
            size = await self.streams.patiently(self.streams.size)
            await self.processes.listen()
        except BaseException:
            await self.connection.close()
            raise
        self._publisher.open()
        self._consumer.open(receiver)
        return size

    async def close(self) -> None:
        """Send what waits to be sent, and disconnect."""
        self._consumer.close()
        await self.connection.close()

    def forget(self) -> None:
        """The event loop was closed."""
        self._consumer.close()

    # -- items in and out ---------------------------------------------------------------------

    async def put(self, message: Message, message_id: str | None = None) -> Stored:
        """Publish it, under an id that is new at each offer unless one is given."""
        if message_id is None:
            message.headers[MESSAGE_ID] = self._publisher.new_id()
        else:
            self.streams.check_ids()
            message.headers[MESSAGE_ID] = f"id-{message_id}"  # and none of ours
        return await self._publisher.store(self.streams.subject, message.payload, message.headers)

    async def put_many(self, messages: Sequence[Message]) -> int:
        """Publish them all at once; return how many of the first are stored."""
        return await self._publisher.store_first(self.streams.subject, messages)

    def ask(self, wanted: int, seconds: float) -> None:
        """Have a pull stand at the server for what is wanted beyond those that stand."""
        self._consumer.ask(wanted, seconds)

    async def hush(self) -> None:
        """Drain the subscription: nothing more comes of the pulls."""
        await self._consumer.hush()

    # -- settling -----------------------------------------------------------------------------

    async def ack(self, delivery: Delivery, verdict: bytes = _ACK) -> None:
        """Acknowledge it, and wait until the server has heard."""
        try:
            await self.connection.request(delivery.handle, verdict)
        except NoReplyError:
            await self.connection.is_alive()  # if not, connect again
            raise

    async def term(self, delivery: Delivery) -> None:
        """Have it never delivered again, and wait until the server has heard."""
        await self.ack(delivery, _TERM)

    async def nak(self, delivery: Delivery, delay: float) -> None:
        """Have it delivered again in ``delay`` seconds. The server need not hear: ack_wait ends."""
        payload = _NAK
        if delay > 0:
            payload += b" " + json.dumps({"delay": int(delay * 1e9)}).encode()
        await self.connection.send(delivery.handle, payload)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """All these are in progress: ``ack_wait`` starts again."""
        for delivery in deliveries:
            await self.connection.send(delivery.handle, _IN_PROGRESS)

    # -- dead letters -------------------------------------------------------------------------

    async def add_dead_letter(self, delivery: Delivery, error_type: str, error: str) -> bool:
        """Publish it to the stream of dead letters. False: they are as many as may be."""
        return await self._letters.add(delivery, error_type, error)

    def dead_letters(self) -> AsyncIterator[KeptMessage]:
        """Those that are there now, the oldest first."""
        return self._letters.all()

    async def redrive(self, letter: KeptMessage) -> Stored:
        """Publish a dead letter to the queue again, and delete it."""
        return await self._letters.redrive(letter)

    # -- looking ------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many messages the stream has."""
        return await self.streams.size()

    async def on_stall(self, looks: int) -> bool:
        """There are items, and workers get none of them: see why, again and again to be sure."""
        if looks <= _SUSPICIOUS:
            return False
        if not await self.streams.has_forgotten():
            return True
        if looks <= 2 * _SUSPICIOUS:
            return False
        await self.streams.remind()
        self._logger.warning(
            "Queue %s: the server has items and delivers none, as it may after it was killed; "
            "now it delivers all of them, also those that were processed",
            self.streams.name,
        )
        self._consumer.reconnected()
        return True

    async def set_paused(self, is_paused: bool) -> None:
        """Pause the consumer that all processes share, or resume it."""
        await self.streams.set_paused(is_paused)
