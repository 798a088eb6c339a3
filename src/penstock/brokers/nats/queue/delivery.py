"""What this process has in hand: deliveries, and what it tells the server of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from nats.aio.msg import Msg

from penstock.brokers.nats.connection.answers import LostError, NobodyError
from penstock.brokers.nats.connection.wire import Wire
from penstock.errors import BrokerError
from penstock.policies.observer import outcome_of
from penstock.policies.outage import ItemFailures
from penstock.workers.calls import AsyncCall
from penstock.workers.item import Entry, Ticket

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from contextvars import Context

_ACK = b"+ACK"
_TERM = b"+TERM"
_PROGRESS = b"+WPI"
#: The most items that were handed back and are known again.
_MOST_REMEMBERED = 1000
#: Parts of a reply subject from which on it has a domain.
_WITH_DOMAIN = 11


class Delivery:
    """One handing-out of one item."""

    __slots__ = ("is_done", "message", "number", "sequence", "stored_at")

    def __init__(self, message: Msg) -> None:
        self.message = message
        # $JS.ACK[.domain.account].stream.consumer.deliveries.sequence.of consumer.nanoseconds.left
        # (With domain and account, a random token may follow.) As nats-py's metadata, but that
        # costs as much as all the rest.
        told = message.reply.split(".")
        first = 4 if len(told) < _WITH_DOMAIN else 6
        #: How many times the item has been handed out, this time included.
        self.number = int(told[first])
        #: Its place in the stream.
        self.sequence = int(told[first + 1])
        #: Seconds since 1970, by the server's clock.
        self.stored_at = int(told[first + 3]) / 1e9
        #: Whether its call has ended, so that it must not be handed back any more.
        self.is_done = False

    @property
    def age(self) -> float:
        """Seconds since it was stored, as far as the clocks of the machines agree."""
        return max(0.0, time.time() - self.stored_at)

    @property
    def headers(self) -> dict[str, str]:
        """Those that came with the message."""
        return self.message.headers or {}


class Hands:
    """All deliveries that this process has, from their arrival until the server knows the end."""

    def __init__(self, wire: Wire, ack_wait: float, logger: logging.Logger, name: str) -> None:
        self._wire = wire
        self._ack_wait = ack_wait
        self._logger = logger
        self._name = name
        self._held: set[Delivery] = set()
        self._settling: set[asyncio.Task[Any]] = set()
        self._heart: asyncio.Task[None] | None = None
        #: How items have failed that were handed back for another attempt, by their places: to know
        #: them again.
        self.failures: OrderedDict[int, ItemFailures] = OrderedDict()
        #: Called when an item has left the queue.
        self.on_done: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._held)

    @property
    def settling(self) -> int:
        """How many answers to the server are under way beside the workers."""
        return len(self._settling)

    def open(self) -> None:
        """Keep the server told, from now on, that what is held is being worked on."""
        self._heart = asyncio.create_task(self._beat(), name=f"penstock-{self._name}-heartbeat")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for delivery in list(self._held):
                await self._wire.send(delivery.message.reply, _PROGRESS)

    def take(self, delivery: Delivery) -> None:
        """A delivery has come."""
        self._held.add(delivery)

    def drop(self, delivery: Delivery) -> None:
        """It is void: the item came by another delivery since. The server hears nothing of it."""
        self._held.discard(delivery)

    async def done(self, delivery: Delivery, verdict: bytes = _ACK) -> None:
        """Tell the server that the item is done, until it has heard.

        If it cannot be told for as long as ``ack_wait``, the item will be handed out again.
        """
        if delivery not in self._held:  # it was handed back: its end comes too late
            return
        delivery.is_done = True
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._ack_wait
        try:
            while (failure := await self._told(delivery, verdict)) is not None:
                if loop.time() >= give_up_at:
                    self._logger.warning(
                        "Queue %s: an item is done, but NATS could not be told (%s); it will be "
                        "processed again",
                        self._name,
                        failure,
                    )
                    return
                await self._wire.is_alive()
                await asyncio.sleep(0.1)
            self.on_done()
        finally:
            self._held.discard(delivery)

    async def _told(self, delivery: Delivery, verdict: bytes) -> Exception | None:
        try:
            await self._wire.request(delivery.message.reply, verdict)
        except (LostError, NobodyError, BrokerError) as error:
            return error
        return None

    async def bury(self, delivery: Delivery) -> None:
        """Tell the server never to hand the item out again."""
        await self.done(delivery, _TERM)

    def hand_back(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Have the item handed out again, here or elsewhere, in ``delay`` seconds."""
        self._held.discard(delivery)
        if delivery.is_done:
            return
        payload = b"-NAK"
        if delay > 0:
            payload += b" " + json.dumps({"delay": int(delay * 1e9)}).encode()
        self.settle(self._wire.send(delivery.message.reply, payload))

    def remember(self, delivery: Delivery, failures: ItemFailures) -> None:
        """The item is handed back, and may be handed out here again."""
        failures.error = failures.traceback = None  # they may have the item
        self.failures[delivery.sequence] = failures
        if len(self.failures) > _MOST_REMEMBERED:
            self.failures.popitem(last=False)

    def settle(self, call: Coroutine[Any, Any, Any]) -> None:
        """Carry this out beside the workers; a stop waits for it."""
        try:
            task = asyncio.get_running_loop().create_task(call)
        except RuntimeError:  # the loop was closed; the server will notice
            call.close()
            return
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error(
                "Queue %s could not tell NATS about an item; it will be handed out again",
                self._name,
                exc_info=error,
            )

    async def close(self, timeout: float) -> None:
        """Wait until the server has been told everything, at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        while self._settling and loop.time() < give_up_at:  # what ends may have more to tell
            await asyncio.wait(list(self._settling), timeout=give_up_at - loop.time())
        for task in list(self._settling):
            task.cancel()
        self.forget()

    def forget(self) -> None:
        """Hold nothing any more."""
        if self._heart is not None and not self._heart.get_loop().is_closed():
            self._heart.cancel()
        self._heart = None
        self._held.clear()


class DeliveryTicket(Ticket):
    """Goes along with an item that was delivered: the server hears when its call has ended."""

    __slots__ = ("_hands", "_inner", "_on_burial", "delivery")

    def __init__(
        self,
        inner: Ticket,
        delivery: Delivery,
        hands: Hands,
        on_burial: Any,
    ) -> None:
        super().__init__(inner.scope)
        self._inner = inner
        self._hands = hands
        self._on_burial = on_burial
        self.delivery = delivery

    @property
    def has_begun(self) -> bool:
        """Whether its call was made; or else it waits until its rules allow it."""
        return self._inner.attempts >= self.delivery.number

    @property
    def waits_here(self) -> bool:
        """Whether it is to wait here, where its policy holds it up, rather than on the server."""
        return self._inner.is_postponed

    def after(self, error: BaseException) -> tuple[float | None, BaseException]:
        """The seconds until another attempt, or None: it failed; and the error that counts."""
        delay, error = self._inner.after(error)
        failures = self._inner.failures
        if delay is not None and failures is not None and not self.waits_here:
            self._hands.remember(self.delivery, failures)
        return delay, error

    async def run(self, call: AsyncCall[Any], job: Any, item: Any) -> None:
        """Make the call, and settle the item after it has returned."""
        await self._inner.run(call, job, item)
        await self._hands.done(self.delivery)

    def on_failure(self, error: BaseException, item: Any) -> str:
        """The item failed for good, and whoever was to hear of it has. Returns its outcome."""
        outcome = outcome_of(error, is_kept=True)
        self._inner.end(error, outcome)
        self._on_burial(self.delivery, error)
        return outcome

    def attempt(self, context: Context) -> AbstractContextManager[object]:
        """What to process an item in that was taken by hand."""
        return self._inner.attempt(context)

    def on_get(self) -> None:
        """The item was taken by ``get``."""
        self._inner.on_get()

    def handler_failed(self, error: BaseException) -> None:
        """The error handler raised as well."""
        self._inner.handler_failed(error)


def delivery_of(entry: Entry[Any]) -> Delivery:
    """The delivery that an entry came by."""
    ticket = entry[3]
    assert isinstance(ticket, DeliveryTicket)
    return ticket.delivery


def has_not_begun(entry: Entry[Any]) -> bool:
    """Whether an entry in a worker's hands waits for its rules still."""
    ticket = entry[3]
    return isinstance(ticket, DeliveryTicket) and not ticket.has_begun


def _nothing() -> None:
    pass
