"""From an item to a stored message: encoded, under an id of its own, in line for room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from nats.nuid import NUID

from penstock.brokers.codecs import JSON, Codec
from penstock.brokers.nats.queue.counts import Counts, Level
from penstock.brokers.nats.queue.intake import CONTENT_TYPE, DEADLINE
from penstock.brokers.nats.queue.news import News
from penstock.brokers.nats.queue.publisher import MESSAGE_ID, Line, Publisher
from penstock.errors import CodecError

T = TypeVar("T")

#: Seconds between two looks at the puts under way.
_LOOK = 0.5


class Putter(Generic[T]):
    """The puts of this process, counted by what became of them.

    Args:
        subject: where the messages go.
        max_item_size: the most bytes that an item may have, or None.
        news: told when the last put under way has ended.
    """

    def __init__(
        self,
        publisher: Publisher,
        subject: str,
        codec: Codec[T],
        max_item_size: int | None,
        counts: Counts,
        level: Level,
        news: News,
    ) -> None:
        self._publisher = publisher
        self._subject = subject
        self._codec = codec
        self._max_item_size = max_item_size
        self._counts = counts
        self._level = level
        self._news = news
        self._line = Line()
        # Message ids: one that is unique in the world, made at each start, and a number.
        self._id = ""
        self._number = 0
        # One object for each, not a number: those of a loop that was closed end late, or never.
        self._under_way: set[object] = set()

    @property
    def waiting(self) -> int:
        """How many puts wait for room."""
        return len(self._line)

    def open(self) -> None:
        """Put from now on."""
        self._id = NUID().next().decode()  # not before: a program may fork with its queue

    def close(self) -> None:
        """Send away those that wait for room."""
        self._line.close()

    def room(self) -> None:
        """There may be room now."""
        self._line.room()

    def forget(self) -> None:
        """The loop was closed: nothing will come of anything."""
        self._line = Line()
        self._under_way.clear()

    def pack(self, item: T, deadline: float | None) -> tuple[bytes, dict[str, str]]:
        """The payload and the headers of an item.

        Raises:
            CodecError: it cannot be encoded, or is too large.
        """
        payload, content_type = self._codec.encode(item), self._codec.content_type
        if self._max_item_size is not None and len(payload) > self._max_item_size:
            raise CodecError(
                f"The item is {len(payload)} bytes as {content_type}, and "
                f"max_item_size allows {self._max_item_size}"
            )
        headers = {} if content_type == JSON else {CONTENT_TYPE: content_type}
        if deadline is not None:
            headers[DEADLINE] = repr(deadline)
        return payload, headers

    async def put(
        self,
        payload: bytes,
        headers: dict[str, str],
        timeout: float,
        had_to_wait: Callable[[], None] | None = None,
        first_id: str | None = None,
    ) -> bool | None:
        """True when it is stored, False when there was no room, None when the line was closed.

        Args:
            timeout: seconds that it may wait for room.
            had_to_wait: called if there is none at once.
            first_id: the message id of the first offer; others have new ones.

        Raises:
            QueueUnknownError, BrokerError, CodecError: as :meth:`Publisher.store`.
        """
        ids = [] if first_id is None else [first_id]

        async def attempt() -> bool:
            self._number += 1
            headers[MESSAGE_ID] = ids.pop() if ids else f"{self._id}-{self._number:x}"
            return await self._publisher.store(self._subject, payload, headers)

        line, closings, me = self._line, self._line.closings, object()
        self._under_way.add(me)
        accepted: bool | None = False
        try:
            if not len(line):
                accepted = await attempt()
            if not accepted:
                if had_to_wait is not None:
                    had_to_wait()
                if line.closings != closings:
                    accepted = None
                elif timeout:
                    self._counts.put_waits += 1
                    accepted = await line.wait_for(attempt, timeout)
        except BaseException as error:
            self._counts.put_failed(error)
            raise
        finally:
            self._under_way.discard(me)
            if not self._under_way:
                self._news.tell()
        self._count(accepted)
        return accepted

    def _count(self, accepted: bool | None) -> None:
        if accepted is None:
            self._counts.stopped += 1
        elif accepted:
            self._counts.accept()
        else:
            self._counts.full += 1
            self._level.told_full()

    async def finish(self, timeout: float) -> None:
        """Let the server answer the puts that are under way, at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        while self._under_way and loop.time() < give_up_at:
            await self._news.wait(_LOOK)
