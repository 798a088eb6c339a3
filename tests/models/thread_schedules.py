"""Schedules of real threads: ten thousand operations around one blocking queue, disturbed.

The program is that of ``threads.py``, longer, and with limits, retries and ``map``; what it noted
must add up in the same way.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from models.disturbance import Disturbance
from models.thread_notes import MOMENTS, HangError, Item, Plan, Turn, stacks
from models.threads import Program
from penstock import QueueStateError, QueueStatus
from penstock.limits import Limit, RetryPolicy

#: Calls of the queue in one schedule.
OPERATIONS = 10_000


class Schedule(Program):
    """A program that goes on until so many operations are done."""

    # Every thread may be held up again and again, on a machine that has others to hold up as well.
    hangs, whole = 120.0, 1200.0

    def __init__(self, seed: int, operations: int = OPERATIONS, way: str | None = None) -> None:
        self.luck = luck = random.Random(f"schedule {seed}")
        self.operations = operations
        self.disturbance = Disturbance.draw(luck, way)
        self.limit = Limit(luck.choice((20, 200)), per=0.02) if luck.random() < 0.3 else None
        self.attempts = luck.choice((1, 1, 3))
        self._done = itertools.count(1)
        self.count = 0
        self.go = threading.Event()
        self.go.set()
        super().__init__(seed)
        self.log = deque(maxlen=20 * operations)
        self.gentle = self.gentle or luck.random() < 0.5
        if luck.random() < 0.25:
            self.mappers, self.gentle = luck.choice((1, 2)), True
        luck = random.Random(f"nested {seed}")
        if not self.mappers and luck.random() < 0.25:
            self.mappers, self.gentle = luck.choice((1, 2)), True
        if self.mappers:  # else somebody may stop the queue, and what waits inside an item
            self.nesting = luck.choice((0, 0.02, 0.1, 0.1))

    def rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = {"max_dead_letters": 10 * self.operations}
        if self.limit is not None:
            rules["limits"] = [self.limit]
        if self.attempts > 1:
            rules["retry"] = RetryPolicy(self.attempts, backoff=pause, budget=None)
        return rules

    def run(self) -> None:
        # A loop that is held up is not blocked, and is not to be left behind as one that is.
        with self.disturbance.on(), patch("penstock.sync.queue.RESPONSE_TIMEOUT", self.hangs):
            super().run()

    def wait_for(self, threads: list[threading.Thread]) -> None:
        """A schedule that goes on does not hang, however slowly."""
        count, since = self.count, time.monotonic()
        for thread in threads:
            while thread.is_alive() and not self.failures:
                thread.join(1)
                if self.count != count:
                    count, since = self.count, time.monotonic()
                if time.monotonic() - since > self.hangs:
                    raise HangError(f"{thread.name} hangs\n{stacks()}")
        super().wait_for(threads)

    # -- so many operations -------------------------------------------------------------------

    def note(self, *what: Any) -> None:
        super().note(*what)
        self.count = next(self._done)

    def story_of(self, error: BaseException) -> str:
        """The end of what happened, and all that happened to the items that ``error`` names."""
        lines = self.story().splitlines()
        named = {*re.findall(r"item \d+\.\d+", str(error))}
        kept = [
            line
            for count, line in enumerate(lines)
            if count > len(lines) - 200 or named & {*re.findall(r"item \d+\.\d+", line)}
        ]
        return "\n".join([lines[0], *kept])

    @property
    def goes_on(self) -> bool:
        return self.count < 3 * self.operations and len(self.items) < self.operations

    def numbers(self, rng: random.Random) -> Iterator[int]:
        number = 0
        while self.goes_on:
            yield number
            number += 1
            self.go.wait(self.hangs)

    def rounds(self, rng: random.Random) -> Iterator[int]:
        # Not in a row: a queue that is stopped all the time is not worth a test.
        number = 0
        while self.goes_on:
            yield number
            number += 1
            time.sleep(rng.choice((0.0, 0.005, 0.03)))
            if self.masters == 1 and rng.random() < 0.5:
                self.lull(rng)

    def lull(self, rng: random.Random) -> None:
        """Nobody puts, so all must be done soon: whoever was not called would wait for ever.

        Then one item at a time, each as soon as the one before is done.
        """
        queue = self.queue
        self.go.clear()
        try:
            if queue.is_closed:
                self.start()
            # The workers of jobs take no items of others.
            if queue.status is not QueueStatus.PROCESSING or not queue.worker_count or self.mappers:
                self.process(rng)
            assert queue.join(self.hangs / 4), f"join hangs: {queue.statistics()}\n{stacks()}"
            with self.lock:
                self.producers += 1
                me = self.producers
            for number in range(rng.choice((3, 30, 100))):
                item = Item(me, number, self.make_plan(rng))
                self.items.append(item)
                self.put(item, "submit", rng)
                if item.future is not None:
                    self.wait_for_result(item.future)
        finally:
            self.go.set()

    def wait_for_result(self, future: Future[Any]) -> None:
        try:
            future.exception(self.hangs / 4)
        except CancelledError:  # as the function raised it
            pass
        except (TimeoutError, FutureTimeoutError):
            raise HangError(f"an item waits\n{self.queue.statistics()}\n{stacks()}") from None

    def put(self, item: Item, how: str, rng: random.Random) -> None:
        super().put(item, how, rng)
        if item.state == "not open":
            time.sleep(0.002)

    # -- retries ------------------------------------------------------------------------------

    def make_plan(self, rng: random.Random) -> Plan:
        plan = super().make_plan(rng)
        sleep = rng.choice(MOMENTS) if rng.random() < 0.05 else None
        return replace(plan, sleep=sleep, fails=rng.choice((1, 2, 9)))

    def is_to_be_retried(self, turn: Turn) -> bool:
        if not self.gentle:  # workers that lost an item count too: nobody can tell
            return False
        turns = [one for one in turn.item.turns if not one.cancelled]
        return self.may_be_retried(turn) and len(turns) < self.attempts

    def check_rules(self, failed: list[Turn]) -> None:
        self.check_limit()
        letters = [letter.item for letter in self.queue.dead_letters]
        assert len({*letters}) == len(letters), "twice among the dead letters"
        # A worker that lost an item may begin with it later than the one that has it then.
        lasts = [turn for turn in failed if turn is turn.item.turns[-1] or not self.gentle]
        lasts = [turn for turn in lasts if not turn.is_by_hand]
        buried = {turn.item for turn in lasts if not is_awaited(turn.item)}
        unknown, missing = {*letters} - buried, buried - {*letters}
        missing -= {item for item in missing if item.is_let_go}
        assert not unknown, f"among the dead letters, and did not fail for good: {unknown}"
        if self.gentle and self.attempts > 1:
            assert not missing, f"not among the dead letters: {missing}"

    def check_limit(self) -> None:
        """From any moment on no more begin than so many windows allow."""
        if self.limit is None:
            return
        most, per = self.limit.max, self.limit.per
        begun = sorted(
            turn.began for turn in self.turns if turn.group is None or turn.group.kind != "get"
        )
        for count, at in enumerate(begun, 1):
            windows = 1 + int((at - self.started_at) / per)
            assert count <= windows * most, f"{count} began in {windows} windows for {most}"


def is_awaited(item: Item) -> bool:
    """Whether somebody got the item's error from a future."""
    if item.is_mapped:
        return not item.is_batched
    future: Future[Any] | None = item.future
    return future is not None and not isinstance(future.exception(timeout=0), QueueStateError)


def pause(attempt: int, error: Exception) -> float:
    """Seconds before another attempt."""
    return 0.0005 * attempt
