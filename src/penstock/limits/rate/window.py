"""The windows in which starts are counted, and the waiters that need room in them.

These classes name each other, so they are in one module. The scheduler decides by them.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

from penstock._util import checks
from penstock.limits.rate.exact import Exact
from penstock.limits.rate.sliding_log import Record, SlidingLog


class LimitWindow:
    """The sliding log of one limit for one key, and the groups of waiters that need it."""

    __slots__ = ("blockers", "groups", "has_learned_rate", "key", "log", "owner", "parked")

    def __init__(self, owner: LimitState, key: Hashable, log: SlidingLog) -> None:
        self.owner = owner
        self.key = key
        self.log = log
        #: Whether the log allows less than the limit says, because calls were refused.
        self.has_learned_rate = False
        #: How many groups of waiters need this window.
        self.groups = 0
        #: Groups whose heads lack room here. Heads that are younger wait behind them.
        self.blockers: dict[WaiterGroup, None] = {}
        #: Groups whose heads wait behind a blocker, as a heap of (age of the head, group).
        self.parked: list[tuple[int, int, WaiterGroup]] = []


#: The cost of a call in each window that it needs.
Demand: TypeAlias = "tuple[tuple[LimitWindow, Exact], ...]"
#: The starts of calls, each with its window.
Starts: TypeAlias = "tuple[tuple[LimitWindow, Record], ...]"


def is_spent(window: LimitWindow, cost: Exact, outer: Starts) -> bool:
    """Whether a call will never have room in a window.

    ``outer``: the calls that it is part of. They are not over before it is.
    """
    held = sum(window.log.open_cost(record) for other, record in outer if other is window)
    return window.log.is_spent_for(cost + held)


class LimitState:
    """The rate of one limit and its windows, one for each key.

    A limit keeps it when its limiter is gone. The limiter's lock must be held.
    """

    __slots__ = ("_forgotten", "_windows", "is_keyed", "log_type", "max", "name", "per")

    def __init__(self, name: str, maximum: float, period: float, *, is_keyed: bool) -> None:
        self.name = name
        self.max = maximum
        self.per = period
        self.is_keyed = is_keyed
        #: The class of the logs; the limiter sets it.
        self.log_type: type[SlidingLog] = SlidingLog
        #: By key, the least recently used first.
        self._windows: OrderedDict[Hashable, LimitWindow] = OrderedDict()
        #: The latest start in a window that was forgotten.
        self._forgotten = -math.inf

    def window(self, key: Hashable, now: float) -> LimitWindow:
        """The window of ``key``, which is made if needed; forgets idle windows of other keys."""
        window = self._windows.get(key)
        if window is None:
            log = self.log_type(self.max, self.per, forgotten=self._forgotten)
            window = self._windows[key] = LimitWindow(self, key, log)
        elif not self.is_keyed:
            return window
        else:
            self._windows.move_to_end(key)
        if self.is_keyed:
            self._forget_idle(now, window)
        return window

    def windows_of(self, key: Hashable) -> list[LimitWindow]:
        """The window of ``key``, unless it is forgotten, or was never made."""
        window = self._windows.get(key)
        return [] if window is None else [window]

    def windows(self) -> list[LimitWindow]:
        """The windows of all keys that are not forgotten."""
        return list(self._windows.values())

    def set_rate(self, maximum: float, period: float) -> None:
        """Set ``max`` and ``per``, for all keys."""
        self.max, self.per = maximum, period
        for window in self._windows.values():
            window.log.change(maximum, period)

    def clear(self) -> None:
        """Forget all starts, because the clock is another one."""
        self._forgotten = -math.inf
        for window in self._windows.values():
            window.log.clear()

    def reset(self) -> None:
        """Forget all windows, because this is a forked child: their waiters are the parent's."""
        self._forgotten = -math.inf
        for window in self._windows.values():
            window.log.clear()  # of the starts of calls that are under way here too
        self._windows.clear()

    def oversized(self, cost: Exact) -> Exception:
        """The error for a cost above ``max``, which can never start."""
        return ValueError(
            f"a cost of {float(cost):g} can never pass the limit {checks.shown(self.name)}, "
            f"whose max is {float(self.max):g}"
        )

    def _forget_idle(self, now: float, in_use: LimitWindow) -> None:
        # Two are checked for each window that may be new. So the number of idle windows falls,
        # and the price of a call stays constant.
        for _ in range(2):
            key, oldest = next(iter(self._windows.items()))
            if oldest is in_use:
                return
            if oldest.groups or oldest.has_learned_rate:  # it is still needed
                self._windows.move_to_end(key)
            elif oldest.log.is_idle(now):
                self._forgotten = max(self._forgotten, oldest.log.forgotten)
                del self._windows[key]


class Waiter:
    """A call that waits until it may start."""

    __slots__ = ("age", "demand", "error", "gate_key", "group", "outer", "records")

    #: Whether it stands for more than one call.
    is_for_several = False

    def __init__(self, demand: Demand, outer: Starts = ()) -> None:
        self.demand = demand
        #: The calls that it is part of, where that matters to a budget.
        self.outer = outer
        #: The key of the gate that it has to pass, beside the gate for all; None: there is none.
        self.gate_key: Hashable = None
        #: Its number in the order of arrival: the lower, the older.
        self.age = 0
        #: The group in which it waits; None before and after.
        self.group: WaiterGroup | None = None
        #: What is reserved for it, once it may start.
        self.records: tuple[Record, ...] | None = None
        #: Why it can never start.
        self.error: Exception | None = None

    @property
    def calls(self) -> int:
        """How many calls wait: this one, and those that will wait after it, at its place."""
        return 1

    def wake(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Let the caller read :attr:`records` or :attr:`error`; False if its loop is closed.

        ``running`` is the event loop of the thread that calls this method.
        """
        raise NotImplementedError


#: Waiters by the key of the gate that they have to pass.
Keyed: TypeAlias = "dict[Hashable, dict[Waiter, None]]"


class WaiterGroup:
    """The waiters that need the same windows, oldest first."""

    __slots__ = ("checks", "is_queued", "parked", "waiters", "wake_at", "windows")

    def __init__(self, windows: tuple[LimitWindow, ...]) -> None:
        self.windows = windows
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        #: Whether it is in the scheduler's heap of groups to check now.
        self.is_queued = False
        #: The window in which it is parked, and the age of the head that it was parked for.
        self.parked: tuple[LimitWindow, int] | None = None
        #: When its head may have room, and how often the head was checked. A wake-up that was
        #: planned before the last check no longer counts.
        self.wake_at = math.inf
        self.checks = 0

    @property
    def head(self) -> Waiter:
        """The oldest waiter."""
        return next(iter(self.waiters))
