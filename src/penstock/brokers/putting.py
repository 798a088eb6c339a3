"""Putting into a queue on a broker: one item, or many in one round trip."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

from opentelemetry import propagate

from penstock._util import checks
from penstock.brokers.engine import Stored
from penstock.brokers.lifecycle import BrokerLifecycle
from penstock.brokers.messages import Message
from penstock.errors import QueueUnknownError
from penstock.policies.observer import ObservedPut
from penstock.queue.base import NO_LIMIT

T = TypeVar("T")

#: How many items of a ``put_many`` go to the broker at once.
_AT_ONCE = 250


class BrokerPuts(BrokerLifecycle[T]):
    """A queue on a broker, as far as those see it who put."""

    async def put(
        self,
        item: T,
        timeout: float | None = None,
        *,
        deadline: float | None = None,
        id: str | None = None,
    ) -> bool:
        """Offer an item; True when the broker has stored it, False when the queue stayed full.

        Args:
            item: what the codec can encode.
            timeout: seconds to wait for room. ``None``: the queue's own timeout. ``0``: do not
                wait. ``math.inf``: as long as it takes.
            deadline: as in :meth:`penstock.BoundedQueue.put`.
            id: when two puts have the same id, from any machine, within the ``dedupe`` seconds of
                the queue, the first item is stored, and both puts return True. A refused put
                leaves no id.

        Raises:
            QueueUnknownError: the broker did not answer for too long: it is not known whether the
                item is stored. It is stored at most once.
            BrokerError: the broker refused it for another reason than want of room.
            CodecError: the item cannot be encoded, or is too large. Also a ``ValueError``.
            QueueStateError: the queue is not processing, or stopped while the put waited.
            ValueError: the timeout or deadline is negative, NaN or no number; or a limit can never
                let the item pass.

        While the connection is lost, the put waits for it, also longer than ``timeout``, because
        False would be a guess. Puts of this process that wait are served first come, first served.
        A put that is cancelled while it waits for room leaves nothing behind. If it is cancelled
        before the broker has answered, the item may be in the queue.
        """
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        limit = self._limit(timeout)
        message = self._pack(item, deadline)
        if id is not None:
            checks.label(id, "id")
        offer = partial(self._engine.put, message, id)
        if not self._observer.is_enabled():
            propagate.inject(message.headers)
            return await self._producer.put(offer, limit)
        with self._observer.on_put() as put:
            put.context.run(propagate.inject, message.headers)
            put.accepted = await self._producer.put(offer, limit, put.on_full)
            return put.accepted

    def _pack(self, item: T, deadline: float | None) -> Message:
        scope = self._scope
        if scope is not None:
            policy: Any = scope.policy
            policy.limits.check(item)
            if deadline is None:
                deadline = policy.deadline
        if deadline is not None:
            deadline = checks.seconds(deadline, "deadline")
        return self._codec.pack(item, deadline)

    def _limit(self, timeout: float | None) -> float:
        """For how many seconds a put waits for room."""
        return min(self._timeout if timeout is None else checks.seconds(timeout), NO_LIMIT)

    async def put_many(self, items: Collection[T], timeout: float | None = None) -> int:
        """Put ``items`` in their order; return how many were accepted, from the front.

        Args:
            items: a list or another collection.
            timeout: seconds to wait for room, all items together, as for :meth:`put`.

        Raises:
            QueueUnknownError: the broker did not answer for too long: it is not known whether an
                item is stored. ``accepted`` of the error is the number of items before it.
            BrokerError, CodecError, QueueStateError, ValueError: as :meth:`put`, about the first
                item. If some were accepted before, their number is returned, and the next call with
                the rest raises.
            TypeError: ``items`` is no collection.

        Up to 250 items are sent to the broker at once; the puts of other processes need not wait
        for them. If the call is cancelled, the items that were accepted stay, and some more may be
        accepted.
        """
        checks.collection(items)
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        give_up_at, count = self._now() + self._limit(timeout), 0
        try:
            for messages in self._packed(items):
                puts = self._begin_puts(messages)
                with _ended(puts):
                    while messages:
                        left = max(0.0, give_up_at - self._now())
                        stored = await self._put_first(messages, left, puts)
                        count += stored
                        if not stored:
                            return count
                        del messages[:stored]
        except QueueUnknownError as error:
            error.accepted += count
            raise
        except Exception:
            if not count:  # else the next call meets it
                raise
        return count

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _packed(self, items: Iterable[T]) -> Iterator[list[Message]]:
        """The messages of items, some at a time; what an item has against it is raised after."""
        messages: list[Message] = []
        failure: Exception | None = None
        for item in items:
            try:
                messages.append(self._pack(item, None))
            except Exception as error:  # noqa: BLE001 - raised below
                failure = error
                break
            if len(messages) == _AT_ONCE:
                yield messages
                messages = []
        if messages:
            yield messages
        if failure is not None:
            raise failure

    def _begin_puts(self, messages: Sequence[Message]) -> list[ObservedPut]:
        """Give each message the headers of its trace; return the puts, if they are observed."""
        if not self._observer.is_enabled():
            for message in messages:
                propagate.inject(message.headers)
            return []
        puts = [self._observer.on_put().__enter__() for _ in messages]
        for put, message in zip(puts, messages, strict=True):
            put.context.run(propagate.inject, message.headers)
        return puts

    async def _put_first(
        self, messages: Sequence[Message], timeout: float, puts: list[ObservedPut]
    ) -> int:
        """Put the first of some messages, as many as there is room for in time; return how many.

        Their ``puts`` end, and are taken out.
        """
        stored = 0

        async def offer() -> Stored:
            nonlocal stored
            try:
                stored = await self._engine.put_many(messages)
            except QueueUnknownError as error:
                stored = error.accepted
                self._counters.add_accepted(stored)
                raise
            return Stored.NEW if stored else Stored.FULL

        try:
            await self._producer.put(offer, timeout, puts[0].on_full if puts else None)
        finally:
            for put in puts[:stored]:
                put.accepted = True
                put.__exit__(None, None, None)
            del puts[:stored]
        if stored:
            self._counters.add_accepted(stored - 1)  # and the one that the producer has counted
        return stored

    def put_nowait(self, item: T, *, deadline: float | None = None) -> NoReturn:
        """Refuse: whether there is room, only the broker knows, and to ask it takes a moment."""
        self._must_be_open("put")
        raise TypeError(
            f"put_nowait() cannot ask a server: use await put(item, timeout=0) with {self!r}"
        )


@contextmanager
def _ended(puts: Sequence[ObservedPut]) -> Iterator[None]:
    """The block with which these puts end, with its error."""
    with ExitStack() as stack:
        try:
            yield
        finally:
            for put in puts:
                stack.push(put)
