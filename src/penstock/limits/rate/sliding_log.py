"""At most so much started in any stretch of so many seconds."""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction

from penstock.limits.rate.exact import Exact, exact


class Record:
    """A start, or some that are kept as one; what :meth:`SlidingLog.settle` corrects."""

    __slots__ = ("at", "cost", "fill", "into")

    def __init__(self, at: float, cost: Exact) -> None:
        self.at = at
        self.cost = cost
        #: What had started in the window by then, it included.
        self.fill: Exact = 0
        #: The record that this one was merged into. ``_GONE``: it no longer counts. ``_FREE``: it
        #: is not kept, since it costs nothing.
        self.into: Record | None = None


class _Group(Record):
    """Neighbours as one; its time is that of the latest, so that none is forgotten too early."""

    __slots__ = ("since",)

    def __init__(self, since: float) -> None:
        super().__init__(since, 0)
        #: When the earliest was.
        self.since = since


#: What has left the window for less than this share of it has just left.
_JUST = 0.1

_GONE = Record(-math.inf, 0)
_FREE = Record(-math.inf, 0)


class SlidingLog:
    """The exact form of "``maximum`` per ``period``": it remembers when the last starts were.

    In no window of ``period`` seconds, wherever it begins, do the starts cost more than
    ``maximum``. (A counter that is reset every period lets twice as many through around the reset;
    a leaky bucket lets a burst through on top of its rate.) Windows are half open: two starts that
    are exactly ``period`` apart lie in no common window. Takes the time; reads no clock.

    It holds at most ``maximum`` records (the old one, just after that was lowered). Costs below
    one, and costs that were given back, could make them more: then neighbours are merged and count
    from the latest of them, which errs by about two ``maximum``-ths of the period, to the safe
    side; by the whole of it where ``maximum`` is three or less.

    When the maximum or the period changes, what started before the change counts as well. What was
    already forgotten and would lie in the longer period is taken to have filled the limit.
    """

    __slots__ = (
        "_first_ends",
        "_forgotten",
        "_gap",
        "_maximum",
        "_open_from",
        "_period",
        "_records",
        "_reserved",
        "_room",
        "_seen",
        "_total",
        "_was",
        "_was_until",
    )

    def __init__(self, maximum: float, period: float, *, forgotten: float = -math.inf) -> None:
        self._maximum = exact(maximum)
        self._room = max(1, int(maximum))  # for records
        self._period = period
        self._records: deque[Record] = deque()
        self._total: Exact = 0  # of the records, and of what is reserved
        self._reserved: Exact = 0
        self._gap = 0.0  # seconds from a start to the next, for each 1 that it cost
        self._seen = -math.inf  # when it was last asked, if there are gaps
        self._was: Exact = 0  # the total just before something left the window, and until when
        self._was_until = -math.inf  # that was just before
        self._first_ends = math.inf  # when the oldest record leaves the window
        self._forgotten = forgotten  # the latest start that is no longer in the log
        self._open_from = _end(forgotten, period)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def forgotten(self) -> float:
        """When the latest start was of those that the log no longer holds."""
        return self._forgotten

    def free_at(self, now: float, cost: Exact = 1) -> float:
        """The time from which ``cost`` has room, as far as is known; ``now`` or less: it has.

        ``math.inf``: not before something reserved is confirmed or given back.
        """
        if self._records and (now >= self._first_ends or now < self._records[-1].at):
            self._forget(now)
        if self._gap:
            self._seen = now
        missing = self._total + cost - self._maximum
        if missing <= 0:
            return self._open_from
        if self._gap and cost > self._maximum:
            # More than refusals have left of it: it starts when nothing else counts.
            missing = self._total
            if not missing:
                return self._open_from
        for record in self._records:
            missing -= record.cost
            if missing <= 0:
                return max(_end(record.at, self._period), self._open_from)
        return math.inf

    def wait_time(self, now: float, cost: float | Fraction = 1) -> float:
        """Seconds from ``now`` until ``cost`` has room; 0 when it has now."""
        return max(0.0, self.free_at(now, exact(cost)) - now)

    def record(self, now: float, cost: float | Fraction = 1) -> Record:
        """Something that costs so much, more than zero, starts at ``now``."""
        record = Record(now, exact(cost))
        self._total += record.cost
        self._append(now, record)
        return record

    def take(self, now: float, cost: Exact) -> Record | None:
        """:meth:`record` it if :meth:`free_at` says that it has room now. (Both in one: quick.)"""
        records = self._records
        total = self._total + cost
        if (
            not records
            or now >= self._first_ends
            or now < records[-1].at
            or total > self._maximum
            or len(records) >= self._room
            or now < self._open_from
            or self._gap
        ):
            return None if self.free_at(now, cost) > now else self.record(now, cost)
        self._total = total
        record = Record(now, cost)
        record.fill = total
        records.append(record)
        return record

    def reserve(self, cost: float | Fraction = 1) -> Record:
        """Something that costs so much will start soon. It counts from now on until confirmed."""
        record = Record(math.inf, exact(cost))
        self._total += record.cost
        self._reserved += record.cost
        if self._gap:
            self._leave_gap(self._seen, record)
        return record

    def is_late(self, record: Record, now: float) -> bool:
        """Whether it is too late at ``now`` for what was reserved; here it never is."""
        return False

    def confirm(self, record: Record, now: float) -> None:
        """What was reserved starts at ``now``: only from here does its time in the log run."""
        record.at = now
        self._reserved -= record.cost
        self._append(now, record)

    def settle(self, record: Record, actual: float | Fraction) -> None:
        """It cost ``actual`` (zero or more) instead: the difference is given back, or charged.

        What is no longer in the log is left as it was.
        """
        cost = exact(actual)
        difference = cost - record.cost
        counted = _counted(record)
        if counted is _GONE or not difference:
            return
        self._total += difference
        record.cost = cost
        if counted is _FREE:
            self._keep_again(record)
            self._keep_small()
        elif counted is not record:
            counted.cost += difference
        self._drop_free()

    def give_back(self, record: Record) -> None:
        """What was reserved does not start after all. Does nothing once it is confirmed."""
        if record.into is None and record.at == math.inf:
            self._total -= record.cost
            self._reserved -= record.cost
            record.into = _GONE

    def change(self, maximum: float | None = None, period: float | None = None) -> None:
        """From now on ``maximum`` or ``period`` is another."""
        if maximum is not None:
            self._maximum = exact(maximum)
            self._room = max(1, int(maximum))
        if period is not None:
            self._period = period
            self._open_from = _end(self._forgotten, period)
            self._see_first()
        self._gap = 0.0

    def restrain(self, maximum: float, period: float, gap: float) -> None:
        """For a while less than was said: ``maximum``, in a ``period`` that may be longer.

        ``gap``: seconds from a start to the next, for each 1 that it cost.
        """
        self._maximum = exact(maximum)
        self._period = period
        self._gap = gap
        self._open_from = _end(self._forgotten, period)
        self._see_first()

    def fill(self, record: Record) -> Exact:
        """What had started in the window that ends with this start, or just did not any more."""
        return max(record.fill, self._was) if record.at < self._was_until else record.fill

    def busy_since(self, start: float) -> float:
        """When the first start was of those that count, the window before ``start`` at most."""
        window = start - self._period
        if self._forgotten > window or not self._records:
            return window
        return max(window, self._records[0].at)

    def clear(self) -> None:
        """Forget all starts: the clock is another one."""
        while self._records:
            self._drop_first()
        self._forgotten = self._open_from = -math.inf
        self._see_first()

    def is_idle(self, now: float) -> bool:
        """Whether it is as good as new at ``now``: nothing counts, nothing is reserved."""
        self._forget(now)
        return self._total == 0 and not self._records and now >= self._open_from

    def _append(self, now: float, record: Record) -> None:
        records = self._records
        if not records:
            self._first_ends = _end(now, self._period)
        elif now < records[-1].at:
            self._forget(now)
        records.append(record)
        record.fill = self._total - self._reserved
        if self._gap:
            self._leave_gap(now, record)
        if len(records) > self._room:
            self._forget(now)
            self._keep_small()

    def _leave_gap(self, now: float, record: Record) -> None:
        self._open_from = max(self._open_from, now + self._gap * float(record.cost))

    def _forget(self, now: float) -> None:
        """Drop what has left the window."""
        records = self._records
        if records and now < records[-1].at:
            self.clear()  # a clock that goes back is another clock, of another loop
        ends = math.inf
        if (
            records
            and now >= self._first_ends
            and (now >= self._was_until or self._total - self._reserved >= self._was)
        ):
            self._was = self._total - self._reserved
            self._was_until = self._first_ends + _JUST * self._period
        while records:
            ends = _end(records[0].at, self._period)
            if now < ends:
                break
            self._forgotten = max(self._forgotten, records[0].at)
            self._drop_first()
            ends = math.inf
        self._first_ends = ends

    def _drop_first(self) -> None:
        record = self._records.popleft()
        self._total -= record.cost
        record.into = _GONE

    def _see_first(self) -> None:
        first = self._records[0].at if self._records else math.inf
        self._first_ends = _end(first, self._period)

    def _drop_free(self) -> None:
        """Those at either end that cost nothing any more need not be kept."""
        records = self._records
        while records and not records[-1].cost:
            records.pop().into = _FREE
        while records and not records[0].cost:
            records.popleft().into = _FREE
        self._see_first()

    def _keep_again(self, record: Record) -> None:
        """One that cost nothing costs something after all: it is put where it was."""
        record.into = None
        place = len(self._records)
        while place and self._records[place - 1].at > record.at:
            place -= 1
        self._records.insert(place, record)

    def _keep_small(self) -> None:
        """If there are too many records: those that cost nothing go, then neighbours become one."""
        room = self._room
        if len(self._records) <= room:
            return
        kept: deque[Record] = deque()
        for record in self._records:
            if record.cost:
                kept.append(record)
            else:
                record.into = _FREE
        if len(kept) > room:
            length = max(self._period, kept[-1].at - _since(kept[0]))
            # Of three groups in a row, the first and the last begin so far apart: no more fit in.
            kept = _merge(kept, 2 * length / (room - 1) if room > 1 else math.inf)
        self._records = kept
        self._see_first()


def _merge(records: deque[Record], span: float) -> deque[Record]:
    """One record for all those that lie within ``span`` of the first of them, and so on."""
    merged: deque[Record] = deque()
    group = _Group(-math.inf)
    for record in records:
        # By its true beginning: a group that is merged again must not creep along with time.
        if not merged or record.at >= group.since + span:
            group = _Group(_since(record))
            merged.append(group)
        group.at = record.at
        group.cost += record.cost
        record.into = group
    return merged


def _since(record: Record) -> float:
    return record.since if isinstance(record, _Group) else record.at


def _counted(record: Record) -> Record:
    """The record in the log that this one is part of, or ``_GONE`` or ``_FREE``."""
    last = record
    while last.into is not None:
        last = last.into
    while (into := record.into) is not None and into is not last:
        record.into, record = last, into  # shorten the way for the next time
    return last


def _end(start: float, period: float) -> float:
    """The first moment that is no longer within ``period`` of ``start``.

    That is their sum, but a sum of floats may be rounded down, and then it would be too early.
    """
    end = start + period
    part = end - start
    lost = (start - (end - part)) + (period - part)  # what rounding took, exactly (Knuth's TwoSum)
    return math.nextafter(end, math.inf) if lost > 0 else end
