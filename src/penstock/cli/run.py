"""A run: requests go from the file through a work queue to the sender, results to their file."""

from __future__ import annotations

import asyncio
import io
import logging
import math
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import httpx

from penstock.cli.display import Display
from penstock.cli.history import History, Moment
from penstock.cli.lines import LONGEST_LINE, LineReader, LineWriter
from penstock.cli.requests import MalformedLineError, Request, parse_request
from penstock.cli.results import Failure, Result, Totals
from penstock.cli.sender import Answer, Pending, Sender, TransientError, retry_policy
from penstock.cli.tokens import TokenLimit
from penstock.cli.tracing import mark_request_failed
from penstock.limits import AdaptiveConcurrency, Limit
from penstock.work_queue import WorkQueue

#: Seconds between two looks at the display.
_TICK = 0.1
#: Seconds that the end of a run waits for its files.
_LAST_WRITES = 2.0

# What the queue has to say is in the display and the summary.
_logger = logging.getLogger("penstock.cli")
_logger.addHandler(logging.NullHandler())


class RunError(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    requests: io.BufferedReader
    results: io.FileIO
    client: httpx.AsyncClient
    base: str | None
    concurrency: int
    capacity: int
    attempts: int
    timeout: float
    #: So many requests in so many seconds.
    rate: tuple[float, float] | None = None
    #: So many tokens in so many seconds, and where an answer says how many it was.
    tokens: tuple[float, float] | None = None
    cost: str = ""
    #: Find out how many requests run at once, up to ``concurrency``.
    is_adaptive: bool = False


class Run:
    """One run. Never more in memory than the queue holds, the workers hold, and one line more."""

    def __init__(self, job: Job, totals: Totals, display: Display, history: History) -> None:
        self._job = job
        self._totals = totals
        self._history = history
        self._display = display
        limits = [] if job.rate is None else [Limit(*job.rate, name="requests")]
        self._tokens: TokenLimit | None = None
        if job.tokens is not None:
            self._tokens = TokenLimit(*job.tokens, job.cost, job.concurrency)
            limits.append(self._tokens.limit)
        self._queue = WorkQueue[Pending](
            job.capacity,
            concurrency_limit=(
                AdaptiveConcurrency(1, job.concurrency) if job.is_adaptive else job.concurrency
            ),
            logger=_logger,
            name="requests",
            limits=limits,
            retry=retry_policy(job.attempts),
        )
        self._sender = Sender(job.client, job.attempts, job.timeout)
        self._failure: BaseException | None = None
        self._signal: int | None = None

    async def __call__(self) -> int | None:
        """Do it, and return the signal that interrupted it, if one did.

        Raises:
            RunError: a file could not be read or written to its end.
        """
        self._reader = LineReader(self._job.requests, self._count_blank)
        self._writer = LineWriter(self._job.results)
        async with self._job.client:
            self._work = asyncio.create_task(self._send_all())
            with _on_signals(self._interrupt):
                while not self._work.done():
                    await asyncio.wait([self._work], timeout=_TICK)
                    self._look()
                    self._display.tick()
                await self._close_files()
        if self._failure is None and not self._work.cancelled():
            self._failure = self._work.exception()
        if self._failure is not None:
            raise self._failure
        return self._signal if self._work.cancelled() else None

    def _look(self) -> None:
        now = self._queue.statistics()
        concurrency = now.concurrency_limit or self._job.concurrency
        closed_for = self._queue.limits.statistics().closed_for
        moment = Moment(concurrency, now.size, now.maxsize, closed_for)
        self._history.sample(self._totals.elapsed, moment)

    async def _close_files(self) -> None:
        closing: list[asyncio.Future[None]] = [asyncio.ensure_future(self._writer.close())]
        reader_closes = self._reader.close()
        if not self._work.cancelled():  # or it may be in a read that never ends
            closing.append(reader_closes)
        await asyncio.wait(closing, timeout=_LAST_WRITES)

    def _interrupt(self, number: int) -> None:
        self._signal = number
        self._work.cancel()

    async def _send_all(self) -> None:
        queue = self._queue
        try:
            async with queue:
                await queue.process(self._handle, error_handler=self._give_up)
                async for request in self._read():
                    pending = Pending(request, waits_since=self._totals.elapsed)
                    await queue.put(pending, timeout=math.inf)
        finally:
            statistics = queue.statistics()
            self._totals.queue_peak = statistics.peak_size
            self._totals.backpressure_waits = statistics.put_waits
            self._totals.held_up = statistics.gate_closures
            self._totals.tokens = None if self._tokens is None else self._tokens.total

    async def _read(self) -> AsyncIterator[Request]:
        async for number, line in self._lines():
            try:
                if line is None:
                    raise MalformedLineError(f"longer than {LONGEST_LINE // 2**20} MiB")
                yield parse_request(number, line, self._job.base)
            except MalformedLineError as error:
                self._display.note(f"line {number}: {error}")
                given_id = number if error.id is None else error.id
                failure = Failure("malformed", str(error))
                await self._record(Result(id=given_id, line=number, failure=failure))

    async def _lines(self) -> AsyncIterator[tuple[int, bytes | None]]:
        try:
            async for numbered in self._reader:
                yield numbered
        except OSError as error:
            raise RunError(f"cannot read the requests: {error.strerror or error}") from None

    async def _handle(self, pending: Pending) -> None:
        if not pending.attempts:
            self._totals.sent += 1
        answer = await self._attempt(pending)
        if answer.response is not None:
            self._queue.limits.observe(answer.response.headers)
        if self._tokens is not None:
            before = self._tokens.total
            self._tokens.settle(answer.response)
            self._history.spent(self._totals.elapsed, self._tokens.total - before)
        if self._sender.may_pass(pending, answer):
            self._totals.retries[answer.kind] += 1
            raise TransientError(answer)  # the queue makes another attempt, in time
        result = self._sender.result(pending, answer)
        mark_request_failed("" if result.failure is None else result.failure.kind)
        await self._record(result, pending.request)

    async def _attempt(self, pending: Pending) -> Answer:
        began = self._totals.elapsed
        self._history.started(began, began - pending.waits_since, pending.attempts + 1)
        answer = await self._sender.send(pending)
        pending.waits_since = ended = self._totals.elapsed
        outcome = answer.kind if answer.response is None else str(answer.response.status_code)
        self._history.ended(ended, ended - began, outcome)
        return answer

    async def _record(self, result: Result, request: Request | None = None) -> None:
        self._totals.add(result)
        self._history.finished(self._totals.elapsed, result, request)
        # Counted and handed over in one go: if this is cancelled, it is both, and will be written.
        written = self._writer.write(result.to_line())
        try:
            await written
        except OSError as error:
            raise RunError(f"cannot write the results: {error.strerror or error}") from None

    def _give_up(self, error: Exception, pending: Pending) -> None:
        """The sender takes all that can happen to a request, so this ends the run."""
        self._failure = self._failure or error
        self._work.cancel()

    def _count_blank(self) -> None:
        self._totals.blank += 1


@contextmanager
def _on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call(signal)`` in the loop on the first Ctrl-C or SIGTERM; the next one insists."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def react(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        loop.call_soon_threadsafe(call, number)

    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
