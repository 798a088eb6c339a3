"""What a machine holds of a shared limit: slots that were leased to it, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from penstock.brokers.nats.limits.leases import UNITS, amount
from penstock.limits.rate.exact import Exact, exact
from penstock.limits.rate.sliding_log import Record, SlidingLog


class Lease:
    """So much may start from ``start`` on, and before ``until``, on the local clock."""

    __slots__ = ("end", "left", "start", "until")

    def __init__(self, start: float, until: float, end: int, counted: int) -> None:
        self.start, self.until = start, until
        #: Where the ledger counts it, on the server's clock.
        self.end = end
        #: What nobody has taken yet, in units of the ledger.
        self.left = counted


class LeasedRecord(Record):
    """A start, and the leases that it used."""

    __slots__ = ("counted", "end", "pieces")

    def __init__(self, cost: Exact, pieces: list[tuple[Lease, int]]) -> None:
        super().__init__(math.inf, cost)
        self.pieces = pieces
        self.counted = amount(cost)
        #: Where the ledger counts it once it is confirmed.
        self.end = 0


class LeasedLog(SlidingLog):
    """Stands where a limit of one machine has its sliding log: has room where a lease says so.

    What is leased can be used between two moments only. What is not is lost for this machine, and
    given back to all. Takes the time; reads no clock.
    """

    __slots__ = ("_leases", "_now", "corrections", "freed", "lacks", "server_time")

    def __init__(self, maximum: float, period: float, *, forgotten: float = -math.inf) -> None:
        super().__init__(maximum, period, forgotten=forgotten)
        self._leases: list[Lease] = []
        self._now = -math.inf
        #: Whether somebody asked for more than there is.
        self.lacks = False
        #: Whether something was given back that others may use.
        self.freed = False
        #: By how much what the ledger counts at some moment is wrong.
        self.corrections: dict[int, int] = {}
        #: The latest that the server's clock can be, by the local one.
        self.server_time: Callable[[float], int] = _unknown

    def __len__(self) -> int:
        return len(self._leases)

    def lease(self, lease: Lease) -> None:
        """There is another one."""
        last = self._leases[-1] if self._leases else None
        if last is not None and last.end == lease.end and last.start == lease.start:
            last.left += lease.left
        else:
            self._leases.append(lease)
            self._leases.sort(key=_start)

    def give_up(self, end: int, counted: int) -> None:
        """What the ledger counts at ``end`` will not be used."""
        self._correct(end, -counted)
        self.freed = True

    def leases(self, now: float) -> list[Lease]:
        """Those that can be used at ``now`` or later, in their order."""
        self._expire(now)
        return self._leases

    def free_at(self, now: float, cost: Exact = 1) -> float:
        """The time from which ``cost`` can be used; ``math.inf``: not with what is leased."""
        self._expire(now)
        when = usable_from(self._leases, now, amount(cost))
        if when == math.inf:
            self.lacks = True
        return when

    def room(self, now: float) -> Exact:
        """What of the leases can be used now."""
        self._expire(now)
        return Fraction(sum(lease.left for lease in self._leases if lease.start <= now), UNITS)

    def record(self, now: float, cost: float | Fraction = 1) -> Record:
        """Something starts at ``now``; what is not leased of its cost is charged all the same."""
        self._expire(now)
        record = self.reserve(cost)
        self.confirm(record, now)
        return record

    def take(self, now: float, cost: Exact) -> Record | None:
        """:meth:`record` it if it can start now."""
        return None if self.free_at(now, cost) > now else self.record(now, cost)

    def reserve(self, cost: float | Fraction = 1) -> Record:
        """Take ``cost`` of what :meth:`free_at` just saw."""
        # It was seen just before what is usable at that moment.
        missing = amount(exact(cost))
        pieces = []
        for lease in sorted(self._leases, key=_until):
            if lease.start <= self._now and missing:
                taken = min(lease.left, missing)
                lease.left -= taken
                missing -= taken
                pieces.append((lease, taken))
        self._leases = [lease for lease in self._leases if lease.left]
        return LeasedRecord(exact(cost), pieces)

    def is_late(self, record: Record, now: float) -> bool:
        """Whether what was reserved can no longer be used at ``now``."""
        assert isinstance(record, LeasedRecord)
        return any(now >= lease.until for lease, _ in record.pieces)

    def confirm(self, record: Record, now: float) -> None:
        """What was reserved starts at ``now``: as early as that, and not when its lease ends."""
        assert isinstance(record, LeasedRecord)
        record.at = now
        record.end = self.server_time(now)
        for lease, taken in record.pieces:
            self._correct(lease.end, -taken)
        # More than the leases where a cost was raised after it had started.
        self._correct(record.end, record.counted)

    def cancel(self, record: Record) -> None:
        """What was reserved does not start after all: the next one here may use it."""
        assert isinstance(record, LeasedRecord)
        if record.at < math.inf:
            return
        for lease, taken in record.pieces:
            if not lease.left:
                self._leases.append(lease)
            lease.left += taken
        record.pieces = []
        self._leases.sort(key=_start)

    def settle(self, record: Record, actual: float | Fraction) -> None:
        """It cost ``actual`` instead: the ledger is told by and by."""
        assert isinstance(record, LeasedRecord)
        record.cost = exact(actual)
        counted = amount(record.cost)
        self._correct(record.end, counted - record.counted)
        self.freed = self.freed or counted < record.counted
        record.counted = counted

    def change(self, maximum: float | None = None, period: float | None = None) -> None:
        """What is leased stays leased."""

    def clear(self) -> None:
        """Forget all: it is of a ledger that is no more."""
        self._leases = []
        self.corrections = {}

    def is_idle(self, now: float) -> bool:
        """Whether nothing is leased."""
        self._expire(now)
        return not self._leases

    def _expire(self, now: float) -> None:
        self._now = now
        if not any(now >= lease.until for lease in self._leases):
            return
        for lease in self._leases:
            if now >= lease.until:
                self._correct(lease.end, -lease.left)
                lease.left = 0
                self.freed = True
        self._leases = [lease for lease in self._leases if now < lease.until]

    def _correct(self, end: int, more: int) -> None:
        if more:
            self.corrections[end] = self.corrections.get(end, 0) + more


def uncovered(
    wanted: Iterable[Mapping[str, int]], leases: Mapping[str, Iterable[Lease]], now: float
) -> list[Mapping[str, int]]:
    """Those of ``wanted``, in their order, for which nothing is leased; costs and leases by name.

    A lease that covers one does not cover those after it.
    """
    lacking: list[Mapping[str, int]] = []
    rest = {
        name: [Lease(lease.start, lease.until, lease.end, lease.left) for lease in some]
        for name, some in leases.items()
    }
    for costs in wanted:
        when = max(
            [usable_from(rest[name], now, cost) for name, cost in costs.items()], default=now
        )
        if when == math.inf or any(
            usable_from(rest[name], when, cost) > when for name, cost in costs.items()
        ):
            lacking.append(costs)
            continue
        for name, cost in costs.items():
            missing = cost
            for lease in rest[name]:
                if lease.start <= when < lease.until:
                    taken = min(lease.left, missing)
                    lease.left -= taken
                    missing -= taken
            rest[name] = [lease for lease in rest[name] if lease.left]
    return lacking


def usable_from(leases: list[Lease], now: float, wanted: int) -> float:
    """When so much can be used at once; ``now`` or less: now. ``math.inf``: never.

    ``leases`` in the order of their starts.
    """
    if sum(lease.left for lease in leases if lease.start <= now < lease.until) >= wanted:
        return now
    for one in leases:
        when = one.start
        if when > now:
            here = sum(lease.left for lease in leases if lease.start <= when < lease.until)
            if here >= wanted:
                return when
    return math.inf


def _start(lease: Lease) -> float:
    return lease.start


def _until(lease: Lease) -> float:
    return lease.until


def _unknown(now: float) -> int:
    raise AssertionError("nothing starts before something was leased")
