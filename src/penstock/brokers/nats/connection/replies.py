"""What comes of a request to NATS: an answer, a no of JetStream's, or none at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.msg import Msg

from penstock.errors import BrokerError

#: Seconds between two looks for requests that have waited long enough.
_SWEEP = 0.25


class NoReplyError(BrokerError):
    """There is no answer: it did not come in time, or the connection broke. Anything may be."""


class NoRespondersError(BrokerError):
    """Nobody heard it, so nothing was done: there is no listener, or no connection."""


class ApiError(BrokerError):
    """JetStream says no. ``code``: the number of the error, as the server's source lists them."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))
        super().__init__(str(error.get("description", "")))


class PendingReplies:
    """Who waits for an answer, and until when.

    One timer looks after all of them: one for each would cost as much as the rest of a request.
    """

    def __init__(self) -> None:
        self._number = 0
        # By number: where the request went, until when it may take, and who waits.
        self._waiting: dict[str, tuple[str, float, asyncio.Future[Msg]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def expect(self, subject: str, timeout: float) -> tuple[str, asyncio.Future[Msg]]:
        """A number for a request, and what its answer sets. :meth:`drop` it in the end."""
        self._number += 1
        number = str(self._number)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[number] = (subject, loop.time() + timeout, future)
        if self._sweep is None:
            self._sweep = loop.call_later(_SWEEP, self._expire, loop)
        return number, future

    def drop(self, number: str) -> None:
        """Nobody waits for it any more."""
        del self._waiting[number]

    async def on_reply(self, answer: Msg) -> None:
        """An answer came, to the number at the end of its subject; nobody may wait for it."""
        waiting = self._waiting.get(answer.subject.rpartition(".")[2])
        if waiting is not None and not waiting[2].done():
            waiting[2].set_result(answer)

    def fail(self, error: Exception, concerns: Callable[[str], bool]) -> None:
        """There will be none for those whose subject it concerns."""
        for subject, _, future in self._waiting.values():
            if not future.done() and concerns(subject):
                future.set_exception(error)

    def lost(self) -> None:
        """There will be none: the connection broke."""
        self.fail(NoReplyError("the connection was lost"), lambda _: True)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for _, until, future in self._waiting.values():
            if until <= now and not future.done():
                future.set_exception(NoReplyError("no answer in time"))
        self._sweep = loop.call_later(_SWEEP, self._expire, loop) if self._waiting else None


def reading(answer: Msg) -> dict[str, Any]:
    """What JetStream answered.

    Raises:
        ApiError: it says no.
    """
    told: dict[str, Any] = json.loads(answer.data)
    if "error" in told:
        raise ApiError(told["error"])
    return told
