"""Sends by the task that calls it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from penstock._util.compat import timeout_after
from penstock.http.sender import RequestSender, Sending, too_late
from penstock.http.slot import HeldSlot


class TaskSender(RequestSender):
    """For event loops, any number of them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: What the requests that wait can be let out by, each with its event loop.
        self._doors: dict[Any, asyncio.AbstractEventLoop] = {}

    async def send(self, request: Any, once: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request: ``once()`` is one attempt.

        Returns the response; where all attempts ended in failures, the last one. Raises what the
        last attempt raised, or why there was none. A call that is cancelled while it waits has used
        nothing up.
        """
        sending = self.begin(request)
        delay: float | None = 0.0
        while True:
            try:
                if delay:
                    async with self._door(sending):
                        await asyncio.sleep(delay)
                sending.check_refusal()
                return await self._attempt(sending, once, await self._slot(sending))
            except Exception as error:  # noqa: BLE001 - it is the outcome, or there is another one
                failed = error
                delay = sending.after(error)
            if delay is None:
                return sending.outcome(failed)

    async def _slot(self, sending: Sending) -> HeldSlot | None:
        """Wait until the request may be sent; None: it may not, ever, and its state says why."""
        if self.slots.try_acquire():
            slot = HeldSlot(self.slots)
            if self.policy.admit(sending.state, sending.request):
                return slot
            slot.end()
        try:
            with self.waiting(sending):
                async with self._door(sending):
                    return await self._slot_later(sending)
        except BaseException:
            self.policy.withdraw(sending.state)
            raise

    async def _slot_later(self, sending: Sending) -> HeldSlot | None:
        policy, state, request, slots = self.policy, sending.state, sending.request, self.slots
        while True:
            if not await slots.acquire(self.time_for_slot(sending)):
                raise self.no_slot(sending)
            slot = HeldSlot(slots)
            try:
                if self.is_ready(sending):
                    await policy.wait(state, request)
                    if state.refusal is None:
                        return slot
            except BaseException:
                slot.end()
                raise
            # What waits for limits, or for its gate, has no slot: others may be sent meanwhile.
            slot.end()
            if state.refusal is None:
                await policy.wait(state, request)
            if state.refusal is not None:
                return None
            if slots.try_acquire():
                return HeldSlot(slots)
            policy.withdraw(state)

    async def _attempt(
        self, sending: Sending, once: Callable[[], Awaitable[Any]], slot: HeldSlot | None
    ) -> Any:
        client = self.client
        with sending.observed():
            attempt = sending.start(slot)
            assert slot is not None
            response: Any = None
            try:
                response = await once()
                if not sending.is_failure(response):
                    client.add_permit(response, attempt.permit)
                    attempt.responded()
                    client.hold(response, slot)
                    return response
                is_whole = await client.read_failure(response)
            except BaseException as error:
                try:
                    told = sending.broke(error, attempt)
                finally:
                    await self._drop(response, slot)
                if told is error:
                    raise
                raise told from None
            try:
                told = sending.refused(response, attempt, is_whole=is_whole)
            except BaseException:  # a function of the policy is broken
                await self._drop(response, slot)
                raise
            if is_whole:
                slot.end()
            else:
                client.hold(response, slot)
            raise told

    async def _drop(self, response: Any, slot: HeldSlot) -> None:
        """Nobody gets the response, if there is one."""
        try:
            if response is not None:
                await self.client.close(response)
        finally:
            slot.end()

    @asynccontextmanager
    async def _door(self, sending: Sending) -> AsyncIterator[None]:
        """A block in which a request waits, no longer than until its deadline or the end of all."""
        left = sending.time_left()
        loop = asyncio.get_running_loop()
        door = timeout_after(None if left == math.inf else left)
        try:
            async with door:
                self._doors[door] = loop
                try:
                    self.check_open()
                    yield
                finally:
                    del self._doors[door]
        except TimeoutError:
            if not door.expired():
                raise
            self.check_open()
            raise too_late() from None

    def close(self) -> None:
        """Send nothing any more: requests that wait get ``QueueStateError``."""
        self.is_closed = True
        for door, loop in list(self._doors.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_open, door, loop)


def _open(door: Any, loop: asyncio.AbstractEventLoop) -> None:
    try:
        door.reschedule(loop.time())
    except RuntimeError:  # it was left in this moment
        return
