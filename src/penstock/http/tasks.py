"""The transport for tasks."""

from __future__ import annotations

import asyncio
import math
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from penstock.errors import PenstockError, QueueStateError
from penstock.http.exchange import Exchange, Turn
from penstock.http.face import (
    LONGEST_FAILURE,
    RequestT,
    ResponseT,
    Transport,
    TransportT,
    by_turns,
)
from penstock.http.held import Held
from penstock.queue.status import QueueStatus
from penstock.work_queue import WorkQueue


class HeldStream(Held):
    """For tasks."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._head:
                yield chunk
            async for chunk in self._chunks:
                yield chunk
        except GeneratorExit:  # the reader stopped, and closes it, or reads on
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    async def aclose(self) -> None:
        """Close it; the worker is free then."""
        try:
            await self._stream.aclose()
        finally:
            self._end()


class AsyncTransport(Transport[TransportT, RequestT, ResponseT]):
    """Sends by the tasks that call it, when the workers of a ``WorkQueue`` say so."""

    _make_queue = WorkQueue
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def _handler(self) -> str:
        return "handle_async_request"

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send a request when its turn has come; clients call this."""
        self._check_open()
        await self._be_started()
        self._check_request(request)
        exchange = Exchange(self.limits, self._turns)
        loop = asyncio.get_running_loop()
        give_up_at = math.inf if self._deadline is None else loop.time() + self._deadline
        try:
            response: ResponseT = await self._send(exchange, request, give_up_at)
        except PenstockError as error:
            self._raise_as_ours(error)
        finally:
            exchange.abandon()
        return response

    async def _be_started(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise QueueStateError(
                f"Cannot send requests: a {type(self).__name__} needs an asyncio event loop, and "
                "none runs here"
            ) from None
        if self._loop is None:
            self._loop = loop
            await self.queue.process(by_turns, error_handler=_told_already)
        elif self._loop is not loop:
            raise QueueStateError(
                f"Cannot send requests: the {type(self).__name__} {self.queue.name} belongs to "
                "another event loop. Make one, and a client, for each loop; they can share a "
                "penstock.Limiter",
                current_state=self.queue.status.value,
            )

    async def _send(self, exchange: Exchange, request: Any, give_up_at: float) -> Any:
        exchange.result = await self.queue.queue.submit(
            request, timeout=self._time_for_room(), call=exchange.give_turn
        )
        while await self._may_send(exchange, give_up_at):
            self._check_open()
            turn = exchange.take_turn()
            try:
                response = await self._attempt(exchange, turn, request)
            except Exception as error:  # noqa: BLE001 - the queue says what comes of it
                self._broke(exchange, turn, request, error)
            except BaseException:
                turn.given_up()
                raise
            else:
                if response is not None:
                    return response
        return exchange.outcome()

    async def _may_send(self, exchange: Exchange, give_up_at: float) -> bool:
        """Wait for the next turn; False if there is none to come."""
        loop = asyncio.get_running_loop()
        left = None if give_up_at == math.inf else max(0.0, give_up_at - loop.time())
        turn = asyncio.wrap_future(exchange.turn)
        await asyncio.wait(
            [turn, exchange.result], timeout=left, return_when=asyncio.FIRST_COMPLETED
        )
        if exchange.turn.done():
            return True
        if not exchange.result.done():
            raise self._too_late()
        return False

    async def _attempt(self, exchange: Exchange, turn: Turn, request: Any) -> Any:
        """A response for the caller, or None if it is a failure."""
        with turn.entered():
            response = await self._inner.handle_async_request(request)
            stream = response.stream
            try:
                wait = self.limits.observe(response.headers, response.status_code).wait
                if not self._found_failing(response):
                    return self._deliver(response, turn)
                body, rest = await _read(stream)
                if rest is not None:
                    return self._deliver(response, turn, rest, body)
                await stream.aclose()
            except BaseException:
                await stream.aclose()
                raise
        self._refused(exchange, turn, request, response, b"".join(body), wait)
        return None

    async def __aenter__(self) -> Any:
        """Enter the inner transport; the queue starts with the first request."""
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close, as :meth:`aclose`."""
        try:
            await self._close()
        finally:
            await self._inner.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """End the queue and close the inner transport. Closing it again does nothing.

        Requests that wait get ``QueueStateError`` and are not sent; those in flight and responses
        that are not read to their end are broken off with their connections, as httpx has it.
        """
        try:
            await self._close()
        finally:
            await self._inner.aclose()

    async def _close(self) -> None:
        self._is_closed = True
        self._turns.let_go()
        await self.queue.stop(timeout=0, drain=False)

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        loop = self._loop
        if loop is None or self._is_closed:
            return
        if self.queue.status is not QueueStatus.PROCESSING or loop.is_closed():
            return
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        queue = self.queue
        with suppress(RuntimeError):  # it was closed in this moment
            loop.call_soon_threadsafe(lambda: loop.create_task(queue.stop(timeout=0, drain=False)))


async def _read(stream: Any) -> tuple[list[bytes], AsyncIterator[bytes] | None]:
    """The body, or its first part and what the rest comes from."""
    head: list[bytes] = []
    size = 0
    chunks = aiter(stream)
    async for chunk in chunks:
        head.append(chunk)
        size += len(chunk)
        if size > LONGEST_FAILURE:
            return head, chunks
    return head, None


def _told_already(error: Exception, request: Any) -> None:
    """The error handler: nobody waits for the request any more."""
