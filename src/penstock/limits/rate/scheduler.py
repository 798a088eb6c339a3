"""Which call may start next: first come, first served, as far as the demands allow."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from itertools import count, islice, takewhile

from penstock.limits.rate.gate import Gate
from penstock.limits.rate.sliding_log import Record
from penstock.limits.rate.window import Demand, Keyed, LimitWindow, Waiter, WaiterGroup, is_spent


class Scheduler:
    """Decides which waiters may start. Takes the time; reads no clock and waits for nobody.

    Waiters that need the same windows form a group, and the oldest of a group, its head, goes
    first. While a head lacks room in a window, all younger waiters that need this window wait
    behind it, whatever they cost: so small costs do not starve a large one. Waiters that need other
    windows may pass: so a busy key does not hold up another.

    After each change, the user of this class calls :meth:`grant`.

    Args:
        gate: which all have to pass.
        keyed: where to keep the waiters that have a key.
    """

    def __init__(self, gate: Gate, keyed: Keyed | None = None) -> None:
        self.gate = gate
        #: How many waiters there are.
        self.waiting = 0
        # Those of them that stand for more than one call.
        self._several: dict[Waiter, None] = {}
        self._groups: dict[tuple[LimitWindow, ...], WaiterGroup] = {}
        # Those that have a key, by that.
        self._keyed: Keyed = {} if keyed is None else keyed
        self._ages = count()
        #: Groups whose heads are to be checked now, as a heap by the age of the head. (And a number
        #: that orders equal ages: a waiter may have changed its group since.)
        self._to_check: list[tuple[int, int, WaiterGroup]] = []
        #: Groups whose heads are to be checked later, as a heap: (when, a number that orders equal
        #: times, the group, its number of checks when this was planned).
        self._planned: list[tuple[float, int, WaiterGroup, int]] = []

    @property
    def calls(self) -> int:
        """How many calls wait."""
        return self.waiting + sum([waiter.calls - 1 for waiter in self._several])

    def try_start(self, now: float, demand: Demand) -> list[Record] | None:
        """Start a call that does not wait yet, if it :meth:`can_start`."""
        if not self.can_start(now, demand):
            return None
        if self.gate.is_active:
            self.gate.passed(now, self.calls)
        return [window.log.record(now, cost) for window, cost in demand]

    def can_start(self, now: float, demand: Demand) -> bool:
        """Whether a new call may start: with room, with the gate open, and overtaking nobody."""
        if self.gate.opens_at > now or self._to_check or (self._groups and self._overtakes(demand)):
            return False
        for window, cost in demand:  # noqa: SIM110 - all() would take longer
            if window.log.free_at(now, cost) > now:
                return False
        return True

    def add(self, waiter: Waiter) -> None:
        """Let ``waiter`` wait, as the youngest."""
        waiter.age = next(self._ages)
        group = self._join(waiter)
        if len(group.waiters) == 1:
            self._check_soon(group)

    def requeue(self, waiter: Waiter, gate: LimitWindow | None = None) -> None:
        """Let ``waiter``, which was granted and woke up too late, wait at its old place.

        ``gate``: that of its key, if there is one by now.
        """
        self.cancel(waiter)
        if gate is not None and not _needs(waiter, gate):
            waiter.demand = (*waiter.demand, (gate, 1))
        group = self._join(waiter)
        # Others that woke up too late may be back already: those that are older stay before it.
        older = list(takewhile(lambda other: other.age < waiter.age, group.waiters))
        for other in (waiter, *reversed(older)):
            group.waiters.move_to_end(other, last=False)
        self._forget_check(group)
        group.parked = None
        self._check_soon(group)

    def _join(self, waiter: Waiter) -> WaiterGroup:
        windows = tuple([window for window, _ in waiter.demand])
        group = self._groups.get(windows)
        if group is None:
            group = self._groups[windows] = WaiterGroup(windows)
            for window in windows:
                window.groups += 1
        waiter.group = group
        group.waiters[waiter] = None
        if waiter.gate_key is not None:
            self._keyed.setdefault(waiter.gate_key, {})[waiter] = None
        self.waiting += 1
        if waiter.is_for_several:
            self._several[waiter] = None
        return group

    def is_late(self, now: float, waiter: Waiter, gate: LimitWindow | None = None) -> bool:
        """Whether ``waiter``, which was granted, can no longer start at ``now``.

        The gate may have been closed since, too; or that of its key, ``gate``, if there is one.
        """
        assert waiter.records is not None
        if self.gate.closed_for(now):
            return True
        if gate is not None and not _needs(waiter, gate) and gate.log.free_at(now, 1) > now:
            return True
        for (window, _), record in zip(waiter.demand, waiter.records, strict=True):
            if window.log.is_late(record, now):
                return True
        return False

    def close_gate(self, gate: LimitWindow) -> None:
        """Let the waiters with the key of ``gate``, which is new, wait for that too."""
        for waiter in sorted(self._keyed.get(gate.key, ()), key=_age):
            self.remove(waiter)
            waiter.demand = (*waiter.demand, (gate, 1))
            group = self._join(waiter)
            if len(group.waiters) == 1:
                self._check_soon(group)

    def oldest(self, count: int) -> list[Waiter]:
        """At most ``count`` waiters, oldest first."""
        firsts = [islice(group.waiters, count) for group in self._groups.values()]
        return list(islice(heapq.merge(*firsts, key=_age), count))

    def remove(self, waiter: Waiter) -> None:
        """Let ``waiter`` wait no longer. Does nothing if it does not wait."""
        group = waiter.group
        if group is None:
            return
        was_head = group.head is waiter
        self._remove(waiter, group)
        if was_head:
            self._head_removed(group)

    def confirm(self, now: float, waiter: Waiter) -> None:
        """Count the start of ``waiter``, which was granted, from ``now`` on."""
        assert waiter.records is not None
        for (window, _), record in zip(waiter.demand, waiter.records, strict=True):
            window.log.confirm(record, now)
            # A reserved start has no time yet, so groups could not know when it leaves the window.
            self._check_blockers(window, only_unplanned=True)
        waiter.records = None  # it can no longer be cancelled

    def cancel(self, waiter: Waiter) -> None:
        """Free what is reserved for ``waiter``. Does nothing if nothing is."""
        if waiter.records is None:
            return
        for (window, _), record in zip(waiter.demand, waiter.records, strict=True):
            window.log.cancel(record)
            self.recheck(window)
        waiter.records = None

    def finish(self, demand: Demand, records: Iterable[Record]) -> None:
        """A call is over that started: what it took of budgets is spent for good."""
        for (window, _), record in zip(demand, records, strict=True):
            if window.log.finish(record):
                self.recheck(window)

    def recheck(self, window: LimitWindow) -> None:
        """Check the groups that lack room in ``window`` again: it has more room than it had."""
        self._check_blockers(window, only_unplanned=False)

    def recheck_all(self) -> None:
        """Check all groups again: any window may have changed."""
        for group in self._groups.values():
            self._check_soon(group)

    def reject_oversized(self) -> list[Waiter]:
        """Remove the waiters whose cost is above ``max``, and set their ``error``."""
        rejected = []
        for group in list(self._groups.values()):
            for waiter in list(group.waiters):
                for window, cost in waiter.demand:
                    if cost > window.owner.max:
                        waiter.error = window.owner.oversized(cost)
                        rejected.append(waiter)
                        break
        for waiter in rejected:
            self.remove(waiter)
        return rejected

    def reject_all(self, error: Exception) -> list[Waiter]:
        """Remove all waiters, and set their ``error``."""
        rejected = self.oldest(self.waiting)
        for waiter in rejected:
            waiter.error = error
            self.remove(waiter)
        return rejected

    def grant(self, now: float) -> list[Waiter]:
        """The waiters that may start at ``now``, in order. Their demand is reserved for them.

        Among them those that can never start any more: their ``error`` is set.
        """
        granted: list[Waiter] = []
        planned = self._planned
        while planned and planned[0][0] <= now:
            _, _, group, checks = heapq.heappop(planned)
            if group.checks == checks:
                self._check_soon(group)
        to_check = self._to_check
        while to_check and self.gate.opens_at <= now:
            age, _, group = heapq.heappop(to_check)
            group.is_queued = False
            if not group.waiters:
                continue
            if group.head.age != age:  # it has another head by now, which is younger
                self._check_soon(group)
                continue
            if self._check(group, now):
                waiter = group.head
                self._remove(waiter, group)
                if waiter.error is None:
                    demand = waiter.demand
                    waiter.records = tuple([window.log.reserve(cost) for window, cost in demand])
                    if self.gate.is_active:
                        self.gate.passed(now, self.calls + waiter.calls - 1)
                granted.append(waiter)
                self._head_removed(group)
            for window in group.windows:
                self._unpark_next(window)
        return granted

    def next_grant(self, now: float) -> float:
        """When to call :meth:`grant` next; ``math.inf``: after the next change."""
        planned = self._planned
        while planned and planned[0][2].checks != planned[0][3]:
            heapq.heappop(planned)
        when = -math.inf if self._to_check else planned[0][0] if planned else math.inf
        return max(when, self.gate.opens_at)

    # -- within -----------------------------------------------------------------------------------

    def _overtakes(self, demand: Demand) -> bool:
        return (
            any(window.blockers for window, _ in demand)
            or tuple([window for window, _ in demand]) in self._groups
        )

    def _check(self, group: WaiterGroup, now: float) -> bool:
        """Whether the head of ``group`` need not wait; if it must, note what it waits for.

        It may start, or its ``error`` is set: it never can.
        """
        self._forget_check(group)
        head = group.head
        parked_in: LimitWindow | None = None
        wake_at = math.inf
        lacks_room = False
        for window, cost in head.demand:
            if window.blockers and any(other.head.age < head.age for other in window.blockers):
                parked_in = window
                continue
            free_at = window.log.free_at(now, cost)
            if free_at > now:
                if free_at == math.inf and is_spent(window, cost, head.outer):
                    head.error = window.owner.oversized(cost)
                    return True
                lacks_room = True
                window.blockers[group] = None
                wake_at = min(wake_at, free_at)
        if parked_in is None and not lacks_room:
            return True
        if parked_in is not None and group.parked != (parked_in, head.age):
            group.parked = (parked_in, head.age)
            heapq.heappush(parked_in.parked, (head.age, next(self._ages), group))
        group.wake_at = wake_at
        if wake_at < math.inf:
            heapq.heappush(self._planned, (wake_at, next(self._ages), group, group.checks))
            if len(self._planned) > 2 * len(self._groups) + 64:  # most of them are outdated
                self._planned = [entry for entry in self._planned if entry[2].checks == entry[3]]
                heapq.heapify(self._planned)
        return False

    def _forget_check(self, group: WaiterGroup) -> None:
        group.checks += 1
        group.wake_at = math.inf
        for window in group.windows:
            window.blockers.pop(group, None)

    def _check_soon(self, group: WaiterGroup) -> None:
        if not group.is_queued and group.waiters:
            group.is_queued = True
            heapq.heappush(self._to_check, (group.head.age, next(self._ages), group))

    def _check_blockers(self, window: LimitWindow, *, only_unplanned: bool) -> None:
        for group in window.blockers:
            if not only_unplanned or group.wake_at == math.inf:
                self._check_soon(group)

    def _unpark_next(self, window: LimitWindow) -> None:
        """Check the oldest group that is parked in ``window``, if no blocker is older."""
        parked = window.parked
        while parked:
            age, _, group = parked[0]
            if group.parked == (window, age) and group.waiters and group.head.age == age:
                if any(other.head.age < age for other in window.blockers):
                    return
                heapq.heappop(parked)
                group.parked = None
                self._check_soon(group)
                return
            heapq.heappop(parked)  # it is outdated

    def _remove(self, waiter: Waiter, group: WaiterGroup) -> None:
        del group.waiters[waiter]
        waiter.group = None
        if waiter.gate_key is not None:
            keyed = self._keyed[waiter.gate_key]
            del keyed[waiter]
            if not keyed:
                del self._keyed[waiter.gate_key]
        self.waiting -= 1
        if waiter.is_for_several:
            del self._several[waiter]

    def _head_removed(self, group: WaiterGroup) -> None:
        """The next waiter, which is younger, is the head of ``group``, and blocks fewer others."""
        self._forget_check(group)
        group.parked = None
        if group.waiters:
            self._check_soon(group)
        else:
            del self._groups[group.windows]
            for window in group.windows:
                window.groups -= 1
            if not self._groups:  # nobody waits, so all entries are outdated
                self._to_check.clear()
                self._planned.clear()
        for window in group.windows:
            self._unpark_next(window)


def _needs(waiter: Waiter, gate: LimitWindow) -> bool:
    return any(window is gate for window, _ in waiter.demand)


def _age(waiter: Waiter) -> int:
    return waiter.age
