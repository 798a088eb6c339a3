"""What workers of a queue on a broker take from, and what the broker hears of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from penstock.brokers.counters import BrokerCounters, SizeEstimate
from penstock.brokers.engine import QueueEngine
from penstock.brokers.messages import DEADLINE, Delivery, MessageCodec
from penstock.errors import BrokerError, CodecError
from penstock.policies.item_state import PolicyScope
from penstock.policies.observer import DEAD_LETTER, FAILED, Observer
from penstock.policies.outage import ItemFailures
from penstock.queue.buffer import Buffer
from penstock.telemetry.names import error_type
from penstock.workers.item import Entry
from penstock.workers.turn import EndlessLoopTurn

T = TypeVar("T")

#: Seconds for which items are asked for.
_EXPIRES = 30.0
#: Seconds after which an item that no worker takes goes back to the broker.
_LEFT_OVER = 1.0
#: Seconds until items are asked for again, where too many wait here.
_BUSY = 0.5
#: The most items that wait here because their policy holds them up, or to be settled.
_MOST_BESIDE = 100
#: The most items that were handed back and are known again.
_MOST_REMEMBERED = 1000
#: Seconds until an item comes again that should be a dead letter and could not.
_AGAIN = 30.0
#: The most characters of an error's message that are kept.
_LONGEST = 1000


class DeliverySource(Buffer[T]):
    """The items that the broker has handed to this process, until it knows what became of them.

    Those that no worker holds wait in the buffer. They are few: as many are asked for as workers
    wait. What is to be tried again goes back to the broker, for any machine; what its policy holds
    up waits here, since there each look would count as a delivery.

    Args:
        on_done: called when an item has left the queue.
        make_scope: makes a scope, and sets it.
    """

    #: Who hears of the items. Set before the first start.
    observer: Observer

    def __init__(
        self,
        engine: QueueEngine,
        codec: MessageCodec[T],
        size: SizeEstimate,
        logger: logging.Logger,
        name: str,
        on_done: Callable[[], None],
        make_scope: Callable[[], object],
    ) -> None:
        super().__init__(sys.maxsize)
        #: What the items share under the policy of the queue, if there is one.
        self.scope: PolicyScope | None = None
        self._make_scope = make_scope
        #: Called by the engine when there may be room for another item.
        self.on_room: Callable[[], None] = _nothing
        self.turn = EndlessLoopTurn()  # each item waits for the broker in the end
        self.counters = BrokerCounters(self, size)
        self._engine = engine
        self._codec = codec
        self._logger = logger
        self._name = name
        self._on_done = on_done
        # All deliveries of this process, from their arrival until the broker knows the end.
        self._held: set[Delivery] = set()
        self._settling: set[asyncio.Task[Any]] = set()
        self._heartbeat: asyncio.Task[None] | None = None
        # How items have failed that were handed back for another attempt, by their keys.
        self._failures: OrderedDict[int, ItemFailures] = OrderedDict()
        self._is_asking = self._is_hushed = False

    @property
    def held(self) -> int:
        """How many items this process has, those that wait here included."""
        return len(self._held)

    @property
    def ready(self) -> int:
        """None: what is left when the workers have ended goes back to the broker."""
        return 0

    @property
    def is_idle(self) -> bool:
        """Whether workers wait, and there is nothing for them here."""
        return bool(self._waiters) and not self._available() and not self.delayed

    # -- asking -------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """For how many more items workers wait."""
        if self.closed or self._is_hushed or self.limits.is_paused:
            return 0
        return len(self._waiters) - max(0, self._available() - len(self._unparked))

    def ask_soon(self, seconds: float = _EXPIRES) -> None:
        """Ask for the items that are wanted, once for all who come to wait in this turn."""
        if not self._is_asking:
            self._is_asking = True
            asyncio.get_running_loop().call_soon(self._ask, seconds)

    def _ask(self, seconds: float = _EXPIRES) -> None:
        self._is_asking = False
        wanted = self.wanted
        if wanted <= 0:
            return
        if len(self._delayed_ids) + len(self._settling) > _MOST_BESIDE:
            asyncio.get_running_loop().call_later(_BUSY, self._ask)
            return
        self._engine.ask(wanted, seconds)

    def receive(self, delivery: Delivery) -> None:
        """An item has come."""
        self._held.add(delivery)
        if self.scope is None and (delivery.number > 1 or DEADLINE in delivery.message.headers):
            self._make_scope()  # which knows of attempts before, and of deadlines
        try:
            entry = self._codec.unpack(delivery, self.scope, self.observer)
            if delivery.number > 1:
                entry[3].failures = self._failures.pop(delivery.key, None)
        except Exception as error:  # noqa: BLE001 - a codec or a limit may be anybody's code
            self._reject(delivery, error)
            self.ask_soon()
            return
        if self.closed or self._is_hushed or self.limits.is_paused:
            self.requeue(entry)
            return
        self.entries.append(entry)
        self.wake()
        self.ask_soon()  # for those who wait still
        if self._available() > len(self._unparked):
            asyncio.get_running_loop().call_later(_LEFT_OVER, self._return_leftovers)

    def _return_leftovers(self) -> None:
        # More came than workers were free, or those that waited have gone.
        while self.entries and self._available() > len(self._unparked) + len(self._waiters):
            self.requeue(self.entries.pop())

    # -- what workers call --------------------------------------------------------------------

    def _available(self) -> int:
        return len(self.entries) + len(self._requeued)

    async def wait(self) -> bool:
        """Wait until a look is worth it; False when it is over."""
        if self.closed:
            return False
        self.ask_soon()
        return await self._park(self._add_waiter())

    async def wait_by_hand(self, timeout: float | None = None) -> bool:
        """Wait until a look is worth it; False when it is over, or after ``timeout`` seconds."""
        self.ask_soon(_EXPIRES if timeout is None else min(timeout, _EXPIRES))
        return await super().wait_by_hand(timeout)

    async def pause(self) -> None:
        """Go on: each item waits for the broker in the end."""

    def requeue(self, entry: Entry[T]) -> None:
        """A worker was cancelled with it: another machine may have it, at once."""
        self._hand_back(delivery_of(entry))

    def delay(self, entry: Entry[T], delay: float) -> None:
        """Have it handed out again in ``delay`` seconds."""
        number, _, _, ticket = entry
        assert ticket is not None
        if not ticket.is_postponed or self.closed:
            failures = ticket.failures
            if failures is not None and not ticket.is_postponed:
                self._remember(number, failures)
            self._hand_back(delivery_of(entry), delay)
            return
        if number in self._delayed_ids:
            # It was handed out again since that one was delayed, and this delivery counts.
            for older in self._take_back([entry]):
                self._held.discard(delivery_of(older))
        super().delay(entry, delay)

    def _remember(self, key: int, failures: ItemFailures) -> None:
        failures.error = failures.traceback = None  # they may have the item
        self._failures[key] = failures
        if len(self._failures) > _MOST_REMEMBERED:
            self._failures.popitem(last=False)

    # -- settling -----------------------------------------------------------------------------

    async def done(self, entry: Entry[T]) -> None:
        """The item is done: tell the broker, until it has heard."""
        await self._tell(delivery_of(entry), self._engine.ack)

    def failed(self, entry: Entry[T], error: BaseException) -> bool:
        """The item failed for good. Return whether it becomes a dead letter."""
        return self._fail(delivery_of(entry), error)

    def _reject(self, delivery: Delivery, error: Exception) -> None:
        """No worker can have this, so no error handler will hear of it."""
        is_kept = self._fail(delivery, error)
        self.counters.errors += 1
        self.counters.add_failure(DEAD_LETTER if is_kept else FAILED)
        self.counters.processed += 1
        what = "becomes a dead letter" if is_kept else "is dropped"
        self._logger.error("Queue %s: an item %s: %s", self._name, what, error)

    def _fail(self, delivery: Delivery, error: BaseException) -> bool:
        if not delivery.is_done:
            self.settle(self._add_dead_letter(delivery, error))
        return self._engine.keeps_dead_letters

    async def _add_dead_letter(self, delivery: Delivery, error: BaseException) -> None:
        """Keep the item as a dead letter, and take it out of the queue.

        If it cannot be kept it stays in the queue, and comes again later.
        """
        is_kept, reason = not self._engine.keeps_dead_letters, "there is no room for more of them"
        if not is_kept:
            try:
                is_kept = await self._engine.add_dead_letter(
                    delivery, error_type(error), _one_line(str(error))
                )
            except (BrokerError, CodecError) as failure:
                reason = str(failure)
        if not is_kept:
            self._logger.error(
                "Queue %s cannot keep a dead letter: %s. The item stays in the queue and is "
                "delivered again in %d s",
                self._name,
                reason,
                _AGAIN,
            )
            self._hand_back(delivery, _AGAIN)
            return
        await self._tell(delivery, self._engine.term)
        self.counters.dead_letters += 1
        self.observer.on_dead_letter(error)

    async def _tell(self, delivery: Delivery, call: Callable[[Delivery], Awaitable[None]]) -> None:
        """Tell the broker the end of an item, until it has heard.

        If it cannot be told for as long as ``ack_wait``, the item will be handed out again.
        """
        if delivery not in self._held:  # it was handed back: its end comes too late
            return
        delivery.is_done = True
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._engine.ack_wait
        try:
            while True:
                try:
                    await call(delivery)
                    break
                except BrokerError as error:
                    if loop.time() >= give_up_at:
                        self._logger.warning(
                            "Queue %s: an item is done, but %s did not hear of it (%s); it will be "
                            "processed again",
                            self._name,
                            self._engine.where,
                            error,
                        )
                        return
                await asyncio.sleep(0.1)
            self._on_done()
        finally:
            self._held.discard(delivery)

    def _hand_back(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Have the item handed out again, here or elsewhere, in ``delay`` seconds."""
        self._held.discard(delivery)
        if not delivery.is_done:
            self.settle(self._engine.nak(delivery, delay))

    def settle(self, call: Coroutine[Any, Any, Any]) -> None:
        """Carry this out beside the workers; a stop waits for it."""
        try:
            task = asyncio.get_running_loop().create_task(call)
        except RuntimeError:  # the loop was closed; the broker will notice
            call.close()
            return
        self._settling.add(task)
        task.add_done_callback(self._on_settled)

    def _on_settled(self, task: asyncio.Task[Any]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error(
                "Queue %s could not send %s the result of an item; it will be delivered again",
                self._name,
                self._engine.where,
                exc_info=error,
            )

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(self._engine.ack_wait / 3)
            try:
                await self._engine.extend(list(self._held))
            except BrokerError as error:
                self._logger.debug("Queue %s cannot extend its leases: %s", self._name, error)

    # -- opening and closing ------------------------------------------------------------------

    def open(self) -> None:
        """Ask for items, and keep the broker told that what is held is being worked on."""
        super().open()
        self._is_hushed = False
        self._heartbeat = asyncio.create_task(
            self._extend_leases(), name=f"penstock-{self._name}-heartbeat"
        )

    async def hush(self) -> None:
        """Take nothing more for what was asked so far, and hand back the items that wait here."""
        self._is_hushed = True  # what is on its way still arrives, and is handed back at once
        try:
            await self._engine.hush()
        finally:
            self._is_hushed = False
        for entry in self._take_back(self.snapshot()):
            self.requeue(entry)
        if self._waiters and not self.closed:
            self.ask_soon()

    async def finish(self, timeout: float) -> None:
        """Let the broker hear everything, at most ``timeout`` seconds; hold nothing then."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        while self._settling and loop.time() < give_up_at:  # what ends may have more to tell
            await asyncio.wait(list(self._settling), timeout=give_up_at - loop.time())
        for task in list(self._settling):
            task.cancel()
        self.end()
        self._end_leases()

    def _end_leases(self) -> None:
        if self._heartbeat is not None and not self._heartbeat.get_loop().is_closed():
            self._heartbeat.cancel()
        self._heartbeat = None
        self._held.clear()

    def forget(self) -> None:
        """The loop was closed: nothing will come of anything."""
        self.closed = True
        self._is_asking = False
        self.forget_waiters()
        self._remove(self.snapshot())
        self._end_leases()


def _nothing() -> None:
    pass


def delivery_of(entry: Entry[Any]) -> Delivery:
    """The delivery that an entry came by."""
    ticket: Any = entry[3]  # a DeliveryTicket, or an observed one
    delivery: Delivery = ticket.delivery
    return delivery


def has_not_begun(entry: Entry[Any]) -> bool:
    """Whether an entry in a worker's hands waits for its policy still."""
    ticket = entry[3]
    if ticket is None or ticket.scope is None:  # it waits for nothing
        return False
    return ticket.attempts < delivery_of(entry).number


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    line = line.encode("ascii", "backslashreplace").decode()
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
