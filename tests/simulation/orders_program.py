"""One random program of a queue with an order: who is next, and whether each key gets its share."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers.logs import SILENT
from models.orders import Shares, UnfairError
from penstock import (
    FairShares,
    Limit,
    Priorities,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RetryPolicy,
    WorkQueue,
)
from simulation.program import MOMENTS, OBSERVED, ItemError, Program

TIMEOUTS = (None, 0, 0, 0.125, 1.0, math.inf, math.inf)
GRAIN = 1e-9
#: Orders of the queue; "both" is fair shares with priorities within each key.
KINDS = ("priorities", "fair", "fair", "both")


@dataclass(eq=False)
class Item:
    """What is put, what its calls do, and what became of it."""

    number: int
    key: int
    priority: int
    #: How many of its calls raise.
    fails: int
    #: Of a map or a batch.
    is_of_job: bool = False
    #: offered, waiting (it is certain that a worker could take it), moving (nobody can tell
    #: whether one could), in hand, done, gone (it was refused, removed, or given up).
    state: str = "offered"
    put_began: float = 0.0
    accepted_at: float = math.inf
    #: Its place among those that were put without a wait; 0: it waited.
    place: int = 0
    future: asyncio.Future[Any] | None = None
    calls: int = 0
    ended: int = 0
    left_step: int = -1

    def __repr__(self) -> str:
        return f"#{self.number}({self.key}, {self.priority})"

    @property
    def is_unwanted(self) -> bool:
        return self.future is not None and self.future.cancelled()


class OrdersProgram(Program):
    """Puts of several keys and priorities, retries, pauses, stops, jobs and batches."""

    name = "orders"

    def set_up(self) -> None:
        rng = self.random
        self.loop.observer = self
        self.all_items: list[Item] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.size = 0
        self.calls = 0
        self.places = 0
        self.calm = False
        #: Whether a stop has cancelled workers, perhaps.
        self.is_rough = False
        self.weights = {key: rng.choice((0.5, 1, 1, 2, 4)) for key in range(4)}
        self.shares: Shares | None = None
        self.max_wait: float | None = None
        self.max_per_key: int | None = None
        self.kind = rng.choice(KINDS)
        self.by_key = rng.random() < 0.5
        order = self.make_order(rng)
        self.attempts = rng.choice((1, 1, 3))
        rules: dict[str, Any] = {}
        if self.attempts > 1:
            backoffs = rng.choice(((0.0,), (0.125, 0.5)))
            rules["retry"] = RetryPolicy(
                self.attempts, backoff=lambda attempt, error: rng.choice(backoffs), budget=None
            )
        self.is_limited = rng.random() < 0.3
        if self.is_limited:
            cost = rng.choice((None, lambda item: 1 + item.number % 3))
            rules["limits"] = [Limit(rng.choice((3, 8)), rng.choice((0.5, 1.0)), cost=cost)]
        self.queue: WorkQueue[Item] = WorkQueue(
            rng.choice((1, 2, 5, 20, 20)),
            rng.choice((0, 0.125, 1.0)),
            logger=SILENT,
            telemetry=rng.choice((None, OBSERVED)),
            order=order,
            **rules,
        )
        self.batches = rng.choice((0, 0, 0.5))
        self.choices = {
            self.put_soon: 8,
            self.put_nowait: 10,
            self.submit_soon: 2,
            self.put_many_soon: 2,
            self.cancel_result: rng.choice((0, 1)),
            self.process: rng.choice((0.5, 2)),
            self.job_soon: rng.choice((0, 0, 1)),
            self.stop_soon: rng.choice((0, 0, 0.5)),
            self.start_soon: 0.5,
            self.pause_for_a_while: rng.choice((0, 1, 2)),
            self.remove_some: rng.choice((0, 0.5)),
            self.cancel_a_call: rng.choice((0, 0.5)),
            self.cancel_some_task: rng.choice((0, 1)),
            self.redrive: rng.choice((0, 1)),
        }

    def make_order(self, rng: random.Random) -> Any:
        within = Priorities(key=self.priority_of if self.by_key else None)
        if self.kind == "priorities":
            self.max_wait = rng.choice((None, None, 0.5, 2.0))
            return Priorities(key=self.priority_of if self.by_key else None, max_wait=self.max_wait)
        self.max_per_key = rng.choice((None, None, 1, 3))
        is_weighted = rng.random() < 0.6
        if not is_weighted:
            self.weights = dict.fromkeys(self.weights, 1)
        self.shares = Shares(lambda key: self.weights[key])  # type: ignore[index]
        return FairShares(
            lambda item: item.key,
            weight=self.weights.__getitem__ if is_weighted else None,
            max_per_key=self.max_per_key,
            within=within if self.kind == "both" else None,
        )

    @staticmethod
    def priority_of(item: Item) -> int:
        return item.priority

    @property
    def priority_option(self) -> Any:
        """Of a put: its priority, where the order has no function that says it."""
        return self.kind != "fair" and not self.by_key

    def items(self) -> list[Any]:
        return self.all_items

    def forget(self) -> Any:
        queue = self.queue
        self.all_items = []
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

    def make_item(self, *, is_of_job: bool = False) -> Item:
        rng = self.random
        item = Item(
            len(self.all_items),
            rng.choice((0, 0, 0, 1, 2, 3)),
            rng.choice((0, 0, 1, 2, 9)),
            rng.choice((0, 0, 0, 1, 2, 9)),
            is_of_job,
            put_began=self.loop.time(),
        )
        if is_of_job and not self.by_key:
            item.priority = 0
        self.all_items.append(item)
        return item

    def options(self, item: Item) -> dict[str, Any]:
        if self.priority_option:
            return {"priority": item.priority}
        if not self.by_key:
            item.priority = 0
        return {}

    def accepted(self, item: Item, *, is_at_once: bool) -> None:
        self.note("accepted", item, "" if is_at_once else "after a wait")
        self.places += 1
        item.place = self.places if is_at_once else 0
        item.accepted_at = self.loop.time()
        if item.state == "offered":
            item.state = "waiting"

    def gone(self, item: Item) -> None:
        item.state = "gone"
        self.left(item.key)

    def left(self, key: int) -> None:
        """Some item of the key does not wait any more."""
        if self.shares is not None and key not in self.ready_keys():
            self.shares.stopped(key)

    def waiting(self) -> list[Item]:
        """What a worker could take, certainly."""
        return [one for one in self.all_items if one.state == "waiting" and not one.is_unwanted]

    def ready_keys(self) -> set[int]:
        return {one.key for one in self.waiting()}

    async def put(self, item: Item, timeout: float | None, *, submits: bool = False) -> None:
        queue, options = self.queue, self.options(item)
        before = self.loop.steps
        try:
            if submits:
                item.future = await queue.submit(item, timeout=timeout, **options)
            elif not await queue.put(item, timeout, **options):
                if self.loop.steps == before:
                    self.check_refused(item)
                self.note("refused", item)
                item.state = "gone"
                return
        except QueueFullError:
            item.state = "gone"
            return
        except QueueStateError:
            item.state = "gone"
            return
        except asyncio.CancelledError:
            item.state = "gone"
            raise
        if item.future is not None:
            item.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.accepted(item, is_at_once=self.loop.steps == before)

    def check_refused(self, item: Item) -> None:
        """Nobody waits, and it was refused at once: there was no room."""
        stats = self.queue.statistics()
        if stats.waiting_putters or any(one.state == "offered" for one in self.others(item)):
            return
        has_room = stats.size + stats.retrying < stats.maxsize
        moving = [one for one in self.all_items if one.state == "moving" and one.key == item.key]
        if self.max_per_key is not None and not moving:
            has_room = has_room and not self.is_full(item.key)
            self.hold(not has_room, f"{item} was refused, and there is room")
        elif self.max_per_key is None:
            self.hold(not has_room, f"{item} was refused, and there is room")

    def others(self, item: Item) -> list[Item]:
        return [one for one in self.all_items if one is not item]

    def count(self, key: int) -> int:
        """How many of a key take up its room, certainly."""
        return sum(one.key == key for one in self.waiting())

    def is_full(self, key: int) -> bool:
        """Whether a key may have no more, for all that anybody can tell."""
        # What nobody wants any more is there until a worker has skipped it.
        waiting = sum(one.state == "waiting" and one.key == key for one in self.all_items)
        return self.max_per_key is not None and waiting >= self.max_per_key

    def put_soon(self) -> None:
        for _ in range(self.random.choice((1, 1, 4))):
            self.spawn(self.put(self.make_item(), self.random.choice(TIMEOUTS)))

    def submit_soon(self) -> None:
        self.spawn(self.put(self.make_item(), self.random.choice(TIMEOUTS), submits=True))

    def put_nowait(self) -> None:
        for _ in range(self.random.choice((1, 3, 10))):
            item = self.make_item()
            try:
                self.queue.put_nowait(item, **self.options(item))
            except (QueueStateError, QueueFullError):
                item.state = "gone"
                continue
            self.accepted(item, is_at_once=True)

    async def put_many(self, items: list[Item], options: dict[str, Any]) -> None:
        count = 0
        with suppress(QueueStateError):
            count = await self.queue.put_many(items, 0, **options)
        for item in items[:count]:
            self.accepted(item, is_at_once=True)
        for item in items[count:]:
            item.state = "gone"

    def put_many_soon(self) -> None:
        items = [self.make_item() for _ in range(self.random.choice((1, 3, 10)))]
        options = self.options(items[0])
        for item in items:
            item.priority = items[0].priority if not self.by_key else item.priority
        self.loop.create_task(self.put_many(items, options))

    def cancel_result(self) -> None:
        pending = [i for i in self.all_items if i.future is not None and not i.future.done()]
        if pending:
            item = self.random.choice(pending)
            self.note("cancel the future of", item)
            item.future.cancel()  # type: ignore[union-attr]
            self.left(item.key)

    def redrive(self) -> None:
        self.spawn(self.put_back(0))

    async def put_back(self, timeout: float) -> None:
        for letter in self.queue.dead_letters:
            letter.item.state = "moving"  # there, or a dead letter still
        with suppress(QueueStateError):
            self.note("put back", await self.queue.redrive(timeout))

    # -- workers ------------------------------------------------------------------------------

    async def process(self) -> None:
        rng = self.random
        size = rng.choice((1, 1, 2, 4))
        self.note("process with", size)
        try:
            if rng.random() < self.batches:
                await self.start_batches(rng, size)
            else:
                await self.queue.process(self.work, size, self.handle)
        except QueueStateError:
            return
        self.size = size

    async def start_batches(self, rng: random.Random, size: int) -> None:
        per_key = self.kind != "priorities" and rng.random() < 0.7
        per_key = per_key and "per_key" in WorkQueue.process_batches.__kwdefaults__
        max_size = rng.choice((2, 5))
        options = {"per_key": True} if per_key else {}
        await self.queue.process_batches(
            partial(self.work_on_several, max_size, per_key),
            max_size=max_size,
            max_wait=rng.choice((0, 0.125, 1.0)),
            num_workers=size,
            error_handler=self.handle,
            split=False,
            **options,
        )
        # A batch is several starts at once.
        self.shares = None

    def begin_item(self, item: Item) -> None:
        self.note("begins", item)
        if not (self.loop.stalls and self.is_rough):  # or a stuck worker may have it, too
            self.hold(item.state != "in hand", f"{item} is in hand twice")
            self.hold(item.state != "done", f"{item} is done, and runs")
        self.hold(item.state != "gone", f"{item} was refused or removed, and runs")
        item.state = "in hand"
        item.calls += 1

    async def work(self, item: Item) -> int:
        ready = self.ready_keys()
        if not item.is_of_job:
            self.check_first([item], self.waiting())
        self.begin_item(item)
        self.count_start(item, ready)
        await self.do(item)
        self.end(item)
        return item.number

    def check_first(self, started: list[Item], waiting: list[Item]) -> None:
        """None of those that wait is to go before those that were started."""
        for other in waiting:
            if other not in started and not other.is_of_job:
                is_passed = self.goes_before(other, started[-1])
                self.hold(not is_passed, f"{started} started, and {other} waits")

    def count_start(self, item: Item, ready: set[int]) -> None:
        if self.shares is None:
            return
        try:
            self.shares.started(item.key, ready)
        except UnfairError as error:
            raise self.fail(f"{item} was started: {error}") from None
        self.left(item.key)

    async def work_on_several(self, most: int, per_key: bool, items: list[Item]) -> list[Any]:
        self.note("a batch", items)
        self.hold(len(items) <= most, f"{items} in a batch of {most}")
        if per_key:
            self.hold(len({item.key for item in items}) == 1, f"{items} are of several keys")
        waiting = self.waiting()
        if per_key:
            waiting = [one for one in waiting if one.key == items[0].key]
        self.check_first(items, waiting)
        for item in items:
            self.begin_item(item)
        try:
            results = await asyncio.gather(*map(self.do, items), return_exceptions=True)
        finally:
            for item in items:  # of tasks that never began, too
                self.let_go(item)
        for result in results:
            if isinstance(result, asyncio.CancelledError):
                raise result
        for item, result in zip(items, results, strict=True):
            if result is None:
                self.end(item)
        return results

    async def do(self, item: Item) -> None:
        rng = random.Random(f"{self.seed} {item.number} {item.calls}")
        self.calls += 1
        is_over = False
        try:
            seconds = rng.choice((None, *MOMENTS))
            if seconds is not None:
                await asyncio.sleep(seconds)
            is_over = True
        finally:
            self.calls -= 1
            self.let_go(item)
            if not is_over:  # cancelled: it goes back, and is not charged
                self.note("cancelled", item)
                self.shares = None
        if item.calls <= item.fails and not self.calm:
            self.note("fails", item)
            raise ItemError(item.number)
        self.note("done", item)

    @staticmethod
    def let_go(item: Item) -> None:
        if item.state == "in hand":  # else somebody has removed it since, from a stuck worker
            item.state = "moving"

    def end(self, item: Item) -> None:
        item.state = "done"
        item.ended += 1

    def handle(self, error: BaseException, item: Item) -> None:
        self.note("failed", item, repr(error))
        self.end(item)

    def is_overdue(self, since: float) -> bool:
        return self.max_wait is not None and self.loop.time() - since >= self.max_wait + GRAIN

    def goes_before(self, one: Item, other: Item) -> bool:
        """Whether ``one``, which waits, must be started before ``other``."""
        is_earlier = 0 < one.place < other.place and other.calls == 0
        if self.kind != "priorities":
            if one.key != other.key:
                return False  # that is for the shares to say
            return is_earlier if self.kind == "fair" else self.is_better(one, other, is_earlier)
        if self.max_wait is not None and (
            self.is_overdue(other.put_began - 2 * GRAIN) or other.calls
        ):
            return is_earlier and self.is_overdue(one.accepted_at)
        if self.is_overdue(one.accepted_at):
            return True
        return self.is_better(one, other, is_earlier)

    @staticmethod
    def is_better(one: Item, other: Item, is_earlier: bool) -> bool:
        if one.priority == other.priority:
            return is_earlier
        return one.priority < other.priority

    # -- jobs -----------------------------------------------------------------------------------

    async def job(self, items: list[Item], is_map: bool) -> None:
        self.shares = None  # of what several jobs may have in hand, nobody can tell
        queue = self.queue
        try:
            if is_map:
                async for _ in queue.map(self.work, items, num_workers=2, return_exceptions=True):
                    pass
            else:
                await queue.batch_process(items, self.work, 2, self.handle)
        except QueueStateError:  # what was accepted is handed back
            pass

    def job_soon(self) -> None:
        """A map or a batch: what it does not get done, a stop may have handed back."""
        rng = self.random
        count = rng.choice((1, 5, 20))
        items = [self.make_item(is_of_job=True) for _ in range(count)]
        self.spawn(self.job(items, rng.random() < 0.5))

    # -- what an operator does ------------------------------------------------------------------

    async def pause_for_a_while(self) -> None:
        try:
            self.queue.pause()
            self.note("pause")
            self.put_nowait()
            self.put_soon()
            await asyncio.sleep(self.random.choice(MOMENTS))
            self.queue.resume()
            self.note("resume")
        except QueueStateError:
            pass

    def remove_some(self) -> None:
        for item in self.queue.remove(lambda item: item.number % 3 == 0):
            self.note("removed", item)
            self.gone(item)

    def cancel_a_call(self) -> None:
        held = [one for one in self.queue.in_hand() if isinstance(one.item, Item)]
        if held:
            one = self.random.choice(held)
            self.note("cancel the call of", one.item)
            one.cancel()

    async def stop(self, timeout: float | None, drain: bool) -> None:
        self.note("stop, timeout", timeout, "drain", drain)
        self.is_rough = self.is_rough or timeout is not None
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
        # What is given back had left its room to another one.
        if self.max_per_key is not None and not (self.is_limited or self.is_rough):
            for key in self.weights:
                count = self.count(key)
                self.hold(count <= self.max_per_key, f"{count} of key {key} wait")

    def at_rest(self) -> None:
        """Nobody waits for what is there."""
        queue = self.queue
        stats = queue.statistics()
        self.hold(stats.size <= stats.maxsize, f"{stats.size} wait, of at most {stats.maxsize}")
        if queue.status is not QueueStatus.PROCESSING:
            return
        self.check_putters(stats)
        if queue.is_paused or self.is_limited or self.batches or self.calls >= self.size:
            return
        if stats.worker_count < self.size or any(one.is_of_job for one in self.all_items):
            return
        waiting = [item for item in queue.unprocessed if not item.is_unwanted]
        if not stats.retrying:
            self.hold(not waiting, f"{waiting} wait, and a worker is free")

    def check_putters(self, stats: Any) -> None:
        """Nobody waits for room that is there."""
        if not stats.waiting_putters or stats.size + stats.retrying >= stats.maxsize:
            return
        if any(one.is_of_job for one in self.all_items):  # nobody knows what is put of these
            return
        if self.max_per_key is None:
            self.hold(False, f"{stats.waiting_putters} wait for room, and there is some")
        elif not stats.retrying:
            offered = [one for one in self.all_items if one.state == "offered"]
            full = [one for one in offered if self.is_full(one.key)]
            moving = any(one.state == "moving" for one in self.all_items)
            self.hold(
                moving or len(full) >= stats.waiting_putters,
                f"{stats.waiting_putters} wait for room, of {offered}, and there is some",
            )

    async def finish(self) -> None:
        """Good workers take up what is left, and all must add up."""
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
        metrics, left = queue.metrics, queue.unprocessed
        self.hold(
            metrics["enqueued"] == metrics["processed"] + len(left), f"{metrics}, {len(left)} left"
        )
        self.calm = True
        for item in left:
            item.state = "moving"
        await queue.start()
        await queue.process(self.finish_item, 1, self.handle)
        await self.put_back(math.inf)
        await queue.join()
        self.hold(await queue.stop(), "a stop left something")
        metrics = queue.metrics
        self.hold(metrics["enqueued"] == metrics["processed"], f"{metrics} does not add up")
        for item in self.all_items:
            self.check(item)

    async def finish_item(self, item: Item) -> None:
        self.begin_item(item)
        await self.do(item)
        self.end(item)

    def check(self, item: Item) -> None:
        if item.accepted_at == math.inf or item.is_of_job:
            return
        letters = {letter.item for letter in self.queue.dead_letters}
        is_over = item.ended > 0 or item.state == "gone" or item.is_unwanted or item in letters
        self.hold(is_over or item.future is not None, f"{item} was accepted, and did not end")
        if item.future is not None:
            self.hold(item.future.done(), f"the future of {item} is pending")
