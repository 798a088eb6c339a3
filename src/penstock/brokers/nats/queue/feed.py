"""Deliveries for workers: as many are asked for as workers are free, and no more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from nats.aio.msg import Msg
from nats.js.api import Header

from penstock._util.wait_queue import WaitQueue
from penstock.brokers.nats.connection.wire import Wire
from penstock.brokers.nats.queue.delivery import DeliveryTicket, Hands, delivery_of
from penstock.brokers.nats.queue.pulls import HEARTBEAT, Pulls
from penstock.workers.item import Entry
from penstock.workers.job import Job
from penstock.workers.turn import ENDLESS

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

T = TypeVar("T")

#: Seconds for which a request for items stands.
_EXPIRES = 30.0
#: Seconds between two looks whether the server is still heard of.
_LOOK = 2.0
#: Seconds after which a delivery that no worker takes goes back to the server.
_LEFT_OVER = 1.0
#: Seconds until the next request, where the server refused one.
_REFUSED = 0.5
#: The most items that wait here because their rules hold them up, or to be settled.
_MOST_BESIDE = 100

_EXPIRED, _HEARTBEATS = "408", "100"


class Feed(WaitQueue):
    """What the workers of a queue on NATS take from. A ``Source``, see ``penstock.workers.source``.

    A worker that waits has a place in a request to the server, a *pull*.
    """

    def __init__(
        self,
        wire: Wire,
        subject: str,
        hands: Hands,
        receive: Callable[[Msg], Entry[Any] | None],
        logger: logging.Logger,
    ) -> None:
        super().__init__()
        self._wire = wire
        self._subject = subject
        self._hands = hands
        self._receive = receive
        self._logger = logger
        self.closed = False
        self.turn = ENDLESS
        #: The job of ``process``: it has all items.
        self.standing: Job[Any] | None = None
        #: Those that came and that nobody has taken yet.
        self._entries: deque[Entry[Any]] = deque()
        # What their rules held up: until it is time, and then until a worker is free. It is not
        # handed back meanwhile, for that would count as a delivery.
        self._ripe: deque[Entry[Any]] = deque()
        self._put_off: dict[int, tuple[Entry[Any], asyncio.TimerHandle]] = {}
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._subscribing = asyncio.Lock()
        self._pulls = Pulls()
        self._look: asyncio.TimerHandle | None = None
        self._is_asking = False
        self._is_hushed = False

    @property
    def ready(self) -> int:
        """None: what is left when the workers have ended goes back to the server."""
        return 0

    @property
    def put_off(self) -> int:
        """How many items wait here because their rules held them up."""
        return len(self._put_off) + len(self._ripe)

    @property
    def is_idle(self) -> bool:
        """Whether workers wait, and there is nothing for them here."""
        return bool(self._waiters) and not self._available() and not self.put_off

    # -- what workers call --------------------------------------------------------------------

    def take(self) -> Entry[Any] | None:
        """The next entry, or None."""
        if self._ripe:
            return self._ripe.popleft()
        return self._entries.popleft() if self._entries else None

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until a look is worth it; False when it is over, or after ``timeout`` seconds."""
        if self.closed:
            return False
        waiter = self._add_waiter()
        self.wake()
        self._ask_soon(_EXPIRES if timeout is None else min(timeout, _EXPIRES))
        return await self._park(waiter, timeout)

    async def pause(self) -> None:
        """Go on: each item waits for the server in the end."""

    def requeue(self, entry: Entry[Any]) -> None:
        """A worker was cancelled with it: another machine may have it, at once."""
        self._hands.hand_back(delivery_of(entry))

    def delay(self, entry: Entry[Any], delay: float) -> None:
        """Have it handed out again in ``delay`` seconds.

        A retry waits on the server, for any machine. What its rules hold up waits here: there
        each look would count as a delivery.
        """
        ticket = entry[3]
        assert isinstance(ticket, DeliveryTicket)
        if not ticket.waits_here or self.closed:
            self._hands.hand_back(ticket.delivery, delay)
            return
        order = entry[0]
        older = self._put_off.pop(order, None)
        if older is not None:  # the server has handed it out again since, and that one counts
            older[1].cancel()
            self._hands.drop(delivery_of(older[0]))
        timer = asyncio.get_running_loop().call_later(delay, self._promote_due, order)
        self._put_off[order] = (entry, timer)

    def _promote_due(self, order: int) -> None:
        entry, _ = self._put_off.pop(order)
        self._ripe.append(entry)
        self.wake()

    def _available(self) -> int:
        return len(self._entries) + len(self._ripe)

    # -- asking -------------------------------------------------------------------------------

    def _ask_soon(self, expires: float = _EXPIRES) -> None:
        if not self._is_asking:  # once for all who come to wait in this turn of the loop
            self._is_asking = True
            asyncio.get_running_loop().call_soon(self._ask, expires)

    def _ask(self, expires: float = _EXPIRES) -> None:
        self._is_asking = False
        on_their_way = max(0, self._available() - len(self._unparked))
        asked = self._pulls.asked
        wanted = len(self._waiters) - on_their_way - asked
        # Fewer than are asked for already can wait for the next that comes: a request for one costs
        # as much as one for many.
        if self.closed or self._is_hushed or wanted <= 0 or wanted < asked:
            return
        if self.put_off + self._hands.settling > _MOST_BESIDE:
            asyncio.get_running_loop().call_later(_REFUSED, self._ask)
            return
        loop = asyncio.get_running_loop()
        if self._look is None:
            self._look = loop.call_later(_LOOK, self._look_after_pulls, loop)
        number = self._pulls.begin(wanted, loop.time(), expires + _LOOK)
        self._hands.settle(self._pull(number, wanted, expires))

    async def _pull(self, number: str, count: int, expires: float) -> None:
        async with self._subscribing:
            if self._subscription is None:
                self._inbox = self._wire.client.new_inbox()
                self._subscription = await self._wire.subscribe(f"{self._inbox}.*", self._arrived)
        request = {"batch": count, "expires": max(1, int(expires * 1e9))}
        if expires >= 2 * HEARTBEAT:  # or the server refuses
            request["idle_heartbeat"] = int(HEARTBEAT * 1e9)
        payload = json.dumps(request).encode()
        if not await self._wire.send(self._subject, payload, f"{self._inbox}.{number}"):
            self._over(number, None, is_refusal=True)

    async def _arrived(self, message: Msg) -> None:
        self._pulls.heard_at = asyncio.get_running_loop().time()
        if not message.reply:
            status = (message.headers or {}).get(Header.STATUS, "")
            left = (message.headers or {}).get("Nats-Pending-Messages")
            number = message.subject.rpartition(".")[2]
            if status == _HEARTBEATS:
                return
            if status != _EXPIRED and number in self._pulls:
                self._logger.debug("NATS ended a request for items: %s", message.headers)
            self._over(number, left, is_refusal=status != _EXPIRED)
            return
        self._pulls.one_came()
        entry = self._receive(message)
        if entry is None:  # it was none that a worker could have
            self._ask_soon()
            return
        if self.closed or self._is_hushed:
            self.requeue(entry)
            return
        self._entries.append(entry)
        self.wake()
        self._ask_soon()  # for those who waited with their request
        self._watch_leftovers()

    def _over(self, number: str, left: str | None, *, is_refusal: bool = False) -> None:
        """A pull has ended; ``left``: how many of its items will not come, if that was told."""
        self._pulls.end(number, None if left is None else int(left))
        if self.closed:
            return
        if is_refusal:
            asyncio.get_running_loop().call_later(_REFUSED, self._ask)
        else:
            self._ask_soon()

    def _look_after_pulls(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up pulls of which nothing is heard any more; their server may be gone."""
        for number in self._pulls.overdue(loop.time()):
            self._over(number, None)
        self._look = None
        if not self._pulls and self._waiters:
            self._ask_soon()
        elif self._pulls:
            self._look = loop.call_later(_LOOK, self._look_after_pulls, loop)

    def reconnected(self) -> None:
        """The server that knew our pulls may be another one now: ask anew."""
        self._pulls.forget()
        if self._waiters:
            self._ask_soon()

    # -- what nobody takes --------------------------------------------------------------------

    def _watch_leftovers(self) -> None:
        if self._available() > len(self._unparked):
            asyncio.get_running_loop().call_later(_LEFT_OVER, self._return_leftovers)

    def _return_leftovers(self) -> None:
        # More came than workers were free, or those that waited have gone.
        while self._entries and self._available() > len(self._unparked) + len(self._waiters):
            self.requeue(self._entries.pop())

    # -- closing ------------------------------------------------------------------------------

    def open(self) -> None:
        """Ask for items again."""
        self.closed = False
        self._subscribing = asyncio.Lock()  # of this loop

    def close(self) -> None:
        """Ask for no more; every worker that waits is told."""
        self.closed = True
        self.wake_all()

    async def hush(self) -> None:
        """See that nothing more comes of what was asked for, and hand back what came."""
        self._pulls.forget()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._is_hushed = True  # what is under way still arrives, and is handed back at once
            with suppress(Exception):
                await subscription.drain()  # type: ignore[no-untyped-call]
            self._is_hushed = False
        while (entry := self.take()) is not None:
            self.requeue(entry)
        for entry, timer in self._put_off.values():
            timer.cancel()
            self.requeue(entry)
        self._put_off.clear()
        if self._waiters and not self.closed:
            self._ask_soon()

    def forget(self) -> None:
        """The loop was closed: nothing will come of anything."""
        self.closed = True
        self._forget_waiters()
        self._entries.clear()
        self._ripe.clear()
        self._put_off.clear()
        self._pulls.forget()
        self._is_asking = self._is_hushed = False
        self._look = self._subscription = None
