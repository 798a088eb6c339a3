"""Threads of a random program that take items themselves: by ``get``, by a block, by iteration."""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any

from penstock import QueueEmptyError, QueueStateError

if TYPE_CHECKING:
    from models.thread_notes import Item, Turn, WorkerGroup
    from models.threads import Program

#: Seconds before the next item is looked for where there was none.
PAUSE = 0.0005


class ConsumerError(Exception):
    """A consumer failed with an item."""


class Consumer:
    """One thread that takes items until the program ends.

    Args:
        program: the one that it is part of.
        group: what the turns of this thread are noted in.
        moments: how long an item takes.
    """

    def __init__(
        self, program: Program, group: WorkerGroup, rng: random.Random, moments: tuple[float, ...]
    ) -> None:
        self.program = program
        self.group = group
        self.rng = rng
        self.moments = moments
        self.ways = [self.get]
        if program.streams:
            self.ways += [self.process, self.iterate]

    def run(self) -> None:
        """Take items in one way or another."""
        while not self.program.is_ending:
            time.sleep(self.take())

    def take(self) -> float:
        """Take some; return the seconds until it is worth while to look for more."""
        try:
            self.rng.choice(self.ways)()
        except QueueEmptyError:
            return PAUSE
        except QueueStateError:
            return 2 * PAUSE
        return 0.0

    def begin(self, item: Item) -> Turn:
        """An item is handed out to this thread."""
        assert not item.is_mapped, f"{item} of a job was taken by a consumer"
        turn = self.program.begin(item, self.group)
        time.sleep(self.rng.choice(self.moments))
        return turn

    def get(self) -> None:
        """``get``, and ``task_done``."""
        queue = self.program.queue
        if self.rng.random() < 0.3:
            item = queue.get_nowait()
        else:
            item = queue.get(self.rng.choice((None, 0, 0.001, 0.01)))
        turn = self.begin(item)
        self.program.end(turn)
        queue.task_done()

    def process(self) -> None:
        """``with queue.processing()``, which is left by an exception now and then."""
        try:
            with self.program.queue.processing(self.rng.choice((None, 0, 0.001, 0.01))) as item:
                self.end(self.begin(item), may_fail=True)
        except (ConsumerError, asyncio.CancelledError):
            pass

    def iterate(self) -> None:
        """``for item in queue``, to the end or to some item, closed or not."""
        stream = self.program.queue.items()
        is_tidy = self.rng.random() < 0.5
        leave_at = self.rng.choice((1, 3, 10, math.inf))
        block: AbstractContextManager[Any] = closing(stream) if is_tidy else nullcontext()
        try:
            with block:
                asked = time.monotonic()
                for number, item in enumerate(stream, 1):
                    turn = self.begin(item)
                    is_last = number >= leave_at
                    self.end(turn, may_fail=is_tidy and is_last)
                    if is_last:
                        return
                    asked = time.monotonic()
        except (ConsumerError, asyncio.CancelledError):
            return
        self.program.check_was_closed(asked)

    def end(self, turn: Turn, *, may_fail: bool) -> None:
        """The item is done, or has failed, or is given back."""
        program, luck = self.program, self.rng.random()
        if may_fail and luck < 0.2:
            turn.error = ConsumerError(repr(turn.item))
            program.end(turn)
            raise turn.error
        if may_fail and luck < 0.4 and program.gives_back:
            turn.cancelled = turn.given_back = True
            program.note("gives back", turn.item)
            turn.ended = time.monotonic()
            raise asyncio.CancelledError
        program.end(turn)
