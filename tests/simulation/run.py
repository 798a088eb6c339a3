"""Runs one program, says what is wrong with it, and makes a failing one shorter."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from penstock.limits import retry
from simulation.batches_program import BatchesProgram
from simulation.face_program import FaceProgram
from simulation.jobs_program import JobsProgram
from simulation.loops import Order, SimulatedLoop
from simulation.orders_program import OrdersProgram
from simulation.program import Program
from simulation.queue_program import QueueProgram
from simulation.rules_program import RulesProgram

PROGRAMS: dict[str, type[Program]] = {
    program.name: program
    for program in (
        QueueProgram,
        RulesProgram,
        FaceProgram,
        JobsProgram,
        BatchesProgram,
        OrdersProgram,
    )
}
ORDERS: tuple[Order, ...] = ("fifo", "shuffled")
if hasattr(asyncio, "eager_task_factory"):
    ORDERS = (*ORDERS, "eager")

# Thousands of breakers open, each with a warning.
logging.getLogger("penstock").addHandler(logging.NullHandler())

COMMAND = "PYTHONPATH=src:tests python -m simulation"


@dataclass(frozen=True)
class Case:
    """One program: what is run, and how."""

    seed: int
    program: str = ""
    order: Order | None = None
    #: The steps that it takes; all of them by default.
    steps: tuple[int, ...] | None = None

    def command(self) -> str:
        """How to run it again."""
        words = [COMMAND, f"--seed {self.seed}"]
        if self.program:
            words.append(f"--program {self.program}")
        if self.order is not None:
            words.append(f"--order {self.order}")
        if self.steps is not None:
            words.append(f"--steps {','.join(map(str, self.steps)) or 'none'}")
        return " ".join([*words, "--verbose"])

    def what(self) -> tuple[type[Program], Order, float]:
        """The kind of program, the order of callbacks, and how often the loop stalls."""
        # Not from the generator of the program: each is to meet each.
        rng = random.Random(-self.seed)
        kind, order = rng.choice([*PROGRAMS]), rng.choice(ORDERS)
        stalls = rng.choice((0.0, 0.0, 0.02, 0.1))
        return PROGRAMS[self.program or kind], self.order or order, stalls


class BrokenProgram(AssertionError):  # noqa: N818 - it is the answer
    """A program failed. The message says why, and how to see it again."""

    def __init__(self, case: Case, rule: str, story: str, length: int) -> None:
        self.case = case
        self.rule = rule
        self.story = story
        self.length = length
        super().__init__(case, rule)

    def __str__(self) -> str:
        return f"{self.story}\n{self.rule}\nAgain: {self.case.command()}"


def run(case: Case) -> Program:
    """Run a program. Raises ``BrokenProgram`` when a promise was broken."""
    kind, order, stalls = case.what()
    loop = SimulatedLoop(case.seed, order, stalls)
    program = kind(case.seed, loop, case.steps)
    try:
        # Retries are spread by it; a program is to be the same each time.
        with patch.object(retry, "_default_rng", random.Random(case.seed)):
            loop.run_until_complete(program.run())
        loop.settle()
        left = loop.left_over()
        if left:
            raise program.fail("left over: " + ", ".join(left))
        if program.violation:
            raise program.violation
        look_for_what_is_kept(program)
        if loop.complaints:
            raise program.fail("asyncio complains: " + "; ".join(loop.complaints))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        rule = str(program.violation or f"{type(error).__name__}: {error}")
        raise BrokenProgram(case, rule, program.story(), program.length) from error
    finally:
        loop.bury()
    return program


def look_for_what_is_kept(program: Program) -> None:
    """See that the queue, which lives on, keeps nothing alive of what it was given."""
    items = [weakref.ref(item) for item in program.items()]
    queue = program.forget()
    gc.collect()
    kept = [item for ref in items if (item := ref()) is not None]
    if kept:
        raise program.fail(f"{queue!r} keeps {kept} alive, which are done")
    futures = program.loop.pending_futures()
    if futures:
        raise program.fail(f"{queue!r} keeps {futures} alive, for which nobody waits")


def simulate(first: int, count: int, **options: Any) -> Iterator[BrokenProgram | None]:
    """Run so many seeds; for each, None or why it failed."""
    with little_garbage():
        for seed in range(first, first + count):
            yield failure_of(Case(seed, **options))


def failure_of(case: Case) -> BrokenProgram | None:
    """Run a program; say why it failed, or None."""
    try:
        run(case)
    except BrokenProgram as broken:
        return broken
    return None


def run_chunk(first: int, count: int, options: dict[str, Any]) -> tuple[int, list[str]]:
    """Run some seeds, in whatever process; return how many, and what is to be said of failures."""
    found = []
    for broken in simulate(first, count, **options):
        if broken is not None:
            least = shrink(broken)
            found.append(
                f"seed {broken.case.seed}: {broken.rule}\n  again: {broken.case.command()}\n"
                f"  shorter ({least.rule}): {least.case.command()}"
            )
    return count, found


@contextmanager
def little_garbage() -> Iterator[None]:
    """Collect garbage only when told, and quickly: what is there already is not looked at."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def shrink(broken: BrokenProgram) -> BrokenProgram:
    """The same failure with fewer steps: leave out what can be left out, large parts first."""
    case = broken.case
    steps = list(range(broken.length)) if case.steps is None else list(case.steps)
    size = len(steps)
    while size >= 1:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            # Any failure will do: what is broken shows in many ways.
            found = failure_of(replace(case, steps=tuple(fewer)))
            if found is None:
                start += size
            else:
                steps, broken = fewer, found
        size = min(size // 2, max(1, len(steps))) if size > 1 else 0
    return broken
