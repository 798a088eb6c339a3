"""One random program of real threads around one ``penstock.sync.WorkQueue``, made from a seed.

The seed fixes what each thread does, not how they meet. So nothing is compared step by step, as in
``model.py``. Everything is noted, and in the end it must all add up, by identity.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from helpers.logs import SILENT
from models.thread_consumers import Consumer
from models.thread_jobs import Jobs
from models.thread_notes import (
    CURRENT,
    ERRORS,
    MOMENTS,
    HangError,
    Item,
    Plan,
    ShortOfTime,
    Turn,
    WorkerGroup,
    current_task,
    is_same,
    noting_holds,
    stacks,
)
from penstock import FairShares, Priorities, QueueFullError, QueueStateError, QueueStatus
from penstock.sync import LoopThread, WorkQueue
from sync.helpers import queue_threads

#: Seconds after which a call is taken to hang, on a machine that does other things as well.
HANGS = 60.0

TIMEOUTS = (None, 0, 0, 0.001, 0.005, 0.02, math.inf, math.inf)
END_TIMEOUTS = (None, None, 0, 0, 0.001, 0.01, 0.03)


class Program:
    """``run()`` raises ``AssertionError`` when the queue breaks a promise."""

    hangs = HANGS
    #: Seconds after which the whole program is taken to hang.
    whole = 3 * HANGS
    #: Attempts that an item gets which raises an ``Exception``.
    attempts = 1

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.maxsize = rng.choice((1, 1, 2, 3, 10))
        self.own_timeout = rng.choice((0, 0.001, 0.02))
        self.loop_thread = LoopThread() if rng.random() < 0.2 else None
        self.order_luck = random.Random(f"order {seed}")
        #: The order of the queue, if it has one; and whether puts say the priority.
        self.order_kind = self.order_luck.choice(("", "", "priorities", "fair", "both"))
        self.says_priority = False
        self.queue: WorkQueue[Item] = WorkQueue(
            self.maxsize,
            self.own_timeout,
            logger=SILENT,
            loop_thread=self.loop_thread,
            order=self.make_order(),
            **self.rules(),
        )
        self.started_at = time.monotonic()
        self.log: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=400)
        self.items: list[Item] = []  # all that follow are only appended to, by many threads
        self.accepted: list[Item] = []
        self.refused: list[Item] = []
        self.turns: list[Turn] = []
        self.groups: list[WorkerGroup] = []
        self.handled: list[tuple[Item, BaseException]] = []
        self.rough: list[tuple[float, float]] = []
        self.failures: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self.lock = threading.Lock()
        self.producers = 0
        self.is_ending = False
        self.is_calm = False
        # With one thread for start and stop, what these say can be checked at once.
        self.masters = rng.choice((1, 1, 2, 3))
        self.jobs = Jobs(self)
        #: Threads that run jobs of their own, maps and batches; then nobody stops the queue.
        self.mappers = 0
        self.gentle = rng.random() < 0.3  # no worker is ever broken off
        # From a generator of their own: what is drawn above stays what it was.
        luck = random.Random(f"ends {seed}")
        #: How often it is closed, as others are in ``rule``.
        self.closing = luck.choice((0, 0, 0.5, 2))
        #: Whether consumers iterate, and whether they give items back.
        self.streams = luck.random() < 0.6
        self.gives_back = self.streams and luck.random() < 0.5
        #: Whether somebody stops the workers now and then.
        self.retires = luck.random() < 0.7
        #: How often items wait for jobs and items of their own queue.
        self.nesting = 0.0
        #: How many do so now.
        self.nests = 0
        luck = random.Random(f"operator {seed}")
        #: Threads that pause the queue, remove items, and look at what is in hand.
        self.operators = luck.choice((0, 0, 0, 1, 2))
        self.batch_luck = luck = random.Random(f"batches {seed}")
        #: How often workers take several items at once.
        self.batches = luck.choice((0, 0, 0, 0.6))
        #: When it was closed, and opened again, if one thread alone does that.
        self.closed: list[tuple[float, float]] = []

    def rules(self) -> dict[str, Any]:
        """What else the queue is to keep to."""
        return {}

    def make_order(self) -> Any:
        """The order of the queue, if it is to have one."""
        luck = self.order_luck
        self.says_priority = self.order_kind in ("priorities", "both") and luck.random() < 0.5
        key = None if self.says_priority else priority_of
        if self.order_kind == "priorities":
            return Priorities(key=key, max_wait=luck.choice((None, None, 0.01)))
        if not self.order_kind:
            return None
        return FairShares(
            key_of,
            weight=luck.choice((None, lambda key: 1 + key)),
            max_per_key=luck.choice((None, None, 1, 3)),
            within=Priorities(key=key) if self.order_kind == "both" else None,
        )

    def line_of(self, item: Item) -> Any:
        """Which items of one producer come in their order."""
        return {
            "priorities": (priority_of(item),),
            "fair": (key_of(item),),
            "both": (key_of(item), priority_of(item)),
        }.get(self.order_kind, ())

    def note(self, *what: Any) -> None:
        name = threading.current_thread().name
        self.log.append((time.monotonic() - self.started_at, name, what))

    def story(self) -> str:
        """What happened, to read after a failure."""
        return f"{self.queue.statistics()}\n" + "\n".join(
            f"{at * 1000:9.3f} ms {name:22} " + " ".join(map(str, what))
            for at, name, what in sorted(self.log, key=lambda entry: entry[0])
        )

    # -- the program --------------------------------------------------------------------------

    def run(self) -> None:
        """All of it, in a thread, so that a hang is found whoever hangs."""
        before = queue_threads()
        driver = self.make_thread("driver", self.drive)
        with noting_holds():
            driver.start()
            driver.join(self.whole)
        if driver.is_alive():
            raise HangError(f"the program hangs\n{stacks()}")
        if self.failures:
            raise self.failures[0]
        self.check_threads(before)

    def make_thread(self, name: str, func: Callable[..., None], *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                func(*args)
            except BaseException as error:
                self.note("FAILED:", repr(error))
                self.failures.append(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self.threads.append(thread)
        return thread

    def drive(self) -> None:
        rng, queue = self.random, self.queue

        def some(name: str, count: int, func: Callable[..., None]) -> list[threading.Thread]:
            return [
                self.make_thread(f"{name}-{n}", func, random.Random(rng.random()))
                for n in range(count)
            ]

        if rng.random() < 0.9:
            queue.start()
        if rng.random() < 0.7 or self.mappers:
            self.process(rng)
        producers = some("producer", rng.choice((1, 2, 4, 8)), self.produce)
        producers += some("mapper", self.mappers, self.jobs.run)
        masters = some("master", self.masters, self.rule)
        getters = rng.choice((0, 0, 1, 3))
        others = some("getter", getters, self.consume)
        others += some("joiner", rng.choice((0, 1, 2)), self.wait_for_all)
        others += some("sampler", 1, self.sample)
        others += some("operator", self.operators, self.operate)
        threads = producers + masters + others
        rng.shuffle(threads)
        for thread in threads:
            thread.start()
        self.wait_for(masters)
        self.let_finish(producers)
        self.is_ending = True
        self.stop(rng, rng.choice((None, 0, 0.01)), drain=rng.random() < 0.5)
        self.wait_for(others)
        self.wait_until(lambda: all(turn.ended < math.inf for turn in self.turns), "still at work")
        # What was taken by an iterator that nobody closed is done a moment later.
        self.wait_until(lambda: not self.queue.statistics().inflight, "in hand")
        self.check_state()
        self.finish()
        self.check_end()
        if self.loop_thread is not None:
            assert self.loop_thread.close(timeout=self.hangs)

    def wait_for(self, threads: list[threading.Thread]) -> None:
        give_up_at = time.monotonic() + self.hangs
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
            if thread.is_alive():
                raise HangError(f"{thread.name} hangs\n{stacks()}")
        if self.failures:
            raise self.failures[0]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + self.hangs
        while not condition():
            if time.monotonic() > give_up_at:
                raise HangError(f"{what}\n{stacks()}")
            time.sleep(0.001)

    def let_finish(self, producers: list[threading.Thread]) -> None:
        """See that there is room again for those who wait for it, whatever the masters left."""
        with self.lock:
            self.is_calm = True
        if self.closed:  # it may be about to stop by itself
            self.start()
        self.process(self.random)
        self.wait_for(producers)
        self.wait_until(lambda: not self.nests, "an item waits for a job inside it")

    def finish(self) -> None:
        """A good group takes up what was left."""
        queue = self.queue
        self.process(self.random)
        assert queue.join(timeout=self.hangs) is True, (
            f"join hangs: {queue.statistics()}\n{stacks()}"
        )
        assert queue.stop(timeout=self.hangs) is True, f"left: {queue.unprocessed}"
        assert queue.unprocessed == []

    def abandon(self) -> None:
        """After a failure: end what can be ended."""
        with suppress(Exception):
            self.queue.stop(timeout=0, drain=False)

    # -- producers ----------------------------------------------------------------------------

    def produce(self, rng: random.Random) -> None:
        with self.lock:
            self.producers += 1
            me = self.producers
        mine: list[Item] = []
        haste = rng.choice((0.3, 0.8, 1.0))
        hows = rng.choice((("put", "put", "put", "nowait", "submit"), ("put", "submit", "submit")))
        for number in self.numbers(rng):
            item = Item(me, number, self.make_plan(rng))
            self.items.append(item)
            mine.append(item)
            self.put(item, rng.choice(hows), rng)
            if rng.random() < 0.2:
                self.cancel(rng.choice(mine[-5:]))
            if rng.random() > haste:
                time.sleep(rng.choice(MOMENTS))

    def numbers(self, rng: random.Random) -> Iterable[int]:
        """Of the items of one producer."""
        return range(rng.choice((3, 10, 30)))

    def make_plan(self, rng: random.Random) -> Plan:
        kind = rng.random()
        sleep = rng.choice((None, None, *MOMENTS))
        if self.nesting and rng.random() < self.nesting:
            return Plan(sleep, nests=rng.choice(("map", "batch", "submit", "submit")))
        if kind < 0.6:
            return Plan(sleep)
        if kind < 0.8:
            return Plan(sleep, error=rng.choice(ERRORS))
        if kind < 0.85:
            return Plan(sleep, error=asyncio.CancelledError)
        if kind < 0.92:
            return Plan(sleep, puts=True)
        return Plan(sleep, refused=rng.choice(("stop", "join")))

    def put(self, item: Item, how: str, rng: random.Random) -> None:
        queue = self.queue
        timeout = 0 if how == "nowait" else rng.choice(TIMEOUTS)
        limit = self.own_timeout if timeout is None else timeout
        self.note(how, item, "timeout", timeout)
        context = copy_context()  # what is set in that of an item, its next turn may see
        context.run(CURRENT.set, item)
        options = {"priority": priority_of(item)} if self.says_priority else {}
        began = time.monotonic()
        accepted = True
        try:
            if how == "submit":
                item.future = context.run(partial(queue.submit, item, timeout=timeout, **options))
            elif how == "nowait":
                context.run(partial(queue.put_nowait, item, **options))
            else:
                accepted = context.run(partial(queue.put, item, timeout, **options))
        except QueueFullError:
            accepted = False
        except QueueStateError as error:
            item.state = "not open"
            self.note(item, error)
            return
        waited = time.monotonic() - began
        self.note(item, "accepted" if accepted else "refused")
        if accepted is True:
            item.state = "accepted"
            self.accepted.append(item)
        elif accepted is False:
            item.state = "refused"
            self.refused.append(item)
            assert limit <= waited + 0.001, f"{item} was refused after {waited} s, not {limit}"
        else:
            raise AssertionError(f"put returned {accepted!r}")
        assert waited < limit + self.hangs, f"put took {waited} s instead of {limit}"

    def cancel(self, item: Item) -> None:
        if item.future is not None and item.future.cancel():
            self.note("cancelled the future of", item)

    # -- consumers ----------------------------------------------------------------------------

    def consume(self, rng: random.Random) -> None:
        group = WorkerGroup("get", 1)
        self.groups.append(group)
        Consumer(self, group, rng, MOMENTS).run()

    def check_was_closed(self, asked: float) -> None:
        """An iteration has ended: of a queue that was closed since it asked for the next item."""
        assert self.closing, "an iteration ended, and nobody has closed the queue"
        if self.has_one_master:
            assert any(asked <= until for _, until in self.closed), "it was open"

    def wait_for_all(self, rng: random.Random) -> None:
        while not self.is_ending:
            timeout = rng.choice((None, 0, 0.001, 0.02, math.inf))
            accepted = self.accepted[:]
            began = time.monotonic()
            try:
                finished = self.queue.join(timeout)
            except QueueStateError as error:
                self.note("join:", error)
            else:
                self.note("join:", finished)
                if finished:
                    for item in accepted:
                        done = item.is_done or item.unwanted or item.is_let_go or item.removals
                        assert done, f"join returned before {item} was done"
                else:
                    limit = math.inf if timeout is None else timeout
                    waited = time.monotonic() - began
                    assert limit <= waited + 0.001, f"join gave up after {waited} s"
            time.sleep(rng.choice(MOMENTS))

    def sample(self, rng: random.Random) -> None:
        queue = self.queue
        last = queue.metrics
        while not self.is_ending:
            size = queue.size
            assert size <= self.maxsize, f"{size} items wait, of at most {self.maxsize}"
            stats = queue.statistics()
            assert 0 <= stats.size <= stats.peak_size <= self.maxsize, stats
            metrics = queue.metrics
            for name, count in metrics.items():
                assert count >= last[name], f"{name} fell from {last[name]} to {count}"
            last = metrics
            time.sleep(0.0005)

    # -- an operator ----------------------------------------------------------------------------

    def operate(self, rng: random.Random) -> None:
        while not self.is_ending:
            what = rng.choice(("pause", "pause", "remove", "look"))
            if what == "pause":
                self.pause(rng)
            elif what == "remove":
                self.remove(rng)
            else:
                self.look_at_what_is_in_hand(rng)
            time.sleep(rng.choice(MOMENTS))

    def pause(self, rng: random.Random) -> None:
        queue: Any = self.queue
        stops = queue.queue._stops
        try:
            queue.pause()
        except QueueStateError as error:
            self.note("pause:", error)
            return
        paused_at = time.monotonic()
        self.note("paused")
        time.sleep(rng.choice(MOMENTS))
        until = time.monotonic()
        was_paused = queue.is_paused and queue.queue._stops == stops and self.operators == 1
        with suppress(QueueStateError):
            queue.resume()
        self.note("resumed")
        if was_paused:
            # What a worker was about to take when the pause began it may have taken.
            taken = [
                turn.item
                for turn in self.turns[:]
                if turn.hold is not None and paused_at < turn.hold.since and turn.began < until
            ]
            assert not taken, f"{taken} were taken in a pause"

    def remove(self, rng: random.Random) -> None:
        count = rng.choice((2, 5, 20))
        call = object()
        chosen: list[Item] = []

        def is_chosen(item: Item) -> bool:
            if item.number % count != 1:
                return False
            item.removals[call] = None
            chosen.append(item)
            return True

        for item in self.queue.remove(is_chosen):
            item.is_removed = True
            self.note("removed", item)
        for item in chosen:
            item.removals.pop(call, None)

    def look_at_what_is_in_hand(self, rng: random.Random) -> None:
        held = self.queue.in_hand()
        assert all(one.seconds >= 0 for one in held)
        assert all(isinstance(one.item, (Item, list)) for one in held)

    # -- workers ------------------------------------------------------------------------------

    def process(self, rng: random.Random) -> None:
        group = WorkerGroup(
            rng.choice(("async", "async", "plain", "plain", "mixed")),
            rng.choice((1, 1, 2, 4, 8)),
            has_handler=rng.random() < 0.6,
        )
        if self.batch_luck.random() < self.batches and "limits" not in self.rules():
            group.kind = f"batch of {group.kind}"
        group.takes_itself = "mixed" not in group.kind
        work: Callable[[Item], Any] = {
            "async": lambda: self.async_worker(group),
            "plain": lambda: self.plain_worker(group),
            "mixed": lambda: self.mixed_worker(group),
        }[group.kind.removeprefix("batch of ")]()
        handler = self.make_handler(rng.random() < 0.5) if group.has_handler else None
        # With several masters nobody knows whose workers finish what they hold.
        group.is_counted = self.masters == 1
        before = self.end_standing()
        self.groups.append(group)
        try:
            if group.kind.startswith("batch"):
                self.queue.process_batches(
                    self.batch_worker(group),
                    max_size=self.batch_luck.choice((1, 3, 10)),
                    max_wait=self.batch_luck.choice((0, 0.001, 0.01)),
                    num_workers=group.size,
                    error_handler=handler,
                )
            else:
                self.queue.process(work, group.size, handler)
        except QueueStateError as error:
            self.note("no group:", error)
            assert self.masters > 1 or self.closed, "nobody else stopped it"
        else:
            self.note("group of", group.size, group.kind)
            if self.masters == 1:  # or it may be that this one was replaced
                for one in before:
                    one.claimed_until = min(one.claimed_until, time.monotonic())
            self.note_opened()

    def end_standing(self) -> list[WorkerGroup]:
        """The standing workers are about to finish what they hold, beside those who come then."""
        groups = [one for one in self.groups if one.is_standing]
        for one in groups:
            one.is_counted = False
        return groups

    def begin(self, item: Item, group: WorkerGroup) -> Turn:
        turn = Turn(item, group, time.monotonic())
        if group.takes_itself:
            turn.worker = current_task() or threading.current_thread()
        item.turns.append(turn)
        group.turns.append(turn)
        self.turns.append(turn)
        self.note(group.kind, "begins", item)
        return turn

    def end(self, turn: Turn) -> None:
        turn.item.is_done = not self.is_to_be_retried(turn)
        turn.ended = time.monotonic()
        self.note("ends", turn.item)

    def is_to_be_retried(self, turn: Turn) -> bool:
        """Whether the item gets another turn because this one failed."""
        return False

    def check_context(self, item: Item) -> None:
        if CURRENT.get() is not item:
            self.failures.append(AssertionError(f"{item} runs in the context of {CURRENT.get()}"))

    @contextmanager
    def at_work(self, item: Item, group: WorkerGroup) -> Iterator[Plan]:
        """A worker function, but for its sleep."""
        self.check_context(item)
        turn = self.begin(item, group)
        with self.lock:
            group.at_work += 1
            self.check_total(group, turn)
        times = len(item.turns)
        plan = item.plan if times == 1 else Plan(error=item.plan.error)
        with self.lock:
            if self.is_calm or times > item.plan.fails:
                plan = Plan()
            self.nests += bool(plan.nests)
        try:
            yield plan
            self.check_context(item)
            if plan.error is not None:
                turn.error = plan.error(repr(item))
        except asyncio.CancelledError:
            turn.cancelled = True
            turn.ended = time.monotonic()
            self.note("breaks off", item)
            raise
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            with self.lock:
                group.at_work -= 1
                self.nests -= bool(plan.nests)
        self.end(turn)
        if turn.error is not None:
            raise turn.error

    def check_total(self, group: WorkerGroup, turn: Turn) -> None:
        """A job that is over gets no items, and all together get no more than the largest may.

        One more for each item that waits for another one, or for a job inside it.
        """
        since = -math.inf if turn.hold is None else turn.hold.since
        if turn.item.is_mapped is group.is_standing:
            self.failures.append(AssertionError(f"{turn.item} was taken by a {group.kind}"))
        if since > group.claimed_until:
            self.failures.append(AssertionError(f"{turn.item} was taken after its {group.kind}"))
        groups = [one for one in self.groups if one.kind != "get"]
        claims = [one for one in groups if one.claimed_until >= since]
        waits = sum(one.kind == "wait" for one in claims) if group.is_standing else 0
        if group.at_work > group.size + waits:
            self.failures.append(
                AssertionError(f"{group.at_work} items in the hands of {group.size} workers")
            )
        total = sum(one.at_work for one in groups if one.is_counted)
        most = max(one.size for one in claims) + sum(one.is_nested for one in claims)
        if self.gentle and total > most:
            self.failures.append(AssertionError(f"{total} items in hand, of at most {most}"))

    def async_worker(self, group: WorkerGroup) -> Callable[[Item], Any]:
        async def work(item: Item) -> Item:
            with self.at_work(item, group) as plan:
                if plan.sleep is not None:
                    await asyncio.sleep(plan.sleep)
                if plan.puts:
                    self.put(self.make_child(item), "nowait", random.Random(0))
                if plan.refused:
                    self.try_what_is_refused(plan.refused)
                if plan.nests:
                    self.jobs.try_to_nest(plan.nests)
                if plan.nests and group.is_standing:  # else it may be cancelled, and a thread not
                    await asyncio.to_thread(self.jobs.nest, item, plan.nests, group)
            return item

        return work

    def mixed_worker(self, group: WorkerGroup) -> Callable[[Item], Any]:
        work = self.async_worker(group)

        def call(item: Item) -> Any:  # not async, for all that anybody can see
            return work(item)

        return call

    def plain_worker(self, group: WorkerGroup) -> Callable[[Item], Any]:
        def work(item: Item) -> Item:
            with self.at_work(item, group) as plan:
                if plan.sleep is not None:
                    time.sleep(plan.sleep)
                if plan.puts:
                    how = "put" if item.number % 3 else "nowait"
                    self.put(self.make_child(item), how, ShortOfTime(item.number))
                if plan.refused:
                    self.try_what_is_refused(plan.refused)
                if plan.nests:
                    copy_context().run(self.jobs.nest, item, plan.nests, group)
            return item

        return work

    def batch_worker(self, group: WorkerGroup) -> Callable[[list[Item]], Any]:
        def begin(items: list[Item]) -> tuple[list[Turn], float]:
            turns = [self.begin(item, group) for item in items]
            return turns, items[0].plan.sleep or 0.0

        def end(turns: list[Turn]) -> list[Any]:
            for turn in turns:
                plan = turn.item.plan
                if plan.error is not None and len(turn.item.turns) <= plan.fails:
                    turn.error = None if self.is_calm else plan.error(repr(turn.item))
                self.end(turn)
            return [turn.item if turn.error is None else turn.error for turn in turns]

        async def work(items: list[Item]) -> Any:
            turns, seconds = begin(items)
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                for turn in turns:
                    turn.cancelled = True
                    turn.ended = time.monotonic()
                raise
            return end(turns)

        def plain(items: list[Item]) -> Any:
            turns, seconds = begin(items)
            time.sleep(seconds)
            return end(turns)

        if "mixed" in group.kind:
            return lambda items: work(items)  # noqa: PLW0108 - not async, for all that anybody sees
        return plain if "plain" in group.kind else work

    def make_child(self, item: Item) -> Item:
        with self.lock:
            self.producers += 1
            child = Item(self.producers, 0, Plan())
        self.items.append(child)
        return child

    def try_what_is_refused(self, call: str) -> None:
        """In a worker function: what would wait for itself."""
        try:
            getattr(self.queue, call)()
        except QueueStateError:
            return
        self.failures.append(AssertionError(f"{call}() was allowed in a worker function"))

    def make_handler(self, is_async: bool) -> Callable[[BaseException, Item], Any]:
        @contextmanager
        def handling(error: BaseException, item: Item) -> Iterator[None]:
            self.note("handled", item, repr(error))
            self.handled.append((item, error))
            turns = [turn for turn in item.turns if is_same(turn.error, error)]
            for turn in turns:
                turn.ended = math.inf
            yield
            for turn in turns:
                turn.ended = time.monotonic()

        def handle(error: BaseException, item: Item) -> None:
            with handling(error, item):
                pass

        async def handle_slowly(error: BaseException, item: Item) -> None:
            with handling(error, item), suppress(asyncio.CancelledError):
                await asyncio.sleep(0.0005)
                return
            raise asyncio.CancelledError

        return handle_slowly if is_async else handle

    # -- lifecycle ----------------------------------------------------------------------------

    def rule(self, rng: random.Random) -> None:
        """Start, stop and replace, at random."""
        queue = self.queue
        weights = {
            "process": 3,
            "stop": 0 if self.mappers else rng.choice((0, 1, 3)),
            "stop workers": rng.choice((0, 1, 3)) * self.retires,
            "start": 1,
            "pause": 2,
            "close": self.closing,
        }
        for _ in self.rounds(rng):
            what = rng.choices([*weights], [*weights.values()])[0]
            if what == "process":
                self.process(rng)
            elif what == "stop":
                self.stop(rng, rng.choice(END_TIMEOUTS), drain=rng.random() < 0.6)
            elif what == "stop workers":
                timeout = None if self.gentle else rng.choice(END_TIMEOUTS)
                self.note("stop workers, timeout", timeout)
                self.end_standing()
                with self.maybe_rough(timeout), suppress(QueueStateError):
                    queue.queue.stop_workers(timeout)
                self.note("stopped workers")
            elif what == "start":
                self.start()
            elif what == "close":
                self.close(rng)
            time.sleep(rng.choice(MOMENTS))

    def start(self) -> None:
        self.queue.start()
        self.note("started")
        self.note_opened()

    @property
    def has_one_master(self) -> bool:
        """Whether one thread alone opens and ends the queue. (Jobs start one that has stopped.)"""
        return self.masters == 1 and not self.mappers

    def note_opened(self) -> None:
        if self.closed and not self.queue.is_closed:
            since, until = self.closed[-1]
            self.closed[-1] = (since, min(until, time.monotonic()))

    def close(self, rng: random.Random) -> None:
        """Close it; it takes nothing from then on, and stops when all is done."""
        queue = self.queue
        self.note("close")
        self.closed.append((time.monotonic(), math.inf))
        queue.close()
        self.note("closed")
        if self.has_one_master:
            self.check_closed(rng)
        time.sleep(rng.choice(MOMENTS))
        if rng.random() < 0.7:
            self.start()

    def check_closed(self, rng: random.Random) -> None:
        """Nobody else opens it again meanwhile."""
        queue = self.queue
        with self.lock:
            self.producers += 1
            item = Item(self.producers, 0, Plan())
        self.items.append(item)
        self.put(item, rng.choice(("put", "nowait", "submit")), rng)
        assert item.state == "not open", f"{item} was {item.state} by a queue that is closed"
        if not queue.worker_count:  # there may be nobody who takes what is left
            return
        assert queue.join(self.hangs / 4), f"join hangs: {queue.statistics()}\n{stacks()}"
        assert queue.status is QueueStatus.STOPPED, f"closed, all done, and {queue.status}"
        left, metrics = queue.unprocessed, queue.metrics
        assert not left, f"closed, and left {left}"
        assert metrics["processed"] == metrics["enqueued"], metrics

    def rounds(self, rng: random.Random) -> Iterable[int]:
        """Of one master."""
        return range(rng.choice((1, 5, 10)))

    def stop(self, rng: random.Random, timeout: float | None, *, drain: bool) -> None:
        if self.gentle:
            timeout = None
        self.note("stop, timeout", timeout, "drain", drain)
        began = time.monotonic()
        with self.maybe_rough(timeout):
            clean = self.queue.stop(timeout, drain=drain)
        took = time.monotonic() - began
        self.note("stopped, clean:", clean)
        if timeout is not None:
            assert took < timeout + self.hangs, f"stop took {took} s instead of {timeout}"
        if self.masters == 1:
            assert self.queue.status is QueueStatus.STOPPED
            left = self.queue.unprocessed
            if not self.gives_back:  # what a consumer gives back later is left
                assert not (clean and left), f"stop returned True, but left {left}"

    @contextmanager
    def maybe_rough(self, timeout: float | None) -> Iterator[None]:
        """Workers may be broken off meanwhile, if there is a timeout."""
        began = time.monotonic()
        if timeout is not None:
            self.rough.append((began, math.inf))
        yield
        if timeout is not None:
            self.rough.append((began, time.monotonic()))
            self.rough.remove((began, math.inf))

    # -- what must hold -----------------------------------------------------------------------

    def is_excused(self, turn: Turn) -> bool:
        """Whether the item may have been taken back from whoever held it."""
        hold = turn.hold
        return turn.given_back or (
            hold is not None
            and any(began <= hold.until and hold.since <= ended for began, ended in self.rough)
        )

    def check_state(self) -> None:
        """The queue is stopped and everybody gone: what it says must be what was noted."""
        queue = self.queue
        metrics, stats, left = queue.metrics, queue.statistics(), queue.unprocessed
        assert queue.status is QueueStatus.STOPPED
        assert queue.worker_count == 0
        assert len({*left}) == len(left), f"twice in unprocessed: {left}"
        accepted = {*self.accepted}
        assert {*left} <= accepted, "something is left that was never accepted"
        assert metrics["enqueued"] == len(self.accepted) == len(accepted), (
            f"{metrics}, and {len(accepted)} accepted, noted {len(self.accepted)} times"
        )
        assert metrics["backpressure_events"] == len(self.refused)
        assert metrics["processed"] + len(left) == len(accepted), (
            f"{metrics}, {len(left)} left, {len(accepted)} accepted"
        )
        assert stats.inflight == 0, stats
        assert stats.waiting_putters == 0, stats
        assert stats.peak_size <= self.maxsize
        for item in accepted - {*left}:
            assert item.is_done or item.unwanted or item.is_let_go, f"{item} is lost"
        for item in left:
            for turn in item.turns:
                excused = self.is_excused(turn) or self.may_be_retried(turn)
                assert excused, f"{item} is left, and was done"
        for item in self.items:
            if item.future is not None:
                assert item.future.done(), f"the future of {item} is pending"

    def check_end(self) -> None:
        """All that was accepted was processed, each item once."""
        metrics = self.queue.metrics
        assert metrics["enqueued"] == metrics["processed"] == len(self.accepted)
        for item in self.items:
            self.check_item(item)
        raised = [turn for turn in self.turns if turn.error is not None]
        failed = [
            turn for turn in raised if turn is turn.item.turns[-1] or not self.may_be_retried(turn)
        ]
        sure = [turn for turn in failed if not (self.is_excused(turn) or turn.item.is_let_go)]
        stray = sum(
            1 for t in self.turns if t.cancelled and not (self.is_excused(t) or t.item.is_let_go)
        )
        assert not stray, f"{stray} items were broken off for no reason"
        # What map let go of may have been on its way to a thread that map had ended by then.
        lost = sum(1 for item in self.items if item.is_mapped and not item.turns)
        assert len(sure) <= metrics["errors"] <= len(raised) + lost, (
            f"{metrics}, but {len(sure)} to {len(raised)} failed"
        )
        self.check_handled(failed)
        self.check_rules(failed)
        if not (self.rough or self.gives_back) and self.attempts == 1:
            for group in self.groups:
                self.check_order(group)

    def check_item(self, item: Item) -> None:
        turns = sorted(item.turns, key=lambda turn: turn.began)
        if item.state != "accepted":
            assert not turns, f"{item} was {item.state}, and was handed out"
            return
        if item.unwanted and all(turn.group.kind != "get" for turn in turns if turn.group):
            assert not turns, f"{item} ran although its future was cancelled"
            return
        assert item.unwanted or turns or item.is_removed, f"{item} was accepted and never ran"
        # A worker that lost the item may begin with it even after the one that has it then.
        sure = [t for t in turns if not (self.is_excused(t) or self.may_be_retried(t))]
        assert len(sure) <= 1, f"{item} ran {len(turns)} times"
        kept = item.is_let_go or item.unwanted or any(not turn.cancelled for turn in turns)
        assert not turns or kept, f"{item} was broken off and never done"
        if item.future is not None and not item.unwanted:
            self.check_result(item, item.future, turns)

    def check_result(self, item: Item, future: Future[Any], turns: list[Turn]) -> None:
        try:
            error = future.exception(timeout=0)
        except CancelledError:  # as the function raised it
            error = asyncio.CancelledError()
        if error is None:
            # A consumer makes nothing of it.
            by_hand = any(turn.is_by_hand for turn in turns)
            assert future.result() is item or (by_hand and future.result() is None)
            assert any(turn.error is None and not turn.cancelled for turn in turns)
        elif item.is_removed and isinstance(error, asyncio.CancelledError):
            pass
        elif isinstance(error, QueueStateError):
            assert "stopped before" in str(error) or "taken with get" in str(error), error
        else:
            is_known = any(is_same(turn.error, error) for turn in turns)
            assert is_known, f"the future of {item} holds {error!r}"

    def check_handled(self, failed: list[Turn]) -> None:
        """Whoever has an error handler hears of each failure, unless somebody waits for it."""
        handled = [error for _, error in self.handled]
        assert len({*map(id, handled)}) == len(handled), "handled twice"
        for turn in failed:
            if turn.group is None or not turn.group.has_handler or self.is_excused(turn):
                continue
            if turn.item.is_removed:  # while it waited for its next attempt
                continue
            if turn.item.future is None and not turn.item.is_mapped:
                is_handled = any(is_same(turn.error, error) for error in handled)
                assert is_handled, f"nobody heard of the failure of {turn.item}"
        for item, error in self.handled:
            is_known = any(is_same(turn.error, error) for turn in item.turns)
            assert is_known, f"the handler got {error!r} for {item}"

    def check_order(self, group: WorkerGroup) -> None:
        """Nothing was given back: to each worker a producer's items come in their order."""
        last: dict[tuple[Any, ...], int] = {}
        for turn in group.turns:
            item, taker = turn.item, turn.worker if group.takes_itself else group
            if not group.takes_itself and group.size > 1:
                continue
            line = (taker, item.producer, *self.line_of(item))
            before = last.get(line, -1)
            assert before < item.number, f"{item} was overtaken"
            last[line] = item.number

    def may_be_retried(self, turn: Turn) -> bool:
        """Whether it failed in a way that may be followed by another turn."""
        return self.attempts > 1 and isinstance(turn.error, Exception) and not turn.is_by_hand

    def check_rules(self, failed: list[Turn]) -> None:
        """What else the queue keeps to."""

    def check_threads(self, before: set[threading.Thread]) -> None:
        for thread in self.threads:
            thread.join(self.hangs)
        self.wait_until(
            lambda: not queue_threads() - before,
            f"threads are left: {[*self.threads, *queue_threads() - before]}",
        )


def priority_of(item: Item) -> int:
    """How urgent an item is, where the queue has priorities."""
    return item.number % 3


def key_of(item: Item) -> int:
    """Whose it is, where the queue has fair shares."""
    return (item.producer + item.number // 2) % 3


@contextmanager
def switching_every(seconds: float) -> Iterator[None]:
    """Have the interpreter switch threads so often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
