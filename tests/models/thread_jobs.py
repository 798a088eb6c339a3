"""Maps and batches of a random program of threads: side by side, and inside items."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from models.thread_notes import (
    CURRENT,
    MOMENTS,
    HangError,
    Item,
    ItemError,
    Plan,
    ShortOfTime,
    WorkerGroup,
    is_same,
    stacks,
)
from penstock import QueueStateError

if TYPE_CHECKING:
    from models.threads import Program


class Jobs:
    """The jobs of a program. Several threads run some at once."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, rng: random.Random) -> None:
        """Maps and batches on the queue that all share; now and then not to their end."""
        while not self.program.is_calm:
            size, count = rng.choice((1, 2, 4, 12)), rng.choice((1, 10, 50))
            self.run_one(rng.choice(("map", "batch")), size, count, rng)
            time.sleep(rng.choice(MOMENTS))

    def run_one(self, kind: str, size: int, count: int, rng: random.Random, depth: int = 0) -> None:
        with self.program.lock:
            self.program.producers += 1
            me = self.program.producers
        group = WorkerGroup(kind, size, takes_itself=False, is_nested=depth > 0)
        self.program.groups.append(group)
        work = rng.choice((self.program.plain_worker, self.program.async_worker))(group)
        mine: list[Item] = []
        items = self.items_of_job(kind, me, mine, count, depth, rng)
        self.program.note(kind, me, "with", group.size, *(("in", CURRENT.get()) if depth else ()))
        try:
            (self.map if kind == "map" else self.batch)(group, work, items, mine, rng)
        except QueueStateError as error:  # closed; or closed, done, and opened again since
            if not self.program.closed:
                raise
            self.program.note(kind, me, "was closed:", error)
            self.refuse_last(mine)
        group.claimed_until = time.monotonic()
        self.program.note(kind, me, "is over")
        self.program.accepted += mine  # what was read was put, and now nobody is just about to

    def refuse_last(self, mine: list[Item]) -> None:
        """A job on a queue that was closed: what it had put is done, and the last item was not."""
        if mine:
            last = mine.pop()
            last.state = "not open"
            assert not last.turns, f"{last} was refused, and ran"
        for item in mine:
            assert item.is_done or item.unwanted, f"a job was over before {item} was done"
            if item.is_batched:
                item.is_told = True
            assert item.is_told, f"map kept back what became of {item}"

    def map(
        self,
        group: WorkerGroup,
        work: Callable[[Item], Any],
        items: Iterator[Item],
        mine: list[Item],
        rng: random.Random,
    ) -> None:
        results = self.program.queue.map(
            work,
            items,
            num_workers=group.size,
            ordered=rng.random() < 0.5,
            return_exceptions=True,
        )
        read = rng.choice((math.inf, math.inf, 5))
        if (
            self.program.closing
        ):  # a map that is left does not tell whether its last item was refused
            read = math.inf
        for count, result in enumerate(results, 1):
            self.check_mapped(mine, result)
            if count >= read:
                group.is_counted = False
                results.close()
                break
        else:
            assert all(item.is_told for item in mine), "map kept results back"

    def batch(
        self,
        group: WorkerGroup,
        work: Callable[[Item], Any],
        items: Iterator[Item],
        mine: list[Item],
        rng: random.Random,
    ) -> None:
        def some() -> Iterator[Item]:
            for item in items:
                yield item
                if len(mine) == fails_at:
                    group.is_counted = False
                    raise ItemError("the source")

        fails_at = rng.choice((math.inf, math.inf, 3))
        handler = self.program.make_handler(rng.random() < 0.5)
        try:
            result = self.program.queue.batch_process(some(), work, group.size, handler)
        except ItemError:
            assert len(mine) == fails_at, "a batch raised what its source did not raise"
            return
        assert result.processed == len(mine), f"{result}, of {mine}"
        failed = [item for item in mine if item.turns[-1].error is not None]
        assert result.failed == len(failed), f"{result}, but {failed} failed"
        for item in mine:
            item.is_told = True

    def items_of_job(
        self,
        kind: str,
        producer: int,
        mine: list[Item],
        count: int,
        depth: int,
        rng: random.Random,
    ) -> Iterator[Item]:
        for number in range(count):
            plan = self.program.make_plan(rng)
            if depth == 1 and rng.random() < 0.5:
                plan = replace(plan, nests=rng.choice(("map", "batch")))
            item = Item(producer, number, plan, "accepted", is_mapped=True)
            item.is_batched, item.depth = kind == "batch", depth
            mine.append(item)
            self.program.items.append(item)
            CURRENT.set(item)
            yield item

    def check_mapped(self, mine: list[Item], result: Any) -> None:
        for item in mine:
            if not item.is_told and (
                result is item or any(is_same(turn.error, result) for turn in item.turns)
            ):
                item.is_told = True
                return
        raise AssertionError(f"map gave {result!r}, of {mine}")

    def try_to_nest(self, how: str) -> None:
        """In the event loop: what would block it."""
        queue, nothing = self.program.queue, [Item(0, 0, Plan())]
        calls: dict[str, Callable[[], object]] = {
            "map": lambda: list(queue.map(print, nothing)),
            "batch": lambda: queue.batch_process(nothing, print),
            "submit": lambda: queue.submit(nothing[0]),
        }
        try:
            calls[how]()
        except QueueStateError:
            return
        self.program.failures.append(AssertionError(f"{how} was allowed in the event loop"))

    def nest(self, item: Item, how: str, group: WorkerGroup) -> None:
        """In a worker function that is a thread: wait for a job or an item of the same queue."""
        rng = random.Random(f"{item} nests")
        if how == "submit":
            # There may be nobody who processes it; nobody is there for it, if others replace the
            # workers while an item of a job waits for it.
            is_sure = group.is_standing and not (self.program.retires or self.program.closing)
            self.wait_for_child(item, self.program.hangs / 4 if is_sure else 0.05)
        elif item.depth < 2:
            self.run_one(how, rng.choice((1, 1, 2)), rng.choice((1, 2, 5)), rng, item.depth + 1)

    def wait_for_child(self, item: Item, timeout: float) -> None:
        child = self.program.make_child(item)
        wait = WorkerGroup("wait", 0, is_nested=True)
        self.program.groups.append(wait)
        self.program.put(child, "submit", ShortOfTime(item.number))
        if child.future is not None:
            try:
                child.future.exception(timeout)
            except CancelledError:
                pass
            except FutureTimeoutError:
                if timeout > 1:
                    raise HangError(f"{item} waits for {child}\n{stacks()}") from None
        wait.claimed_until = time.monotonic()
