"""Mistakes that somebody could make in ``penstock.sync``: each is one that the schedules must find.

Each is a race, and does no harm as long as threads do not meet at the wrong moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock.queue.counters import QueueCounters
from penstock.queue.store import PutOutcome
from penstock.sync import buffer, waiting
from penstock.sync.buffer import JanusBuffer
from penstock.sync.slots import SharedCounters, WorkerSlot
from penstock.sync.waiting import LoopWaiters


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
    if self.is_over:
        return False
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
    if not put.wait(timeout):
        outcome = put.outcome
        with self.lock:
            self._waiting_puts.pop(put, None)
        return outcome
    return put.outcome


def offer_looks_first(
    self: JanusBuffer[Any], item: Any, ticket: Any = None, context: Any = None
) -> bool:
    """A put looks for room before it takes the lock."""
    if len(self.entries) >= self.room or self.closed:
        return False
    context = buffer.copy_context() if context is None else context
    with self.lock:
        number = self._last_number = self._last_number + 1
        # Not janus's own put, which would notice.
        self.entries.append((number, item, context, ticket))
        self.main_peak = max(self.main_peak, len(self.entries))
        self._unpark(1)
        return True


def add_without_the_lock(self: SharedCounters, field: Any) -> None:
    """Two threads read a count, and both write it back with one more."""
    QueueCounters.add(self, field)


def reclaim_what_is_done(self: WorkerSlot[Any]) -> bool:
    """An item is taken back from a worker that has finished it already."""
    with self._buffer.lock:
        if self.is_revoked:
            return False
        holds_one = self.taken > self.processed
    with self._buffer.lock:
        self.is_revoked = True
        self._counters.unregister(self)
        if holds_one and self.entry is not None:
            number, item, context, ticket = self.entry
            new = None if ticket is None else ticket.transfer()
            self._buffer.requeue_locked((number, item, context.copy(), new))
        return holds_one


def notified_forgets_late(self: LoopWaiters) -> None:
    """The loop says that it can be called again only after it has called those who wait."""
    if self._for_all:
        self.wake_all()
    else:
        self.wake()
    with self._buffer.lock:
        self._for_all = self._is_notified = False


def notify_before_all_is_done(self: SharedCounters) -> None:
    """Whoever finds nothing waiting tells the joiners, whatever others have in hand."""
    if not self._buffer.ready:
        self._notify_joiners(True)


async def join_without_a_second_look(self: SharedCounters) -> bool:
    """A joiner does not look again once it has said that it waits."""
    joiner: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    self._add_joiner(joiner)
    return await joiner


class _Nobody:
    """A slot in which nothing is noted."""

    job = entry = None
    taken = 0
    is_revoked = must_ask = False

    def __init__(self, slot: WorkerSlot[Any]) -> None:
        self.standing = slot.standing
        self.is_for_threads = slot.is_for_threads


def take_without_the_lock(self: JanusBuffer[Any], holder: Any) -> Any:
    """What a worker takes is noted in its slot a moment later."""
    taken = _take(self, _Nobody(holder))  # type: ignore[arg-type]
    if taken is not None:
        holder.entry = taken
        holder.taken += 1
    return taken


_take = JanusBuffer.take

#: By name: the class, its method, and what comes in its place.
DEFECTS: dict[str, tuple[type[Any], str, Callable[..., Any]]] = {
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
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Break the queue in this way, within the block."""
    if name is None:
        yield
        return
    owner, method, broken = DEFECTS[name]
    inherited = method not in vars(owner)
    sound = getattr(owner, method)
    setattr(owner, method, broken)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, method)
        else:
            setattr(owner, method, sound)
