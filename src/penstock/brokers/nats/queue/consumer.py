"""Items for workers: as many are asked of the server as workers are free, and no more."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header

from penstock.brokers.engine import Receiver
from penstock.brokers.messages import Delivery, Message
from penstock.brokers.nats.connection.connection import Connection

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

#: Seconds between two signs of life of a server that has nothing for us.
HEARTBEAT: Final = 5.0
#: Seconds between two looks whether the server is still heard of.
_LOOK: Final = 2.0
#: Seconds until the next request, where the server refused one.
_REFUSED: Final = 0.5
#: Parts of a reply subject from which on it has a domain.
_WITH_DOMAIN: Final = 11

_EXPIRED, _HEARTBEATS = "408", "100"


def delivery_of(message: Msg) -> Delivery:
    """The delivery that a message is. Its handle is where it is acknowledged."""
    # $JS.ACK[.domain.account].stream.consumer.deliveries.sequence.of consumer.nanoseconds.left
    # (With domain and account, a random token may follow.) As nats-py's metadata, but that costs
    # as much as all the rest.
    told = message.reply.split(".")
    first = 4 if len(told) < _WITH_DOMAIN else 6
    number, sequence, stored_at = int(told[first]), int(told[first + 1]), int(told[first + 3]) / 1e9
    # As far as the clocks of the machines agree.
    age = max(0.0, time.time() - stored_at)
    item = Message(message.data, message.headers or {})
    return Delivery(sequence, number, age, item, message.reply)


def stored_at_of(delivery: Delivery) -> int:
    """When the item was stored: nanoseconds since 1970, by the server's clock."""
    told = delivery.handle.split(".")
    return int(told[7 if len(told) < _WITH_DOMAIN else 9])


class PullConsumer:
    """Asks for items in requests, *pulls*, that stand at the server until they are filled.

    Args:
        subject: where items are asked for.
    """

    def __init__(self, connection: Connection, subject: str, logger: logging.Logger) -> None:
        self._connection = connection
        self._subject = subject
        self._logger = logger
        self._receiver: Receiver | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._subscribing = asyncio.Lock()
        self._pulls = PullRequests()
        self._look: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def open(self, receiver: Receiver) -> None:
        """Hand items to ``receiver`` from now on, when it asks."""
        self._receiver = receiver
        self._subscribing = asyncio.Lock()  # of this loop

    def ask(self, wanted: int, expires: float) -> None:
        """See that ``wanted`` items are asked for, those included that were before."""
        asked = self._pulls.asked
        wanted -= asked
        # Fewer than are asked for already can wait for the next that comes: a request for one costs
        # as much as one for many.
        if wanted <= 0 or wanted < asked:
            return
        loop = asyncio.get_running_loop()
        if self._look is None:
            self._look = loop.call_later(_LOOK, self._look_after_pulls, loop)
        number = self._pulls.begin(wanted, loop.time(), expires + _LOOK)
        task = loop.create_task(self._pull(number, wanted, expires))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _pull(self, number: str, count: int, expires: float) -> None:
        try:
            async with self._subscribing:
                if self._subscription is None:
                    self._inbox = self._connection.client.new_inbox()
                    subject = f"{self._inbox}.*"
                    self._subscription = await self._connection.subscribe(subject, self._on_message)
        except (NatsError, OSError) as error:
            self._logger.debug("NATS: cannot subscribe: %s", error)
            self._end(number, None, is_refusal=True)
            return
        if number not in self._pulls:  # it is not wanted any more
            return
        request = {"batch": count, "expires": max(1, int(expires * 1e9))}
        if expires >= 2 * HEARTBEAT:  # or the server refuses
            request["idle_heartbeat"] = int(HEARTBEAT * 1e9)
        payload = json.dumps(request).encode()
        if not await self._connection.send(self._subject, payload, f"{self._inbox}.{number}"):
            self._end(number, None, is_refusal=True)

    async def _on_message(self, message: Msg) -> None:
        self._pulls.heard_at = asyncio.get_running_loop().time()
        if message.reply:
            self._pulls.one_came()
            if self._receiver is not None:
                self._receiver.receive(delivery_of(message))
            return
        headers = message.headers or {}
        status, left = headers.get(Header.STATUS, ""), headers.get("Nats-Pending-Messages")
        number = message.subject.rpartition(".")[2]
        if status == _HEARTBEATS:
            return
        if status != _EXPIRED and number in self._pulls:
            self._logger.debug("NATS ended a request for items: %s", message.headers)
        self._end(number, left, is_refusal=status != _EXPIRED)

    def _end(self, number: str, left: str | None, *, is_refusal: bool = False) -> None:
        """A pull has ended; ``left``: how many of its items will not come, if that is known."""
        self._pulls.end(number, None if left is None else int(left))
        if is_refusal:
            asyncio.get_running_loop().call_later(_REFUSED, self._ask_soon)
        else:
            self._ask_soon()

    def _ask_soon(self) -> None:
        if self._receiver is not None:
            self._receiver.ask_soon()

    def _look_after_pulls(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up pulls of which nothing is heard any more; their server may be gone."""
        self._look = None
        for number in self._pulls.overdue(loop.time()):
            self._end(number, None)
        if self._pulls:
            self._look = loop.call_later(_LOOK, self._look_after_pulls, loop)
        else:
            self._ask_soon()

    def reconnected(self) -> None:
        """The server that knew our pulls may be another one now: ask again."""
        self._pulls.forget()
        self._ask_soon()

    async def hush(self) -> None:
        """See that nothing more comes of what was asked for."""
        self._pulls.forget()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Exception):
                await subscription.drain()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Ask for nothing more, of a connection that is closed."""
        self._pulls.forget()
        look, self._look = self._look, None
        if look is not None:
            look.cancel()
        self._subscription = None


@dataclass
class _Pull:
    """A request for items that stands."""

    #: How many are still to come.
    left: int
    #: When the server must have said that it has expired, by the loop's clock.
    until: float


class PullRequests:
    """Requests that stand until they are filled or expire, by number, the oldest first.

    Which delivery answers which of them is not told; their sum is what counts.
    """

    def __init__(self) -> None:
        self._pulls: dict[str, _Pull] = {}
        self._number = 0
        #: How many items they are for in all.
        self.asked = 0
        #: When the server was last heard of, by the loop's clock.
        self.heard_at = 0.0

    def __len__(self) -> int:
        return len(self._pulls)

    def __contains__(self, number: str) -> bool:
        return number in self._pulls

    def begin(self, count: int, now: float, expires: float) -> str:
        """Ask for ``count`` items, for ``expires`` seconds; returns the number of the request."""
        if not self._pulls:
            self.heard_at = now
        self._number += 1
        number = str(self._number)
        self._pulls[number] = _Pull(count, now + expires)
        self.asked += count
        return number

    def one_came(self) -> None:
        """An item came."""
        # Of any of the pulls: their sum is right if it counts for the oldest one.
        self.asked = max(0, self.asked - 1)
        number = next(iter(self._pulls), None)
        if number is not None:
            pull = self._pulls[number]
            pull.left -= 1
            if not pull.left:
                del self._pulls[number]

    def end(self, number: str, left: int | None) -> None:
        """One is over; ``left``: how many of its items will not come, if the server says so."""
        pull = self._pulls.pop(number, None)
        if left is None:
            left = 0 if pull is None else pull.left
        self.asked = max(0, self.asked - left)
        if not self._pulls:
            self.asked = 0

    def overdue(self, now: float) -> list[str]:
        """Those that should be over; all are forgotten if the server may be gone."""
        if now - self.heard_at > 2.5 * HEARTBEAT:
            self.forget()
        return [number for number, pull in self._pulls.items() if pull.until < now]

    def forget(self) -> None:
        """Nothing will come of any of them."""
        self._pulls.clear()
        self.asked = 0
