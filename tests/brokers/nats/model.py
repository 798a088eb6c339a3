"""One random program of several machines that share a queue, made from a seed, and its check.

Machines put, process, fail, stop, are cut off and die. Whatever happens: what was accepted is
processed or a dead letter in the end; what was refused never runs; nothing is done twice but what
was in the hands of a machine that something happened to.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from brokers.nats.helpers import show
from brokers.proxy import Proxy
from brokers.servers import NatsServer
from helpers.logs import SILENT
from penstock import QueueEmptyError, QueueStateError, RetryPolicy
from penstock.brokers.nats import NatsQueue
from penstock.errors import BrokerError, QueueUnknownError

ACK_WAIT = 2.0
#: Seconds after the end of a call in which the server may not have heard of it.
_SETTLING = 1.0
_BOUND = 60.0


class BrokenPromiseError(AssertionError):
    """What must not be."""


@dataclass
class Run:
    """One call of a worker function."""

    item: int
    machine: Machine
    began: float
    ended: float = math.inf
    is_done: bool = False


@dataclass(eq=False)
class Machine:
    """A queue behind a proxy of its own."""

    number: int
    proxy: Proxy
    queue: NatsQueue[int]
    is_dead: bool = False
    puts: set[asyncio.Task[None]] = field(default_factory=set)
    #: What was taken by hand and is not done.
    in_hand: list[Run] = field(default_factory=list)
    #: When something happened to it: from, to.
    troubles: list[tuple[float, float]] = field(default_factory=list)

    def had_trouble(self, since: float, until: float) -> bool:
        return any(start <= until and end >= since for start, end in self.troubles)


class Schedule:
    """The program. ``run()`` raises ``BrokenPromiseError`` when the queue breaks a promise."""

    def __init__(self, seed: int, server: NatsServer, name: str) -> None:
        self.random = rng = random.Random(seed)
        self.server, self.name = server, name
        self.maxsize = rng.choice((1, 3, 10, 50))
        self.workers = rng.choice((1, 2, 5))
        self.poison = rng.choice((0, 0, 0.1))
        self.failures = rng.choice((0, 0.1, 0.4))
        self.length = rng.choice((30, 60, 120))
        self.machines: list[Machine] = []
        self.runs: list[Run] = []
        self.put_at: dict[int, float] = {}
        #: From when to when machines stopped.
        self.stops: list[tuple[float, float]] = []
        self.accepted: set[int] = set()
        self.refused: set[int] = set()
        self.unknown: set[int] = set()
        self.poisonous: set[int] = set()
        self.story: list[str] = []
        self._cleanup = ExitStack()
        self._items = 0
        weights: dict[Callable[[], Awaitable[None]], float] = {
            self.put: 30,
            self.put_many: 5,
            self.cancel_put: rng.choice((0, 2)),
            self.take_by_hand: rng.choice((0, 2)),
            self.stop_one: rng.choice((0, 1, 2)),
            self.kill_one: rng.choice((0, 1)),
            self.stall_one: rng.choice((0, 0.5, 1)),
            self.cut_one: rng.choice((0, 1)),
        }
        self.choices, self.weights = list(weights), list(weights.values())

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- the program --------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            with self._cleanup:
                for _ in range(self.random.choice((1, 2, 3))):
                    await self.add_machine()
                for _ in range(self.length):
                    await self.random.choices(self.choices, self.weights)[0]()
                    await asyncio.sleep(self.random.choice((0, 0, 0.005, 0.02, 0.1)))
                await self.finish()
        except BaseException:
            show("\n".join(self.story[-60:]))
            raise

    def say(self, text: str) -> None:
        self.story.append(f"{self.now:.3f} {text}")

    async def add_machine(self) -> None:
        proxy = self._cleanup.enter_context(Proxy(self.server.port))
        machine = Machine(len(self.machines), proxy, self.make_queue(proxy.url))
        self.machines.append(machine)
        self.say(f"machine {machine.number} joins")
        await self.begin(machine)

    def make_queue(self, url: str) -> NatsQueue[int]:
        return NatsQueue(
            url,
            self.name,
            maxsize=self.maxsize,
            logger=SILENT,
            ack_wait=ACK_WAIT,
            max_deliveries=1000,
            retry=RetryPolicy(4, on=ValueError, backoff=lambda attempt, error: 0.05, budget=None),
        )

    async def begin(self, machine: Machine) -> None:
        async def work(item: int) -> None:
            call = Run(item, machine, self.now)
            self.runs.append(call)
            try:
                await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.05, 0.3)))
                if item in self.poisonous or self.random.random() < self.failures:
                    raise ValueError(f"{item} failed")
                call.is_done = True
            finally:
                call.ended = self.now

        await asyncio.wait_for(
            machine.queue.start_workers(work, self.workers, lambda error, item: None), _BOUND
        )

    def one(self) -> Machine | None:
        living = [
            each for each in self.machines if not each.is_dead and each.queue.status == "processing"
        ]
        return self.random.choice(living) if living else None

    async def put(self) -> None:
        machine = self.one()
        if machine is None:
            return
        item = self._items
        self._items += 1
        if self.random.random() < self.poison:
            self.poisonous.add(item)
        timeout = self.random.choice((0, 0.05, 0.5, math.inf))
        task = asyncio.create_task(self.put_one(machine, item, timeout))
        machine.puts.add(task)
        task.add_done_callback(machine.puts.discard)

    async def put_one(self, machine: Machine, item: int, timeout: float) -> None:
        self.unknown.add(item)
        self.put_at[item] = self.now
        try:
            accepted = await machine.queue.put(item, timeout=timeout)
        except (QueueUnknownError, asyncio.CancelledError) as error:
            self.say(f"{item}: {type(error).__name__}")
            return
        except (QueueStateError, BrokerError) as error:
            self.say(f"{item}: {type(error).__name__}")
            accepted = False
        self.unknown.discard(item)
        (self.accepted if accepted else self.refused).add(item)
        self.say(f"{item}: {accepted}")

    async def put_many(self) -> None:
        for _ in range(20):
            await self.put()

    async def cancel_put(self) -> None:
        machine = self.one()
        if machine is not None and machine.puts:
            self.random.choice(sorted(machine.puts, key=id)).cancel()

    async def take_by_hand(self) -> None:
        machine = self.one()
        if machine is None:
            return
        with suppress(QueueEmptyError, QueueStateError):
            item = await machine.queue.get(timeout=0)
            call = Run(item, machine, self.now)
            self.runs.append(call)
            machine.in_hand.append(call)
            if self.random.random() < 0.7:
                oldest = machine.in_hand.pop(0)
                oldest.is_done, oldest.ended = True, self.now
                machine.queue.task_done()
            # else it is handed back when that machine stops

    async def stop_one(self) -> None:
        machine = self.one()
        if machine is None:
            return
        timeout = self.random.choice((0, 0.05, None))
        self.say(f"machine {machine.number} stops, timeout {timeout}")
        began = self.now
        await asyncio.wait_for(machine.queue.stop(timeout), _BOUND)
        machine.in_hand.clear()
        machine.troubles.append((began, self.now))
        self.stops.append((began, self.now))
        self.say(f"machine {machine.number} has stopped")
        if self.random.random() < 0.5:
            await self.begin(machine)
        else:
            machine.is_dead = True
            await self.add_machine()

    async def kill_one(self) -> None:
        machine = self.one()
        if machine is None:
            return
        self.say(f"machine {machine.number} dies")
        machine.is_dead = True
        machine.troubles.append((self.now, math.inf))
        machine.proxy.cut()
        for put in machine.puts:
            put.cancel()
        await self.add_machine()

    async def stall_one(self) -> None:
        await self.disturb(lambda proxy: proxy.stall(), (0.1, 1.0, 3.5))

    async def cut_one(self) -> None:
        await self.disturb(lambda proxy: proxy.cut(), (0.1, 1.0))

    async def disturb(self, what: Callable[[Proxy], None], seconds: tuple[float, ...]) -> None:
        machine = self.one()
        if machine is None:
            return
        pause = self.random.choice(seconds)
        self.say(f"machine {machine.number} is cut off for {pause} s")
        began = self.now
        machine.troubles.append((began, math.inf))
        what(machine.proxy)
        await asyncio.sleep(pause)
        machine.proxy.resume()
        # Until it is connected anew and everything is told.
        machine.troubles[-1] = (began, self.now + ACK_WAIT + 1)

    # -- the end ------------------------------------------------------------------------------

    async def finish(self) -> None:
        self.say("the end begins")
        living = [machine for machine in self.machines if not machine.is_dead]
        for machine in living:
            machine.troubles.append((self.now, math.inf))
        began = self.now
        await asyncio.wait_for(
            asyncio.gather(*(machine.queue.stop(0.05) for machine in living)), _BOUND
        )
        self.stops.append((began, self.now))
        puts = [put for machine in self.machines for put in machine.puts]
        await asyncio.wait_for(asyncio.gather(*puts, return_exceptions=True), _BOUND)
        await self.add_machine()
        last = self.machines[-1].queue
        await asyncio.wait_for(last.join(), _BOUND)
        letters = await asyncio.wait_for(last.look_at_dead_letters(10_000), _BOUND)
        self.check([letter.item for letter in letters])
        for machine in self.machines:
            machine.proxy.resume()
        await asyncio.wait_for(
            asyncio.gather(*(machine.queue.stop(0) for machine in self.machines)), _BOUND
        )

    def check(self, dead: list[Any]) -> None:
        done = Counter(run.item for run in self.runs if run.is_done)
        ran = {run.item for run in self.runs}

        def expect(holds: bool, what: str, items: set[Any]) -> None:
            if not holds:
                told = [text for text in self.story if text.split()[1].rstrip(":") in
                        {str(item) for item in items}]  # fmt: skip
                runs = [run for run in self.runs if run.item in items]
                raise BrokenPromiseError(f"{what}: {sorted(items)}\n{told}\n{runs}")

        lost = self.accepted - set(done) - set(dead)
        expect(not lost, "accepted and neither done nor a dead letter", lost)
        wrong = self.refused & (ran | set(dead))
        expect(not wrong, "refused and processed all the same", wrong)
        strange = (ran | set(dead)) - self.accepted - self.unknown
        expect(not strange, "processed and never put", strange)
        twice = {item for item, count in Counter(dead).items() if count > 1}
        expect(not twice, "buried twice", twice)
        for item, count in done.items():
            if count + (item in dead) > 1:
                calls = sorted(
                    (run for run in self.runs if run.item == item), key=lambda run: run.ended
                )
                harmed = [run for run in calls
                          if run.machine.had_trouble(run.began, run.ended + _SETTLING)]  # fmt: skip
                expect(
                    bool(harmed) or self.was_there_at_a_stop(item),
                    "done twice, though nothing happened",
                    {item},
                )
        self.figures = {
            "accepted": len(self.accepted),
            "refused": len(self.refused),
            "unknown": len(self.unknown),
            "dead": len(dead),
            "twice": sum(count > 1 for count in done.values()),
            "machines": len(self.machines),
        }

    def was_there_at_a_stop(self, item: int) -> bool:
        """Whether a machine that stopped may have handed it back.

        nats-server 2.9 at times hands out again, and twice, what comes back just when the request
        ends by which it was asked for: as if it were new, and as handed back.
        """
        since, until = self.put_at[item], max(run.ended for run in self.runs if run.item == item)
        return any(start <= until and end >= since for start, end in self.stops)
