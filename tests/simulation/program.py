"""What all random programs have: steps that follow from a seed, calls in tasks, a story to tell."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator
from typing import Any, ClassVar

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from penstock.telemetry import Telemetry
from simulation.loops import SimulatedLoop

# Puts and attempts that are observed take other ways through the queue.
OBSERVED = Telemetry(NoOpTracerProvider(), NoOpMeterProvider())

MOMENTS = (0.0, 0.0, 0.125, 0.125, 0.25, 0.5, 1.0)

#: What a program may do next, and how often it does.
Choices = dict[Callable[[], Awaitable[None] | None], float]


class ItemError(Exception):
    """A worker function failed."""


class OddError(BaseException):
    """A worker function failed oddly."""


class BrokenPromiseError(AssertionError):
    """The library broke a promise."""


class Program(ABC):
    """A random program. ``run()`` raises ``BrokenPromiseError`` when a promise is broken.

    Each step draws from a generator of its own, so that one can be left out and the others stay
    what they are: that is how a failing program is made shorter. ``steps``: those to take, or all.
    """

    name: ClassVar[str]
    #: How many steps it may have.
    lengths: ClassVar[tuple[int, ...]] = (5, 10, 20, 40)

    def __init__(
        self, seed: int, loop: SimulatedLoop, steps: Collection[int] | None = None
    ) -> None:
        self.seed = seed
        self.loop = loop
        self.random = rng = random.Random(seed)
        self.length = rng.choice(self.lengths)
        self.steps = range(self.length) if steps is None else steps
        self.haste = rng.choice((0.2, 0.5, 0.8))
        #: How probable it is, each time the loop goes round, that a call under way is cancelled.
        self.chaos = rng.choice((0.0, 0.0, 0.02, 0.1))
        self._sabotage = random.Random(seed)
        self.violation: BrokenPromiseError | None = None
        self.log: deque[tuple[float, int, tuple[Any, ...]]] = deque(maxlen=2000)
        self.choices: Choices = {}
        self.set_up()
        loop.saboteur = self.sabotage if self.chaos else None

    @abstractmethod
    def set_up(self) -> None:
        """Make what is used, and say what may be done with it, how often, in ``choices``."""

    @abstractmethod
    async def begin(self) -> None:
        """Come before the steps."""

    @abstractmethod
    async def finish(self) -> None:
        """End everything, and check it."""

    @abstractmethod
    def cancel_one(self, rng: random.Random) -> None:
        """Cancel some call under way."""

    @abstractmethod
    def items(self) -> list[Any]:
        """What was put."""

    @abstractmethod
    def forget(self) -> Any:
        """Keep nothing of it; return the queue that had it."""

    async def run(self) -> None:
        """Run the program."""
        await self.begin()
        choices, weights = list(self.choices), list(self.choices.values())
        for number in range(self.length):
            if number not in self.steps:
                continue
            self.random.seed(self.seed * 1000 + number)
            result = self.random.choices(choices, weights)[0]()
            if result is not None:
                await result
            await self.pause()
        self.random.seed(-1 - self.seed)
        self.loop.saboteur = None
        await self.finish()

    async def pause(self) -> None:
        """Let some time pass, or none, or not even a step."""
        rng = self.random
        if rng.random() < self.haste:
            return
        if rng.random() < 0.5:
            for _ in range(rng.choice((1, 1, 2, 5))):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(rng.choice(MOMENTS))

    def sabotage(self) -> None:
        """Cancel something between two steps of the loop, now and then."""
        if self._sabotage.random() < self.chaos:
            self.cancel_one(self._sabotage)

    def fail(self, message: str) -> BrokenPromiseError:
        """Note the first promise that was broken, and return it to be raised.

        It is noted because what is raised in a worker function is the queue's to deal with.
        """
        self.violation = self.violation or BrokenPromiseError(message)
        return self.violation

    def hold(self, condition: bool, message: str) -> None:
        """See that something is so."""
        if not condition:
            raise self.fail(message)

    def note(self, *what: Any) -> None:
        """Remember what happened."""
        self.log.append((self.loop.time(), self.loop.steps, what))

    def story(self) -> str:
        """What happened, to read after a failure."""
        return "\n".join(
            f"t={time:<8g} step {step:<4} " + " ".join(map(str, what))
            for time, step, what in self.log
        )


class PutOutcome:
    """What a plain worker function returns: a thing to await, so that its worker says how it went.

    Where its worker was cancelled meanwhile nobody awaits it, as nobody hears what a thread made.
    """

    def __init__(self, end: Callable[[], Any]) -> None:
        self._end = end

    def __await__(self) -> Generator[Any, Any, Any]:
        yield from ()
        return self._end()
