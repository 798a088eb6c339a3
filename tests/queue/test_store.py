"""The store of a queue against a model: a list, sorted by number, of which each job sees its own.

Random programs of all that a buffer can be told, with one job, several, nested ones, and one that
is alone. The model shares nothing with the store but the numbers of the entries. It says which
entry is next, whether there is room, and all counts.
"""

from __future__ import annotations

import asyncio
import random
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.queue.buffer import Buffer
from penstock.workers.item import Entry, JobTicket, Ticket
from penstock.workers.job import Job

SEEDS = 400
STEPS = 120
#: Seconds after which a delayed entry is due, at the latest.
DELAYS = (0.0, 1.0, 2.0, 5.0)
#: A loop may call a timer early by so much.
GRAIN = 1e-6


@dataclass
class ModelEntry:
    """An entry that nobody has in hand."""

    number: int
    job: Job[int] | None
    #: waiting, requeued, delayed (until ``due``), or due: it was delayed, and is ready again.
    state: str = "waiting"
    due: float = 0.0


@dataclass
class Model:
    """What a store is to do, as simply as it can be said."""

    maxsize: int
    standing: Job[int] | None = None
    entries: list[ModelEntry] = field(default_factory=list)
    jobs: list[Job[int]] = field(default_factory=list)
    accepted: int = 0
    peak: int = 0
    closed: bool = False

    def of_job(self, job: Job[int] | None) -> list[ModelEntry]:
        """What is ready of one job, in order: what was given back first."""
        ready = [one for one in self.entries if one.job is job and one.state != "delayed"]
        return sorted(ready, key=lambda one: (one.state == "waiting", one.number))

    def size(self) -> int:
        return sum(one.state == "waiting" for one in self.entries)

    def room(self) -> int:
        """Delayed entries take up room until they are taken; requeued ones take up none."""
        taken = sum(one.state in ("waiting", "delayed", "due") for one in self.entries)
        return self.maxsize - taken

    def may_be_accepted(self, job: Job[int] | None) -> bool:
        is_alone_in_need = job is not None and job.is_nested and not self.of_job(job)
        return self.room() > 0 or is_alone_in_need

    def next(self) -> ModelEntry | None:
        """The oldest of the heads of those jobs that may have one more in hand."""
        heads = [
            ready[0]
            for job in (None, *self.jobs)
            if (ready := self.of_job(job)) and self.is_free(job or self.standing)
        ]
        return min(heads, key=lambda one: one.number, default=None)

    def has_free_worker(self) -> bool:
        """There are as many workers as the largest claim says, and one more for each nested job."""
        claims = [job for job in (self.standing, *self.jobs) if job is not None]
        workers = max((job.size for job in claims), default=0)
        lent = sum(job.is_nested for job in claims)
        return sum(job.suspended for job in claims) < workers + lent

    @staticmethod
    def is_free(job: Job[int] | None) -> bool:
        return job is not None and job.suspended < job.size

    def forget_jobs(self) -> None:
        """The queue has stopped: all is due, and of nobody."""
        for one in self.entries:
            one.job = None
            if one.state == "delayed":
                one.state = "due"
        self.jobs.clear()


class Pair:
    """A buffer and its model, told the same."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.buffer: Buffer[int] = Buffer(rng.choice((1, 2, 3, 8)))
        self.model = Model(self.buffer.maxsize)
        self.tickets: dict[Job[int], Ticket] = {}
        self.in_hand: list[tuple[Entry[int], Job[int] | None]] = []
        self.said: list[str] = []
        most_jobs = rng.choice((0, 1, 1, 3))
        self.most_jobs = most_jobs
        if rng.random() < 0.5 or not most_jobs:
            self.set_standing()
        self.choices = {
            self.offer: 10,
            self.take: 8,
            self.take_by_hand: rng.choice((0, 1)),
            self.requeue: 2,
            self.delay: 2,
            self.pass_time: 2,
            self.finish: 6,
            self.open_lane: 2,
            self.close_lane: 0.7,
            self.discard: 0.3,
            self.set_standing: 0.3,
            self.split: 0.3,
            self.end: 0.1,
        }

    def say(self, *what: Any) -> None:
        self.said.append(" ".join(map(str, what)))

    async def step(self) -> None:
        choices, weights = list(self.choices), list(self.choices.values())
        outcome = self.random.choices(choices, weights)[0]()
        if outcome is not None:
            await outcome
        self.check()

    def check(self) -> None:
        """What the buffer says of itself."""
        buffer, model = self.buffer, self.model
        assert len(buffer) == model.size() <= model.maxsize
        model.peak = max(model.peak, model.size())
        assert buffer.peak == model.peak
        assert buffer.accepted == model.accepted
        assert buffer.ready == len(model.entries)
        assert buffer.delayed == sum(one.state in ("delayed", "due") for one in model.entries)
        assert [entry[0] for entry in buffer.snapshot()] == self.model_snapshot()
        assert buffer.room - len(buffer.entries) == model.room()

    def model_snapshot(self) -> list[int]:
        return sorted(one.number for one in self.model.entries)

    def job(self) -> Job[int] | None:
        """One of those that there are, or none."""
        jobs = self.model.jobs
        mine = not self.model.standing and jobs  # as when a job is alone
        return self.random.choice(jobs if mine and self.random.random() < 0.9 else [None, *jobs])

    # -- what a buffer can be told --------------------------------------------------------------

    def offer(self) -> None:
        job = self.job()
        ticket = None if job is None else self.tickets[job]
        if job is not None and self.random.random() < 0.3:
            ticket = Ticket()
            ticket.job = job
        expected = self.model.may_be_accepted(job)
        self.say("offer of", job and job.label, expected)
        is_outside = not self.model.room() > 0
        number = self.model.accepted + 1
        if job is None:
            self.buffer.split()  # as the first put of others does
        assert self.buffer.offer(number, ticket, Context()) is expected
        if expected:
            self.model.accepted = number
            state = "requeued" if is_outside else "waiting"
            self.model.entries.append(ModelEntry(number, job, state))

    def take(self) -> None:
        if not self.model.has_free_worker():
            return
        expected, entry = self.model.next(), self.buffer.take()
        self.took(expected, entry, (expected.job or self.model.standing) if expected else None)

    def take_by_hand(self) -> None:
        ready = self.model.of_job(None)
        self.took(ready[0] if ready else None, self.buffer.take_by_hand(), None)

    def took(
        self, expected: ModelEntry | None, entry: Entry[int] | None, holder: Job[int] | None
    ) -> None:
        self.say("take", entry and entry[0])
        assert (entry and entry[0]) == (expected and expected.number)
        if entry is None or expected is None:
            return
        self.model.entries.remove(expected)
        if holder is not None:
            holder.suspended += 1
        self.in_hand.append((entry, holder))

    def let_go(self) -> Entry[int] | None:
        if not self.in_hand:
            return None
        entry, holder = self.in_hand.pop(self.random.randrange(len(self.in_hand)))
        if holder is not None:
            holder.suspended -= 1
        return entry

    def finish(self) -> None:
        self.say("finish", self.let_go())

    def requeue(self) -> None:
        entry = self.let_go()
        if entry is not None and not self.is_dropped(entry):
            self.say("requeue", entry[0])
            self.buffer.requeue(entry)
            self.model.entries.append(ModelEntry(entry[0], self.owner(entry), "requeued"))

    def delay(self) -> None:
        entry = self.let_go()
        if entry is not None and not self.is_dropped(entry):
            seconds = self.random.choice(DELAYS)
            self.say("delay", entry[0], seconds)
            self.buffer.delay(entry, seconds)
            due = asyncio.get_running_loop().time() + seconds
            self.model.entries.append(ModelEntry(entry[0], self.owner(entry), "delayed", due))

    @staticmethod
    def is_dropped(entry: Entry[int]) -> bool:
        return entry[3] is not None and entry[3].is_dropped

    def owner(self, entry: Entry[int]) -> Job[int] | None:
        """The job of an entry, as long as it is there."""
        job = None if entry[3] is None else entry[3].job
        return job if job in self.model.jobs else None

    async def pass_time(self) -> None:
        self.say("time passes")
        await asyncio.sleep(self.random.choice(DELAYS))
        await asyncio.sleep(0)
        self.promote()

    def promote(self) -> None:
        for one in self.model.entries:
            if one.state == "delayed" and one.due <= asyncio.get_running_loop().time() + GRAIN:
                one.state = "due"

    def discard(self) -> None:
        entries = self.buffer.snapshot()
        some = self.random.sample(entries, min(len(entries), self.random.choice((1, 2, 5))))
        assert self.buffer.discard(some) == len(some)
        gone = {entry[0] for entry in some}
        self.say("discard", gone)
        self.model.entries = [one for one in self.model.entries if one.number not in gone]

    # -- jobs ---------------------------------------------------------------------------------

    def set_standing(self) -> None:
        """As ``process`` does."""
        self.say("process")
        self.buffer.split()
        self.buffer.standing = self.model.standing = Job(print, self.random.choice((1, 2, 4)))

    def split(self) -> None:
        self.buffer.split()

    def open_lane(self) -> None:
        if len(self.model.jobs) < self.most_jobs:
            job: Job[int] = Job(print, self.random.choice((1, 1, 2, 4)))
            job.label = f"job {self.random.random():.3f}"
            job.is_nested = bool(self.model.jobs) and self.random.random() < 0.3
            self.say("open", job.label, "nested" if job.is_nested else "")
            self.tickets[job] = JobTicket(job)
            self.buffer.open_lane(job)
            self.model.jobs.append(job)

    def close_lane(self) -> None:
        if self.model.jobs:
            job = self.random.choice(self.model.jobs)
            self.say("close", job.label)
            job.is_over = True
            mine = [one for one in self.model.entries if one.job is job]
            assert self.buffer.close_lane(job) == len(mine)
            self.model.entries = [one for one in self.model.entries if one.job is not job]
            self.model.jobs.remove(job)

    def end(self) -> None:
        """As a stop does, when all workers have left; and a start."""
        for _ in range(len(self.in_hand)):
            self.requeue()
        self.say("end")
        self.buffer.close()
        jobs = self.buffer.end()
        assert set(jobs) == set(self.model.jobs)
        for job in jobs:
            job.interrupt()
        self.model.forget_jobs()
        self.buffer.open()


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
async def test_a_buffer_does_what_the_model_says(first: int) -> None:
    for seed in range(first, first + 50):
        pair = Pair(seed)
        try:
            for _ in range(STEPS):
                await pair.step()
        except AssertionError as error:
            story = "\n".join(pair.said[-60:])
            raise AssertionError(f"{story}\nseed {seed}: {error}") from error
        pair.buffer.forget_waiters()
