"""A queue as a plain list: what a ``BoundedQueue`` must look like after every step.

The schedule tells the model what happens from the user's point of view: a put was accepted, a
worker function began, a block was cancelled. All of that reaches the model in the same step in
which it happens in the queue, so between two steps both must agree, exactly.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import is_
from typing import Any, NoReturn

from penstock import BoundedQueue, QueueClosedError, QueueStatus
from simulation.loops import Moment
from simulation.program import BrokenPromiseError, Program

#: Seconds that a cancelled worker function may take to end.
GRACE = 1.0

#: The number of the item that the running code belongs to.
CURRENT: ContextVar[int] = ContextVar("CURRENT", default=-1)


@dataclass(eq=False, repr=False)
class Item:
    """Something to put. Numbered in the order in which the puts were called."""

    number: int
    plans: Any
    limit: float
    called_at: Moment
    step: int
    status: QueueStatus
    had_room: bool
    closings: int
    closes: int
    is_closed: bool
    state: str = "offered"
    future: asyncio.Future[Any] | None = None
    attempt: Attempt | None = None
    taken_by_get: bool = False
    outcomes: list[Any] = field(default_factory=list)
    cancelled_put: bool = False

    def __eq__(self, other: object) -> NoReturn:
        raise BrokenPromiseError("the queue compared items, which can be anything")

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"#{self.number}"

    def __bool__(self) -> bool:
        return self.number % 2 == 0

    @property
    def unwanted(self) -> bool:
        """Whether it may be skipped: it was submitted, and its future cancelled."""
        return self.future is not None and self.future.cancelled()


@dataclass(eq=False)
class WorkerGroup:
    """The workers of one ``start_workers``."""

    number: int
    size: int
    has_handler: bool
    #: Whether its function is a plain one.
    is_plain: bool = False


@dataclass(eq=False)
class Attempt:
    """One call of a worker function, its error handler included."""

    item: Item
    group: WorkerGroup
    began: Moment
    error: BaseException | None = None
    cancelled_at: float | None = None
    given_up: bool = False
    #: Whether somebody asked to cancel this call, and no other.
    is_asked_to_end: bool = False


@dataclass(eq=False)
class Get:
    """A call of ``get`` or ``processing`` under way."""

    called_at: Moment
    limit: float
    status: QueueStatus
    closings: int
    closes: int
    is_closed: bool


@dataclass(eq=False)
class Ending:
    """A call of ``stop`` or ``stop_workers`` under way."""

    what: str
    #: When it cancels the workers.
    deadline: float
    #: Before this it gives nobody up.
    patient_until: float
    #: When it is over at the latest, by a clock that no stall moves on.
    at_most: float


@dataclass(eq=False)
class Join:
    """A call of ``join`` under way."""

    unfinished: int
    zeros: int
    step: int
    closings: int
    status: QueueStatus
    is_closed: bool


class Model:
    """The list, the counters, and everything that must hold between them and the queue."""

    def __init__(self, queue: BoundedQueue[Item], program: Program) -> None:
        self.queue = queue
        self.program = program
        self.loop = program.loop
        self.note = program.note
        #: Whether the loop runs callbacks in their order.
        self.first_come = self.loop.order != "shuffled"
        self.items: list[Item] = []
        # Accepted items that wait; and those that were given back.
        self.line: list[Item] = []
        self.returned: list[Item] = []
        self.held = 0
        self.last_taken = -1
        self.accepted_puts = self.done = self.errors = self.refusals = 0
        self.attempts: set[Attempt] = set()
        self.group: WorkerGroup | None = None
        self.groups = 0
        # Who waits.
        self.putters: dict[Item, None] = {}
        self.getters: dict[Get, None] = {}
        self.joins: set[Join] = set()
        self.endings: set[Ending] = set()
        self.starting = 0
        # How often things happened: stops, those after a close among them; and closes.
        self.closings = 0
        self.closes = 0
        self.ends = 0
        self.starts = 0
        self.zeros = 0
        self.rough = 0
        self.unwanted = 0
        self.put_waits = 0
        self.rough_end_at = self.hard_end_at = -1.0
        #: Whether nobody may take anything: not until a resume, or until it is stopped.
        self.is_paused = self.is_paused_to_the_end = False

    def fail(self, message: str) -> NoReturn:
        raise self.program.fail(message)

    # -- time: what stalls the loop makes everything later, and nothing longer ------------------

    def has_passed(self, since: Moment, seconds: float) -> bool:
        """Whether so many seconds are over."""
        return self.loop.time() >= since.at + seconds

    def is_late(self, since: Moment, seconds: float) -> bool:
        """Whether more than so many seconds are over, not counting those in which it stalled."""
        return self.loop.moment().unstalled > since.unstalled + seconds

    def waited(self, since: Moment, seconds: float) -> bool:
        """Whether it took so many seconds, and no more."""
        return self.has_passed(since, seconds) and not self.is_late(since, seconds)

    # -- putting ------------------------------------------------------------------------------

    def offered(self, plans: Any, timeout: float) -> Item:
        queue = self.queue
        item = Item(
            number=len(self.items),
            plans=plans,
            limit=timeout,
            called_at=self.loop.moment(),
            step=self.loop.steps,
            status=queue.status,
            had_room=queue.size < queue.maxsize,
            closings=self.closings,
            closes=self.closes,
            is_closed=queue.is_closed,
        )
        self.items.append(item)
        is_open = item.status is QueueStatus.PROCESSING and not item.is_closed
        if is_open and not item.had_room and timeout > 0:
            self.put_waits += 1
        self.putters[item] = None
        self.note("put", item.number, ", timeout", timeout, ",", queue.size, queue.maxsize)
        return item

    def accepted(self, item: Item) -> None:
        del self.putters[item]
        self.note("put", item.number, "accepted")
        waited = self.loop.steps != item.step
        if item.status is not QueueStatus.PROCESSING:
            self.fail(f"item {item.number} was accepted by a queue that was {item.status.value}")
        if item.closings != self.closings:
            self.fail(f"item {item.number} was accepted after the queue had stopped")
        if item.is_closed or item.closes != self.closes:
            self.fail(f"item {item.number} was accepted after the queue was closed")
        if waited is item.had_room:
            had = "had room and waited" if waited else "had no room and did not wait"
            self.fail(f"the put of item {item.number} {had}")
        if self.is_late(item.called_at, item.limit):
            self.fail(f"item {item.number} was accepted after its timeout")
        if item.number < self.last_taken:
            self.fail(f"item {self.last_taken} overtook item {item.number}")
        if waited and self.first_come:
            for other in self.putters:
                if other.number < item.number and not other.cancelled_put:
                    self.fail(f"item {item.number} was let in before {other.number}")
        item.state = "waiting"
        insort(self.line, item, key=_number)
        self.accepted_puts += 1

    def refused(self, item: Item) -> None:
        del self.putters[item]
        self.note("put", item.number, "refused")
        item.state = "refused"
        self.refusals += 1
        if item.status is not QueueStatus.PROCESSING:
            self.fail(f"a queue that was {item.status.value} refused item {item.number} as full")
        if item.is_closed:
            self.fail(f"a queue that was closed refused item {item.number} as full")
        if item.had_room:
            self.fail(f"item {item.number} was refused though there was room")
        if not self.waited(item.called_at, item.limit):
            waited = self.loop.time() - item.called_at.at
            self.fail(f"item {item.number} was refused after {waited} s instead of {item.limit}")

    def not_open(self, item: Item, error: Exception) -> None:
        del self.putters[item]
        self.note("put", item.number, ":", str(error))
        item.state = "not open"
        if item.is_closed or isinstance(error, QueueClosedError):
            self._check_closed_error("put", error, item)
        elif item.closes == self.closes:
            self._check_state_error("put", error, item.status, item.closings)

    def put_cancelled(self, item: Item, *, by_worker: bool) -> None:
        del self.putters[item]
        self.note("put", item.number, "cancelled")
        item.state = "cancelled"
        if not item.cancelled_put and not by_worker:
            self.fail(f"the put of item {item.number} raised CancelledError by itself")

    def _check_closed_error(self, verb: str, error: Exception, call: Item | Get) -> None:
        if not isinstance(error, QueueClosedError):
            self.fail(f"{error!r} from a queue that was closed")
        if str(error) != f"Cannot {verb} items when queue is closed":
            self.fail(f"{error!r} from a queue that was closed")
        if not call.is_closed and call.closes == self.closes:
            self.fail(f"nobody closed the queue, but {error!r}")

    def _check_state_error(
        self, verb: str, error: Exception, status: QueueStatus, closings: int
    ) -> None:
        if status is QueueStatus.PROCESSING:
            if closings == self.closings:
                self.fail(f"no stop, but {error!r}")
        elif not str(error).startswith(f"Cannot {verb} items when queue is {status.value}"):
            self.fail(f"{error!r} from a queue that was {status.value}")

    # -- taking -------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether something can be taken at this instant."""
        for place in (self.returned, self.line):
            for item in place:
                if not item.unwanted:
                    # A put that came before it and was let in may still have to say so.
                    return place is self.returned or not any(
                        putter.number < item.number for putter in self.putters
                    )
        return False

    def _taken(self, item: Item) -> None:
        for attempt in [*self.attempts]:
            if attempt.item is item:
                self._time_out_waiter(attempt)
        if item.state not in ("waiting", "returned"):
            self.fail(f"item {item.number} was handed out but is {item.state}")
        if item.unwanted:
            self.fail(f"item {item.number} was handed out though its future was cancelled")
        is_stopping = self.queue.status is QueueStatus.STOPPING
        if self.is_paused or (self.is_paused_to_the_end and is_stopping):
            self.fail(f"item {item.number} was handed out though the queue was paused")
        for place in (self.returned, self.line):
            while place and place[0].unwanted:  # skipped on the way
                place.pop(0)
                self._one_done()
            if place:
                break
        if place[0] is not item:
            self.fail(f"item {item.number} was handed out before {place[0].number}")
        if place is self.line:
            self.last_taken = item.number
        del place[0]
        item.state = "held"
        self.held += 1

    def getting(self, timeout: float | None) -> Get:
        """``get`` or ``processing`` is called."""
        limit = math.inf if timeout is None else timeout
        queue = self.queue
        get = Get(
            self.loop.moment(), limit, queue.status, self.closings, self.closes, queue.is_closed
        )
        self.getters[get] = None
        self.note("get, timeout", timeout)
        return get

    def got(self, get: Get, item: Item) -> None:
        del self.getters[get]
        self.note("got", item.number)
        item.taken_by_get = True
        if get.status is not QueueStatus.PROCESSING or get.closings != self.closings:
            self.fail(f"get handed out item {item.number} after the queue had stopped")
        self._taken(item)

    def found_nothing(self, get: Get) -> None:
        del self.getters[get]
        self.note("got nothing")
        if not self.waited(get.called_at, get.limit):
            waited = self.loop.time() - get.called_at.at
            self.fail(f"get gave up after {waited} s instead of {get.limit}")
        if get.limit == 0 and self.is_ready and not self.is_paused:
            self.fail("get found nothing though an item was there")

    def get_not_open(self, get: Get, error: Exception) -> None:
        del self.getters[get]
        self.note("get:", str(error))
        self.notice_end()
        if not isinstance(error, QueueClosedError):
            self._check_state_error("get", error, get.status, get.closings)
            return
        self._check_closed_error("get", error, get)
        if get.closings == self.closings and self.queue.is_closed and self.is_ready:
            self.fail("get said that the queue is closed though an item was there")

    def get_cancelled(self, get: Get) -> None:
        self.note("get cancelled")
        self.getters.pop(get, None)

    def done_by_caller(self, item: Item, error: Exception | None = None) -> None:
        self.note(item.number, "done by the caller")
        item.outcomes.append(error)
        self.errors += error is not None
        self._finish(item)

    def returned_by_caller(self, item: Item) -> None:
        self.note(item.number, "returned by the caller")
        self.rough += 1
        self._put_back(item)

    def _finish(self, item: Item) -> None:
        if item.state != "held":
            self.fail(f"item {item.number} is done but was {item.state}")
        item.state = "done"
        self.held -= 1
        self._one_done()

    def _one_done(self) -> None:
        self.done += 1
        if self.done == self.accepted_puts:
            self.zeros += 1

    def _put_back(self, item: Item) -> None:
        item.state = "returned"
        self.held -= 1
        insort(self.returned, item, key=_number)

    # -- workers ------------------------------------------------------------------------------

    def hired(self, size: int, has_handler: bool, is_plain: bool = False) -> WorkerGroup:
        self.groups += 1
        self.note("group", self.groups, "of", size, "threads" if is_plain else "")
        return WorkerGroup(self.groups, size, has_handler, is_plain)

    def began(self, item: Item, group: WorkerGroup) -> Attempt:
        """A worker function begins."""
        self.note("group", group.number, "begins", item.number)
        self._taken(item)
        self._check_context(item)
        attempt = item.attempt = Attempt(item, group, self.loop.moment())
        self.attempts.add(attempt)
        if self.busy(group) > group.size:
            self.fail(f"{self.busy(group)} items in the hands of {group.size} workers")
        return attempt

    def busy(self, group: WorkerGroup) -> int:
        return sum(1 for a in self.attempts if a.group is group and not a.given_up)

    def succeeded(self, attempt: Attempt) -> None:
        item = attempt.item
        self._check_context(item)
        self._notice(attempt)
        item.outcomes.append(item.number)
        self._leave(attempt, "done")

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """The worker function is about to raise ``error``."""
        item = attempt.item
        self._check_context(item)
        self._notice(attempt)
        self.note(item.number, "fails")
        item.outcomes.append(error)
        attempt.error = error
        if not attempt.given_up:
            self.errors += 1
        somebody_waits = item.future is not None and not item.future.done()
        if attempt.given_up or somebody_waits or not attempt.group.has_handler:
            self._leave(attempt, "done")

    def handled(self, item: Item, error: BaseException) -> Attempt:
        """The error handler begins."""
        self.note(item.number, "handled")
        self._check_context(item)
        attempt = item.attempt
        if attempt is None or attempt not in self.attempts or attempt.given_up:
            self.fail(f"the error handler got item {item.number}, which no worker holds")
        if attempt.error is not error:
            self.fail(f"the error handler got {error!r} instead of {attempt.error!r}")
        return attempt

    def settled(self, attempt: Attempt) -> None:
        """The error handler is about to end."""
        self._check_context(attempt.item)
        self._notice(attempt)
        self._leave(attempt, "done")

    def cancelled(self, attempt: Attempt) -> None:
        """CancelledError was thrown into the function or its error handler."""
        self._notice(attempt)
        self.note(attempt.item.number, "cancelled")
        if attempt.cancelled_at is None:
            attempt.cancelled_at = self.loop.time()
        if not self._is_cancelling() and not attempt.is_asked_to_end:
            self.fail(f"item {attempt.item.number} was cancelled for no reason")

    def _is_cancelling(self) -> bool:
        """Whether somebody has a reason to cancel workers now."""
        now, unstalled = self.loop.moment()
        return self.rough_end_at == unstalled or any(e.deadline <= now for e in self.endings)

    def dropped(self, attempt: Attempt) -> None:
        """The cancelled function is about to end by CancelledError."""
        self._notice(attempt)
        self._leave(attempt, "returned")

    def _leave(self, attempt: Attempt, state: str) -> None:
        self.note(attempt.item.number, state, ", given up:", attempt.given_up)
        self.attempts.discard(attempt)
        if attempt.given_up:
            return
        if state == "done":
            self._finish(attempt.item)
        else:
            self._put_back(attempt.item)

    def _notice(self, attempt: Attempt) -> None:
        """Give the attempt up if the queue has done so."""
        if not attempt.given_up and self._is_left(attempt.item):
            self._time_out_waiter(attempt)

    def notice_all(self) -> None:
        """Notice what the queue has taken from workers."""
        # Those in ``unprocessed`` first: of the others only their number is known.
        for attempt in sorted(self.attempts, key=lambda attempt: attempt.item.unwanted):
            self._notice(attempt)

    def _is_left(self, item: Item) -> bool:
        """Whether the item, which is in somebody's hands here, is not so in the queue."""
        if item.unwanted:  # never in ``unprocessed``
            return self.queue.statistics().inflight < self.held
        return any(other is item for other in self.queue.unprocessed)

    def _time_out_waiter(self, attempt: Attempt) -> None:
        if attempt.given_up:
            return
        number = attempt.item.number
        now, unstalled = self.loop.moment()
        self.note(number, "given up")
        if attempt.group.is_plain:  # what runs in a thread cannot be told
            if not self._is_cancelling():
                self.fail(f"item {number} was taken from its thread for no reason")
            self.attempts.discard(attempt)
        elif self.hard_end_at != unstalled and not any(
            e.patient_until <= now for e in self.endings
        ):
            self.fail(f"item {number} was taken out of the hands of a worker that was not stuck")
        attempt.given_up = True
        self._put_back(attempt.item)

    def _check_context(self, item: Item) -> None:
        if CURRENT.get() != item.number:
            self.fail(f"item {item.number} runs in the context of {CURRENT.get()}")

    # -- what an operator does ----------------------------------------------------------------

    def paused(self) -> None:
        self.note("paused")
        self.is_paused = True

    def resumed(self) -> None:
        self.note("resumed")
        self.is_paused = False

    def is_stopped(self, *, drain: bool) -> None:
        """A stop begins, which ends a pause; without ``drain`` only when it is over."""
        self.is_paused_to_the_end = self.is_paused and not drain
        self.is_paused = False

    def is_asked_to_end(self, attempt: Attempt) -> None:
        self.note("asked to cancel", attempt.item.number)
        attempt.is_asked_to_end = True

    @property
    def waiting(self) -> list[Item]:
        """What nobody has in hand, in the order of ``unprocessed``; the unwanted too."""
        return [*self.returned, *self.line]

    def removed(self, expected: list[Item], items: list[Item], *, is_all: bool) -> None:
        """``clear`` (``is_all``) or ``remove`` returned ``items``."""
        self.note("removed", *[item.number for item in items])
        if len(items) != len(expected) or not all(map(is_, items, expected)):
            self.fail(f"removed {items}, expected {expected}")
        gone = {*self.waiting} if is_all else {*items}
        self.line = [item for item in self.line if item not in gone]
        self.returned = [item for item in self.returned if item not in gone]
        for item in gone:
            item.state = "removed"
            self._one_done()

    # -- waiting for ends ---------------------------------------------------------------------

    def ending(self, what: str, timeout: float | None) -> Ending:
        """``stop`` or ``stop_workers`` is called."""
        now, unstalled = self.loop.moment()
        seconds = math.inf if timeout is None else timeout
        ending = Ending(what, now + seconds, now + seconds + GRACE, unstalled + seconds + GRACE)
        self.endings.add(ending)
        self.note(what, ", timeout", timeout)
        return ending

    def ending_cancelled(self, ending: Ending) -> None:
        """Once: it cancels the workers. Once more: it waits for them no longer."""
        now, unstalled = self.loop.moment()
        self.rough += 1
        ending.patient_until = now if ending.deadline <= now else now + GRACE
        ending.deadline = min(ending.deadline, now)
        ending.at_most = min(ending.at_most, unstalled + GRACE)

    def ended(self, ending: Ending) -> None:
        now, unstalled = self.loop.moment()
        self.note(ending.what, "ended")
        if ending.deadline <= now:
            self.rough_end_at = unstalled
        if ending.patient_until <= now:
            self.hard_end_at = unstalled
        self.endings.discard(ending)
        if unstalled > ending.at_most:
            self.fail(f"{ending.what} ended {unstalled - ending.at_most} s late")

    def joining(self) -> Join:
        metrics = self.queue.metrics
        join = Join(
            unfinished=metrics["enqueued"] - metrics["processed"],
            zeros=self.zeros,
            step=self.loop.steps,
            closings=self.closings,
            status=self.queue.status,
            is_closed=self.queue.is_closed,
        )
        self.joins.add(join)
        self.note("join")
        return join

    def joined(self, join: Join) -> None:
        self.note("joined")
        metrics = self.queue.metrics
        is_done = metrics["enqueued"] == metrics["processed"]
        if self.queue.is_closed and is_done and self.queue.status is not QueueStatus.STOPPED:
            self.fail(f"join returned, but the closed queue is {self.queue.status.value}")
        if not join.unfinished:
            if self.loop.steps != join.step and not join.is_closed:
                self.fail("join waited for nothing")
        elif self.zeros == join.zeros and not self.unwanted:
            self.fail("join returned before all items were done")

    def join_failed(self, join: Join) -> None:
        self.note("join failed")
        if not join.unfinished:
            self.fail("join raised though nothing was unfinished")
        if join.status is QueueStatus.PROCESSING and join.closings == self.closings:
            self.fail("join raised though the queue was not stopped")

    # -- the end of a stream ------------------------------------------------------------------

    def closing(self) -> None:
        """``close`` is called."""
        self.note("close")
        self.is_paused = False
        self.notice_end()
        self.closes += 1

    def notice_end(self) -> None:
        """Notice that a closed queue has stopped by itself."""
        queue = self.queue
        if self.ends != queue._ends:
            self.note("the queue stops by itself")
            self.ends = queue._ends
            self.closings += 1
            self.group = None
            is_down = queue.is_closed and queue.status is not QueueStatus.PROCESSING
            if is_down and self.done != self.accepted_puts and not self.unwanted:
                self.fail("the queue stopped by itself though not all was done")

    # -- what must hold -----------------------------------------------------------------------

    def after_step(self) -> None:
        """Compare the queue with the list."""
        if self.program.violation:
            raise self.program.violation
        queue = self.queue
        metrics = queue.metrics
        self.notice_end()
        if not self._agrees(metrics):
            self.notice_all()
            if not self._agrees(metrics):
                self._fail_to_agree(metrics)
        if queue.is_paused is not self.is_paused:
            self.fail(f"is_paused is {queue.is_paused}")
        if queue.size > queue.maxsize:
            self.fail(f"{queue.size} items wait, of at most {queue.maxsize}")
        counted = metrics["enqueued"], metrics["errors"], metrics["backpressure_events"]
        expected = self.accepted_puts, self.errors, self.refusals
        if counted != expected:
            self.fail(f"enqueued, errors, backpressure_events: {counted}, expected {expected}")
        if queue.status is QueueStatus.PROCESSING and not self.starting:
            workers = self.group.size if self.group else 0
            has_left = queue.is_closed and queue.worker_count < workers  # nothing was left for it
            if queue.worker_count != workers and not has_left:
                self.fail(f"{queue.worker_count} workers, expected {workers}")

    def _agrees(self, metrics: dict[str, int]) -> bool:
        """Whether the same items wait, and as many are done.

        Each of the unwanted may be done already; nobody can see when.
        """
        queue = self.queue
        line, returned, unwanted = self.line, self.returned, 0
        if self.unwanted:
            line = [item for item in line if not item.unwanted]
            returned = [item for item in returned if not item.unwanted]
            unwanted = len(self.line) + len(self.returned) - len(line) - len(returned)
        unprocessed = queue.unprocessed
        expected = returned + line
        return (
            len(unprocessed) == len(expected)
            and all(map(is_, unprocessed, expected))
            and len(line) <= queue.size <= len(line) + unwanted + len(self.putters)
            and self.done <= metrics["processed"] <= self.done + unwanted
        )

    def _fail_to_agree(self, metrics: dict[str, int]) -> NoReturn:
        waiting, returned, unprocessed = (
            [item.number for item in items]
            for items in (self.line, self.returned, self.queue.unprocessed)
        )
        self.fail(
            f"unprocessed is {unprocessed}, size {self.queue.size}, {metrics}; expected "
            f"{returned} + {waiting}, processed {self.done}"
        )

    def at_rest(self) -> None:
        """Nobody waits for what is there."""
        queue = self.queue
        self.notice_all()
        stats = queue.statistics()
        if stats.peak_size > stats.maxsize:
            self.fail(f"{stats.peak_size} items waited at once, of at most {stats.maxsize}")
        unwanted = sum(1 for items in (self.line, self.returned) for i in items if i.unwanted)
        if not self.held <= stats.inflight <= self.held + unwanted:
            self.fail(f"inflight is {stats.inflight}, expected {self.held} (+ {unwanted})")
        if stats.put_waits != self.put_waits:
            self.fail(f"put_waits is {stats.put_waits}, not {self.put_waits}")
        is_open = queue.status is QueueStatus.PROCESSING
        left = len(queue.unprocessed)
        if stats.waiting_putters != len(self.putters):
            self.fail(f"waiting_putters is {stats.waiting_putters}, not {len(self.putters)}")
        if queue.is_closed and (self.putters or self.getters):
            self.fail("a put or a get waits, but the queue is closed")
        if queue.is_closed and is_open and stats.enqueued == stats.processed:
            self.fail("the queue is closed, and all is done, but it did not stop")
        if self.putters and not (is_open and queue.is_full):
            self.fail(f"a put waits, but the queue is {queue.status.value} with {stats.size} items")
        if self.getters and ((left and not self.is_paused) or not is_open):
            self.fail(f"a get waits, but the queue is {queue.status.value} with {left} items")
        if any(get.closings != self.closings for get in self.getters):
            self.fail("a get waits that the queue did not tell of its stop")
        size = 0 if self.group is None else self.group.size
        if queue.is_closed:
            size = min(size, stats.worker_count)
        idle = self.group is not None and self.busy(self.group) < size
        if is_open and left and idle and not self.is_paused:
            self.fail(f"{left} items wait, but not all workers are busy")
        if queue.status is QueueStatus.STOPPED:
            for item in self.line + self.returned:
                if item.future is not None and not item.future.done():
                    self.fail(f"the queue stopped without item {item.number}, whose future waits")
        somebody_works = any(not attempt.given_up for attempt in self.attempts)
        if queue.status is QueueStatus.STOPPING and not somebody_works:
            self.fail("nobody works, but the queue is still stopping")
        if self.endings and not somebody_works:
            self.fail(f"nobody works, but {[ending.what for ending in self.endings]} wait")
        drains = queue.is_closed and somebody_works
        if self.starting and queue.status is not QueueStatus.STOPPING and not drains:
            self.fail(f"start waits, but the queue is {queue.status.value}")
        for join in self.joins:
            if stats.enqueued == stats.processed or (
                join.zeros != self.zeros and not self.unwanted
            ):
                self.fail("join waits, but all items were done")
            if queue.status is QueueStatus.STOPPED and left:
                self.fail(f"join waits, but the queue is stopped with {left} items")


def _number(item: Item) -> int:
    return item.number
