"""The transport for threads."""

from __future__ import annotations

import atexit
import concurrent.futures
import math
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from penstock._util.hooks import ForkSafeLock
from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import PenstockError, QueueStateError
from penstock.http.exchange import Exchange, Turn, Turns
from penstock.http.face import (
    LONGEST_FAILURE,
    RequestT,
    ResponseT,
    Transport,
    TransportT,
    by_turns,
)
from penstock.http.held import Held
from penstock.sync import WorkQueue

#: One at a time: it takes a millisecond.
_starting = ForkSafeLock()

#: Seconds. A Ctrl-C in the moment in which a thread begins to wait does not end that wait.
_LOOK = 1.0


class HeldStream(Held):
    """For threads."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._head
            yield from self._chunks
        except GeneratorExit:  # the reader stopped, and closes it, or reads on
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    def close(self) -> None:
        """Close it; the worker is free then."""
        try:
            self._stream.close()
        finally:
            self._end()


class BlockingTransport(Transport[TransportT, RequestT, ResponseT]):
    """Sends by the threads that call it, when the workers of a blocking ``WorkQueue`` say so."""

    _make_queue = WorkQueue
    _is_started = False

    @property
    def _handler(self) -> str:
        return "handle_request"

    def handle_request(self, request: RequestT) -> ResponseT:
        """Send a request when its turn has come; clients call this."""
        self._check_open()
        self._be_started()
        self._check_request(request)
        exchange = Exchange(self.limits, self._turns)
        give_up_at = math.inf if self._deadline is None else time.monotonic() + self._deadline
        try:
            response: ResponseT = self._send(exchange, request, give_up_at)
        except PenstockError as error:
            self._raise_as_ours(error)
        finally:
            exchange.abandon()
        return response

    def _be_started(self) -> None:
        if blocks_loop():
            raise QueueStateError(
                f"Cannot send requests by a {type(self).__name__} in a running event loop: to wait "
                f"would block the loop. Use QueueTransport there, or asyncio.to_thread{advice()}"
            )
        with _starting:
            if self._is_started:
                return
            if self.queue.queue.is_inherited:  # made, but not used, before a fork
                self.queue = self._make_queue(**self._settings)
            self.queue.process(by_turns, error_handler=_told_already)
            self._is_started = True
            _at_exit.add(self._turns)

    def _send(self, exchange: Exchange, request: Any, give_up_at: float) -> Any:
        exchange.result = self.queue.queue.submit(
            request, timeout=self._time_for_room(), call=exchange.give_turn
        )
        while self._may_send(exchange, give_up_at):
            self._check_open()
            turn = exchange.take_turn()
            try:
                response = self._attempt(exchange, turn, request)
            except Exception as error:  # noqa: BLE001 - the queue says what comes of it
                self._broke(exchange, turn, request, error)
            except BaseException:  # Ctrl-C
                turn.given_up()
                raise
            else:
                if response is not None:
                    return response
        return exchange.outcome()

    def _may_send(self, exchange: Exchange, give_up_at: float) -> bool:
        """Wait for the next turn; False if there is none to come."""
        while True:
            left = give_up_at - time.monotonic()
            concurrent.futures.wait(
                [exchange.turn, exchange.result],
                timeout=max(0.0, min(left, _LOOK)),
                return_when=concurrent.futures.FIRST_COMPLETED,
            )
            if exchange.turn.done():
                return True
            if exchange.result.done():
                return False
            if left <= 0:
                raise self._too_late()

    def _attempt(self, exchange: Exchange, turn: Turn, request: Any) -> Any:
        """A response for the caller, or None if it is a failure."""
        with turn.entered():
            response = self._inner.handle_request(request)
            stream = response.stream
            try:
                wait = self.limits.observe(response.headers, response.status_code).wait
                if not self._found_failing(response):
                    return self._deliver(response, turn)
                body, rest = _read(stream)
                if rest is not None:
                    return self._deliver(response, turn, rest, body)
                stream.close()
            except BaseException:
                stream.close()
                raise
        self._refused(exchange, turn, request, response, b"".join(body), wait)
        return None

    def __enter__(self) -> Any:
        """Enter the inner transport; the queue starts with the first request."""
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close, as :meth:`close`."""
        try:
            self._close()
        finally:
            self._inner.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """End the queue and close the inner transport. Closing it again does nothing.

        Requests that wait get ``QueueStateError`` and are not sent; those in flight and responses
        that are not read to their end are broken off with their connections, as httpx has it.
        """
        try:
            self._close()
        finally:
            self._inner.close()

    def _close(self) -> None:
        self._is_closed = True
        self._turns.let_go()
        if self._is_started and not self.queue.queue.is_inherited:
            # In a thread, as this may be called in an event loop, and takes next to no time.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(self.queue.stop, timeout=0, drain=False).result()


def _read(stream: Any) -> tuple[list[bytes], Iterator[bytes] | None]:
    """The body, or its first part and what the rest comes from."""
    head: list[bytes] = []
    size = 0
    chunks = iter(stream)
    for chunk in chunks:
        head.append(chunk)
        size += len(chunk)
        if size > LONGEST_FAILURE:
            return head, chunks
    return head, None


def _told_already(error: Exception, request: Any) -> None:
    """The error handler: nobody waits for the request any more."""


# When the interpreter ends, queues are drained. A response that nobody will ever close must not
# keep that waiting. These hooks run last in, first out, and that of penstock.sync is in already.
_at_exit: weakref.WeakSet[Turns] = weakref.WeakSet()


def _let_all_go() -> None:
    for turns in list(_at_exit):
        turns.let_go()


getattr(threading, "_register_atexit", atexit.register)(_let_all_go)
