"""A run: requests go from the input through a work queue to the sender, results to their file."""

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

from penstock.cli.clients import Clients
from penstock.cli.credentials import Credentials
from penstock.cli.display import Display
from penstock.cli.guard import Guard, place
from penstock.cli.history import History, Moment
from penstock.cli.ids import Seen, fingerprint, key
from penstock.cli.journal import MALFORMED, Results, malformed_key
from penstock.cli.lines import LineWriter
from penstock.cli.problems import RequestId, quote
from penstock.cli.requests import Request
from penstock.cli.results import Failure, Result, Totals
from penstock.cli.sender import Answer, Pending, Sender, TransientError, retry_policy
from penstock.cli.source import Form, Malformed, Source
from penstock.cli.tokens import Tokens
from penstock.cli.tracing import mark_request_failed
from penstock.errors import DeadlineExceededError
from penstock.limits import AdaptiveConcurrency, Limit
from penstock.work_queue import WorkQueue

#: Seconds between two looks at the display.
_TICK = 0.1
#: Seconds that the end of a run waits for its files.
_LAST_WRITES = 2.0

#: Exit codes of a run that stopped before its end.
UNAUTHORIZED, UNREACHABLE, FILE_TROUBLE = 3, 4, 5

# What the queue has to say is in the display and the summary.
_logger = logging.getLogger("penstock.cli")
_logger.addHandler(logging.NullHandler())


class RunError(Exception):
    """The run cannot go on; the message says why, and ``code`` is the exit code."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    requests: io.BufferedReader
    form: Form
    results: Results
    clients: Clients
    credentials: Credentials
    concurrency: int
    capacity: int
    attempts: int
    #: Seconds for each attempt, and for each request from its reading to its end.
    timeout: float
    deadline: float | None = None
    #: Where failures go as well.
    failures: io.FileIO | None = None
    #: So many requests, and so many tokens, in so many seconds.
    rate: tuple[float, float] | None = None
    tokens: tuple[float, float] | None = None
    #: Where an answer says how many tokens it was.
    cost: str | None = None
    #: Find out how many requests run at once, up to ``concurrency``.
    is_adaptive: bool = False
    #: Look at what the headers of answers say about limits.
    feedback: bool = True
    #: Send those again that failed in an earlier run.
    retry_failed: bool = False
    #: Stop for nothing that a service answers, or does not.
    keep_going: bool = False


class Run:
    """One run. Never more in memory than the queue holds, the workers hold, and one record more.

    (But for the ids, in some hundred bytes each.)
    """

    def __init__(self, job: Job, totals: Totals, display: Display, history: History) -> None:
        self._job = job
        self._totals = totals
        self._history = history
        self._display = display
        limits = [] if job.rate is None else [Limit(*job.rate, name="requests")]
        self._tokens: Tokens | None = None
        if job.cost is not None:
            self._tokens = Tokens(job.cost, job.tokens, job.concurrency)
            if self._tokens.limit is not None:
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
            deadline=job.deadline,
            max_dead_letters=0,
        )
        self._sender = Sender(job.clients, job.attempts, job.timeout, job.credentials)
        self._guard = Guard(job.keep_going)
        self._seen = Seen()
        self._under_way = 0
        self._is_ending = False
        self._failure: BaseException | None = None
        self._signal: int | None = None
        totals.tokens_earlier = job.results.earlier.tokens

    async def __call__(self) -> int | None:
        """Do it, and return the signal that interrupted it, if one did.

        The first signal lets what is under way come to its end, the second does not.

        Raises:
            RunError: it stopped before its end.
        """
        job = self._job
        self._source = Source(job.requests, job.form, self._count_blank)
        self._results = LineWriter(job.results.file, job.results.is_journal)
        self._failures = None if job.failures is None else LineWriter(job.failures)
        async with job.clients:
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
        return self._signal

    # -- what goes through --------------------------------------------------------------------

    async def _send_all(self) -> None:
        try:
            async with self._queue as queue:
                await queue.process(self._handle, error_handler=self._give_up)
                async for request in self._wanted():
                    pending = Pending(request, waits_since=self._totals.elapsed)
                    await queue.put(pending, timeout=math.inf)
                    if self._is_ending:
                        break
        finally:
            self._look()
        nobody = self._guard.nobody_is_there(at_end=True)
        if nobody is not None and not self._is_ending:
            raise RunError(nobody, UNREACHABLE)

    async def _wanted(self) -> AsyncIterator[Request]:
        """The requests that are to be sent."""
        earlier, totals = self._job.results.earlier, self._totals
        async for made in self._made():
            if isinstance(made, Malformed):
                await self._refuse(made.line, made.id, made.problem)
                continue
            which = key(made.id)
            before = self._seen.earlier(made.line, which, made.asks_for)
            if before is not None:
                await self._note_twin(made, *before)
            elif which in earlier.succeeded:
                totals.skipped += 1
            elif which in earlier.failed and not self._job.retry_failed:
                await self._skip_failure(earlier.failed[which])
            else:
                yield made

    async def _made(self) -> AsyncIterator[Request | Malformed]:
        try:
            async for made in self._source:
                yield made
        except OSError as error:
            # What has been read is sent all the same.
            problem = f"cannot read the requests to their end: {error.strerror or error}"
            self._failure = self._failure or RunError(problem, FILE_TROUBLE)

    async def _note_twin(self, request: Request, line: int, is_same: bool) -> None:
        if is_same:
            self._totals.duplicates += 1
            self._display.note(
                f"line {request.line}: asks for the same as line {line}, and is sent once"
            )
        else:
            problem = f"the id {quote(str(request.id))} is that of line {line}, for something else"
            await self._refuse(request.line, fingerprint(request.id, request.asks_for), problem)

    async def _refuse(self, line: int, request_id: RequestId, problem: str) -> None:
        known = self._job.results.earlier.malformed.get(malformed_key(request_id, problem))
        if known is not None:
            await self._skip_failure(known)
            return
        self._display.note(f"line {line}: {problem}")
        await self._record(Result(id=request_id, line=line, failure=Failure(MALFORMED, problem)))

    async def _skip_failure(self, place: int) -> None:
        """It failed in an earlier run; ``place`` is where the journal says so."""
        self._totals.failed_earlier += 1
        if self._failures is not None:
            await self._written(self._failures, self._job.results.line_at(place))

    # -- a request ----------------------------------------------------------------------------

    async def _handle(self, pending: Pending) -> None:
        if self._is_ending:
            return  # unfinished, and not sent
        self._under_way += 1
        try:
            await self._send(pending)
        finally:
            self._under_way -= 1
            if self._is_ending and not self._under_way:
                self._work.cancel()

    async def _send(self, pending: Pending) -> None:
        if not pending.attempts:
            self._totals.sent += 1
        answer = await self._attempt(pending)
        if answer.response is not None:
            if self._job.feedback:
                self._queue.limits.observe(answer.response.headers)
            for held in self._guard.answered():
                await self._record(*held)
        if self._tokens is not None:
            before = self._tokens.total
            self._tokens.settle(answer.response)
            self._history.spent(self._totals.elapsed, self._tokens.total - before)
        if self._guard.is_refused(pending.request, answer):
            problem = f"{place(pending.request)} answered {answer.message}"
            self._end(RunError(problem, UNAUTHORIZED))
        elif self._sender.may_pass(pending, answer):
            if self._is_ending:
                return  # unfinished
            self._totals.retries[answer.kind] += 1
            raise TransientError(answer)  # the queue makes another attempt, in time
        else:
            await self._finish(self._sender.result(pending, answer), pending.request)

    async def _attempt(self, pending: Pending) -> Answer:
        began = self._totals.elapsed
        self._history.started(began, began - pending.waits_since, pending.attempts + 1)
        answer = await self._sender.send(pending)
        pending.waits_since = ended = self._totals.elapsed
        outcome = answer.kind if answer.response is None else str(answer.response.status_code)
        self._history.ended(ended, ended - began, outcome)
        return answer

    async def _finish(self, result: Result, request: Request) -> None:
        mark_request_failed("" if result.failure is None else result.failure.kind)
        if not self._guard.holds_back(result, request):
            await self._record(result, request)
            return
        nobody = self._guard.nobody_is_there()
        if nobody is not None:
            self._fail(RunError(nobody, UNREACHABLE))

    async def _give_up(self, error: Exception, pending: Pending) -> None:
        """The queue makes no other attempt."""
        deadline = self._job.deadline
        if isinstance(error, TransientError) and deadline is not None:
            self._totals.retries[error.answer.kind] -= 1  # there is no time for it
        elif not isinstance(error, DeadlineExceededError) or deadline is None:
            self._fail(error)  # the sender takes all that can happen to a request
            return
        try:
            await self._finish(self._sender.late(pending, deadline), pending.request)
        except RunError as trouble:
            self._fail(trouble)

    async def _record(self, result: Result, request: Request | None = None) -> None:
        self._totals.add(result)
        self._history.finished(self._totals.elapsed, result, request)
        line = result.to_line()
        # Counted and handed over in one go: if this is cancelled, it is both, and will be written.
        written = self._results.write(line)
        if self._failures is not None and result.failure is not None:
            await self._written(self._failures, line)
        await self._confirmed(written)

    async def _written(self, writer: LineWriter, line: bytes) -> None:
        await self._confirmed(writer.write(line))

    async def _confirmed(self, written: asyncio.Future[None]) -> None:
        try:
            await written
        except OSError as error:
            problem = f"cannot write the results: {error.strerror or error}"
            raise RunError(problem, FILE_TROUBLE) from None

    # -- the end ------------------------------------------------------------------------------

    def _interrupt(self, number: int) -> None:
        if self._is_ending:
            self._work.cancel()
            return
        self._signal = number
        if self._under_way:
            self._display.tell(
                f"interrupted: waiting for the answers that are under way ({self._under_way}); "
                "once more stops at once"
            )
        self._end()

    def _end(self, error: RunError | None = None) -> None:
        """Start nothing more, and stop when what is under way is done."""
        self._failure = self._failure or error
        self._is_ending = True
        if not self._under_way:
            self._work.cancel()

    def _fail(self, error: BaseException) -> None:
        """Stop at once."""
        self._failure = self._failure or error
        self._work.cancel()

    async def _close_files(self) -> None:
        writers = [writer for writer in (self._results, self._failures) if writer is not None]
        closing: list[asyncio.Future[None]] = [
            asyncio.ensure_future(writer.close()) for writer in writers
        ]
        reader_closes = self._source.close()
        if not self._work.cancelled():  # or it may be in a read that never ends
            closing.append(reader_closes)
        done, _ = await asyncio.wait(closing, timeout=_LAST_WRITES)
        for future in done:
            error = future.exception()
            if isinstance(error, OSError):
                problem = f"cannot close a file: {error.strerror or error}"
                self._failure = self._failure or RunError(problem, FILE_TROUBLE)

    # -- what is counted ----------------------------------------------------------------------

    def _look(self) -> None:
        totals, statistics = self._totals, self._queue.statistics()
        concurrency = statistics.concurrency_limit or self._job.concurrency
        closed_for = self._queue.limits.statistics().closed_for
        moment = Moment(concurrency, statistics.size, statistics.maxsize, closed_for)
        self._history.sample(totals.elapsed, moment)
        totals.queue_peak = statistics.peak_size
        totals.backpressure_waits = statistics.put_waits
        totals.held_up = statistics.gate_closures
        totals.tokens = None if self._tokens is None else self._tokens.total

    def _count_blank(self) -> None:
        self._totals.blank += 1


@contextmanager
def _on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call(signal)`` in the loop on the first two Ctrl-C or SIGTERM; the third insists."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def react(number: int, frame: FrameType | None) -> None:
        if len(seen) > 1:
            raise KeyboardInterrupt
        seen.append(number)
        loop.call_soon_threadsafe(call, number)

    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
