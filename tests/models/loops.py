"""Event loops that look at a queue between any two steps of a program."""

from __future__ import annotations

import random
from typing import Any, Protocol

from penstock.testing import VirtualTimeLoop


class Observer(Protocol):
    """What wants to look."""

    def after_step(self) -> None:
        """Some callbacks have run."""

    def at_rest(self) -> None:
        """Nothing can run before the clock moves on."""


class ObservedLoop(VirtualTimeLoop):
    """Virtual time, and an observer. What the observer raises ends ``run_until_complete``."""

    _ready: Any  # of the base class, which does not declare them
    _scheduled: Any

    def __init__(self) -> None:
        super().__init__()
        self.observer: Observer | None = None
        #: How often the loop went round. Equal numbers: the code in between did not suspend.
        self.steps = 0

    def _run_once(self) -> None:
        self.steps += 1
        if self.observer is not None:
            self.observer.after_step()
            if not self._ready and not self._is_timer_due():
                self.observer.at_rest()
        self._run_some()

    def _run_some(self) -> None:
        super()._run_once()  # type: ignore[misc]

    def _is_timer_due(self) -> bool:
        return any(timer.when() <= self.time() for timer in self.pending_timers())

    def pending_timers(self) -> list[Any]:
        """The timers that are set and were not cancelled."""
        return [timer for timer in self._scheduled if not timer.cancelled()]


class ShuffledLoop(ObservedLoop):
    """Runs one callback per step, any of those that are ready.

    asyncio promises the order of ``call_soon``. A queue that keeps its promises without it has
    no hidden assumption about who wakes up first.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def _run_some(self) -> None:
        ready = self._ready
        held_back = []
        if len(ready) > 1:
            handles = [*ready]
            chosen = handles.pop(self._random.randrange(len(handles)))
            held_back = handles
            ready.clear()
            ready.append(chosen)
        super()._run_some()
        ready.extendleft(reversed(held_back))
