"""What machines agree on that share a limit: who may start when. Pure decisions, no I/O.

All times are whole microseconds of the server's clock, all amounts whole millionths, so that sums
have no rounding.

A *slot* is the right to start something within ``[start, end]``. The ledger counts it as if it
started at ``end``: a later one that needs its room may not start before ``end + per``. So no
window of ``per`` seconds holds more than ``max``, wherever in its slot each start is, as long as
nobody starts after the end of his own. What a slot was used for is told later: earlier or for less
than it was counted, or not at all.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock._util import checks
from penstock.limits.rate.exact import Exact

#: Units per second, and per one of whatever is limited.
UNITS = 1_000_000
#: Microseconds for which what has left the window is kept, since clocks are not known exactly.
GRACE = 1 * UNITS
#: Microseconds from now in which every slot ends.
FAR = 2 * UNITS
#: Entries in one log; if there are more, neighbours are merged that lie this close together, in
#: parts of ``per``.
ROOM, MERGED = 400, 200

#: How many writes are known by name.
REMEMBERED = 32

FORMAT = 1


def amount(cost: Exact) -> int:
    """A cost in units, rounded up."""
    return math.ceil(cost * UNITS)


def micros(seconds: float) -> int:
    """Seconds in units, rounded up."""
    return math.ceil(seconds * UNITS)


class Slot(NamedTuple):
    """The right to start something that costs ``costs``, within ``[start, end]``."""

    start: int
    end: int
    #: By the names of the limits.
    costs: Mapping[str, int]


class SharedLimit:
    """One limit as all machines see it: what was let through lately, and may be soon."""

    __slots__ = ("_amounts", "_ends", "_most", "_period", "max", "per", "was")

    def __init__(self, maximum: float, per: float, was: tuple[float, float] | None = None) -> None:
        #: Sorted, and what counts at each.
        self._ends: list[int] = []
        self._amounts: list[int] = []
        #: What the limit was when it was first agreed on.
        self.was = (maximum, per) if was is None else was
        self.change(maximum, per)

    @property
    def rate(self) -> tuple[float, float]:
        """``max`` and ``per``."""
        return self.max, self.per

    def change(self, maximum: float, per: float) -> None:
        """Another rate from now on."""
        self.max, self.per = maximum, per
        self._most = int(maximum * UNITS)
        self._period = micros(per)

    def free_at(self, now: int, cost: int) -> int:
        """The first moment, not before ``now``, at which ``cost`` has room."""
        over = sum(self._amounts) + min(cost, self._most) - self._most
        for end, counted in zip(self._ends, self._amounts, strict=True):
            if end + self._period > now and over <= 0:
                break
            over -= counted
            now = max(now, end + self._period)
        return now

    def add(self, end: int, counted: int) -> None:
        """Count so much at ``end``."""
        place = bisect_left(self._ends, end)
        if place < len(self._ends) and self._ends[place] == end:
            self._amounts[place] += counted
        else:
            self._ends.insert(place, end)
            self._amounts.insert(place, counted)

    def correct(self, end: int, more: int, now: int) -> None:
        """What was counted at ``end`` is so much more, or less, if it counts at all at ``now``."""
        if end + self._period <= now:
            return
        if more > 0:
            self.add(end, more)
            return
        # Merged neighbours count at the last of them.
        place = bisect_left(self._ends, end)
        if place < len(self._ends):
            self._amounts[place] = max(0, self._amounts[place] + more)
            if not self._amounts[place]:
                del self._ends[place], self._amounts[place]

    def fill(self, now: int) -> None:
        """Take it that as much as may be has started just now."""
        self.add(now, self._most)

    def forget(self, now: int) -> None:
        """Drop what has left the window, and keep the rest small."""
        if self._ends and self._ends[-1] > now + FAR:
            self._bring_near(now + FAR)
        gone = bisect_left(self._ends, now - self._period - GRACE)
        del self._ends[:gone], self._amounts[:gone]
        if len(self._ends) > ROOM:
            self._merge(self._period // MERGED)

    def _bring_near(self, latest: int) -> None:
        # Slots are not taken that far ahead: the clock was set back.
        first = bisect_left(self._ends, latest)
        counted = sum(self._amounts[first:])
        del self._ends[first:], self._amounts[first:]
        self.add(latest, counted)

    def _merge(self, span: int) -> None:
        ends, amounts = self._ends, self._amounts
        self._ends, self._amounts = [], []
        first = -math.inf
        for end, counted in zip(ends, amounts, strict=True):
            if end >= first + span:
                first = end
                self._ends.append(end)
                self._amounts.append(counted)
            else:
                self._ends[-1] = end  # the latest: none leaves the window too early
                self._amounts[-1] += counted

    def as_json(self) -> dict[str, Any]:
        """For :meth:`of_json`."""
        log: list[int] = []
        before = 0
        for end, counted in zip(self._ends, self._amounts, strict=True):
            log += (end - before, counted)
            before = end
        return {"max": self.max, "per": self.per, "was": self.was, "log": log}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> SharedLimit:
        """What :meth:`as_json` made."""
        made = cls(told["max"], told["per"], (told["was"][0], told["was"][1]))
        end = 0
        for step, counted in zip(told["log"][::2], told["log"][1::2], strict=True):
            end += step
            made._ends.append(end)
            made._amounts.append(counted)
        return made


class Ledger:
    """What the bucket keeps: the limits of one name, and until when the gate is closed."""

    def __init__(self, limits: Mapping[str, SharedLimit], born: int, opens: int = 0) -> None:
        self.limits = dict(limits)
        #: When it was made; tells one from its successor, where it was deleted.
        self.born = born
        #: When the gate opens.
        self.opens = opens
        #: How often it was written, and what the last writes are called.
        self.count = 0
        self.writes: list[str] = []

    def sign(self, write: str) -> None:
        """Give the coming write a name, by which one can tell later that it was made."""
        self.count += 1
        self.writes = [*self.writes, write][-REMEMBERED:]

    def has(self, write: str, count: int) -> bool | None:
        """Whether it holds that write, the one after the ``count``-th; None: nobody knows."""
        if write in self.writes:
            return True
        return None if self.count > count + REMEMBERED else False

    def free_at(self, now: int, costs: Mapping[str, int]) -> int:
        """The first moment, not before ``now``, at which all the costs have room."""
        when = max(now, self.opens)
        while True:
            later = when
            for name, cost in costs.items():
                later = self.limits[name].free_at(later, cost)
            if later == when:
                return when
            when = later

    def reserve(
        self, now: int, wants: Iterable[Mapping[str, int]], validity: int, before: int
    ) -> list[Slot]:
        """Slots for those who want to start, in their order, each as soon as there is room.

        A slot is valid for so long. None begins after ``before``: who comes then asks again, so
        that not much is lost with a machine that dies.
        """
        slots = []
        for costs in wants:
            now = self.free_at(now, costs)
            if now > before:
                break
            for name, cost in costs.items():
                self.limits[name].add(now + validity, cost)
            slots.append(Slot(now, now + validity, costs))
        return slots

    def forget(self, now: int) -> None:
        """Drop what no longer counts at ``now``."""
        for limit in self.limits.values():
            limit.forget(now)

    def encode(self) -> bytes:
        """As bytes."""
        told = {
            "format": FORMAT,
            "born": self.born,
            "opens": self.opens,
            "count": self.count,
            "writes": self.writes,
            "limits": {name: limit.as_json() for name, limit in self.limits.items()},
        }
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Ledger:
        """What :meth:`encode` made.

        Raises:
            ValueError: it is something else.
        """
        try:
            told = json.loads(data)
            number = told["format"]
            if number == FORMAT:
                limits = {name: SharedLimit.of_json(one) for name, one in told["limits"].items()}
                made = cls(limits, told["born"], told["opens"])
                made.count, made.writes = told["count"], list(told["writes"])
                return made
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"this is not a ledger of limits: {data[:100]!r}") from error
        raise ValueError(
            f"the ledger has format {checks.shown(number)}, and this version reads {FORMAT}"
        )


def differences(
    there: Mapping[str, SharedLimit], here: Mapping[str, tuple[float, float]]
) -> Sequence[str]:
    """In what the limits of two machines differ, for people."""
    found = []
    for name in sorted({*there, *here}):
        one = _shown(there[name].rate) if name in there else "no such limit"
        other = _shown(here[name]) if name in here else "no such limit"
        if one != other and (
            name not in there or name not in here or there[name].was != here[name]
        ):
            found.append(f"{checks.shown(name)} is {one} there and {other} here")
    return found


def _shown(rate: tuple[float, float]) -> str:
    return f"{rate[0]:g} per {rate[1]:g} s"
