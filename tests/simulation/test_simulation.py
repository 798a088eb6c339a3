"""Two thousand random programs; ``make simulate SEEDS=100000`` runs more.

A failure tells the story of its program, made shorter, and the command that runs just that again.
And defects are planted in the library: a simulation that does not find them proves nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from penstock._util.wait_queue import WaitQueue
from penstock.queue.batch_buffer import BatchStore
from penstock.queue.buffer import Buffer
from penstock.queue.counters import QueueCounters
from penstock.queue.fair_ranks import ShareRanks
from penstock.queue.overdue import OverdueFirst
from penstock.queue.priority_lines import PriorityLines
from penstock.queue.results import ResultStream
from penstock.queue.shares import Shares
from penstock.queue.store import EntryStore
from penstock.workers.batch import BatchTicket
from penstock.workers.worker import Worker
from simulation.run import shrink, simulate

SEEDS = 2000
CHUNK = 50

#: Programs in which a planted defect must show.
SOON = 200


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_programs(first: int) -> None:
    for broken in simulate(first, CHUNK):
        if broken is not None:
            raise shrink(broken)


def lose_what_is_given_back(self: Any, entry: Any) -> None:
    self.wake()


def count_twice(self: Any) -> None:
    self.processed += 2
    self.settle()


def count_one_too_many(self: Any, field: str) -> None:
    setattr(self, field, getattr(self, field) + 1 + (field == "full"))


def let_the_last_in_first(self: Any) -> None:
    while self._putters and len(self.line) < self.room:
        _, (waiter, item, context, ticket) = self._putters.popitem(last=True)
        if not waiter.done():
            self._order = order = self._order + 1
            self._granted[order] = entry = (order, item, context, ticket)
            self.line.append(entry)
            waiter.set_result(entry)


def leave_the_timer(self: Any) -> None:
    self._timeout_timer, self._timeout_at = None, float("inf")


def keep_a_cancelled_put(self: Any, number: int, waiter: Any) -> None:
    if self._putters.pop(number, None) is None and waiter.done() and not waiter.cancelled():
        self._granted.pop(getattr(waiter.result(), "__getitem__", lambda _: None)(0), None)


def want_them_all_the_same(self: Any) -> None:
    """A map that was given up still has what nobody will read."""


def resume_and_wake_nobody(self: Any, is_paused: bool) -> bool:
    if is_paused and self.closed:
        return False
    self._set_paused(is_paused)
    return True


def end_no_pause(self: Any, *, drain: bool = True) -> None:
    CLOSE(self, drain=False)


CLOSE = Buffer.close


def wait_for_a_full_batch(self: Any, lane: Any) -> bool:
    batching = self._batching_of(lane)
    return batching is None or self._batches_in(lane, batching) > 0


def run_what_is_cancelled(self: Any) -> Any:
    return self.entries[:]


def count_none(self: Any) -> None:
    self.done = 0


def let_all_be_free(self: Any, job: Any) -> int:
    return 0 if job is None else 1000


def keep_the_lane(self: Any, job: Any) -> int:
    return 0


def requeue_what_is_dropped(self: Any, entry: Any) -> bool:
    return False


def wake_for_the_standing_job(self: Any) -> None:
    WaitQueue.wake(self)


def take_the_last_of_a_priority(self: Any) -> Any:
    entry = POP(self)
    line = self.lines.get(entry[0][0])
    if line is None or isinstance(line, tuple):
        return entry
    line.appendleft(entry)
    return line.pop()


POP = PriorityLines.popleft


def let_nothing_be_overdue(self: Any) -> Any:
    while self._ranks[0][1] not in self._entries:
        self._ranks.sort()
        del self._ranks[0]
    return min(self._ranks), min(self._ranks)[1]


def weigh_all_the_same(self: Any, key: Any) -> float:
    return 1.0


def save_up(self: Any, share: Any) -> None:
    """A key that had nothing to do has what it did not use."""
    share.busy_time = self.busy_time


def let_keys_have_all_the_room(self: Any, share: Any) -> bool:
    return True


def let_a_blocked_key_wait(self: Any, share: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("owner", "name", "defect", "program"),
    [
        (Buffer, "requeue", lose_what_is_given_back, "queue"),
        (QueueCounters, "count_finished", count_twice, "queue"),
        (QueueCounters, "add", count_one_too_many, "queue"),
        (Buffer, "_grant", let_the_last_in_first, "queue"),
        (Buffer, "_clear_timeout_timer", leave_the_timer, "queue"),
        (Buffer, "_withdraw", keep_a_cancelled_put, "queue"),
        (Buffer, "set_paused", resume_and_wake_nobody, "queue"),
        (Buffer, "close", end_no_pause, "queue"),
        (Buffer, "requeue", lose_what_is_given_back, "rules"),
        (ResultStream, "cancel", want_them_all_the_same, "face"),
        (BatchStore, "_note_put", wait_for_a_full_batch, "batches"),
        (BatchTicket, "_those_that_may_run", run_what_is_cancelled, "batches"),
        (BatchTicket, "_count", count_none, "batches"),
        (EntryStore, "_free", let_all_be_free, "jobs"),
        (Buffer, "close_lane", keep_the_lane, "jobs"),
        (Buffer, "wake", wake_for_the_standing_job, "jobs"),
        (Worker, "_is_dropped", requeue_what_is_dropped, "jobs"),
        (PriorityLines, "popleft", take_the_last_of_a_priority, "orders"),
        (OverdueFirst, "_next", let_nothing_be_overdue, "orders"),
        (ShareRanks, "_step", weigh_all_the_same, "orders"),
        (Shares, "wake", save_up, "orders"),
        (Shares, "has_room", let_keys_have_all_the_room, "orders"),
        (Shares, "unblock", let_a_blocked_key_wait, "orders"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of their queues
def test_a_planted_defect_is_found(
    monkeypatch: pytest.MonkeyPatch,
    owner: type[Any],
    name: str,
    defect: Callable[..., Any],
    program: str,
) -> None:
    monkeypatch.setattr(owner, name, defect)
    found = any(simulate(0, SOON, program=program))
    gc.collect()  # what it has broken, here: in another test it would be a warning
    assert found, f"{SOON} programs did not notice {defect.__name__}"
