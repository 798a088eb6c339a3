"""Items that failed for good: kept in a stream of their own, out of the queue's bound."""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from typing import Any, Final, Generic, TypeVar

from penstock.brokers.codecs import Codec
from penstock.brokers.nats.connection.answers import ApiError
from penstock.brokers.nats.connection.codes import NO_MESSAGE
from penstock.brokers.nats.connection.wire import Wire
from penstock.brokers.nats.queue.delivery import Delivery, Hands
from penstock.brokers.nats.queue.engine import Engine
from penstock.brokers.nats.queue.publisher import MESSAGE_ID, Publisher
from penstock.errors import BrokerError, CodecError
from penstock.telemetry.names import error_type

T = TypeVar("T")

# What a dead letter has beside the headers of its item.
ERROR: Final = "Penstock-Error"
ERROR_TYPE: Final = "Penstock-Error-Type"
DELIVERIES: Final = "Penstock-Deliveries"
_OURS = (ERROR, ERROR_TYPE, DELIVERIES)

#: The most characters of an error's message that are kept.
_LONGEST = 1000
#: Seconds until an item comes again that should be buried and could not.
_AGAIN = 30.0
#: How it says that there is none to delete; the number of that error has other meanings too.
_NOT_THERE = "no message found"


@dataclass(frozen=True)
class NatsDeadLetter(Generic[T]):
    """An item that failed for good, and why."""

    #: Its place among the dead letters; they are numbered in the order of their deaths.
    number: int
    #: None if it cannot be decoded; ``data`` is what it was.
    item: T | None
    data: bytes
    #: The type and the message of the last error.
    error_type: str
    error: str
    #: How many times it was handed out.
    deliveries: int


class Graveyard(Generic[T]):
    """The dead letters of one queue."""

    def __init__(
        self,
        wire: Wire,
        engine: Engine,
        publisher: Publisher,
        codec: Codec[T],
        logger: logging.Logger,
    ) -> None:
        self._wire = wire
        self._engine = engine
        self._publisher = publisher
        self._codec = codec
        self._logger = logger

    async def bury(self, delivery: Delivery, error: BaseException, hands: Hands) -> bool:
        """Keep the item as a dead letter, and take it out of the queue.

        If it cannot be kept it stays in the queue, and comes again later.
        """
        if not self._engine.keeps_dead_letters:
            await hands.bury(delivery)
            return True
        headers = {
            name: value for name, value in delivery.headers.items() if not name.startswith("Nats-")
        }
        headers[ERROR_TYPE] = error_type(error)
        headers[ERROR] = _one_line(str(error))
        headers[DELIVERIES] = str(delivery.number)
        # The same at every try: buried twice, it is kept once.
        stored_at = int(delivery.stored_at * 1e6)
        headers[MESSAGE_ID] = f"dead-{self._engine.name}-{delivery.sequence}-{stored_at}"
        stored, reason = False, "they are as many as may be"
        try:
            stored = await self._store(delivery, headers)
        except (BrokerError, CodecError) as failure:
            reason = str(failure)
        if not stored:
            self._logger.error(
                "Queue %s cannot keep a dead letter in %s: %s. The item stays in the queue and "
                "comes again in %d s",
                self._engine.name,
                self._engine.dead_name,
                reason,
                _AGAIN,
            )
            hands.hand_back(delivery, _AGAIN)
            return False
        await hands.bury(delivery)
        return True

    async def _store(self, delivery: Delivery, headers: dict[str, str]) -> bool:
        subject, data = self._engine.dead_subject, delivery.message.data
        try:
            return await self._publisher.store(subject, data, headers)
        except CodecError:  # the reason made it too large: without it, then
            short = {name: headers[name] for name in (MESSAGE_ID, DELIVERIES)}
            return await self._publisher.store(subject, data, short)

    async def look(self, limit: int) -> list[NatsDeadLetter[T]]:
        """The oldest ``limit`` of them.

        Raises:
            BrokerError: the server does not answer.
        """
        letters: list[NatsDeadLetter[T]] = []
        number = 1
        while self._engine.keeps_dead_letters and len(letters) < limit:
            message = await self._next(number)
            if message is None:
                break
            letters.append(self._letter(message))
            number = message["seq"] + 1
        return letters

    async def redrive(self, put: Callable[[bytes, dict[str, str], str], Awaitable[bool]]) -> int:
        """Put them back, the oldest first, until one finds no room; return how many.

        Args:
            put: puts a payload with headers under a message id; False where there is no room.

        Raises:
            BrokerError: the server does not answer; or what ``put`` raises. No item is lost.
        """
        if not self._engine.keeps_dead_letters:
            return 0
        last = await self._engine.last_dead_letter()
        count = number = 0
        while number < last:  # and not those that come meanwhile
            letter = await self._take(number + 1)
            if letter is None or letter[0] > last:
                break
            number, payload, headers = letter
            # Known again, if somebody else redrives at the same time.
            if not await put(payload, headers, f"redriven-{self._engine.name}-{number}"):
                break
            await self._remove(number)
            count += 1
        return count

    async def _take(self, number: int) -> tuple[int, bytes, dict[str, str]] | None:
        """The first from ``number`` on, to be put back: number, payload and headers; or None."""
        message = await self._next(number)
        if message is None:
            return None
        headers = {name: value for name, value in _headers_of(message).items() if name not in _OURS}
        headers.pop(MESSAGE_ID, None)
        return message["seq"], _data_of(message), headers

    async def _remove(self, number: int) -> None:
        """It is put back: keep it no more."""
        request = {"seq": number, "no_erase": True}
        try:
            await self._engine.patiently(
                lambda: self._wire.api(f"STREAM.MSG.DELETE.{self._engine.dead_name}", request)
            )
        except ApiError as error:
            if str(error) != _NOT_THERE:  # or somebody else was faster
                raise BrokerError(f"Cannot remove a dead letter: {error}") from error

    async def _next(self, number: int) -> dict[str, Any] | None:
        request = {"seq": number, "next_by_subj": self._engine.dead_subject}
        try:
            told = await self._engine.patiently(
                lambda: self._wire.api(f"STREAM.MSG.GET.{self._engine.dead_name}", request)
            )
        except ApiError as error:
            if error.code == NO_MESSAGE:
                return None
            raise BrokerError(f"Cannot read dead letters: {error}") from error
        message: dict[str, Any] = told["message"]
        return message

    def _letter(self, message: dict[str, Any]) -> NatsDeadLetter[T]:
        data, headers = _data_of(message), _headers_of(message)
        item: T | None
        try:
            item = self._codec.decode(data)
        except CodecError:
            item = None
        return NatsDeadLetter(
            number=message["seq"],
            item=item,
            data=data,
            error_type=headers.get(ERROR_TYPE, ""),
            error=headers.get(ERROR, ""),
            deliveries=int(headers.get(DELIVERIES, "0")),
        )


def _data_of(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message.get("data") or "")


def _headers_of(message: dict[str, Any]) -> dict[str, str]:
    raw = base64.b64decode(message.get("hdrs") or "")
    _, _, lines = raw.partition(b"\r\n")  # the first says which version of headers it is
    parsed = BytesParser(policy=compat32).parsebytes(lines, headersonly=True)
    return {name: str(value) for name, value in parsed.items()}


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    line = line.encode("ascii", "backslashreplace").decode()
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
