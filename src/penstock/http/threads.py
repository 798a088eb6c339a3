"""Sends by the thread that calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import QueueStateError
from penstock.http.sender import RequestSender, Sending, too_late
from penstock.http.slot import HeldSlot

#: Seconds after which a thread that waits looks whether the transport was closed.
_ASK_EVERY = 0.5


class ThreadSender(RequestSender):
    """For any number of threads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: What waits, to be let out.
        self._asleep: set[Sending] = set()

    def send(self, request: Any, once: Callable[[], Any]) -> Any:
        """Send a request: ``once()`` is one attempt. The rest is as for tasks.

        Raises:
            QueueStateError: it would have to wait, in a thread with a running event loop.
        """
        sending = self.begin(request)
        delay: float | None = 0.0
        while True:
            try:
                if delay:
                    with self._door(sending):
                        self._sleep(delay, sending)
                sending.check_refusal()
                return self._attempt(sending, once, self._slot(sending))
            except Exception as error:  # noqa: BLE001 - it is the outcome, or there is another one
                failed = error
                delay = sending.after(error)
            if delay is None:
                return sending.outcome(failed)

    def _slot(self, sending: Sending) -> HeldSlot | None:
        """Wait until the request may be sent; None: it may not, ever, and its state says why."""
        if self.slots.try_acquire():
            slot = HeldSlot(self.slots)
            if self.policy.admit(sending.state, sending.request):
                return slot
            slot.end()
        try:
            with self.waiting(sending), self._door(sending):
                return self._slot_later(sending)
        except BaseException:
            self.policy.withdraw(sending.state)
            raise

    def _slot_later(self, sending: Sending) -> HeldSlot | None:
        policy, state, request, slots = self.policy, sending.state, sending.request, self.slots

        def is_wanted() -> bool:
            return not state.is_revoked

        while True:
            if not slots.acquire_blocking(is_wanted, self.time_for_slot(sending)):
                raise self.no_slot(sending)
            slot = HeldSlot(slots)
            try:
                if self.is_ready(sending):
                    policy.wait_blocking(state, request)
                    if state.refusal is None:
                        return slot
            except BaseException:
                slot.end()
                raise
            # What waits for limits, or for its gate, has no slot: others may be sent meanwhile.
            slot.end()
            if state.refusal is None:
                policy.wait_blocking(state, request)
            if state.refusal is not None:
                return None
            if slots.try_acquire():
                return HeldSlot(slots)
            policy.withdraw(state)

    def _attempt(self, sending: Sending, once: Callable[[], Any], slot: HeldSlot | None) -> Any:
        client = self.client
        with sending.observed():
            attempt = sending.start(slot)
            assert slot is not None
            response: Any = None
            try:
                response = once()
                if not sending.is_failure(response):
                    client.add_permit(response, attempt.permit)
                    attempt.responded()
                    client.hold(response, slot)
                    return response
                is_whole = client.read_failure(response)
            except BaseException as error:
                try:
                    told = sending.broke(error, attempt)
                finally:
                    self._drop(response, slot)
                if told is error:
                    raise
                raise told from None
            try:
                told = sending.refused(response, attempt, is_whole=is_whole)
            except BaseException:  # a function of the policy is broken
                self._drop(response, slot)
                raise
            if is_whole:
                slot.end()
            else:
                client.hold(response, slot)
            raise told

    def _drop(self, response: Any, slot: HeldSlot) -> None:
        """Nobody gets the response, if there is one."""
        try:
            if response is not None:
                self.client.close(response)
        finally:
            slot.end()

    @contextmanager
    def _door(self, sending: Sending) -> Iterator[None]:
        """A block in which a request waits, no longer than until the end of all."""
        if blocks_loop():
            raise QueueStateError(
                f"the {self.client.name} would wait here, and block the event loop that "
                "runs in this thread: use a client for asyncio, or call this one by "
                f"asyncio.to_thread{advice()}"
            )
        self._asleep.add(sending)
        try:
            self.check_open()
            yield
        except asyncio.CancelledError:  # it is revoked
            self.check_open()
            raise
        finally:
            self._asleep.discard(sending)

    def _sleep(self, seconds: float, sending: Sending) -> None:
        wake_at = time.monotonic() + min(seconds, sending.time_left())
        while (left := wake_at - time.monotonic()) > 0:
            time.sleep(min(left, _ASK_EVERY))
            self.check_open()
        if sending.time_left() <= 0:
            raise too_late()

    def close(self) -> None:
        """Send nothing any more: requests that wait get ``QueueStateError``, in half a second."""
        self.is_closed = True
        for sending in list(self._asleep):
            sending.state.is_revoked = True
