"""One request, between the caller who sends it and the workers who say when.

The queue holds requests, and its workers send none: whoever takes one gives its caller a *turn*,
waits until the caller says how the attempt went, and then until the response is closed. So a
request is sent by the task or thread that wants it, which can be cancelled as ever, while limits,
retries, concurrency and telemetry are those of any queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

from opentelemetry import context as otel_context

from penstock.limits import Limiter
from penstock.limits.rate.permit import Permit, current_permits
from penstock.policies.engine import responded


class Turn:
    """One attempt: a worker is held for it until it failed, or its response is closed."""

    def __init__(self, permit: Permit | None) -> None:
        self.permit = permit
        self._context = otel_context.get_current()
        # Those of threads, because responses are closed, and collected, in any thread.
        self._answer: Future[None] = Future()
        self._end: Future[Any] = Future()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Send within this: what is sent is part of the attempt's span, and has its permit."""
        token = otel_context.attach(self._context)
        try:
            if self.permit is None:
                yield
            else:
                with self.permit.applied():
                    yield
        finally:
            otel_context.detach(token)

    def succeeded(self) -> None:
        """There is a response; the worker is held until it is closed."""
        _settle(self._answer, None)

    def failed(self, error: BaseException) -> None:
        """There is none, or one that is a failure."""
        with suppress(InvalidStateError):
            self._answer.set_exception(error)

    def given_up(self) -> None:
        """Nobody waits for the response any more."""
        self._answer.cancel()

    def not_taken(self) -> None:
        """Nothing was sent: it cost nothing of any limit."""
        if self.permit is not None:
            self.permit.give_back()
        self.given_up()

    def end(self, leftover: Any = None) -> None:
        """The response is closed; or its stream is ``leftover``, and the worker is to close it."""
        _settle(self._end, leftover)

    async def passes(self) -> None:
        """The worker: wait until it is over. Raises what the attempt failed with."""
        await asyncio.wrap_future(self._answer)
        responded()
        leftover = await asyncio.wrap_future(self._end)
        if leftover is not None:
            await _close(leftover)


class Turns:
    """The turns under way of one transport. For any thread."""

    def __init__(self) -> None:
        self._turns: set[Turn] = set()
        self._lock = threading.Lock()
        self._are_over = False

    @contextmanager
    def one(self, turn: Turn) -> Iterator[Turn]:
        """Count it as under way."""
        with self._lock:
            self._turns.add(turn)
            if self._are_over:
                _let_go(turn)
        try:
            yield turn
        finally:
            with self._lock:
                self._turns.discard(turn)

    def let_go(self) -> None:
        """Hold no worker any more, now or later, however far the attempts are."""
        with self._lock:
            self._are_over = True
            for turn in self._turns:
                _let_go(turn)


class Exchange:
    """A request on its way."""

    def __init__(self, limiter: Limiter, turns: Turns) -> None:
        self._limiter = limiter
        self._turns = turns
        #: What the queue says of the request in the end: a future of the caller's own world.
        self.result: Any = None
        #: The caller's next turn.
        self.turn: Future[Turn] = Future()
        #: What the last attempt ended with: as the queue was told, and as the caller gets it.
        self._told: BaseException | None = None
        self._ending: Any = None

    async def give_turn(self, request: Any) -> None:
        """The worker: the request may be sent now."""
        permits = [one for one in current_permits() if one.limiter is self._limiter]
        with self._turns.one(Turn(permits[-1] if permits else None)) as turn:
            try:
                self.turn.set_result(turn)
            except InvalidStateError:  # the caller is gone
                turn.not_taken()
            await turn.passes()

    def take_turn(self) -> Turn:
        """The caller: the turn that there is. The next one comes if the attempt fails."""
        turn = self.turn.result()
        self.turn = Future()
        return turn

    def failed(self, turn: Turn, told: BaseException, ending: Any) -> None:
        """The attempt failed with ``told``; the caller gets ``ending`` if it is the last."""
        self._told, self._ending = told, ending
        turn.failed(told)

    def outcome(self) -> Any:
        """What there is for the caller when the queue has said its word: a response.

        Raises what there is in its place.
        """
        error = asyncio.CancelledError() if self.result.cancelled() else self.result.exception()
        if error is None or error is self._told:
            error = self._ending
        if isinstance(error, BaseException):
            raise error
        return error

    def abandon(self) -> None:
        """The caller is gone, or has what it wants; what was not sent is not sent any more."""
        if not self.turn.cancel():
            self.turn.result().not_taken()
        result = self.result
        if result is None or result.cancel() or result.cancelled():
            return
        # Read, so that it is not logged as never retrieved: now, or when a thread's item has ended,
        # which cannot be cancelled once it runs.
        if result.done():
            result.exception()
        else:
            result.add_done_callback(lambda done: done.exception())


def _settle(future: Future[Any], value: Any) -> None:
    with suppress(InvalidStateError):  # told before
        future.set_result(value)


def _let_go(turn: Turn) -> None:
    turn.succeeded()
    turn.end()


async def _close(stream: Any) -> None:
    """Close the stream of a response that nobody holds any more."""
    with suppress(Exception):  # nor wants to know how that went
        if hasattr(stream, "aclose"):
            await stream.aclose()
        else:
            await asyncio.get_running_loop().run_in_executor(None, stream.close)
