"""One random program that uses a queue with rules, made from a seed, and what must hold of it.

All durations are multiples of an eighth of a second, but for the jitter after a closed gate.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import (
    AdaptiveConcurrency,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Limit,
    Limiter,
    OutageError,
    Policy,
    QueueFullError,
    QueueStateError,
    QueueStatistics,
    QueueStatus,
    RateLimitError,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import BreakerState
from simulation.program import OBSERVED, ItemError, OddError, Program, PutOutcome

MOMENTS = (0.0, 0.0, 0.125, 0.125, 0.25, 0.5, 1.0, 3.0)
TIMEOUTS = (None, 0, 0, 0.125, 1.0, math.inf)
GRAIN = 1e-9
#: What a budget for retries holds.
TOKENS = 5


@dataclass(eq=False)
class Item:
    """What the program puts, what its calls shall do, and what became of them."""

    number: int
    key: int
    cost: int
    actual: int
    #: Seconds that a call takes; None: it does not suspend.
    takes: float | None
    #: Whether it swallows its cancellation.
    is_stubborn: bool
    #: What the first calls raise.
    raises: list[BaseException]
    deadline: float | None
    put_at: float = 0.0
    future: asyncio.Future[Any] | None = None
    accepted: int = 0
    #: Whether it is no item of the queue, but called under its policy.
    is_called: bool = False
    #: Calls that succeeded, that failed, and calls of the handler that were cancelled.
    succeeded: int = 0
    failed: int = 0
    #: Those of the failed ones that were refused, and those to which nobody was there.
    throttled: int = 0
    unanswered: int = 0
    handler_cancelled: int = 0
    #: Errors that the handler got.
    handled: list[BaseException] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"#{self.number}"

    @property
    def raises_cancelled(self) -> bool:
        """Whether the next call raises CancelledError of its own accord."""
        return bool(self.raises) and isinstance(self.raises[0], asyncio.CancelledError)


@dataclass
class Start:
    """A call that was made."""

    at: float
    item: Item
    cost: int
    #: How often the item had been given up before.
    given_up: int


class RulesProgram(Program):
    """Limits, retries, a breaker, deadlines: what ``WorkQueue`` promises under rules."""

    name = "rules"

    def set_up(self) -> None:
        rng = self.random
        self.is_adaptive = rng.random() < 0.3
        self.loop.observer = self
        self.loop.on_thread = self.enter_thread
        self.all_items: list[Item] = []
        self.starts: list[Start] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in their order
        #: The last call on each item, by its number.
        self.latest: dict[int, Start] = {}
        #: When the gate of a key was closed, and until when; that of None is the gate for all.
        self.closed: dict[int | None, tuple[float, float]] = {}
        self.failures: list[BaseException] = []
        self.stops: list[asyncio.Task[Any]] = []
        self.peak_in_hand = 0
        self.limits = self._some_limits()
        self.gate_key = (lambda item: item.key) if rng.random() < 0.15 else None
        self.is_keyed = self.gate_key is not None or any(limit.key for limit in self.limits)
        self.attempts = rng.choice((1, 2, 3, 5))
        backoffs = rng.choice(((0.0,), (0.125, 0.5), (1.0, 4.0)))
        self.budget = rng.choice((None, RetryBudget(TOKENS, 2, 1, 0.5)))
        self.retry = rng.choice(
            (
                None,
                RetryPolicy(self.attempts, on=(ConnectionError, RateLimitError), budget=None)
                if self.attempts == 1
                else RetryPolicy(
                    self.attempts,
                    on=(ConnectionError, RateLimitError),
                    backoff=lambda attempt, error: rng.choice(backoffs),
                    budget=self.budget,
                ),
            )
        )
        if self.retry is None:
            self.attempts = 1
        else:
            self.retry = replace(
                self.retry,
                hold=rng.choice((None, None, True, False)),
                give_up_after=rng.choice((4.0, 300.0)),
            )
        #: Until when the service is away, and the probes under way.
        self.away_until = -math.inf
        self.probes = 0
        self.breaker = rng.choice(
            (
                None,
                None,
                CircuitBreaker(
                    rng.choice((0.5, 1.0)),
                    window=rng.randint(1, 4),
                    minimum=1,
                    open_for=rng.choice((0.5, 4.0)),
                    probes=rng.randint(1, 2),
                ),
            )
        )
        self.deadline = rng.choice((None, None, None, 2.0, 8.0))
        self.limiter = Limiter(self.limits, rng=random.Random(self.seed))
        self.concurrency = rng.choice((None, None, None, 1, 2, 3))
        #: Calls under way in the loop, those in threads, and handlers that take their time.
        self.under_way = self.in_threads = self.handling = 0
        self.policy = Policy(
            limits=self.limiter,
            retry=self.retry,
            breaker=self.breaker,
            deadline=self.deadline,
            concurrency=self.concurrency,
            gate_key=self.gate_key,
        )
        if self.policy._outages is not None:
            self.policy._outages._items = rng.choice((2, 2, 5))  # five are rare in small programs
        self.queue: WorkQueue[Item] = WorkQueue(
            rng.choice((1, 2, 3, 5)),
            rng.choice((0, 0.125, 1.0)),
            logger=SILENT,
            policy=self.policy,
            telemetry=rng.choice((None, None, OBSERVED)),
        )
        self.failing = rng.choice((0.0, 0.2, 0.6))
        self.choices = {
            self.put_soon: 8,
            self.put_nowait: 4,
            self.submit_soon: 4,
            self.cancel_future: rng.choice((0, 2)),
            self.cancel_task: rng.choice((0, 2)),
            self.start_workers: rng.choice((0.3, 1)),
            self.stop_workers: rng.choice((0, 0.5)),
            self.stop_soon: rng.choice((0, 0, 0.5)),
            self.restart: rng.choice((0, 0.5, 1)),
            self.redrive_soon: rng.choice((0, 1)),
            self.use_limiter_soon: rng.choice((0, 2)),
            self.call_soon: rng.choice((0, 3)),
            self.observe: rng.choice((0, 0.3)),
            self.go_away: rng.choice((0, 0, 1)),
        }

    def items(self) -> list[Any]:
        dead = {letter.item.number for letter in self.queue.dead_letters}
        return [item for item in self.all_items if item.number not in dead]

    def forget(self) -> Any:
        queue = self.queue
        self.loop.on_thread = None
        self.all_items.clear()
        self.starts.clear()
        self.latest.clear()
        self.failures.clear()
        return queue

    def _some_limits(self) -> list[Limit]:
        rng = self.random
        limits = []
        for number in range(rng.choice((0, 1, 1, 2, 3))):
            has_cost = rng.random() < 0.4
            limits.append(
                Limit(
                    rng.randint(4, 8) if has_cost else rng.randint(1, 5),
                    rng.choice((0.5, 1.0, 4.0)),
                    cost=(lambda item: item.cost) if has_cost else None,
                    key=(lambda item: item.key) if rng.random() < 0.3 else None,
                    name=f"limit {number}",
                )
            )
        return limits

    # -- the program --------------------------------------------------------------------------

    async def begin(self) -> None:
        await self.start_workers()

    async def pause(self) -> None:
        self.check_now()
        rng = self.random
        if rng.random() > self.haste:
            await asyncio.sleep(rng.choice(MOMENTS))

    async def finish(self) -> None:
        if self.random.random() < 0.5:
            await self.stop(self.random.choice((0, 1.0)), drain=self.random.random() < 0.5)
        if self.stops:
            await asyncio.wait(self.stops)
        self.note("from here on all goes well")
        self.away_until = -math.inf
        for item in self.all_items:
            item.raises.clear()
        for task in [*self.tasks]:
            if self.random.random() < 0.5:
                task.cancel()
        await self.queue.process(self.in_loop, 3, self.handle)
        if self.random.random() < 0.5:
            await self.queue.join()
        drained = await self.queue.stop()
        if self.tasks:
            await asyncio.wait(self.tasks)
            await asyncio.sleep(0)
        self.check_now()
        self.hold(drained, "a stop that drains left something")
        self.check_at_rest()
        self.hold(not self.queue.unprocessed, "a stop that drains left something")
        await self.check_that_nothing_leaked()

    def new_item(self) -> Item:
        rng = self.random
        raises: list[BaseException] = []
        if rng.random() < self.failing:
            kinds: tuple[Callable[[], BaseException], ...] = (
                ConnectionError,
                ConnectionError,
                lambda: RateLimitError(retry_after=rng.choice((None, 0.5, 2.0))),
                KeyError,
                asyncio.CancelledError,
                OddError,
            )
            raises = [rng.choice(kinds)() for _ in range(rng.randint(1, 4))]
        cost = rng.randint(0, 4)
        item = Item(
            number=len(self.all_items),
            key=rng.randint(0, 2),
            cost=cost,
            actual=rng.choice((cost, rng.randint(0, cost))),
            takes=rng.choice((None, *MOMENTS)),
            is_stubborn=rng.random() < 0.2,
            raises=raises,
            deadline=rng.choice((None, None, None, 1.0)),
            put_at=self.loop.time(),
        )
        self.all_items.append(item)
        return item

    def soon(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self.tasks[task] = None
        task.add_done_callback(self.is_done)
        return task

    def is_done(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failures.append(error)

    # -- what it does -------------------------------------------------------------------------

    def put_soon(self) -> None:
        self.soon(self.put(self.new_item(), self.random.choice(TIMEOUTS)))

    async def put(self, item: Item, timeout: float | None) -> None:
        item.put_at = self.loop.time()
        with suppress(QueueStateError):
            if await self.queue.put(item, timeout, deadline=item.deadline):
                item.accepted += 1
                self.note(f"{item} is accepted")

    def put_nowait(self) -> None:
        item = self.new_item()
        item.deadline = None
        with suppress(QueueStateError, QueueFullError):
            self.queue.put_nowait(item)
            item.accepted += 1
            self.note(f"{item} is accepted at once")
            now = self.queue.statistics()
            self.hold(now.size + now.retrying <= now.maxsize, "more was let in than there is room")

    def submit_soon(self) -> None:
        item = self.new_item()
        self.soon(self.submit(item, self.random.choice(TIMEOUTS)))

    async def submit(self, item: Item, timeout: float | None) -> None:
        item.put_at = self.loop.time()
        with suppress(QueueStateError, QueueFullError):
            item.future = await self.queue.submit(item, timeout=timeout, deadline=item.deadline)
            item.accepted += 1
            self.note(f"{item} is submitted")

    def cancel_future(self) -> None:
        futures = [item for item in self.all_items if item.future is not None]
        if futures:
            item = self.random.choice(futures)
            assert item.future is not None
            self.note(f"the future of {item} is cancelled: {item.future.cancel()}")

    def cancel_task(self) -> None:
        self.cancel_one(self.random)

    def cancel_one(self, rng: random.Random) -> None:
        if self.tasks:
            self.note("a task is cancelled")
            rng.choice([*self.tasks]).cancel()

    async def start_workers(self) -> None:
        count: Any = self.random.randint(1, 4)
        if self.is_adaptive and self.random.random() < 0.7:
            count = AdaptiveConcurrency(1, 8, start=self.random.randint(1, 4))
        self.note(f"{count} workers")
        work = self.in_thread if self.random.random() < 0.2 else self.in_loop
        handler = self.random.choice((self.handle, self.handle_slowly, self.handle_badly))
        with suppress(QueueStateError):  # another stop is under way
            await self.queue.process(work, count, handler)

    async def stop_workers(self) -> None:
        await self.queue.queue.stop_workers(self.random.choice((0, 0.25, 2.0)))  # type: ignore[attr-defined]
        self.note("no workers")
        if self.random.random() < 0.8:
            await asyncio.sleep(self.random.choice(MOMENTS))
            await self.start_workers()

    async def restart(self) -> None:
        rng = self.random
        await self.stop(rng.choice((0, 0, 0.25, 2.0, None)), drain=rng.random() < 0.5)
        await asyncio.sleep(rng.choice(MOMENTS))
        await self.start_workers()

    def stop_soon(self) -> None:
        timeout, drain = self.random.choice((0, 0.25, 2.0, None)), self.random.random() < 0.5
        self.note(f"stop soon, timeout={timeout}, drain={drain}")
        task = self.soon(self.queue.stop(timeout, drain=drain))
        self.stops.append(task)

    async def stop(self, timeout: float | None, *, drain: bool) -> None:
        self.note(f"stop(timeout={timeout}, drain={drain})")
        result = await self.queue.stop(timeout, drain=drain)
        for _ in range(3):  # those who are told so say so, a redrive in several steps
            await asyncio.sleep(0)
        self.note(f"stopped, {self.queue.unprocessed} left")
        left = self.queue.unprocessed
        self.hold(result is (not left), f"stop returned {result}, and {left} is left")
        self.check_at_rest()

    def redrive_soon(self) -> None:
        async def redrive() -> None:
            with suppress(QueueStateError):
                await self.queue.redrive(self.random.choice(TIMEOUTS))

        self.soon(redrive())

    def use_limiter_soon(self) -> None:
        item = self.new_item()

        async def use() -> None:
            async with self.limiter.permit(item):
                self.note_start(item, is_bare=True)

        self.soon(use())

    def call_soon(self) -> None:
        item = self.new_item()
        item.is_called, item.deadline = True, None

        async def call() -> None:
            item.put_at = self.loop.time()
            with suppress(
                ConnectionError,
                RateLimitError,
                KeyError,
                OddError,
                DeadlineExceededError,
                CircuitBreakerOpenError,
                OutageError,
            ):
                await self.policy.call(self.in_loop, item)

        self.soon(call())

    def observe(self) -> None:
        self.queue.limits.observe({"Retry-After": "1"})
        self.close_gate(1.0)

    def go_away(self) -> None:
        self.away_until = self.loop.time() + self.random.choice((0.5, 4.0, 20.0))
        self.note(f"the service is away until {self.away_until}")

    # -- what workers do ----------------------------------------------------------------------

    def note_start(self, item: Item, *, is_bare: bool = False) -> Start:
        now = self.loop.time()
        start = Start(now, item, item.cost, len(item.handled))
        self.starts.append(start)
        self.note(f"{item} starts")
        # Whoever was let through in the instant in which it was closed is through.
        # A limiter that is used without the policy does not know the key that the policy asks for.
        has_key = self.is_keyed and not (is_bare and self.gate_key is not None)
        for key in {None, item.key if has_key else None}:
            closed_at, until = self.closed.get(key, (now, now))
            self.hold(not closed_at < now < until - GRAIN, f"the gate is closed until {until}")
        return start

    def close_gate(self, seconds: float, key: int | None = None) -> None:
        now = self.loop.time()
        closed_at, until = self.closed.get(key, (now, now))
        self.closed[key] = (now if now >= until else closed_at), max(until, now + seconds)

    async def in_loop(self, item: Item) -> Item:
        """The worker function."""
        is_probe = self.is_probe(item)
        start = self.begin_call(item)
        self.under_way += 1
        self.probes += is_probe
        if self.concurrency is not None:
            self.hold(self.under_way <= self.concurrency, f"{self.under_way} calls are under way")
        try:
            if item.takes is not None:
                await asyncio.sleep(item.takes)
        except asyncio.CancelledError:
            self.note(f"{item} is broken off")
            if not item.is_stubborn or item.raises_cancelled or not self.is_heard(item, start):
                raise
        finally:
            self.under_way -= 1
            self.probes -= is_probe
        return self.end_call(item, start)

    @property
    def had_outage(self) -> bool:
        """Whether anybody took notice."""
        return self.policy.statistics().outages > 0

    def is_probe(self, item: Item) -> bool:
        """Whether the call is to find out that the service is back; there is one at a time."""
        retry, outage_for = self.retry, self.policy.statistics().outage_for
        if retry is None or not 0 < outage_for < retry.give_up_after - GRAIN:
            return False
        if self.is_keyed:  # of each key
            return False
        is_awaited = item.is_called or item.future is not None
        if is_awaited and retry.hold is None:
            return False
        self.hold(not self.probes, f"{item} starts in an outage, beside another one")
        return True

    def in_thread(self, item: Item) -> PutOutcome:
        """The worker function, a plain one."""
        return PutOutcome(partial(self.leave_thread, item))

    def enter_thread(self, call: partial[Any]) -> None:
        item = call.args[-1]
        self.in_threads += 1
        self.begin_call(item)

    def leave_thread(self, item: Item) -> Item:
        self.in_threads -= 1
        return self.end_call(item, self.latest[item.number])

    def is_heard(self, item: Item, start: Start) -> bool:
        """Whether anybody still minds how the call ends.

        When the loop stalls for long enough its item is taken from a worker, as from one that
        ignores its cancellation.
        """
        is_left = any(other is item for other in self.queue.unprocessed)
        is_left |= len(item.handled) > start.given_up  # it was left, and its deadline has passed
        return not is_left and self.latest[item.number] is start

    def begin_call(self, item: Item) -> Start:
        start = self.latest[item.number] = self.note_start(item)
        if self.breaker is not None:
            is_open = self.breaker.state(start.at) is BreakerState.OPEN
            self.hold(not is_open, f"{item} starts while the breaker is open")
        deadline = self.deadline if item.deadline is None else item.deadline
        if deadline is not None and not self.was_redriven(item):
            self.hold(start.at < item.put_at + deadline, f"{item} starts past its deadline")
        return start

    def end_call(self, item: Item, start: Start) -> Item:
        for limit in self.limits:
            if limit.cost is not None:
                limit.settle(item.actual)
                start.cost = item.actual
        if start.at < self.away_until:
            item.failed += 1
            item.unanswered += 1
            self.note(f"nobody is there for {item}")
            raise ConnectionError("nobody is there")
        if item.raises:
            error = item.raises.pop(0)
            item.failed += 1
            item.throttled += isinstance(error, RateLimitError)
            item.unanswered += isinstance(error, ConnectionError)
            self.note(f"{item} fails: {error!r}")
            if isinstance(error, RateLimitError) and error.retry_after:
                self.close_gate(error.retry_after, item.key if self.is_keyed else None)
            raise error
        item.succeeded += 1
        self.note(f"{item} succeeds")
        return item

    def handle(self, error: BaseException, item: Item) -> None:
        self.note(f"{item} is given up: {error!r}")
        item.handled.append(error)

    async def handle_slowly(self, error: BaseException, item: Item) -> None:
        self.handling += 1
        given_up = len(item.handled)
        try:
            await asyncio.sleep(0.125)
        except asyncio.CancelledError:
            item.handler_cancelled += 1  # the item is given back, to be tried once more
            raise
        finally:
            self.handling -= 1
        is_left = any(other is item for other in self.queue.unprocessed)
        if is_left or len(item.handled) > given_up:  # the loop stalled, see is_heard
            item.handler_cancelled += 1
            return
        self.handle(error, item)

    def handle_badly(self, error: BaseException, item: Item) -> None:
        self.handle(error, item)
        raise ItemError("the handler failed")

    def was_redriven(self, item: Item) -> bool:
        return self.retry is not None and bool(item.handled)

    # -- what must hold -----------------------------------------------------------------------

    def check_now(self) -> None:
        for failure in self.failures:
            raise failure
        self.check_counts(self.queue.statistics())

    def check_counts(self, now: QueueStatistics) -> None:
        most = now.maxsize + self.peak_in_hand
        self.hold(now.size <= now.maxsize, f"{now.size} wait, of at most {now.maxsize}")
        self.hold(now.size + now.retrying <= most, f"retries let the queue grow above {most}")
        self.hold(now.enqueued - now.processed == now.unfinished, f"it does not add up: {now}")
        if self.budget is not None:
            self.hold(0 <= self.budget.tokens <= TOKENS, f"the budget has {self.budget.tokens}")

    def after_step(self) -> None:
        """The loop has gone round."""
        if self.violation:
            raise self.violation
        if self.retry is None and not self.is_keyed:
            return  # then nothing is postponed
        now = self.queue.statistics()
        given_back = now.unfinished - now.inflight - now.size - now.retrying
        # Those that were replaced and finish what they hold are not counted as workers.
        workers = sum("worker" in task.get_name() for task in asyncio.all_tasks(self.loop))
        self.peak_in_hand = max(self.peak_in_hand, workers + max(0, given_back))

    def at_rest(self) -> None:
        """Nothing can run before the clock moves on."""
        now = self.queue.statistics()
        self.check_counts(now)
        if now.status is QueueStatus.PROCESSING and now.waiting_putters:
            self.hold(now.size + now.retrying >= now.maxsize, "a put waits, and there is room")
        if self.concurrency is None:
            busy = self.under_way + self.in_threads + self.handling
            self.hold(now.inflight <= busy, f"{now.inflight} are in hand, and {busy} are busy")

    def check_at_rest(self) -> None:
        """The queue is stopped: all is accounted for."""
        queue, counts = self.queue, self.queue.metrics
        left = Counter(queue.unprocessed)
        now = queue.statistics()
        self.hold(now.status is QueueStatus.STOPPED, f"stopped, but {now.status.value}")
        self.hold((now.inflight, now.worker_count) == (0, 0), f"stopped, but somebody works: {now}")
        adds_up = counts["enqueued"] == counts["processed"] + left.total()
        self.hold(adds_up, f"{counts} does not add up with {left.total()} unprocessed")
        dead = Counter(letter.item for letter in queue.dead_letters)
        for item in self.all_items:
            self.check_item(item, left[item], dead[item])
        if self.budget is not None and self.retry is not None and not self.had_outage:
            most = TOKENS + sum(2 * item.succeeded + item.throttled for item in self.all_items)
            self.hold(now.retries <= most, f"{now.retries} retries, of at most {most} paid for")
        for limit in self.limits:
            self.check_limit(limit)

    def check_item(self, item: Item, left: int, dead: int) -> None:
        if item.is_called:
            calls = item.succeeded + item.failed
            if self.retry is not None and self.retry.hold:
                calls -= self.free_calls(item)
            self.hold(calls <= self.attempts, f"{item} had {calls} attempts")
            self.hold(not left and not dead and not item.handled, f"{item} is none of the queue's")
            return
        came = item.accepted
        if self.retry is not None:  # of a submitted item too, once a stop has handed it back
            came += len(item.handled) - dead  # what was buried and is no longer there was put back
            self.hold(dead <= len(item.handled), f"{item} is dead, and nobody was told")
        future = item.future
        told = 0
        if future is not None and future.done() and not future.cancelled():
            error = future.exception()
            told = error is not None and not isinstance(error, QueueStateError)
        ended = item.succeeded + len(item.handled) + told
        if future is not None and future.cancelled():
            self.hold(ended + left <= came, f"{item} came {came} times, and ended {ended} times")
        else:
            self.hold(
                ended + left == came,
                f"{item} came {came} times, ended {ended} times and is left {left} times",
            )
        calls = item.succeeded + item.failed - self.free_calls(item)
        most = self.attempts * came + item.handler_cancelled
        self.hold(calls <= most, f"{item} had {calls} attempts, of at most {most}")
        for error in item.handled:
            self.hold(self.had_outage or not isinstance(error, OutageError), f"{error!r}: why?")
            if isinstance(error, (DeadlineExceededError, CircuitBreakerOpenError)):
                has_reason = bool(self.deadline or item.deadline or self.breaker)
                self.hold(has_reason, f"{item} was given up without a reason: {error!r}")

    def free_calls(self, item: Item) -> int:
        """How many of its calls may not count as attempts."""
        may_be = self.had_outage or self.breaker is not None
        return item.throttled + (item.unanswered if may_be else 0)

    def check_limit(self, limit: Limit) -> None:
        for key in {0} if limit.key is None else {0, 1, 2}:
            starts = [s for s in self.starts if limit.key is None or s.item.key == key]
            costs = [start.cost if limit.cost is not None else 1 for start in starts]
            first = total = 0
            for last, start in enumerate(starts):
                total += costs[last]
                while starts[first].at <= start.at - limit.per + GRAIN:
                    total -= costs[first]
                    first += 1
                self.hold(total <= limit.max, f"{limit} let {total} through before {start.at}")

    async def check_that_nothing_leaked(self) -> None:
        """After the longest window all of every limit is there again."""
        await asyncio.sleep(60)  # so that a refusal matters no more, either
        self.hold(self.limiter.statistics().waiting == 0, "somebody waits for a limit for ever")
        at_once = self.policy.statistics()
        self.hold(at_once.waiting_for_slots == 0, "somebody waits for a slot for ever")
        self.hold(at_once.under_way == 0, f"{at_once.under_way} slots were not given back")
        if self.limits and all(limit.key is None and limit.cost is None for limit in self.limits):
            for limit in self.limits:
                limit.change(limit.max)  # forgets what refusals taught, which holds starts apart
            least = int(min(limit.max for limit in self.limits))
            permits = [self.limiter.try_acquire() for _ in range(least + 1)]
            granted = sum(permit is not None for permit in permits)
            self.hold(granted == least, f"{granted} of {least} may start after all windows")
