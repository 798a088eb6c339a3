"""What a random program of threads notes: items, who had each of them, when, and how it ended."""

from __future__ import annotations

import asyncio
import faulthandler
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn
from unittest.mock import patch

from penstock.sync.slots import LoopSlot, WorkerSlot

MOMENTS = (0.0, 0.0, 0.0005, 0.001, 0.003, 0.01)

#: The item that the running code belongs to.
CURRENT: ContextVar[Any] = ContextVar("CURRENT", default=None)
#: How long the worker has had it.
HOLD: ContextVar[Hold | None] = ContextVar("HOLD", default=None)


class ItemError(Exception):
    """A worker function failed."""


class OddError(BaseException):
    """A worker function failed oddly."""


ERRORS = (ItemError, ItemError, OddError, SystemExit, KeyboardInterrupt, GeneratorExit)


@dataclass(frozen=True)
class Plan:
    """What a worker function does with an item: its error some times, and the rest once."""

    sleep: float | None = None
    error: type[BaseException] | None = None
    #: How many times it is raised.
    fails: int = 1
    #: Put another item on the way.
    puts: bool = False
    #: Try a call that would wait for itself.
    refused: str = ""
    #: Wait for a map, a batch or an item of the same queue.
    nests: str = ""


@dataclass(eq=False)
class Hold:
    """A time in which a worker may have had an item.

    From when it was about to take one, until it had told the queue what became of the item.
    """

    since: float
    until: float = math.inf


@contextmanager
def noting_holds() -> Iterator[None]:
    """Have the workers of queues note for how long they have an item, in the item's context."""

    def let_go(slot: Any) -> float:
        now = time.monotonic()
        if getattr(slot, "hold", None) is not None:
            slot.hold.until = now
            slot.hold = None
        return now

    def noting(take: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def take_and_note(slot: Any) -> Any:
            hold = Hold(let_go(slot))
            entry = take(slot)
            if entry is not None:
                _, _, context, _ = entry
                context.run(HOLD.set, hold)
                slot.hold = hold
            return entry

        return take_and_note

    def close(slot: Any) -> None:
        if not slot.is_revoked:  # or its worker may still be on its way to the function
            let_go(slot)
        close_slot(slot)

    close_slot = WorkerSlot.close
    with (
        patch.object(WorkerSlot, "take", noting(WorkerSlot.take)),
        patch.object(LoopSlot, "take", noting(LoopSlot.take)),
        patch.object(WorkerSlot, "close", close),
    ):
        yield


@dataclass(eq=False)
class Turn:
    """One time that an item was handed out: to a worker, or to a caller of ``get``."""

    item: Item
    group: WorkerGroup | None
    began: float
    #: The thread or task, if it is one that takes items itself.
    worker: Any = None
    ended: float = math.inf
    #: For how long the worker had the item; None: it was a caller of ``get``.
    hold: Hold | None = field(default_factory=HOLD.get)
    cancelled: bool = False
    #: Whether a consumer gave it back.
    given_back: bool = False
    error: BaseException | None = None

    @property
    def is_by_hand(self) -> bool:
        """Whether no worker had the item."""
        return self.group is not None and self.group.kind == "get"


@dataclass(eq=False)
class WorkerGroup:
    """Those who have a claim to items: workers, a consumer, or an item that waits for another.

    Its kind says which: that of a function of ``process``, "map" or "batch", "get", "wait".
    """

    kind: str
    size: int
    has_handler: bool = False
    turns: list[Turn] = field(default_factory=list)
    at_work: int = 0
    #: Whether each worker takes the items itself that it runs.
    takes_itself: bool = True
    #: Whether its calls count for the total: it was neither replaced nor is it about to end.
    is_counted: bool = True
    #: Until when it claimed workers. What was taken later is not of it.
    claimed_until: float = math.inf
    #: Whether an item waits for it, whose worker does nothing meanwhile.
    is_nested: bool = False

    @property
    def is_standing(self) -> bool:
        """Whether it is the workers of one ``process``."""
        return self.kind in ("async", "plain", "mixed")


@dataclass(eq=False)
class Item:
    """Something to put."""

    producer: int
    number: int
    plan: Plan
    state: str = "offered"
    future: Future[Any] | None = None
    turns: list[Turn] = field(default_factory=list)
    #: Set before the worker function ends for good, or before ``task_done``.
    is_done: bool = False
    #: Whether it is of a job; whether that is a batch; and whether the job told what became of it.
    is_mapped: bool = False
    is_batched: bool = False
    is_told: bool = False
    #: Whether somebody has removed it from the queue.
    is_removed: bool = False
    #: The calls of ``remove`` that chose it and have not said yet whether it was still there.
    removals: dict[object, None] = field(default_factory=dict)
    #: In how many items its job is nested.
    depth: int = 0

    def __eq__(self, other: object) -> NoReturn:
        raise AssertionError("the queue compared items, which can be anything")

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        return self.number % 2 == 0

    def __repr__(self) -> str:
        return f"item {self.producer}.{self.number}"

    @property
    def is_let_go(self) -> bool:
        """Whether its job ended early, or somebody removed it: it may end without another turn."""
        return self.is_removed or (self.is_mapped and not self.is_told)

    @property
    def unwanted(self) -> bool:
        if self.is_mapped:  # one that was let go of early may have run all the same
            return not (self.is_told or self.turns)
        return self.future is not None and self.future.cancelled()


class HangError(AssertionError):
    """Somebody waits for ever."""


def stacks() -> str:
    """What every thread is doing."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def is_same(raised: BaseException | None, told: BaseException) -> bool:
    """Whether an exception arrived. A CancelledError may have gone through a task's state."""
    if isinstance(told, asyncio.CancelledError):
        return isinstance(raised, asyncio.CancelledError)
    return raised is told


class ShortOfTime(random.Random):
    """Chooses no timeout that a worker function may not use on its own queue."""

    def choice(self, seq: Any) -> Any:
        return super().choice([one for one in seq if one != math.inf])
