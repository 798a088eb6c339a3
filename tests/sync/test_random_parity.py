"""The two faces agree in random programs: the same calls, the same outcome after each of them.

What a program does next depends on its seed alone, and on what is the same on both faces. There is
one worker, which is held at some items and fails at others, so that the order is certain.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from penstock import RetryPolicy
from sync.faces import Script, Stage, difference
from sync.helpers import KINDS
from sync.test_parity import HOW_FULL

pytestmark = pytest.mark.usefixtures("no_warning_by_the_clock")

#: How many programs a test runs, how many calls each makes, and how many tests there are of a kind.
PROGRAMS, CALLS = 20, 15
TESTS = 5


class Program:
    """Random calls of one queue."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.items = 0
        self.blocks: list[Any] = []
        self.iterators: list[Any] = []
        self.futures: dict[str, Any] = {}
        self.cancelled: list[Any] = []

    async def run(self) -> None:
        rng, stage = self.random, self.stage
        rules = rng.choice(
            [{}, {}, {"retry": RetryPolicy(2, backoff=lambda *_: 0.001, budget=None)}]
        )
        self.retries = bool(rules)
        stage.uncertain = HOW_FULL | ({"began"} if rules else set())
        self.queue = await stage.make(maxsize=rng.choice((1, 2, 3)), **rules)
        moves: dict[Callable[[], Any], float] = {
            self.put: 6,
            self.take: 3,
            self.change: 3,
            self.process: 2,
            self.batch: 1,
            self.release: 4,
            self.block: 1,
            self.iterate: 1,
            self.cancel: 1,
            self.redrive: 1,
        }
        await rng.choice((self.process, self.start))()
        for _ in range(CALLS):
            (move,) = rng.choices(list(moves), list(moves.values()))
            await move()
        await self.finish()

    async def finish(self) -> None:
        stage = self.stage
        await stage.release()
        for block in self.blocks:
            await stage.do(block, "__aexit__", None, None, None)
        await stage.do(self.queue, "close")
        await stage.do(self.queue, "stop", timeout=0)
        for iterator in self.iterators:
            await stage.do(iterator, "aclose")
        for _ in range(self.queue.statistics().inflight):
            await stage.do(self.queue, "task_done")
        for future in (*self.futures.values(), *self.cancelled):
            await stage.result_of(future)

    def new_item(self) -> str:
        rng = self.random
        self.items += 1
        item = f"item {self.items}"
        if rng.random() < 0.3 and not self.retries:  # which come by the clock, or after a held item
            self.stage.held.add(item)
        if rng.random() < 0.2:
            self.stage.fails[item] = rng.choice([ValueError(item), [ValueError(item)]])
        return item

    def is_waiting(self, what: str) -> bool:
        return any(what in call.what and not call.outcome.done() for call in self.stage.calls)

    def may_wait(self) -> bool:
        """Whether another call may wait: programs are not to be full of those."""
        return sum(not call.outcome.done() for call in self.stage.calls) < 4

    async def put(self) -> None:
        rng, stage, item = self.random, self.stage, self.new_item()
        how = rng.choice(("put", "put_nowait", "submit", "wait"))
        if how == "wait" and self.may_wait() and not self.is_waiting("join"):
            await stage.start(self.queue, "put", item, timeout=math.inf)
        elif how == "submit":
            future = await stage.do(self.queue, "submit", item, timeout=0)
            if hasattr(future, "cancel"):
                self.futures[item] = future
        elif how == "put_nowait":
            await stage.do(self.queue, "put_nowait", item)
        else:
            await stage.do(self.queue, "put", item, timeout=rng.choice((0, 0.001)))

    async def take(self) -> None:
        how = self.random.choice(("get", "get_nowait", "wait", "task_done", "task_done"))
        if how == "get":
            await self.stage.do(self.queue, "get", timeout=0)
        elif how == "wait" and self.may_wait() and not self.queue.worker_count:
            await self.stage.start(self.queue, "get")
        else:
            await self.stage.do(self.queue, "get_nowait" if how == "wait" else how)

    async def start(self) -> None:
        await self.stage.start(self.queue, "start")

    async def change(self) -> None:
        rng, stage = self.random, self.stage
        how = rng.choice(("start", "stop", "close", "join"))
        if how == "close":
            await stage.do(self.queue, "close")
        elif how == "join" and (self.is_waiting("batch") or self.is_waiting("put")):
            return  # all may be done for a moment, before the next put that waits is accepted
        elif self.may_wait():
            options: Any = rng.choice(({}, {"drain": False})) if how == "stop" else {}
            await stage.start(self.queue, how, **options)

    async def process(self) -> None:
        # Workers that are replaced finish their items beside the new ones. If those are items of a
        # job, the blocking face counts them, and the new workers wait for them. And nobody says who
        # is served where workers and callers of get() wait.
        if self.is_waiting("batch") or self.is_waiting("get") or self.is_waiting("next"):
            return
        handler = self.random.choice((None, self.stage.handler()))
        await self.stage.start(self.queue, "process", self.stage.work, 1, handler)

    async def batch(self) -> None:
        # Of two batches that wait for room nobody knows whose next put comes first.
        if self.may_wait() and not self.is_waiting("join") and not self.is_waiting("batch"):
            items = [self.new_item() for _ in range(self.random.choice((1, 3)))]
            await self.stage.start(self.queue, "batch_process", items, self.stage.work)

    async def release(self) -> None:
        held = [item for item in self.stage.began if item in self.stage.held]
        if held:
            await self.stage.release(held[0])

    async def block(self) -> None:
        if self.blocks:
            error = self.random.choice((None, ValueError("mine")))
            kind = None if error is None else type(error)
            await self.stage.do(self.blocks.pop(), "__aexit__", kind, error, None)
            return
        block = await self.stage.do(self.queue, "processing", timeout=0)
        if isinstance(await self.stage.do(block, "__aenter__"), str):
            self.blocks.append(block)

    async def iterate(self) -> None:
        if self.iterators and not self.is_waiting("next"):
            await self.stage.do(self.iterators.pop(), "aclose")
        elif self.queue.size:
            iterator = await self.stage.do(self.queue, "items")
            await self.stage.start(iterator, "__anext__")
            self.iterators.append(iterator)

    async def cancel(self) -> None:
        # One whose call is under way cannot be cancelled on the blocking face.
        waiting = [item for item in self.futures if item not in self.stage.began]
        if waiting:
            item = self.random.choice(waiting)
            self.cancelled.append(self.futures.pop(item))
            await self.stage.do(self.cancelled[-1], "cancel")

    async def redrive(self) -> None:
        await self.stage.do(self.queue, "redrive", timeout=0)


def program(seed: int) -> Script:
    async def script(stage: Stage) -> None:
        await Program(stage, seed).run()

    return script


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", range(0, TESTS * PROGRAMS, PROGRAMS))
def test_random_programs(first: int, kind: str) -> None:
    for seed in range(first, first + PROGRAMS):
        found = difference(program(seed), kind)
        if found:
            pytest.fail(f"seed {seed}, {kind}: {found}", pytrace=False)
