"""Who may start next: first come, first served, as far as what they need allows."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from itertools import count, islice, takewhile
from typing import TypeAlias

from penstock.limits.rate.exact import Exact
from penstock.limits.rate.gate import Gate
from penstock.limits.rate.limit import Meter
from penstock.limits.rate.sliding_log import Record

#: What one needs: so much of each of these meters.
Needs: TypeAlias = "tuple[tuple[Meter, Exact], ...]"


class Waiter:
    """One who waits in the line."""

    __slots__ = ("age", "error", "group", "needs", "records")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.age = 0
        #: The group in which it waits; None before and after.
        self.group: Group | None = None
        #: What is reserved for it, once it may start.
        self.records: tuple[Record, ...] | None = None
        #: Why it can never start.
        self.error: Exception | None = None


class Group:
    """Those who wait for the same meters, oldest first."""

    __slots__ = ("looks", "meters", "parked", "queued", "waiters", "wake")

    def __init__(self, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.queued = False
        #: Where it is parked, and for which head.
        self.parked: tuple[Meter, int] | None = None
        #: When it has to be looked at again, and how often it was.
        self.wake = math.inf
        self.looks = 0

    @property
    def head(self) -> Waiter:
        """Who came first."""
        return next(iter(self.waiters))


class Line:
    """Decides who may start. Takes the time, and waits for nobody: that is for its users.

    Waiters are kept in groups that need the same meters, and in each the oldest goes first. If it
    lacks capacity in some meters, younger ones that need one of these have to wait behind it,
    whatever they cost: so a large cost is not starved by small ones. Those that need none of them
    may pass: so a busy key does not hold up another.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.waiting = 0
        self._groups: dict[tuple[Meter, ...], Group] = {}
        self._ages = count()
        #: Groups to look at, as a heap by age.
        self._todo: list[tuple[int, Group]] = []
        #: Groups to look at later: (when, a number, group, how often it had been looked at).
        self._due: list[tuple[float, int, Group, int]] = []

    def start(self, now: float, needs: Needs) -> list[Record] | None:
        """Start a newcomer, if there is room and it overtakes nobody."""
        if not self.may_start(now, needs):
            return None
        if self.gate.spreads:
            self.gate.passed(now, self.waiting)
        return [meter.log.record(now, cost) for meter, cost in needs]

    def may_start(self, now: float, needs: Needs) -> bool:
        """Whether :meth:`start` would start it: there is room, and it overtakes nobody."""
        if self.gate.opens_at > now or self._todo or (self._groups and self._overtakes(needs)):
            return False
        for meter, cost in needs:  # noqa: SIM110 - all() would take longer
            if meter.log.free_at(now, cost) > now:
                return False
        return True

    def enter(self, waiter: Waiter) -> None:
        """Join the line at its end; then comes a :meth:`turn`."""
        waiter.age = next(self._ages)
        group = self._join(waiter)
        if len(group.waiters) == 1:
            self._look_soon(group)

    def enter_again(self, waiter: Waiter) -> None:
        """One that was let through and came too late waits on, at its old place; then a turn."""
        self.give_back(waiter)
        group = self._join(waiter)
        # Others that came too late may be back before it: those that are older stay before it.
        older = list(takewhile(lambda other: other.age < waiter.age, group.waiters))
        for other in (waiter, *reversed(older)):
            group.waiters.move_to_end(other, last=False)
        self._forget_look(group)
        group.parked = None
        self._look_soon(group)

    def _join(self, waiter: Waiter) -> Group:
        meters = tuple([meter for meter, _ in waiter.needs])
        group = self._groups.get(meters)
        if group is None:
            group = self._groups[meters] = Group(meters)
            for meter in meters:
                meter.groups += 1
        waiter.group = group
        group.waiters[waiter] = None
        self.waiting += 1
        return group

    def is_late(self, now: float, waiter: Waiter) -> bool:
        """Whether one that was let through comes too late to start at ``now``."""
        assert waiter.records is not None
        for (meter, _), record in zip(waiter.needs, waiter.records, strict=True):
            if meter.log.is_late(record, now):
                return True
        return False

    def oldest(self, count: int) -> list[Waiter]:
        """The first of those who wait, at most so many."""
        firsts = [islice(group.waiters, count) for group in self._groups.values()]
        return list(islice(heapq.merge(*firsts, key=_age), count))

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer; then comes a :meth:`turn`."""
        group = waiter.group
        if group is None:
            return
        was_head = group.head is waiter
        self._remove(waiter, group)
        if was_head:
            self._head_left(group)

    def confirm(self, now: float, waiter: Waiter) -> None:
        """One that was let through starts at ``now``."""
        assert waiter.records is not None
        for (meter, _), record in zip(waiter.needs, waiter.records, strict=True):
            meter.log.confirm(record, now)
            self._look_again(meter, only_unknown=True)
        waiter.records = None  # it can no longer be given back

    def give_back(self, waiter: Waiter) -> None:
        """One that was let through does not start after all; then comes a :meth:`turn`."""
        if waiter.records is None:
            return
        for (meter, _), record in zip(waiter.needs, waiter.records, strict=True):
            meter.log.give_back(record)
            self.freed(meter)
        waiter.records = None

    def freed(self, meter: Meter) -> None:
        """A meter has more room than it had; then comes a :meth:`turn`."""
        self._look_again(meter, only_unknown=False)

    def reconsider(self) -> None:
        """All may be different; then comes a :meth:`turn`."""
        for group in self._groups.values():
            self._look_soon(group)

    def reject_too_much(self) -> list[Waiter]:
        """Take out those whose cost is above a limit that was lowered; their ``error`` says so."""
        rejected = []
        for group in list(self._groups.values()):
            for waiter in list(group.waiters):
                for meter, cost in waiter.needs:
                    if cost > meter.limit.max:
                        waiter.error = meter.limit.too_much(cost)
                        rejected.append(waiter)
                        break
        for waiter in rejected:
            self.leave(waiter)
        return rejected

    def dismiss(self, error: Exception) -> list[Waiter]:
        """Take out all who wait; their ``error`` is this one."""
        dismissed = self.oldest(self.waiting)
        for waiter in dismissed:
            waiter.error = error
            self.leave(waiter)
        return dismissed

    def turn(self, now: float) -> list[Waiter]:
        """Those who may start at ``now``, in order. What they need is reserved for them."""
        started: list[Waiter] = []
        due = self._due
        while due and due[0][0] <= now:
            _, _, group, looks = heapq.heappop(due)
            if group.looks == looks:
                self._look_soon(group)
        todo = self._todo
        while todo and self.gate.opens_at <= now:
            age, group = heapq.heappop(todo)
            group.queued = False
            if not group.waiters:
                continue
            if group.head.age != age:  # it has another head since: its turn is later
                self._look_soon(group)
                continue
            if self._look(group, now):
                waiter = group.head
                waiter.records = tuple([meter.log.reserve(cost) for meter, cost in waiter.needs])
                self._remove(waiter, group)
                self.gate.passed(now, self.waiting)
                started.append(waiter)
                self._head_left(group)
            for meter in group.meters:
                self._let_next_look(meter)
        return started

    def next_turn(self, now: float) -> float:
        """When :meth:`turn` is worth calling again; ``math.inf``: not before something happens."""
        due = self._due
        while due and due[0][2].looks != due[0][3]:
            heapq.heappop(due)
        when = -math.inf if self._todo else due[0][0] if due else math.inf
        return max(when, self.gate.opens_at)

    # -- within -----------------------------------------------------------------------------------

    def _overtakes(self, needs: Needs) -> bool:
        return (
            any(meter.blockers for meter, _ in needs)
            or tuple([meter for meter, _ in needs]) in self._groups
        )

    def _look(self, group: Group, now: float) -> bool:
        """Whether the head of the group may start; if not, note what it waits for."""
        self._forget_look(group)
        head = group.head
        parked: Meter | None = None
        wake = math.inf
        lacks = False
        for meter, cost in head.needs:
            if meter.blockers and any(other.head.age < head.age for other in meter.blockers):
                parked = meter
                continue
            free_at = meter.log.free_at(now, cost)
            if free_at > now:
                lacks = True
                meter.blockers[group] = None
                wake = min(wake, free_at)
        if parked is None and not lacks:
            return True
        if parked is not None and group.parked != (parked, head.age):
            group.parked = (parked, head.age)
            heapq.heappush(parked.parked, (head.age, group))
        group.wake = wake
        if wake < math.inf:
            heapq.heappush(self._due, (wake, next(self._ages), group, group.looks))
            if len(self._due) > 2 * len(self._groups) + 64:  # mostly looks that came to nothing
                self._due = [entry for entry in self._due if entry[2].looks == entry[3]]
                heapq.heapify(self._due)
        return False

    def _forget_look(self, group: Group) -> None:
        group.looks += 1
        group.wake = math.inf
        for meter in group.meters:
            meter.blockers.pop(group, None)

    def _look_soon(self, group: Group) -> None:
        if not group.queued and group.waiters:
            group.queued = True
            heapq.heappush(self._todo, (group.head.age, group))

    def _look_again(self, meter: Meter, *, only_unknown: bool) -> None:
        for group in meter.blockers:
            if not only_unknown or group.wake == math.inf:
                self._look_soon(group)

    def _let_next_look(self, meter: Meter) -> None:
        """Whoever is parked behind nobody any more is looked at, the oldest first."""
        parked = meter.parked
        while parked:
            age, group = parked[0]
            if group.parked == (meter, age) and group.waiters and group.head.age == age:
                if any(other.head.age < age for other in meter.blockers):
                    return
                heapq.heappop(parked)
                group.parked = None
                self._look_soon(group)
                return
            heapq.heappop(parked)

    def _remove(self, waiter: Waiter, group: Group) -> None:
        del group.waiters[waiter]
        waiter.group = None
        self.waiting -= 1

    def _head_left(self, group: Group) -> None:
        """The next of the group is its head now, and younger: it no longer blocks who it did."""
        self._forget_look(group)
        group.parked = None
        if group.waiters:
            self._look_soon(group)
        else:
            del self._groups[group.meters]
            for meter in group.meters:
                meter.groups -= 1
            if not self._groups:  # nobody waits: what is left here is of those who did
                self._todo.clear()
                self._due.clear()
        for meter in group.meters:
            self._let_next_look(meter)


def _age(waiter: Waiter) -> int:
    return waiter.age
