"""One random program whose worker functions take several items at once, and what must hold."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import Limit, QueueFullError, QueueStateError, QueueStatus, RetryPolicy, WorkQueue
from simulation.program import MOMENTS, OBSERVED, Program

TIMEOUTS = (None, 0, 0, 0.125, 1.0, math.inf)
WAITS = (0, 0.125, 0.5, 2.0, math.inf)
GRAIN = 1e-9


@dataclass(eq=False)
class Item:
    """What is put, what its calls shall do, and what became of it."""

    number: int
    #: For each call: None: it succeeds. Else what is raised, or is its outcome if that is so.
    errors: list[tuple[BaseException, bool] | None]
    accepted_at: float = math.inf
    future: asyncio.Future[Any] | None = None
    calls: int = 0
    succeeded: int = 0
    handled: int = 0
    is_put_at_once: bool = False
    is_in_hand: bool = False
    is_removed: bool = False

    def __repr__(self) -> str:
        return f"#{self.number}"

    @property
    def is_unwanted(self) -> bool:
        return self.future is not None and self.future.cancelled()

    @property
    def has_failed(self) -> bool:
        future = self.future
        if future is None or not future.done() or future.cancelled():
            return self.handled > 0
        error = future.exception()  # after a stop it is an item without a future
        return self.handled > 0 or (error is not None and not isinstance(error, QueueStateError))


@dataclass(eq=False)
class Group:
    """The workers of one ``process_batches``."""

    size: int
    max_size: int
    max_wait: float
    split: bool
    began_at: float = 0.0
    calls: int = 0


class BatchesProgram(Program):
    """Batches of puts, beside ``map_batches``, pauses, stops and cancellations."""

    name = "batches"

    def set_up(self) -> None:
        rng = self.random
        self.loop.observer = self
        self.all_items: list[Item] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.calls: dict[asyncio.Task[Any], None] = {}
        self.group: Group | None = None
        self.stops = 0
        self.calm = False
        self.attempts = rng.choice((1, 1, 2, 4))
        rules: dict[str, Any] = {}
        if self.attempts > 1:
            backoffs = rng.choice(((0.0,), (0.125, 0.5)))
            rules["retry"] = RetryPolicy(
                self.attempts, backoff=lambda attempt, error: rng.choice(backoffs), budget=None
            )
        self.is_limited = rng.random() < 0.4
        if self.is_limited:
            cost = rng.choice((None, lambda item: 1 + item.number % 3))
            rules["limits"] = [Limit(rng.choice((3, 8)), rng.choice((0.5, 1.0)), cost=cost)]
        self.queue: WorkQueue[Item] = WorkQueue(
            rng.choice((1, 2, 5, 20)),
            rng.choice((0, 0.125, 1.0)),
            logger=SILENT,
            telemetry=rng.choice((None, OBSERVED)),
            max_dead_letters=0,
            **rules,
        )
        self.choices = {
            self.put_soon: 10,
            self.put_nowait: 6,
            self.submit_soon: 4,
            self.put_many_soon: 3,
            self.cancel_result: rng.choice((0, 1)),
            self.process: rng.choice((1, 3)),
            self.map_soon: rng.choice((0, 1, 2)),
            self.stop_soon: rng.choice((0, 0.5, 1)),
            self.start_soon: 0.5,
            self.pause_for_a_while: rng.choice((0, 1)),
            self.remove_some: rng.choice((0, 0.5)),
            self.cancel_a_call: rng.choice((0, 1)),
            self.cancel_some_task: rng.choice((0, 1)),
        }

    def items(self) -> list[Any]:
        return self.all_items

    def forget(self) -> Any:
        queue = self.queue
        self.all_items = []
        self.group = None
        self.choices.clear()
        return queue

    async def begin(self) -> None:
        await self.queue.start()
        await self.process()

    def note(self, *what: Any) -> None:
        super().note(*map(str, what))  # and keep no item alive

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coro)
        self.tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self.tasks[task]
        error = None if task.cancelled() else task.exception()
        if error is not None and self.violation is None:
            self.fail(f"a call raised {error!r}")

    def cancel_one(self, rng: random.Random) -> None:
        if self.tasks:
            rng.choice([*self.tasks]).cancel()

    def cancel_some_task(self) -> None:
        self.cancel_one(self.random)

    # -- putting ------------------------------------------------------------------------------

    def make_item(self) -> Item:
        rng = self.random
        errors: list[tuple[BaseException, bool] | None] = []
        while rng.random() < 0.25 and len(errors) < 6:
            error = rng.choice((ConnectionError, TypeError))(len(self.all_items))
            errors.append((error, rng.random() < 0.5))
        item = Item(len(self.all_items), errors)
        self.all_items.append(item)
        return item

    def accepted(self, item: Item) -> None:
        self.note("accepted", item)
        item.accepted_at = self.loop.time()

    async def put(self, item: Item, timeout: float | None, *, submits: bool = False) -> None:
        queue = self.queue
        try:
            if submits:
                item.future = await queue.submit(item, timeout=timeout)
            elif not await queue.put(item, timeout):
                return
        except (QueueStateError, QueueFullError):
            return
        self.accepted(item)

    def put_soon(self) -> None:
        self.spawn(self.put(self.make_item(), self.random.choice(TIMEOUTS)))

    def submit_soon(self) -> None:
        self.spawn(self.put(self.make_item(), self.random.choice(TIMEOUTS), submits=True))

    def put_nowait(self) -> None:
        for _ in range(self.random.choice((1, 3, 10))):
            item = self.make_item()
            try:
                self.queue.put_nowait(item)
            except (QueueStateError, QueueFullError):
                return
            item.is_put_at_once = True
            self.accepted(item)

    async def put_many(self, items: list[Item], timeout: float) -> None:
        try:
            count = await self.queue.put_many(items, timeout)
        except QueueStateError:
            return
        for item in items[:count]:
            self.accepted(item)

    def put_many_soon(self) -> None:
        # Not cancelled in the middle, and not waiting: nobody could say which were accepted.
        items = [self.make_item() for _ in range(self.random.choice((1, 3, 10)))]
        self.loop.create_task(self.put_many(items, 0))

    def cancel_result(self) -> None:
        pending = [i for i in self.all_items if i.future is not None and not i.future.done()]
        if pending:
            item = self.random.choice(pending)
            self.note("cancel the future of", item)
            item.future.cancel()  # type: ignore[union-attr]

    # -- workers ------------------------------------------------------------------------------

    async def process(self) -> None:
        rng = self.random
        group = Group(
            rng.choice((1, 1, 2, 4)),
            rng.choice((1, 2, 3, 10)),
            rng.choice(WAITS),
            rng.random() < 0.7,
        )
        await self.start_group(group)

    async def start_group(self, group: Group) -> None:
        self.note("group of", group.size, "max_size", group.max_size, "max_wait", group.max_wait)
        try:
            self.queue.remove(lambda item: not isinstance(item, Item))  # what maps have left
            await self.queue.process_batches(
                partial(self.work, group),
                max_size=group.max_size,
                max_wait=group.max_wait,
                num_workers=group.size,
                error_handler=self.handle,
                split=group.split,
            )
        except QueueStateError:
            return
        group.began_at = self.loop.time()
        self.group = group

    async def work(self, group: Group, items: list[Item]) -> list[BaseException | None] | None:
        rng = random.Random(f"{self.seed} {items[0].number} {items[0].calls}")
        self.begin_call(group, items)
        plans = [item.errors.pop(0) if item.errors and not self.calm else None for item in items]
        try:
            seconds = rng.choice((None, *MOMENTS))
            if seconds is not None:
                await asyncio.sleep(seconds)
        finally:
            group.calls -= 1
            for item in items:
                item.is_in_hand = False
        raised = next((plan[0] for plan in plans if plan is not None and not plan[1]), None)
        if raised is not None:
            self.note("a call fails", items)
            raise raised
        for item, plan in zip(items, plans, strict=True):
            item.succeeded += plan is None
        self.note("done", items)
        outcomes = [None if plan is None else plan[0] for plan in plans]
        return outcomes if any(outcomes) or rng.random() < 0.5 else None

    def begin_call(self, group: Group, items: list[Item]) -> None:
        queue = self.queue
        self.note("a call begins", items)
        group.calls += 1
        self.hold(group.calls <= group.size, f"{group.calls} calls of {group.size} workers")
        self.hold(len(items) <= group.max_size, f"{items} in a batch of {group.max_size}")
        self.hold(len({*items}) == len(items), f"twice in {items}")
        numbers = [item.number for item in items if not item.calls and item.is_put_at_once]
        self.hold(numbers == sorted(numbers), f"{items} are out of order")
        for item in items:
            self.hold(not item.is_in_hand, f"{item} is in hand twice")
            self.hold(not item.succeeded, f"{item} is done, and called again")
            skipped = item.is_unwanted and not (item.calls or self.is_limited or group.split)
            self.hold(not skipped, f"{item} was cancelled, and is called")
            self.hold(not item.is_removed, f"{item} was removed")
            self.hold(not item.has_failed, f"{item} has failed for good")
            item.is_in_hand = True
            item.calls += 1
        if not (self.is_limited or self.attempts > 1 or group.split):
            self.hold(not queue.is_paused, f"{items} began in a pause")

    def handle(self, error: BaseException, item: Item) -> None:
        self.note("failed", item, repr(error))
        item.handled += 1
        self.hold(item.handled == 1, f"{item} failed twice")
        self.hold(not item.succeeded, f"{item} succeeded, and failed")

    async def results(self, count: int, group: Group) -> None:
        """A map of batches, which nobody else has to do with."""

        async def double(numbers: list[int]) -> list[int]:
            self.hold(len(numbers) <= group.max_size, f"{numbers} of at most {group.max_size}")
            await asyncio.sleep(0.125 * (len(numbers) % 3))
            return [2 * number for number in numbers]

        queue: Any = self.queue
        found: list[int] = []
        try:
            results = queue.map_batches(
                double,
                range(count),
                max_size=group.max_size,
                max_wait=group.max_wait,
                num_workers=group.size,
            )
            async with aclosing(results) as stream:
                async for result in stream:
                    found.append(result)  # noqa: PERF401 - it may end early
        except QueueStateError:
            self.hold(found == [2 * n for n in range(len(found))], f"results {found}")
        except ValueError:  # no limit lets a number pass
            return
        else:
            self.hold(found == [2 * n for n in range(count)], f"results {found}")

    def map_soon(self) -> None:
        rng = self.random
        if self.is_limited:  # whose costs are those of items
            return
        group = Group(rng.choice((1, 2)), rng.choice((1, 3, 10)), rng.choice(WAITS), True)
        self.spawn(self.results(rng.choice((0, 1, 7, 20)), group))

    # -- what an operator does ------------------------------------------------------------------

    async def pause_for_a_while(self) -> None:
        try:
            self.queue.pause()
            self.note("pause")
            self.put_nowait()
            await asyncio.sleep(self.random.choice(MOMENTS))
            self.queue.resume()
            self.note("resume")
        except QueueStateError:
            pass

    def remove_some(self) -> None:
        for item in self.queue.remove(lambda item: isinstance(item, Item) and item.number % 3 == 0):
            item.is_removed = True
            self.note("removed", item)

    def cancel_a_call(self) -> None:
        held = [one for one in self.queue.in_hand() if isinstance(one.item[0], Item)]
        if held:
            one = self.random.choice(held)
            self.note("cancel the call of", one.item)
            one.cancel()

    async def stop(self, timeout: float | None, drain: bool) -> None:
        self.note("stop, timeout", timeout, "drain", drain)
        if self.queue.status is QueueStatus.PROCESSING:
            self.group = None
        await self.queue.stop(timeout, drain=drain)

    def stop_soon(self) -> None:
        rng = self.random
        self.spawn(self.stop(rng.choice((None, 0, 0.5)), rng.random() < 0.7))

    async def start(self) -> None:
        await self.queue.start()
        if self.random.random() < 0.7:
            await self.process()

    def start_soon(self) -> None:
        self.spawn(self.start())

    # -- what must hold -------------------------------------------------------------------------

    def after_step(self) -> None:
        if self.violation:
            raise self.violation

    def at_rest(self) -> None:
        """Nobody waits for what is there."""
        queue, group = self.queue, self.group
        stats = queue.statistics()
        self.hold(stats.size <= stats.maxsize, f"{stats.size} wait, of at most {stats.maxsize}")
        is_open = queue.status is QueueStatus.PROCESSING and not queue.is_paused
        if not is_open or group is None or self.is_limited or group.calls >= group.size:
            return
        if stats.retrying or stats.worker_count < group.size:
            return
        held = [one.item[0] for one in queue.in_hand()]
        if any(not isinstance(item, Item) for item in [*held, *queue.unprocessed]):
            return  # a map has some of the workers, or of the room
        waiting = [item for item in queue.unprocessed if not item.is_unwanted]
        if not waiting:
            return
        self.hold(len(waiting) < group.max_size, f"{waiting} wait, and a worker is free")
        self.hold(not queue.is_full, f"{waiting} wait, the queue is full, and a worker is free")
        self.hold(not waiting[0].calls, f"{waiting[0]} was called before, and waits")
        since = max(waiting[0].accepted_at, group.began_at)
        waits = self.loop.time() - since
        is_late = since < math.inf and waits > group.max_wait + GRAIN
        self.hold(not is_late, f"{waiting} wait {waits} s, and a worker is free")

    async def finish(self) -> None:
        """A good group takes up what is left, and all must add up."""
        rng, queue = self.random, self.queue
        for _ in range(30):
            await self.stop(rng.choice((0, 0.5, 3)), rng.random() < 0.5)
            if self.tasks:
                await asyncio.wait([*self.tasks], timeout=4)
            if not self.tasks and queue.status is QueueStatus.STOPPED:
                break
        else:
            self.fail("some calls never end")
        await asyncio.sleep(5)
        metrics = queue.metrics
        left = len(queue.unprocessed)
        self.hold(metrics["enqueued"] == metrics["processed"] + left, f"{metrics}, {left} left")
        self.calm = True
        await queue.start()
        await self.start_group(Group(2, 4, 0.125, True))
        await queue.join()
        self.hold(await queue.stop(), "a stop left something")
        metrics = queue.metrics
        self.hold(metrics["enqueued"] == metrics["processed"], f"{metrics} does not add up")
        for item in self.all_items:
            self.check(item)

    def check(self, item: Item) -> None:
        if item.accepted_at == math.inf:
            return
        ends = item.succeeded + item.has_failed
        is_let_go = item.is_unwanted or item.is_removed
        self.hold(ends == 1 or (is_let_go and ends <= 1), f"{item} ended {ends} times")
        if item.future is not None:
            self.hold(item.future.done(), f"the future of {item} is pending")
