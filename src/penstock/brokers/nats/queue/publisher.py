"""Storing a message so that afterwards it is certain whether it is stored, or said that it is not.

An answer that does not come says nothing: the message may be stored or not. It is offered again
with the same id, by which the server knows it, as long as the server remembers ids.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from nats.js.api import Header
from nats.nuid import NUID

from penstock.brokers.engine import Stored
from penstock.brokers.messages import Message
from penstock.brokers.nats.connection.codes import (
    FULL,
    IN_FLIGHT,
    NO_STORAGE,
    NOT_NOW,
    WRONG_LAST_ID,
)
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import (
    ApiError,
    NoReplyError,
    NoRespondersError,
    reading,
)
from penstock.errors import BrokerError, CodecError, QueueUnknownError

MESSAGE_ID: Final = Header.MSG_ID.value
_BEHIND: Final = Header.EXPECTED_LAST_MSG_ID.value

#: Seconds for which it is tried to find out what became of a message. Half of the time for which
#: the server remembers ids, so that no offer can come too late to be known again.
DOUBT: Final = 60.0
#: Seconds in which there must be responders on the subject.
_NO_RESPONDERS: Final = 20.0

_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


class Publisher:
    """Stores messages in the streams of one queue."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Message ids: one that is unique in the world, made at each start, and a number.
        self._id = ""
        self._number = 0

    def open(self) -> None:
        """Publish from now on."""
        self._id = NUID().next().decode()  # not before: a program may fork with its queue

    def new_id(self) -> str:
        """A message id that no other message has."""
        self._number += 1
        return f"{self._id}-{self._number:x}"

    async def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> Stored:
        """Store a message, unless its stream is full.

        ``headers`` must have a message id, a new one after each refusal: some servers remember
        also what they refused.

        Raises:
            QueueUnknownError: it is not known whether it is stored.
            BrokerError: it is not stored, for another reason; the message says what to do.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_in_doubt = False
        reason = ""
        while True:
            pause = _rng.uniform(0.05, 0.25)
            try:
                answer = reading(await self._connection.request(subject, payload, headers))
            except NoReplyError as error:
                is_in_doubt = True
                reason = str(error)
                await self._connection.is_alive()
            except NoRespondersError as error:
                reason = str(error)
            except ApiError as error:
                reason = str(error)
                if error.code == FULL:
                    if not is_in_doubt:
                        return Stored.FULL
                    pause = 1.0  # an offer that was not answered may be on its way, and find room
                elif error.code == IN_FLIGHT or error.code in NOT_NOW:
                    is_in_doubt = is_in_doubt or error.code == IN_FLIGHT
                else:
                    raise self._refusal(error, headers, is_in_doubt) from error
            else:
                if not answer.get("duplicate"):
                    return Stored.NEW
                if not answer.get("seq"):  # it was refused before, and its id is known from that
                    return Stored.FULL
                return Stored.NEW if is_in_doubt else Stored.DUPLICATE
            waited = loop.time() - began
            is_over = waited > DOUBT or (not is_in_doubt and waited > _NO_RESPONDERS)
            if self._connection.is_closed or is_over:
                raise self._unanswered(headers, waited, reason, is_in_doubt)
            await asyncio.sleep(pause)

    async def store_first(self, subject: str, messages: Sequence[Message]) -> int:
        """Store the first of some messages, as many as there is room for; return how many.

        All are sent at once. Each but the first is stored only directly behind the one before it:
        so what is refused has the server refuse all that follow.

        Raises:
            QueueUnknownError: it is not known of one; ``accepted`` is the number before it.
            BrokerError, CodecError: as :meth:`store`, of the first.
        """
        count = 0
        while count < len(messages):
            chain = self._chain(messages[count:])
            if not chain:
                if count:
                    break
                self._connection.check_size(messages[0].payload, messages[0].headers)
            answers: list[Any] = await asyncio.gather(
                *(self._connection.request(subject, one.payload, one.headers) for one in chain),
                return_exceptions=True,
            )
            is_in_doubt = False
            for message, answer in zip(chain, answers, strict=True):
                message.headers.pop(_BEHIND, None)
                told = None if is_in_doubt else _told(answer)
                if (
                    told == WRONG_LAST_ID
                ):  # the message of another producer came between: send the rest again
                    break
                if told is None:
                    # It may be stored, and so may those behind it: the server knows their ids.
                    is_in_doubt = True
                    told = await self._store_again(subject, message, count)
                if told == FULL:
                    return count
                count += 1
        return count

    def _chain(self, messages: Sequence[Message]) -> list[Message]:
        """Tie messages together, each to the one before it, up to one that is too large."""
        chain: list[Message] = []
        for message in messages:
            headers = message.headers
            if chain:
                headers[_BEHIND] = chain[-1].headers[MESSAGE_ID]
            headers[MESSAGE_ID] = self.new_id()
            try:
                self._connection.check_size(message.payload, headers)
            except CodecError:
                headers.pop(_BEHIND, None)
                break
            chain.append(message)
        return chain

    async def _store_again(self, subject: str, message: Message, count: int) -> int:
        """Find out whether a message of a chain is stored, or store it: 0, or ``FULL``."""
        try:
            stored = await self.store(subject, message.payload, message.headers)
        except QueueUnknownError as error:
            error.accepted = count
            raise
        except BrokerError:
            if not count:
                raise
            return FULL  # the next call meets it
        return FULL if stored is Stored.FULL else 0

    def _refusal(self, error: ApiError, headers: dict[str, str], is_in_doubt: bool) -> BrokerError:
        text = f"The NATS server at {self._connection.where} cannot store the item: {error}"
        if error.code in NO_STORAGE:
            text += (
                ". Its storage limit is reached: process items, or raise max_file_store "
                "in its configuration"
            )
        if is_in_doubt:
            return QueueUnknownError(
                f"{text}. An earlier attempt to store it got no answer, so it may be stored",
                message_id=headers[MESSAGE_ID],
            )
        return BrokerError(text)

    def _unanswered(
        self, headers: dict[str, str], waited: float, reason: str, is_in_doubt: bool
    ) -> BrokerError:
        where = self._connection.where
        if is_in_doubt:
            return QueueUnknownError(
                f"Unknown whether the item is stored: NATS at {where} did not say for {waited:.0f} "
                f"s ({reason}). It is stored once or not at all: put it again if twice is better "
                "than not at all",
                message_id=headers[MESSAGE_ID],
            )
        return BrokerError(
            f"The item is not stored at {where}: {reason}. Is the server running, was the queue "
            "deleted, or has the cluster lost its majority?"
        )


def _told(answer: Any) -> int | None:
    """What was answered to a message of a chain: 0, it is stored, or why not; None: not known."""
    if isinstance(answer, BrokerError):
        return None
    if isinstance(answer, BaseException):
        raise answer
    try:
        reading(answer)
    except ApiError as error:
        return error.code if error.code in (FULL, WRONG_LAST_ID) else None
    return 0
