"""A sliding log: the times and costs of the starts in the last ``period`` seconds."""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any, Final

from penstock.limits.rate.exact import Exact, exact


class Record:
    """A start, or several that are kept as one. :meth:`SlidingLog.settle` corrects its cost."""

    __slots__ = ("at", "call", "cost", "fill", "merged_into")

    def __init__(self, at: float, cost: Exact) -> None:
        self.at = at
        self.cost = cost
        #: The total cost in the window when this one started, with it.
        self.fill: Exact = 0
        #: The record that this one was merged into. ``_EXPIRED``: it no longer counts. ``_FREE``:
        #: it costs nothing, so it is not kept.
        self.merged_into: Record | None = None
        #: The call that started, while it is under way, where its permit is made on demand.
        self.call: Any = None


class _MergedRecord(Record):
    """Neighbours as one. It has the time of the latest, so that none is forgotten too early."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        super().__init__(since, 0)
        #: When the earliest of them started.
        self.since = since


#: A start that left the window less than this share of ``period`` ago has just left it.
_JUST = 0.1

_new: Final = object.__new__

_EXPIRED = Record(-math.inf, 0)
_FREE = Record(-math.inf, 0)


class SlidingLog:
    """The exact form of "``maximum`` per ``period``": it remembers each start in the window.

    In no window of ``period`` seconds, wherever it begins, do the starts cost more than
    ``maximum``. (A counter that is reset every period lets twice as many through around the reset;
    a leaky bucket lets a burst through on top of its rate.) Windows are half open: two starts that
    are exactly ``period`` apart lie in no common window. Takes the time; reads no clock.

    It holds at most ``maximum`` records (after ``maximum`` was lowered: the old one, for a while).
    Costs below one, and costs that were given back, could make them more. Then neighbours are
    merged, and count from the latest of them. That errs by about two ``maximum``-ths of the period,
    to the safe side; by the whole of it where ``maximum`` is three or less.

    When the maximum or the period changes, what started before the change counts as well. Starts
    that are already forgotten, and would lie in the longer period, count as if they had filled the
    limit.
    """

    __slots__ = (
        "_asked_at",
        "_earlier_total",
        "_earlier_until",
        "_first_ends",
        "_forgotten",
        "_gap",
        "_maximum",
        "_most_records",
        "_open_from",
        "_period",
        "_records",
        "_reserved",
        "_total",
    )

    def __init__(self, maximum: float, period: float, *, forgotten: float = -math.inf) -> None:
        self._maximum = exact(maximum)
        self._most_records = max(1, int(maximum))
        self._period = period
        self._records: deque[Record] = deque()
        self._total: Exact = 0  # the cost of the records, and of the reserved starts
        self._reserved: Exact = 0
        self._gap = 0.0  # seconds from a start to the next, for each 1 of its cost
        self._asked_at = -math.inf  # the time of the last free_at, if there is a gap
        self._earlier_total: Exact = 0  # the total before the last start left the window, and
        self._earlier_until = -math.inf  # until when that was just before
        self._first_ends = math.inf  # when the oldest record leaves the window
        self._forgotten = forgotten  # the latest start that is no longer in the log
        self._open_from = _end(forgotten, period)  # nothing may start before

    def __len__(self) -> int:
        return len(self._records)

    @property
    def forgotten(self) -> float:
        """The time of the latest start that the log no longer holds."""
        return self._forgotten

    def free_at(self, now: float, cost: Exact = 1) -> float:
        """The time from which ``cost`` has room, as far as is known; ``now`` or less: it has room.

        ``math.inf``: not before a reserved start is confirmed or cancelled.
        """
        if self._records and (now >= self._first_ends or now < self._records[-1].at):
            self._forget(now)
        if self._gap:
            self._asked_at = now
        missing = self._total + cost - self._maximum
        if missing <= 0:
            return self._open_from
        if self._gap and cost > self._maximum:
            # A learned rate allows less than it costs: it starts when nothing else counts.
            missing = self._total
            if not missing:
                return self._open_from
        for record in self._records:
            missing -= record.cost
            if missing <= 0:
                return max(_end(record.at, self._period), self._open_from)
        return math.inf

    def is_spent_for(self, cost: Exact) -> bool:
        """Whether ``cost`` will never have room; here it always will, in time."""
        return False

    def open_cost(self, record: Record) -> Exact:
        """How much of its cost a start may turn out not to have cost; here that is no matter."""
        return 0

    def used(self, now: float) -> Exact:
        """The cost of the starts in the window, and of the reserved ones."""
        self._forget(now)
        return self._total

    def room(self, now: float) -> Exact:
        """The cost that may start now, zero or more."""
        used = self.used(now)
        return max(0, self._maximum - used) if now >= self._open_from else 0

    def wait_time(self, now: float, cost: float | Fraction = 1) -> float:
        """Seconds from ``now`` until ``cost`` has room; 0 when it has now."""
        return max(0.0, self.free_at(now, exact(cost)) - now)

    def record(self, now: float, cost: float | Fraction = 1) -> Record:
        """Count a start at ``now`` that costs ``cost``, above 0."""
        record = Record(now, exact(cost))
        self._total += record.cost
        self._append(now, record)
        return record

    def take(self, now: float, cost: Exact) -> Record | None:
        """:meth:`record` a start if :meth:`free_at` says that it has room. (Quicker than both.)"""
        records = self._records
        if records and (now >= self._first_ends or now < records[-1].at):
            self._forget(now)
        total = self._total + cost
        if (
            total > self._maximum
            or len(records) >= self._most_records
            or now < self._open_from
            or self._gap
        ):
            return None if self.free_at(now, cost) > now else self.record(now, cost)
        if not records:
            self._first_ends = now + self._period
        self._total = total
        record = _new(Record)  # a call of __init__ would take longer than all this
        record.at, record.cost, record.fill = now, cost, total
        record.merged_into = record.call = None
        records.append(record)
        return record

    def reserve(self, cost: float | Fraction = 1) -> Record:
        """Count a start that will be confirmed, or cancelled, soon; it has no time yet."""
        record = Record(math.inf, exact(cost))
        self._total += record.cost
        self._reserved += record.cost
        if self._gap:
            self._leave_gap(self._asked_at, record)
        return record

    def is_late(self, record: Record, now: float) -> bool:
        """Whether it is too late at ``now`` for a reserved start; here it never is."""
        return False

    def confirm(self, record: Record, now: float) -> None:
        """A reserved start happens at ``now``: from here on its time in the window runs."""
        record.at = now
        self._reserved -= record.cost
        self._append(now, record)

    def settle(self, record: Record, actual: float | Fraction) -> None:
        """Correct the cost of a start to ``actual``, zero or more.

        A start that has left the window stays as it is.
        """
        cost = exact(actual)
        difference = cost - record.cost
        counted = _counted(record)
        if counted is _EXPIRED or not difference:
            return
        self._total += difference
        record.cost = cost
        if counted is _FREE:
            self._keep_again(record)
            self._keep_small()
        elif counted is not record:
            counted.cost += difference
        self._drop_free()

    def finish(self, record: Record) -> bool:
        """The call is over. Whether that changes what may start; here it never does."""
        return False

    def cancel(self, record: Record) -> None:
        """A reserved start does not happen. Does nothing once it is confirmed."""
        if record.merged_into is None and record.at == math.inf:
            self._total -= record.cost
            self._reserved -= record.cost
            record.merged_into = _EXPIRED

    def change(self, maximum: float | None = None, period: float | None = None) -> None:
        """Set ``maximum`` or ``period``; ends what :meth:`restrict` set."""
        if maximum is not None:
            self._maximum = exact(maximum)
            self._most_records = max(1, int(maximum))
        if period is not None:
            self._period = period
            self._open_from = _end(self._forgotten, period)
            self._see_first()
        self._gap = 0.0

    def restrict(self, maximum: float, period: float, gap: float) -> None:
        """Allow less for a while: ``maximum``, in a ``period`` that may be longer.

        ``gap``: seconds from a start to the next, for each 1 of its cost.
        """
        self._maximum = exact(maximum)
        self._period = period
        self._gap = gap
        self._open_from = _end(self._forgotten, period)
        self._see_first()

    def fill(self, record: Record) -> Exact:
        """The total cost in the window that ends with this start, or that just ended before it."""
        return (
            max(record.fill, self._earlier_total)
            if record.at < self._earlier_until
            else record.fill
        )

    def busy_since(self, start: float) -> float:
        """The time of the oldest start that counts, at most a window before ``start``."""
        window = start - self._period
        if self._forgotten > window or not self._records:
            return window
        return max(window, self._records[0].at)

    def clear(self) -> None:
        """Forget all starts: the clock is another one."""
        for record in self._records:
            self._total -= record.cost
            record.merged_into = _EXPIRED
        self._records.clear()
        self._forgotten = self._open_from = -math.inf
        self._see_first()

    def is_idle(self, now: float) -> bool:
        """Whether the log is as good as new at ``now``: nothing counts, nothing is reserved."""
        self._forget(now)
        return self._total == 0 and not self._records and now >= self._open_from

    def _append(self, now: float, record: Record) -> None:
        records = self._records
        if records and now < records[-1].at:
            self._forget(now)
        if not records:
            self._first_ends = _end(now, self._period)
        records.append(record)
        record.fill = self._total - self._reserved
        if self._gap:
            self._leave_gap(now, record)
        if len(records) > self._most_records:
            self._forget(now)
            self._keep_small()

    def _leave_gap(self, now: float, record: Record) -> None:
        self._open_from = max(self._open_from, now + self._gap * float(record.cost))

    def _forget(self, now: float) -> None:
        """Drop the records that have left the window."""
        records = self._records
        if records and now < records[-1].at:
            self.clear()  # a clock that goes back is another clock, that of another event loop
        # Where this sum was rounded down it is too early by that, and nothing is forgotten.
        if now < self._first_ends or not records:
            return
        period, total = self._period, self._total
        counted = total - self._reserved
        if counted >= self._earlier_total or now >= self._earlier_until:
            self._earlier_total = counted
            self._earlier_until = self._first_ends + _JUST * period
        first, last = records[0], self._forgotten
        ends = first.at + period
        while now > ends or (now == ends and now >= _end(first.at, period)):
            records.popleft()
            total -= first.cost
            first.merged_into = _EXPIRED
            last = first.at
            if not records:
                ends = math.inf
                break
            first = records[0]
            ends = first.at + period
        self._total, self._first_ends = total, ends
        if last > self._forgotten:  # noqa: PLR1730 - a call would take longer
            self._forgotten = last

    def _see_first(self) -> None:
        first = self._records[0].at if self._records else math.inf
        self._first_ends = _end(first, self._period)

    def _drop_free(self) -> None:
        """Drop the records at either end that cost nothing any more."""
        records = self._records
        while records and not records[-1].cost:
            records.pop().merged_into = _FREE
        while records and not records[0].cost:
            records.popleft().merged_into = _FREE
        self._see_first()

    def _keep_again(self, record: Record) -> None:
        """Keep a record that cost nothing and costs something after all, in its place by time."""
        record.merged_into = None
        place = len(self._records)
        while place and self._records[place - 1].at > record.at:
            place -= 1
        self._records.insert(place, record)

    def _keep_small(self) -> None:
        """If there are too many records, drop those that cost nothing, then merge neighbours."""
        most = self._most_records
        if len(self._records) <= most:
            return
        kept: deque[Record] = deque()
        for record in self._records:
            if record.cost:
                kept.append(record)
            else:
                record.merged_into = _FREE
        if len(kept) > most:
            length = max(self._period, kept[-1].at - _since(kept[0]))
            # Of three merged records in a row, the first and the last begin at least this span
            # apart: so no more than ``most`` of them fit into the length.
            kept = _merge(kept, 2 * length / (most - 1) if most > 1 else math.inf)
        self._records = kept
        self._see_first()


def _merge(records: deque[Record], span: float) -> deque[Record]:
    """One record for all starts within ``span`` seconds of the first, and so on for the rest."""
    merged: deque[Record] = deque()
    group = _MergedRecord(-math.inf)
    for record in records:
        # By its true beginning: a merged record that is merged again must not move with time.
        if not merged or record.at >= group.since + span:
            group = _MergedRecord(_since(record))
            merged.append(group)
        group.at = record.at
        group.cost += record.cost
        record.merged_into = group
    return merged


def _since(record: Record) -> float:
    return record.since if isinstance(record, _MergedRecord) else record.at


def _counted(record: Record) -> Record:
    """The record in the log that this one is part of, or ``_EXPIRED`` or ``_FREE``."""
    last = record
    while last.merged_into is not None:
        last = last.merged_into
    while (next_one := record.merged_into) is not None and next_one is not last:
        record.merged_into, record = last, next_one  # shorten the way for the next time
    return last


def _end(start: float, period: float) -> float:
    """The first moment that is no longer in the window that begins at ``start``.

    That is the sum of both, but a sum of floats may be rounded down, and then it is too early.
    """
    end = start + period
    part = end - start
    lost = (start - (end - part)) + (period - part)  # what rounding took, exactly (Knuth's TwoSum)
    return math.nextafter(end, math.inf) if lost > 0 else end
