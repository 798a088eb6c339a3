"""A gate for each service, or each of its users, among the windows that calls wait for."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from fractions import Fraction
from itertools import islice

from penstock.limits.rate.exact import Exact
from penstock.limits.rate.gate import Closures, Gate
from penstock.limits.rate.sliding_log import Record, SlidingLog
from penstock.limits.rate.window import Keyed, LimitState, LimitWindow


class GateLog(SlidingLog):
    """Stands where a limit has its log: there is room while the gate is open."""

    __slots__ = ("_keyed", "gate", "key")

    def __init__(self, gate: Gate, key: Hashable, keyed: Keyed) -> None:
        super().__init__(1, 1)  # which nobody asks for
        self.gate = gate
        self.key = key
        self._keyed = keyed

    def free_at(self, now: float, cost: Exact = 1) -> float:
        """The time from which the next call may pass."""
        self._asked_at = now
        return self.gate.opens_at

    def record(self, now: float, cost: float | Fraction = 1) -> Record:
        """A call passes."""
        self.gate.passed(now, self.waiting)
        return Record(now, 0)

    def reserve(self, cost: float | Fraction = 1) -> Record:
        """A call is let through, and starts soon."""
        self.gate.passed(self._asked_at, self.waiting)
        return Record(math.inf, 0)

    def is_late(self, record: Record, now: float) -> bool:
        """Whether the gate was closed again."""
        return self.gate.closed_for(now) > 0

    def confirm(self, record: Record, now: float) -> None:
        """A call that was let through starts."""
        record.at = now

    def cancel(self, record: Record) -> None:
        """Do nothing: the next call passes in its place, a little later."""

    def change(self, maximum: float | None = None, period: float | None = None) -> None:
        """Do nothing: it has no rate of its own."""

    def clear(self) -> None:
        """Open the gate: the clock is another one."""
        self.gate.reopen()

    def is_idle(self, now: float) -> bool:
        """Whether the gate is as good as one that was never closed."""
        return self.gate.is_idle(now)

    @property
    def waiting(self) -> int:
        """How many calls wait for the gate."""
        return len(self._keyed.get(self.key, ()))


class KeyedGates(LimitState):
    """The gates of those keys whose calls were refused not long ago.

    A call with such a key needs the window of its gate, beside those of its limits. The limiter's
    lock must be held.
    """

    __slots__ = ("_closures", "_rng", "logs", "waiters")

    def __init__(self, rng: random.Random | None, closures: Closures) -> None:
        super().__init__("gate", math.inf, math.inf, is_keyed=True)
        self._rng = rng
        self._closures = closures
        #: By key.
        self.logs: dict[Hashable, GateLog] = {}
        #: Who waits and has a key, by that.
        self.waiters: Keyed = {}

    def window_of(self, key: Hashable) -> LimitWindow | None:
        """The window of the gate of ``key``, if there is one."""
        return self._windows.get(key)

    def make(self, key: Hashable, now: float) -> tuple[GateLog, bool]:
        """The gate of ``key``, and whether it is new. Forgets others that are idle."""
        self.forget_idle(now)
        log = self.logs.get(key)
        if log is not None:
            self._windows.move_to_end(key)
            return log, False
        self.logs[key] = log = GateLog(Gate(self._rng, self._closures), key, self.waiters)
        self._windows[key] = LimitWindow(self, key, log)
        return log, True

    def forget_idle(self, now: float) -> None:
        """Forget gates that were not closed for long; the oldest two are looked at."""
        for key in list(islice(self._windows, 2)):
            window = self._windows[key]
            if not window.groups and window.log.is_idle(now):
                del self._windows[key], self.logs[key]
            else:
                self._windows.move_to_end(key)

    def reset(self) -> None:
        """Forget all gates, because this is a forked child: their waiters are the parent's."""
        super().reset()
        self.logs.clear()
        self.waiters = {}
