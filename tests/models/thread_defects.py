"""Mistakes that somebody could make in ``penstock.sync``: each is one that the schedules must find.

Each is a race, and does no harm as long as threads do not meet at the wrong moment. Schedules hold
threads up at the queue's own lines, and not at these. So each does it itself, by ``_moment``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from penstock.queue.entry_buffer import PutOutcome
from penstock.sync import buffer, waiting
from penstock.sync.buffer import JanusBuffer
from penstock.sync.pool import ThreadWorkerPool
from penstock.sync.queue import BlockingQueue
from penstock.sync.slots import SharedCounters, WorkerSlot
from penstock.sync.waiting import LoopWaiters
from penstock.workers.item import job_of
from penstock.workers.pool import WorkerPool


def _moment() -> None:
    """Here another thread may come in between."""
    if random.random() < 0.5:
        time.sleep(random.choice((0.0, 0.0005)))


def wait_without_a_second_look(
    self: JanusBuffer[Any],
    kind: int,
    timeout: float | None,
    must_ask: Callable[[], bool],
) -> bool:
    """A thread looks for entries, and only then says that it waits."""
    event = waiting.OneShotEvent()
    if must_ask() or self.available(kind):
        return True
    if self.closed and not self._delayed if kind == waiting.BY_HAND else self.is_over:
        return False
    _moment()
    with self.lock:
        self._waiters[event] = kind
    if event.wait(timeout):
        return True
    with self.lock:
        return self._waiters.pop(event, buffer._ABSENT) is buffer._ABSENT


async def loop_waits_without_a_second_look(self: LoopWaiters) -> bool:
    """A worker in the loop does not look again once it has said that it waits."""
    if self._entries_left < 0:
        await asyncio.sleep(0)
        self._entries_left = 32
        return True
    is_news = self._buffer.available(waiting.TASK) > 0
    if is_news or self._buffer.is_over:
        return is_news
    _moment()
    return await self._park(self._add_waiter())


async def put_gives_up_without_the_lock(
    self: JanusBuffer[Any],
    item: Any,
    timeout: float | None,
    ticket: Any = None,
    context: Any = None,
) -> PutOutcome:
    """A put whose time is over reads what became of it while somebody grants it room."""
    put = waiting.WaitingPut(item, buffer.copy_context() if context is None else context, ticket)
    with self.lock:
        if self.closed:
            return PutOutcome.CLOSED
        self._waiting_puts[put] = None
        self._grant()
        lane = self._lane_outside_bound(ticket)
        if lane is not None:
            self._grant_outside_bound(lane)
    if not put.wait(timeout):
        outcome = put.outcome
        _moment()
        with self.lock:
            self._waiting_puts.pop(put, None)
        return outcome
    return put.outcome


def offer_looks_first(
    self: JanusBuffer[Any], item: Any, ticket: Any = None, context: Any = None
) -> bool:
    """A put looks for room before it takes the lock."""
    if len(self.entries) >= self.room or self.closed:
        return _offer(self, item, ticket, context)
    context = buffer.copy_context() if context is None else context
    _moment()
    with self.lock:
        number = self._last_number = self._last_number + 1
        # Not janus's own put, which would notice.
        self._queue._put((number, item, context, ticket))
        self.main_peak = max(self.main_peak, len(self.entries))
        self.wake_locked()
        return True


_offer = JanusBuffer.offer


def add_without_the_lock(self: SharedCounters, field: Any) -> None:
    """Two threads read a count, and both write it back with one more."""
    count = getattr(self, field)
    _moment()
    setattr(self, field, count + 1)


def reclaim_what_is_done(self: WorkerSlot[Any]) -> Any:
    """An item is taken back from a worker that has finished it already."""
    with self._buffer.lock:
        if self.is_revoked:
            return None
        holds_one = self.has_one_in_hand
    _moment()
    with self._buffer.lock:
        self.is_revoked = self.must_ask = True
        self._buffer.release(self)
        self._counters.unregister(self)
        entry = self.entry
        if not holds_one or entry is None:
            return None
        number, item, context, ticket = entry
        if ticket is None or not ticket.is_dropped:
            new = None if ticket is None else ticket.transfer()
            self._buffer.requeue_locked((number, item, context.copy(), new))
            return job_of(entry) or self.standing
    self._counters.count_finished()
    return None


def notified_forgets_late(self: LoopWaiters) -> None:
    """The loop says that it can be called again only after it has called those who wait."""
    if self._for_all:
        self.wake_all()
    else:
        self.wake()
    _moment()
    with self._buffer.lock:
        self._for_all = self.is_notified = False


def notify_before_all_is_done(self: SharedCounters) -> None:
    """Whoever finds nothing waiting tells the joiners, whatever others have in hand."""
    if not self._buffer.ready:
        self._notify_joiners(True)


async def join_without_a_second_look(self: SharedCounters) -> bool:
    """A joiner does not look again once it has said that it waits."""
    joiner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    _moment()
    self._add_joiner(joiner)
    return await joiner


class _Nobody:
    """A slot in which nothing is noted but the job."""

    entry = None
    taken = 0

    def __init__(self, slot: WorkerSlot[Any]) -> None:
        self.standing = slot.standing
        self.is_for_threads = slot.is_for_threads
        self.job = slot.job
        self.is_revoked, self.must_ask = slot.is_revoked, slot.must_ask


def take_without_the_lock(self: JanusBuffer[Any], holder: Any) -> Any:
    """What a worker takes is noted in its slot a moment later."""
    nobody: Any = _Nobody(holder)
    taken = _take(self, nobody)
    _moment()
    holder.job = nobody.job
    holder.entry = taken
    if taken is not None:
        holder.taken += 1
    return taken


_take = JanusBuffer.take


def close_wakes_one(self: JanusBuffer[Any]) -> None:
    """A close wakes one of those who wait, which is to wake the next; and it does not."""
    with self.lock:
        self.closed = True
        while self._waiting_puts:
            put, _ = self._waiting_puts.popitem(last=False)
            put.outcome = PutOutcome.CLOSED
            put.set()
        self._unpark(1)


def close_later(self: BlockingQueue[Any]) -> None:
    """A close refuses puts when the event loop comes to it, and not at once."""
    if not self._is_closed and self._provider.is_open:
        with self._acquire_thread() as thread:
            thread.send(self._close_in_loop)
    else:
        _close(self)


_close = BlockingQueue.close


def over_before_what_is_delayed(self: JanusBuffer[Any]) -> bool:
    """The workers of a queue that is closed do not wait for what is to be tried again."""
    return self.closed and not (self.lanes and any(len(lane) for lane in self._all_lanes()))


def no_room_for_nested_jobs(self: JanusBuffer[Any], ticket: Any) -> None:
    """A job inside an item waits for room as any other."""


def no_worker_for_nested_jobs(self: WorkerPool[Any], is_for_threads: bool) -> int:
    """A worker that waits for a job inside its item is counted for the others of its kind."""
    jobs = [job for job in self._jobs.copy() if job.is_for_threads is is_for_threads]
    sizes = [job.size for job in jobs]
    return max(sizes) + sum(job.is_nested for job in jobs) if sizes else 0


def look_and_then_take_out(self: WorkerPool[Any], job: Any) -> Any:
    """A worker may take its next item between a look at what it holds and its retirement."""
    tasks = [task for task, worker in self._workers.items() if worker.job_in_hand is job]
    holders = [task for task in tasks if task is not asyncio.current_task()]
    _moment()
    self._take_out(self._workers[task] for task in holders)
    return holders


@contextmanager
def no_extra_worker(self: WorkerPool[Any]) -> Iterator[None]:
    """No other worker is there while one waits for an item of its own queue."""
    yield


#: By name: the class, its method or property, and what comes in its place.
def replace_while_others_take(self: ThreadWorkerPool) -> Any:
    """The standing job changes in the middle of a take."""
    return nullcontext()


DEFECTS: dict[str, tuple[type[Any], str, Any]] = {
    "wait": (JanusBuffer, "_wait", wait_without_a_second_look),
    "loop-wait": (LoopWaiters, "wait", loop_waits_without_a_second_look),
    "put": (JanusBuffer, "wait_for_room", put_gives_up_without_the_lock),
    "offer": (JanusBuffer, "offer", offer_looks_first),
    "add": (SharedCounters, "add", add_without_the_lock),
    "reclaim": (WorkerSlot, "reclaim", reclaim_what_is_done),
    "on-notify": (LoopWaiters, "_on_notify", notified_forgets_late),
    "notify_if_done": (SharedCounters, "notify_if_done", notify_before_all_is_done),
    "join": (SharedCounters, "join", join_without_a_second_look),
    "take": (JanusBuffer, "take", take_without_the_lock),
    "close": (JanusBuffer, "close", close_wakes_one),
    "close-later": (BlockingQueue, "close", close_later),
    "over": (JanusBuffer, "is_over", property(over_before_what_is_delayed)),
    "nested-room": (JanusBuffer, "_lane_outside_bound", no_room_for_nested_jobs),
    "nested-worker": (ThreadWorkerPool, "_wanted", no_worker_for_nested_jobs),
    "extra-worker": (ThreadWorkerPool, "one_more_worker", no_extra_worker),
    "look": (ThreadWorkerPool, "_take_out_holders", look_and_then_take_out),
    "no-takes": (ThreadWorkerPool, "_no_takes", replace_while_others_take),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Break the queue in this way, within the block."""
    if name is None:
        yield
        return
    owner, method, broken = DEFECTS[name]
    inherited = method not in vars(owner)
    sound = vars(owner).get(method)
    setattr(owner, method, broken)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, method)
        else:
            setattr(owner, method, sound)
