"""One random program that uses a queue with rules, made from a seed, and what must hold of it.

All durations are multiples of an eighth of a second, but for the jitter after a closed gate.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from models.loops import ObservedLoop
from penstock import (
    AdaptiveConcurrency,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Limit,
    Limiter,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RateLimitError,
    RetryPolicy,
    WorkQueue,
)
from penstock.limits import BreakerState
from penstock.telemetry import Telemetry

SILENT = logging.getLogger("tests.models.rules")
SILENT.setLevel(logging.CRITICAL + 1)

# Puts and attempts that are observed take other ways through the queue.
OBSERVED = Telemetry(NoOpTracerProvider(), NoOpMeterProvider())

MOMENTS = (0.0, 0.0, 0.125, 0.125, 0.25, 0.5, 1.0, 3.0)
TIMEOUTS = (None, 0, 0, 0.125, 1.0, math.inf)
GRAIN = 1e-9


@dataclass(eq=False)
class Item:
    """What the program puts, what its calls shall do, and what became of them."""

    number: int
    key: int
    cost: int
    actual: int
    #: Seconds that a call takes; None: it does not suspend.
    takes: float | None
    #: What the first calls raise.
    raises: list[BaseException]
    deadline: float | None
    put_at: float = 0.0
    future: asyncio.Future[Any] | None = None
    is_submitted: bool = False
    accepted: int = 0
    #: Calls that succeeded, that failed, and that were cancelled from outside.
    succeeded: int = 0
    failed: int = 0
    broken_off: int = 0
    #: Errors that the handler got.
    handled: list[BaseException] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"#{self.number}"


@dataclass
class Start:
    """A call that was made."""

    at: float
    item: Item
    cost: int


class Program:
    """The program. ``run()`` raises AssertionError when the queue breaks a promise."""

    def __init__(self, seed: int, loop: ObservedLoop, *, adaptive: bool) -> None:
        self.random = rng = random.Random(seed)
        self.loop = loop
        self.is_adaptive = adaptive
        self.story: list[str] = []
        self.items: list[Item] = []
        self.starts: list[Start] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closed_at = self.closed_until = -math.inf
        self.failures: list[BaseException] = []
        self.peak_in_hand = 0
        self.limits = self._some_limits()
        self.attempts = rng.choice((1, 2, 3, 5))
        backoffs = rng.choice(((0.0,), (0.125, 0.5), (1.0, 4.0)))
        self.retry = rng.choice(
            (
                None,
                RetryPolicy(self.attempts, on=(ConnectionError, RateLimitError), budget=None)
                if self.attempts == 1
                else RetryPolicy(
                    self.attempts,
                    on=(ConnectionError, RateLimitError),
                    backoff=lambda attempt, error: rng.choice(backoffs),
                    budget=None,
                ),
            )
        )
        if self.retry is None:
            self.attempts = 1
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
        self.limiter = Limiter(self.limits, rng=random.Random(seed))
        self.queue: WorkQueue[Item] = WorkQueue(
            rng.choice((1, 2, 3, 5)),
            rng.choice((0, 0.125, 1.0)),
            logger=SILENT,
            limits=self.limiter,
            retry=self.retry,
            breaker=self.breaker,
            deadline=self.deadline,
            telemetry=rng.choice((None, None, OBSERVED)),
        )
        self.failing = rng.choice((0.0, 0.2, 0.6))
        self.haste = rng.choice((0.2, 0.5, 0.8))
        weights: dict[Callable[[], Awaitable[None] | None], float] = {
            self.put_soon: 8,
            self.put_nowait: 4,
            self.submit_soon: 4,
            self.cancel_future: rng.choice((0, 2)),
            self.cancel_task: rng.choice((0, 2)),
            self.start_workers: rng.choice((0.3, 1)),
            self.stop_workers: rng.choice((0, 0.5)),
            self.restart: rng.choice((0, 0.5, 1)),
            self.redrive_soon: rng.choice((0, 1)),
            self.use_limiter_soon: rng.choice((0, 2)),
            self.observe: rng.choice((0, 0.3)),
        }
        self.choices, self.weights = list(weights), list(weights.values())

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

    def tell(self, what: str) -> None:
        self.story.append(f"{self.loop.time():8.3f}  {what}")

    # -- the program --------------------------------------------------------------------------

    async def run(self) -> None:
        rng = self.random
        await self.start_workers()
        for _ in range(rng.choice((10, 25, 50))):
            result = rng.choices(self.choices, self.weights)[0]()
            if result is not None:
                await result
            self.check_now()
            if rng.random() > self.haste:
                await asyncio.sleep(rng.choice(MOMENTS))
        await self.end()

    async def end(self) -> None:
        if self.random.random() < 0.5:
            await self.stop(self.random.choice((0, 1.0)), drain=self.random.random() < 0.5)
        self.tell("from here on all goes well")
        for item in self.items:
            item.raises.clear()
        for task in [*self.tasks]:
            if self.random.random() < 0.5:
                task.cancel()
        await self.queue.process(self.work, 3, self.handle)
        if self.random.random() < 0.5:
            await self.queue.join()
        drained = await self.queue.stop()
        if self.tasks:
            await asyncio.wait(self.tasks)
            await asyncio.sleep(0)
        self.check_now()
        assert drained, "a stop that drains left something"
        self.check_at_rest()
        assert self.queue.unprocessed == []
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
            )
            raises = [rng.choice(kinds)() for _ in range(rng.randint(1, 4))]
        cost = rng.randint(0, 4)
        item = Item(
            number=len(self.items),
            key=rng.randint(0, 2),
            cost=cost,
            actual=rng.choice((cost, rng.randint(0, cost))),
            takes=rng.choice((None, *MOMENTS)),
            raises=raises,
            deadline=rng.choice((None, None, None, 1.0)),
            put_at=self.loop.time(),
        )
        self.items.append(item)
        return item

    def soon(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.is_done)

    def hold(self, condition: bool, message: str) -> None:
        """Note what must hold where an exception would be a failure of the item."""
        if not condition:
            self.failures.append(AssertionError(message))

    def is_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
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
                self.tell(f"{item} is accepted")

    def put_nowait(self) -> None:
        item = self.new_item()
        item.deadline = None
        with suppress(QueueStateError, QueueFullError):
            self.queue.put_nowait(item)
            item.accepted += 1
            self.tell(f"{item} is accepted at once")
            now = self.queue.statistics()
            assert now.size + now.retrying <= now.maxsize

    def submit_soon(self) -> None:
        item = self.new_item()
        item.is_submitted = True
        self.soon(self.submit(item, self.random.choice(TIMEOUTS)))

    async def submit(self, item: Item, timeout: float | None) -> None:
        item.put_at = self.loop.time()
        with suppress(QueueStateError, QueueFullError):
            item.future = await self.queue.submit(item, timeout=timeout, deadline=item.deadline)
            item.accepted += 1
            self.tell(f"{item} is submitted")

    def cancel_future(self) -> None:
        futures = [item for item in self.items if item.future is not None]
        if futures:
            item = self.random.choice(futures)
            assert item.future is not None
            self.tell(f"the future of {item} is cancelled: {item.future.cancel()}")

    def cancel_task(self) -> None:
        if self.tasks:
            ordered = sorted(self.tasks, key=lambda task: int(task.get_name().rpartition("-")[2]))
            self.random.choice(ordered).cancel()

    async def start_workers(self) -> None:
        count: Any = self.random.randint(1, 4)
        if self.is_adaptive and self.random.random() < 0.7:
            count = AdaptiveConcurrency(1, 8, start=self.random.randint(1, 4))
        self.tell(f"{count} workers")
        await self.queue.process(self.work, count, self.handle)

    async def stop_workers(self) -> None:
        await self.queue.queue.stop_workers(self.random.choice((0, 0.25, 2.0)))  # type: ignore[attr-defined]
        self.tell("no workers")
        if self.random.random() < 0.8:
            await asyncio.sleep(self.random.choice(MOMENTS))
            await self.start_workers()

    async def restart(self) -> None:
        rng = self.random
        await self.stop(rng.choice((0, 0, 0.25, 2.0, None)), drain=rng.random() < 0.5)
        await asyncio.sleep(rng.choice(MOMENTS))
        await self.start_workers()

    async def stop(self, timeout: float | None, *, drain: bool) -> None:
        self.tell(f"stop(timeout={timeout}, drain={drain})")
        result = await self.queue.stop(timeout, drain=drain)
        await asyncio.sleep(0)  # those who are told so say so
        self.tell(f"stopped, {self.queue.unprocessed} left")
        assert result is (not self.queue.unprocessed)
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
                self.note_start(item)

        self.soon(use())

    def observe(self) -> None:
        self.queue.limits.observe({"Retry-After": "1"})
        self.close_gate(1.0)

    # -- what workers do ----------------------------------------------------------------------

    def note_start(self, item: Item) -> Start:
        now = self.loop.time()
        start = Start(now, item, item.cost)
        self.starts.append(start)
        self.tell(f"{item} starts")
        # Whoever was let through in the instant in which it was closed is through.
        is_closed = self.closed_at < now < self.closed_until - GRAIN
        self.hold(not is_closed, f"the gate is closed until {self.closed_until}")
        return start

    def close_gate(self, seconds: float) -> None:
        now = self.loop.time()
        if now >= self.closed_until:
            self.closed_at = now
        self.closed_until = max(self.closed_until, now + seconds)

    async def work(self, item: Item) -> Item:
        start = self.note_start(item)
        if self.breaker is not None:
            is_open = self.breaker.state(start.at) is BreakerState.OPEN
            self.hold(not is_open, f"{item} starts while the breaker is open")
        deadline = self.deadline if item.deadline is None else item.deadline
        if deadline is not None and not self.was_redriven(item):
            self.hold(start.at < item.put_at + deadline, f"{item} starts past its deadline")
        try:
            if item.takes is not None:
                await asyncio.sleep(item.takes)
        except asyncio.CancelledError:
            item.broken_off += 1
            self.tell(f"{item} is broken off")
            raise
        for limit in self.limits:
            if limit.cost is not None:
                limit.settle(item.actual)
                start.cost = item.actual
        if item.raises:
            error = item.raises.pop(0)
            item.failed += 1
            self.tell(f"{item} fails: {error!r}")
            if isinstance(error, RateLimitError) and error.retry_after:
                self.close_gate(error.retry_after)
            raise error
        item.succeeded += 1
        self.tell(f"{item} succeeds")
        return item

    def handle(self, error: BaseException, item: Item) -> None:
        self.tell(f"{item} is given up: {error!r}")
        item.handled.append(error)

    def was_redriven(self, item: Item) -> bool:
        return self.retry is not None and not item.is_submitted and bool(item.handled)

    # -- what must hold -----------------------------------------------------------------------

    def check_now(self) -> None:
        for failure in self.failures:
            raise failure
        now = self.queue.statistics()
        assert now.size <= now.maxsize
        assert now.size + now.retrying <= now.maxsize + self.peak_in_hand
        assert now.enqueued - now.processed == now.unfinished

    def after_step(self) -> None:
        """The loop has gone round."""
        now = self.queue.statistics()
        given_back = now.unfinished - now.inflight - now.size - now.retrying
        workers = sum("worker" in task.get_name() for task in asyncio.all_tasks(self.loop))
        self.peak_in_hand = max(self.peak_in_hand, workers + max(0, given_back))

    def at_rest(self) -> None:
        """Nothing can run before the clock moves on."""
        self.check_now()
        now = self.queue.statistics()
        if now.status is QueueStatus.PROCESSING and now.waiting_putters:
            assert now.size + now.retrying >= now.maxsize, "somebody waits, and there is room"

    def check_at_rest(self) -> None:
        """The queue is stopped: all is accounted for."""
        queue, counts = self.queue, self.queue.metrics
        left = Counter(queue.unprocessed)
        now = queue.statistics()
        assert now.status is QueueStatus.STOPPED
        assert (now.inflight, now.worker_count) == (0, 0)
        assert counts["enqueued"] == counts["processed"] + left.total()
        dead = Counter(letter.item for letter in queue.dead_letters)
        for item in self.items:
            self.check_item(item, left[item], dead[item])
        for limit in self.limits:
            self.check_limit(limit)

    def check_item(self, item: Item, left: int, dead: int) -> None:
        came = item.accepted
        if self.retry is not None and not item.is_submitted:
            came += len(item.handled) - dead  # what was buried and is no longer there was put back
            assert dead <= len(item.handled)
        future = item.future
        told = 0
        if future is not None and future.done() and not future.cancelled():
            error = future.exception()
            told = error is not None and not isinstance(error, QueueStateError)
        ended = item.succeeded + len(item.handled) + told
        if future is not None and future.cancelled():
            assert ended + left <= came, f"{item} came {came} times, and ended {ended} times"
        else:
            assert ended + left == came, (
                f"{item} came {came} times, ended {ended} times and is left {left} times"
            )
        calls = item.succeeded + item.failed
        assert calls <= self.attempts * came, f"{item} had {calls} attempts"
        for error in item.handled:
            if isinstance(error, (DeadlineExceededError, CircuitBreakerOpenError)):
                assert self.deadline or item.deadline or self.breaker

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
                assert total <= limit.max, f"{limit} let {total} through before {start.at}"

    async def check_that_nothing_leaked(self) -> None:
        """After the longest window all of every limit is there again."""
        await asyncio.sleep(20)
        assert self.limiter.statistics().waiting == 0
        if self.limits and all(limit.key is None and limit.cost is None for limit in self.limits):
            least = int(min(limit.max for limit in self.limits))
            permits = [self.limiter.try_acquire() for _ in range(least + 1)]
            assert [permit is None for permit in permits] == [False] * least + [True]
