"""Storing a message so that afterwards it is certain whether it is stored, or said that it is not.

An answer that does not come says nothing: the message may be stored or not. It is offered again
with the same id, by which the server knows it, as long as the server remembers ids.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from nats.js.api import Header

from penstock.brokers.nats.connection.answers import ApiError, LostError, NobodyError, reading
from penstock.brokers.nats.connection.codes import FULL, IN_FLIGHT, NO_STORAGE, NOT_NOW
from penstock.brokers.nats.connection.wire import Wire
from penstock.brokers.nats.queue.news import News
from penstock.errors import BrokerError, QueueUnknownError

MESSAGE_ID: Final = Header.MSG_ID.value

#: Seconds for which it is tried to find out what became of a message. Half of the time for which
#: the server remembers ids, so that no offer can come too late to be known again.
DOUBT: Final = 60.0
#: Seconds in which somebody must listen to the subject.
_NOBODY: Final = 20.0

_rng = random.Random()  # noqa: S311 - spreads load, keeps no secret


class Publisher:
    """Stores messages in the streams of one queue."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> bool:
        """True when it is stored, False when its stream is full.

        ``headers`` must have a message id, a new one after each refusal: some servers remember
        also what they refused.

        Raises:
            QueueUnknownError: nobody can say.
            BrokerError: it is not stored, for another reason; the message says what to do.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_in_doubt = False
        reason = ""
        while True:
            pause = _rng.uniform(0.05, 0.25)
            try:
                answer = reading(await self._wire.request(subject, payload, headers))
            except LostError as error:
                is_in_doubt = True
                reason = str(error)
                await self._wire.is_alive()
            except NobodyError as error:
                reason = str(error)
            except ApiError as error:
                reason = str(error)
                if error.code == FULL:
                    if not is_in_doubt:
                        return False
                    pause = 1.0  # an offer that was not answered may be on its way, and find room
                elif error.code == IN_FLIGHT or error.code in NOT_NOW:
                    is_in_doubt = is_in_doubt or error.code == IN_FLIGHT
                else:
                    raise self._refusal(error, headers, is_in_doubt) from error
            else:
                # The second: it was refused before, and the server knows its id from that.
                return bool(answer.get("seq")) or not answer.get("duplicate")
            waited = loop.time() - began
            if self._wire.is_closed or waited > DOUBT or (not is_in_doubt and waited > _NOBODY):
                raise self._surrender(headers, waited, reason, is_in_doubt)
            await asyncio.sleep(pause)

    def _refusal(self, error: ApiError, headers: dict[str, str], is_in_doubt: bool) -> BrokerError:
        text = f"The NATS server at {self._wire.where} cannot store the item: {error}"
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

    def _surrender(
        self, headers: dict[str, str], waited: float, reason: str, is_in_doubt: bool
    ) -> BrokerError:
        where = self._wire.where
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


class Line:
    """Puts that wait for room, first come, first served within this process.

    The first of them asks the server again and again, with growing pauses, and at once when this
    process has finished an item. Those behind it only wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._news = News()
        #: How often it was closed.
        self.closings = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Send all away that wait."""
        self.closings += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.room()

    def room(self) -> None:
        """There may be room now."""
        self._news.tell()

    async def wait_for(self, attempt: Callable[[], Awaitable[bool]], timeout: float) -> bool | None:
        """Attempt until it succeeds (True), or time is up (False), or the line is closed (None)."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        closings = self.closings
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        try:
            if self._waiting[0] is not waiter:
                timer = loop.call_at(give_up_at, _resolve, waiter)
                try:
                    await waiter
                finally:
                    timer.cancel()
                if self._waiting[0] is not waiter and self.closings == closings:
                    return False
            pause = 0.005
            while self.closings == closings:
                if await attempt():
                    return True
                left = give_up_at - loop.time()
                if left <= 0:
                    return False
                await self._news.wait(min(left, _rng.uniform(0.5, 1) * pause))
                pause = min(pause * 2, 0.25)
            return None
        finally:
            was_first = self._waiting[0] is waiter
            self._waiting.remove(waiter)
            if was_first and self._waiting:
                _resolve(self._waiting[0])


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
