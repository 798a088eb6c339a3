"""Items that failed for good: kept in a stream of their own, out of the queue's bound."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from email.parser import BytesParser
from email.policy import compat32
from typing import Any, Final

from penstock.brokers.engine import KeptMessage, Stored
from penstock.brokers.messages import Delivery, Message
from penstock.brokers.nats.connection.codes import NO_MESSAGE
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError
from penstock.brokers.nats.queue.consumer import stored_at_of
from penstock.brokers.nats.queue.publisher import MESSAGE_ID, Publisher
from penstock.brokers.nats.queue.streams import QueueStreams
from penstock.errors import BrokerError, CodecError

# What a dead letter has beside the headers of its item.
ERROR: Final = "Penstock-Error"
ERROR_TYPE: Final = "Penstock-Error-Type"
DELIVERIES: Final = "Penstock-Deliveries"
_OURS = (ERROR, ERROR_TYPE, DELIVERIES, MESSAGE_ID)

#: How the server says that there is none to delete; the number of that error has other meanings.
_NOT_THERE = "no message found"


class DeadLetterStore:
    """The dead letters of one queue."""

    def __init__(self, connection: Connection, streams: QueueStreams, publisher: Publisher) -> None:
        self._connection = connection
        self._streams = streams
        self._publisher = publisher

    async def add(self, delivery: Delivery, error_type: str, error: str) -> bool:
        """Keep an item, with why it failed. False: they are as many as may be."""
        name, subject = self._streams.name, self._streams.dead_subject
        data, its_headers = delivery.message.payload, delivery.message.headers
        headers = {
            name: value for name, value in its_headers.items() if not name.startswith("Nats-")
        }
        headers[ERROR_TYPE], headers[ERROR] = error_type, error
        headers[DELIVERIES] = str(delivery.number)
        # The same at every try: added twice, it is kept once.
        stored_at = stored_at_of(delivery) // 1000
        headers[MESSAGE_ID] = f"dead-{name}-{delivery.key}-{stored_at}"
        try:
            stored = await self._publisher.store(subject, data, headers)
        except CodecError:  # the reason made it too large: without it, then
            short = {name: headers[name] for name in (MESSAGE_ID, DELIVERIES)}
            stored = await self._publisher.store(subject, data, short)
        return stored is not Stored.FULL

    async def all(self) -> AsyncIterator[KeptMessage]:
        """Those that are there now, the oldest first.

        Raises:
            BrokerError: the server does not answer.
        """
        if not self._streams.keeps_dead_letters:
            return
        last, number = await self._streams.last_dead_letter(), 0
        while number < last:  # and not those that come meanwhile
            message = await self._next(number + 1)
            if message is None or message["seq"] > last:
                return
            number = message["seq"]
            headers = _headers_of(message)
            yield KeptMessage(
                number,
                Message(_decoded(message, "data"), headers),
                headers.get(ERROR_TYPE, ""),
                headers.get(ERROR, ""),
                int(headers.get(DELIVERIES, "0")),
            )

    async def _next(self, number: int) -> dict[str, Any] | None:
        """The first from ``number`` on, as the server tells it; None if there is none."""
        request = {"seq": number, "next_by_subj": self._streams.dead_subject}
        try:
            told = await self._streams.patiently(
                lambda: self._connection.api(f"STREAM.MSG.GET.{self._streams.dead_name}", request)
            )
        except ApiError as error:
            if error.code == NO_MESSAGE:
                return None
            raise BrokerError(f"Cannot read dead letters: {error}") from error
        message: dict[str, Any] = told["message"]
        return message

    async def redrive(self, letter: KeptMessage) -> Stored:
        """Put one back into the queue, if there is room, and keep it no more.

        Raises:
            BrokerError: the server does not answer. No item is lost.
        """
        message, name = letter.message, self._streams.name
        headers = {key: value for key, value in message.headers.items() if key not in _OURS}
        # Known again, if another process redrives at the same time.
        headers[MESSAGE_ID] = f"redriven-{name}-{letter.number}"
        stored = await self._publisher.store(self._streams.subject, message.payload, headers)
        if stored is not Stored.FULL:
            await self._remove(letter.number)
        return stored

    async def _remove(self, number: int) -> None:
        request = {"seq": number, "no_erase": True}
        try:
            await self._streams.patiently(
                lambda: self._connection.api(
                    f"STREAM.MSG.DELETE.{self._streams.dead_name}", request
                )
            )
        except ApiError as error:
            if str(error) != _NOT_THERE:  # or another process was faster
                raise BrokerError(f"Cannot remove a dead letter: {error}") from error


def _decoded(message: dict[str, Any], key: str) -> bytes:
    return base64.b64decode(message.get(key) or "")


def _headers_of(message: dict[str, Any]) -> dict[str, str]:
    # The first line says which version of headers it is.
    _, _, lines = _decoded(message, "hdrs").partition(b"\r\n")
    parsed = BytesParser(policy=compat32).parsebytes(lines, headersonly=True)
    return {name: str(value) for name, value in parsed.items()}
