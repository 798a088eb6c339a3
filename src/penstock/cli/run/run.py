"""A run: requests go from the input through a work queue to the sender, results to their file."""

from __future__ import annotations

import asyncio
import logging
import math

from penstock.cli.ctrl_c import on_signals
from penstock.cli.display import Display
from penstock.cli.run.answers import Answer, AttemptError
from penstock.cli.run.backlog import Backlog
from penstock.cli.run.fail_fast import FailFast, place
from penstock.cli.run.history import History, Snapshot
from penstock.cli.run.job import (
    BUDGET_SPENT,
    FILE_TROUBLE,
    REFUSED,
    UNREACHABLE,
    WRONG_INPUT,
    RunError,
    RunJob,
)
from penstock.cli.run.meter import duration
from penstock.cli.run.recorder import Recorder
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestResult, Totals
from penstock.cli.run.sender import Pending, Sender
from penstock.cli.run.tokens import MAX_REQUESTS, Tokens
from penstock.cli.run.tracing import mark_request_failed
from penstock.errors import BudgetExceededError, DeadlineExceededError, OutageError
from penstock.limits import AdaptiveConcurrency, Backoff, Limit, RetryPolicy
from penstock.limits.rate.budget import Budget
from penstock.policies.policy import Policy
from penstock.work_queue import WorkQueue

#: Seconds between two looks at the display.
_TICK = 0.1
NO_TOKENS = (
    "20 answers came, and none has a number of tokens (such as usage.total_tokens): say with "
    "--cost where answers have it, as in --cost meta.tokens.input+meta.tokens.output"
)
#: What windows of rates are made longer by: a share of them, and seconds at most.
_SLACK, _MOST_SLACK = 0.05, 0.1
#: Seconds that the end of a run waits for its files.
_LAST_WRITES = 2.0

# What the queue has to say is in the display and the summary.
_logger = logging.getLogger("penstock.cli")
# What the policy logs, too; the handlers of a program that sets logging up get it all the same.
logging.getLogger("penstock").addHandler(logging.NullHandler())


class Run:
    """One run. Never more in memory than the queue holds, the workers hold, and one record more.

    (But for the ids, in some hundred bytes each.)
    """

    def __init__(self, job: RunJob, totals: Totals, display: Display, history: History) -> None:
        self._job = job
        self._totals = totals
        self._history = history
        self._display = display
        limits = [
            Limit(most, per + slack(per), name="requests" if not number else f"requests {number}")
            for number, (most, per) in enumerate(job.rates)
        ]
        self._tokens: Tokens | None = None
        if job.cost is not None:
            left = None if job.max_tokens is None else job.max_tokens - job.results.earlier.tokens
            self._tokens = Tokens(job.cost, job.tokens, job.concurrency, left)
            limits += self._tokens.limits
        if job.max_requests is not None:
            calls = job.max_requests - job.results.earlier.calls
            limits.append(Budget(calls, name=MAX_REQUESTS))
        # Where lines go to services of their own, one that says "wait" holds up no other.
        self._gate_key = None if job.form.base is not None else _host
        self._policy = Policy(
            limits=limits,
            retry=retry_policy(job.attempts, job.give_up_after),
            deadline=job.deadline,
            gate_key=self._gate_key,
            max_retry_after=job.give_up_after,
            name="requests",
        )
        self._queue = WorkQueue[Pending](
            job.capacity,
            concurrency_limit=(
                AdaptiveConcurrency(1, job.concurrency) if job.is_adaptive else job.concurrency
            ),
            logger=_logger,
            name="requests",
            policy=self._policy,
            max_dead_letters=0,
        )
        self._sender = Sender(
            job.client, job.timeout, job.credentials, job.judge, job.keep_headers, job.is_traced
        )
        self._fail_fast = FailFast(job.keep_going)
        self._under_way = 0
        self._away_for = 0.0
        self._is_ending = self._is_read = False
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
        self._recorder = Recorder(job, self._totals, self._history)
        self._backlog = Backlog(job, self._totals, self._display, self._recorder)
        async with job.client:
            self._work = asyncio.create_task(self._send_all())
            with on_signals(self._interrupt):
                while not self._work.done():
                    await asyncio.wait([self._work], timeout=_TICK)
                    self._look()
                    self._display.tick()
                await self._close_files()
        if self._failure is None and not self._work.cancelled():
            self._failure = self._work.exception()
        self._failure = self._failure or self._backlog.trouble
        if self._failure is not None:
            raise self._failure
        return self._signal

    # -- what goes through --------------------------------------------------------------------

    async def _send_all(self) -> None:
        try:
            async with self._queue as queue:
                await queue.process(self._handle, error_handler=self._give_up)
                async for request in self._backlog:
                    pending = Pending(request, waits_since=self._totals.elapsed)
                    await queue.put(pending, timeout=math.inf)
                    if self._is_ending:
                        break
                self._is_read = True
        finally:
            self._look()
        nobody = self._fail_fast.nobody_is_there(at_end=True)
        if nobody is not None and not self._is_ending:
            raise RunError(nobody, UNREACHABLE)

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
        """Make one attempt; raise if it failed, for the policy to say whether there is another."""
        if not pending.attempts:
            self._totals.sent += 1
        elif pending.answer is not None:
            self._totals.retries[pending.answer.kind] += 1
        answer = await self._attempt(pending)
        if answer.response is not None:
            if self._job.feedback:
                response = answer.response
                key = None if self._gate_key is None else self._gate_key(pending)
                self._policy.limits.observe(response.headers, response.status, key=key)
            for held in self._fail_fast.answered():
                await self._recorder.record(*held)
        if self._tokens is not None:
            before = self._tokens.total
            self._tokens.settle(answer)
            self._history.spent(self._totals.elapsed, self._tokens.total - before)
            if self._tokens.are_nowhere:
                self._end(RunError(NO_TOKENS, WRONG_INPUT))
        failure = answer.failure
        if failure is None:
            await self._finish(self._sender.result(pending, answer), pending.request)
            return
        self._totals.refused += failure.is_throttle
        refusal = self._fail_fast.refusal(pending.request, answer)
        if refusal is not None:
            self._end(RunError(refusal, REFUSED))
        elif not (self._is_ending and self._is_retried(pending)):  # or it is unfinished
            raise AttemptError(answer, is_heeded=self._job.feedback)

    def _is_retried(self, pending: Pending) -> bool:
        """Whether another attempt would be made, if there was time."""
        failure = None if pending.answer is None else pending.answer.failure
        may_pass = failure is not None and not failure.is_permanent
        return may_pass and pending.attempts < self._job.attempts

    async def _attempt(self, pending: Pending) -> Answer:
        began = self._totals.elapsed
        self._history.started(began, began - pending.waits_since, pending.attempts + 1)
        answer = await self._sender.send(pending)
        pending.waits_since = ended = self._totals.elapsed
        outcome = answer.kind if answer.response is None else str(answer.response.status)
        self._history.ended(ended, ended - began, outcome)
        return answer

    async def _finish(self, result: RequestResult, request: Request) -> None:
        if self._job.is_traced:
            mark_request_failed("" if result.failure is None else result.failure.kind)
        if not self._fail_fast.holds_back(result, request):
            await self._recorder.record(result, request)
            return
        nobody = self._fail_fast.nobody_is_there()
        if nobody is not None:
            self._fail(RunError(nobody, UNREACHABLE))

    async def _give_up(self, error: Exception, pending: Pending) -> None:
        """There is no other attempt."""
        deadline = self._job.deadline
        if isinstance(error, BudgetExceededError):
            self._end(RunError(_spent(error), BUDGET_SPENT))  # the request is unfinished
            return
        away_for, limit = self._policy.statistics().outage_for, self._job.give_up_after
        if isinstance(error, OutageError) or away_for >= limit:
            why = "" if pending.answer is None else f": {pending.answer.message}"
            problem = f"the service has been down for {duration(limit)} (--give-up-after){why}"
            self._end(RunError(problem, UNREACHABLE))  # the request is unfinished
            return
        if isinstance(error, AttemptError) and error.failure.retry_after > limit:
            wait = duration(error.failure.retry_after)
            problem = f"{place(pending.request)} says to wait for {wait}: {error}"
            self._end(RunError(problem, UNREACHABLE))
            return
        if isinstance(error, AttemptError) and not (deadline and self._is_retried(pending)):
            result = self._sender.result(pending, error.answer)
        elif isinstance(error, (AttemptError, DeadlineExceededError)) and deadline is not None:
            result = self._sender.late(pending, deadline)
        else:
            self._fail(error)  # the sender takes all that can happen to a request
            return
        try:
            await self._finish(result, pending.request)
        except RunError as trouble:
            self._fail(trouble)

    # -- the end ------------------------------------------------------------------------------

    def _interrupt(self, number: int) -> None:
        if self._is_ending:
            self._work.cancel()
            return
        self._signal = number
        if self._under_way:
            self._display.tell(
                f"interrupted: waiting for the answers in progress ({self._under_way}); "
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
        closing = [asyncio.ensure_future(it.close()) for it in (self._recorder, self._backlog)]
        done, _ = await asyncio.wait(closing, timeout=_LAST_WRITES)
        for future in done:
            error = future.exception()
            if isinstance(error, OSError):
                problem = f"cannot close a file: {error.strerror or error}"
                self._failure = self._failure or RunError(problem, FILE_TROUBLE)

    def _tell_outage(self, away_for: float) -> None:
        """Tell people when the service goes away, and when it is back."""
        if away_for and not self._away_for:
            self._display.tell(
                "the service is down: no request fails because of it. From time to time one "
                "request tests whether it is back"
            )
        elif self._away_for and not away_for and not self._is_ending:
            self._display.tell(f"the service is back after {duration(self._away_for)}")
        self._away_for = away_for

    def _waits_for(self, queued: int, concurrency: int, closed_for: float) -> str:
        """What holds the requests up, if it is not the service's word."""
        away_for = self._policy.statistics().outage_for
        if away_for:
            return f"the service, down for {duration(away_for)}"
        if closed_for > 0:
            return ""  # which is told in words of its own
        if self._history.in_use >= concurrency:
            return f"answers ({concurrency} at once)"
        limiter = self._policy.limits
        if not queued:
            return "" if self._is_read else "input"
        if limiter.statistics().learned_rates:
            return "the pace that refusals taught"
        shares = limiter.utilization()
        binding = max(shares, key=shares.__getitem__, default="")
        return "--tokens" if binding == "tokens" else "--rate" if binding else ""

    # -- what is counted ----------------------------------------------------------------------

    def _look(self) -> None:
        totals, statistics = self._totals, self._queue.statistics()
        concurrency = statistics.concurrency_limit or self._job.concurrency
        closed_for = self._policy.limits.statistics().closed_for
        self._tell_outage(self._policy.statistics().outage_for)
        moment = Snapshot(
            concurrency,
            statistics.size,
            statistics.maxsize,
            closed_for,
            self._waits_for(statistics.size, concurrency, closed_for),
        )
        self._history.sample(totals.elapsed, moment)
        totals.queue_peak = statistics.peak_size
        totals.backpressure_waits = statistics.put_waits
        totals.held_up = statistics.gate_closures
        totals.tokens = None if self._tokens is None else self._tokens.total


def _host(pending: Pending) -> str:
    return pending.request.url.split("/", 3)[2]


def _spent(error: BudgetExceededError) -> str:
    return f"{error.budget} is used up: give a larger one to continue from here"


def slack(per: float) -> float:
    """Seconds by which a window of ``per`` seconds is taken longer than told.

    Requests that start exactly as the service counts arrive a little closer together than they
    left, now and then: without this, some would be refused, and each refusal costs a pause.
    """
    return min(_SLACK * per, _MOST_SLACK)


def retry_policy(attempts: int, give_up_after: float = math.inf) -> RetryPolicy:
    """Up to ``attempts`` attempts for each request, and none that counts while nobody is there."""
    if attempts == 1:
        return RetryPolicy(1, _may_pass, budget=None, give_up_after=give_up_after)
    # No budget: whoever sends a file of requests said how often.
    return RetryPolicy(
        attempts,
        _may_pass,
        Backoff(base=0.5, max=30.0),
        budget=None,
        give_up_after=give_up_after,
    )


def _may_pass(error: Exception) -> bool:
    return isinstance(error, AttemptError) and not error.failure.is_permanent
